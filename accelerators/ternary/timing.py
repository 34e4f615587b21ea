"""What the ternary engine promises in cycles, and the widths and counts that its parts share. Plain Python.

Cycle counts are exact when weights are always offered, sums are always taken and the activations of a command are
in before it.
"""

from dataclasses import dataclass

from ..config import AcceleratorConfig
from ..integers import bits_for_magnitude, ceil_div

__all__ = ["HAZARD", "TernaryTiming", "entry_bits"]

HAZARD = 4
"""Cycles from reading an accumulator until the new value can be read."""


def entry_bits(config: AcceleratorConfig) -> int:
    """Bits of a table entry: a sum of ``group_size`` activations in -127..127."""
    return bits_for_magnitude(127 * config.group_size)


@dataclass(frozen=True)
class TernaryTiming:
    """Cycle model of ``TernaryEngine``.

    Parameters
    ----------
    config : AcceleratorConfig
    """

    config: AcceleratorConfig

    @property
    def builders(self) -> int:
        """Tables built at a time: as many groups as are loaded, one activation per cycle and one cycle to pass them on,
        while a slice is built."""
        return min(self.config.tables, (self.config.table_entries - 1) // self.config.group_size)

    @property
    def slices(self) -> int:
        """Slices of ``builders`` tables per K tile; the last one may be short."""
        return ceil_div(self.config.tables, self.builders)

    @property
    def build(self) -> int:
        """Cycles to build the tables of a K tile."""
        return self.slices * self.config.table_entries

    @property
    def builder_latency(self) -> int:
        """From the last activation of a slice until its entry 0 is offered."""
        return 3

    @property
    def levels(self) -> int:
        """Register stages of the adder tree."""
        return (self.config.tables - 1).bit_length()

    @property
    def lookup(self) -> int:
        """From a lane word to its sums: index register, lookup register, adder tree."""
        return 2 + self.levels

    @property
    def latency(self) -> int:
        """From a lane word of the last K tile until its sums are offered: lookup lanes, accumulators, queue."""
        return self.lookup + HAZARD + 2

    @property
    def result_slots(self) -> int:
        """Row groups between acceptance of a word and its sums being taken: enough for a word per cycle."""
        return 1 << (self.latency + 2).bit_length()

    @property
    def start(self) -> int:
        """From a command (its activations being in, nothing running) until its first lane word is taken."""
        first_slice = self.config.group_size * min(self.builders, self.config.tables)
        return first_slice + self.build + 5 + self.config.buffer_tokens

    def sweep(self, row_groups: int) -> int:
        """Cycles from the first word of a K tile to the first word of the next, in the steady state."""
        return max(row_groups, self.build)

    def matrix(self, row_groups: int, tiles: int, block_row_groups: int) -> int:
        """Cycles from the first to the last word of a matrix, both included."""
        sweeps = [min(block_row_groups, row_groups - first) for first in range(0, row_groups, block_row_groups)
                  for _ in range(tiles)]
        return sum(map(self.sweep, sweeps[:-1])) + sweeps[-1]

    def reload(self, columns: int, tokens: int) -> int:
        """Row groups of a last sweep that hide the change to another matrix of ``columns`` columns whose activations wait:
        its first tables are built while that sweep runs, and with one chunk its activations are loaded before."""
        load = tokens * ceil_div(columns, self.config.vector_lanes) if self.config.chunks == 1 else 0
        return load + self.start
