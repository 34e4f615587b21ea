"""Tiles of packed prompts: nothing is read for nothing, and packed attention is attention of each prompt alone."""

import random

import numpy as np
import pytest
from llmrtl.accelerators.presets import preset
from llmrtl.rtl_gen.tiles import Tile, TileRun, plan_tiles
from llmrtl.sim.golden.attention import Rows, attend, attend_runs
from llmrtl.sim.golden.numerics import Scalar

CONFIG = preset("tiny_modes")


def packing(order, prompts, longest):
    """Segment of each token, prompt after prompt."""
    return [segment for segment in range(prompts) for _ in range(order.randint(1, longest))]


def visible(segments, positions, bases, rows):
    """The mask, entry by entry: bool [tokens, rows]."""
    mask = np.zeros((len(segments), rows), bool)
    for token, (segment, position) in enumerate(zip(segments, positions, strict=True)):
        for row in range(rows):
            mask[token, row] = 0 <= row - bases[segment] <= position
    return mask


def blocks(tiles, block):
    """Blocks of rows that are read, tile by tile and run by run."""
    return sum((run.first + run.rows - 1) // block - run.first // block + 1 for tile in tiles for run in tile.runs)


def covers_exactly(tiles, mask):
    got = np.zeros_like(mask)
    for tile in tiles:
        for run in tile.runs:
            for token, start, limit in zip(range(tile.first, tile.last + 1), run.starts, run.limits, strict=True):
                assert 0 <= start <= limit <= run.rows
                assert not got[token, run.first + start:run.first + limit].any(), "a row twice"
                got[token, run.first + start:run.first + limit] = True
    np.testing.assert_array_equal(got, mask)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("block", [1, 16, 64])
def test_no_more_than_the_unmasked_minimum(seed, block):
    """Blocks that are read against those with a visible entry, of all tiles; and rows against those that full lanes would need."""
    order = random.Random(seed)
    lanes, group = order.choice([(4, 1), (4, 2), (16, 2), (8, 1)])
    segments = packing(order, order.randint(1, 12), 120)
    tiles = plan_tiles(segments, query_lanes=lanes, group=group)
    bases = {segment: segments.index(segment) for segment in segments}
    mask = visible(segments, [token - bases[segment] for token, segment in enumerate(segments)], bases, len(segments))
    covers_exactly(tiles, mask)
    padded = np.pad(mask, ((0, 0), (0, -len(segments) % block))).reshape(len(segments), -1, block).any(2)
    least = sum(int(padded[tile.first:tile.last + 1].any(0).sum()) for tile in tiles)
    assert least <= blocks(tiles, block) <= 1.05 * least
    causal = sum(tile.last // block + 1 for tile in tiles)
    assert blocks(tiles, block) <= causal
    size = lanes // group
    # Each tile may idle in its diagonal, and where a segment ends.
    assert sum(tile.rows for tile in tiles) <= mask.sum() / size + len(tiles) * size + sum(segments.count(s) for s in set(segments))


@pytest.mark.parametrize("seed", range(20))
def test_any_order_and_rows_that_are_there(seed):
    """Tokens of several texts in turn, each of which has rows in the cache, somewhere."""
    order = random.Random(seed)
    lengths = [order.randint(1, 9) for _ in range(6)]
    ahead = [order.choice([0, 3, 40]) for _ in lengths]
    segments = [segment for segment, length in enumerate(lengths) for _ in range(length)]
    order.shuffle(segments)
    places, bases = 0, {}
    for segment in order.sample(range(6), 6):
        bases[segment], places = places, places + ahead[segment] + lengths[segment] + order.choice([0, 5])
    positions = [ahead[segment] + segments[:token].count(segment) for token, segment in enumerate(segments)]
    tiles = plan_tiles(segments, query_lanes=8, group=2, positions=positions, bases=bases)
    covers_exactly(tiles, visible(segments, positions, bases, places))
    for tile in tiles:  # runs have gaps between them, and no row that no token sees
        assert all(a.first + a.rows < b.first for a, b in zip(tile.runs, tile.runs[1:], strict=False))
        for run in tile.runs:
            seen = [range(start, limit) for start, limit in zip(run.starts, run.limits, strict=True)]
            assert set().union(*seen) == set(range(run.rows))


@pytest.mark.parametrize("seed", range(5))
def test_packed_equals_separate(seed):
    """Bit for bit, with two heads of each token."""
    order, rng = random.Random(seed), np.random.default_rng(seed)
    segments, group = packing(order, 5, 20), 2
    tokens = len(segments)
    q = rng.integers(-128, 128, (tokens * group, 8))
    scales = [Scalar(int(rng.integers(1 << 23, 1 << 24)), int(rng.integers(-36, -30))) for _ in range(tokens * group)]
    k, v = rng.integers(-128, 128, (2, tokens, 8))
    k_scales, v_scales = (np.stack([rng.integers(1 << 15, 1 << 16, tokens), rng.integers(-18, -14, tokens)], 1) for _ in range(2))
    for tile in plan_tiles(segments, query_lanes=CONFIG.query_lanes, group=group):
        lanes = slice(tile.first * group, (tile.last + 1) * group)
        runs = [Rows(q[lanes], scales[lanes], np.repeat(run.starts, group), np.repeat(run.limits, group),
                     *(array[run.first:run.first + run.rows] for array in (k, k_scales, v, v_scales))) for run in tile.runs]
        x, exponents = attend_runs(runs, CONFIG)
        for lane in range(lanes.start, lanes.stop):
            token = lane // group
            alone = slice(segments.index(segments[token]), token + 1)
            want = attend(q[lane:lane + 1], scales[lane:lane + 1], [alone.stop - alone.start],
                          *(array[alone] for array in (k, k_scales, v, v_scales)), CONFIG)
            assert x[lane - lanes.start].tolist() == want[0][0].tolist() and exponents[lane - lanes.start] == want[1][0]


def test_a_small_one():
    """Two prompts of 3 and 2 tokens, two tokens to a tile."""
    assert plan_tiles([0, 0, 0, 1, 1], query_lanes=4, group=2) == [
        Tile(0, 1, (TileRun(0, 2, (0, 0), (1, 2)),)), Tile(2, 3, (TileRun(0, 4, (0, 3), (3, 4)),)),
        Tile(4, 4, (TileRun(3, 2, (0,), (2,)),))]
    assert plan_tiles([], query_lanes=4, group=2) == []


@pytest.mark.parametrize(("segments", "change", "message"), [
    ([0], {"group": 5}, "group must be in 1..4, not 5"),
    ([0], {"query_lanes": 0}, "query_lanes must be in 1..64, not 0"),
    ([0, 0], {"positions": [0]}, r"positions must have 2 entries, none negative, not \[0\]"),
    ([0, 0], {"positions": [-1, 0]}, r"positions must have 2 entries, none negative, not \[-1, 0\]"),
    ([0, 1, 0], {}, "must follow each other from position 0 on, not as token 2 of segment 0 at position 1"),
    ([0], {"positions": [3]}, "must follow each other from position 0 on, not as token 0 of segment 0 at position 3"),
    ([0, 7], {"bases": {0: 0}}, r"bases must name all segments, not \[0\] without \[7\]"),
])
def test_refuses(segments, change, message):
    with pytest.raises(ValueError, match=message):
        plan_tiles(segments, **({"query_lanes": 4, "group": 2} | change))
