"""Golden model of the softmax of decode attention on the expert unit: bit-exact, integers only.

Of each query lane, with x its scores as integers (``floats.py``) and m the largest::

    u        (m - x) * scale: differences and u truncated to 20 fraction bits, at most 2**16 and 2**7
    p        2**-u = 2**-whole * power (``chords.py``), rounded to an element; int8: 127 times that
    sum      of all 2**-u, each truncated to 32 fraction bits: ``2**n * (1 + t)``, t truncated to 19 fraction bits
    weight   reciprocal(t) * 2**-n, rounded to the result format: what the mix of values with p is multiplied with

A lane with a special score has NaN for its weight and all p (int8: p = 0).
"""

import numpy as np

from ...accelerators.experts.config import FORMATS, ExpertConfig
from .chords import POWER_BITS, RECIPROCAL_BITS, U_BITS, power, reciprocal
from .floats import decode, encode

__all__ = ["SCALE_BITS", "softmax"]

SCALE_BITS, SUM_BITS, FRACTION_BITS = 25, 32, 19
D_BITS, WHOLE_BITS = 36, 7


def softmax(config: ExpertConfig, scores: np.ndarray, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """``(p, weight)`` of scores ``[positions, lanes]``, bits of the result format: ``p`` of the same shape, a weight per lane.

    ``scale``: log2(e) / sqrt(head_dim) in ``SCALE_BITS`` fraction bits, at most ``2**26 - 1``.
    """
    name = "fp16" if config.element == "int8" else config.element
    values, special = decode(scores, name)
    bad = special.any(axis=0)
    values = np.where(bad, 0, values)
    d = np.minimum(values.max(axis=0) - values >> -FORMATS[name].low - U_BITS, (1 << D_BITS) - 1)
    # d * scale has 62 bits.
    whole, mantissa = power(np.minimum(d * scale >> SCALE_BITS, (1 << U_BITS + WHOLE_BITS) - 1))
    p = encode(mantissa * (127 if config.element == "int8" else 1), -POWER_BITS - whole, config.element)
    total = np.sum(mantissa << SUM_BITS - POWER_BITS >> np.minimum(whole, 63), axis=0)
    n = np.array([int(each).bit_length() - 1 for each in total])
    t = (total << 62 - n & (1 << 62) - 1) >> 62 - FRACTION_BITS
    weight = encode(reciprocal(t, FRACTION_BITS), SUM_BITS - n - RECIPROCAL_BITS, name)
    return np.where(bad, config.format.nan, p), np.where(bad, FORMATS[name].nan, weight)
