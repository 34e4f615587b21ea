"""Attention in parts against attention over all rows."""

import random
from dataclasses import replace
from functools import reduce
from itertools import pairwise

import numpy as np
import pytest
from llmrtl.accelerators.presets import preset
from llmrtl.sim.attention_error import DEMAND, Figures, cases, naive, operation, outputs
from llmrtl.sim.attention_error import exact as exactly
from llmrtl.sim.golden.attention import Partial, Rows, attend, attend_parts, finished
from llmrtl.sim.golden.lanes import partial
from llmrtl.sim.golden.merge import merge
from llmrtl.sim.golden.numerics import Scalar

EDGE = preset("edge")
MODES = replace(preset("tiny_modes"), max_context=1024)


def rows(rng, count, head_dim, spread):
    k, v = (rng.integers(-127, 128, (count, head_dim)) for _ in range(2))
    scales = [np.stack([rng.integers(1 << 15, 1 << 16, count), rng.integers(-16 - spread, -15 + spread, count)], 1) for _ in range(2)]
    return k, scales[0], v, scales[1]


def exact(q, scale, k, k_scales, v, v_scales):
    """Softmax in float64 of the same integers."""
    logit = (k @ q) * (k_scales[:, 0] * 2.0 ** k_scales[:, 1]) * ((scale.mantissa >> 8 << 8) * 2.0 ** scale.exponent)
    p = 2.0 ** (logit - logit.max())
    return (p / p.sum()) @ (v * (v_scales[:, 0] * 2.0 ** v_scales[:, 1])[:, None])


@pytest.mark.parametrize("devices", range(1, 9))
@pytest.mark.parametrize("config", [EDGE, MODES], ids=["edge", "modes"])
def test_ring_of_devices(devices, config):
    """Rows on N devices, merged in any order: as exact as attention over all of them at once."""
    rng, order = np.random.default_rng(devices), random.Random(devices)
    q, scale = rng.integers(-127, 128, 32), Scalar(1 << 23, -36)
    k, k_scales, v, v_scales = rows(rng, 400, 32, 1)
    reference = exact(q, scale, k, k_scales, v, v_scales)
    cuts = [0, *sorted(rng.integers(0, 401, devices - 1).tolist()), 400]
    parts = [partial(q, scale, *(array[a:b] for array in (k, k_scales, v, v_scales)), config)
             for a, b in pairwise(cuts)]
    order.shuffle(parts)
    x, exponent = finished(reduce(merge, parts), config)
    whole, whole_exponent = attend([q], [scale], [400], k, k_scales, v, v_scales, config)
    errors = [np.linalg.norm(got - reference) / np.linalg.norm(reference)
              for got in (x * 2.0 ** exponent, whole[0] * 2.0 ** whole_exponent[0])]
    assert errors[0] < 1.5e-3 and errors[0] < 2 * errors[1], errors
    if devices == 1:
        assert x.tolist() == whole[0].tolist() and exponent == whole_exponent[0]


@pytest.mark.parametrize("case", list(cases((1024,))), ids=str)
def test_eight_parts_differ_little_from_one(case):
    """What the merge itself costs (lse in 10 fraction bits would cost 2.5e-4): shifts drop fraction bits, nothing else."""
    inputs = operation(MODES, case)
    merged, whole = (outputs(MODES, inputs, mode) for mode in ("merged", "running"))
    assert np.linalg.norm(merged - whole) <= (2.5e-4 if case.sink_value == 1.0 else 6e-4) * np.linalg.norm(whole)


def in_two_passes(*inputs):
    return naive(MODES, *inputs)


def behind_prefix(inputs, prefix, sequences):
    """Real results of the lanes of some sequences: parts of the rows of a common prefix, of all lanes at once, each merged with one of
    its sequence's own rows, which are as many for each. Also lanes and rows of each sequence."""
    q, scales, *sides = inputs

    def parts(lanes, rows):
        count = np.full(len(scales[lanes]), len(rows))
        return attend_parts([Rows(q[lanes], scales[lanes], 0 * count, count, *(side[rows] for side in sides))], MODES)

    heads, common, rest = len(q) // sequences, np.arange(prefix), np.arange(prefix, len(sides[0])).reshape(sequences, -1)
    lanes = [slice(heads * k, heads * (k + 1)) for k in range(sequences)]
    pairs = zip(parts(slice(None), common), (part for each in zip(lanes, rest, strict=True) for part in parts(*each)), strict=True)
    results = [finished(merge(*pair), MODES) for pair in pairs]
    return np.stack([x * 2.0 ** exponent for x, exponent in results]), lanes, [np.concatenate([common, own]) for own in rest]


@pytest.mark.parametrize("case", list(cases((64, 1024))), ids=str)
def test_common_prefix_meets_the_demand(case):
    """Four sequences behind a prefix of half of the rows (Hydragen): as exact as attention of each over all that it sees has to be."""
    drawn = random.SystemRandom().randrange(1 << 32)
    print(f"seed {drawn}")
    for seed in (1, drawn):
        inputs = operation(MODES, case, seed=seed)
        flat = inputs._replace(v=np.full_like(inputs.v, 127), v_scales=np.tile([0xABCD, -15], (case.rows, 1)))
        have, lanes, seen = behind_prefix(inputs, case.rows // 2, 4)
        sums = behind_prefix(flat, case.rows // 2, 4)[0] / (127 * 0xABCD / 0x8000)
        want, plain = (np.concatenate([attention(inputs.q[of], inputs.scales[of], *(side[rows] for side in inputs[2:]))
                                       for of, rows in zip(lanes, seen, strict=True)]) for attention in (exactly, in_two_passes))
        errors = [np.abs(x - want).max() for x in (have, plain)]
        # Twice an error that is as small itself may be missed by chance.
        found = Figures(float(np.linalg.norm(have - want) / np.linalg.norm(want)), float(np.abs(sums - 1).max()),
                        errors[0] / errors[1] if seed == 1 else 0.0)
        assert found.within(DEMAND), (seed, found)


@pytest.mark.parametrize("phis", [(3, 3), (3, None), (9, 0)])
def test_unified_parts(phis):
    """Parts with unified maxima, of the same or of different size, merge with others."""
    rng = np.random.default_rng(0)
    q, scale = rng.integers(-127, 128, 32), Scalar(1 << 23, -36)
    sides = rows(rng, 40, 32, 1)
    a, b = (partial(q, scale, *(array[cut] for array in sides), MODES, phi) for cut, phi in
            zip((slice(0, 20), slice(20, 40)), phis, strict=True))
    x, exponent = finished(merge(a, b), MODES)
    reference = exact(q, scale, *sides)
    assert np.linalg.norm(x * 2.0 ** exponent - reference) < 1.5e-3 * np.linalg.norm(reference)


def test_order_of_two_parts_does_not_matter_and_an_empty_one_changes_nothing():
    rng = np.random.default_rng(0)
    q, scale = rng.integers(-127, 128, 16), Scalar(1 << 23, -36)
    a, b = (partial(q, scale, *rows(rng, 20, 16, 2), EDGE) for _ in range(2))
    nothing = partial(q, scale, *(array[:0] for array in rows(rng, 1, 16, 0)), EDGE)
    for one, two in ((merge(a, b), merge(b, a)), (merge(a, nothing), a), (merge(nothing, a), a)):
        assert (one.maximum, one.total, one.exponent, one.defined) == (two.maximum, two.total, two.exponent, two.defined)
        assert one.acc.tolist() == two.acc.tolist()
    assert merge(nothing, nothing).total == 0 and not merge(nothing, nothing).defined


def test_a_far_smaller_part_vanishes():
    acc = np.array([1 << 20, -(1 << 20)])
    large, small = Partial(50, 1000, 3, True, acc), Partial(10, 999, 3, True, acc)
    assert merge(large, small).total == 1000 and merge(large, small).acc.tolist() == acc.tolist()
