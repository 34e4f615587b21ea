"""Commands and results of a paged KV cache that swaps."""

from enum import IntEnum

from amaranth.lib import data

from ..config import AcceleratorConfig
from .paged_formats import sequence_command

__all__ = ["SwapCommand", "SwapError", "swap_command", "swap_result", "swapped_layout"]


class SwapCommand(IntEnum):
    """What is asked for a sequence; the first three are those of ``PagedCache``."""

    EXTEND = 0
    FORK = 1
    FREE = 2
    """It has no positions any more, here or there."""
    MARK = 3
    """Its positions from ``count`` on are written by somebody who does not ask here: copies of their blocks are given up."""
    SWAP_OUT = 4
    """Blocks that only it has leave the cache."""
    SWAP_IN = 5
    """What is out comes back."""


class SwapError(IntEnum):
    """Why a command was refused: up to 4 as in ``SequenceError``. Nothing was moved, allocated or given up."""

    NONE = 0
    NO_BLOCK = 1
    """SWAP_IN also: fewer blocks are free than come back."""
    TOO_LONG = 2
    NOT_EMPTY = 3
    SHARED_TOO_OFTEN = 4
    SWAPPED = 5
    """EXTEND, FORK, MARK: a part of the sequence is out."""
    NOTHING = 6
    """SWAP_OUT: it has no block in the cache that only it has (all are out, or shared, or there is none); SWAP_IN: nothing is out."""
    NO_ROOM = 7
    """SWAP_OUT: fewer slots are free than blocks need one."""
    UNKNOWN = 8
    """There is no such sequence or command."""


def swap_command(config: AcceleratorConfig, sequences: int) -> data.StructLayout:
    """``{command: SwapCommand, sequence, other, count}``."""
    return data.StructLayout({**sequence_command(config, sequences).members, "command": 3})


def swap_result(config: AcceleratorConfig) -> data.StructLayout:
    """``{error: SwapError, length}``: positions of the sequence after the command, here and there."""
    return data.StructLayout({"error": 4, "length": range(config.max_context + 1)})


def swapped_layout(sequences: int) -> data.StructLayout:
    """``{sequence, error}``: a sequence was moved; with ``error`` it is where it was."""
    return data.StructLayout({"sequence": range(sequences), "error": 1})
