"""Attention in parts against attention over all rows."""

import random
from itertools import pairwise

import numpy as np
import pytest
from llmrtl.accelerators.presets import preset
from llmrtl.sim.golden.attention import Partial, attend, finished
from llmrtl.sim.golden.lanes import partial
from llmrtl.sim.golden.merge import merge
from llmrtl.sim.golden.numerics import Scalar

CONFIG = preset("edge")


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
def test_ring_of_devices(devices):
    """Rows on N devices, merged in any order: as exact as attention over all of them at once."""
    rng, order = np.random.default_rng(devices), random.Random(devices)
    q, scale = rng.integers(-127, 128, 32), Scalar(1 << 23, -36)
    k, k_scales, v, v_scales = rows(rng, 400, 32, 1)
    reference = exact(q, scale, k, k_scales, v, v_scales)
    cuts = [0, *sorted(rng.integers(0, 401, devices - 1).tolist()), 400]
    parts = [partial(q, scale, *(array[a:b] for array in (k, k_scales, v, v_scales)), CONFIG)
             for a, b in pairwise(cuts)]
    order.shuffle(parts)
    merged = parts[0]
    for part in parts[1:]:
        merged = merge(merged, part)
    x, exponent = finished(merged, CONFIG)
    whole, whole_exponent = attend([q], [scale], [400], k, k_scales, v, v_scales, CONFIG)
    errors = [np.linalg.norm(got - reference) / np.linalg.norm(reference)
              for got in (x * 2.0 ** exponent, whole[0] * 2.0 ** whole_exponent[0])]
    assert errors[0] < 1.5e-3 and errors[0] < 2 * errors[1], errors
    if devices == 1:
        assert x.tolist() == whole[0].tolist() and exponent == whole_exponent[0]


def test_order_of_two_parts_does_not_matter_and_an_empty_one_changes_nothing():
    rng = np.random.default_rng(0)
    q, scale = rng.integers(-127, 128, 16), Scalar(1 << 23, -36)
    a, b = (partial(q, scale, *rows(rng, 20, 16, 2), CONFIG) for _ in range(2))
    nothing = partial(q, scale, *(array[:0] for array in rows(rng, 1, 16, 0)), CONFIG)
    for one, two in ((merge(a, b), merge(b, a)), (merge(a, nothing), a), (merge(nothing, a), a)):
        assert (one.maximum, one.total, one.exponent, one.defined) == (two.maximum, two.total, two.exponent, two.defined)
        assert one.acc.tolist() == two.acc.tolist()
    assert merge(nothing, nothing).total == 0 and not merge(nothing, nothing).defined


def test_a_far_smaller_part_vanishes():
    acc = np.array([1 << 20, -(1 << 20)])
    large, small = Partial(50, 1000, 3, True, acc), Partial(10, 999, 3, True, acc)
    assert merge(large, small).total == 1000 and merge(large, small).acc.tolist() == acc.tolist()
