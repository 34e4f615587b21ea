"""Golden models of what chooses cache rows: the largest scores; CacheBlend's deviation of values; ReKV's blocks.

Rows are elements and their scale as a record holds it, (mantissa, exponent), for each head. They are compared on a grid of steps of
``2**exponent``, one for a whole list.
"""

from collections.abc import Sequence

import numpy as np

from ...accelerators.config import AcceleratorConfig
from .elementwise import norm_quantize
from .numerics import Scalar, round_shift

__all__ = ["FACTOR_BITS", "SCORE_BITS", "SHARES", "block_mean", "block_scores", "compared_rows", "grid_exponent",
           "grid_factors", "share_count", "top_indices", "value_deviation"]

FACTOR_BITS = 17
SCORE_BITS = 48
SHARES = 256
COMPARED_BEATS = 64
TERM_BITS = 32


def top_indices(scores: Sequence[int], count: int) -> list[int]:
    """Numbers of the ``count`` largest, in rising order; of equal ones the earlier."""
    return sorted(sorted(range(len(scores)), key=lambda index: (-scores[index], index))[:count])


def compared_rows(config: AcceleratorConfig) -> int:
    """Rows of one cache that are read before the same ones of the other."""
    return max(1, COMPARED_BEATS // config.max_record_beats)


def share_count(length: int, share: int) -> int:
    """Tokens of a share, counted in 1 / 256 and rounded up."""
    return min(length, -(-length * share // SHARES))


def grid_exponent(scales: np.ndarray, kv_bits: int) -> int:
    """The finest steps on which none of the scales ``[..., 2]`` saturates."""
    scales = np.asarray(scales, np.int64).reshape(-1, 2)
    return int(scales[scales[:, 0] != 0, 1].max(initial=-(1 << 14))) + kv_bits - 1


def grid_factors(scales: np.ndarray, exponent: int, fraction: int) -> tuple[np.ndarray, np.ndarray]:
    """``(floor(scale / 2**(exponent - fraction)), at most 2**17 - 1; whether it was larger)`` of scales ``[..., 2]``."""
    scales = np.asarray(scales, np.int64)
    right = exponent - scales[..., 1] + 1 - fraction
    large = (right < 0) & (scales[..., 0] != 0)
    return np.where(large, (1 << FACTOR_BITS) - 1, (scales[..., 0] << 1) >> np.clip(right, 0, FACTOR_BITS)), large


def value_deviation(old: np.ndarray, old_scales: np.ndarray, new: np.ndarray, new_scales: np.ndarray, *, exponent: int,
                    kv_bits: int) -> tuple[list[int], bool]:
    """Scores of tokens, and whether a scale saturated: values ``[heads, tokens, head_dim]``, scales ``[heads, tokens, 2]``.

    Steps are ``round_shift(new * new_factor - old * old_factor, kv_bits)``; a score is the sum of their squares, at most 2**48 - 1.
    """
    (before, old_large), (after, new_large) = (grid_factors(scales, exponent, kv_bits) for scales in (old_scales, new_scales))
    difference = np.asarray(new, np.int64) * after[..., None] - np.asarray(old, np.int64) * before[..., None]
    steps = round_shift(difference, kv_bits)
    scores = (steps ** 2).sum(axis=(0, 2))
    return [min(int(score), (1 << SCORE_BITS) - 1) for score in scores], bool(old_large.any() or new_large.any())


def block_mean(rows: np.ndarray, scales: np.ndarray, *, exponent: int, kv_bits: int,
               block_size: int) -> tuple[np.ndarray, Scalar, bool]:
    """``(q, scale, whether a scale saturated)``: the mean of a block's keys or values ``[rows, head_dim]``, quantized.

    The sum of ``row * factor`` is exact (its low bits are dropped if it has more than 32); the division by the number of rows is a
    factor of the scale: 1 / rows to the nearest 24 bits.
    """
    factors, large = grid_factors(scales, exponent, kv_bits)
    sums = (np.asarray(rows, np.int64) * factors[:, None]).sum(axis=0)
    dropped = max(0, kv_bits + FACTOR_BITS + block_size.bit_length() - 1 - 32)
    share = Scalar.from_float(1 / len(rows)).shifted(exponent - kv_bits + dropped)
    q, scale = norm_quantize(sums >> dropped, np.ones(len(sums), np.int64), share, norm=False, wide=kv_bits == 16)
    return q, scale, bool(large.any())


def block_scores(queries: np.ndarray, query_scales: np.ndarray, keys: np.ndarray, key_scales: np.ndarray, *,
                 exponent: int) -> list[int]:
    """Sum over heads and lanes of ``query * key`` in steps: queries ``[heads, lanes, head_dim]`` with 24-bit scales, keys
    ``[heads, blocks, head_dim]`` with 16-bit ones.

    A term is ``round_shift(dot * round_shift(query_mantissa * key_mantissa, 15), exponent - exponents - 15)``, saturated to 32 bits; it
    saturates too where that shift would go left.
    """
    totals = [0] * np.shape(keys)[1]
    for head, head_keys in enumerate(np.asarray(keys, np.int64)):
        dots = head_keys @ np.asarray(queries[head], np.int64).T
        for block, lane in np.ndindex(*dots.shape):
            (query_mantissa, query_exponent), (mantissa, key_exponent) = query_scales[head][lane], key_scales[head][block]
            factor = (int(query_mantissa) >> 8) * int(mantissa) + (1 << 14) >> 15
            product, right = int(dots[block, lane]) * factor, exponent - int(query_exponent) - 8 - int(key_exponent) - 15
            limit = 1 << TERM_BITS - 1
            term = (product << 1 >> right) + 1 >> 1 if right >= 0 else np.sign(product) * limit
            totals[block] += int(max(-limit, min(limit - 1, term)))
    return totals
