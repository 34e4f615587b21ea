"""Benches of the deviation of values, of the share of a list, and of the list of tokens to compute again."""

import random
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from ...accelerators.integers import ceil_div
from ...accelerators.kv_records import record_beats
from ..golden.cache import pack_records
from ..golden.select import SCORE_BITS, share_count, top_indices, value_deviation
from .select import score_items, score_lists
from .trace import Trace
from .unit import Items, UnitBench

__all__ = ["RecomputeListBench", "RowCases", "TopShareBench", "ValueDeviationBench"]


class Rows(NamedTuple):
    """Elements ``[heads, rows, head_dim]`` and scales ``[heads, rows, 2]`` of keys and values."""

    keys: np.ndarray
    key_scales: np.ndarray
    values: np.ndarray
    value_scales: np.ndarray


class RowCases:
    """Random rows of a cache, and the beats of their records."""

    def __init__(self, config: Any):
        self.config = config

    def scales(self, rng: np.random.Generator, shape: tuple[int, ...], top: int, spread: int) -> np.ndarray:
        """Of 16 bits, below ``2**top``, within ``spread`` binary orders; one in eight is zero."""
        mantissas = rng.integers(1 << 15, 1 << 16, shape) * (rng.random(shape) > 0.125)
        return np.stack([mantissas, (top - 16 - rng.integers(0, spread + 1, shape)) * (mantissas != 0)], axis=-1)

    def rows(self, rng: np.random.Generator, heads: int, rows: int, head_dim: int, top: int, spread: int = 3) -> Rows:
        half = 1 << self.config.kv_bits - 1
        keys, values = rng.integers(-half, half, (2, heads, rows, head_dim))
        return Rows(keys, self.scales(rng, (heads, rows), top, spread), values, self.scales(rng, (heads, rows), top, spread))

    def beats(self, rows: Rows, head: int) -> list[int]:
        records = pack_records(rows.keys[head], rows.values[head], rows.key_scales[head], rows.value_scales[head],
                               kv_bits=self.config.kv_bits, bus_bits=self.config.bus_bits)
        return [int.from_bytes(word.tobytes(), "little") for word in records.reshape(-1, self.config.bus_bytes)]

    def record_beats(self, head_dim: int) -> int:
        return record_beats(head_dim, kv_bits=self.config.kv_bits, bus_bits=self.config.bus_bits)

    def shape(self, rows: int, head_dim: int) -> dict[str, int]:
        """What all commands that read rows say."""
        return {"rows": rows, "beats": ceil_div(head_dim, self.config.kv_lanes), "words": head_dim // self.config.vector_lanes}

    def head_dim(self, rng: np.random.Generator) -> int:
        words = self.config.max_head_dim // self.config.vector_lanes
        return self.config.vector_lanes * int(rng.choice((1, words, rng.integers(1, words + 1))))


class ValueDeviationBench(UnitBench):
    """Lists of tokens whose values moved a little, much, or not at all."""

    def __init__(self, config: Any):
        super().__init__(config)
        self.cases = RowCases(config)

    def _list(self, items: Items, old: Rows, new: Rows, exponent: int) -> None:
        heads, rows, head_dim = old.values.shape
        for head in range(heads):
            items["i_command"].append(self.cases.shape(rows, head_dim) | {"exponent": exponent, "first": int(head == 0),
                                                                          "last": int(head == heads - 1)})
            items["i_old"] += self.cases.beats(old, head)
            items["i_new"] += self.cases.beats(new, head)
        scores, large = value_deviation(old.values, old.value_scales, new.values, new.value_scales, exponent=exponent,
                                        kv_bits=self.config.kv_bits)
        self.scores.append(scores)
        self.saturated |= large

    def _begin(self) -> Items:
        self.scores: list[list[int]] = []
        self.saturated = False
        return {"i_command": [], "i_old": [], "i_new": []}

    def _moved(self, rng: np.random.Generator, old: Rows) -> Rows:
        """The same rows, but for some tokens whose values are others."""
        heads, rows, head_dim = old.values.shape
        other = self.cases.rows(rng, heads, rows, head_dim, int(old.value_scales[..., 1].max(initial=-99)) + 16)
        moves = np.asarray(rng.random(rows) < 0.5)
        return old._replace(values=np.where(moves[:, None], other.values, old.values),
                            value_scales=np.where(moves[:, None], other.value_scales, old.value_scales))

    def stimulus(self, rng: random.Random, case: str) -> Items:
        generator, items = np.random.default_rng(rng.getrandbits(32)), self._begin()
        for _ in range(3):
            exponent = int(generator.integers(-100, 100))
            top = exponent + 17 - self.config.kv_bits + int(generator.choice((0, 0, -3, -16, 2)))
            heads, rows = int(generator.integers(1, 4)), rng.choice((1, 2, rng.randint(1, 8)))
            old = self.cases.rows(generator, heads, rows, self.cases.head_dim(generator), top, rng.choice((0, 3, 20)))
            self._list(items, old, self._moved(generator, old), exponent)
        return items

    def boundary(self) -> Items:
        """The largest differences of the largest scales, a step to each side of a half, scales that saturate or vanish; one row of one
        beat in many heads."""
        config, items = self.config, self._begin()
        half, full = 1 << config.kv_bits - 1, config.max_head_dim
        largest = 17 - config.kv_bits
        for top, exponent in ((largest, 0), (largest, 1), (largest, -1), (17, 0), (-40, 0), (-30000, 30000), (-30000, -32768),
                              (30000, 32767)):
            ends = np.array([[half - 1, -half], [-half, half - 1], [1, 0], [0, 1], [-1, 1]])
            values = np.repeat(ends[:, :, None], full, axis=2)
            scales = np.tile([0xFFFF, top - 16], (1, len(ends), 1))
            scales[0, -1, 0] = 0x8000
            old, new = (Rows(values[None, :, k], scales, values[None, :, k], scales) for k in (0, 1))
            self._list(items, old, new, exponent)
        generator = np.random.default_rng(0)
        least = min(config.kv_lanes, full)
        for rows in (1, 2):
            old, new = (self.cases.rows(generator, 6, rows, least, 17 - config.kv_bits) for _ in range(2))
            self._list(items, old, new, 0)
        return items

    def expected(self, stimulus: Items) -> Items:
        return {"o": [{"score": score, "last": int(k == len(scores) - 1)} for scores in self.scores for k, score in enumerate(scores)]}

    def levels(self, stimulus: Items) -> Mapping[str, int]:
        return {"saturated": int(self.saturated)}

    measured = (2, 6)
    """Heads and rows of the run that is measured."""

    def latency_stimulus(self) -> Items:
        generator, items = np.random.default_rng(0), self._begin()
        old, new = (self.cases.rows(generator, *self.measured, self.config.max_head_dim, 0) for _ in range(2))
        self._list(items, old, new, 0)
        return items

    def _beats(self) -> int:
        """Beats of a head of the measured run."""
        return self.measured[1] * self.cases.record_beats(self.config.max_head_dim)

    def measure(self, trace: Trace) -> dict[str, int]:
        """Every beat of both streams in a cycle of its own; between two heads an idle one."""
        beats, heads = self._beats(), self.measured[0]
        last_of_first_row = (heads - 1) * beats + self.cases.record_beats(self.config.max_head_dim) - 1
        found = {"latency": trace.latency("i_new", "o", last_of_first_row), "interval": 0, "between heads": 0}
        for name in ("i_old", "i_new"):
            gaps = [b - a for a, b in pairwise(trace.accepted[name])]
            found["between heads"] = max(found["between heads"], *gaps[beats - 1::beats])
            del gaps[beats - 1::beats]
            found["interval"] = max(found["interval"], *gaps)
        return found

    def figures(self, attributes: Mapping[str, Any]) -> Mapping[str, int]:
        return {"latency": attributes["latency"], "interval": attributes["interval"], "between heads": 2}


class TopShareBench(UnitBench):
    """Lists with many and with few equal scores; all shares."""

    patience = 8000

    def _lists(self, lists: Sequence[tuple[list[int], int]]) -> Items:
        return {"i": score_items([scores for scores, _ in lists]),
                "i_share": [{"share": share} for _, share in lists]}

    def stimulus(self, rng: random.Random, case: str) -> Items:
        lists = []
        for _ in range(5):
            length, bits = rng.choice((1, 2, rng.randint(1, 40))), rng.choice((1, 2, 6, SCORE_BITS))
            lists.append(([rng.getrandbits(bits) for _ in range(length)], rng.choice((0, 1, 38, 255, 256, rng.randint(0, 256)))))
        return self._lists(lists)

    def boundary(self) -> Items:
        depth, top = self.config.max_context, (1 << SCORE_BITS) - 1
        return self._lists([([top], 1), ([0] * 7, 0), ([top, 0, top, top - 1, 1], 256), ([0] * 5, 52), ([0] * 5, 51),
                            ([7, 7, 8, 7, 9], 511), (list(range(depth)), 128), ([1] * (depth + 3), 256), ([1] * depth, 255)])

    def expected(self, stimulus: Items) -> Items:
        out = []
        for scores, share in zip(score_lists(stimulus["i"]), stimulus["i_share"], strict=False):
            scores = scores[:self.config.max_context]
            chosen = top_indices(scores, share_count(len(scores), share["share"]))
            out += [{"index": index, "last": int(k == len(chosen) - 1)} for k, index in enumerate(chosen)]
        return {"o": out}

    def latency_stimulus(self) -> Items:
        return self._lists([([5] * self.config.max_context, 256)])

    def measure(self, trace: Trace) -> dict[str, int]:
        return {"latency": trace.delivered["o"][-1] - trace.accepted["i_share"][0], "interval": trace.interval("i")}


class RecomputeListBench(ValueDeviationBench):
    """The same lists, with a share of each."""

    patience = 30_000

    SHARES = (0, 1, 38, 128, 256)

    def _begin(self) -> Items:
        return {**super()._begin(), "i_share": []}

    def _list(self, items: Items, old: Rows, new: Rows, exponent: int) -> None:
        super()._list(items, old, new, exponent)
        number = len(self.scores)
        items["i_share"].append({"share": self.SHARES[(number + self.offset) % len(self.SHARES)]})

    offset = 0

    def stimulus(self, rng: random.Random, case: str) -> Items:
        self.offset = rng.randrange(len(self.SHARES))
        return super().stimulus(rng, case)

    def expected(self, stimulus: Items) -> Items:
        out = []
        for scores, share in zip(self.scores, stimulus["i_share"], strict=True):
            chosen = top_indices(scores, share_count(len(scores), share["share"]))
            out += [{"index": index, "last": int(k == len(chosen) - 1)} for k, index in enumerate(chosen)]
        return {"o": out}

    def latency_stimulus(self) -> Items:
        """All tokens of a context, of the shortest head."""
        generator, items = np.random.default_rng(0), self._begin()
        old, new = (self.cases.rows(generator, 1, self.config.max_context, self.config.vector_lanes, 0) for _ in range(2))
        self.offset = self.SHARES.index(256) - 1
        self._list(items, old, new, 0)
        return items

    def measure(self, trace: Trace) -> dict[str, int]:
        return {"latency": trace.delivered["o"][-1] - trace.accepted["i_new"][-1],
                "interval": max(trace.interval("i_old"), trace.interval("i_new"))}

    def figures(self, attributes: Mapping[str, Any]) -> Mapping[str, int]:
        return {"latency": attributes["latency"], "interval": attributes["interval"]}
