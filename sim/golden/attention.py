"""Golden model of streaming attention: online softmax in fixed point, bit-exact, integers only. ``lanes.py`` walks the rows one by one.

FlashAttention-2's recurrence (arXiv:2307.08691, section 3.1) with ITA's integer twist (arXiv:2307.03493):
base-2 logits and an *integer* running maximum, so that every rescale is a shift. Per lane and visible row:

    dot    = sum q_i k_i
    c      = round_shift((qs.mantissa >> 8) * ks.mantissa, 15)                        17 bits
    logit  = saturate(round_shift(dot * c, -(qs.exponent + ks.exponent + 23 + F)))    F + 12 bits
    m'     = max(m, ceil(logit / 2**F))                                               first row: the ceil
    p      = pow2_negative((m' << F) - logit)                                         B fraction bits
    l      = (l >> d) + p                                     d = m' - m; a shift of 32 or more gives 0
    t'     = max(t, vs.exponent)        first row with a V scale: its exponent; row without one: unchanged
    w      = round_shift(p * vs.mantissa, 16 + t' - vs.exponent)           0 for a row without V scale
    w      = round_shift(w, D) << D        so that 17-bit factors suffice, in three ranges with C = (B - 16) // 2 + 1:
                                           D = 0 if w < 2**17, else C if w < 2**(16 + C), else B - 16
    acc_i  = (acc_i >> (d + t' - t)) + w * v_i         arithmetic shift, 32 or more gives 0; 0 before t exists

and at the end, with ``lb = bit_length(l)``, ``A = B + kv_bits + bit_length(max_context)``,
``pre = max(0, A + 1 - 35)``, ``post = max(0, A + 1 - pre - 15)``:

    R      = min(2**(lb + 16) // l, 2**17 - 1)
    x_i    = round_shift(((acc_i << A - kv_bits - lb) >> pre) * R, post)         value x * 2**e,  e = t + pre + post - (A - kv_bits)

A lane that saw no V scale gives x = 0 and e = ``NO_VALUE_EXPONENT``.

With ``attention_modes`` a lane's maximum may be *unified* (FlashDecoding++, arXiv:2311.01282, section 3): if the ceil of its first
row lies in ``phi - W .. phi`` (W = ``unified_window`` = B - 23), ``m`` begins as ``phi`` instead; a later row above ``phi`` moves it
on as ever.

Widths (proofs). ``|dot| <= 2**(2 kv_bits - 2) * head_dim <= 2**40`` and ``c < 2**17``: products stay below
2**57. ``p <= 2**B`` and, as ``vs.mantissa < 2**16`` and ``t' >= vs.exponent``, ``w <= 2**B``: so
``|acc| <= 2**(kv_bits-1) * max_context * 2**B`` fits A bits (at most 57, which the configuration checks). For
the result: ``w <= f * p`` with ``f = 1 + 2**-12`` (half a step of ``2**C`` on at least 2**17; of ``2**(B - 16)``, B at
most 26, on at least ``2**(16 + C)``), hence ``|acc| <= f * 2**(kv_bits-1) * (l + 1) + 2`` after each row: a floor shift by s of both
sides keeps it, as ``(l + 1) / 2**s <= (l >> s) + 1``. At the end ``l >= 2**(B-1)``: the row that set ``m``
has ``p >= 2**(B-1)``; below a unified maximum the first row has ``p >= 2**(B-1-W) = 2**22``. ``R`` has exactly
17 bits; sums that are normalized stay below ``2**(A-1) * (1 + 2**-11)``, so ``|(acc << A - kv_bits - lb >> pre) * R| < 2**51`` and
``|x| <= 2**30 * (1 + 2**-11) + 2 < 2**31``. What a shift of 32 or more loses is below ``rows / 2**32`` of
what follows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ...accelerators.config import AcceleratorConfig
from .exp import pow2_negative
from .numerics import Scalar, round_shift

__all__ = ["FACTOR_BITS", "NO_VALUE_EXPONENT", "RECIPROCAL_BITS", "SHIFT_LIMIT", "WEIGHT_BITS", "Partial", "Rows",
           "all_finished", "attend", "attend_parts", "attend_runs", "checked", "final_shifts", "finish", "finished", "logits",
           "probabilities", "query_scale", "scaled_down", "weight_drops", "weight_range", "weights"]

NO_VALUE_EXPONENT = -1024
"""Exponent of a lane whose V rows all have scale zero: below all in use, so that alignment ignores it."""

RECIPROCAL_BITS = 17
"""Width of the reciprocal of the row sum."""

WEIGHT_BITS = 17
"""Width of the factor that multiplies a V element: larger weights drop their low bits (two ranges)."""

FACTOR_BITS = 35
"""Width of the accumulator in the product with the reciprocal: 18 + 17 bits, two multipliers."""

SHIFT_LIMIT = 32
"""Rescaling by this many bits or more gives zero."""

INT64 = np.int64

_LANE_BLOCK = 64
"""Lanes whose rows ``attend`` computes at once: bounds the memory of a long prefill."""


def final_shifts(config: AcceleratorConfig) -> tuple[int, int, int]:
    """``(A, pre, post)``: width of what is divided, shift before and shift after the product with the reciprocal."""
    width = config.accumulator_bits + 1
    before = max(0, width - FACTOR_BITS)
    return width, before, max(0, width - before + RECIPROCAL_BITS - 32)


def query_scale(scale: Scalar) -> tuple[int, int]:
    """What counts of a lane's scale: the upper 16 bits of its mantissa, and its exponent."""
    return scale.mantissa >> 8, scale.exponent


def logits(dots, query: tuple[Any, Any], k_scales, config: AcceleratorConfig) -> np.ndarray:
    """Base-2 logits of one lane (or, with columns of numbers in ``query``, of several) in ``logit_frac_bits`` fraction bits,
    saturated to 12 bits more.

    ``query``: upper 16 bits of the mantissa and the exponent of the lane's scale. A negative shift saturates
    by the sign of the product (0 stays 0).
    """
    frac = config.logit_frac_bits
    limit = INT64(1) << (frac + 11)
    c = round_shift(query[0] * k_scales[:, 0], 15)
    product = dots * c
    shift = -(query[1] + k_scales[:, 1] + 23 + frac)
    shifted = round_shift(product, np.maximum(shift, 0))
    return np.clip(np.where(shift >= 0, shifted, np.sign(product) * limit), -limit, limit - 1)


def weights(p, mantissas, shift, config: AcceleratorConfig) -> np.ndarray:
    """Weights of V rows: ``p * mantissa`` shifted right by ``16 + shift``, in the nearest of those that there are."""
    w = round_shift(p * mantissas, 16 + shift)
    drop = weight_drops(config)[weight_range(w, config)]
    return round_shift(w, drop) << drop


def weight_drops(config: AcceleratorConfig) -> np.ndarray:
    """Low bits that weights drop in each of three ranges, so that the rest has 17 bits."""
    drop = max(0, config.probability_bits - WEIGHT_BITS + 1)
    return np.array([0, drop // 2 + 1, drop])


def weight_range(w, config: AcceleratorConfig):
    """0 to 2. Rounding in the middle one must not need an 18th bit: it ends one bit earlier."""
    return np.where(w < 1 << WEIGHT_BITS, 0, np.where(w < 1 << WEIGHT_BITS - 1 + weight_drops(config)[1], 1, 2))


def scaled_down(value, shift):
    """Rescaling: ``value >> shift`` (floor), 0 from ``SHIFT_LIMIT`` on."""
    return np.where(shift < SHIFT_LIMIT, value >> np.minimum(shift, SHIFT_LIMIT), 0)


def finish(acc: np.ndarray, total: int, top: int, config: AcceleratorConfig) -> tuple[np.ndarray, int]:
    """``(x, exponent)`` of one lane from its weighted sums, its sum of probabilities and its V exponent."""
    _, before, after = final_shifts(config)
    length = int(total).bit_length()
    reciprocal = min((1 << (length + RECIPROCAL_BITS - 1)) // int(total), (1 << RECIPROCAL_BITS) - 1)
    sum_bits = config.accumulator_bits - config.kv_bits
    exponent = top + before + after - sum_bits
    if not -(1 << 15) <= exponent < 1 << 15:
        raise OverflowError(f"output exponent {exponent} does not fit 16 bits")
    half = 1 << after - 1 if after else 0  # round_shift with a shift that is known
    return (acc << sum_bits - length >> before) * reciprocal + half >> after, exponent


def checked(q, scales, limits, k, k_scales, v, v_scales, config: AcceleratorConfig, starts: Any = 0):
    q, limits, k, k_scales, v, v_scales = (np.asarray(a, dtype=INT64)
                                           for a in (q, limits, k, k_scales, v, v_scales))
    lanes, head_dim = q.shape
    rows = len(k)
    low, high = -(1 << (config.kv_bits - 1)), (1 << (config.kv_bits - 1)) - 1
    for name, array, shape in (("limits", limits, (lanes,)), ("k", k, (rows, head_dim)),
                               ("v", v, (rows, head_dim)), ("k_scales", k_scales, (rows, 2)),
                               ("v_scales", v_scales, (rows, 2))):
        if array.shape != shape:
            raise ValueError(f"{name} must have shape {shape}, not {array.shape}")
    for name, array in (("q", q), ("k", k), ("v", v)):
        if array.size and not low <= array.min() <= array.max() <= high:
            raise ValueError(f"{name} must be in {low}..{high}, not {array.min()}..{array.max()}")
    if len(scales) != lanes:
        raise ValueError(f"scales must have one entry per lane ({lanes}), not {len(scales)}")
    seen = int(np.clip(limits - starts, 0, rows).max(initial=0))
    if not rows or seen > config.max_context:
        raise ValueError(f"rows must be at least 1 and a lane see at most {config.max_context}, not {rows} and {seen}")
    return q, limits, k, k_scales, v, v_scales


def probabilities(q, queries, k, k_scales, config: AcceleratorConfig) -> tuple[np.ndarray, np.ndarray]:
    """``(p, m')`` of lanes that see all rows, int64 ``[lanes, rows]`` each; ``queries``: ``query_scale`` of each lane."""
    frac = config.logit_frac_bits
    # float64 holds the dot products, below 2**41, exactly.
    dots = (np.asarray(q, np.float64) @ k.astype(np.float64).T).astype(INT64)
    logit = logits(dots, (queries[:, :1], queries[:, 1:]), k_scales, config)
    maxima = np.maximum.accumulate(-(-logit >> frac), axis=1)
    return pow2_negative((maxima << frac) - logit, config), maxima


def attend(q, scales: Sequence[Scalar], limits, k, k_scales, v, v_scales, config: AcceleratorConfig
           ) -> tuple[np.ndarray, np.ndarray]:
    """Attention of several lanes (token, query head) against the rows of one K/V head.

    Between two changes of the running maximum or of the top V exponent the sums are plain dot products, so
    only the (few) change points are walked one by one. ``attend_rows`` is the same, row by row.

    Parameters
    ----------
    q : int [lanes, head_dim]
        Quantized queries.
    scales : sequence of Scalar
        Per lane: real value of one step of ``q``, times log2(e) / sqrt(head_dim).
    limits : int [lanes]
        Lane l sees rows ``0 .. limits[l] - 1``.
    k, v : int [rows, head_dim]
    k_scales, v_scales : int [rows, 2]
        ``(mantissa, exponent)`` as stored: 16-bit mantissa with its top bit set, or 0.

    Returns
    -------
    x : int64 [lanes, head_dim], ``|x| < 2**31``
    exponents : int64 [lanes]
        The output of lane l is ``x[l] * 2.0**exponents[l]``.
    """
    q, limits, k, k_scales, v, v_scales = checked(q, scales, limits, k, k_scales, v, v_scales, config)
    x = np.zeros_like(q)
    exponents = np.full(len(q), NO_VALUE_EXPONENT, INT64)
    scaled = v_scales[:, 0] != 0
    undefined = INT64(-(1 << 20))
    tops = np.maximum.accumulate(np.where(scaled, v_scales[:, 1], undefined))
    # Rows beyond a lane's limit come last and are left out below.
    queries = np.array([query_scale(scale) for scale in scales], INT64)
    for first in range(0, len(q), _LANE_BLOCK):
        block = slice(first, first + _LANE_BLOCK)
        p, maxima = probabilities(q[block], queries[block], k, k_scales, config)
        w = weights(p, v_scales[:, 0], np.where(scaled, tops - v_scales[:, 1], 0), config)
        for lane in range(first, min(first + _LANE_BLOCK, len(q))):
            rows = int(min(limits[lane], len(k)))
            if scaled[:rows].any():
                part = lane - first
                acc, total = _mixed(p[part, :rows], w[part, :rows], maxima[part, :rows], tops[:rows], v[:rows])
                x[lane], exponents[lane] = finish(acc, total, int(tops[rows - 1]), config)
    return x, exponents


class Rows(NamedTuple):
    """A run of rows for ``attend_runs``: as for ``attend``, and lane l sees rows ``starts[l] .. limits[l] - 1``."""

    q: np.ndarray
    scales: Sequence[Scalar]
    starts: np.ndarray
    limits: np.ndarray
    k: np.ndarray
    k_scales: np.ndarray
    v: np.ndarray
    v_scales: np.ndarray


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
    passed : bool
        A row was above the lane's unified maximum.
    """

    maximum: int
    total: int
    exponent: int
    defined: bool
    acc: np.ndarray
    passed: bool = False


def finished(part: Partial, config: AcceleratorConfig) -> tuple[np.ndarray, int]:
    """``(x, exponent)`` as ``attend`` gives them."""
    if not part.defined:
        return np.zeros_like(part.acc), NO_VALUE_EXPONENT
    return finish(part.acc, part.total, part.exponent, config)


def attend_parts(runs: Sequence[Rows], config: AcceleratorConfig, phi: int | None = None) -> list[Partial]:
    """State of every lane behind several runs of rows, one after another, each with queries of its own; a lane sees at most
    ``max_context`` rows of all. ``phi`` is the unified maximum, if there is one."""
    lanes, frac = len(runs[0].q), config.logit_frac_bits
    undefined = INT64(-(1 << 20))
    blocks = []
    for run in runs:
        q, limits, k, k_scales, v, v_scales = checked(run.q, run.scales, run.limits, run.k, run.k_scales, run.v, run.v_scales, config,
                                                      run.starts)
        queries = np.array([query_scale(scale) for scale in run.scales], INT64).reshape(-1, 2, 1)
        dots = (q.astype(np.float64) @ k.astype(np.float64).T).astype(INT64)
        blocks.append((logits(dots, (queries[:, 0], queries[:, 1]), k_scales, config), limits, v, v_scales))
    parts = []
    for lane in range(lanes):
        seen = [(block[lane, start:limit], v[start:limit], v_scales[start:limit]) for (block, limits, v, v_scales), start, limit in
                ((block, int(run.starts[lane]), int(block[1][lane])) for run, block in zip(runs, blocks, strict=True))]
        logit, v, v_scales = (np.concatenate(part) for part in zip(*seen, strict=True))
        if not len(logit):
            parts.append(Partial(0, 0, 0, False, np.zeros(v.shape[1], INT64)))
            continue
        scaled = v_scales[:, 0] != 0
        tops = np.maximum.accumulate(np.where(scaled, v_scales[:, 1], undefined))
        maxima = np.maximum.accumulate(-(-logit >> frac))
        passed = False
        if phi is not None and phi - config.unified_window <= maxima[0] <= phi:
            maxima, passed = np.maximum(maxima, phi), bool(maxima[-1] > phi)
        p = pow2_negative((maxima << frac) - logit, config)
        w = weights(p, v_scales[:, 0], np.where(scaled, tops - v_scales[:, 1], 0), config)
        acc, total = _mixed(p, w, maxima, tops, v)
        parts.append(Partial(int(maxima[-1]), total, int(tops[-1]) if scaled.any() else 0, bool(scaled.any()), acc,
                             passed))
    return parts


def attend_runs(runs: Sequence[Rows], config: AcceleratorConfig, phi: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """``attend`` over several runs of rows: results of ``attend_parts``."""
    return all_finished(attend_parts(runs, config, phi), config)


def all_finished(parts: Sequence[Partial], config: AcceleratorConfig) -> tuple[np.ndarray, np.ndarray]:
    """Results of lanes as ``attend`` gives them."""
    results = [finished(part, config) for part in parts]
    return np.stack([x for x, _ in results]), np.array([exponent for _, exponent in results], INT64)


def _mixed(p: np.ndarray, w: np.ndarray, maxima: np.ndarray, tops: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, int]:
    """Weighted sums of V and sum of probabilities of one lane, from one change of a maximum to the next."""
    scale = maxima + tops
    changes = np.flatnonzero(scale[1:] != scale[:-1]) + 1
    starts = [0, *changes.tolist()]
    total_shifts = [0, *(maxima[changes] - maxima[changes - 1]).tolist()]
    acc_shifts = [0, *(scale[changes] - scale[changes - 1]).tolist()]
    total, acc = 0, np.zeros(v.shape[1], INT64)
    for start, end, total_shift, acc_shift in zip(starts, [*starts[1:], len(p)], total_shifts, acc_shifts, strict=True):
        total = (total >> total_shift if total_shift < SHIFT_LIMIT else 0) + int(p[start:end].sum())
        acc = (acc >> acc_shift if acc_shift < SHIFT_LIMIT else 0) + w[start:end] @ v[start:end]
    return acc, total
