"""Golden model of the sampler: greedy choice or top-k with temperature, bit-exact, integers only."""

import numpy as np

from ...accelerators.config import AcceleratorConfig
from .exp import pow2_negative
from .numerics import Scalar

__all__ = ["WARM_UP", "ZERO_SEED", "Sampler", "scaled_distance", "top_candidates", "xorshift32"]

WARM_UP = 8
"""Steps of the generator after a seed: without them the first draw of every small seed is almost 0."""

ZERO_SEED = 0xFFFF_FFFF
"""What seed 0 stands for: zero is the fixed point of xorshift."""


def xorshift32(state: int) -> int:
    """Next state of Marsaglia's generator (13, 17, 5); never 0 for a state that is not 0."""
    state ^= (state << 13) & 0xFFFF_FFFF
    state ^= state >> 17
    return state ^ ((state << 5) & 0xFFFF_FFFF)


def top_candidates(values: np.ndarray, k: int) -> np.ndarray:
    """Indices of the ``k`` largest values (all, if fewer), largest first; of equal ones the lower first."""
    values = np.asarray(values, dtype=np.int64)
    return np.argsort(-values, kind="stable")[:k]


def scaled_distance(distance: int, scale: Scalar, frac_bits: int) -> int:
    """``distance * scale`` in ``frac_bits`` fraction bits: floor, clamped to ``2**(frac_bits + 5) - 1``.

    Only the upper 18 bits of the mantissa count. A shift to the left clamps all but 0.
    """
    product = distance * (scale.mantissa >> 6)
    shift = -(scale.exponent + 6 + frac_bits)
    top = (1 << (frac_bits + 5)) - 1
    return min(product >> shift, top) if shift >= 0 else top * (product > 0)


class Sampler:
    """Chooses one token per logit vector and keeps the random state from token to token.

    Parameters
    ----------
    config : AcceleratorConfig
    seed : int
        32 bits. The state starts ``WARM_UP`` steps after the seed; 0 stands for ``ZERO_SEED``.
    """

    def __init__(self, config: AcceleratorConfig, seed: int = 1):
        self.config = config
        self.state = 0
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Restart the random state."""
        if not 0 <= seed < 1 << 32:
            raise ValueError(f"seed must be in 0..2**32 - 1, not {seed}")
        self.state = seed or ZERO_SEED
        for _ in range(WARM_UP):
            self.state = xorshift32(self.state)

    def sample(self, values: np.ndarray, *, greedy: bool = True, k: int = 1, scale: Scalar = Scalar(0, 0)
               ) -> tuple[int, int]:
        """``(token, largest value)`` of one logit vector.

        ``scale`` is the real value of one logit unit times log2(e) / temperature. A greedy choice leaves the
        random state alone.
        """
        values = np.asarray(values, dtype=np.int64)
        if values.ndim != 1 or not 1 <= len(values) <= self.config.max_vocab:
            raise ValueError(f"logits must be one vector of 1..{self.config.max_vocab} values, "
                             f"not of shape {values.shape}")
        if greedy:
            token = int(np.argmax(values))
            return token, int(values[token])
        if not 1 <= k <= self.config.top_k:
            raise ValueError(f"k must be in 1..{self.config.top_k}, not {k}")
        tokens = top_candidates(values, k)
        best = int(values[tokens[0]])
        fraction = self.config.logit_frac_bits
        distances = [scaled_distance(best - int(values[t]), scale, fraction) for t in tokens]
        cumulative = np.cumsum(pow2_negative(np.array(distances), self.config))
        self.state = xorshift32(self.state)
        threshold = (self.state * int(cumulative[-1])) >> 32
        return int(tokens[int(np.argmax(cumulative > threshold))]), best
