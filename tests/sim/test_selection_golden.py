"""Golden models of selective recompute and block retrieval against float64, with the bounds of their docstrings."""

from fractions import Fraction

import numpy as np
import pytest
from llmrtl.sim.golden.numerics import Scalar
from llmrtl.sim.golden.select import (
    block_mean,
    block_scores,
    grid_exponent,
    grid_factors,
    share_count,
    top_indices,
    value_deviation,
)

KV_BITS = 8


def real(scales):
    scales = np.asarray(scales)
    return scales[..., 0] * 2.0 ** scales[..., 1]


def stored(x, levels=127, mantissa_bits=16):
    """Elements and scales of vectors as the cache has them: each quantized by its largest element."""
    scales = [Scalar.from_float(float(largest) / levels) for largest in np.abs(x).max(axis=-1).ravel()]
    scales = np.array([(each.mantissa >> 24 - mantissa_bits, each.exponent + 24 - mantissa_bits) if each.mantissa else (0, 0)
                       for each in scales]).reshape(*x.shape[:-1], 2)
    return np.rint(x / np.maximum(real(scales), 1e-300)[..., None]).clip(-levels, levels).astype(np.int64), scales


def check_list(scores, truth, bound, count):
    """The list is the true one, as far as true scores lie further apart than both bounds allow; how many are that clear."""
    chosen, order = top_indices(scores, count), np.argsort(-truth, kind="stable")
    certain = 0
    for number in range(len(truth)):
        beaten = np.sum(truth - bound > truth[number] + bound[number])  # surely better ones
        behind = np.sum(truth + bound < truth[number] - bound[number])
        if beaten >= count:
            assert number not in chosen
            certain += 1
        elif len(truth) - behind <= count:
            assert number in chosen
            certain += 1
    if certain == len(truth):
        assert chosen == sorted(order[:count].tolist())
    return certain


@pytest.mark.parametrize("seed", range(10))
def test_deviation_against_float64(seed):
    """Two caches of the same tokens, one in a new context: every score within its bound, so every list that is clear is exact."""
    rng = np.random.default_rng(seed)
    heads, tokens, head_dim = 4, 60, 32
    old = rng.normal(size=(heads, tokens, head_dim)) * rng.uniform(0.3, 3, (heads, tokens, 1))
    moved = rng.lognormal(-3, 1.5, (tokens, 1))
    (a, a_scales), (b, b_scales) = stored(old), stored(old + moved * rng.normal(size=old.shape))
    exponent = grid_exponent([a_scales, b_scales], KV_BITS)
    scores, saturated = value_deviation(a, a_scales, b, b_scales, exponent=exponent, kv_bits=KV_BITS)
    assert not saturated
    steps = (b * real(b_scales)[..., None] - a * real(a_scales)[..., None]) / 2.0 ** exponent
    truth = (steps ** 2).sum(axis=(0, 2))
    bound = (3 * np.abs(steps) + 2.25).sum(axis=(0, 2))
    assert (np.abs(np.array(scores) - truth) <= bound).all()
    assert np.median(np.abs(np.array(scores) - truth) / truth) < 1e-3
    certain = [check_list(scores, truth, bound, share_count(tokens, share)) for share in (0, 13, 38, 64, 128, 256)]
    assert certain[0] == certain[-1] == tokens and min(certain) >= 0.9 * tokens, certain


def test_deviation_of_equal_rows_is_0_and_saturation_is_told():
    rng = np.random.default_rng(0)
    values, scales = stored(rng.normal(size=(2, 5, 16)))
    exponent = grid_exponent(scales, KV_BITS)
    assert value_deviation(values, scales, values, scales, exponent=exponent, kv_bits=KV_BITS) == ([0] * 5, False)
    assert value_deviation(values, scales, values, scales, exponent=exponent - 1, kv_bits=KV_BITS)[1]


def test_largest_deviation_saturates_the_score():
    """2**14 elements never do, whatever they are; more do."""
    values = np.stack([np.full((2, 1, 1 << 13), 127), np.full((2, 1, 1 << 13), -128)])
    scales = np.tile([0xFFFF, 1 - KV_BITS], (2, 1, 1))
    (score,), saturated = value_deviation(values[0], scales, values[1], scales, exponent=0, kv_bits=KV_BITS)
    assert not saturated and 0.99 * 2 ** 48 * (255 / 256) ** 2 < score < 2 ** 48 - 1
    (score,), _ = value_deviation(*(each for side in values for each in (np.repeat(side, 3, 0), np.repeat(scales, 3, 0))), exponent=0,
                                  kv_bits=KV_BITS)
    assert score == 2 ** 48 - 1


@pytest.mark.parametrize("length", [1, 2, 7, 255, 256, 257, 512])
def test_share(length):
    counts = [share_count(length, share) for share in range(257)]
    assert counts[0] == 0 and counts[256] == length and counts[1] >= 1 and counts == sorted(counts)
    assert all(count - 1 < Fraction(length * share, 256) <= count for share, count in enumerate(counts))


def test_factor_is_the_scale_cut_to_the_grid():
    rng = np.random.default_rng(0)
    scales = np.stack([rng.integers(1 << 15, 1 << 16, 2000), rng.integers(-40, 5, 2000)], 1)
    factors, large = grid_factors(scales, -9, 8)
    for (mantissa, exponent), factor, saturated in zip(scales.tolist(), factors.tolist(), large.tolist(), strict=True):
        exact = Fraction(mantissa) * Fraction(2) ** (exponent + 9 + 8)
        assert saturated == (exact >= 1 << 17) and factor == min((1 << 17) - 1, exact.numerator // exact.denominator)


@pytest.mark.parametrize("rows", [1, 3, 7, 15, 16])
def test_mean_against_float64(rows):
    """Off by half a step of q, what the factors lose (half a step of the grid) and the relative error of the scale."""
    rng = np.random.default_rng(rows)
    for _ in range(50):
        keys = rng.normal(size=(rows, 64)) * rng.lognormal(0, 0.5, (rows, 1)) + 3 * rng.normal(size=64)
        q, scales = stored(keys)
        exponent = grid_exponent(scales, KV_BITS)
        mean, scale, saturated = block_mean(q, scales, exponent=exponent, kv_bits=KV_BITS, block_size=16)
        truth = (q * real(scales)[:, None]).mean(axis=0)
        assert not saturated and np.abs(mean).max() == 127
        bound = (0.5 + 1e-4) * float(scale) + 0.5 * 2.0 ** exponent + 1e-6 * np.abs(truth)
        assert (np.abs(mean * float(scale) - truth) <= bound).all()


@pytest.mark.parametrize("seed", range(10))
def test_retrieval_against_float64(seed):
    """Blocks of a cache by their stored mean keys: each score within its bound, and the list that of float64 where that is clear.
    Beside that, how much of the list of exact means (never quantized) is found."""
    rng = np.random.default_rng(seed)
    heads, group, blocks, size, head_dim, count = 2, 2, 24, 16, 32, 6
    topics = rng.normal(size=(heads, blocks, 1, head_dim))
    keys, key_scales = stored(topics + 0.7 * rng.normal(size=(heads, blocks, size, head_dim)))
    exponent = grid_exponent(key_scales, KV_BITS)
    means, mean_scales = np.zeros((heads, blocks, head_dim), np.int64), np.zeros((heads, blocks, 2), np.int64)
    for head, block in np.ndindex(heads, blocks):
        means[head, block], scale, _ = block_mean(keys[head, block], key_scales[head, block], exponent=exponent, kv_bits=KV_BITS,
                                                  block_size=size)
        mean_scales[head, block] = scale.mantissa >> 8, scale.exponent + 8
    wanted = topics[:, rng.integers(blocks), 0]
    queries, query_scales = stored(wanted[:, None] + 0.8 * rng.normal(size=(heads, group, head_dim)), mantissa_bits=24)

    step = -17
    scores = block_scores(queries, query_scales, means, mean_scales, exponent=step)
    real_queries = queries * real(query_scales)[..., None]
    terms = np.einsum("hld,hbd->hlb", real_queries, means * real(mean_scales)[..., None]) / 2.0 ** step
    truth, bound = terms.sum(axis=(0, 1)), (0.5 + np.abs(terms) * 2.0 ** -14).sum(axis=(0, 1))
    assert (np.abs(np.array(scores) - truth) <= bound).all()
    assert check_list(scores, truth, bound, count) == blocks

    # ReKV's rule: the mean query of a question, heads side by side, with the exact means side by side.
    exact = (keys * real(key_scales)[..., None]).mean(axis=2)
    side_by_side = np.concatenate([exact[head] for head in range(heads) for _ in range(group)], axis=1) @ real_queries.reshape(-1)
    best = np.argsort(-side_by_side)[:count]
    assert len(set(best.tolist()) & set(top_indices(scores, count))) >= count - 1
    assert np.abs(np.array(scores) * 2.0 ** step - side_by_side).max() < 0.02 * np.abs(side_by_side).max()


def test_scores_saturate_by_sign_and_vanish():
    query, key, one = np.full((1, 1, 4), -128), np.array([[[-128] * 4, [127] * 4, [0] * 4]]), np.array([[[0xFFFF00, 0]]])
    scales = np.tile([0xFFFF, 0], (1, 3, 1))
    assert block_scores(query, one, key, scales, exponent=-100) == [2 ** 31 - 1, -(2 ** 31), 0]
    assert block_scores(query, one, key, scales, exponent=24) == [2 ** 31 - 1, -(2 ** 31), 0]
    assert block_scores(query, one, key, scales, exponent=100) == [0, 0, 0]
