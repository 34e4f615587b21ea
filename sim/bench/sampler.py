"""Bench of the sampler."""

import random
from collections.abc import Mapping
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import numpy as np

from ..golden.numerics import Scalar
from ..golden.sampler import Sampler
from .agents import BenchFailure
from .trace import Trace
from .unit import Items, UnitBench

__all__ = ["SamplerBench"]

Draw = tuple[list[int], bool, int, Scalar]  # logits, greedy, k, scale


class SamplerBench(UnitBench):
    """Logit vectors, greedy and sampled; the random state goes on from one to the next."""

    patience = 8000  # a draw of 64 candidates moves nothing for some 6000 cycles
    modules = ("llmrtl.sim.bench.menu", "llmrtl.sim.bench.sampler_cases")

    def items(self, draws: list[Draw]) -> Items:
        return {
            "i_command": [{"greedy": greedy, "k": k, "scale": asdict(scale)}
                          for _, greedy, k, scale in draws],
            "i": [{"index": index, "value": value, "last": index == len(logits) - 1}
                  for logits, *_ in draws for index, value in enumerate(logits)],
        }

    def _draw(self, rng: random.Random) -> Draw:
        spread = rng.choice((2, 10, 40, 46))
        size = rng.randint(1, min(60, self.config.max_vocab))
        logits = [rng.randrange(-(1 << spread), 1 << spread) for _ in range(size)]
        if rng.random() < 0.2:
            logits.sort()
        mantissa = rng.randrange(1 << 23, 1 << 24)
        # The best candidates are some units of log2 apart: a real choice.
        scale = Scalar(mantissa, rng.randint(-26, -18) - spread)
        return logits, rng.random() < 0.3, rng.randint(1, self.config.top_k), scale

    def stimulus(self, rng: random.Random, case: str) -> Items:
        return self.items([self._draw(rng) for _ in range(12)])

    def boundary(self) -> Items:
        """Extreme values, distances and scales; ties; one logit; fewer logits than k; nothing probable."""
        low, high, k = -(1 << 47), (1 << 47) - 1, self.config.top_k
        zero, one = Scalar(0, 0), Scalar(1 << 23, -23)
        draws: list[Draw] = [
            ([low], True, 1, zero), ([low], False, k, one), ([high], False, k, one),
            ([low, high], False, 2, zero), ([high, low] * 4, False, k, zero),
            ([low] * (k + 3), False, k, one), ([5] * 20, True, 1, one),
            ([high, low, high - 1], False, 3, Scalar((1 << 24) - 1, 100)),
            ([7, 6, 6, 5], False, 4, Scalar((1 << 24) - 1, -23 - self.config.logit_frac_bits)),
        ]
        for exponent in (-(1 << 15), -120, -90, -83, -82, -81, -75, -70, -50, -30, -20, 0, 30, (1 << 15) - 1):
            draws.append(([high, low, 0, high - 1], False, 4, Scalar((1 << 24) - 1, exponent)))
        draws.append((list(range(3 * k)), False, k, Scalar(1 << 23, -30)))
        return self.items([(logits, greedy, min(limit, k), scale) for logits, greedy, limit, scale in draws])

    def expected(self, stimulus: Items) -> Items:
        golden = Sampler(self.config)
        logits = iter(stimulus["i"])
        out = []
        for command in stimulus["i_command"]:
            values = []
            while True:
                logit = next(logits)
                values.append(logit["value"])
                if logit["last"]:
                    break
            token, value = golden.sample(np.array(values), greedy=command["greedy"], k=command["k"],
                                         scale=Scalar(**command["scale"]))
            out.append({"token": token, "value": value})
        return {"o": out}

    def latency_stimulus(self) -> Items:
        """Falling logits: nothing is inserted after the first k. The longest shift takes longest."""
        self.ks = (0, 1, self.config.top_k)
        scale = Scalar(1 << 23, -(1 << 15))
        logits = [-(index << 40) for index in range(50)]
        return self.items([(logits, k == 0, max(k, 1), scale) for k in self.ks])

    def measure(self, trace: Trace) -> dict[str, int]:
        """Greedy latency and interval after the insertion; the bound of the docstring for sampled draws."""
        taken, given = trace.accepted["i"], trace.delivered["o"]
        for draw, k in enumerate(self.ks):
            cycles = given[draw] - taken[50 * draw + 49]
            if k and cycles > 35 + 95 * k:
                raise BenchFailure(f"a draw of k = {k} took {cycles} cycles, more than {35 + 95 * k}")
        gaps = [after - before for before, after in pairwise(taken[1:50])]
        return {"latency": given[0] - taken[49], "interval": max(gaps)}

    def figures(self, attributes: Mapping[str, Any]) -> Mapping[str, int]:
        return {"latency": attributes["latency"], "interval": attributes["interval"]}
