"""Bench of the exponents per head."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from ..golden.vector import head_shifts
from .agents import BenchFailure, Model, Pattern, always
from .trace import Trace
from .unit import Items, UnitBench

__all__ = ["HeadExponentsBench"]

LOWEST = -(1 << 15)


class Walker(Model):
    """When all exponents are stored, takes word after word, and compares ``shift`` and ``top`` in every cycle."""

    name = "walk"

    def __init__(self, ports: dict[str, Any]):
        self.ports = ports
        self.clear()

    def clear(self) -> None:
        self._transfers: list[int] = []
        self.cleared = False
        self.stored = self.total = 0
        self.top_cycle: int | None = None
        self.walks: list[tuple[int, list[list[int]]]] = []
        self.rng = random.Random(0)
        self.takes: Pattern = always
        self._words: list[tuple[int, int]] | None = None

    @property
    def transfers(self) -> list[int]:
        return self._transfers

    def plan(self, exponents: dict[int, dict[int, int]], count: int, lanes: int, words: Sequence[int]) -> None:
        """Exponents by token and head; one walk for each number of words per head."""
        self.stored, self.total = 0, count
        self.tops = [max(exponents[token].values()) if token in exponents else LOWEST for token in range(lanes)]
        vectors = [[exponents[token][head] for head in sorted(exponents[token])] for token in sorted(exponents)]
        self.walks = [(each, vectors) for each in words]
        self._words = None

    def begin(self, sources: Pattern, sinks: Pattern) -> None:
        self.takes = sources

    def drive(self) -> None:
        self.restarts = self.taking = False
        if self.stored == self.total and self._words is None and self.walks:
            self.restarts = True
        elif self._words:
            self.taking = self.takes()
        end = self._words[0][1] if self._words and self.taking else self.rng.getrandbits(1)
        self.ports["restart"].value = int(self.restarts)
        self.ports["word_taken"].value = int(self.taking)
        self.ports["vector_end"].value = end
        if self.walks:
            self.ports["words"].value = self.walks[0][0]

    def sample(self, cycle: int) -> bool:
        tops = self._tops()
        if self.top_cycle is None and self.stored and tops == self.tops:
            self.top_cycle = cycle
        if self.stored == self.total and tops != self.tops:
            raise BenchFailure(f"top is {tops}, expected {self.tops}")
        if self._words:
            shift = int(str(self.ports["shift"].value), 2)
            if shift != self._words[0][0]:
                raise BenchFailure(f"shift is {shift}, expected {self._words[0][0]}; {len(self._words)} words to come")
        if self.restarts:
            words, vectors = self.walks[0]
            self._words = []
            for vector in vectors:
                shifts = head_shifts(vector, words)
                self._words += 2 * [(shift, int(k == len(shifts) - 1)) for k, shift in enumerate(shifts)]
        if self.taking and self._words:
            del self._words[0]
            if not self._words:
                del self.walks[0]
                self._words = None
            self._transfers.append(cycle)
            return True
        return self.restarts

    def _tops(self) -> list[int]:
        text = str(self.ports["top"].value)
        values = [int(text[k:k + 16], 2) for k in range(0, len(text), 16)]
        return [value - (value >> 15 << 16) for value in reversed(values)]

    def pending(self) -> str | None:
        return f"{len(self.walks)} walks are to come" if self.walks else None


class HeadExponentsBench(UnitBench):
    """Exponents of all heads, in any order; then vectors are walked through, each twice."""

    modules = ("llmrtl.sim.bench.menu", "llmrtl.sim.bench.exponents_cases")

    def models(self, ports: Mapping[str, Any]) -> Sequence[Model]:
        self.walker = Walker(dict(ports))
        return [self.walker]

    def stimulus(self, rng: random.Random, case: str) -> Items:
        heads = rng.randint(1, self.config.max_heads)
        middle = rng.randint(-900, 900)
        return self._items(rng, heads, lambda: rng.choice((middle, rng.randint(middle - 70, middle), -1024)))

    def _items(self, rng: random.Random, heads: int, exponent: Any) -> Items:
        tokens = rng.randint(1, self.config.token_lanes)
        items = [{"token": token, "head": head, "exponent": exponent()} for token in range(tokens) for head in range(heads)]
        rng.shuffle(items)
        return {"i": items}

    def boundary(self) -> Items:
        rng = random.Random(0)
        return self._items(rng, self.config.max_heads, lambda: rng.choice((LOWEST, -LOWEST - 1, -LOWEST - 63, -LOWEST - 64,
                                                                           -LOWEST - 65)))

    def latency_stimulus(self) -> Items:
        return {"i": [{"token": token, "head": head, "exponent": 7} for head in range(self.config.max_heads)
                      for token in reversed(range(self.config.token_lanes))]}

    def begin(self, stimulus: Items) -> None:
        exponents: dict[int, dict[int, int]] = {}
        for item in stimulus["i"]:
            exponents.setdefault(item["token"], {})[item["head"]] = item["exponent"]
        self.walker.plan(exponents, len(stimulus["i"]), self.config.token_lanes, (1, 3))

    def accepted(self, stream: str, payload: Any) -> Items:
        self.walker.stored += 1
        return {}

    def expected(self, stimulus: Items) -> Items:
        return {}

    def measure(self, trace: Trace) -> dict[str, int]:
        assert self.walker.top_cycle is not None
        return {"latency": self.walker.top_cycle - trace.accepted["i"][self.config.token_lanes - 1],
                "interval": trace.interval("i")}
