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
from .chords import LOG2E, LOG2E_BITS, POWER_BITS, RECIPROCAL_BITS, U_BITS, power, reciprocal
from .floats import encode

__all__ = ["gated_activation"]


def gated_activation(gate: np.ndarray, up: np.ndarray, element: str, scale: tuple[int, int] = (1, 0)) -> tuple[np.ndarray, np.ndarray]:
    """``(value, special)``: bits of ``element`` and whether gate or up is infinite or no number; then the value is NaN, of int8 0.

    ``gate``, ``up``: bits of the result format. ``scale``: int8 only, the result's factor ``mantissa * 2**exponent``.
    """
    source = FORMATS["fp16" if element == "int8" else element]
    (s, e, negative, special), (s_up, e_up, negative_up, special_up) = _parts(gate, source), _parts(up, source)
    special = special | special_up
    whole, mantissa = _exponential(s, e, source)
    t = np.where(whole == 0, (1 << POWER_BITS) - 1, mantissa >> np.minimum(whole, 63))
    r = reciprocal(t, POWER_BITS)
    factor = np.where(negative, mantissa * r >> POWER_BITS, r)
    magnitude, unit = s * s_up * factor, e + e_up - RECIPROCAL_BITS - np.where(negative, whole, 0)
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


def _exponential(s: np.ndarray, e: np.ndarray, form: Format) -> tuple[np.ndarray, np.ndarray]:
    """``(whole, power)``: ``exp(-s * 2**e)`` is ``2**-whole * power``."""
    whole_bits = form.exponent_bits + 1
    shift, most = LOG2E_BITS - U_BITS - e, (1 << U_BITS + whole_bits) - 1
    u = s * LOG2E >> np.clip(shift, 0, 63)
    u = np.where((e > whole_bits - form.fraction_bits) | (u > most), most, u)
    return power(u)
