"""Golden models of the elementwise units, bit-exact, integers only.

Vectors are int64 arrays; all functions but ``norm_quantize`` work along any leading axes. Scales are
``Scalar``. Values outside a unit's range raise ``ValueError``: the hardware would drop their upper bits.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from .numerics import MANTISSA_BITS, Scalar, bit_length, round_shift, saturate

__all__ = ["INVERSE_LEVELS", "RECIPROCAL_SHIFT", "align", "embed", "glu", "norm_quantize", "norm_quantize_rows",
           "residual_add", "rope", "sigmoid", "sigmoid_table", "truncate_magnitude"]

LEVELS = (127, 32767)
"""Largest ``|q|``, narrow and wide."""

RECIPROCAL_SHIFT = (42, 34)
"""Fraction bits of the reciprocal, narrow and wide: ``levels << shift`` has 49 bits in both cases."""

INVERSE_LEVELS = tuple(Scalar.from_float(1 / levels) for levels in LEVELS)

ACTIVATION_BITS = 17
"""Magnitude bits of gate and up inside ``glu``."""


def _check_range(name: str, value: np.ndarray, bits: int) -> np.ndarray:
    value = np.asarray(value, dtype=np.int64)
    if value.size and not -(1 << (bits - 1)) <= value.min() <= value.max() < 1 << (bits - 1):
        raise ValueError(f"{name} must fit {bits} bits, not {value.min()}..{value.max()}")
    return value


def truncate_magnitude(value, shift: int) -> np.ndarray:
    """``sign(value) * (|value| >> shift)``; ``<<`` for a negative shift."""
    value = np.asarray(value, dtype=np.int64)
    magnitude = np.abs(value)
    return np.sign(value) * (magnitude >> min(shift, 63) if shift >= 0 else magnitude << -shift)


def norm_quantize(x, gain, scale: Scalar, *, gain_exponent: int = 0, norm: bool = True, wide: bool = False,
                  inverse_length: Scalar = Scalar(0, 0), epsilon: Scalar = Scalar(0, 0)
                  ) -> tuple[np.ndarray, Scalar]:
    """Vector times gains, quantized by its largest magnitude: ``(q, real value of one step of q)``.

    Parameters
    ----------
    x : int32 vector; gain : int16 vector
        ``x * scale`` is the real vector, ``gain * 2**gain_exponent`` are the real gains.
    norm : bool
        Divide by the root of the mean square of the real vector (plus ``epsilon``): enters the step only.
    wide : bool
        Largest ``|q|`` 32767 instead of 127.
    inverse_length, epsilon : Scalar
        Of the norm: 1 / (number of elements, without padding).
    """
    x = np.asarray(x)
    if x.ndim != 1:
        raise ValueError(f"x and gain must be vectors of one length, not of shapes {x.shape} and {np.shape(gain)}")
    q, steps = norm_quantize_rows(x[None], gain, [scale], gain_exponent=gain_exponent, norm=norm, wide=wide,
                                  inverse_length=inverse_length, epsilon=epsilon)
    return q[0], steps[0]


def norm_quantize_rows(x, gain, scales: Sequence[Scalar], *, gain_exponent: int = 0, norm: bool = True, wide: bool = False,
                       inverse_length: Scalar = Scalar(0, 0), epsilon: Scalar = Scalar(0, 0)
                       ) -> tuple[np.ndarray, list[Scalar]]:
    """``norm_quantize`` of every row of ``x [rows, n]`` with its scale: ``(q [rows, n], steps)``."""
    x, gain = _check_range("x", x, 32), _check_range("gain", gain, 16)
    if x.shape[1:] != gain.shape:
        raise ValueError(f"x and gain must be vectors of one length, "
                         f"not of shapes {x.shape[1:]} and {gain.shape}")
    product = x * gain
    magnitude = np.abs(product)
    largest = magnitude.max(axis=1, initial=0)
    shift = bit_length(largest) - MANTISSA_BITS
    k = RECIPROCAL_SHIFT[wide]
    reciprocal = (LEVELS[wide] << k) // np.maximum(_shifted_down(largest, shift), 1)
    rounded = _shifted_down(magnitude, shift[:, None]) * reciprocal[:, None] + (1 << (k - 1)) >> k
    q = np.where(product < 0, -rounded, rounded)
    steps = [(Scalar.of(int(peak)) * scale) * INVERSE_LEVELS[wide] for peak, scale in zip(largest, scales, strict=True)]
    if norm:
        halvings = np.maximum(bit_length(np.abs(x).max(axis=1, initial=0)) - 16, 0)
        squares = (round_shift(x, halvings[:, None]) ** 2).sum(axis=1)
        for row, (scale, step) in enumerate(zip(scales, steps, strict=True)):
            mean = (Scalar.of(int(squares[row])) * inverse_length).shifted(2 * int(halvings[row]))
            steps[row] = step * ((mean * scale) * scale + epsilon).rsqrt()
    return q, [step.shifted(gain_exponent) for step in steps]


def _shifted_down(magnitude: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """``magnitude >> shift``; ``<<`` where the shift is negative."""
    return (magnitude << np.maximum(-shift, 0)) >> np.maximum(shift, 0)


def rope(low, high, cos, sin) -> tuple[np.ndarray, np.ndarray]:
    """Rotate pairs (``low``, ``high``); ``cos``, ``sin`` in Q1.14; the result has 6 more fraction bits."""
    low, high = np.asarray(low, dtype=np.int64), np.asarray(high, dtype=np.int64)
    cos, sin = _check_range("cos", cos, 16), _check_range("sin", sin, 16)
    rotated = round_shift(low * cos - high * sin, 8), round_shift(high * cos + low * sin, 8)
    return _check_range("rotated", rotated[0], 32), _check_range("rotated", rotated[1], 32)


def residual_add(sums, residual, scale: Scalar) -> tuple[np.ndarray, int]:
    """``(residual + sums * scale, rounded and saturated to int32; number of clamped elements)``.

    ``scale`` is the real value of one unit of ``sums`` in units of the residual. With a positive exponent
    every element whose product is not 0 saturates.
    """
    residual = _check_range("residual", residual, 32)
    product = _check_range("sums", sums, 32) * scale.mantissa
    term = round_shift(product, -scale.exponent) if scale.exponent <= 0 else np.sign(product) << 33
    return saturate(residual + term, 32)


@lru_cache
def sigmoid_table() -> np.ndarray:
    """``1 / (1 + exp(-k / 32))`` for k = 0..512 in 17 fraction bits."""
    return np.array([round((1 << 17) / (1 + float(np.exp(-k / 32)))) for k in range(513)])


def sigmoid(z) -> np.ndarray:
    """Logistic function of ``z >= 0`` (16 fraction bits, clamped to 16) in 17 fraction bits."""
    z = np.minimum(np.asarray(z, dtype=np.int64), (1 << 20) - 1)
    table, k = sigmoid_table(), z >> 11
    return table[k] + (((table[k + 1] - table[k]) * (z & 2047)) >> 11)


def glu(gate, up, *, silu: bool, gate_bits: int, up_bits: int, scale: Scalar = Scalar(0, 0)) -> np.ndarray:
    """``activation(gate) * up`` with gate and up normalized to 17 bits, as int32.

    The result is ``g**2 * u * 2**-20`` or ``g * sigmoid(gate * scale) * u * 2**-3``, where
    ``g = gate * 2**(17 - gate_bits)`` and ``u = up * 2**(17 - up_bits)``.

    Parameters
    ----------
    gate_bits, up_bits : int
        Bit lengths of the largest magnitudes.
    scale : Scalar
        Real value of one gate unit (silu only).
    """
    for name, value, bits in (("gate", gate, gate_bits), ("up", up, up_bits)):
        if int(bit_length(int(np.abs(np.asarray(value, dtype=np.int64)).max(initial=0)))) > bits:
            raise ValueError(f"{name} must have magnitudes of at most {name}_bits = {bits} bits")
    g = truncate_magnitude(gate, gate_bits - ACTIVATION_BITS)
    u = truncate_magnitude(up, up_bits - ACTIVATION_BITS)
    if silu:
        product = np.abs(g) * (scale.mantissa >> 6)
        shift = -(gate_bits + scale.exponent + 5)
        z = product >> min(shift, 63) if shift >= 0 else np.where(product > 0, (1 << 20) - 1, 0)
        sigma = sigmoid(z)
        t = g * np.where(g < 0, (1 << 17) - sigma, sigma)
    else:
        t = np.maximum(g, 0) ** 2
    return round_shift(t * u, 20)


def align(x, shift) -> np.ndarray:
    """``x / 2**shift``, rounded; ``shift`` (0..63) broadcasts against ``x``."""
    return round_shift(_check_range("x", x, 32), shift)


def embed(row, shift: int) -> tuple[np.ndarray, int]:
    """``(row * 2**shift, rounded, saturated to int32; number of clamped elements)``, ``shift`` in -32..31."""
    if not -32 <= shift <= 31:
        raise ValueError(f"shift must be in -32..31, not {shift}")
    return saturate(round_shift(_check_range("row", row, 32), -shift), 32)
