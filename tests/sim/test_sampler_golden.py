"""Golden model of the sampler: the generator, the order of candidates, the distribution of draws."""

import numpy as np
import pytest
from llmrtl.accelerators.presets import preset
from llmrtl.sim.golden.numerics import Scalar
from llmrtl.sim.golden.sampler import Sampler, scaled_distance, top_candidates, xorshift32

CONFIG = preset("edge")


def test_xorshift32_is_marsaglias():
    state, found = 1, []
    for _ in range(4):
        state = xorshift32(state)
        found.append(state)
    assert found == [270369, 67634689, 2647435461, 307599695]


def test_first_draws_of_small_seeds_are_spread():
    draws = np.array([xorshift32(Sampler(CONFIG, seed).state) / 2 ** 32 for seed in range(1000)])
    counts = np.histogram(draws, 10, (0, 1))[0]
    assert counts.min() > 60 and counts.max() < 140


def test_candidates_are_in_order_and_ties_go_to_the_lower_index():
    assert list(top_candidates(np.array([3, 9, 3, 9, 1]), 4)) == [1, 3, 0, 2]
    assert Sampler(CONFIG).sample(np.array([5, 7, 7])) == (1, 7)


def test_greedy_leaves_the_generator_alone():
    sampler = Sampler(CONFIG, 3)
    state = sampler.state
    sampler.sample(np.array([1, 2]))
    assert sampler.state == state
    sampler.sample(np.array([1, 2]), greedy=False, k=2)
    assert sampler.state == xorshift32(state)


@pytest.mark.parametrize("k", [1, 3, 16])
def test_draws_follow_the_distribution(k):
    """Shares of 4000 draws within 4 standard deviations of the softmax over the best k."""
    logits = np.round(np.random.default_rng(0).normal(size=40) * 2 ** 30).astype(np.int64)
    temperature = 0.7
    sampler = Sampler(CONFIG, 11)
    scale = Scalar.from_float(2.0 ** -30 * np.log2(np.e) / temperature)
    drawn = [sampler.sample(logits, greedy=False, k=k, scale=scale)[0] for _ in range(4000)]
    best = top_candidates(logits, k)
    p = np.exp(logits[best] / 2 ** 30 / temperature)
    p /= p.sum()
    shares = np.array([drawn.count(token) for token in best]) / 4000
    assert shares.sum() == 1
    assert (np.abs(shares - p) <= 4 * np.sqrt(p * (1 - p) / 4000) + 1e-4).all()


@pytest.mark.parametrize(("distance", "scale", "want"), [
    (3, Scalar(1 << 23, -23), 3 << 12), (0, Scalar(1 << 23, 9), 0), (1, Scalar(1 << 23, 9), (1 << 17) - 1),
    (1, Scalar(1 << 23, -23 - 13), 0), (3, Scalar(1 << 23, -23 - 13), 1), (99, Scalar(0, 0), 0),
    (31, Scalar(1 << 23, -23), 31 << 12), (32, Scalar(1 << 23, -23), (1 << 17) - 1),
])
def test_scaled_distance(distance, scale, want):
    assert scaled_distance(distance, scale, 12) == want


@pytest.mark.parametrize(("options", "message"), [
    ({"k": 0}, r"k must be in 1\.\.16, not 0"), ({"k": 17}, r"k must be in 1\.\.16, not 17"),
])
def test_refuses_k(options, message):
    with pytest.raises(ValueError, match=message):
        Sampler(CONFIG).sample(np.array([1]), greedy=False, **options)


def test_refuses_logits_and_seeds():
    with pytest.raises(ValueError, match=r"must be one vector of 1\.\.4096 values, not of shape \(0,\)"):
        Sampler(CONFIG).sample(np.array([]))
    with pytest.raises(ValueError, match="seed must be in 0"):
        Sampler(CONFIG, 1 << 32)
