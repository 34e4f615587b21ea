"""Golden attention: the fast one against the row-by-row one, and against an exact softmax."""

from dataclasses import replace

import numpy as np
import pytest
from llmrtl.accelerators.presets import preset
from llmrtl.sim.attention_error import exact, quantized
from llmrtl.sim.golden.attention import NO_VALUE_EXPONENT, Rows, attend, attend_parts, final_shifts, finished, query_scale
from llmrtl.sim.golden.exp import pow2_negative
from llmrtl.sim.golden.lanes import LaneState, attend_rows, partial
from llmrtl.sim.golden.numerics import Scalar

EDGE = preset("edge")
FINE = replace(EDGE, probability_bits=20, max_context=8192)
MODAL = replace(preset("tiny_modes"), max_context=8192)


def random_operation(rng, config):
    """Inputs of ``attend``: mild or extreme scales, a share of zero scales, any limits."""
    lanes, rows, size = int(rng.integers(1, 5)), int(rng.integers(1, 64)), 8
    spread = int(rng.choice([0, 3, 30, 3000]))
    zeros = float(rng.choice([0, 0.1, 0.9]))
    bound = 1 << (config.kv_bits - 1)

    def pairs(count, centre):
        mantissas = rng.integers(1 << 15, 1 << 16, count) * (rng.random(count) >= zeros)
        exponents = centre + rng.integers(-spread, spread + 1, count)
        return np.stack([mantissas, exponents * (mantissas != 0)], axis=1)

    scales = [Scalar(int(m) << 8, int(e) - 8) for m, e in pairs(lanes, -6 - 2 * config.kv_bits)]
    q = rng.integers(-bound, bound, (lanes, size))
    k, v = rng.integers(-bound, bound, (2, rows, size))
    return q, scales, rng.integers(0, rows + 3, lanes), k, pairs(rows, -16), v, pairs(rows, -20)


@pytest.mark.parametrize("seed", range(150))
def test_fast_equals_row_by_row(seed):
    rng = np.random.default_rng(seed)
    config = replace(EDGE, kv_bits=int(rng.choice([8, 16])),
                     probability_bits=int(rng.choice([12, 16, 17, 20, 26])),
                     max_context=int(rng.choice([64, 8192])), logit_frac_bits=int(rng.choice([8, 12, 16])),
                     exp_segments=int(rng.choice([8, 16, 64])))
    operation = random_operation(rng, config)
    x, exponents = attend(*operation, config)
    want, want_exponents = attend_rows(*operation, config)
    np.testing.assert_array_equal(x, want)
    np.testing.assert_array_equal(exponents, want_exponents)
    assert np.abs(x).max() < 1 << 31


@pytest.mark.parametrize("kv_bits", [8, 16])
@pytest.mark.parametrize("probability_bits", [12, 16, 20, 26])
def test_no_overflow_at_the_extremes(kv_bits, probability_bits):
    """All rows count fully with the largest elements: the widest sums that there are."""
    config = replace(EDGE, kv_bits=kv_bits, probability_bits=probability_bits, max_context=8192)
    rows, low = 8192, -(1 << (kv_bits - 1))
    k, v = np.zeros((rows, 2), int), np.full((rows, 2), low)
    scale = np.tile([0xFFFF, -15], (rows, 1))
    x, exponents = attend(k[:1], [Scalar(1 << 23, -23)], [rows], k, scale, v, scale, config)
    np.testing.assert_allclose(x * 2.0 ** exponents[:, None], low * 65535 / 32768, rtol=3e-5)
    assert np.abs(x).max() < 1 << 31
    width, before, after = final_shifts(config)
    assert width - before <= 35 and before >= 0 and after >= 0


@pytest.mark.parametrize("config", [EDGE, FINE, replace(EDGE, kv_bits=16)], ids=["edge", "fine", "kv16"])
def test_rows_sum_to_one(config):
    """A constant V comes out as it went in: the weights of a row of keys sum to 1."""
    rng = np.random.default_rng(0)
    rows, top = config.max_context, (1 << (config.kv_bits - 1)) - 1
    q, qs = quantized(rng.normal(size=(4, 64)), config.kv_bits)
    k, ks = quantized(rng.normal(size=(rows, 64)) * 3, config.kv_bits)
    scales = [Scalar.from_float(float(m * 2.0 ** e / 8 * np.log2(np.e))) for m, e in qs]
    v, vs = np.full((rows, 64), top), np.tile([0xABCD, -15], (rows, 1))
    x, exponents = attend(q, scales, [1, 2, rows // 2, rows], k, ks, v, vs, config)
    np.testing.assert_allclose(x * 2.0 ** exponents[:, None], top * 0xABCD / 0x8000, rtol=1e-4)


def test_a_first_row_out_of_the_window_changes_nothing():
    """As without a unified maximum, bit for bit; a later row above it goes on in the same way. Both are counted."""
    rng = np.random.default_rng(6)
    window, counts = MODAL.unified_window, {}
    k, v = rng.integers(-128, 128, (2, 30, 8))
    pairs = np.tile([0x8000, -15], (30, 1))
    q, scale = rng.integers(-128, 128, 8), Scalar(1 << 23, -23 - 13)
    ceilings = [-(-int(k[row] @ q) >> 13) for row in range(30)]  # a step is 2**-13
    largest = max(ceilings)
    plain = partial(q, scale, k, pairs, v, pairs, MODAL)
    for phi in range(ceilings[0] - 2, largest + window + 3):
        state = LaneState(MODAL, phi)
        shifts = [state.step(int(k[row] @ q), query_scale(scale), pairs[row], pairs[row])[1] for row in range(30)]
        inside = phi - window <= ceilings[0] <= phi
        assert (state.missed, state.passed) == (not inside, inside and largest > phi)
        assert state.unified == (inside and largest <= phi)
        counts[state.missed, state.passed] = True
        part = partial(q, scale, k, pairs, v, pairs, MODAL, phi)
        fast = attend_parts([Rows(q[None], [scale], np.array([0]), np.array([30]), k, pairs, v, pairs)], MODAL, phi)[0]
        assert (part.maximum, part.total, part.acc.tolist()) == (fast.maximum, fast.total, fast.acc.tolist())
        if state.missed:
            assert (part.maximum, part.total, part.acc.tolist()) == (plain.maximum, plain.total, plain.acc.tolist())
        if state.unified:
            assert not any(shifts) and part.maximum == phi and part.total >= 1 << MODAL.probability_bits - 1 - window
        np.testing.assert_allclose(finished(part, MODAL)[0] * 2.0 ** finished(part, MODAL)[1],
                                   finished(plain, MODAL)[0] * 2.0 ** finished(plain, MODAL)[1], atol=0.05)
    assert len(counts) == 3


def test_all_later_rows_far_below():
    """The first row alone keeps the sum large enough: its value comes out."""
    for above in range(MODAL.unified_window + 1):
        rows = np.array([[1], [-100], [-100]])
        pairs = np.tile([0x8000, -15], (3, 1))
        part = partial(np.array([1]), Scalar(1 << 23, -23), rows, pairs, np.array([[77], [-128], [127]]), pairs, MODAL, 1 + above)
        x, exponent = finished(part, MODAL)
        assert part.total == 1 << MODAL.probability_bits - above
        np.testing.assert_allclose(x * 2.0 ** exponent, 77, rtol=1e-4)


def test_limits_are_causal():
    """A lane with a limit equals the same lane over the shorter cache; rows behind it have no influence."""
    rng = np.random.default_rng(1)
    q, scales, _, k, ks, v, vs = random_operation(rng, EDGE)
    rows = len(k)
    limits = [int(limit) for limit in rng.integers(1, rows + 1, len(q))]
    x, exponents = attend(q, scales, limits, k, ks, v, vs, EDGE)
    for lane, limit in enumerate(limits):
        alone = attend(q[lane:lane + 1], scales[lane:lane + 1], [limit], k[:limit], ks[:limit], v[:limit],
                       vs[:limit], EDGE)
        np.testing.assert_array_equal(x[lane], alone[0][0])
        assert exponents[lane] == alone[1][0]


def test_one_row_is_its_value():
    """Softmax over one row is 1, whatever the logit."""
    v = np.arange(-128, 128, 32)[None]
    for exponent in (-200, -31, 0, 200):
        x, exponents = attend(np.full((1, 8), 100), [Scalar(0xABCDEF, exponent)], [1], np.full((1, 8), -100),
                              [[0x9000, -3]], v, [[0xC000, -20]], EDGE)
        np.testing.assert_allclose(x * 2.0 ** exponents[:, None], v * 0xC000 * 2.0 ** -20, rtol=2e-4)


def test_zero_query_scale_averages():
    rng = np.random.default_rng(2)
    v = rng.integers(-128, 128, (64, 8))
    pairs = np.tile([0x8000, -15], (64, 1))
    x, exponents = attend(v[:1], [Scalar(0, 0)], [64], v, pairs, v, pairs, EDGE)
    np.testing.assert_allclose(x[0] * 2.0 ** exponents[0], v.mean(axis=0), rtol=1e-4)


def test_no_value_scale_gives_zero():
    ones, none = np.ones((3, 8), int), np.zeros((3, 2), int)
    for limit, scales in ((3, none), (0, np.tile([0x8000, -15], (3, 1)))):
        x, exponents = attend(ones[:1], [Scalar(1 << 23, -23)], [limit], ones, none, ones, scales, EDGE)
        assert not x.any()
        assert exponents[0] == NO_VALUE_EXPONENT


def test_logits_beyond_the_range_saturate():
    """Two keys of opposite sign whose logits are out of range: the positive one takes all."""
    q, v = np.full((1, 8), 127), np.array([[50] * 8, [-50] * 8])
    k = np.array([[127] * 8, [-127] * 8])
    pairs = np.tile([0x8000, -15], (2, 1))
    for exponent in (-10, 30, 30000):
        x, exponents = attend(q, [Scalar(1 << 23, exponent)], [2], k, pairs, v, pairs, EDGE)
        np.testing.assert_allclose(x * 2.0 ** exponents[:, None], 50, rtol=1e-4)


def test_late_dominant_row_clears():
    """A rescale of 32 bits or more forgets what came before."""
    q, k = np.full((1, 8), 127), np.array([[-127] * 8, [127] * 8])
    v = np.array([[127] * 8, [1] * 8])
    pairs = np.tile([0x8000, -15], (2, 1))
    x, exponents = attend(q, [Scalar(1 << 23, -33)], [2], k, pairs, v, pairs, EDGE)
    np.testing.assert_allclose(x * 2.0 ** exponents[:, None], 1, rtol=1e-4)


def test_exact_reference_agrees_with_a_plain_softmax():
    rng = np.random.default_rng(3)
    q, k, v = (rng.integers(-5, 6, (count, 8)) for count in (2, 9, 9))
    pairs = np.tile([0x8000, -15], (9, 1))
    p = np.exp2(q @ k.T * 0.25)
    want = p / p.sum(axis=1, keepdims=True) @ v
    np.testing.assert_allclose(exact(q, [Scalar.from_float(0.25)] * 2, k, pairs, v, pairs), want)


@pytest.mark.parametrize(("segments", "bound"), [(8, 1e-3), (16, 2.5e-4), (32, 7e-5), (64, 2.5e-5)])
def test_error_of_pow2(segments, bound):
    """The chord's error, ``(ln 2 / segments)**2 / 8``, and the rounding to 2**-20."""
    config = replace(EDGE, exp_segments=segments, probability_bits=20)
    u = np.arange(1 << config.logit_frac_bits)
    p = pow2_negative(u, config) / 2.0 ** 20
    assert np.abs(p / np.exp2(-u / 2.0 ** config.logit_frac_bits) - 1).max() <= bound
    assert pow2_negative(0, config) == 1 << 20
    assert np.all(np.diff(pow2_negative(np.arange(0, 24 << config.logit_frac_bits, 7), config)) <= 0)


@pytest.mark.parametrize(("change", "message"), [
    ({"limits": [1, 2]}, r"limits must have shape \(1,\), not \(2,\)"),
    ({"k": np.full((3, 8), 128)}, r"k must be in -128\.\.127, not 128\.\.128"),
    ({"scales": []}, r"scales must have one entry per lane \(1\), not 0"),
    ({"v_scales": np.zeros((2, 2), int)}, r"v_scales must have shape \(3, 2\), not \(2, 2\)"),
])
def test_refuses(change, message):
    rows, pairs = np.ones((3, 8), int), np.zeros((3, 2), int)
    arguments = {"q": rows[:1], "scales": [Scalar(0, 0)], "limits": [3], "k": rows, "k_scales": pairs, "v": rows,
                 "v_scales": pairs}
    with pytest.raises(ValueError, match=message):
        attend(**(arguments | change), config=EDGE)
