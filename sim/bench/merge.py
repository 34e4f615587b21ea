"""Bench of the merge of partial attention results."""

import random
from typing import Any

import numpy as np

from ..golden.merge import Partial, merge
from .trace import Trace
from .unit import Items, UnitBench

__all__ = ["PartialMergeBench"]


class PartialMergeBench(UnitBench):
    """Parts of all kinds: far from each other, equal, without a row, without a V scale."""

    def __init__(self, config: Any):
        super().__init__(config)
        self.lanes = config.vector_lanes
        self.sum_bits = config.probability_bits + config.max_context.bit_length()
        self.acc_bits = self.sum_bits + config.kv_bits

    def _part(self, rng: random.Random, words: int, near: int) -> Partial:
        kind = rng.choices(("empty", "undefined", "defined"), (1, 1, 8))[0]
        if kind == "empty":
            return Partial(rng.randint(-99, 99), 0, rng.randint(-99, 99), False, self._acc(rng, words))
        return Partial(rng.randint(-near, near), rng.randint(1, (1 << self.sum_bits - 1) - 1), rng.randint(-near, near),
                       kind == "defined", self._acc(rng, words))

    def _acc(self, rng: random.Random, words: int) -> np.ndarray:
        limit = 1 << self.acc_bits - 2
        return np.array([rng.choice((rng.randrange(-limit, limit), rng.randint(-9, 9))) for _ in range(words * self.lanes)], np.int64)

    def _items(self, pairs: list[tuple[Partial, Partial]]) -> Items:
        items: Items = {"i_parts": [], "i": []}
        for pair in pairs:
            items["i_parts"].append({name: self._fields(part) for name, part in zip("ab", pair, strict=True)})
            words = len(pair[0].acc) // self.lanes
            a, b = (part.acc.reshape(words, self.lanes).tolist() for part in pair)
            items["i"] += [{"a": a[k], "b": b[k], "last": int(k == words - 1)} for k in range(words)]
        return items

    @staticmethod
    def _fields(part: Partial) -> dict[str, int]:
        return {"sum": part.total, "exponent": part.exponent, "defined": int(part.defined), "maximum": part.maximum}

    def stimulus(self, rng: random.Random, case: str) -> Items:
        pairs = []
        for _ in range(25):
            words, near = rng.choice((1, 2, rng.randint(1, 12))), rng.choice((0, 2, 20, 2000))
            pairs.append((self._part(rng, words, near), self._part(rng, words, near)))
        return self._items(pairs)

    def boundary(self) -> Items:
        limit = 1 << self.acc_bits - 2
        acc = np.array([-limit, limit - 1] * self.lanes, np.int64)
        largest = (1 << self.sum_bits - 1) - 1
        parts = [Partial(0, largest, 0, True, acc), Partial(31, largest, 0, True, acc), Partial(32, 1, 0, True, acc),
                 Partial(2000, largest, -2000, True, acc), Partial(-2000, largest, 4000, True, acc), Partial(0, 0, 0, False, acc)]
        return self._items([(a, b) for a in parts for b in parts])

    def expected(self, stimulus: Items) -> Items:
        items: Items = {"o_part": [], "o": []}
        words = iter(stimulus["i"])
        for both in stimulus["i_parts"]:
            packet: list[dict[str, Any]] = []
            while not packet or not packet[-1]["last"]:
                packet.append(next(words))
            pair = [Partial(part["maximum"], part["sum"], part["exponent"], bool(part["defined"]),
                            np.concatenate([word[name] for word in packet]).astype(np.int64)) for name, part in both.items()]
            merged = merge(*pair)
            items["o_part"].append(self._fields(merged))
            items["o"] += [{"sums": merged.acc[k * self.lanes:(k + 1) * self.lanes].tolist(), "last": word["last"]}
                           for k, word in enumerate(packet)]
        return items

    def measure(self, trace: Trace) -> dict[str, int]:
        return {"latency": trace.latency("i", "o")}
