"""Golden model of streaming attention as the hardware does it: one lane, one row at a time. Formats as in ``attention.py``."""

from collections.abc import Sequence

import numpy as np

from ...accelerators.config import AcceleratorConfig
from .attention import SHIFT_LIMIT, Partial, checked, finished, logits, query_scale, scaled_down, weights
from .exp import pow2_negative
from .numerics import Scalar

__all__ = ["LaneState", "attend_rows", "partial"]


class LaneState:
    """Running state of one lane, in the words of ``attention.py``.

    Parameters
    ----------
    phi : int or None
        Unified maximum, if the lane is to have one.

    Attributes
    ----------
    maximum, top : int or None
        Integer running maximum of the logits; largest V exponent so far.
    p, total : int
        Probability of the latest row; sum of probabilities.
    unified : bool
        The maximum is ``phi``, as it was from the first row on.
    missed, passed : bool
        The first row was out of the window; a later row was above ``phi``: the two fallbacks to a running maximum.
    """

    def __init__(self, config: AcceleratorConfig, phi: int | None = None):
        self.config, self.phi = config, phi
        self.maximum: int | None = None
        self.top: int | None = None
        self.p = self.total = 0
        self.unified = self.missed = self.passed = False

    def step(self, dot: int, query: tuple[int, int], key, value) -> tuple[int, int]:
        """``(w, shift)`` of a row: weight of its V vector and how far the weighted sums move down before."""
        frac = self.config.logit_frac_bits
        logit = int(logits(np.array([dot]), query, np.array([key]), self.config)[0])
        maximum = self._maximum(-(-logit >> frac))
        shift = 0 if self.maximum is None else maximum - self.maximum
        self.p = p = int(pow2_negative(np.int64((maximum << frac) - logit), self.config))
        self.maximum, self.total = maximum, int(scaled_down(self.total, shift)) + p
        mantissa, exponent = int(value[0]), int(value[1])
        if not mantissa:
            return 0, min(shift, SHIFT_LIMIT)
        top = exponent if self.top is None else max(self.top, exponent)
        shift += 0 if self.top is None else top - self.top
        self.top = top
        return int(weights(np.int64(p), mantissa, top - exponent, self.config)), min(shift, SHIFT_LIMIT)

    def _maximum(self, ceiling: int) -> int:
        """The maximum with a row of this ceiling; which fallback it is, if any."""
        if self.maximum is not None:
            self.passed |= self.unified and ceiling > self.maximum
            self.unified &= ceiling <= self.maximum
            return max(self.maximum, ceiling)
        if self.phi is None:
            return ceiling
        self.unified = self.phi - self.config.unified_window <= ceiling <= self.phi
        self.missed = not self.unified
        return self.phi if self.unified else ceiling

    def partial(self, acc: np.ndarray) -> Partial:
        """The state, with weighted sums ``acc``."""
        return Partial(self.maximum or 0, self.total, self.top or 0, self.top is not None, acc)


def partial(q, scale: Scalar, k, k_scales, v, v_scales, config: AcceleratorConfig, phi: int | None = None) -> Partial:
    """What a lane with query ``q`` has after the rows given; none are fine."""
    state, acc = LaneState(config, phi), np.zeros(len(q), np.int64)
    for row in range(len(k)):
        w, shift = state.step(int(k[row] @ q), query_scale(scale), k_scales[row], v_scales[row])
        acc = scaled_down(acc, shift) + w * v[row]
    return state.partial(acc)


def attend_rows(q, scales: Sequence[Scalar], limits, k, k_scales, v, v_scales, config: AcceleratorConfig, phi: int | None = None
                ) -> tuple[np.ndarray, np.ndarray]:
    """``attend``, lane by lane and row by row."""
    q, limits, k, k_scales, v, v_scales = checked(q, scales, limits, k, k_scales, v, v_scales, config)
    results = [finished(partial(each, scale, k[:limit], k_scales[:limit], v[:limit], v_scales[:limit], config, phi), config)
               for each, scale, limit in zip(q, scales, limits.tolist(), strict=True)]
    return np.stack([x for x, _ in results]), np.array([exponent for _, exponent in results], np.int64)
