"""Benches of the expert unit's arithmetic."""

import random
from typing import Any

import numpy as np

from ...accelerators.experts.config import ExpertConfig
from ..golden.floats import SPLIT, decode, encode, round_sum
from .unit import Items, UnitBench

__all__ = ["ExpertBench", "GemmBench", "SumRounderBench", "rounded_sums"]


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


class GemmBench(ExpertBench):
    SCALE = SumRounderBench.SCALE

    def constants(self):
        return SumRounderBench.constants(self)  # type: ignore[arg-type]

    def _word(self, rng: random.Random, extreme: bool = False) -> list[int]:
        """Stored elements; of floats mostly of moderate size, some of any."""
        bits = self.config.format.storage_bits
        if bits == 8:
            return [rng.choice([-128, 127]) & 255 if extreme else rng.getrandbits(8) for _ in range(self.config.lanes)]
        form, any_bits = self.config.format, rng.randrange(8) == 0
        normal = [rng.randrange(form.bias - 12, form.bias + 5) << form.fraction_bits | rng.getrandbits(form.fraction_bits)
                  | rng.getrandbits(1) << bits - 1 for _ in range(self.config.lanes)]
        if extreme:
            largest = form.infinity - 1
            return [rng.choice([largest, largest | 1 << bits - 1, 0, 1, 1 << bits - 1]) for _ in normal]
        return [rng.getrandbits(bits) if any_bits else value for value in normal]

    def _rows(self, rng: random.Random, rows: int, extreme: bool = False) -> Items:
        """Rows of weights over one or more stretches of words, each over all tiles, as they come from a buffer."""
        config, items = self.config, []

        def packed(word: list[int]) -> int:
            return sum(value << k * config.format.storage_bits for k, value in enumerate(word))
        for _ in range(rows):
            tiles = rng.randrange(1, config.tiles + 1)
            stretches = [rng.randrange(1, 9) for _ in range(rng.randrange(1, 3))]
            for number, words in enumerate(stretches):
                weights = [packed(self._word(rng, extreme)) for _ in range(words)]
                for tile in range(tiles):
                    items += [{"weights": weight, "x": [packed(self._word(rng, extreme)) for _ in range(config.token_lanes)],
                               "tile": tile, "first": int(number == 0 and k == 0),
                               "last": int(number == len(stretches) - 1 and k == words - 1)} for k, weight in enumerate(weights)]
        return {"i": items}

    def stimulus(self, rng: random.Random, case: str) -> Items:
        return self._rows(rng, 6)

    def boundary(self) -> Items:
        return self._rows(random.Random(1), 6, extreme=True)

    def latency_stimulus(self) -> Items:
        items = self._rows(random.Random(2), 1)["i"][:1]
        return {"i": [item | {"first": 1, "last": 1, "tile": 0} for item in items]}

    def measure(self, trace):
        return {"latency": trace.latency("i", "o")}

    def figures(self, attributes):
        return {"latency": attributes["latency"]}

    def expected(self, stimulus: Items) -> Items:
        config, bits, results = self.config, self.config.format.storage_bits, []
        sums: dict[tuple[int, int], tuple[int, bool]] = {}

        def elements(word: int) -> tuple[np.ndarray, np.ndarray]:
            return decode(np.array([word >> k * bits & (1 << bits) - 1 for k in range(config.lanes)]), config.element)
        for item in stimulus["i"]:
            w, special_w = elements(item["weights"])
            for lane, word in enumerate(item["x"]):
                x, special_x = elements(word)
                value, special = (0, False) if item["first"] else sums[item["tile"], lane]
                special = bool(special or (special_w | special_x).any())
                # A special element's integer means nothing: neither does the sum.
                value += sum(int(a) * int(b) for a, b in zip(x, w, strict=True))
                sums[item["tile"], lane] = value, special
                if item["last"]:
                    (got,) = rounded_sums(config, [0 if special else value], [special], self.SCALE)
                    results.append({"value": int(got), "tag": lane | item["tile"] << (max(config.token_lanes, 2) - 1).bit_length()})
        return {"o": results}


def rounded_sums(config: ExpertConfig, sums: Any, special: Any, scale: dict[str, int]) -> np.ndarray:
    """What ``SumRounder`` makes of integer sums of any size."""
    if not config.format.exponent_bits:
        values = np.array([int(value) * scale["mantissa"] for value in sums], np.int64)
        bits = encode(values, scale["exponent"], "fp16")
        return np.where(np.array(special, bool), config.result_format.nan, bits)
    high = np.array([int(value) >> SPLIT for value in sums], np.int64)
    low = np.array([int(value) & (1 << SPLIT) - 1 for value in sums], np.int64)
    return round_sum(high, low, np.array(special, bool), config.element, 2 * config.format.low)
