"""Golden model of the paged KV cache: block pool, block tables, runs of blocks."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from .cache import BurstCommand, contiguous_command

__all__ = ["MAX_OWNERS", "BlockPool", "Copy", "PagedTables", "PoolResult", "SequenceResult"]

MAX_OWNERS = 255


@dataclass(frozen=True)
class PoolResult:
    """Answer of the pool."""

    block: int
    count: int
    refused: int = 0


class BlockPool:
    """Blocks that are given out: those that came back first, the latest one before the others, then new ones in order."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self.counts = [0] * blocks
        self._returned: list[int] = []
        self._fresh = 0

    @property
    def free(self) -> int:
        return self.counts.count(0)

    def allocate(self) -> PoolResult | None:
        """A block with one owner; ``None`` if there is none."""
        if self._returned:
            block = self._returned.pop()
        elif self._fresh < self.blocks:
            block, self._fresh = self._fresh, self._fresh + 1
        else:
            return None
        self.counts[block] = 1
        return PoolResult(block, 1)

    def share(self, block: int) -> PoolResult:
        refused = self.counts[block] in (0, MAX_OWNERS)
        self.counts[block] += not refused
        return PoolResult(block, self.counts[block], int(refused))

    def release(self, block: int) -> PoolResult:
        refused = self.counts[block] == 0
        self.counts[block] -= not refused
        if not refused and self.counts[block] == 0:
            self._returned.append(block)
        return PoolResult(block, self.counts[block], int(refused))


@dataclass(frozen=True)
class SequenceResult:
    """``error``: 0 none, 1 no block, 2 too long, 3 not empty, 4 shared too often, 5 unknown, 6 different (``SequenceError`` of the
    hardware)."""

    error: int
    length: int


@dataclass(frozen=True)
class Copy:
    """The first ``rows`` rows of a block, to another one."""

    source: int
    target: int
    rows: int


@dataclass
class _Sequence:
    length: int = 0
    blocks: list[int] = field(default_factory=list)


class PagedTables:
    """Sequences of at most ``max_context`` positions in blocks of ``block_size``."""

    def __init__(self, *, sequences: int, max_context: int, block_size: int, blocks: int) -> None:
        self.max_context, self.block_size = max_context, block_size
        self.pool = BlockPool(blocks)
        self.sequences = [_Sequence() for _ in range(sequences)]

    def extend(self, sequence: int, count: int) -> tuple[SequenceResult, Copy | None]:
        """Room for ``count`` positions more; what must be copied before they are written."""
        if sequence >= len(self.sequences):
            return SequenceResult(5, 0), None
        mine, copy = self.sequences[sequence], None
        if mine.length + count > self.max_context:
            return SequenceResult(2, mine.length), None
        index, rows = divmod(mine.length, self.block_size)
        if rows and count and self.pool.counts[mine.blocks[index]] > 1:
            given = self.pool.allocate()
            if given is None:
                return SequenceResult(1, mine.length), None
            copy = Copy(mine.blocks[index], given.block, rows)
            mine.blocks[index] = given.block
            self.pool.release(copy.source)
        while len(mine.blocks) * self.block_size < mine.length + count:
            given = self.pool.allocate()
            if given is None:
                return SequenceResult(1, mine.length), copy
            mine.blocks.append(given.block)
        mine.length += count
        return SequenceResult(0, mine.length), copy

    def fork(self, sequence: int, other: int, count: int) -> SequenceResult:
        """The first ``count`` positions of ``other`` become those of ``sequence``."""
        if max(sequence, other) >= len(self.sequences):
            return SequenceResult(5, self._length(sequence))
        mine, theirs = self.sequences[sequence], self.sequences[other]
        if count > theirs.length:
            return SequenceResult(2, mine.length)
        if mine.length or mine.blocks:
            return SequenceResult(3, mine.length)
        for block in theirs.blocks[:-(-count // self.block_size)]:
            if self.pool.share(block).refused:
                return SequenceResult(4, self.free(sequence).length)
            mine.blocks.append(block)
        mine.length = count
        return SequenceResult(0, count)

    def shrink(self, sequence: int, count: int) -> SequenceResult:
        """Only the first ``count`` positions are left; blocks behind them back, from the last to the first."""
        mine = self.sequences[sequence]
        if count > mine.length:
            return SequenceResult(2, mine.length)
        while len(mine.blocks) > -(-count // self.block_size):
            self.pool.release(mine.blocks.pop())
        mine.length = count
        return SequenceResult(0, count)

    def free(self, sequence: int) -> SequenceResult:
        """All blocks back, from the last to the first."""
        if sequence >= len(self.sequences):
            return SequenceResult(5, 0)
        return self.shrink(sequence, 0)

    def _length(self, sequence: int) -> int:
        return self.sequences[sequence].length if sequence < len(self.sequences) else 0

    def compare(self, sequence: int, other: int, count: int) -> SequenceResult:
        """Whether the first ``count`` positions of both lie in the same blocks."""
        if max(sequence, other) >= len(self.sequences):
            return SequenceResult(5, self._length(sequence))
        mine, theirs, blocks = self.sequences[sequence], self.sequences[other], -(-count // self.block_size)
        if count > min(mine.length, theirs.length):
            return SequenceResult(2, mine.length)
        return SequenceResult(0 if mine.blocks[:blocks] == theirs.blocks[:blocks] else 6, mine.length)

    def runs(self, sequence: int, position: int, count: int, *, write: bool) -> Iterator[tuple[int, int, int] | None]:
        """``(first row, rows, first position)`` for each run of blocks that lie one behind the other; ``None`` for an error, which
        ends it."""
        start, rows, last, at = 0, 0, 0, 0
        if position + count > self._length(sequence):
            yield None
            return
        if not count:
            return
        mine = self.sequences[sequence]
        while count:
            index, offset = divmod(position, self.block_size)
            block, here = mine.blocks[index], min(count, self.block_size - offset)
            owned = not write or self.pool.counts[block] == 1
            if rows and (not owned or block != last + 1):
                yield start, rows, at
                rows = 0
            if not owned:
                yield None
                return
            if not rows:
                start, at = block * self.block_size + offset, position
            rows, last, position, count = rows + here, block, position + here, count - here
        if rows:
            yield start, rows, at

    def commands(self, sequence: int, base: int, head: int, position: int, count: int, *, write: bool, record_beats: int,
                 head_stride: int, bus_bits: int) -> Iterator[tuple[BurstCommand, dict[str, int]] | None]:
        """The burst of each run and which positions it has (``position``, ``count``, ``last``)."""
        capacity = self.pool.blocks * self.block_size
        for run in self.runs(sequence, position, count, write=write):
            if run is None:
                yield None
                continue
            start, rows, at = run
            command = contiguous_command(base, head, start, rows, capacity=capacity, record_beats=record_beats,
                                         head_stride=head_stride, bus_bits=bus_bits)
            assert command is not None
            yield command, {"position": at, "count": rows, "last": int(at + rows == position + count)}
