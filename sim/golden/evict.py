"""Golden model of the evict + merge KV cache (EMS, arXiv:2412.08521): what ``accelerators/cache/evict_cache.py`` does, in integers.

Every K/V head has a budget of B rows. Each row has an entry: a global and a local score, the position of its token in the text, and how
many ``tokens`` it stands for. With the weights w of an attention over the head's rows (``WEIGHT_FRACTION`` fraction bits)::

    global = min(global + w, 2**32 - 1)                      everything since the token came (H2O's score)
    local  = local - (local >> decay) + w                    the last ``2**decay`` attentions, roughly
    score  = global + (local << emphasis)

A token that comes when B rows are there takes the row of the *candidate*: the row with the smallest score, of equal ones the first,
except those of the first ``sinks`` positions and of the last ``recent`` ones before the new token. The candidate is merged into the
most similar row or dropped (EMS's class 0). Similarity is the cosine between stored keys, in which scales cancel. It is compared in
logarithms, so a row's is a number that does not depend on other rows (``chords.py``: L, 18 fraction bits, off by less than 2**-17)::

    d_i = sum c_j k_ij     n_i = sum k_ij ** 2               c: candidate, k_i: row i
    s_i = 2 * L(d_i) - L(n_i)                                log2 of d_i**2 / n_i, which is cosine**2 * n_c
    best: d_i > 0 and the largest s_i, of equal ones the first row
    merges: s >= 2 * (L(threshold) - 12) + L(n_c)            threshold in 12 fraction bits; 0 counts as 1

So cosines that differ by less than a part in 30,000 may count as equal (twice ``COSINE_ERROR``). But equal keys are equally similar, a
key has cosine 1 with itself, and above 1 a threshold is never reached.

A merged row is the mean of both, by the tokens they stand for (``merged_vector``), at the position of the row that it was merged into.
It is quantized to int8, and with ``kv_storage = "int4"`` then stored in 4 bits like any vector; c and k_i are what is stored.
Its tokens and scores are the sums of both, scores saturated. A new row has scores 0 and one token.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ...accelerators.config import THRESHOLD_FRACTION
from .cache import DROPPED_BITS, stored_scale
from .chords import LOGARITHM_BITS, LOGARITHM_ERROR, logarithm
from .numerics import Scalar, round_shift

__all__ = ["COSINE_ERROR", "DECAY", "EMPHASIS", "GLOBAL_MAX", "ONE", "WEIGHT_FRACTION", "Append", "Entry", "EvictHead", "Record",
           "Scores", "loaded_scale", "merged_record", "merged_vector", "most_similar", "reaches"]

WEIGHT_FRACTION = 16
"""Fraction bits of an attention weight."""

GLOBAL_MAX = (1 << 32) - 1

ONE = 1 << THRESHOLD_FRACTION
"""A threshold of 1: above it no key is similar."""

COSINE_ERROR = 2 * LOGARITHM_ERROR
"""More than a cosine is off, in parts of it: half of three logarithms, to base e."""

DECAY, EMPHASIS = 4, 4

LEVELS = 127
FACTOR_BITS, RECIPROCAL_DROP = 16, 14


@dataclass
class Entry:
    """What is known of a row beside its record."""

    global_score: int
    local_score: int
    position: int
    tokens: int


class Scores:
    """Entries of one head, in the order of its rows.

    Parameters
    ----------
    weight_bits : int
        Width of an attention weight; the local score has ``decay`` more.
    """

    def __init__(self, weight_bits: int, decay: int = DECAY, emphasis: int = EMPHASIS):
        self.decay, self.emphasis = decay, emphasis
        self.local_max = (1 << weight_bits + decay) - 1
        self.entries: list[Entry] = []

    def update(self, weights: Sequence[int]) -> None:
        """The weights of the first rows, one each."""
        for entry, weight in zip(self.entries, weights, strict=False):
            entry.global_score = min(entry.global_score + weight, GLOBAL_MAX)
            entry.local_score += weight - (entry.local_score >> self.decay)

    def score(self, entry: Entry) -> int:
        return entry.global_score + (entry.local_score << self.emphasis)

    def victim(self, sinks: int, end: int) -> int | None:
        """The row that goes, of those with positions from ``sinks`` to ``end - 1``; ``None`` if there is none."""
        open_ = [slot for slot, entry in enumerate(self.entries) if sinks <= entry.position < end]
        return min(open_, key=lambda slot: (self.score(self.entries[slot]), slot), default=None)

    def merge(self, slot: int, source: int) -> None:
        """Adds row ``source`` to row ``slot``."""
        target, other = self.entries[slot], self.entries[source]
        target.global_score = min(target.global_score + other.global_score, GLOBAL_MAX)
        target.local_score = min(target.local_score + other.local_score, self.local_max)
        target.tokens += other.tokens

    def place(self, slot: int, position: int) -> None:
        """A new token's row: in place of one, or behind the last one."""
        self.entries[slot:slot + 1] = [Entry(0, 0, position, 1)]


def _similarity(dots: np.ndarray | int, norms: np.ndarray | int) -> np.ndarray:
    """``2 * L(d) - L(n)`` of dot products above 0 and of norms, in ``LOGARITHM_BITS`` fraction bits."""
    return 2 * logarithm(dots) - logarithm(norms)


def most_similar(candidate: np.ndarray, keys: np.ndarray, skip: int | None = None) -> int | None:
    """The row whose key has the largest cosine with the candidate's, if one is above 0; row ``skip`` does not count."""
    keys = keys.astype(np.int64)
    dots = keys @ candidate.astype(np.int64)
    rows = [slot for slot in np.flatnonzero(dots > 0).tolist() if slot != skip]
    if not rows:
        return None
    return rows[int(_similarity(dots[rows], (keys[rows] ** 2).sum(1)).argmax())]


def reaches(a: np.ndarray, b: np.ndarray, threshold: int) -> bool:
    """Whether the cosine of two keys, above 0, reaches ``threshold / ONE``."""
    dot = int(a @ b)
    limit = 2 * (logarithm(max(threshold, 1)) - (THRESHOLD_FRACTION << LOGARITHM_BITS))
    return dot > 0 and bool(_similarity(dot, b @ b) >= limit + logarithm(a @ a))


@dataclass(frozen=True)
class Record:
    """Elements and stored scales, ``(16-bit mantissa, exponent)``, of one row."""

    key: np.ndarray
    value: np.ndarray
    key_scale: tuple[int, int]
    value_scale: tuple[int, int]


def loaded_scale(scale: tuple[int, int]) -> Scalar:
    """A scale as ``RecordPacker`` takes it, from one as a record holds it."""
    return Scalar(scale[0] << DROPPED_BITS, scale[1] - DROPPED_BITS) if scale[0] else Scalar(0, 0)


def merged_vector(vectors: Sequence[np.ndarray], scales: Sequence[tuple[int, int]], tokens: Sequence[int]) -> tuple[np.ndarray, Scalar]:
    """``(elements, scale)`` of the mean of two vectors that stand for ``tokens`` each, quantized to int8.

    In pseudo-floats (``Scalar``, all truncated), for the vectors a, b with scales s and tokens t::

        w_a = t_a * s_a     w_b = t_b * s_b                  e: the larger exponent of those that are not 0
        f   = w.mantissa >> 8 + e - w.exponent               16 bits
        x_j = f_a * a_j + f_b * b_j                          P = max |x_j|
        q_j = round_shift(x_j * R, -14 - r.exponent)         r = 1 / P,  R = 127 * r.mantissa >> 14, 17 bits
        scale = P * 2**(e + 8) * (1 / (127 * (t_a + t_b)))

    ``|q| <= 127``, because R is truncated.
    """
    parts = [Scalar.of(count) * loaded_scale(scale) for count, scale in zip(tokens, scales, strict=True)]
    exponent = max((part.exponent for part in parts if part.mantissa), default=0)
    drop = 24 - FACTOR_BITS
    x = np.zeros(len(vectors[0]), np.int64)
    for part, vector in zip(parts, vectors, strict=True):
        if part.mantissa:
            x += (part.mantissa >> drop + exponent - part.exponent) * vector.astype(np.int64)
    peak = int(np.abs(x).max())
    if not peak:
        return x, Scalar(0, 0)
    inverse = Scalar.of(peak).reciprocal()
    q = round_shift(x * (LEVELS * inverse.mantissa >> RECIPROCAL_DROP), -RECIPROCAL_DROP - inverse.exponent)
    return q, Scalar.of(peak, exponent + drop) * Scalar.of(LEVELS * sum(tokens)).reciprocal()


def merged_record(kept: Record, candidate: Record, tokens: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, Scalar, Scalar]:
    """Key, value and their scales, as ``pack_record`` takes them; ``tokens`` of the row kept and of the candidate."""
    key, key_scale = merged_vector((kept.key, candidate.key), (kept.key_scale, candidate.key_scale), tokens)
    value, value_scale = merged_vector((kept.value, candidate.value), (kept.value_scale, candidate.value_scale), tokens)
    return key, value, key_scale, value_scale


@dataclass(frozen=True)
class Append:
    """What an append did: the row that the token took, the tokens that its candidate stood for (0: there was none), and the row that
    these went into (``None``: dropped)."""

    slot: int
    tokens: int = 0
    target: int | None = None


class EvictHead:
    """One K/V head: entries and records, the latter as the memory has them.

    Parameters
    ----------
    budget : int
        Rows, more than ``sinks + recent``.
    threshold : int
        Cosine from which on keys are similar, in units of ``1 / ONE``.
    kept : callable
        What is left of quantized elements when a record has held them (``golden/cache.py: kept``).
    """

    def __init__(self, budget: int, *, sinks: int, recent: int, threshold: int, weight_bits: int = WEIGHT_FRACTION + 3,
                 decay: int = DECAY, emphasis: int = EMPHASIS, kept: Callable[[np.ndarray], np.ndarray] = np.asarray):
        if budget <= sinks + recent:
            raise ValueError(f"budget must be above sinks + recent, not {budget} with {sinks} and {recent}")
        self.budget, self.sinks, self.recent, self.threshold = budget, sinks, recent, threshold
        self.scores, self.kept = Scores(weight_bits, decay, emphasis), kept
        self.records: list[Record] = []
        self.length = self.dropped = 0

    def append(self, record: Record) -> Append:
        """The next token of the text; its record as memory has it."""
        position, self.length = self.length, self.length + 1
        if position < self.budget:
            self.scores.place(position, position)
            self.records.append(record)
            return Append(position)
        slot = self.scores.victim(self.sinks, position - self.recent)
        assert slot is not None  # at most sinks + recent rows are protected
        candidate, tokens = self.records[slot], self.scores.entries[slot].tokens
        target = most_similar(candidate.key, np.array([each.key for each in self.records]), slot)
        if target is not None and reaches(candidate.key, self.records[target].key, self.threshold):
            kept = self.records[target]
            key, value, key_scale, value_scale = merged_record(kept, candidate, (self.scores.entries[target].tokens, tokens))
            self.records[target] = Record(self.kept(key), self.kept(value), stored_scale(key_scale), stored_scale(value_scale))
            self.scores.merge(target, slot)
        else:
            target = None
            self.dropped += tokens
        self.scores.place(slot, position)
        self.records[slot] = record
        return Append(slot, tokens, target)
