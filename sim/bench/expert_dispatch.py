"""Bench of the dispatch: batches of router logits."""

import random
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from ...accelerators.experts.coprocess import CoprocessScheduler
from ..golden.dispatch import dispatch
from ..timing.promises import promised
from .expert_gemm import ExpertBench
from .trace import Trace
from .unit import Items

__all__ = ["ExpertDispatchBench"]

Batch = list[list[int]]
FIRST_LIST, BETWEEN_LISTS, BETWEEN_TOKENS = 4, 4, 2


class ExpertDispatchBench(ExpertBench):
    """Batches one behind the other, by one pair of tables a run; with a table of even length experts of a space stay together.

    Some tokens are refused, some experts are chosen much more often than others, some batches have more tokens than the tables.
    """

    def _items(self, table: list[tuple[int, int]], batches: list[Batch]) -> Items:
        return {"i_table": [{"xpu": x, "pim": p, "last": int(n == len(table) - 1)} for n, (x, p) in enumerate(table)],
                "i": [{"logit": logit, "last": int(k == len(token) - 1), "end": int(number == len(batch) - 1) if k == len(token) - 1
                       else logit & 1} for batch in batches for number, token in enumerate(batch) for k, logit in enumerate(token)]}

    def _number(self, exponent: int, fraction: int, sign: int = 0) -> int:
        form = self.config.result_format
        return sign << form.storage_bits - 1 | exponent + form.bias << form.fraction_bits | fraction & (1 << form.fraction_bits) - 1

    def _batch(self, rng: random.Random, tokens: int, skew: int, refused: float) -> Batch:
        """Larger ``skew``: more tokens go to the same experts."""
        experts, bad = self.config.experts, (self.config.result_format.nan, self.config.result_format.infinity)
        favourites = rng.sample(range(experts), self.config.top_k)
        batch = []
        for _ in range(tokens):
            token = [self._number(rng.randrange(-6, 1), rng.getrandbits(10), rng.getrandbits(1)) for _ in range(experts)]
            for expert in favourites if rng.randrange(4) < skew else ():
                token[expert] = self._number(1, rng.getrandbits(10))
            if rng.random() < refused:
                token = rng.choice((token[:self.config.top_k - 1] or [bad[0]], [*token, 0], [*token[1:], rng.choice(bad)]))
            batch.append(token)
        return batch

    def stimulus(self, rng: random.Random, case: str) -> Items:
        most = self.config.max_tokens
        size = rng.choice((most + 1, most, rng.randrange(most // 2, most + 1)))
        slopes = rng.choice((0, 300)), rng.choice((40, 500))
        table = [(0, 0), *((400 + slopes[0] * n, 100 + slopes[1] * -(-n // 8)) for n in range(1, size))]
        batches = [self._batch(rng, rng.choice((1, rng.randrange(1, most // 2))), rng.randrange(5), rng.choice((0, 0, 0.2, 0.9)))
                   for _ in range(3)]
        if case == "stress":
            batches.append(self._batch(rng, most, 3, 0))
        return self._items(table, batches)

    def boundary(self) -> Items:
        """Every token to the same experts, one token too many, no token that is good, an expert with more tokens than the tables."""
        rng, most = random.Random(4), self.config.max_tokens
        times = [(0, 0), *((100, 7 * n) for n in range(1, most))]
        return self._items(times, [self._batch(rng, 1, 4, 0), self._batch(rng, most + 1, 0, 0), self._batch(rng, 2, 0, 1),
                                   self._batch(rng, most, 4, 0), self._batch(rng, most - 1, 4, 0), self._batch(rng, 1, 4, 0)])

    def latency_stimulus(self) -> Items:
        """A batch; then one whose last token is refused: its error comes a cycle before the first count."""
        rng, most = random.Random(5), self.config.max_tokens
        batches = self._batch(rng, 8, 0, 0), self._batch(rng, 3, 0, 0)
        batches[1][-1][0] = self.config.result_format.nan
        return self._items([(0, 0), *((100, 60 * n) for n in range(1, most + 1))], list(batches))

    def measure(self, trace: Trace) -> dict[str, int]:
        taken, decisions, (error,) = trace.accepted["i"], trace.delivered["o_decision"], trace.delivered["o_errors"]
        xpu, pim = ([cycle for cycle in trace.delivered[name] if cycle < decisions[1]] for name in ("o_xpu", "o"))
        given = xpu + pim
        gaps = [later - earlier for earlier, later in pairwise(given)]  # negative if the xPU's do not come first
        return {"latency": decisions[0] - taken[8 * self.config.experts - 1], "decision": decisions[1] - error - 1,
                "first list": given[0] - decisions[0], "next list": max(gaps), "tokens": min(gaps)}

    def figures(self, attributes: Mapping[str, Any]) -> Mapping[str, int]:
        scheduler = promised(CoprocessScheduler(self.config))
        return {"latency": attributes["latency"], "decision": self.config.experts - 1 + scheduler.latency,
                "first list": FIRST_LIST, "next list": BETWEEN_LISTS, "tokens": BETWEEN_TOKENS}

    def begin(self, stimulus: Items) -> None:
        self.spaces = self._spaces(stimulus)

    def _spaces(self, stimulus: Items) -> bool:
        return len(stimulus["i_table"]) % 2 == 0

    def control(self, cycle: int, level: Any) -> dict[str, int]:
        return {"spaces": int(self.spaces)}

    def expected(self, stimulus: Items) -> Items:
        xpu, pim = ([entry[name] for entry in stimulus["i_table"]] for name in ("xpu", "pim"))
        results: Items = {"o_errors": [], "o_decision": [], "o": [], "o_xpu": []}
        batch: Batch = [[]]
        for item in stimulus["i"]:
            batch[-1].append(item["logit"])
            if not item["last"]:
                continue
            if not item["end"]:
                batch.append([])
                continue
            made = dispatch(self.config, batch, xpu, pim, spaces=self._spaces(stimulus))
            results["o_errors"] += made.errors
            results["o_decision"].append({
                "pim": sum(1 << expert for expert in made.pim), "xpu": sum(1 << expert for expert in made.xpu),
                "makespan": made.decision.makespan, "error": int(made.decision.error)})
            for name, side in (("o", made.pim), ("o_xpu", made.xpu)):
                results[name] += [{"expert": expert, "token": token, "weight": weight, "last": int(k == len(tokens) - 1)}
                                  for expert, tokens in side.items() for k, (token, weight) in enumerate(tokens)]
            batch = [[]]
        return results
