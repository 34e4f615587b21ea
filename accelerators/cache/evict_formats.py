"""Requests of an evict + merge KV cache, and what it says of appends."""

from enum import IntEnum

from amaranth.lib import data

from ..config import POSITION_BITS, AcceleratorConfig
from .contiguous import request_layout

__all__ = ["Outcome", "append_layout", "evict_request"]


class Outcome(IntEnum):
    """What an append did."""

    ADDED = 0
    """The budget was not reached: ``slot`` is a new row."""
    MERGED = 1
    """The token took ``slot``; what was there, ``tokens`` tokens, went into row ``target``."""
    DROPPED = 2
    """The token took ``slot``; what was there, ``tokens`` tokens, is gone (EMS's class 0)."""
    REFUSED = 3
    """Nothing has changed."""


def evict_request(config: AcceleratorConfig, slots: int) -> data.StructLayout:
    """As ``request_layout``, with ``position`` up to that of a text; ``scores``: the weights of an attention over the head's rows come;
    ``budget``: of the head, with the first token of a text."""
    return data.StructLayout({**request_layout(config, slots).members, "position": POSITION_BITS, "scores": 1,
                              "budget": range(slots + 1)})


def append_layout(slots: int) -> data.StructLayout:
    """``{head, outcome: Outcome, slot, target, tokens, error}``; ``error``: a write had an error response."""
    return data.StructLayout({"head": 8, "outcome": 2, "slot": range(slots), "target": range(slots), "tokens": POSITION_BITS,
                              "error": 1})
