"""Golden model of the merge of partial attention results (FlashAttention-2, arXiv:2307.08691, section 3.1; split-K; TokenRing,
arXiv:2412.20501), in the number formats of ``attention.py``.

Of two parts with maxima ``m``, sums ``l``, V exponents ``t`` and weighted sums ``acc``; a part that saw no row has ``l = 0``, one
that saw no V scale has ``acc = 0`` and no ``t``::

    m = max(m_a, m_b)                     of the parts that saw a row
    l = (l_a >> m - m_a) + (l_b >> m - m_b)                            a shift of 32 or more gives 0
    t = max(t_a, t_b)                     of the parts that saw a V scale
    acc_i = (acc_ai >> m - m_a + t - t_a) + (acc_bi >> m - m_b + t - t_b)       arithmetic shift, 32 or more gives 0

Widths are those of one attention over the rows of both parts, as long as these are at most ``max_context``.
"""

from dataclasses import dataclass

import numpy as np

from ...accelerators.config import AcceleratorConfig
from .attention import NO_VALUE_EXPONENT, LaneState, finish, query_scale, scaled_down
from .numerics import Scalar

__all__ = ["Partial", "finished", "merge", "partial"]


@dataclass(frozen=True)
class Partial:
    """State of one lane behind some of its rows.

    Members
    -------
    maximum, total, exponent : int
        Integer maximum of the logits, sum of probabilities, V exponent; 0 where there is none.
    defined : bool
        A V scale was seen.
    acc : int64 [head_dim]
    """

    maximum: int
    total: int
    exponent: int
    defined: bool
    acc: np.ndarray


def partial(q, scale: Scalar, k, k_scales, v, v_scales, config: AcceleratorConfig) -> Partial:
    """What a lane with query ``q`` has after the rows given; none are fine."""
    state, acc = LaneState(config), np.zeros(len(q), np.int64)
    for row in range(len(k)):
        w, shift = state.step(int(k[row] @ q), query_scale(scale), k_scales[row], v_scales[row])
        acc = scaled_down(acc, shift) + w * v[row]
    return Partial(state.maximum or 0, state.total, state.top or 0, state.top is not None, acc)


def merge(a: Partial, b: Partial) -> Partial:
    """Both parts; the order of the two does not matter."""
    maximum = max((part.maximum for part in (a, b) if part.total), default=0)
    exponent = max((part.exponent for part in (a, b) if part.defined), default=0)
    total, acc = 0, np.zeros_like(a.acc)
    for part in (a, b):
        if part.total:
            total += int(scaled_down(np.int64(part.total), maximum - part.maximum))
        if part.defined:
            acc = acc + scaled_down(part.acc, maximum - part.maximum + exponent - part.exponent)
    return Partial(maximum, total, exponent, a.defined or b.defined, acc)


def finished(part: Partial, config: AcceleratorConfig) -> tuple[np.ndarray, int]:
    """``(x, exponent)`` as ``attend`` gives them."""
    if not part.defined:
        return np.zeros_like(part.acc), NO_VALUE_EXPONENT
    return finish(part.acc, part.total, part.exponent, config)
