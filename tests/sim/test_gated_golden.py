"""Gated activation and weighted combine of the experts: against float64 and exact rational arithmetic, with their stated errors."""

import random
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from llmrtl.accelerators.experts.config import FORMATS
from llmrtl.sim.golden.floats import decode, encode, multiply_add
from llmrtl.sim.golden.gated import gated_activation

LIMIT = {"fp16": 0.51, "bf16": 0.501}
"""Units in the last place; stated in accelerators/experts/activation.py and docs/experts-routing.md."""


def seeded():
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    return np.random.default_rng(seed)


def floats(bits, name):
    bits = np.asarray(bits)
    if name == "fp16":
        return bits.astype(np.uint16).view(np.float16).astype(np.float64)
    with np.errstate(invalid="ignore"):
        return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def test_the_page_states_these_errors():
    page = (Path(__file__).parents[2] / "docs" / "experts-routing.md").read_text()
    assert f"every gate | {LIMIT['fp16']} ulp | {LIMIT['bf16']} ulp |" in page


def exact(gate, up):
    with np.errstate(over="ignore", invalid="ignore"):
        return gate * up / (1 + np.exp(-gate))


@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_every_gate_is_within_the_stated_error(name):
    rng, form = seeded(), FORMATS[name]
    gate = np.arange(1 << 16)
    largest = 2.0 ** (form.bias + 1) * (1 - 2.0 ** -(form.fraction_bits + 2))
    for up in (np.full(1 << 16, form.bias << form.fraction_bits), *rng.integers(0, 1 << 16, (6, 1 << 16))):
        value, special = gated_activation(gate, up, name)
        assert np.array_equal(special, ~np.isfinite(floats(gate, name)) | ~np.isfinite(floats(up, name)))
        assert (value[special] == form.nan).all()
        real, got = exact(floats(gate, name), floats(up, name)), floats(value, name)
        inside, beyond = ~special & (np.abs(real) < largest * (1 - 1e-5)), ~special & (np.abs(real) > largest * (1 + 1e-5))
        assert np.isinf(got[beyond]).all()
        real, got = real[inside], got[inside]
        exponent = np.maximum(np.floor(np.log2(np.maximum(np.abs(real), 1e-300))), 1 - form.bias)
        assert np.max(np.abs(got - real) * 2.0 ** (form.fraction_bits - exponent)) < LIMIT[name]


def test_int8():
    rng = seeded()
    gate, up = rng.integers(0, 1 << 16, (2, 1 << 16))
    gate, up = (np.where(decode(each, "fp16")[1], 0, each) for each in (gate, up))
    for mantissa, exponent in ((65535, -16), (40000, -12), (33333, -25)):
        value, _ = gated_activation(gate, up, "int8", (mantissa, exponent))
        real = exact(floats(gate, "fp16"), floats(up, "fp16")) * mantissa * 2.0 ** exponent
        error = np.abs((value ^ 128) - 128 - np.clip(real, -127, 127))
        assert np.max(error) < 0.501
    value, special = gated_activation(np.array([0x7C00, 0x3C00, 0x3C00]), np.array([0x3C00, 0x7E00, 0x3C00]), "int8", (1, 6))
    assert value.tolist() == [0, 0, round(64 * exact(1, 1))] and special.tolist() == [True, True, False]


@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_combine_is_rounded_once(name):
    rng, form = seeded(), FORMATS[name]
    old, weight, value = rng.integers(0, 1 << 16, (3, 3000))
    # Most of them near each other in size, so that all three count.
    near = [rng.integers(form.bias - 3, form.bias + 3, 3000) << form.fraction_bits | rng.integers(0, 2, 3000) << 15
            | rng.integers(0, 1 << form.fraction_bits, 3000) for _ in range(3)]
    old, weight, value = (np.where(np.arange(3000) % 4 > 0, a, b) for a, b in zip(near, (old, weight, value), strict=True))
    parts = [decode(each, name) for each in (old, weight, value)]
    special = np.any([flag for _, flag in parts], axis=0)
    got = multiply_add(old, weight, value, name)
    assert (got[special] == form.nan).all()
    for at in np.flatnonzero(~special):
        c, a, b = (Fraction(int(integers[at])) * Fraction(2) ** form.low for integers, _ in parts)
        assert got[at] == nearest(c + a * b, name), (old[at], weight[at], value[at])


def nearest(value: Fraction, name: str) -> int:
    """By bisection over all magnitudes: the nearer neighbour, the even one on a tie."""
    form = FORMATS[name]
    if value <= 0:
        return 0 if value == 0 else 1 << 15 | nearest(-value, name)
    low, high = 0, form.infinity

    def real(bits: int) -> Fraction:
        return Fraction(float(floats([bits], name)[0])) if bits < form.infinity else Fraction(2) ** (form.bias + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if real(middle) <= value else (low, middle)
    below, above = value - real(low), real(high) - value
    return high if above < below or (above == below and low & 1) else low


def test_int8_encoding_saturates():
    values = np.array([126, 127, 128, -127, -128, -300, 255, 253, 1, 0])
    assert ((encode(values, 0, "int8") ^ 128) - 128).tolist() == [126, 127, 127, -127, -127, -127, 127, 127, 1, 0]
    assert ((encode(values, -1, "int8") ^ 128) - 128).tolist() == [63, 64, 64, -64, -64, -127, 127, 126, 0, 0]
    assert ((encode(np.array([1, -1]), 6, "int8") ^ 128) - 128).tolist() == [64, -64]
