"""Golden model of powers of two, reciprocals and logarithms by chords: bit-exact, integers only.

``2**-u``, u in ``U_BITS`` fraction bits, is ``2**-whole * power``, ``1 <= power < 2`` in ``POWER_BITS`` fraction bits: 256 chords of
``2**x``. ``1 / (1 + t)`` has 512 chords and ``RECIPROCAL_BITS`` fraction bits, and is at most ``1 - 2**-RECIPROCAL_BITS``. Both have a
relative error below 5e-6 (``tests/sim/test_gated_golden.py``). ``log2`` of an integer has 512 chords and ``LOGARITHM_BITS`` fraction
bits, and is off by less than ``LOGARITHM_ERROR``.
"""

from math import log2

import numpy as np

__all__ = ["LOG2E", "LOG2E_BITS", "LOGARITHM_BITS", "LOGARITHM_ERROR", "POWER_BITS", "RECIPROCAL_BITS", "U_BITS", "logarithm", "power",
           "reciprocal"]

LOG2E_BITS = 25
LOG2E = round(1.4426950408889634 * 2 ** LOG2E_BITS)
U_BITS, POWER_BITS, RECIPROCAL_BITS, LOGARITHM_BITS = 20, 19, 20, 18

LOGARITHM_ERROR = 2.0 ** -17
"""More than a logarithm is off: half a step of each knot, a step where it is truncated, a chord's distance."""

POWERS = np.array([round(2.0 ** (POWER_BITS + 1 + k / 256)) for k in range(257)])
RECIPROCALS = np.array([round((1 << RECIPROCAL_BITS) / (1 + k / 512)) - 1 for k in range(513)])
LOGARITHMS = np.array([round(log2(1 + k / 512) * 2 ** LOGARITHM_BITS) for k in range(513)])


def power(u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``(whole, power)``."""
    u = np.asarray(u, np.int64)
    return u + (1 << U_BITS) - 1 >> U_BITS, _chord(POWERS, -u & (1 << U_BITS) - 1, U_BITS) >> 1


def reciprocal(t: np.ndarray, bits: int) -> np.ndarray:
    """Of ``1 + t``, t a fraction of ``bits`` bits."""
    return _chord(RECIPROCALS, np.asarray(t, np.int64), bits)


def logarithm(x: np.ndarray | int) -> np.ndarray:
    """To base 2, in ``LOGARITHM_BITS`` fraction bits; ``x`` from 1 to ``2**52``."""
    x = np.asarray(x, np.int64)
    whole = np.frexp(x)[1].astype(np.int64) - 1
    return (whole << LOGARITHM_BITS) + _chord(LOGARITHMS, (x << 52 - whole) & (1 << 52) - 1, 52)


def _chord(knots: np.ndarray, x: np.ndarray, bits: int) -> np.ndarray:
    """Between the knots of [0, 1), at ``x`` of ``bits`` fraction bits, truncated."""
    rest_bits = bits - (len(knots) - 2).bit_length()
    segment, rest = x >> rest_bits, x & (1 << rest_bits) - 1
    return knots[segment] + ((knots[segment + 1] - knots[segment]) * rest >> rest_bits)
