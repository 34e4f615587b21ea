"""K/V cache of a layer with a budget of rows per head, as the golden machine has it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from .attention import probabilities, query_scale
from .cache import kept
from .evict import WEIGHT_FRACTION, EvictHead, Record
from .numerics import Scalar
from .weights import attention_weights

if TYPE_CHECKING:
    from ...accelerators.config import AcceleratorConfig
    from ...rtl_gen.image import Eviction

__all__ = ["EvictLayer"]


class EvictLayer:
    """``heads`` K/V heads of ``budget`` rows each."""

    def __init__(self, heads: int, budget: int, rules: Eviction, config: AcceleratorConfig) -> None:
        self.config = config
        weight_bits = WEIGHT_FRACTION + config.query_lanes.bit_length()
        self.heads = [EvictHead(budget, sinks=rules.sinks, recent=rules.recent, threshold=rules.threshold, weight_bits=weight_bits,
                                kept=partial(kept, config=config)) for _ in range(heads)]

    def put(self, position: int, keys: np.ndarray, key_scales: np.ndarray, values: np.ndarray, value_scales: np.ndarray) -> None:
        """Records of quantized vectors ``[heads, tokens, ...]``, the first one of the token at ``position``."""
        for number, head in enumerate(self.heads):
            assert head.length == position
            for key, value, *scales in zip(*(part[number] for part in (keys, values, key_scales, value_scales)), strict=True):
                (a, b), (c, d) = (scale.tolist() for scale in scales)
                head.append(Record(head.kept(key), head.kept(value), (a, b), (c, d)))

    def rows(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Keys, their scales, values, their scales of all rows of a head."""
        records = self.heads[number].records
        keys, key_scales, values, value_scales = (np.array([getattr(record, name) for record in records])
                                                  for name in ("key", "key_scale", "value", "value_scale"))
        return keys, key_scales, values, value_scales

    def weigh(self, number: int, queries: np.ndarray, scales: Sequence[Scalar], limits: np.ndarray, group: int) -> None:
        """Scores of a head's rows after the attention of several tokens, one after another, ``group`` lanes each."""
        keys, key_scales, _, _ = self.rows(number)
        p, maxima = probabilities(queries, np.array([query_scale(scale) for scale in scales]), keys, key_scales, self.config)
        for first in range(0, len(limits), group):
            lanes, seen = slice(first, first + group), int(limits[first])
            self.heads[number].scores.update(attention_weights(p[lanes, :seen].T, maxima[lanes, :seen].T).tolist())
