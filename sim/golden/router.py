"""Golden model of the router: the experts of a token and their weights, from its logits; bit-exact, integers only.

With x the logits as integers (``floats.py``), and m the largest::

    selected   the ``top_k`` largest, in falling order; of equal ones (+0 equals -0) the lower number first
    d          m - x in 20 fraction bits, truncated, at most 64 - 2**-20
    p          exp(-d) = 2**-whole * power (``chords.py``), ``u = d * log2(e)`` truncated to 20 fraction bits
    sum        of all p, each truncated to 24 fraction bits: ``2**n * (1 + t)``, t truncated to 19 fraction bits
    weight     power * reciprocal(t) * 2**-(whole + n), rounded once
"""

from collections.abc import Sequence

import numpy as np

from ...accelerators.experts.config import FORMATS, ExpertConfig
from ...accelerators.experts.errors import ExpertError
from .chords import LOG2E, LOG2E_BITS, POWER_BITS, RECIPROCAL_BITS, U_BITS, power, reciprocal
from .floats import decode, encode

__all__ = ["route"]

SUM_BITS = 24
FRACTION_BITS = 19
WHOLE_BITS = 6
"""Of a difference to the largest logit."""


def route(config: ExpertConfig, logits: Sequence[int]) -> tuple[list[tuple[int, int]], ExpertError]:
    """``([(expert, weight), ...], error)`` of a token; with an error there are no experts."""
    name = "fp16" if config.element == "int8" else config.element
    values, special = decode(np.array(logits), name)
    if special.any():
        return [], ExpertError.LOGIT
    if not config.top_k <= len(logits) <= config.experts:
        return [], ExpertError.LOGIT_COUNT
    top = 1 << FORMATS[name].storage_bits - 1
    sizes = [top - logit if logit >= top else logit for logit in logits]  # in the order of the numbers
    order = sorted(range(len(logits)), key=lambda expert: (-sizes[expert], expert))[:config.top_k]
    d = np.minimum(values[order[0]] - values[order] >> -FORMATS[name].low - U_BITS, (1 << U_BITS + WHOLE_BITS) - 1)
    whole, mantissa = power(d * LOG2E >> LOG2E_BITS)
    total = int(np.sum(mantissa << SUM_BITS - POWER_BITS >> np.minimum(whole, 63)))
    n = total.bit_length() - 1 - SUM_BITS
    t = (total << 3 - n & (1 << SUM_BITS + 3) - 1) >> SUM_BITS + 3 - FRACTION_BITS
    weights = encode(mantissa * reciprocal(np.array(t), FRACTION_BITS), -POWER_BITS - RECIPROCAL_BITS - whole - n, name)
    return list(zip(order, weights.tolist(), strict=True)), ExpertError.NONE
