"""Commands and results of a paged KV cache, and what else it is told and tells."""

from enum import IntEnum

from amaranth.lib import data

from ..config import AcceleratorConfig
from ..integers import ceil_div
from ..memory.bursts import BURST_COMMAND
from .contiguous import read_layout, request_layout

__all__ = ["SequenceCommand", "SequenceError", "block_layout", "copy_layout", "lookup_layout", "paged_read", "paged_request",
           "paged_write", "positions", "sequence_command", "sequence_result"]


class SequenceCommand(IntEnum):
    """What is asked for a sequence."""

    EXTEND = 0
    """Room for ``count`` positions more at its end."""
    FORK = 1
    """It begins with the first ``count`` positions of ``other``, and shares their blocks."""
    FREE = 2
    """It has no positions any more."""
    COMPARE = 3
    """Whether its first ``count`` positions, whole blocks, lie in the same blocks as those of ``other``."""


class SequenceError(IntEnum):
    """Why a command was refused. Nothing has changed then, but that after NO_BLOCK the sequence keeps the blocks it got, for when it
    is extended again; FREE gives them back."""

    NONE = 0
    NO_BLOCK = 1
    """EXTEND: the pool has no block left."""
    TOO_LONG = 2
    """EXTEND: more positions than a sequence can have; FORK: more than ``other`` has; COMPARE: more than one of the two has."""
    NOT_EMPTY = 3
    """FORK: the sequence has positions or blocks."""
    SHARED_TOO_OFTEN = 4
    """FORK: a block would have more than 255 owners."""
    UNKNOWN = 5
    """There is no such sequence, or no such command."""
    DIFFERENT = 6
    """COMPARE: a block is not the same."""


def positions(config: AcceleratorConfig) -> range:
    """Lengths that a sequence can have."""
    return range(config.max_context + 1)


def sequence_command(config: AcceleratorConfig, sequences: int) -> data.StructLayout:
    """``{command: SequenceCommand, sequence, other, count}``."""
    return data.StructLayout({"command": 3, "sequence": range(sequences), "other": range(sequences), "count": positions(config)})


def sequence_result(config: AcceleratorConfig) -> data.StructLayout:
    """``{error: SequenceError, length}``: positions of the sequence after the command."""
    return data.StructLayout({"error": 3, "length": positions(config)})


def copy_layout(blocks: int, block_size: int) -> data.StructLayout:
    """``{source, target, rows}``: the first ``rows`` rows of block ``source`` are to be copied to block ``target``, of every
    head of every layer."""
    return data.StructLayout({"source": range(blocks), "target": range(blocks), "rows": range(block_size + 1)})


def paged_request(config: AcceleratorConfig, sequences: int) -> data.StructLayout:
    """``request_layout`` of a ``sequence``."""
    return data.StructLayout({**request_layout(config).members, "sequence": range(sequences)})


def paged_read(config: AcceleratorConfig) -> data.StructLayout:
    """``read_layout`` and ``error``: nothing is read, as the request is refused; there are no ``beats`` and no rows (``count``), it is
    the ``last`` one, and the other fields mean nothing."""
    return data.StructLayout({**read_layout(config).members, "error": 1})


def paged_write() -> data.StructLayout:
    """``BURST_COMMAND`` and ``error``: no ``beats`` are written, as the request is refused."""
    return data.StructLayout({**BURST_COMMAND.members, "error": 1})


def lookup_layout(config: AcceleratorConfig, sequences: int, block_size: int) -> data.StructLayout:
    """``{sequence, index, release}``: block ``index`` of a sequence, one that it has; or with ``release`` its last one, which is given
    back: the sequence is as long as the blocks before it then."""
    return data.StructLayout({"sequence": range(sequences), "index": range(ceil_div(config.max_context, block_size)), "release": 1})


def block_layout(config: AcceleratorConfig, blocks: int, block_size: int) -> data.StructLayout:
    """``{block, index, shared}``: its number; its place in the sequence; others have it too."""
    return data.StructLayout({"block": range(blocks), "index": range(ceil_div(config.max_context, block_size)), "shared": 1})
