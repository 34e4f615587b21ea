"""Benches of the stream plumbing."""

import random
from collections.abc import Callable, Mapping
from typing import Any

from .agents import BenchFailure
from .trace import Trace
from .unit import Items, UnitBench

__all__ = ["CreditQueueBench", "DownsizerBench", "ForkBench", "GearboxBench", "JoinBench", "QueueBench", "RelayBench",
           "StreamBufferBench", "UpsizerBench"]

CORNERS = {bits: (-(1 << (bits - 1)), -1, 0, 1, (1 << (bits - 1)) - 1) for bits in (16, 32)}


def _elements(rng: random.Random, lanes: int, bits: int) -> list[int]:
    return [rng.randint(-(1 << (bits - 1)), (1 << (bits - 1)) - 1) for _ in range(lanes)]


def _split(value: int, bits: int, count: int) -> list[int]:
    """``count`` words of ``bits``, lowest first."""
    return [value >> k * bits & (1 << bits) - 1 for k in range(count)]


def _packet(words: list[int]) -> list[dict[str, int]]:
    return [{"data": word, "last": int(k == len(words) - 1)} for k, word in enumerate(words)]


class StreamBufferBench(UnitBench):
    """Everything that goes in comes out, in order."""

    def stimulus(self, rng: random.Random, case: str) -> Items:
        return {"i": [_elements(rng, self.config.vector_lanes, 16) for _ in range(200)]}

    def boundary(self) -> Items:
        return {"i": [[value] * self.config.vector_lanes for value in CORNERS[16]]}

    def expected(self, stimulus: Items) -> Items:
        return {"o": stimulus["i"]}


class QueueBench(UnitBench):
    """Everything that goes in comes out, in order, and the queue is empty at the end."""

    def stimulus(self, rng: random.Random, case: str) -> Items:
        depth, bits = self.config.prefetch_beats, self.config.bus_bits
        return {"i": [{"data": rng.getrandbits(bits), "last": rng.getrandbits(1)}
                      for _ in range(depth + rng.randint(10, 100))]}

    def boundary(self) -> Items:
        bits = self.config.bus_bits
        return {"i": [{"data": value, "last": last} for value in (0, 1, (1 << bits) - 1) for last in (0, 1)]}

    def expected(self, stimulus: Items) -> Items:
        return {"o": stimulus["i"]}

    def levels(self, stimulus: Items) -> dict[str, int]:
        return {"level": 0}


class CreditQueueBench(UnitBench):
    """Items come 1 to 10 cycles after their place was spent, or later; all come out, in order. Promised are the free places,
    no more and no fewer."""

    COUNT, DEPTH = 200, 6

    def stimulus(self, rng: random.Random, case: str) -> Items:
        self.rng, self.slowest = rng, 0 if case == "latency" else 9
        self.items = [{"data": rng.getrandbits(self.config.bus_bits), "last": rng.getrandbits(1)} for _ in range(self.COUNT)]
        return {"i": []}

    def boundary(self) -> Items:
        bits = self.config.bus_bits
        self.rng, self.slowest = random.Random(0), 0
        self.items = [{"data": value, "last": last} for value in (0, 1, (1 << bits) - 1) for last in (0, 1)] * 8
        return {"i": []}

    def expected(self, stimulus: Items) -> Items:
        return {"o": self.items}

    def begin(self, stimulus: Items) -> None:
        self.due: list[int] = []  # cycle before the one in which each item that has its place may come
        self.sent = self.left = 0
        self.returned = 0  # ``left`` a cycle ago: a place is free for others that late

    def react(self, stream: str, payload: Any) -> Items:
        self.left += 1
        return {}

    def control(self, cycle: int, level: Callable[[str], int]) -> Mapping[str, int]:
        free = self.DEPTH - (len(self.due) - self.returned)
        for port, places in (("credit", 1), ("ample", 2)):
            if level(port) != (free >= places):
                raise BenchFailure(f"{port} is {level(port)} with {free} of {self.DEPTH} places free")
        self.cycle, self.returned = cycle, self.left
        spend = level("credit") and len(self.due) < len(self.items) and self.rng.random() < (0.8 if self.slowest else 1)
        if spend:
            self.due.append(max(cycle + self.rng.randint(0, self.slowest), self.due[-1] if self.due else 0))
        return {"spend": spend}

    def offers(self) -> Items:
        first = self.sent
        while self.sent < len(self.due) and self.due[self.sent] < self.cycle:
            self.sent += 1
        return {"i": self.items[first:self.sent]}

    def levels(self, stimulus: Items) -> dict[str, int]:
        return {"credit": 1, "ample": 1}


class RelayBench(UnitBench):
    """Everything that goes in comes out, in order."""

    def stimulus(self, rng: random.Random, case: str) -> Items:
        return {"i": [{"data": rng.getrandbits(self.config.bus_bits), "last": rng.getrandbits(1)} for _ in range(200)]}

    def boundary(self) -> Items:
        return {"i": [{"data": value, "last": last} for value in (0, 1, (1 << self.config.bus_bits) - 1) for last in (0, 1)]}

    def expected(self, stimulus: Items) -> Items:
        return {"o": stimulus["i"]}


class ForkBench(UnitBench):
    """Both outputs give everything."""

    def stimulus(self, rng: random.Random, case: str) -> Items:
        return {"i": [{"x": _elements(rng, self.config.vector_lanes, 32), "last": rng.getrandbits(1)}
                      for _ in range(200)]}

    def boundary(self) -> Items:
        return {"i": [{"x": [value] * self.config.vector_lanes, "last": 1} for value in CORNERS[32]]}

    def expected(self, stimulus: Items) -> Items:
        return {"o__0": stimulus["i"], "o__1": stimulus["i"]}


class JoinBench(UnitBench):
    """One item of each input makes one output item."""

    def stimulus(self, rng: random.Random, case: str) -> Items:
        lanes = self.config.vector_lanes
        return {"i_x": [_elements(rng, lanes, 32) for _ in range(200)],
                "i_gain": [_elements(rng, lanes, 16) for _ in range(200)]}

    def boundary(self) -> Items:
        lanes = self.config.vector_lanes
        return {"i_x": [[value] * lanes for value in CORNERS[32]],
                "i_gain": [[value] * lanes for value in CORNERS[16]]}

    def expected(self, stimulus: Items) -> Items:
        return {"o": [{"x": x, "gain": gain}
                      for x, gain in zip(stimulus["i_x"], stimulus["i_gain"], strict=True)]}


class GearboxBench(UnitBench):
    """Matrices of lane words, packed densely into bus words, come out as lane words again."""

    def __init__(self, config: Any):
        super().__init__(config)
        self.in_bits, self.out_bits = config.bus_bits, config.lane_bits

    def _matrix(self, words: list[int], tail: int) -> list[dict[str, int]]:
        total = self.out_bits * len(words)
        count = -(-total // self.in_bits)
        value = sum(word << k * self.out_bits for k, word in enumerate(words)) | tail << total
        return _packet(_split(value, self.in_bits, count))

    def stimulus(self, rng: random.Random, case: str) -> Items:
        sizes = [1, 2, 3, 4, 5, 1, 1, 7, rng.randint(1, 60), rng.randint(1, 60), 31]
        if case == "latency":
            sizes = [50]
        return {"i": [item for size in sizes for item in self._matrix(
            [rng.getrandbits(self.out_bits) for _ in range(size)], rng.getrandbits(self.in_bits))]}

    def boundary(self) -> Items:
        ones, tail = (1 << self.out_bits) - 1, (1 << self.in_bits) - 1
        return {"i": [*self._matrix([ones, 0, ones, 0, 0], tail), *self._matrix([0], tail),
                      *self._matrix([ones], 0)]}

    def expected(self, stimulus: Items) -> Items:
        words: list[dict[str, int]] = []
        value = held = 0
        for item in stimulus["i"]:
            value |= item["data"] << held
            held += self.in_bits
            if item["last"]:
                words += _packet(_split(value, self.out_bits, held // self.out_bits))
                value = held = 0
        return {"o": words}

    def measure(self, trace: Trace) -> dict[str, int]:
        completing = -(-self.out_bits // self.in_bits) - 1
        return {"latency": trace.latency("i", "o", completing), "interval": trace.interval("i")}


class DownsizerBench(UnitBench):
    """Every input word comes out in parts."""

    def __init__(self, config: Any):
        super().__init__(config)
        self.ratio = config.bus_bits // 16

    def stimulus(self, rng: random.Random, case: str) -> Items:
        return {"i": [{"data": rng.getrandbits(16 * self.ratio), "last": rng.getrandbits(1)}
                      for _ in range(150)]}

    def boundary(self) -> Items:
        ones = (1 << 16 * self.ratio) - 1
        return {"i": [{"data": value, "last": last} for value in (0, 1, ones - 1, ones) for last in (0, 1)]}

    def expected(self, stimulus: Items) -> Items:
        return {"o": [{"data": part, "last": int(item["last"] and k == self.ratio - 1)}
                      for item in stimulus["i"]
                      for k, part in enumerate(_split(item["data"], 16, self.ratio))]}

    def measure(self, trace: Trace) -> dict[str, int]:
        return {"latency": trace.delivered["o"][self.ratio - 1] - trace.accepted["i"][0],
                "interval": trace.interval("i")}


class UpsizerBench(UnitBench):
    """Packets of narrow words come out in wide words, the last one padded with zeros."""

    def __init__(self, config: Any):
        super().__init__(config)
        self.width = config.vector_lanes * config.kv_bits
        self.ratio = config.bus_bits // self.width

    def stimulus(self, rng: random.Random, case: str) -> Items:
        sizes = [1, 2, 3, 4, 5, 1, 8] + [rng.randint(1, 20) for _ in range(15)]
        if case == "latency":
            sizes = [60]
        return {"i": [item for size in sizes
                      for item in _packet([rng.getrandbits(self.width) for _ in range(size)])]}

    def boundary(self) -> Items:
        ones = (1 << self.width) - 1
        return {"i": [item for size in range(1, 10) for item in _packet([ones] * size) + _packet([0] * size)]}

    def expected(self, stimulus: Items) -> Items:
        words: list[dict[str, int]] = []
        parts: list[int] = []
        for item in stimulus["i"]:
            parts.append(item["data"])
            if item["last"] or len(parts) == self.ratio:
                words.append({"data": sum(part << k * self.width for k, part in enumerate(parts)),
                              "last": item["last"]})
                parts = []
        return {"o": words}

    def measure(self, trace: Trace) -> dict[str, int]:
        return {"latency": trace.latency("i", "o", self.ratio - 1), "interval": trace.interval("i")}
