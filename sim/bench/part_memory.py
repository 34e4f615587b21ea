"""Benches of partial results on their way to memory and back."""

import random
from collections.abc import Mapping

import numpy as np

from ..golden.attention import Partial
from ..golden.part_memory import pack_part
from .attention_operations import part_fields
from .merge import PartsBench
from .trace import Trace
from .unit import Items

__all__ = ["PartPackerBench", "PartUnpackerBench"]


class _MemoryBench(PartsBench):
    """The lanes of a stimulus have as many words, as in an operation: no packet tells its length."""

    def __init__(self, config):
        super().__init__(config)
        self.words = max(1, config.max_head_dim // config.vector_lanes - 2)

    def _chosen(self, parts: list[Partial]) -> Items:
        raise NotImplementedError

    def stimulus(self, rng: random.Random, case: str) -> Items:
        return self._chosen([self._part(rng, self.words, rng.choice((2, 2000))) for _ in range(12)])

    def boundary(self) -> Items:
        limit, largest = 1 << self.acc_bits - 1, (1 << self.sum_bits) - 1
        acc = np.resize(np.array([-limit, limit - 1, -1, 0], np.int64), self.words * self.lanes)
        return self._chosen([Partial(maximum, total, exponent, defined, acc) for maximum in (-1 << 15, (1 << 15) - 1, -1, 0)
                             for total in (0, largest) for exponent in (-1 << 15, (1 << 15) - 1, -1, 0) for defined in (False, True)])

    def latency_stimulus(self) -> Items:
        return self._chosen([self._part(random.Random(0), self.words, 2)])

    def _beats(self, part: Partial) -> list[dict[str, int]]:
        packed, size = pack_part(part, self.config), self.config.bus_bytes
        return [{"data": int.from_bytes(packed[at:at + size], "little"), "last": int(at + size == len(packed))}
                for at in range(0, len(packed), size)]

    def _streams(self, parts: list[Partial], state: str, sums: str) -> Items:
        return {state: [part_fields(part) for part in parts], sums: [word for part in parts for word in self._words(part.acc)]}


class _Known(dict):
    """Stimulus that knows what must come out."""

    expected: Items


class PartPackerBench(_MemoryBench):
    """Parts to bus words."""

    def _chosen(self, parts: list[Partial]) -> Items:
        stimulus = _Known(self._streams(parts, "i_part", "i_sums"))
        stimulus.expected = {"o": [beat for part in parts for beat in self._beats(part)]}
        return stimulus

    def expected(self, stimulus: Items) -> Items:
        assert isinstance(stimulus, _Known)
        return stimulus.expected

    def measure(self, trace: Trace) -> dict[str, int]:
        """From the state, which is taken with its last bus word; those that fit one with a first word of sums are not measured."""
        return {"latency": trace.latency("i_part", "o") + max(1, self.config.part_word_bits // self.config.bus_bits) - 1}


class PartUnpackerBench(_MemoryBench):
    """Bus words to parts."""

    def constants(self) -> Mapping[str, int]:
        return {"words": self.words}

    def _chosen(self, parts: list[Partial]) -> Items:
        stimulus = _Known({"i": [beat for part in parts for beat in self._beats(part)]})
        stimulus.expected = self._streams(parts, "o_part", "o_sums")
        return stimulus

    def expected(self, stimulus: Items) -> Items:
        assert isinstance(stimulus, _Known)
        return stimulus.expected

    def measure(self, trace: Trace) -> dict[str, int]:
        """From the last bus word of the first word."""
        return {"latency": trace.latency("i", "o_part", max(1, self.config.part_word_bits // self.config.bus_bits) - 1)}
