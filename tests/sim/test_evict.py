"""The evict + merge cache in golden: against lists and floating point, and what it costs attention."""

import itertools
import random
from fractions import Fraction

import numpy as np
import pytest
from llmrtl.sim.golden.cache import stored_scale
from llmrtl.sim.golden.chords import LOGARITHM_BITS, LOGARITHM_ERROR, logarithm
from llmrtl.sim.golden.evict import COSINE_ERROR, ONE, EvictHead, Record, merged_vector, most_similar, reaches
from llmrtl.sim.golden.numerics import Scalar
from llmrtl.sim.golden.weights import attention_weights
from llmrtl.sim.traces.evict import ListModel, merge_error, real


def quantized(vector):
    """int8 elements with the largest at 127, and the scale as stored."""
    scale = stored_scale(Scalar.from_float(float(np.abs(vector).max()) / 127))
    return np.clip(np.rint(vector / real(1, scale)), -127, 127).astype(np.int64), scale


def record(key, value):
    (key, key_scale), (value, value_scale) = quantized(key), quantized(value)
    return Record(key, value, key_scale, value_scale)


@pytest.mark.parametrize("seed", range(20))
def test_merged_vector_is_the_mean(seed):
    """To half a step of the new scale, and what is truncated: a hundredth of one, and 1/128 of a step of the larger part."""
    rng = np.random.default_rng(seed)
    for _ in range(50):
        vectors = [rng.integers(-127, 128, 16) // rng.choice([1, 1, 40]) for _ in range(2)]
        scales = [(int(rng.integers(1 << 15, 1 << 16)), int(rng.integers(-40, -35 + seed))) for _ in range(2)]
        tokens = [int(rng.integers(1, 1 << rng.integers(1, 19))) for _ in range(2)]
        q, scale = merged_vector(vectors, scales, tokens)
        mean = sum(count * real(vector, each) for vector, each, count in zip(vectors, scales, tokens, strict=True)) / sum(tokens)
        assert np.abs(q).max() == 127 or not np.abs(mean).max()
        assert np.abs(real(q, stored_scale(scale)) - mean).max() <= merge_error(float(scale), scales, tokens), (vectors, scales, tokens)


def test_logarithms():
    """Of all norms and dot products that there can be of 128 elements."""
    x = np.arange(1, 1 << 21)
    exact = np.log2(x)
    off = logarithm(x) / 2 ** LOGARITHM_BITS - exact
    assert np.abs(off).max() < LOGARITHM_ERROR and (np.diff(logarithm(x)) >= 0).all()
    assert (logarithm(2 ** np.arange(53)) == np.arange(53) << LOGARITHM_BITS).all()
    assert (logarithm(2 * x) - logarithm(x) == 1 << LOGARITHM_BITS).all()
    large = np.random.default_rng(0).integers(1 << 21, 1 << 52, 100_000)
    assert np.abs(logarithm(large) / 2 ** LOGARITHM_BITS - np.log2(large)).max() < LOGARITHM_ERROR


@pytest.mark.parametrize("seed", range(10))
def test_most_similar_is_the_largest_cosine(seed):
    """To ``COSINE_ERROR``, which no step of the threshold sees."""
    rng = np.random.default_rng(seed)
    for size in (1, 5, 40):
        most = int(rng.choice([1, 3, 127]))
        keys, candidate = rng.integers(-most, most + 1, (size, 4)), rng.integers(-most, most + 1, 4)
        dots, norms = (keys @ candidate).tolist(), (keys ** 2).sum(1).tolist()
        squares = [Fraction(d ** 2, n) if d > 0 else Fraction(0) for d, n in zip(dots, norms, strict=True)]
        slot = most_similar(candidate, keys)
        assert (slot is None) == (not max(squares))
        if slot is not None:
            assert squares[slot] >= max(squares) * (1 - 2 * Fraction(COSINE_ERROR)) ** 2
            same = [row for row in range(size) if (dots[row], norms[row]) == (dots[slot], norms[slot])]
            assert slot == same[0]
            cosine = np.sqrt(float(squares[slot] / int(candidate @ candidate)))
            below = int(cosine * (1 - COSINE_ERROR) * ONE)
            assert not below or (reaches(candidate, keys[slot], below) and reaches(candidate, keys[slot], 0))
            assert not reaches(candidate, keys[slot], int(cosine * (1 + COSINE_ERROR) * ONE) + 1)
            assert not reaches(candidate, candidate, ONE + 1) and reaches(candidate, candidate, ONE)


def test_a_cosine_never_reaches_a_threshold_above_one():
    """Of keys that are multiples of each other too, and of the longest ones."""
    rng = np.random.default_rng(0)
    for _ in range(5000):
        key = rng.integers(-30, 31, int(rng.integers(1, 128)))
        for other in (key, 2 * key, 3 * key, 4 * key, key + rng.integers(-1, 2, len(key))):
            assert not reaches(key, other, ONE + 1) and not reaches(other, key, ONE + 1)
            assert not key.any() or (reaches(key, key, ONE) and reaches(key, 2 * key, ONE))


class Judged:
    """An ``EvictHead`` and the lists that judge it."""

    def __init__(self, budget, **rules):
        self.head, self.model = EvictHead(budget, **rules), ListModel(budget, most_local=(1 << 23) - 1, **rules)

    def append(self, new):
        done = self.head.append(new)
        self.model.append(new, done.slot, done.tokens, done.target, self.head.records[done.target] if done.target is not None else None)
        return done

    def weights(self, weights):
        self.model.weights(weights)
        self.head.scores.update(weights)

    def check(self):
        entries = self.head.scores.entries
        assert [(row.position, len(row.members), row.total, row.late) for row in self.model.rows] == [
            (entry.position, entry.tokens, entry.global_score, entry.local_score) for entry in entries]
        self.model.check_tokens()
        assert sum(entry.tokens for entry in entries) + self.head.dropped == self.model.appended


@pytest.mark.parametrize("operations", [3000, pytest.param(100_000, marks=pytest.mark.bench)])
def test_against_lists(operations):
    """Appends and attentions at random; keys come back, so that rows merge."""
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    rng, model, outcomes = random.Random(seed), None, {True: 0, False: 0}
    numbers, thresholds = np.random.default_rng(seed), itertools.cycle((ONE // 2, ONE * 9 // 10, ONE, ONE + 1))
    for step in range(operations):
        if step % 250 == 0:
            sinks, recent = rng.randint(0, 3), rng.randint(0, 6)
            model = Judged(sinks + recent + rng.randint(1, 12), sinks=sinks, recent=recent, threshold=next(thresholds))
            centres = numbers.integers(-90, 91, (12, 8))
        if rng.random() < 0.6:
            key = centres[rng.randrange(12)] + numbers.integers(-20, 21, 8) * rng.choice((0, 1))
            scales = [(rng.randrange(1 << 15, 1 << 16), rng.randint(-18, -16)) for _ in range(2)]
            done = model.append(Record(key, numbers.integers(-127, 128, 8), scales[0], scales[1]))
            if done.tokens:
                outcomes[done.target is not None] += 1
        elif rows := len(model.model.rows):
            model.weights(numbers.integers(0, 1 << rng.choice((2, 16)), rows).tolist())
        if step % 16 == 0:
            model.check()
    assert min(outcomes.values()) > operations // 50, outcomes


def test_a_threshold_above_one_is_pure_eviction():
    """As H2O: the token with the smallest score goes, whatever the keys are; those that are kept never change."""
    rng = np.random.default_rng(0)
    head, kept, slots = EvictHead(12, sinks=2, recent=4, threshold=ONE + 1), {}, {}
    key = np.array([3, 4, 5, 6])  # all alike
    for position in range(200):
        new = Record(key, rng.integers(-127, 128, 4), (1 << 15, -20), (1 << 15, -20))
        if len(kept) == 12:
            del kept[min((p for p in kept if 2 <= p < position - 4), key=lambda p: (kept[p][0] + 16 * kept[p][1], slots[p]))]
        done = head.append(new)
        assert done.target is None
        kept[position], slots[position] = [0, 0, new], done.slot
        assert {entry.position for entry in head.scores.entries} == set(kept)
        weights = rng.integers(0, 4000, len(kept)).tolist()
        head.scores.update(weights)
        for p, (total, late, value) in kept.items():
            weight = weights[slots[p]]
            kept[p] = [total + weight, late - late // 16 + weight, value]
            assert head.records[slots[p]] is value
    assert head.dropped == 200 - 12


@pytest.mark.parametrize("seed", range(10))
def test_attention_weights_are_those_of_a_softmax(seed):
    rng = np.random.default_rng(seed)
    rows, lanes, bits = int(rng.integers(1, 200)), int(rng.integers(1, 5)), 16
    logits = rng.normal(0, 4, (rows, lanes))
    maxima = np.maximum.accumulate(np.ceil(logits).astype(np.int64), axis=0)
    p = np.rint(2.0 ** (logits - maxima + bits)).astype(np.int64)
    weights = attention_weights(p, maxima)
    exact = 2.0 ** (logits - logits.max(axis=0))
    exact = (exact / exact.sum(axis=0)).sum(axis=1)
    assert np.abs(weights / 65536 - exact).max() < 2e-4 * lanes
    assert abs(weights.sum() - lanes * 65536) <= lanes * (rows / 2 + 1)
    assert np.array_equal(attention_weights(0 * p, maxima), np.zeros(rows))


def attention(query, keys, values):
    p = np.exp(keys @ query - (keys @ query).max())
    return p / p.sum(), p @ values / p.sum()


def errors(seed, *, tokens=400, budget=40, head_dim=32, groups=12, each=8):
    """Relative RMSE of attention over a cache of ``budget`` rows against attention over all tokens: with merges, with eviction only,
    with sinks and a window. Groups of tokens of the first half, alike in keys and less so in values, are asked for again and again;
    a fifth of the queries ask for one of the latest tokens."""
    rng = np.random.default_rng(seed)
    centres, meanings = rng.normal(size=(2, groups, head_dim))
    centres /= np.linalg.norm(centres, axis=1)[:, None]
    order = rng.permutation(np.repeat(np.arange(groups), each))
    group_at = dict(zip(sorted(rng.choice(np.arange(2, tokens // 2), len(order), replace=False).tolist()), order.tolist(), strict=True))
    sinks, recent = 2, 8
    heads = {name: EvictHead(budget, sinks=sinks, recent=recent, threshold=threshold)
             for name, threshold in (("merge", ONE * 4 // 5), ("evict", ONE + 1))}
    squares = dict.fromkeys(("full", "merge", "evict", "window"), 0.0)
    keys, values, seen = np.zeros((0, head_dim)), np.zeros((0, head_dim)), []
    for position in range(tokens):
        group = group_at.get(position)
        key, value = rng.normal(size=(2, head_dim))
        if group is None:
            key /= np.linalg.norm(key)
        else:
            key, value = centres[group] + 0.3 * key / head_dim ** 0.5, meanings[group] + value
            seen.append(group)
        keys, values = np.vstack([keys, key]), np.vstack([values, value])
        asked = centres[rng.choice(seen)] if seen and rng.random() < 0.8 else keys[-rng.integers(1, min(5, len(keys)) + 1)]
        query = 10 * (asked + 0.2 * rng.normal(size=head_dim) / head_dim ** 0.5)
        _, exact = attention(query, keys, values)
        outputs = {}
        for name, head in heads.items():
            head.append(record(key, value))
            weights, outputs[name] = attention(query, *(np.array(part) for part in zip(*(
                (real(row.key, row.key_scale), real(row.value, row.value_scale)) for row in head.records), strict=True)))
            head.scores.update(np.rint(weights * 65536).astype(int).tolist())
        window = np.r_[:min(sinks, position + 1), max(sinks, position + 1 - (budget - sinks)):position + 1]
        _, outputs["window"] = attention(query, keys[window], values[window])
        if position >= budget:
            squares["full"] += exact @ exact
            for name, output in outputs.items():
                squares[name] += ((output - exact) ** 2).sum()
    return {name: (squares[name] / squares["full"]) ** 0.5 for name in ("merge", "evict", "window")}


@pytest.mark.parametrize("seed", range(3))
def test_merging_costs_attention_less_than_eviction_and_that_less_than_a_window(seed):
    """A tenth of the tokens kept, on synthetic attention with heavy hitters."""
    result = errors(seed)
    print(f"seed {seed}: relative RMSE {result}")
    assert 1.2 * result["merge"] < result["evict"] and 1.2 * result["evict"] < result["window"] < 1
