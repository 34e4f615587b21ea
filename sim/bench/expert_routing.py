"""Benches of what decides where tokens go: router, queues, selector."""

import random
from itertools import pairwise

from ..golden.queues import ExpertQueues
from ..golden.router import route
from ..golden.selector import select
from .expert_gemm import ExpertBench
from .trace import Trace
from .unit import Items

__all__ = ["ExpertQueuesBench", "OpSelectorBench", "RouterBench"]


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


class ExpertQueuesBench(ExpertBench):
    """Batches, each followed by reads and a clear. Some items are refused, some queues are full."""

    def constants(self):
        return {"spaces": 1}

    def _batch(self, rng: random.Random) -> tuple[list[dict[str, int]], list[dict[str, int]]]:
        config, most = self.config, self.config.max_tokens * self.config.top_k
        kind = rng.randrange(4)  # 0: one expert too often, 1: all too often
        items = []
        for k in range((config.max_tokens + 4, most + 4, rng.randrange(1, most), 3)[kind]):
            expert = 5 if kind == 0 else k % config.experts if kind == 1 else rng.randrange(config.experts)
            items.append({"token": rng.randrange(config.max_tokens), "expert": expert, "weight": rng.getrandbits(16), "cause": 0,
                          "last": 0})
            if rng.randrange(12) == 0:
                name, value = rng.choice([("token", config.max_tokens), ("token", 65535), ("expert", config.experts), ("expert", 255),
                                          ("cause", 1), ("cause", 2)])
                items[-1][name] = value
        items[-1]["last"] = 1
        reads = [{"expert": rng.choice([rng.randrange(config.experts), 5, config.experts, 255]), "clear": 0} for _ in range(6)]
        return items, [*reads, {"expert": rng.randrange(256), "clear": 1}]

    def _batches(self, rng: random.Random, count: int) -> Items:
        batches = [self._batch(rng) for _ in range(count)]
        return {"i": [item for items, _ in batches for item in items], "i_read": [read for _, reads in batches for read in reads]}

    def stimulus(self, rng: random.Random, case: str) -> Items:
        return self._batches(rng, 5)

    def latency_stimulus(self) -> Items:
        config = self.config
        return {"i": [{"token": k, "expert": k % 3, "weight": k, "cause": 0, "last": int(k == config.max_tokens - 1)}
                      for k in range(config.max_tokens)], "i_read": [{"expert": 2, "clear": 0}]}

    def measure(self, trace: Trace) -> dict[str, int]:
        return {"latency": trace.latency("i", "o_counts", self.config.max_tokens - 1), "read": trace.latency("i_read", "o"),
                "items": max(b - a for a, b in pairwise(trace.accepted["i"])),
                "tokens": max(b - a for a, b in pairwise(trace.delivered["o"]))}

    def figures(self, attributes):
        return {"latency": attributes["latency"], "read": 2, "items": 1, "tokens": 2}

    def expected(self, stimulus: Items) -> Items:
        model, reads = ExpertQueues(self.config), iter(stimulus["i_read"])
        results: Items = {"o_errors": [], "o_counts": [], "o": []}
        batch: list[dict[str, int]] = []
        for item in stimulus["i"]:
            batch.append(item)
            if not item["last"]:
                continue
            results["o_errors"] += model.add_batch(batch)
            results["o_counts"] += [{"count": count, "spaces": 1} for count in model.counts]
            batch = []
            for read in reads:
                if read["clear"]:
                    model.clear()
                    break
                results["o"] += model.read(read["expert"])
        return results


class OpSelectorBench(ExpertBench):
    THRESHOLD = 8 * 16 + 5

    def constants(self):
        return {"threshold": self.THRESHOLD}

    def stimulus(self, rng: random.Random, case: str) -> Items:
        items = []
        for _ in range(40):
            experts, most = rng.randrange(1, 65), rng.choice((2, 8, 17, 33))
            items += [{"uses": rng.randrange(most), "last": int(k == experts - 1)} for k in range(experts)]
        return {"i": items}

    def boundary(self) -> Items:
        at_threshold, above = [118, *[1] * 15], [119, *[1] * 15]  # 133 and 134 uses of 16 matrices
        layers = [[0], [65535] * 200, [0] * 64, [8], [9], [4], [5], at_threshold, [*at_threshold, 0], above]
        return {"i": [{"uses": use, "last": int(k == len(layer) - 1)} for layer in layers for k, use in enumerate(layer)]}

    def latency_stimulus(self) -> Items:
        return {"i": [{"uses": 7, "last": 1}]}

    def measure(self, trace: Trace) -> dict[str, int]:
        return {"latency": trace.latency("i", "o")}

    def expected(self, stimulus: Items) -> Items:
        results, uses = [], []
        for item in stimulus["i"]:
            uses.append(item["uses"])
            if item["last"]:
                results.append({"pim": int(select(uses, self.THRESHOLD, self.config.element)), "uses": sum(uses),
                                "loaded": sum(use != 0 for use in uses)})
                uses = []
        return {"o": results}
