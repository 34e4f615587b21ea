"""Number formats of the expert unit: against NumPy's float16, exact rational numbers and bfloat16 by bisection."""

import random
from fractions import Fraction

import numpy as np
import pytest
from llmrtl.accelerators.experts.config import FORMATS
from llmrtl.sim.golden.floats import SPLIT, decode, dot, encode, round_sum


def seeded():
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    return np.random.default_rng(seed)


def bfloat16(bits):
    return (np.asarray(bits).astype(np.uint32) << 16).view(np.float32)


def test_every_fp16_is_an_exact_integer():
    bits = np.arange(1 << 16)
    values, special = decode(bits, "fp16")
    floats = bits.astype(np.uint16).view(np.float16).astype(np.float64)
    assert np.array_equal(special, ~np.isfinite(floats))
    assert np.array_equal(values[~special] * 2.0 ** -24, floats[~special])


def test_every_bf16_in_its_range():
    bits = np.arange(1 << 16)
    values, special = decode(bits, "bf16")
    with np.errstate(invalid="ignore"):
        floats = bfloat16(bits).astype(np.float64)
    assert np.array_equal(special, ~(np.abs(floats) < 2 ** 16))
    exact = ~special & ((np.abs(floats) >= 2.0 ** -25) | (floats == 0))
    assert np.array_equal(values[exact] * 2.0 ** -32, floats[exact])
    rest = ~special & ~exact
    assert np.array_equal(values[rest], np.trunc(floats[rest] * 2.0 ** 32))


def test_int8():
    values, special = decode(np.array([0, 1, 127, 128, 255]), "int8")
    assert values.tolist() == [0, 1, 127, -128, -1] and not special.any()


def test_encode_is_numpys_float16():
    rng = seeded()
    values = np.concatenate([rng.integers(-1 << 53, 1 << 53, 20000) >> rng.integers(0, 53, 20000), [0, 1, -1, 65504 << 24, 65519 << 24,
                             65520 << 24, -(65520 << 24), 3, 5, 1 << 52]])
    for unit in (-60, -48, -30, -24, 0):
        with np.errstate(over="ignore"):
            expected = np.ldexp(values.astype(np.float64), unit).astype(np.float16)
        assert np.array_equal(encode(values, unit, "fp16").astype(np.uint16).view(np.float16), expected)


def nearest_bf16(value: Fraction) -> int:
    """Brute force: of the two neighbours the nearer one, the even one on a tie."""
    if value < 0:
        return 1 << 15 | nearest_bf16(-value)
    low, high = 0, 0x7F80
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if Fraction(float(bfloat16(middle))) <= value else (low, middle)
    upper = Fraction(float(bfloat16(high))) if high < 0x7F80 else Fraction(2) ** 128
    below, above = value - Fraction(float(bfloat16(low))), upper - value
    return high if above < below or (above == below and low & 1) else low


@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_dot_products_are_exact_and_rounded_once(name):
    rng = seeded()
    form, length = FORMATS[name], 200
    x, w = (rng.integers(0, 1 << 16, (count, length)) for count in (5, 7))
    x, w = (np.where(decode(each, name)[1], 0x3C00, each) for each in (x, w))  # special ones are tested below
    (a, _), (b, _) = decode(x, name), decode(w, name)
    exact = a.astype(object) @ b.astype(object).T
    high, low = dot(a, b)
    assert np.array_equal(high.astype(object) * 2 ** SPLIT + low, exact)
    bits = round_sum(high, low, np.zeros(exact.shape, bool), name, 2 * form.low)
    for value, got in zip(exact.ravel(), bits.ravel(), strict=True):
        real = Fraction(int(value)) * Fraction(2) ** (2 * form.low)
        if name == "bf16":
            assert got == nearest_bf16(real)
        else:  # float64 holds 53 bits and would round twice: compare with both neighbours
            with np.errstate(over="ignore"):
                near = int(np.float16(float(real)).view(np.uint16))
            best = min((near - 1, near, near + 1), key=lambda each: (distance(each, real), each & 1))
            assert got == best


def distance(bits: int, real: Fraction) -> Fraction:
    value = np.array(bits & 0xFFFF, np.uint16).view(np.float16)
    largest = Fraction(65536)
    if np.isnan(value):
        return Fraction(1 << 60)
    return abs((largest if value > 0 else -largest) - real) if np.isinf(value) else abs(Fraction(float(value)) - real)


def test_special():
    assert round_sum(np.array([5]), np.array([0]), np.array([True]), "fp16", -48).tolist() == [0x7E00]
    assert np.isnan(np.array([FORMATS["fp16"].nan], np.uint16).view(np.float16))[0]
    assert np.isnan(bfloat16([FORMATS["bf16"].nan]))[0]


def test_sums_at_the_ends_of_the_integers():
    """-2**62 has 63 bits with its sticky bit, -2**63 none left for its magnitude."""
    for high in (-65, -64, -63, 63, 64, -(1 << 40), 1 << 40):
        value = Fraction(high) * Fraction(2) ** (SPLIT - 64)
        assert round_sum(np.array([high]), np.array([0]), np.array([False]), "bf16", -64).tolist() == [nearest_bf16(value)]
