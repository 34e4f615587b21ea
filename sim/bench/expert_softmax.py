"""Bench of the softmax of decode attention."""

import random

import numpy as np

from ..golden.expert_softmax import SCALE_BITS, softmax
from .expert_gemm import ExpertBench
from .trace import Trace
from .unit import Items

__all__ = ["GroupSoftmaxBench"]


class GroupSoftmaxBench(ExpertBench):
    """Operations of a group of six query heads; some with a special score, one with too many positions."""

    GROUP = 6
    SCALE = round(1.4426950408889634 / 128 ** 0.5 * 2 ** SCALE_BITS)

    def constants(self):
        return {"lanes": self.GROUP, "scale": self.SCALE}

    def _operations(self, operations: list[np.ndarray]) -> Items:
        return {"i": [{"score": int(score), "last": int(k == each.size - 1)} for each in operations
                      for k, score in enumerate(each.ravel())]}

    def _scores(self, rng: random.Random, positions: int) -> np.ndarray:
        form, reach = self.config.result_format, rng.choice((1, 6))
        scores = [[rng.randrange(form.bias - 6, form.bias + reach) << form.fraction_bits | rng.getrandbits(form.fraction_bits)
                   | rng.getrandbits(1) << form.storage_bits - 1 for _ in range(self.GROUP)] for _ in range(positions)]
        if rng.randrange(3) == 0:
            scores[rng.randrange(positions)][rng.randrange(self.GROUP)] = rng.choice([form.nan, form.infinity, form.nan | 1 << 15])
        return np.array(scores)

    def stimulus(self, rng: random.Random, case: str) -> Items:
        return self._operations([self._scores(rng, rng.choice((1, 2, 9, 24))) for _ in range(5)])

    def boundary(self) -> Items:
        form, rng = self.config.result_format, random.Random(5)
        most = self.config.max_intermediate * self.config.token_lanes // self.GROUP
        largest = (form.bits + form.bias + form.low << form.fraction_bits) - 1
        extremes = [0, 1, 1 << form.storage_bits - 1, largest, largest | 1 << form.storage_bits - 1]
        ends = np.array([[rng.choice(extremes) for _ in range(self.GROUP)] for _ in range(30)])
        return self._operations([ends, self._scores(rng, most), self._scores(rng, most + 2), self._scores(rng, 2)])

    def latency_stimulus(self) -> Items:
        return self._operations([np.full((1, self.GROUP), self.config.result_format.bias << self.config.result_format.fraction_bits)])

    def measure(self, trace: Trace) -> dict[str, int]:
        return {"latency": trace.latency("i", "o", self.GROUP - 1)}

    def expected(self, stimulus: Items) -> Items:
        results: Items = {"o": [], "o_weight": []}
        scores: list[int] = []
        most = self.config.max_intermediate * self.config.token_lanes
        for item in stimulus["i"]:
            scores.append(item["score"])
            if not item["last"]:
                continue
            kept = np.array(scores[:most] + [0] * (-min(len(scores), most) % self.GROUP)).reshape(-1, self.GROUP)
            p, weight = softmax(self.config, kept, self.SCALE)
            if len(scores) > most:
                p[:], weight[:] = self.config.format.nan, self.config.result_format.nan
            results["o"] += [{"p": int(each), "lane": k % self.GROUP, "last": int(k == min(len(scores), most) - 1)}
                             for k, each in enumerate(p.ravel()[:most]) if k < len(scores)]
            results["o_weight"] += [{"weight": int(each), "lane": k, "last": int(k == self.GROUP - 1)} for k, each in enumerate(weight)]
            scores = []
        return results
