"""Golden model of the paged cache against sequences that share nothing."""

import random
from collections import Counter

import pytest
from llmrtl.sim.golden.paged import MAX_OWNERS, BlockPool, PagedTables

BLOCK_SIZE = 4


def tables(blocks=12):
    return PagedTables(sequences=4, max_context=24, block_size=BLOCK_SIZE, blocks=blocks)


def check_owners(paged):
    """Counts are the owners; what nobody has can be given out, each once."""
    owners = Counter(block for sequence in paged.sequences for block in sequence.blocks)
    assert paged.pool.counts == [owners[block] for block in range(paged.pool.blocks)]
    free = {block for block, count in enumerate(paged.pool.counts) if not count}
    given = paged.pool._returned + list(range(paged.pool._fresh, paged.pool.blocks))
    assert len(given) == len(free) == paged.pool.free and set(given) == free


def rows(paged, sequence, length, *, write):
    """Physical rows of the positions; ``None`` where they end with an error."""
    return [row for run in paged.runs(sequence, 0, length, write=write)
            for row in ([None] if run is None else range(run[0], run[0] + run[1]))]


@pytest.mark.parametrize("seed", range(20))
def test_content_of_sequences_that_share_blocks(seed):
    rng = random.Random(seed)
    paged = tables(blocks=rng.choice((8, 12, 24)))
    memory: dict[int, int] = {}
    content: list[list[int]] = [[] for _ in paged.sequences]
    copies = 0
    for _ in range(400):
        k = rng.randrange(4)
        action = rng.choice(("extend", "extend", "extend", "fork", "free"))
        if action == "extend":
            count = rng.choice((0, 1, 1, 2, 7))
            result, copy = paged.extend(k, count)
            if copy:
                copies += 1
                for row in range(copy.rows):
                    memory[copy.target * BLOCK_SIZE + row] = memory[copy.source * BLOCK_SIZE + row]
            assert (result.error == 2) == (len(content[k]) + count > 24)
            if not result.error:
                for position in range(len(content[k]), result.length):
                    (run,) = paged.runs(k, position, 1, write=True)
                    memory[run[0]] = rng.getrandbits(32)
                    content[k].append(memory[run[0]])
        elif action == "fork":
            other = rng.randrange(4)
            if other != k and rng.random() < 0.7:
                paged.free(k)
                content[k] = []
            count = rng.randint(0, len(content[other]) + 1)
            result = paged.fork(k, other, count)
            empty = not paged.sequences[k].blocks or not result.error
            assert result.error == (2 if count > len(content[other]) else 0 if empty and not content[k] else 3)
            if not result.error:
                content[k] = content[other][:count]
        else:
            paged.free(k)
            content[k] = []
        check_owners(paged)
        for number, expected in enumerate(content):
            assert paged.sequences[number].length == len(expected)
            assert [memory[row] for row in rows(paged, number, len(expected), write=False)] == expected
    assert copies > 3


def test_a_shared_block_is_copied_once_and_the_last_owner_writes_in_place():
    paged = tables()
    paged.extend(0, 6)
    paged.fork(1, 0, 6)
    paged.fork(2, 0, 5)
    assert paged.pool.counts[:2] == [3, 3]
    assert paged.extend(1, 1)[1] is not None and paged.extend(1, 1)[1] is None
    assert paged.extend(2, 1)[1] is not None
    assert paged.pool.counts[:4] == [3, 1, 1, 1]
    assert paged.extend(0, 1)[1] is None


def test_runs_join_blocks_that_follow_each_other():
    paged = tables()
    paged.extend(0, 12)
    assert list(paged.runs(0, 2, 9, write=False)) == [(2, 9, 2)]
    paged.extend(1, 4)
    paged.extend(0, 4)
    assert list(paged.runs(0, 0, 16, write=False)) == [(0, 12, 0), (16, 4, 12)]
    assert list(paged.runs(0, 10, 7, write=False)) == [None]


def test_rows_of_a_shared_block_are_not_written():
    paged = tables()
    paged.extend(0, 9)
    paged.fork(1, 0, 4)
    assert list(paged.runs(0, 4, 5, write=True)) == [(4, 5, 4)]
    assert list(paged.runs(0, 0, 9, write=True)) == [None]


def test_which_blocks_are_the_same():
    paged = tables()
    paged.extend(0, 9)
    paged.fork(1, 0, 9)
    assert [paged.compare(1, 0, count).error for count in (0, 8, 9, 10)] == [0, 0, 0, 2]
    paged.extend(1, 1)  # copies the last block
    assert [paged.compare(1, 0, count).error for count in (8, 9)] == [0, 6]
    paged.extend(2, 10)  # the same positions, nothing shared
    assert [paged.compare(2, 0, count).error for count in (0, 1, 4)] == [0, 6, 6]


def test_what_fails_changes_nothing():
    paged = tables(blocks=3)
    paged.extend(0, 8)
    result, copy = paged.extend(1, 8)
    assert (result.error, result.length, copy) == (1, 0, None)
    assert paged.sequences[1].blocks == [2]  # kept for when there is room
    assert paged.fork(1, 0, 4).error == 3
    paged.free(0)
    assert paged.extend(1, 8)[0].error == 0
    check_owners(paged)


def test_owners_are_limited():
    pool = BlockPool(2)
    block = pool.allocate().block
    for _ in range(MAX_OWNERS - 1):
        assert not pool.share(block).refused
    assert pool.share(block).refused and pool.counts[block] == MAX_OWNERS
    assert pool.release(1).refused and pool.share(1).refused
