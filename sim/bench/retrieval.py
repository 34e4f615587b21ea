"""Benches of the means of blocks, of their scores, and of the list of blocks."""

import random
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from ..golden.cache import pack_record
from ..golden.select import block_mean, block_scores, top_indices
from .deviation import RowCases, Rows
from .trace import Trace
from .unit import Items, UnitBench

__all__ = ["BlockMeansBench", "BlockRetrievalBench", "BlockScoresBench"]


class BlockMeansBench(UnitBench):
    """Heads of whole blocks and of parts of blocks."""

    def __init__(self, config: Any):
        super().__init__(config)
        self.cases = RowCases(config)

    def _begin(self) -> Items:
        self.records: list[list[int]] = []
        self.saturated = False
        return {"i_command": [], "i": []}

    def _heads(self, items: Items, rows: Rows, exponent: int) -> None:
        heads, count, head_dim = rows.keys.shape
        size, kv_bits = self.config.block_size, self.config.kv_bits
        for head in range(heads):
            items["i_command"].append(self.cases.shape(count, head_dim) | {"exponent": exponent})
            items["i"] += self.cases.beats(rows, head)
            for start in range(0, count, size):
                means = []
                for elements, scales in ((rows.keys, rows.key_scales), (rows.values, rows.value_scales)):
                    part = slice(start, start + size)
                    q, scale, large = block_mean(elements[head, part], scales[head, part], exponent=exponent, kv_bits=kv_bits,
                                                 block_size=size)
                    means.append((q, scale))
                    self.saturated |= large
                (key, key_scale), (value, value_scale) = means
                self.records.append(pack_record(key.tolist(), value.tolist(), key_scale, value_scale, kv_bits=kv_bits,
                                                bus_bits=self.config.bus_bits))

    def stimulus(self, rng: random.Random, case: str) -> Items:
        generator, items, size = np.random.default_rng(rng.getrandbits(32)), self._begin(), self.config.block_size
        for _ in range(3):
            exponent = int(generator.integers(-100, 100))
            top = exponent + 17 - self.config.kv_bits + int(generator.choice((0, 0, -3, -16, 2)))
            count = int(generator.choice([1, 2, size, size + 1, int(generator.integers(1, 2 * size))]))
            self._heads(items, self.cases.rows(generator, int(generator.integers(1, 3)), min(count, self.config.max_context),
                                               self.cases.head_dim(generator), top, int(generator.choice((0, 3, 20)))), exponent)
        return items

    def boundary(self) -> Items:
        """The largest sums of both signs, scales that saturate or vanish; single rows of one beat, blocks of every size."""
        config, items = self.config, self._begin()
        half, full = 1 << config.kv_bits - 1, config.max_head_dim
        for top, exponent in ((17 - config.kv_bits, 0), (17, 0), (-40, 0), (-30000, -30010), (30000, 30010)):
            elements = np.full((1, config.block_size, full), -half)
            elements[..., ::2] = half - 1
            scales = np.tile([0xFFFF, top - 16], (1, config.block_size, 1))
            self._heads(items, Rows(elements, scales, -1 - elements, scales), exponent)
        generator = np.random.default_rng(0)
        for rows in range(1, config.block_size + 1):
            self._heads(items, self.cases.rows(generator, 1, rows, min(config.kv_lanes, full), 17 - config.kv_bits), 0)
        self._heads(items, self.cases.rows(generator, 6, 1, config.vector_lanes, 17 - config.kv_bits), 0)
        return items

    def expected(self, stimulus: Items) -> Items:
        return {"o": [{"data": word, "last": int(k == len(record) - 1)} for record in self.records for k, word in enumerate(record)]}

    def levels(self, stimulus: Items) -> Mapping[str, int]:
        return {"saturated": int(self.saturated)}

    def latency_stimulus(self) -> Items:
        """A row of the smallest head, then two heads of the largest size with two blocks each."""
        items, generator = self._begin(), np.random.default_rng(0)
        self._heads(items, self.cases.rows(generator, 1, 1, self.config.vector_lanes, 0), 0)
        rows = min(2 * self.config.block_size, self.config.max_context)
        self._heads(items, self.cases.rows(generator, 2, rows, self.config.max_head_dim, 0), 0)
        return items

    def measure(self, trace: Trace) -> dict[str, int]:
        first = self.cases.record_beats(self.config.vector_lanes)
        gaps = [b - a for a, b in pairwise(trace.accepted["i"])][first:]
        between = len(gaps) // 2
        return {"latency": trace.latency("i", "o", first - 1), "between heads": gaps.pop(between), "interval": max(gaps)}

    def figures(self, attributes: Mapping[str, Any]) -> Mapping[str, int]:
        return {"latency": attributes["latency"], "interval": attributes["interval"], "between heads": 2}


class BlockScoresBench(UnitBench):
    """Lists of several heads and lanes; scores from zero to saturated."""

    def __init__(self, config: Any):
        super().__init__(config)
        self.cases = RowCases(config)
        self.blocks = max(2, -(-config.max_context // config.block_size))

    def _begin(self) -> Items:
        self.scores: list[list[int]] = []
        return {"i_command": [], "i_query": [], "i_lane": [], "i": []}

    def _list(self, items: Items, queries: np.ndarray, query_scales: np.ndarray, rows: Rows, exponent: int) -> None:
        heads, count, head_dim = rows.keys.shape
        words = self.config.vector_lanes
        for head in range(heads):
            items["i_command"].append(self.cases.shape(count, head_dim) | {
                "lanes": queries.shape[1], "exponent": exponent, "first": int(head == 0), "last": int(head == heads - 1)})
            for query, (mantissa, scale_exponent) in zip(queries[head], query_scales[head], strict=True):
                items["i_lane"].append({"scale": {"mantissa": int(mantissa), "exponent": int(scale_exponent)}})
                items["i_query"] += [{"q": query[k:k + words], "last": int(k + words == head_dim)} for k in range(0, head_dim, words)]
            items["i"] += self.cases.beats(rows, head)
        self.scores.append(block_scores(queries, query_scales, rows.keys, rows.key_scales, exponent=exponent))

    def _random(self, items: Items, generator: np.random.Generator, shape: tuple[int, int, int, int], exponent: int,
                spread: int) -> None:
        """A list of heads, lanes, blocks, head_dim; ``spread`` binary orders among its scales."""
        heads, lanes, count, head_dim = shape
        half = 1 << self.config.kv_bits - 1
        queries = generator.integers(-half, half, (heads, lanes, head_dim))
        scales = self.cases.scales(generator, (heads, lanes), -10, spread)
        scales[..., 0] = (scales[..., 0] << 8) + generator.integers(0, 256, (heads, lanes)) * (scales[..., 0] != 0)
        scales[..., 1] -= 8 * (scales[..., 0] != 0)
        self._list(items, queries, scales, self.cases.rows(generator, heads, count, head_dim, -7, spread), exponent)

    def stimulus(self, rng: random.Random, case: str) -> Items:
        generator, items = np.random.default_rng(rng.getrandbits(32)), self._begin()
        for _ in range(3):
            shape = (int(generator.integers(1, 4)), int(generator.integers(1, self.config.query_lanes + 1)),
                     int(generator.choice((1, 2, self.blocks, generator.integers(1, self.blocks + 1)))), self.cases.head_dim(generator))
            self._random(items, generator, shape, int(generator.choice((-25, -20, -33, 20))), int(generator.choice((0, 2, 20))))
        return items

    def boundary(self) -> Items:
        """The largest dot products of both signs on all scales; equal blocks; steps too fine, and so coarse that all is 0; one
        block, one lane, one beat, in many heads."""
        config, items = self.config, self._begin()
        half, full, lanes = 1 << config.kv_bits - 1, config.max_head_dim, config.query_lanes
        for exponent in (-40, -15, 0, 21, 40, 32767, -32768):
            queries = np.full((2, lanes, full), -half)
            keys = np.full((2, 2, full), -half)
            keys[:, 1] = half - 1
            scales = np.tile([0xFFFF, -7], (2, 2, 1))
            self._list(items, queries, np.tile([0xFFFFFF, -10], (2, lanes, 1)), Rows(keys, scales, keys, scales), exponent)
        generator = np.random.default_rng(0)
        for count in (1, 2):
            self._random(items, generator, (6, 1, count, min(config.kv_lanes, full)), -25, 2)
        return items

    def expected(self, stimulus: Items) -> Items:
        return {"o": [{"score": score, "last": int(k == len(scores) - 1)} for scores in self.scores for k, score in enumerate(scores)]}

    def latency_stimulus(self) -> Items:
        """All lanes in use: two heads of the largest size, then one of all blocks."""
        items, config = self._begin(), self.config
        self._random(items, np.random.default_rng(0), (2, config.query_lanes, self.blocks, config.max_head_dim), -25, 2)
        return items

    def _key_end(self) -> int:
        """Beat of a record with which its key ends."""
        return self.cases.record_beats(self.config.max_head_dim) - self.cases.shape(1, self.config.max_head_dim)["beats"] - 1

    def measure(self, trace: Trace) -> dict[str, int]:
        record = self.cases.record_beats(self.config.max_head_dim)
        return {"latency": trace.latency("i", "o", self.blocks * record + self._key_end()), **self._pace(trace)}

    def _pace(self, trace: Trace) -> dict[str, int]:
        """Of the second head, whose queries were taken while the keys of the first one streamed."""
        first = self.blocks * self.cases.record_beats(self.config.max_head_dim)
        between, *gaps = (b - a for a, b in pairwise(trace.accepted["i"][first - 1:]))
        return {"between heads": between, "interval": max(gaps)}

    def figures(self, attributes: Mapping[str, Any]) -> Mapping[str, int]:
        return {"latency": attributes["latency"], "interval": attributes["interval"], "between heads": 2}


class BlockRetrievalBench(BlockScoresBench):
    """The same lists, and some of their blocks."""

    patience = 6000
    rng = random.Random(0)

    def _begin(self) -> Items:
        return {**super()._begin(), "i_count": []}

    def stimulus(self, rng: random.Random, case: str) -> Items:
        self.rng = rng
        return super().stimulus(rng, case)

    def _list(self, items: Items, queries: np.ndarray, query_scales: np.ndarray, rows: Rows, exponent: int) -> None:
        super()._list(items, queries, query_scales, rows, exponent)
        count = rows.keys.shape[1]
        some = [self.rng.randint(0, count)] * 6
        items["i_count"].append({"count": self.rng.choice((0, 1, count, min(self.blocks, count + 1), *some))})

    def expected(self, stimulus: Items) -> Items:
        out = []
        for scores, count in zip(self.scores, stimulus["i_count"], strict=True):
            chosen = top_indices(scores, count["count"])
            out += [{"index": index, "last": int(k == len(chosen) - 1)} for k, index in enumerate(chosen)]
        return {"o": out}

    def latency_stimulus(self) -> Items:
        items = super().latency_stimulus()
        items["i_count"] = [{"count": self.blocks}]
        return items

    def measure(self, trace: Trace) -> dict[str, int]:
        record = self.cases.record_beats(self.config.max_head_dim)
        start = trace.accepted["i"][2 * self.blocks * record - record + self._key_end()]
        return {"latency": trace.delivered["o"][-1] - start, **self._pace(trace)}
