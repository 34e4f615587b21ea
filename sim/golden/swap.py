"""Golden model of swapping: which blocks of a paged cache have a copy in a second region of memory, and what is moved."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from .cache import BurstCommand
from .paged import BlockPool, Copy, PagedTables, SequenceResult, _Sequence

__all__ = ["CACHE", "COPIES", "Move", "Swap", "SwapTables"]

CACHE, COPIES = 0, 1
"""Regions: the cache, and where the copies are."""

NO_BLOCK, SWAPPED, NOTHING, NO_ROOM, UNKNOWN = 1, 5, 6, 7, 8


@dataclass(frozen=True)
class Move:
    """``rows`` rows from row ``source`` of one region to row ``target`` of another."""

    from_region: int
    to_region: int
    source: int
    target: int
    rows: int


@dataclass(frozen=True)
class Swap:
    """Under way: of ``sequence``, positions from ``first`` to ``limit``."""

    sequence: int
    out: bool
    first: int
    limit: int
    length: int
    moves: list[Move] = field(default_factory=list)


class SwapTables:
    """A paged cache whose sequences can leave it for ``slots`` blocks elsewhere, and come back.

    Of a sequence that is in, only full blocks have copies: appends, which go behind them, give up none.
    """

    def __init__(self, *, sequences: int, max_context: int, block_size: int, blocks: int, slots: int) -> None:
        self.cache = PagedTables(sequences=sequences, max_context=max_context, block_size=block_size, blocks=blocks)
        self.block_size, self.slots = block_size, slots
        self.copies: list[dict[int, int]] = [{} for _ in range(sequences)]  # index of a block -> slot that has the same rows
        self.lengths = [0] * sequences  # of sequences that are out, if only in part
        self.pointer = 0
        self.swap: Swap | None = None
        self.counters = {"rows_out": 0, "rows_in": 0, "clean_blocks": 0, "moves": 0}

    @property
    def sequences(self) -> list[_Sequence]:
        """What of each sequence is in the cache."""
        return self.cache.sequences

    @property
    def pool(self) -> BlockPool:
        return self.cache.pool

    @property
    def max_context(self) -> int:
        return self.cache.max_context

    @property
    def room(self) -> int:
        return self.slots - sum(map(len, self.copies))

    def _blocks(self, positions: int) -> int:
        return -(-positions // self.block_size)

    def _result(self, error: int, sequence: int) -> SequenceResult:
        return SequenceResult(error, self.lengths[sequence] or self.cache.sequences[sequence].length)

    def _void(self, sequence: int, first: int, limit: int) -> None:
        """Positions ``first`` to ``limit``: the copies of their blocks are given up."""
        for index in range(first // self.block_size, self._blocks(limit)):
            self.copies[sequence].pop(index, None)

    def _known(self, sequence: int) -> bool:
        return sequence < len(self.copies)

    # Commands. Those about the sequence under way wait for ``finish``, as does another swap.

    def extend(self, sequence: int, count: int) -> tuple[SequenceResult, Copy | None]:
        if not self._known(sequence):
            return SequenceResult(UNKNOWN, 0), None
        if self.lengths[sequence]:
            return self._result(SWAPPED, sequence), None
        assert all(index < self.cache.sequences[sequence].length // self.block_size for index in self.copies[sequence])
        return self.cache.extend(sequence, count)

    def fork(self, sequence: int, other: int, count: int) -> SequenceResult:
        if not (self._known(sequence) and self._known(other)):
            return SequenceResult(UNKNOWN, 0)
        if self.lengths[sequence]:
            return self._result(SWAPPED, sequence)
        return self.cache.fork(sequence, other, count)

    def free(self, sequence: int) -> SequenceResult:
        if not self._known(sequence):
            return SequenceResult(UNKNOWN, 0)
        self.copies[sequence].clear()
        self.lengths[sequence] = 0
        return self.cache.free(sequence)

    def mark(self, sequence: int, position: int) -> SequenceResult:
        """Positions from ``position`` on are written by others."""
        if not self._known(sequence):
            return SequenceResult(UNKNOWN, 0)
        if self.lengths[sequence]:
            return self._result(SWAPPED, sequence)
        self._void(sequence, position, self.cache.max_context)
        return self._result(0, sequence)

    def request(self, sequence: int, position: int, count: int, *, write: bool) -> list[tuple[int, int, int] | None]:
        """``PagedTables.runs``; what is written is no longer what its copy has."""
        if not self._known(sequence) or self.lengths[sequence]:
            return [None]
        if write and count:
            self._void(sequence, position, position + count)
        return list(self.cache.runs(sequence, position, count, write=write))

    def commands(self, sequence: int, base: int, head: int, position: int, count: int, *, write: bool, **place: int
                 ) -> Iterator[tuple[BurstCommand, dict[str, int]] | None]:
        """``PagedTables.commands``; see ``request``."""
        if not self._known(sequence) or self.lengths[sequence]:
            yield None
            return
        if write and count:
            self._void(sequence, position, position + count)
        yield from self.cache.commands(sequence, base, head, position, count, write=write, **place)

    def swap_out(self, sequence: int) -> SequenceResult:
        """Begin to move what only ``sequence`` has; blocks with a copy need not be moved."""
        if not self._known(sequence):
            return SequenceResult(UNKNOWN, 0)
        mine, copies = self.cache.sequences[sequence], self.copies[sequence]
        blocks = mine.blocks[:self._blocks(mine.length)]
        first = sum(self.cache.pool.counts[block] > 1 for block in blocks)
        leaving = range(first, len(blocks))
        if not leaving:
            return self._result(NOTHING, sequence)
        if sum(index not in copies for index in leaving) > self.room:
            return self._result(NO_ROOM, sequence)
        result = self._result(0, sequence)
        self.swap = Swap(sequence, True, first * self.block_size, mine.length, result.length)
        taken = {slot for each in self.copies for slot in each.values()}
        for index in leaving:
            if index in copies:
                self.counters["clean_blocks"] += 1
            else:
                while self.pointer in taken:
                    self.pointer = (self.pointer + 1) % self.slots
                copies[index] = self.pointer
                taken.add(self.pointer)
                self._join(index, blocks[index], self.pointer)
            self.pointer = (copies[index] + 1) % self.slots
        self._count("rows_out")
        return result

    def swap_in(self, sequence: int) -> SequenceResult:
        """Begin to move back what is out."""
        if not self._known(sequence):
            return SequenceResult(UNKNOWN, 0)
        mine, length = self.cache.sequences[sequence], self.lengths[sequence]
        if not length:
            return self._result(NOTHING, sequence)
        if self._blocks(length) - len(mine.blocks) > self.cache.pool.free:
            return self._result(NO_BLOCK, sequence)
        self.swap = Swap(sequence, False, mine.length, length, length)
        result, copy = self.cache.extend(sequence, length - mine.length)
        assert not result.error and copy is None
        for index in range(self.swap.first // self.block_size, len(mine.blocks)):
            self._join(index, mine.blocks[index], self.copies[sequence][index])
        self._count("rows_in")
        return self._result(0, sequence)

    def finish(self, error: bool = False) -> None:
        """All was moved; with ``error`` not as it should be, and the sequence stays where it was."""
        swap, self.swap = self.swap, None
        assert swap is not None
        if swap.out and error:
            self._void(swap.sequence, swap.first, swap.limit)
        elif swap.out or error:
            self.cache.shrink(swap.sequence, swap.first)
        else:  # the last block, if it is not full: the next append goes there
            self._void(swap.sequence, swap.limit // self.block_size * self.block_size, swap.limit)
        if not error:
            self.lengths[swap.sequence] = swap.length if swap.out else 0

    def _join(self, index: int, block: int, slot: int) -> None:
        """A block to be moved: one move more, or behind the last one if it is there in both regions."""
        assert self.swap is not None
        swap, size = self.swap, self.block_size
        rows = min(size, swap.limit - index * size)
        source, target = (block, slot) if swap.out else (slot, block)
        last = swap.moves[-1] if swap.moves else None
        if last and (last.source + last.rows, last.target + last.rows) == (source * size, target * size):
            swap.moves[-1] = Move(last.from_region, last.to_region, last.source, last.target, last.rows + rows)
        else:
            swap.moves.append(Move(*((CACHE, COPIES) if swap.out else (COPIES, CACHE)), source * size, target * size, rows))

    def _count(self, rows: str) -> None:
        assert self.swap is not None
        self.counters[rows] += sum(move.rows for move in self.swap.moves)
        self.counters["moves"] += len(self.swap.moves)
