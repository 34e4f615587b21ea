"""Golden model of decode attention on the expert unit: bit-exact with the hardware.

Of a K/V head and its group of query heads, with ``E`` and ``R`` as in ``experts.py``::

    scores   = round_R(q @ k.T)
    p, weight = softmax(scores)                            E, and R per query head (expert_softmax.py)
    result   = round_R(p @ v.T)
    out      = round_R(out + weight * result)              out is 0 before

``v`` is V transposed. Of its rows the words with positions count; what the last one holds behind the last position meets p = 0, so it
must not be special.
"""

from dataclasses import dataclass

import numpy as np

from ...accelerators.experts.config import ExpertConfig
from ...accelerators.integers import ceil_div
from .expert_softmax import softmax
from .experts import UNIT, Scale, product, results_of
from .floats import multiply_add

__all__ = ["Attention", "attend", "no_attention"]


@dataclass(frozen=True)
class Attention:
    """``k`` [positions, head_dim] and ``v`` [head_dim, at least positions] as stored bits.

    ``softmax_scale``: of the scores' differences, log2(e) / sqrt(head_dim) in 25 fraction bits. ``scales``: of int8, of the scores and
    of what the mix gives.
    """

    k: np.ndarray
    v: np.ndarray
    softmax_scale: int
    scales: tuple[Scale, Scale] = (UNIT, UNIT)

    @property
    def positions(self) -> int:
        return len(self.k)


def no_attention(config: ExpertConfig) -> dict[str, int]:
    """What an item of the unit has of fields for attention, if it is an expert."""
    return {"attention": 0, "positions": 0, "softmax_scale": 0} if config.attention else {}


def attend(config: ExpertConfig, out: np.ndarray, q: np.ndarray, attention: Attention) -> np.ndarray:
    """``out`` [group, head_dim], bits of ``R``, with the attention of the query heads ``q`` [group, head_dim] added."""
    scores = product(q, attention.k, config.element, attention.scales[0])
    p, weight = softmax(config, scores.T, attention.softmax_scale)
    words = ceil_div(attention.positions, config.lanes)
    padded = np.zeros((len(q), words * config.lanes), np.int64)
    padded[:, :attention.positions] = p.T
    results = product(padded, attention.v[:, :padded.shape[1]], config.element, attention.scales[1])
    return multiply_add(out, np.repeat(weight[:, None], results.shape[1], axis=1), results, results_of(config))
