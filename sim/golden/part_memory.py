"""Golden model of partial results of attention in memory: the layout of ``accelerators/attention/part_memory.py``, and what an ATTEND
does with parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...accelerators.config import PART_BITS
from ...accelerators.control.isa import Instruction
from .attention import Partial
from .merge import merge

if TYPE_CHECKING:
    from ...accelerators.config import AcceleratorConfig

__all__ = ["PartMemory", "pack_part", "unpack_part"]


def pack_part(part: Partial, config: AcceleratorConfig) -> bytes:
    """A lane's part in whole bus words."""
    words = len(part.acc) // config.vector_lanes
    elements = np.zeros(config.part_beats(words) * config.bus_bits // PART_BITS, np.int64)
    elements[0] = part.total
    elements[1] = part.exponent & 0xFFFF | (part.maximum & 0xFFFF) << 16 | int(part.defined) << 32
    elements[config.vector_lanes:config.vector_lanes + len(part.acc)] = part.acc
    return elements.astype("<i8").tobytes()


def unpack_part(packed: bytes, words: int, config: AcceleratorConfig) -> Partial:
    """Inverse of ``pack_part``; zeros are a part that saw no row."""
    elements = np.frombuffer(packed, "<i8").astype(np.int64)
    exponent, maximum = (int(np.int64(elements[1] << 48 - low) >> 48) for low in (0, 16))
    return Partial(maximum, int(elements[0]), exponent, bool(elements[1] >> 32 & 1),
                   elements[config.vector_lanes:(1 + words) * config.vector_lanes])


class PartMemory:
    """Parts in memory by their addresses; where none was written, memory is 0.

    A lane must read where a lane wrote: in the hardware parts are bytes like any others.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        if not config.attention_modes:
            raise ValueError(f"the program splits attention or has fallbacks, which {config.name!r} cannot: it needs attention_modes")
        self.config = config
        self.packed: dict[int, bytes] = {}

    def exchange(self, op: Instruction, parts: Sequence[Partial], first: int) -> list[Partial]:
        """Of an ATTEND's lanes, from the one numbered ``first`` on: what they are when they have been merged; those of a partial one
        are in memory instead, and nothing here."""
        size, found = self.config.part_beats(op.words) * self.config.bus_bytes, []
        for lane, part in enumerate(parts):
            address = op.parts + (first + lane) * size
            if op.merge:
                part = merge(part, unpack_part(self.packed.get(address, bytes(size)), op.words, self.config))
            if op.partial:
                self.packed[address] = pack_part(part, self.config)
                part = Partial(0, 0, 0, False, np.zeros_like(part.acc))
            found.append(part)
        return found
