"""Benches of the serial line's two halves."""

import random
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from .agents import BenchFailure, Model, Pattern, always
from .serial_line import LineReceiver, LineSender
from .trace import Trace
from .unit import Items, UnitBench

__all__ = ["UartReceiverBench", "UartTransmitterBench"]

PERIOD = 25 / 3
TOLERANCE = 0.02


def _bytes(rng: random.Random, count: int) -> list[int]:
    return [rng.choice((0x00, 0xFF, 0x55, 0xAA, 0x7E, rng.randrange(256))) for _ in range(count)]


class _Sender(Model):
    """Says what the bench wants, at the rate it wants, with gaps where the sources pause."""

    name = "rx"

    def __init__(self, pin: Any, bench: "UartReceiverBench"):
        self.line, self.bench = LineSender(pin, PERIOD), bench
        self._begun: list[int] = []

    def clear(self) -> None:
        self.line.clear()
        self._begun, self._cycle, self._moves = [], 0, False
        self._source: Pattern = always

    def begin(self, sources: Pattern, sinks: Pattern) -> None:
        self._source, self.line.period = sources, self.bench.period
        self.line.bytes.extend(self.bench.script)

    @property
    def transfers(self) -> list[int]:
        return self._begun

    def drive(self) -> None:
        if self.line.bytes and not self._source():
            self.line.wait = max(self.line.wait, 1)
        self._moves = self.line.drive()

    def sample(self, cycle: int) -> bool:
        if self._moves:
            self._begun.append(cycle)
        return self._moves

    def pending(self) -> str | None:
        return None if self.line.idle else "bytes are to be sent"


class UartReceiverBench(UnitBench):
    """Every byte, at rates that differ by up to the tolerance; a low stop bit is told."""

    script: list[int] = []
    period = PERIOD

    def models(self, ports: Mapping[str, Any]) -> Sequence[Model]:
        return [_Sender(ports["rx"], self)]

    def constants(self) -> Mapping[str, int]:
        return {"rx": 1}

    def stimulus(self, rng: random.Random, case: str) -> Items:
        self.script = [byte | (rng.random() < 0.1) << 8 for byte in _bytes(rng, 12 if case == "latency" else 40)]
        self.period = PERIOD * (1 + (0 if case == "latency" else rng.choice((-TOLERANCE, 0, TOLERANCE))))
        return {}

    def boundary(self) -> Items:
        self.script, self.period = [0, 255, 0x80, 1, 0x100, 0x1FF] * 8, PERIOD
        return {}

    def latency_stimulus(self) -> Items:
        self.script, self.period = [0x55, 0x0F, 0xAA] * 4, PERIOD
        return {}

    def expected(self, stimulus: Items) -> Items:
        return {"o": [{"byte": byte & 255, "bad": byte >> 8} for byte in self.script]}

    def levels(self, stimulus: Items) -> Mapping[str, int]:
        return {"overrun": 0}

    def measure(self, trace: Trace) -> dict[str, int]:
        return {"latency": trace.delivered["o"][0] - trace.delivered["rx"][0]}


class _Receiver(Model):
    """Listens, and compares with what the unit took."""

    name = "tx"

    def __init__(self, pin: Any, bench: "UartTransmitterBench"):
        self.line, self.bench = LineReceiver(pin, PERIOD), bench
        self._began: list[int] = []

    def clear(self) -> None:
        self.line.clear()
        self._heard: list[int] = []
        self._began = []

    @property
    def transfers(self) -> list[int]:
        return self._began

    def sample(self, cycle: int) -> bool:
        byte = self.line.sample(cycle)
        if byte is None:
            return False
        self._heard.append(byte)
        self._began.append(self.line.began or 0)
        if byte != self.bench.script[len(self._heard) - 1]:
            raise BenchFailure(f"byte {len(self._heard) - 1} on the line is {byte:#x}, sent were {self.bench.script}")
        return True

    def pending(self) -> str | None:
        missing = len(self.bench.script) - len(self._heard)
        return f"{missing} bytes have not come" if missing else None


class UartTransmitterBench(UnitBench):
    """Every byte comes; bits begin within a cycle of their time."""

    script: list[int] = []

    def models(self, ports: Mapping[str, Any]) -> Sequence[Model]:
        return [_Receiver(ports["tx"], self)]

    def stimulus(self, rng: random.Random, case: str) -> Items:
        self.script = _bytes(rng, 20)
        return {"i": [{"byte": byte} for byte in self.script]}

    def boundary(self) -> Items:
        self.script = [0, 255, 0x80, 1]
        return {"i": [{"byte": byte} for byte in self.script]}

    def expected(self, stimulus: Items) -> Items:
        return {}

    def measure(self, trace: Trace) -> dict[str, int]:
        taken, began = trace.accepted["i"], trace.delivered["tx"]
        return {"latency": began[0] - taken[0], "interval": max(b - a for a, b in pairwise(taken))}
