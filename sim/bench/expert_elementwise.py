"""Benches of the expert unit's gated activation and weighted combine."""

import random

import numpy as np

from ..golden.floats import multiply_add
from ..golden.gated import gated_activation
from .expert_gemm import ExpertBench
from .unit import Items

__all__ = ["CombineBench", "GatedActivationBench"]


class _ElementwiseBench(ExpertBench):
    """Streams of items of several numbers of the result format."""

    names: tuple[str, ...]

    def _number(self, rng: random.Random) -> int:
        """Mostly of moderate size, some of any, some special."""
        form = self.config.result_format
        kind = rng.randrange(8)
        if kind == 0:
            return rng.getrandbits(form.storage_bits)
        exponent = rng.randrange(form.bias - 6, form.bias + 5) if kind > 1 else rng.randrange(form.bias - 14, form.bias + 8)
        return exponent << form.fraction_bits | rng.getrandbits(form.fraction_bits) | rng.getrandbits(1) << form.storage_bits - 1

    def stimulus(self, rng: random.Random, case: str) -> Items:
        return {"i": [{name: self._number(rng) for name in self.names} | {"tag": rng.randrange(256)} for _ in range(250)]}

    def boundary(self) -> Items:
        form, rng = self.config.result_format, random.Random(3)
        ends = (0, 1, (1 << form.fraction_bits) - 1, 1 << form.fraction_bits, form.bias << form.fraction_bits, form.infinity - 1,
                form.infinity, form.nan)
        extremes = [each | sign << form.storage_bits - 1 for each in ends for sign in (0, 1)]
        return {"i": [{name: rng.choice(extremes) for name in self.names} | {"tag": 255} for _ in range(300)]}

    def _columns(self, stimulus: Items) -> list[np.ndarray]:
        return [np.array([item[name] for item in stimulus["i"]], np.int64) for name in self.names]


class GatedActivationBench(_ElementwiseBench):
    names = ("gate", "up")
    SCALE = {"mantissa": 44321, "exponent": -14}

    def constants(self):
        return {} if self.config.format.exponent_bits else {"scale": self.SCALE["mantissa"] | (self.SCALE["exponent"] & 255) << 16}

    def expected(self, stimulus: Items) -> Items:
        scale = self.SCALE["mantissa"], self.SCALE["exponent"]
        gate, up = self._columns(stimulus)
        values, special = gated_activation(gate, up, self.config.element, scale)
        return {"o": [{"value": value, "special": int(flag), "tag": item["tag"]}
                      for value, flag, item in zip(values, special, stimulus["i"], strict=True)]}


class CombineBench(_ElementwiseBench):
    names = ("old", "weight", "value")

    def expected(self, stimulus: Items) -> Items:
        element = "fp16" if self.config.element == "int8" else self.config.element
        old, weight, value = self._columns(stimulus)
        values = multiply_add(old, weight, value, element)
        return {"o": [{"value": value, "tag": item["tag"]} for value, item in zip(values, stimulus["i"], strict=True)]}
