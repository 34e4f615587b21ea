"""Requests of an evict + merge KV cache, and what it says of appends."""

from enum import IntEnum

from amaranth.lib import data

from ..config import POSITION_BITS, AcceleratorConfig
from .addresses import HEAD_BITS
from .contiguous import request_layout

__all__ = ["Burst", "Outcome", "append_layout", "decision_layout", "evict_request"]


class Burst(IntEnum):
    """What a burst of an evict + merge cache reads or writes."""

    TOKEN = 0
    """The record of a new token is written, or rows are read for others."""
    CANDIDATE = 1
    """The record of the row that goes is read."""
    ROWS = 2
    """All rows of the head are read, to find the one most similar to it."""
    TARGET = 3
    """That row is read, or written again after the merge."""


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


def decision_layout(slots: int) -> data.StructLayout:
    """What an append has done, before its writes have been answered."""
    return data.StructLayout({"head": HEAD_BITS, "outcome": 2, "slot": range(slots), "target": range(slots), "tokens": POSITION_BITS})


def append_layout(slots: int) -> data.StructLayout:
    """``{head, outcome: Outcome, slot, target, tokens, error}``; ``error``: a write had an error response."""
    return data.StructLayout({**decision_layout(slots).members, "error": 1})
