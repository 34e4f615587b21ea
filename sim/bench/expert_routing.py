"""Benches of what decides where tokens go: router, queues, selector."""

import random
from itertools import pairwise

from ..golden.router import route
from .expert_gemm import ExpertBench
from .trace import Trace
from .unit import Items

__all__ = ["RouterBench"]


class RouterBench(ExpertBench):
    """Tokens with as many logits as there are experts, some with fewer, some refused."""

    def _tokens(self, tokens: list[list[int]]) -> Items:
        return {"i": [{"logit": logit, "last": int(k == len(token) - 1)} for token in tokens for k, logit in enumerate(token)]}

    def _logit(self, rng: random.Random, low: int, high: int) -> int:
        form = self.config.result_format
        return (rng.randrange(form.bias + low, form.bias + high) << form.fraction_bits | rng.getrandbits(form.fraction_bits)
                | rng.getrandbits(1) << form.storage_bits - 1)

    def stimulus(self, rng: random.Random, case: str) -> Items:
        config, tokens = self.config, []
        for _ in range(40 if config.experts < 64 else 12):
            count = config.experts if rng.randrange(4) else rng.randrange(1, config.experts + 4)
            low, high = rng.choice([(-3, 3), (-10, 0), (-1, 1), (0, 15)])
            pool = [self._logit(rng, low, high) for _ in range(rng.choice([3, count]))]  # few different ones: ties
            tokens.append([rng.choice(pool) for _ in range(count)])
            if rng.randrange(8) == 0:
                tokens[-1][rng.randrange(count)] = rng.choice([config.result_format.nan, config.result_format.infinity])
        return self._tokens(tokens)

    def boundary(self) -> Items:
        config, form = self.config, self.config.result_format
        sign, largest = 1 << form.storage_bits - 1, (form.bits + form.bias + form.low << form.fraction_bits) - 1
        values = (0, sign, 1, sign | 1, largest, sign | largest, largest + 1, form.nan, form.infinity | sign)
        tokens = [[value] * config.experts for value in values] + [[0] * (config.experts + 1), [0], [0] * config.top_k]
        tokens += [[sign | largest] * (config.experts - 1) + [largest], [0, sign] * (config.experts // 2), [sign, 0, 1, 0] * 2]
        return self._tokens(tokens)

    def latency_stimulus(self) -> Items:
        form = self.config.result_format
        return self._tokens([[form.bias + k % 4 << form.fraction_bits for k in range(self.config.experts)]] * 12)

    def measure(self, trace: Trace) -> dict[str, int]:
        taken = trace.accepted["i"]
        return {"latency": trace.latency("i", "o", self.config.experts - 1),
                "interval": max(b - a for a, b in pairwise(taken))}

    def expected(self, stimulus: Items) -> Items:
        results, token = [], []
        for item in stimulus["i"]:
            token.append(item["logit"])
            if not item["last"]:
                continue
            selected, error = route(self.config, token)
            results += [{"expert": expert, "weight": weight, "cause": 0, "last": int(k == len(selected) - 1)}
                        for k, (expert, weight) in enumerate(selected)]
            if error:
                results.append({"expert": 0, "weight": self.config.result_format.nan, "cause": int(error), "last": 1})
            token = []
        return {"o": results}
