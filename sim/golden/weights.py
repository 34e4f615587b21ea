"""Golden model of the normalized attention weights of rows (``accelerators/attention/weights.py``).

From probabilities that are relative to the maximum at their row, as ``LaneState`` of ``attention.py`` has them: rescaling is a floor
shift, the reciprocal that of ``attention.finish``, and the weights of all lanes of a row add up.
"""

import numpy as np

from .attention import RECIPROCAL_BITS
from .numerics import round_shift

__all__ = ["attention_weights"]

CLEAR = 31


def attention_weights(p: np.ndarray, maxima: np.ndarray) -> np.ndarray:
    """Weight of each row, 16 fraction bits, of ``p`` and running maxima, both int ``[rows, lanes]``."""
    scaled = np.asarray(p, np.int64) >> np.minimum(maxima[-1] - maxima, CLEAR)
    weights = np.zeros(len(scaled), np.int64)
    for lane in scaled.T:
        total = int(lane.sum())
        if total:
            length = total.bit_length()
            reciprocal = min((1 << length + RECIPROCAL_BITS - 1) // total, (1 << RECIPROCAL_BITS) - 1)
            weights += round_shift(lane * reciprocal, length)
    return weights
