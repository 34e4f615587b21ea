"""Benches of the expert unit's arithmetic."""

import random
from typing import Any

import numpy as np

from ...accelerators.experts.config import ExpertConfig
from ..golden.floats import SPLIT, encode, round_sum
from .unit import Items, UnitBench

__all__ = ["ExpertBench", "SumRounderBench"]


class ExpertBench(UnitBench):
    """A bench of a part of the expert unit."""

    Config = ExpertConfig


class SumRounderBench(ExpertBench):
    SCALE = {"mantissa": 51234, "exponent": -40}

    def constants(self):
        return {} if self.config.format.exponent_bits else {"scale": self.SCALE["mantissa"] | (self.SCALE["exponent"] & 255) << 16}

    def _sum(self, rng: random.Random) -> int:
        """Of any size, and near a tie in one case of four."""
        width = self.config.sum_bits - 1
        length = rng.randrange(width + 1)
        value = rng.getrandbits(length) if length else 0
        if rng.randrange(4) == 0 and length > 16:
            value = (value >> length - 13 | 1) << length - 13
            value += rng.choice([-1, 0, 0, 1])
        return value if rng.randrange(2) else -value

    def stimulus(self, rng: random.Random, case: str) -> Items:
        return {"i": [{"sum": self._sum(rng), "special": int(rng.randrange(12) == 0), "tag": rng.randrange(256)} for _ in range(200)]}

    def boundary(self) -> Items:
        top = 1 << self.config.sum_bits - 1
        values = [0, 1, -1, top - 1, -top + 1, top >> 1, 1 << 24, (1 << 24) - 1, 3, 5, 6, 7]
        return {"i": [{"sum": value, "special": special, "tag": 255} for value in values for special in (0, 1)]}

    def expected(self, stimulus: Items) -> Items:
        return {"o": [{"value": self.rounded(item["sum"], item["special"]), "tag": item["tag"]} for item in stimulus["i"]]}

    def rounded(self, value: int, special: int) -> int:
        return int(rounded_sums(self.config, [value], [special], self.SCALE)[0])


def rounded_sums(config: ExpertConfig, sums: Any, special: Any, scale: dict[str, int]) -> np.ndarray:
    """What ``SumRounder`` makes of integer sums of any size."""
    if not config.format.exponent_bits:
        values = np.array([int(value) * scale["mantissa"] for value in sums], np.int64)
        bits = encode(values, scale["exponent"], "fp16")
        return np.where(np.array(special, bool), config.result_format.nan, bits)
    high = np.array([int(value) >> SPLIT for value in sums], np.int64)
    low = np.array([int(value) & (1 << SPLIT) - 1 for value in sums], np.int64)
    return round_sum(high, low, np.array(special, bool), config.element, 2 * config.format.low)
