"""Bench of the merge of partial attention results."""

import random
from dataclasses import replace
from typing import Any

import numpy as np

from ..golden.attention import Partial
from ..golden.merge import merge
from .attention_operations import part_fields
from .trace import Trace
from .unit import Items, UnitBench

__all__ = ["PartialMergeBench", "PartialReduceBench", "PartsBench"]


class PartsBench(UnitBench):
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

    def _words(self, acc: np.ndarray) -> list[dict[str, Any]]:
        words = acc.reshape(-1, self.lanes).tolist()
        return [{"sums": word, "last": int(k == len(words) - 1)} for k, word in enumerate(words)]


class PartialMergeBench(PartsBench):
    """Pairs of parts."""

    def _items(self, pairs: list[tuple[Partial, Partial]]) -> Items:
        items: Items = {"i_parts": [], "i": []}
        for pair in pairs:
            items["i_parts"].append({name: part_fields(part) for name, part in zip("ab", pair, strict=True)})
            words = len(pair[0].acc) // self.lanes
            a, b = (part.acc.reshape(words, self.lanes).tolist() for part in pair)
            items["i"] += [{"a": a[k], "b": b[k], "last": int(k == words - 1)} for k in range(words)]
        return items

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
            items["o_part"].append(part_fields(merged))
            items["o"] += self._words(merged.acc)
        return items

    def measure(self, trace: Trace) -> dict[str, int]:
        return {"latency": trace.latency("i", "o")}


class PartialReduceBench(PartsBench):
    """Operations of any number of lanes and parts."""

    def _items(self, operations: list[list[list[Partial]]]) -> Items:
        """Of operations, parts, lanes."""
        items: Items = {"i_command": [], "i_part": [], "i_sums": []}
        for parts in operations:
            items["i_command"].append({"lanes": len(parts[0]), "parts": len(parts)})
            for part in (part for lanes in parts for part in lanes):
                items["i_part"].append(part_fields(part))
                items["i_sums"] += self._words(part.acc)
        return items

    def stimulus(self, rng: random.Random, case: str) -> Items:
        operations = []
        for _ in range(8):
            words, near = rng.randint(1, self.config.max_head_dim // self.lanes), rng.choice((0, 2, 20, 2000))
            lanes = rng.randint(1, self.config.query_lanes)
            operations.append([[self._small(rng, words, near) for _ in range(lanes)] for _ in range(rng.randint(1, 8))])
        return self._items(operations)

    def _small(self, rng: random.Random, words: int, near: int) -> Partial:
        """A part of which the sums of 64 are in range."""
        part = self._part(rng, words, near)
        return replace(part, total=part.total and (part.total >> 6 or 1), acc=part.acc >> 6)

    def boundary(self) -> Items:
        """The most parts, all lanes, the largest head; one word of one lane in between."""
        rng, words = random.Random(0), self.config.max_head_dim // self.lanes
        one = [[self._small(rng, 1, 2)]]
        full = [[self._small(rng, words, 2) for _ in range(self.config.query_lanes)] for _ in range(8)]
        return self._items([one, full, one, [[self._small(rng, 1, 2)] for _ in range(64)], one])

    def latency_stimulus(self) -> Items:
        return self._items([[[self._small(random.Random(0), 4, 2)]]])

    def expected(self, stimulus: Items) -> Items:
        items: Items = {"o_part": [], "o_sums": []}
        fields, words = iter(stimulus["i_part"]), iter(stimulus["i_sums"])
        for command in stimulus["i_command"]:
            lanes: list[Partial | None] = [None] * command["lanes"]
            for _ in range(command["parts"]):
                for lane, so_far in enumerate(lanes):
                    part, packet = next(fields), [next(words)]
                    while not packet[-1]["last"]:
                        packet.append(next(words))
                    part = Partial(part["maximum"], part["sum"], part["exponent"], bool(part["defined"]),
                                   np.concatenate([word["sums"] for word in packet]).astype(np.int64))
                    # The first one too, so that what it has of what it has not is 0.
                    lanes[lane] = merge(part, so_far or Partial(0, 0, 0, False, np.zeros_like(part.acc)))
            for merged in lanes:
                assert merged is not None
                items["o_part"].append(part_fields(merged))
                items["o_sums"] += self._words(merged.acc)
        return items

    def measure(self, trace: Trace) -> dict[str, int]:
        return {"latency": trace.latency("i_sums", "o_sums")}
