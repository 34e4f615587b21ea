"""Golden model of swapping against sequences of contents that are nowhere in particular."""

import random
from collections import Counter

import pytest
from llmrtl.sim.golden.swap import CACHE, COPIES, Move, SwapTables

BLOCK_SIZE, CONTEXT, SEQUENCES = 4, 24, 4
SWAPPED, NOTHING, NO_ROOM, UNKNOWN = 5, 6, 7, 8


def tables(blocks=12, slots=8):
    return SwapTables(sequences=SEQUENCES, max_context=CONTEXT, block_size=BLOCK_SIZE, blocks=blocks, slots=slots)


class Machine:
    """Two regions of rows, and what each sequence should have: contents by position, and blocks whose contents are elsewhere too."""

    def __init__(self, blocks, slots):
        self.swap = tables(blocks, slots)
        self.regions = {CACHE: [None] * blocks * BLOCK_SIZE, COPIES: [None] * slots * BLOCK_SIZE}
        self.content = [[] for _ in range(SEQUENCES)]
        self.clean = [set() for _ in range(SEQUENCES)]
        self.out = [0] * SEQUENCES  # blocks that stayed, and one, if it is out
        self.saved = self.copied_rows = 0

    def read(self, sequence):
        (run, *more) = self.swap.request(sequence, 0, len(self.content[sequence]), write=False) or [(0, 0, 0)]
        assert run is not None
        return [self.regions[CACHE][row] for start, rows, _ in (run, *more) for row in range(start, start + rows)]

    def write(self, sequence, position, count, rng):
        for run in self.swap.request(sequence, position, count, write=True):
            if run is None:
                return False
            start, rows, at = run
            for k in range(rows):
                self.regions[CACHE][start + k] = self.content[sequence][at + k] = rng.getrandbits(64)
        if count:
            self.clean[sequence] -= set(range(position // BLOCK_SIZE, -(-(position + count) // BLOCK_SIZE)))
        return True

    def move(self, share=1.0):
        """What the mover does: the first ``share`` of the moves; rows moved."""
        moves = self.swap.swap.moves
        for move in moves[:int(share * len(moves))]:
            source, target = self.regions[move.from_region], self.regions[move.to_region]
            assert move.rows > 0 and move.source + move.rows <= len(source) and move.target + move.rows <= len(target)
            target[move.target:move.target + move.rows] = source[move.source:move.source + move.rows]
        return sum(move.rows for move in moves)

    def check(self):
        swap = self.swap
        owners = Counter(block for each in swap.cache.sequences for block in each.blocks)
        assert swap.cache.pool.counts == [owners[block] for block in range(swap.cache.pool.blocks)]
        slots = [slot for copies in swap.copies for slot in copies.values()]
        assert len(set(slots)) == len(slots) and swap.room == swap.slots - len(slots) and all(0 <= slot < swap.slots for slot in slots)
        for k in range(SEQUENCES):
            assert set(swap.copies[k]) == self.clean[k]
            assert self.out[k] or all(index < len(self.content[k]) // BLOCK_SIZE for index in swap.copies[k])
            if not self.out[k]:
                assert self.read(k) == self.content[k]
            else:
                assert swap.lengths[k] == len(self.content[k])
                assert swap.request(k, 0, 1, write=False) == swap.request(k, 0, 1, write=True) == [None]


@pytest.mark.parametrize("seed", range(8))
def test_contents_stay_whatever_moves(seed):
    steps, rng = 15_000, random.Random(seed)
    machine = Machine(rng.choice((8, 12, 20)), rng.choice((4, 8, 30)))
    swap, seen = machine.swap, Counter()
    for _ in range(steps):
        k, other = rng.randrange(SEQUENCES), rng.randrange(SEQUENCES)
        content, blocks = machine.content[k], swap.cache.sequences[k].blocks
        action = rng.choice(("extend", "extend", "write", "fork", "free", "out", "out", "in", "in", "mark"))
        if action == "extend":
            before = len(content)
            result, copy = swap.extend(k, rng.choice((0, 1, 1, 2, 7)))
            if copy:
                size, rows = BLOCK_SIZE, machine.regions[CACHE]
                rows[copy.target * size:copy.target * size + copy.rows] = rows[copy.source * size:copy.source * size + copy.rows]
            assert (result.error == SWAPPED) == bool(machine.out[k])
            if not result.error:
                content += [None] * (result.length - before)
                assert machine.write(k, before, result.length - before, rng)
        elif action == "write":
            first = rng.randint(0, len(content))
            count = rng.randint(0, len(content) - first)
            shared = any(swap.cache.pool.counts[block] > 1 for block in blocks[first // BLOCK_SIZE:-(-(first + count) // BLOCK_SIZE)])
            if not machine.out[k] and not (count and shared):
                assert machine.write(k, first, count, rng)
        elif action == "mark":
            first = rng.randint(0, len(content))
            if swap.mark(k, first).error == 0:
                machine.clean[k] = {index for index in machine.clean[k] if index < first // BLOCK_SIZE}
        elif action == "fork":
            count = rng.randint(0, len(machine.content[other]))
            if not swap.fork(k, other, count).error:
                assert not machine.out[k] and (not machine.out[other] or count <= (machine.out[other] - 1) * BLOCK_SIZE)
                machine.content[k] = machine.content[other][:count]
        elif action == "free" and rng.random() < 0.4:
            swap.free(k)
            machine.content[k], machine.clean[k], machine.out[k] = [], set(), 0
        elif action == "out":
            here = (machine.out[k] - 1) * BLOCK_SIZE if machine.out[k] else len(content)
            stays = sum(swap.cache.pool.counts[block] > 1 for block in blocks[:-(-here // BLOCK_SIZE)])
            leaving = set(range(stays, -(-here // BLOCK_SIZE)))
            room = swap.slots - sum(map(len, machine.clean))
            error = NOTHING if not leaving else NO_ROOM if len(leaving - machine.clean[k]) > room else 0
            free = swap.cache.pool.free
            assert (swap.swap_out(k).error, swap.swap is None) == (error, bool(error))
            seen[f"out {error}"] += 1
            if error:
                continue
            fails = rng.random() < 0.1
            dirty = leaving - machine.clean[k]
            rows = machine.move(rng.random() if fails else 1)
            assert rows == sum(min(BLOCK_SIZE, here - index * BLOCK_SIZE) for index in dirty)  # clean blocks are not written
            machine.copied_rows, machine.saved = machine.copied_rows + rows, machine.saved + len(leaving - dirty)
            swap.finish(fails)
            if fails:
                machine.clean[k] -= leaving
            else:
                machine.clean[k] |= leaving
                machine.out[k] = stays + 1
                assert swap.cache.pool.free >= free + len(leaving)
        elif action == "in":
            needs = -(-len(content) // BLOCK_SIZE) - machine.out[k] + 1
            error = NOTHING if not machine.out[k] else 1 if needs > swap.cache.pool.free else 0
            assert (swap.swap_in(k).error, swap.swap is None) == (error, bool(error))
            seen[f"in {error}"] += 1
            if not error:
                fails = rng.random() < 0.1
                machine.move(rng.random() if fails else 1)
                swap.finish(fails)
                if not fails:
                    machine.out[k] = 0
                    if len(content) % BLOCK_SIZE:
                        machine.clean[k].discard(len(content) // BLOCK_SIZE)
                        seen["last block given up"] += 1
        machine.check()
    assert swap.counters["rows_out"] == machine.copied_rows and swap.counters["clean_blocks"] == machine.saved > 50
    assert min(seen[name] for name in ("out 0", f"out {NOTHING}", "in 0", f"in {NOTHING}", "last block given up")) > 50, seen
    for k in range(SEQUENCES):
        swap.free(k)
    assert swap.cache.pool.free == swap.cache.pool.blocks and swap.room == swap.slots


def test_only_what_was_written_goes_out_again():
    swap = tables()
    swap.extend(0, 14)
    assert swap.swap_out(0).length == 14
    assert swap.swap.moves == [Move(CACHE, COPIES, 0, 0, 14)]
    swap.finish()
    swap.swap_in(0)
    (back,) = swap.swap.moves
    assert (back.from_region, back.source, back.rows) == (COPIES, 0, 14)
    swap.finish()
    swap.request(0, 5, 1, write=True)
    swap.swap_out(0)
    written, last = swap.swap.moves
    assert (written.source, written.rows, last.source, last.rows, swap.counters["clean_blocks"]) == (4, 4, 12, 2, 2)
    swap.finish()
    assert swap.swap_out(0).error == NOTHING


@pytest.mark.parametrize("length", range(1, 13))
def test_an_append_after_a_swap_gives_up_nothing(length):
    """The slot of the last block is free when the sequence is back, if an append goes there; not if it failed to come back."""
    swap, full = tables(), length // BLOCK_SIZE
    swap.extend(0, length)
    swap.swap_out(0)
    swap.finish()
    swap.swap_in(0)
    swap.finish(error=True)
    assert swap.room == swap.slots - -(-length // BLOCK_SIZE)
    swap.swap_in(0)
    swap.finish()
    assert set(swap.copies[0]) == set(range(full)) and swap.room == swap.slots - full
    swap.extend(0, 2)
    assert None not in swap.request(0, length, 2, write=True) and swap.room == swap.slots - full


def test_a_run_is_one_move_only_where_both_regions_have_it():
    swap = tables(blocks=12, slots=4)
    for sequence in (0, 1, 0, 0):
        swap.extend(sequence, 4)
    swap.swap_out(0)
    assert swap.swap.moves == [Move(CACHE, COPIES, 0, 0, 4), Move(CACHE, COPIES, 8, 4, 8)]
    swap.finish()
    swap.free(0)
    swap.extend(2, 8)
    swap.swap_out(2)  # slots 3 and 0: the last one, and around
    assert swap.swap.moves == [Move(CACHE, COPIES, 0, 12, 4), Move(CACHE, COPIES, 8, 0, 4)]
    swap.finish()
    swap.swap_in(2)
    assert [move.source for move in swap.swap.moves] == [12, 0]


def test_what_others_have_too_stays():
    swap = tables()
    swap.extend(0, 10)
    swap.fork(1, 0, 8)
    assert swap.swap_out(1).error == NOTHING
    swap.swap_out(0)
    assert swap.swap.moves == [Move(CACHE, COPIES, 8, 0, 2)]
    swap.finish()
    assert swap.cache.pool.counts[:3] == [2, 2, 0] and swap.fork(2, 0, 9).error == 2 and swap.fork(2, 0, 8).error == 0
    for sequence in (1, 2):
        swap.free(sequence)
    assert swap.swap_out(0).error == 0 and swap.swap.moves == [Move(CACHE, COPIES, 0, 4, 8)]
    swap.finish()
    assert swap.cache.pool.free == 12 and swap.swap_in(0).length == 10
    assert swap.swap.limit == 10


def test_what_is_refused_changes_nothing():
    swap = tables(blocks=6, slots=4)
    swap.extend(0, 20)
    before = (list(swap.cache.pool.counts), dict(swap.copies[0]))
    assert swap.swap_out(0).error == NO_ROOM and (list(swap.cache.pool.counts), dict(swap.copies[0])) == before
    swap.free(0)
    swap.extend(0, 12)
    swap.swap_out(0)
    swap.finish()
    swap.extend(1, 16)
    assert swap.swap_in(0).error == 1 and swap.cache.pool.free == 2 and swap.lengths[0] == 12
    assert swap.extend(0, 1)[0].error == swap.fork(0, 1, 1).error == swap.mark(0, 0).error == SWAPPED
    assert swap.extend(SEQUENCES, 1)[0].error == swap.free(SEQUENCES).error == swap.swap_in(SEQUENCES).error == UNKNOWN
