"""Error tables of the elementwise units: golden model against float64 and exact rationals.

``python -m llmrtl.sim.approximation`` prints the tables; ``tests/sim/test_approximation.py`` checks every
row against its bound.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .golden.elementwise import LEVELS, glu, norm_quantize, residual_add, rope, sigmoid
from .golden.numerics import MANTISSA_BITS, Scalar

__all__ = ["ErrorRow", "error_rows"]

TOP = 1 << (MANTISSA_BITS - 1)


@dataclass(frozen=True)
class ErrorRow:
    """One line of an error table.

    Attributes
    ----------
    unit, quantity, where : str
        What is measured, in which unit, on which operands.
    worst, rms : float
        Largest and root-mean-square error.
    bound : float
        ``worst`` is never above it.
    """

    unit: str
    quantity: str
    where: str
    worst: float
    rms: float
    bound: float


def _row(unit: str, quantity: str, where: str, errors: np.ndarray, bound: float) -> ErrorRow:
    errors = np.abs(np.asarray(errors, dtype=np.float64))
    return ErrorRow(unit, quantity, where, float(errors.max()), float(np.sqrt(np.mean(errors ** 2))), bound)


def _scalar_rows(rng: np.random.Generator) -> Iterator[ErrorRow]:
    """Relative errors: one truncation is below ``2**-23``."""
    count = 4000
    mantissas = rng.integers(TOP, 2 * TOP, (2, count))
    mantissas[:, :3] = TOP, 2 * TOP - 1, TOP + 1
    exponents = rng.integers(-30, 30, (2, count))
    a, b = ([Scalar(int(m), int(e)) for m, e in zip(*pair, strict=True)]
            for pair in zip(mantissas, exponents, strict=True))
    operations: list[tuple[str, Callable[[Any, Any], Any], Callable[[float, float], float], float]] = [
        ("multiply", lambda x, y: x * y, lambda x, y: x * y, 2.0 ** -23),
        ("add", lambda x, y: x + y, lambda x, y: x + y, 2.0 ** -22),
        ("reciprocal", lambda x, y: x.reciprocal(), lambda x, y: 1 / x, 2.0 ** -23),
        ("rsqrt", lambda x, y: x.rsqrt(), lambda x, y: x ** -0.5, 2.0 ** -22),
    ]
    for name, approximate, exact, bound in operations:
        errors = [float(approximate(x, y)) / exact(float(x), float(y)) - 1 for x, y in zip(a, b, strict=True)]
        yield _row("scalar_unit", "relative", name, np.array(errors), bound)


def _sigmoid_rows() -> Iterator[ErrorRow]:
    """Chord (1.2e-5), rounded table (3.8e-6), truncated interpolation (7.6e-6); every z up to 64."""
    for low, high in ((0, 1), (1, 2), (2, 4), (4, 8), (8, 16), (16, 64)):
        z = np.arange(low << 16, high << 16)
        yield _row("glu", "sigmoid, absolute", f"z in {low}..{high}",
                   sigmoid(z) / 2.0 ** 17 - 1 / (1 + np.exp(-z / 2.0 ** 16)), 2.4e-5)


def _glu_rows(rng: np.random.Generator) -> Iterator[ErrorRow]:
    """Relative to the largest possible magnitude of the product; gate and up in 17 bits each."""
    gate, up = (np.rint(rng.standard_normal(20000) * 20000).astype(np.int64) for _ in range(2))
    gate, up = gate * 10 + 3, up * 10 - 3  # 20 bits: some are truncated
    bits = [int(np.abs(x).max()).bit_length() for x in (gate, up)]
    unit = 2.0 ** (bits[0] + bits[1])
    for silu, spread in ((False, 1.0), (True, 0.5), (True, 2.0), (True, 8.0)):
        scale = Scalar.from_float(spread / 200000)
        y = glu(gate, up, silu=silu, gate_bits=bits[0], up_bits=bits[1], scale=scale)
        if silu:
            exact = gate / (1 + np.exp(-gate * float(scale))) * up
            errors = y * 2.0 ** (sum(bits) - 31) / unit - exact / unit
            yield _row("glu", "silu, of full scale", f"gate deviation {spread}", errors, 5e-5)
        else:
            unit2 = unit * 2.0 ** bits[0]
            errors = y * 2.0 ** (sum(bits) + bits[0] - 31) / unit2 - np.maximum(gate, 0.0) ** 2 * up / unit2
            yield _row("glu", "relu2, of full scale", "gate deviation 1", errors, 5e-5)


def _quantize_once(rng: np.random.Generator, norm: bool, wide: bool) -> tuple[int, np.ndarray, float]:
    """Of one random vector: its size, distances from a tie of the flipped q, relative error of the step."""
    size = int(rng.integers(4, 2048))
    x = np.rint(rng.standard_normal(size) * 2.0 ** rng.integers(4, 28)).astype(np.int64)
    x[0] |= 1
    gain = rng.integers(1 << 10, 1 << 15, size)
    scale, epsilon = Scalar.from_float(2.0 ** -20 / 3), Scalar.from_float(1e-6)
    q, step = norm_quantize(x, gain, scale, norm=norm, wide=wide, inverse_length=Scalar.from_float(1 / size),
                            epsilon=epsilon)
    products = x * gain
    largest, levels = int(np.abs(products).max()), LEVELS[wide]
    flipped = q != np.sign(products) * ((2 * levels * np.abs(products) + largest) // (2 * largest))
    true_step = largest * float(scale) / levels
    if norm:
        true_step /= np.sqrt(np.mean((x * float(scale)) ** 2) + float(epsilon))
    return size, np.abs(np.abs(products[flipped]) * levels / largest % 1 - 0.5), float(step) / true_step - 1


def _quantize_rows(rng: np.random.Generator) -> Iterator[ErrorRow]:
    """Flips against exact rational rounding, how near to a tie they were, and the step's relative error."""
    for wide in (False, True):
        for norm in (False, True):
            sizes, ties, steps = zip(*(_quantize_once(rng, norm, wide) for _ in range(40)), strict=True)
            where = f"{LEVELS[wide]} levels{', norm' if norm else ''}"
            if not norm:
                near = np.concatenate([*ties, np.zeros(1)])
                share = (near.size - 1) / sum(sizes)
                yield ErrorRow("norm_quantize", "flipped q, share", where, share, share,
                               1e-2 if wide else 5e-5)
                yield _row("norm_quantize", "distance of flipped q from a tie", where, near,
                           5e-3 if wide else 2e-5)
            yield _row("norm_quantize", "step, relative", where, np.array(steps), 1e-5 if norm else 6e-7)


def _rope_rows(rng: np.random.Generator) -> Iterator[ErrorRow]:
    """In units of the input: half a step of 1/64, and the table's rounding (``2**-15`` of each element)."""
    for magnitude in (1 << 8, 1 << 12, 1 << 17):
        low, high = rng.integers(-magnitude, magnitude + 1, (2, 20000))
        angles = rng.uniform(0, 2 * np.pi, low.size)
        cos, sin = (np.rint(f(angles) * (1 << 14)).astype(np.int64) for f in (np.cos, np.sin))
        rotated = rope(low, high, cos, sin)
        exact = low * np.cos(angles) - high * np.sin(angles), high * np.cos(angles) + low * np.sin(angles)
        errors = np.concatenate([r / 64 - e for r, e in zip(rotated, exact, strict=True)])
        yield _row("rope", "absolute, units of the input", f"magnitudes to {magnitude}", errors,
                   1 / 128 + 2 * magnitude * 2.0 ** -15)


def _residual_rows(rng: np.random.Generator) -> Iterator[ErrorRow]:
    """Half a step of the residual: the scale itself is exact here."""
    for exponent in (-40, -30, -24):
        sums, residual = rng.integers(-(1 << 17), 1 << 17, 20000), rng.integers(-(1 << 29), 1 << 29, 20000)
        scale = Scalar(int(rng.integers(TOP, 2 * TOP)), exponent)
        x, _ = residual_add(sums, residual, scale)
        exact = np.clip(residual + sums * float(scale), -(2.0 ** 31), 2.0 ** 31 - 1)
        yield _row("residual_add", "absolute, steps", f"scale exponent {exponent}", x - exact, 0.5)


def error_rows(seed: int = 0) -> list[ErrorRow]:
    """All tables."""
    rng = np.random.default_rng(seed)
    return [*_scalar_rows(rng), *_sigmoid_rows(), *_glu_rows(rng), *_quantize_rows(rng), *_rope_rows(rng),
            *_residual_rows(rng)]


if __name__ == "__main__":
    for row in error_rows():
        print(f"{row.unit:14} {row.quantity:34} {row.where:22} worst {row.worst:.2e}  rms {row.rms:.2e}  "
              f"bound {row.bound:.2e}")
