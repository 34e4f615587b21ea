"""Bench of the selection of the largest scores."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from ..golden.select import top_indices
from .trace import Trace
from .unit import Items, UnitBench

__all__ = ["TopSelectBench", "score_items", "score_lists"]

BITS = 32


def score_items(lists: Sequence[Sequence[int]]) -> list[dict[str, int]]:
    """Lists of scores as a stream."""
    return [{"score": score, "last": int(k == len(scores) - 1)} for scores in lists for k, score in enumerate(scores)]


def score_lists(items: Sequence[Mapping[str, int]]) -> list[list[int]]:
    """The complete lists of such a stream."""
    lists: list[list[int]] = [[]]
    for item in items:
        lists[-1].append(item["score"])
        if item["last"]:
            lists.append([])
    return lists[:-1]


class TopSelectBench(UnitBench):
    """Lists with many and with few equal scores; all counts."""

    patience = 6000

    def _lists(self, lists: list[tuple[list[int], int]]) -> Items:
        return {"i": score_items([scores for scores, _ in lists]),
                "i_command": [{"count": count} for _, count in lists]}

    def stimulus(self, rng: random.Random, case: str) -> Items:
        lists = []
        for _ in range(5):
            length, bits = rng.choice((1, 2, rng.randint(1, 40))), rng.choice((1, 2, 6, BITS))
            scores = [rng.getrandbits(bits) << rng.choice((0, 0, BITS - bits)) for _ in range(length)]
            lists.append((scores, rng.choice((0, 1, length, min(length + 1, self.config.max_context), rng.randint(0, length)))))
        return self._lists(lists)

    def boundary(self) -> Items:
        depth, top = self.config.max_context, (1 << BITS) - 1
        return self._lists([([0], 1), ([top], 1), ([top, 0, top, top - 1, 1], 3), ([0] * 5, 2), ([top] * 5, 4), ([7, 7, 8, 7, 9], 3),
                            (list(range(depth)), depth // 2), ([1] * (depth + 3), depth)])

    def expected(self, stimulus: Items) -> Items:
        chosen = [top_indices(scores[:self.config.max_context], command["count"])
                  for scores, command in zip(score_lists(stimulus["i"]), stimulus["i_command"], strict=False)]
        return {"o": [{"index": index, "last": int(k == len(each) - 1)} for each in chosen for k, index in enumerate(each)]}

    def latency_stimulus(self) -> Items:
        return self._lists([([5] * self.config.max_context, self.config.max_context)])

    def measure(self, trace: Trace) -> dict[str, int]:
        return {"latency": trace.delivered["o"][-1] - trace.accepted["i_command"][0], "interval": trace.interval("i")}

    def figures(self, attributes: Mapping[str, Any]) -> Mapping[str, int]:
        return attributes
