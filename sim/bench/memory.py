"""Benches of burst splitter, reader, writer and arbiter, with an AXI4 memory behind their ports."""

import random
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ...accelerators.memory.bursts import ADDRESS_BITS
from ..memory.axi_memory import AxiMemory
from ..memory.axi_reader import AxiReader
from .agents import BenchFailure, Model
from .trace import Trace
from .unit import Items, UnitBench

__all__ = ["BurstReaderBench", "BurstSplitterBench", "BurstWriterBench", "ReadArbiterBench", "SmallReaderBench"]

MEMORY_BYTES = 1 << 16
LATENCY = 40


def _contents() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, MEMORY_BYTES, dtype=np.uint8)


class _MemoryBench(UnitBench):
    """What the memory units share: an image, its knobs, random commands."""

    patience = 4000

    def __init__(self, config: Any):
        super().__init__(config)
        self.bus_bytes = config.bus_bytes
        self.burst_beats = min(64, 4096 // self.bus_bytes)
        self.data = _contents()

    def models(self, ports: Mapping[str, Any]) -> Sequence[Model]:
        self.memory = AxiMemory(dict(ports), self.data)
        return [self.memory]

    def constants(self) -> Mapping[str, int]:
        return {"clear": 0}

    def turn_knobs(self, rng: random.Random, case: str) -> None:
        """A random memory, but for the cases that are about speed."""
        memory = self.memory
        memory.rng = random.Random(rng.getrandbits(32))
        memory.latency, memory.jitter = rng.choice((1, 2, 7, 25)), rng.choice((0, 0, 20))
        memory.depth, memory.reorder = rng.choice((1, 2, 16)), bool(rng.getrandbits(1))
        if case in ("back_to_back", "latency"):
            memory.latency, memory.jitter, memory.depth = LATENCY, 0, 16

    def commands(self, rng: random.Random, count: int, beats: int) -> list[dict[str, int]]:
        """Transfers of different lengths, anywhere."""
        words = MEMORY_BYTES // self.bus_bytes
        result = []
        for _ in range(count):
            length = rng.choice((0, 1, 1, 2, 3, self.burst_beats, rng.randint(1, beats), beats))
            result.append({"address": rng.randrange(words - length) * self.bus_bytes, "beats": length})
        return result

    def bursts(self, address: int, beats: int) -> list[tuple[int, int]]:
        """Address and beats of the bursts of a command, as the unit must cut it."""
        result = []
        while beats:
            length = min(beats, self.burst_beats - address // self.bus_bytes % self.burst_beats)
            result.append((address, length))
            address, beats = (address // self.bus_bytes + length) * self.bus_bytes, beats - length
        return result

    def failures(self, command: dict[str, int]) -> list[int]:
        """Addresses of the bursts of a command that must fail."""
        unaligned = command["address"] % self.bus_bytes
        return [address for address, beats in self.bursts(**command)
                if unaligned or any(self.memory.response(address + k * self.bus_bytes) for k in range(beats))]

    def levels(self, stimulus: Items) -> dict[str, int]:
        """The error, if there must be one, and where it was first."""
        failures = [address for command in stimulus["i_command"] for address in self.failures(command)]
        return {"error": 1, "error_address": failures[0]} if failures else {"error": 0}

    def corners(self) -> list[dict[str, int]]:
        """Around the ends of bursts, pages and memory."""
        page, burst = 4096, self.burst_beats
        return [{"address": address, "beats": beats}
                for address in (0, page - self.bus_bytes, 2 * page - 2 * self.bus_bytes)
                for beats in (1, 2, burst - 1, burst, burst + 1)] + [
            {"address": 0, "beats": 0}, {"address": page, "beats": page // self.bus_bytes + 1},
            {"address": MEMORY_BYTES - self.bus_bytes, "beats": 1}]


class BurstSplitterBench(UnitBench):
    """Bursts that end at multiples of the longest."""

    def __init__(self, config: Any):
        super().__init__(config)
        self.bus_bytes = config.bus_bytes
        self.burst_beats = min(64, 4096 // self.bus_bytes)

    def stimulus(self, rng: random.Random, case: str) -> Items:
        return {"i": [{"address": rng.getrandbits(31) & (-self.bus_bytes if rng.random() < 0.9 else -1),
                       "beats": rng.choice((0, 1, rng.randint(1, 20), rng.randint(1, 400)))}
                      for _ in range(60)]}

    def boundary(self) -> Items:
        top = (1 << 24) - 1
        return {"i": [{"address": address, "beats": beats} for address in (0, 1, 4095, 4096 - self.bus_bytes)
                      for beats in (0, 1, 2, self.burst_beats - 1, self.burst_beats, self.burst_beats + 1)]
                + [{"address": (1 << 32) - self.bus_bytes, "beats": 2}]
                + [{"address": 0x1000, "beats": top >> 12}]}

    def expected(self, stimulus: Items) -> Items:
        return {"o": [burst for command in stimulus["i"] for burst in self._split(**command)]}

    def _split(self, address: int, beats: int) -> list[dict[str, int | None]]:
        unaligned = int(address % self.bus_bytes != 0)
        if not beats:
            return [{"address": address, "length": None, "last": 1, "unaligned": unaligned, "empty": 1}]
        bursts: list[dict[str, int | None]] = []
        while beats:
            length = min(beats, self.burst_beats - address // self.bus_bytes % self.burst_beats)
            bursts.append({"address": address, "length": length - 1, "last": int(length == beats),
                           "unaligned": unaligned, "empty": 0})
            address = (address // self.bus_bytes + length) * self.bus_bytes % (1 << 32)
            beats -= length
        return bursts

    def latency_stimulus(self) -> Items:
        return {"i": [{"address": 64 * k, "beats": 1} for k in range(20)]}


class _Limit(Model):
    """Changes ``limit`` at random and looks at what it changes: no burst is offered beyond it; ``wants`` and ``full``, a cycle late.

    ``count(address, beats)``: bursts of a command.
    """

    name = "limit"

    def __init__(self, ports: Mapping[str, Any], buffer_beats: int, count: Callable[[int, int], int]):
        self.ports, self.half, self.count = ports, buffer_beats // 2, count
        self.rng, self.steady = random.Random(0), True
        self.most = (1 << len(ports["limit"])) - 1
        self.clear()

    def clear(self) -> None:
        self.limit = self.ports["limit"].value = self.most
        self.under_way = self.level = self.left = 0
        self.waiting = self.cut = 0  # bursts that memory has not taken; those of a command that came a cycle ago
        self.offered, self.room = False, True  # a burst that memory has not taken; one more was within the limit
        self.expected: dict[str, int] = {}

    def drive(self) -> None:
        if not self.steady and self.rng.random() < 0.1:
            self.limit = self.rng.choice((0, 1, 2, self.most, self.rng.randint(0, self.most)))
        elif self.rng.random() < 0.02:
            self.limit = self.most  # often enough: a limit of 0 lets nothing pass
        self.ports["limit"].value = self.limit

    def sample(self, cycle: int) -> bool:
        asks, taken, comes, last, gives, leaves = (int(self.ports[name].value) for name in (
            "m_axi__arvalid", "m_axi__arready", "m_axi__rvalid", "m_axi__rlast", "o__valid", "o__ready"))
        if asks and not self.offered and not self.room:
            raise BenchFailure(f"a burst is offered while {self.under_way} are under way, which the limit did not allow")
        for port, level in self.expected.items():
            if int(self.ports[port].value) != level:
                raise BenchFailure(f"{port} is {self.ports[port].value}, expected {level}")
        command_offered = int(self.ports["i_command__valid"].value)
        self.expected = {"wants": int(command_offered or self.waiting > 0), "full": int(self.level >= self.half)}
        self.waiting += self.cut - (asks & taken)
        self.cut = 0
        if command_offered and int(self.ports["i_command__ready"].value):
            command = int(self.ports["i_command__payload"].value)
            self.cut = self.count(command & (1 << ADDRESS_BITS) - 1, command >> ADDRESS_BITS)
        self.offered = bool(asks and not taken)
        self.under_way += (asks & taken) - (comes & last)
        self.room = self.under_way < self.limit
        self.level += comes - self.left
        self.left = gives & leaves
        return False

    def finish(self) -> None:
        for port in ("wants", "full"):
            if int(self.ports[port].value):
                raise BenchFailure(f"{port} is 1 when all has been done")


class BurstReaderBench(_MemoryBench):
    """The beats of every command, out of an AXI4 memory, with a limit that changes; levels of the other outputs."""

    modules = (*UnitBench.modules, "llmrtl.sim.bench.memory_errors")

    def __init__(self, config: Any):
        super().__init__(config)
        self.burst_beats = min(self.burst_beats, config.prefetch_beats // 4)
        self.buffer_beats = config.prefetch_beats

    def models(self, ports: Mapping[str, Any]) -> Sequence[Model]:
        models = super().models(ports)
        self.memory.eager = ("r",)
        self.limit = _Limit(ports, self.buffer_beats, lambda address, beats: len(self.bursts(address, beats)))
        return [*models, self.limit]

    def turn_knobs(self, rng: random.Random, case: str) -> None:
        super().turn_knobs(rng, case)
        self.limit.rng = random.Random(rng.getrandbits(32))
        self.limit.steady = case in ("back_to_back", "latency")

    def stimulus(self, rng: random.Random, case: str) -> Items:
        self.turn_knobs(rng, case)
        return {"i_command": self.commands(rng, 20, 150)}

    def boundary(self) -> Items:
        return {"i_command": self.corners()}

    def expected(self, stimulus: Items) -> Items:
        return {"o": [{"data": self.memory.word((command["address"] // self.bus_bytes + k) * self.bus_bytes),
                       "last": int(k == command["beats"] - 1)}
                      for command in stimulus["i_command"] for k in range(command["beats"])]}

    def latency_stimulus(self) -> Items:
        self.turn_knobs(random.Random(0), "latency")
        return {"i_command": [{"address": 0x100, "beats": 500}, {"address": 0x4000, "beats": 400},
                              {"address": 0x2000, "beats": 100}]}

    def measure(self, trace: Trace) -> dict[str, int]:
        """Latency less what the memory takes above one cycle; ``interval`` also shows that it is hidden."""
        return {"latency": trace.latency("i_command", "o") - (LATENCY - 1),
                "interval": max(b - a for a, b in pairwise(trace.delivered["o"]))}


class SmallReaderBench(BurstReaderBench):
    """Of a reader whose queue has 50 beats."""

    def __init__(self, config: Any):
        super().__init__(config)
        self.buffer_beats = 50


class BurstWriterBench(_MemoryBench):
    """The memory holds what was written, and nothing else has changed."""

    modules = (*UnitBench.modules, "llmrtl.sim.bench.memory_errors")

    def begin(self, stimulus: Items) -> None:
        self.data[:] = _contents()
        want = self.data.copy()
        beats = iter(stimulus["i"])
        for command in stimulus["i_command"]:
            for k in range(command["beats"]):
                address = command["address"] + k * self.bus_bytes
                word = next(beats)["data"].to_bytes(self.bus_bytes, "little")
                if address % self.bus_bytes == 0 and not self.memory.response(address):
                    want[address:address + self.bus_bytes] = list(word)
        self.memory.want = want

    def with_data(self, rng: random.Random, commands: list[dict[str, int]]) -> Items:
        return {"i_command": commands,
                "i": [{"data": rng.getrandbits(8 * self.bus_bytes)}
                      for command in commands for _ in range(command["beats"])]}

    def stimulus(self, rng: random.Random, case: str) -> Items:
        self.turn_knobs(rng, case)
        return self.with_data(rng, self.commands(rng, 20, 150))

    def boundary(self) -> Items:
        return self.with_data(random.Random(2), self.corners())

    def expected(self, stimulus: Items) -> Items:
        return {"o_done": [{"error": int(bool(self.failures(command)))} for command in stimulus["i_command"]]}

    def latency_stimulus(self) -> Items:
        rng = random.Random(0)
        self.turn_knobs(rng, "latency")
        return self.with_data(rng, [{"address": 0x100, "beats": 300}, {"address": 0x4000, "beats": 200}])

    def measure(self, trace: Trace) -> dict[str, int]:
        beats, done = trace.accepted["i"], trace.delivered["o_done"]
        return {"latency": done[-1] - beats[-1] - (LATENCY - 1),
                "interval": max(b - a for a, b in pairwise(beats))}


class ReadArbiterBench(_MemoryBench):
    """All clients read at once; each gets its own beats in order."""

    modules = (*UnitBench.modules, "llmrtl.sim.bench.arbiter_cases")

    def models(self, ports: Mapping[str, Any]) -> Sequence[Model]:
        count = sum(name.startswith("s_axi__") and name.endswith("__arvalid") for name in ports)
        self.clients = [AxiReader(dict(ports), self.data, f"s_axi__{k}") for k in range(count)]
        self.requests: list[list[tuple[int, int]]] = []
        return [*super().models(ports), *self.clients]

    def constants(self) -> Mapping[str, int]:
        return {}

    def _bursts(self, rng: random.Random, count: int) -> list[tuple[int, int]]:
        bursts = []
        for _ in range(count):
            beats = rng.choice((1, 2, 3, 16, self.burst_beats))
            first = rng.randrange(4096 // self.bus_bytes - beats + 1)
            bursts.append((rng.randrange(16) * 4096 + first * self.bus_bytes, beats))
        return bursts

    def stimulus(self, rng: random.Random, case: str) -> Items:
        self.turn_knobs(rng, case)
        self.requests = [self._bursts(rng, 40) for _ in self.clients]
        return {}

    def boundary(self) -> Items:
        self.requests = [[(k * 4096, 1), (4096 - self.bus_bytes, 1), (0, self.burst_beats)] * 4
                         for k, _ in enumerate(self.clients)]
        return {}

    def begin(self, stimulus: Items) -> None:
        for client, requests in zip(self.clients, self.requests, strict=True):
            client.requests.extend(requests)

    def expected(self, stimulus: Items) -> Items:
        return {}

    def levels(self, stimulus: Items) -> dict[str, int]:
        return {}

    def latency_stimulus(self) -> Items:
        self.turn_knobs(random.Random(0), "latency")
        self.memory.reorder = False
        self.requests = [[(4096 * k, 16) for k in range(12)] for _ in self.clients]
        for client in self.clients:
            client.outstanding = 8
        return {}

    def measure(self, trace: Trace) -> dict[str, int]:
        memory = self.memory.port
        asked = memory.raised["ar"] - min(client.port.transfers["ar"][0] for client in self.clients)
        answered = min(client.port.raised["r"] for client in self.clients) - memory.transfers["r"][0]
        return {"latency": max(asked, answered),
                "interval": max(b - a for a, b in pairwise(memory.transfers["r"]))}
