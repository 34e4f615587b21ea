"""Golden elementwise functions: hand-made cases, leading axes, refusals."""

import numpy as np
import pytest
from llmrtl.sim.golden.elementwise import (
    align,
    embed,
    glu,
    norm_quantize,
    residual_add,
    rope,
    sigmoid,
    truncate_magnitude,
)
from llmrtl.sim.golden.numerics import Scalar

ONE = Scalar.from_float(1.0)


def test_quantize_extremes():
    x = np.array([-(1 << 31), (1 << 31) - 1, 0, 1 << 30])
    q, scale = norm_quantize(x, np.full(4, -(1 << 15)), ONE, norm=False)
    assert q.tolist() == [127, -127, 0, -64]  # 63.5 rounds away from zero
    assert float(scale) == pytest.approx(2.0 ** 46 / 127, rel=1e-6)


def test_quantize_zero_and_single():
    zero = np.zeros(6, np.int64)
    for norm in (False, True):
        q, scale = norm_quantize(zero, np.ones(6, np.int64), ONE, norm=norm, inverse_length=ONE, epsilon=ONE)
        assert not q.any() and scale == Scalar(0, 0)
    q, scale = norm_quantize(np.array([0, -1]), np.array([3, 3]), ONE, norm=False, wide=True)
    assert q.tolist() == [0, -32767]
    assert float(scale) == pytest.approx(3 / 32767, rel=1e-6)


def test_ties_are_rounded():
    x = np.array([254, 127, 1, -1, 3, -3])
    assert norm_quantize(x, np.ones(6, np.int64), ONE, norm=False)[0].tolist() == [127, 64, 1, -1, 2, -2]
    assert align([3, -3, 5, -5], 1).tolist() == [2, -1, 3, -2]  # halves up
    assert rope([128], [0], [1], [0])[0].tolist() == [1]
    assert rope([-128], [0], [1], [0])[0].tolist() == [0]
    half = Scalar.from_float(0.5)
    assert residual_add([1, -1, 3, -3], [0, 0, 0, 0], half)[0].tolist() == [1, 0, 2, -1]


def test_rms_norm():
    x = np.random.default_rng(0).integers(-30000, 30000, 64)
    gain = np.random.default_rng(1).integers(1, 4000, 64)
    scale, epsilon = 2.0 ** -10, 1e-5
    q, step = norm_quantize(x, gain, Scalar.from_float(scale), gain_exponent=-11,
                            inverse_length=Scalar.from_float(1 / 64), epsilon=Scalar.from_float(epsilon))
    real = x * scale
    exact = real / np.sqrt(np.mean(real ** 2) + epsilon) * gain * 2.0 ** -11
    assert np.abs(q * float(step) - exact).max() <= 0.5001 * np.abs(exact).max() / 127


def test_saturation_is_counted():
    top = (1 << 31) - 1
    x, count = residual_add([5, -5, 0, 5], [top, -top, top, 0], Scalar.from_float(2.0 ** 40))
    assert x.tolist() == [top, -top - 1, top, top] and count == 3
    assert embed([1, -1, 0], 31)[0].tolist() == [top, -top - 1, 0] and embed([1, -1, 0], 31)[1] == 1


def test_glu_of_zeros_and_saturated_sigmoid():
    zero, x = np.zeros(4, np.int64), np.array([-9, -1, 1, 9])
    for silu in (False, True):
        assert not glu(zero, x, silu=silu, gate_bits=0, up_bits=4, scale=ONE).any()
        assert not glu(x, zero, silu=silu, gate_bits=4, up_bits=0, scale=ONE).any()
    huge = glu(x, x, silu=True, gate_bits=4, up_bits=4, scale=Scalar.from_float(1e30))
    assert huge.tolist() == [0, 0, (1 << 26) >> 3, 81 << 23]
    assert sigmoid(0) == 1 << 16 and sigmoid(1 << 40) == 1 << 17


def test_leading_axes():
    rng = np.random.default_rng(3)
    a, b, cos, sin = rng.integers(-1000, 1000, (4, 3, 5, 8))
    low, high = rope(a, b, cos[0], sin[0])
    for k in range(3):
        row = rope(a[k], b[k], cos[0], sin[0])
        assert np.array_equal(low[k], row[0]) and np.array_equal(high[k], row[1])
    assert residual_add(a, b, ONE)[0].shape == (3, 5, 8)
    assert truncate_magnitude([-5, 5], 1).tolist() == [-2, 2]


@pytest.mark.parametrize(("call", "message"), [
    (lambda: norm_quantize([1 << 31], [1], ONE), "x must fit 32 bits, not 2147483648..2147483648"),
    (lambda: norm_quantize([1], [1 << 15], ONE), "gain must fit 16 bits, not 32768..32768"),
    (lambda: norm_quantize([1, 2], [1], ONE), r"vectors of one length, not of shapes \(2,\) and \(1,\)"),
    (lambda: glu([5], [1], silu=False, gate_bits=2, up_bits=1),
     "gate must have magnitudes of at most gate_bits = 2 bits"),
    (lambda: embed([1], 32), r"shift must be in -32\.\.31, not 32"),
    (lambda: rope([1 << 40], [0], [1 << 14], [0]), "rotated must fit 32 bits"),
])
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
