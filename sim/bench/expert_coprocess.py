"""Bench of the co-processing scheduler."""

import random
from collections.abc import Mapping
from typing import Any

from ..golden.coprocess import decide
from .expert_gemm import ExpertBench
from .trace import Trace
from .unit import Items

__all__ = ["CoprocessSchedulerBench"]

Table = list[tuple[int, int]]


class CoprocessSchedulerBench(ExpertBench):
    """Decisions by one pair of tables a run; in some the experts of a space stay together."""

    def _items(self, table: Table, decisions: list[list[int]], spaces: list[int]) -> Items:
        """``spaces`` only counts on the first item of a decision: on all others it is anything."""
        return {"i_table": [{"xpu": x, "pim": p, "last": int(n == len(table) - 1)} for n, (x, p) in enumerate(table)],
                "i": [{"count": count, "spaces": space if k == 0 else count & 1}
                      for counts, space in zip(decisions, spaces, strict=True) for k, count in enumerate(counts)]}

    def stimulus(self, rng: random.Random, case: str) -> Items:
        config, top = self.config, (1 << 24) - 1
        size = config.max_tokens + 1 if rng.randrange(3) else rng.randrange(2, config.max_tokens + 1)
        rising = rng.randrange(2)
        times = [[rng.randrange(1, rng.choice((4, 1000, top))) for _ in range(size - 1)] for _ in range(2)]
        table = [(0, 0), *zip(*(sorted(each) if rising else each for each in times), strict=True)]
        kind = rng.randrange(3)
        decisions = [[rng.randrange(size) if kind == 0 else min(size - 1, int(rng.expovariate(0.3))) if kind == 1
                      else rng.choice((0, 1, size - 1)) for _ in range(config.experts)] for _ in range(4)]
        if size <= config.max_tokens and rng.randrange(2):
            decisions[1][rng.randrange(config.experts)] = size  # beyond the tables
        return self._items(table, decisions, [rng.randrange(2) for _ in decisions])

    def boundary(self) -> Items:
        config, top = self.config, (1 << 24) - 1
        table = [(0, 0), *[(top, top)] * config.max_tokens]
        return self._items(table, [[0] * config.experts, [1] * config.experts, [config.max_tokens] * config.experts,
                                   [k % 2 for k in range(config.experts)]], [0, 1, 0, 1])

    def latency_stimulus(self) -> Items:
        table = [(n and 100, 7 * n) for n in range(self.config.max_tokens + 1)]
        return self._items(table, [list(range(self.config.experts)) if self.config.experts < self.config.max_tokens
                                   else [1] * self.config.experts], [0])

    def measure(self, trace: Trace) -> dict[str, int]:
        first = trace.accepted["i"][0]
        return {"latency": trace.latency("i", "o", self.config.experts - 1), "first to last": trace.delivered["o"][0] - first}

    def figures(self, attributes: Mapping[str, Any]) -> Mapping[str, int]:
        return {"latency": attributes["latency"], "first to last": attributes["latency"] + self.config.experts - 1}

    def expected(self, stimulus: Items) -> Items:
        xpu, pim = ([entry[name] for entry in stimulus["i_table"]] for name in ("xpu", "pim"))
        items, results = stimulus["i"], []
        for at in range(0, len(items) - self.config.experts + 1, self.config.experts):
            counts = [item["count"] for item in items[at:at + self.config.experts]]
            decision = decide(counts, xpu, pim, spaces=bool(items[at]["spaces"]))
            results.append({"mask": decision.mask, "xpu": decision.xpu, "pim": decision.pim, "error": int(decision.error)})
        return {"o": results}
