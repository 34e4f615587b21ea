"""Golden model of the controller of an evict + merge cache: bursts for each request, on ``EvictHead`` for each K/V head."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from .cache import BurstCommand, contiguous_command
from .evict import Append, EvictHead, Record

__all__ = ["EvictController", "Replacement"]


class Replacement(NamedTuple):
    """What an append does: the bursts it reads to search (candidate, rows) and, behind them, to merge (target), those it writes, in
    order, and the records behind the latter. The next append's search may be read before this one's target."""

    append: Append
    searches: list[BurstCommand]
    targets: list[BurstCommand]
    writes: list[BurstCommand]
    records: list[Record]


class EvictController:
    """Rows of ``heads`` K/V heads, at most ``slots`` each.

    Parameters
    ----------
    rules : keyword arguments
        Of ``EvictHead``, but for the budget.
    """

    def __init__(self, heads: int, slots: int, *, record_beats: int, head_stride: int, bus_bits: int, **rules: Any):
        self.count, self.slots, self.rules = heads, slots, rules
        self.layout = {"capacity": slots, "record_beats": record_beats, "head_stride": head_stride, "bus_bits": bus_bits}
        self.heads: dict[int, EvictHead] = {}

    def _rows(self, base: int, head: int, position: int, count: int = 1) -> BurstCommand:
        command = contiguous_command(base, head, position, count, **self.layout)
        assert command is not None
        return command

    def read(self, base: int, head: int, position: int, count: int) -> BurstCommand | None:
        """The burst of rows of a head that has begun a text; ``None`` if they are not there."""
        if head >= self.count or position + count > len(self.heads[head].records):
            return None
        return self._rows(base, head, position, count)

    def score(self, head: int, weights: Sequence[int]) -> bool:
        """The weights of an attention; whether there is such a head."""
        if head < self.count:
            self.heads[head].scores.update(weights)
        return head < self.count

    def append(self, base: int, head: int, position: int, count: int, budget: int, record: Record) -> Replacement | None:
        """A token; ``None`` if it is refused."""
        if head >= self.count or count != 1:
            return None
        if not position:
            if not self.rules["sinks"] + self.rules["recent"] < budget <= self.slots:
                return None
            self.heads[head] = EvictHead(budget, **self.rules)
        rows = self.heads[head]
        if position != rows.length:
            return None
        before = len(rows.records)
        append = rows.append(record)
        searches: list[BurstCommand] = []
        targets: list[BurstCommand] = []
        writes, records = [self._rows(base, head, append.slot)], [record]
        if append.tokens:
            searches = [self._rows(base, head, append.slot), self._rows(base, head, 0, before)]
        if append.target is not None:
            target = self._rows(base, head, append.target)
            targets = [target]
            writes.insert(0, target)
            records.insert(0, rows.records[append.target])
        return Replacement(append, searches, targets, writes, records)
