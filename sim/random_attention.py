"""Random decode attention of a K/V head, as stored bits and as the real numbers they stand for."""

from dataclasses import dataclass
from math import e, log2

import numpy as np

from ..accelerators.experts.config import ExpertConfig
from ..accelerators.integers import ceil_div
from .golden.expert_attention import Attention
from .golden.expert_softmax import SCALE_BITS
from .random_layer import real, scale_of, stored

__all__ = ["RandomAttention", "random_attention", "softmax_scale"]


def softmax_scale(head_dim: int) -> int:
    """``log2(e) / sqrt(head_dim)`` in ``SCALE_BITS`` fraction bits."""
    return round(log2(e) / head_dim ** 0.5 * (1 << SCALE_BITS))


@dataclass(frozen=True)
class RandomAttention:
    """``q`` [group, head_dim] and what it attends to; the real numbers are the stored ones times these factors."""

    q: np.ndarray
    attention: Attention
    q_scale: float
    k_scale: float
    v_scale: float

    def truth(self, config: ExpertConfig) -> np.ndarray:
        """In float64, from the stored bits."""
        positions = self.attention.positions
        q, k = real(self.q, config.element) * self.q_scale, real(self.attention.k, config.element) * self.k_scale
        v = real(self.attention.v[:, :positions], config.element) * self.v_scale
        logits = q @ k.T / q.shape[1] ** 0.5
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        return p / p.sum(axis=1, keepdims=True) @ v.T


def random_attention(config: ExpertConfig, rng: np.random.Generator, q: np.ndarray, q_scale: float, positions: int, *,
                     capacity: int | None = None, spread: float = 1.0) -> RandomAttention:
    """Normal K and V for the stored queries ``q``; logits have a deviation of about ``spread`` if the queries have one of 1.

    Rows of V have room for ``capacity`` positions, or as many as make whole words; what is there behind ``positions`` is noise.
    """
    words = ceil_div(positions if capacity is None else capacity, config.lanes)
    k, v = rng.standard_normal((positions, q.shape[1])) * spread, rng.standard_normal((q.shape[1], words * config.lanes))
    units = [float(np.abs(each).max()) / 127 if config.element == "int8" else 1.0 for each in (k, v)]
    scales = ((scale_of(q_scale * units[0]), scale_of(units[1] / 127)),) if config.element == "int8" else ()
    made = Attention(stored(k / units[0], config.element), stored(v / units[1], config.element), softmax_scale(q.shape[1]), *scales)
    return RandomAttention(q, made, q_scale, *units)
