"""Golden model of ``2**-x``: piecewise linear by chords, bit-exact, integers only."""

from functools import lru_cache

import numpy as np

from ...accelerators.config import AcceleratorConfig
from .numerics import round_shift

__all__ = ["pow2_negative", "pow2_tables"]


@lru_cache
def pow2_tables(config: AcceleratorConfig) -> tuple[np.ndarray, np.ndarray]:
    """``(base, slope)`` of the ``exp_segments`` chords of ``2**-x`` over [0, 1).

    In ``B + 2`` fraction bits, ``B = probability_bits``:
    ``base[k] = round(2**(-k / S) * 2**(B + 2))``, ``slope[k] = base[k] - base[k + 1]``.
    """
    segments, bits = config.exp_segments, config.probability_bits + 2
    knots = np.array([round(2.0 ** (bits - k / segments)) for k in range(segments + 1)])
    return knots[:-1], knots[:-1] - knots[1:]


def pow2_negative(u, config: AcceleratorConfig):
    """``2**-u`` in ``probability_bits`` fraction bits (1.0 is ``2**probability_bits``).

    Parameters
    ----------
    u : int or int64 array, not negative
        In ``logit_frac_bits`` fraction bits.
    """
    u = np.asarray(u, dtype=np.int64)
    base, slope = pow2_tables(config)
    rest_bits = config.logit_frac_bits - (config.exp_segments.bit_length() - 1)
    fraction = u & ((1 << config.logit_frac_bits) - 1)
    segment, rest = fraction >> rest_bits, fraction & ((1 << rest_bits) - 1)
    y = base[segment] - round_shift(slope[segment] * rest, rest_bits)
    return round_shift(y, (u >> config.logit_frac_bits) + 2)
