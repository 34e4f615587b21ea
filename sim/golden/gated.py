"""Golden model of the gated activation ``SiLU(gate) * up``: bit-exact with the hardware, one rounding at the end.

With ``|gate| = s * 2**e`` of an integer ``s``, and ``t = exp(-|gate|) = 2**-u``::

    u       s * round(log2(e) * 2**25) * 2**e, truncated to 20 fraction bits, at most ``2**(exponent_bits + 1)``
    t       2**-whole * power, 1 <= power < 2: 256 chords of 2**x, 19 fraction bits
    r       1 / (1 + t): 512 chords, 20 fraction bits, at most 1 - 2**-20
    sigmoid(gate) = r where gate is positive, else t * r, whose power * r has 20 fraction bits

The sigmoid has a small *relative* error also where it is small. ``gate * up * sigmoid`` is a product of integers, rounded once.
"""

import numpy as np

from ...accelerators.experts.config import FORMATS, Format
from .floats import encode

__all__ = ["gated_activation"]

EXPONENT_BITS = 25
"""Fraction bits of log2(e)."""

U_BITS, POWER_BITS, SIGMOID_BITS = 20, 19, 20
POWER_SEGMENTS, RECIPROCAL_SEGMENTS = 256, 512

POWERS = np.array([round(2.0 ** (POWER_BITS + 1 + k / POWER_SEGMENTS)) for k in range(POWER_SEGMENTS + 1)])
RECIPROCALS = np.array([round((1 << SIGMOID_BITS) / (1 + k / RECIPROCAL_SEGMENTS)) - 1 for k in range(RECIPROCAL_SEGMENTS + 1)])


def gated_activation(gate: np.ndarray, up: np.ndarray, element: str, scale: tuple[int, int] = (1, 0)) -> tuple[np.ndarray, np.ndarray]:
    """``(value, special)``: bits of ``element`` and whether gate or up is infinite or no number; then the value is NaN, of int8 0.

    ``gate``, ``up``: bits of the result format. ``scale``: int8 only, the result's factor ``mantissa * 2**exponent``.
    """
    source = FORMATS["fp16" if element == "int8" else element]
    (s, e, negative, special), (s_up, e_up, negative_up, special_up) = _parts(gate, source), _parts(up, source)
    special = special | special_up
    whole, power = _power(s, e, source)
    t = np.where(whole == 0, (1 << POWER_BITS) - 1, power >> np.minimum(whole, 63))
    r = _chord(RECIPROCALS, t, POWER_BITS)
    factor = np.where(negative, power * r >> POWER_BITS, r)
    magnitude, unit = s * s_up * factor, e + e_up - SIGMOID_BITS - np.where(negative, whole, 0)
    if element == "int8":
        magnitude, unit = magnitude * scale[0], unit + scale[1]
    value = encode(np.where(negative ^ negative_up, -magnitude, magnitude), unit, element)
    return np.where(special, FORMATS[element].nan, value), special


def _parts(stored: np.ndarray, form: Format) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """``(s, e, negative, special)``: the magnitude is ``s * 2**e``."""
    bits = np.asarray(stored).astype(np.int64) & (1 << form.storage_bits) - 1
    exponent = bits >> form.fraction_bits & (1 << form.exponent_bits) - 1
    significand = bits & (1 << form.fraction_bits) - 1 | (exponent > 0).astype(np.int64) << form.fraction_bits
    return (significand, np.maximum(exponent, 1) - form.bias - form.fraction_bits, bits >> form.storage_bits - 1 != 0,
            exponent == (1 << form.exponent_bits) - 1)


def _power(s: np.ndarray, e: np.ndarray, form: Format) -> tuple[np.ndarray, np.ndarray]:
    """``(whole, power)``: ``exp(-s * 2**e)`` is ``2**-whole * power``."""
    whole_bits = form.exponent_bits + 1
    shift, most = EXPONENT_BITS - U_BITS - e, (1 << U_BITS + whole_bits) - 1
    u = s * round(1.4426950408889634 * 2 ** EXPONENT_BITS) >> np.clip(shift, 0, 63)
    u = np.where((e > whole_bits - form.fraction_bits) | (u > most), most, u)
    return u + (1 << U_BITS) - 1 >> U_BITS, _chord(POWERS, -u & (1 << U_BITS) - 1, U_BITS) >> 1


def _chord(knots: np.ndarray, x: np.ndarray, bits: int) -> np.ndarray:
    """Between the knots of [0, 1), at ``x`` of ``bits`` fraction bits, truncated."""
    rest_bits = bits - (len(knots) - 2).bit_length()
    segment, rest = x >> rest_bits, x & (1 << rest_bits) - 1
    return knots[segment] + ((knots[segment + 1] - knots[segment]) * rest >> rest_bits)
