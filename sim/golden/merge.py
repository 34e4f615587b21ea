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

import numpy as np

from .attention import Partial, scaled_down

__all__ = ["merge"]


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
