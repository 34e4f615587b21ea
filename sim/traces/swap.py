"""Trace of the paged cache that swaps: the paged trace, whose sequences also leave the cache for slots, and come back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from amaranth.lib import wiring

from ...accelerators.cache.paged_formats import SequenceError
from ...accelerators.cache.swap import SwapController
from ...accelerators.cache.swap_formats import SwapCommand, SwapError
from ...accelerators.config import AcceleratorConfig
from .paged import PagedTrace, _Block
from .player import Answer, Event, Surroundings
from .records import Judgement, Place

__all__ = ["SwapTrace"]


class _Copy:
    """A slot that has the rows of a block, as the sequence knows it: without a number."""


@dataclass(frozen=True)
class _Part:
    """A block that moves: ``rows`` rows, between the cache and a slot."""

    block: _Block
    copy: _Copy
    rows: int


@dataclass(frozen=True)
class _Swap:
    """A swap that may be under way: with ``freed`` blocks more when it has ended."""

    sequence: int
    error: int
    freed: int


class SwapTrace(PagedTrace):
    """The model knows of a sequence how many of its positions are out, and of which of its blocks a slot has the rows too.

    Numbers of slots are learned from moves, as those of blocks from addresses; what is moved is copied in the memory that judges, so
    what comes back must be what left. Whenever a swap has ended no two copies may have the same slot, and ``room`` must be what
    nobody has: of a sequence that is in, only full blocks have a slot, so that an append gives up none. A move has the blocks that
    must move, in order, and no clean one that leaves; it goes as far as blocks lie one behind the other in both regions. Rows of a
    block that was moved are not read or written before the mover has answered.
    """

    kinds = (*PagedTrace.kinds, "out", "in", "mark")
    shares = ((12, 4, 1, 5, 3, 2, 3, 6, 1), (6, 5, 3, 8, 3, 2, 7, 9, 1), (4, 2, 1, 4, 1, 1, 9, 9, 1), (2, 2, 8, 5, 2, 1, 3, 3, 1))
    errors = SwapError
    surroundings = Surroundings(answers={"o_move": ("i_moved", 8)})

    def __init__(self, config: AcceleratorConfig, seed: int, operations: int, *, sequences: int = 5, slots: int = 11,
                 component: Callable[..., wiring.Component] = SwapController, **options: int):
        self.slots = self.room = slots
        self.cycles_per_block = 24 + slots
        self.away = [0] * sequences  # positions that are out
        self.copies: list[dict[int, _Copy]] = [{} for _ in range(sequences)]  # of blocks, by their place in the sequence
        self.swap: _Swap | None = None
        self.counters = dict.fromkeys(("rows_out", "rows_in", "clean_blocks"), 0)
        self.moves = 0  # judged
        self.slot: dict[_Copy, int] = {}
        super().__init__(config, seed, operations, sequences=sequences, component=partial(component, slots=slots), **options)

    # What a user may do.

    def step(self, kind: str) -> None:
        rng = self.random
        if kind not in ("out", "in", "mark"):
            super().step(kind)
            return
        fitting = [k for k, (mine, away) in enumerate(zip(self.sequences, self.away, strict=True))
                   if (away if kind == "in" else mine.length and (not away or rng.random() < 0.2))]
        number = rng.choice(fitting) if fitting and rng.random() < 0.9 else rng.randrange(len(self.sequences))
        if kind == "mark":
            self.mark(number, rng.choice((0, rng.randint(0, self.most))))
            return
        moved = self.move(number, kind == "out", rng.random() < 0.1)
        if moved and kind == "in" and rng.random() < 0.7:  # while it still comes
            length = self.sequences[number].length
            for _ in range(rng.randint(1, 3)):
                position = rng.choice((0, length - 1, rng.randrange(length)))
                self.rows(rng.random() < 0.2, number, rng.choice(list(self.places)), position, rng.randint(1, length - position))
        elif moved and kind == "out" and rng.random() < 0.3:
            self.refuse(rng.getrandbits(1), number, 0, 1)

    def take_all(self) -> None:
        """Also: more leaves than there are slots, and comes back to less than there are blocks."""
        super().take_all()
        last = len(self.sequences) - 1
        for number in range(last):
            self.move(number, leaves=True, fails=False)
        self.settle(free=self.free)
        self.extend(last, min(self.free * self.size, self.most))
        for number in range(last):
            self.extend(number, 1)
            self.move(number, leaves=False, fails=False)
        self.settle(free=self.free)

    def repeat(self, write: bool, number: int, position: int, count: int) -> None:
        if self.away[number]:
            self.refuse(write, number, position, count)
        else:
            super().repeat(write, number, position, count)

    def unknown(self, number: int) -> None:
        rng, strangers = self.random, range(len(self.sequences), self.known_sequences)
        kind = rng.randrange(4) if strangers else 0
        stranger = rng.choice(strangers or (0,))
        if kind == 0:
            self.command(rng.choice((6, 7)), number, 0, 1, SwapError.UNKNOWN, 0)
        elif kind == 1:
            self.command(rng.randrange(6), stranger, number, rng.randint(0, self.most), SwapError.UNKNOWN, 0)
        elif kind == 2:
            self.command(SwapCommand.FORK, number, stranger, 0, SwapError.UNKNOWN, 0)
        else:
            self.refuse(rng.getrandbits(1), stranger, 0, rng.randint(1, self.most))

    # The model.

    def total(self, number: int) -> int:
        return self.sequences[number].length + self.away[number]

    def command(self, command: int, sequence: int, other: int, count: int, error: SequenceError | SwapError,
                length: int) -> None:
        if self.swap and (command >= SwapCommand.SWAP_OUT or self.swap.sequence == sequence
                          or (command == SwapCommand.FORK and self.swap.sequence == other)):
            self.free += self.land()  # it waits
        super().command(command, sequence, other, count, error, length)

    def extend(self, number: int, count: int) -> None:
        mine = self.sequences[number]
        if self.away[number]:
            self.command(SwapCommand.EXTEND, number, 0, count, SwapError.SWAPPED, self.total(number))
            return
        assert all(index < mine.length // self.size for index in self.copies[number]), "an append goes into a block that has a copy"
        if self.swap and -(-(mine.length + count) // self.size) - len(mine.blocks) + 1 > self.free:
            self.settle(free=self.free)  # whether there are as many depends on when the swap ends
        super().extend(number, count)

    def fork(self, number: int, other: int, count: int) -> None:
        if self.away[number]:
            self.command(SwapCommand.FORK, number, other, count, SwapError.SWAPPED, self.total(number))
        else:
            super().fork(number, other, count)

    def end(self, number: int) -> None:
        self.give_up(number, 0, self.most)
        self.away[number] = 0
        super().end(number)

    def mark(self, number: int, first: int) -> None:
        error = SwapError.SWAPPED if self.away[number] else SwapError.NONE
        if not self.away[number]:
            self.give_up(number, first, self.most)
        self.command(SwapCommand.MARK, number, 0, first, error, self.total(number))

    def rows(self, write: bool, number: int, key: tuple[int, int], position: int, count: int) -> None:
        if self.away[number]:
            self.refuse(write, number, position, count)
            return
        if write and count:
            self.give_up(number, position, position + count)
        stopped = self.seen["stopped at a shared block"]
        super().rows(write, number, key, position, count)
        if self.swap and self.seen["stopped at a shared block"] > stopped:  # it may wait for its rows: no other owner goes before
            self.settle(free=self.free)

    def refuse(self, write: int, number: int, position: int, count: int) -> None:
        if write and count and number < len(self.sequences) and not self.away[number]:
            self.give_up(number, position, position + count)
        super().refuse(write, number, position, count)

    def give_up(self, number: int, first: int, end: int) -> None:
        """Blocks with positions ``first`` to ``end - 1`` are dirty."""
        copies = self.copies[number]
        gone = [copies.pop(index) for index in sorted(copies) if first // self.size <= index < -(-end // self.size)]
        self.room += len(gone)
        if gone:
            self.judge("slots given back", lambda judgement: self.forget_slots(gone))

    def move(self, number: int, leaves: bool, fails: bool) -> bool:
        """SWAP_OUT or SWAP_IN; whether it succeeds."""
        if fails:
            self.settle(free=self.free)  # the answer must be that of a move of this swap
        elif self.swap:
            self.free += self.land()
        mine, copies, total = self.sequences[number], self.copies[number], self.total(number)
        here = -(-mine.length // self.size)
        if leaves:
            first = max((k + 1 for k in range(here) if mine.blocks[k].owners > 1), default=0)
            moving = range(first, here)
            dirty = [k for k in moving if k not in copies]
            error = SwapError.NOTHING if not moving else SwapError.NO_ROOM if len(dirty) > self.room else SwapError.NONE
        else:
            moving = range(here, -(-total // self.size))
            error = SwapError.NOTHING if not moving else SwapError.NO_BLOCK if len(moving) > self.free else SwapError.NONE
        fails = fails and not error and bool(not leaves or dirty)
        if fails:
            self.steps.append(Answer("i_moved", {"error": 1}))
        self.command(SwapCommand.SWAP_OUT if leaves else SwapCommand.SWAP_IN, number, 0, 0, error, total)
        self.seen[f"{'out' if leaves else 'in'} {'failed' if fails else error.name}"] += 1
        if error == SwapError.NO_ROOM:
            self.settle(free=self.free)  # what is written meanwhile could make room
        elif not error and leaves:
            self.leave(number, moving, dirty, fails)
        elif not error:
            self.come_back(number, moving, fails)
        return not error and not fails

    def leave(self, number: int, moving: range, dirty: list[int], fails: bool) -> None:
        mine, limit = self.sequences[number], self.sequences[number].length
        parts = [_Part(mine.blocks[k], _Copy(), min(self.size, limit - k * self.size)) for k in dirty]
        self.counters["rows_out"] += sum(part.rows for part in parts)
        self.counters["clean_blocks"] += len(moving) - len(dirty)
        self.seen["clean blocks"] += len(moving) - len(dirty)
        self.judge("SWAP_OUT", lambda judgement: self.judge_moves(judgement, parts, leaves=True))
        if fails:
            self.swap = _Swap(number, error=1, freed=0)
            self.land()
            self.judge("slots given back", lambda judgement: self.forget_slots([part.copy for part in parts]))
            self.give_up(number, moving.start * self.size, moving.stop * self.size)
            self.settle(free=self.free)
            return
        self.room -= len(dirty)
        self.copies[number] |= {k: part.copy for k, part in zip(dirty, parts, strict=True)}
        gone = mine.blocks[moving.start:]
        mine.blocks, mine.length = mine.blocks[:moving.start], moving.start * self.size
        self.away[number] = limit - mine.length + self.away[number]
        self.judge("blocks that left", lambda judgement: self.forget(gone))
        self.swap = _Swap(number, error=0, freed=len(gone))

    def come_back(self, number: int, moving: range, fails: bool) -> None:
        mine, total = self.sequences[number], self.total(number)
        blocks = [_Block() for _ in moving]
        parts = [_Part(block, self.copies[number][k], min(self.size, total - k * self.size))
                 for k, block in zip(moving, blocks, strict=True)]
        self.counters["rows_in"] += sum(part.rows for part in parts)
        self.judge("SWAP_IN", lambda judgement: self.judge_moves(judgement, parts, leaves=False))
        self.swap = _Swap(number, error=int(fails), freed=len(blocks) if fails else 0)
        self.free -= len(blocks)
        if fails:
            self.settle(free=self.free)
            self.judge("blocks given back", lambda judgement: self.forget(blocks))
            return
        mine.blocks = mine.blocks + blocks
        mine.length, self.away[number] = total, 0
        self.give_up(number, total - total % self.size, total)  # of the last block, if it is not full

    def land(self) -> int:
        """The swap has ended; blocks that it has freed."""
        swap, self.swap = self.swap, None
        assert swap

        def judge(judgement: Judgement) -> None:
            done = judgement.next("o_swapped")
            judgement.check(done == {"sequence": swap.sequence, "error": swap.error}, f"swapped {done}, not {swap}")
            judgement.check(len(set(self.slot.values())) == len(self.slot), "two copies have the same slot")

        self.judge("a swap has ended", judge)
        return swap.freed

    def settle(self, **levels: int) -> None:
        if self.swap:
            landed = self.land()
            self.free, levels["free"] = self.free + landed, levels["free"] + landed
        super().settle(**levels, room=self.room, **self.counters)

        def judge(judgement: Judgement) -> None:
            moves = judgement.next("moves")
            judgement.check(moves == self.moves, f"{moves} moves are counted, not {self.moves}")

        self.judge("moves", judge)

    # Numbers of slots: looked at when the trace is judged.

    def judge_moves(self, judgement: Judgement, parts: Sequence[_Part], *, leaves: bool) -> None:
        done, before = 0, None
        while done < len(parts):
            move, regions = judgement.next("o_move"), (0, 1) if leaves else (1, 0)
            self.moves += 1
            judgement.check((move["from_region"], move["to_region"]) == regions, f"moves between regions: {move}")
            there, slot = (move["source"], move["target"])[::1 if leaves else -1]
            judgement.check(before != (there, slot), f"one run in two moves, the second one {move}")
            judgement.check(there % self.size == slot % self.size == 0, f"moves from within a block: {move}")
            before, rows = (there + move["rows"], slot + move["rows"]), 0
            cycle = judgement.event("i_moved").cycle
            while done < len(parts) and rows < move["rows"]:
                part = parts[done]
                self.learn(judgement, part.block, (there + rows) // self.size)
                self.learn_slot(judgement, part.copy, (slot + rows) // self.size)
                self.filled[(there + rows) // self.size] = cycle
                for key, place in self.places.items():
                    for k in range(rows, rows + part.rows):
                        here, out = place.address(there + k), self.slot_place(key).address(slot + k)
                        source, target = (here, out) if leaves else (out, here)
                        judgement.memory[target] = judgement.memory[source]
                rows += part.rows
                done += 1
            judgement.check(rows == move["rows"], f"moves {move['rows']} rows, not {rows} or less")

    def slot_place(self, key: tuple[int, int]) -> Place:
        """Where the slots have the rows of a head, behind everything."""
        stride = self.slots * self.size * self.places[key].record
        return Place(0x8000_0000 + 2 * key[0] * len(self.places) * stride, key[1], stride, self.places[key].record)

    def learn_slot(self, judgement: Judgement, copy: _Copy, number: int) -> None:
        judgement.check(number < self.slots, f"slot {number} of {self.slots}")
        known = self.slot.setdefault(copy, number)
        judgement.check(known == number, f"slot {number} is not its own, {known}")

    def forget_slots(self, copies: Sequence[_Copy]) -> None:
        for copy in copies:
            del self.slot[copy]

    def check(self, events: Sequence[Event]) -> None:
        self.slot.clear()
        self.moves = 0
        super().check(events)
