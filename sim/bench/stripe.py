"""Bench of the port stripe: a master in front of it, an AXI4 memory behind each port."""

import random
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ..memory.axi_master import AxiMaster, ReadBurst, WriteBurst
from ..memory.axi_memory import AxiMemory, Fault
from .agents import Model
from .trace import Trace
from .unit import Items, UnitBench

__all__ = ["PAGE_BYTES", "PortStripeBench"]

PAGE_BYTES = 4096
SLICE_PAGES = 4  # of every port: the first half is read, the second written
PORT_PAGES = 12
ORIGIN = 0x9A40_0000  # address of the first word
LATENCY = 40
OUTSTANDING = 8
WRITE_LATENCY = 3  # from the final beat of a write to its response
SHORTER = (1, 1, 2, 3, 16)  # bursts


class PortStripeBench(UnitBench):
    """Every word read is made of the ports' slices, every word written arrives in them, and nothing else has changed.

    Attributes
    ----------
    pages : list of int
        Page of each port's memory at which its slices begin; gives ``base``. Set before a reset.
    skew_beats : int
        Read data that a port takes while another has none.
    """

    patience = 4000
    modules = (*UnitBench.modules, "llmrtl.sim.bench.stripe_cases")
    skew_beats = 32

    def __init__(self, config: Any):
        super().__init__(config)
        self.bus_bytes = config.bus_bytes
        self.burst_beats = min(64, PAGE_BYTES // self.bus_bytes)

    def models(self, ports: Mapping[str, Any]) -> Sequence[Model]:
        count = sum(name.startswith("m_axi__") and name.endswith("__arvalid") for name in ports)
        self.id_bits = len(ports["s_axi__arid"])
        self.memories = [AxiMemory(dict(ports), self.contents(number), f"m_axi__{number}") for number in range(count)]
        self.pages = [(5 * number + 3) % (PORT_PAGES - SLICE_PAGES + 1) for number in range(count)]
        self.base_low = 0
        self.master = AxiMaster(dict(ports))
        self.requests: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
        self.seed = 0
        return [self.master, *self.memories]

    @staticmethod
    def contents(number: int) -> np.ndarray:
        return np.random.default_rng(number).integers(0, 256, PORT_PAGES * PAGE_BYTES, dtype=np.uint8)

    def base(self, number: int) -> int:
        """What puts the word at ``ORIGIN`` on page ``pages[number]``: all address bits take part."""
        return (self.pages[number] * PAGE_BYTES - ORIGIN // len(self.memories)) % (1 << 32)

    def constants(self) -> Mapping[str, int]:
        return {"base": sum((self.base(number) | self.base_low) << 32 * number for number in range(len(self.memories)))}

    def places(self, address: int, beats: int) -> list[list[int]]:
        """For every beat, the address of its slice behind each port."""
        ports = len(self.memories)
        return [[self.pages[number] * PAGE_BYTES + (address + beat * self.bus_bytes - ORIGIN) // ports
                 for number in range(ports)] for beat in range(beats)]

    def turn_knobs(self, rng: random.Random, case: str) -> None:
        """Memories with different habits, often a fault behind one; but for the cases that are about speed."""
        fast = case in ("back_to_back", "latency")
        for memory in self.memories:
            memory.rng = random.Random(rng.getrandbits(32))
            memory.latency, memory.jitter, memory.depth = LATENCY, 0, 16
            memory.faults = []
            if not fast:
                memory.latency, memory.jitter = rng.choice((1, 2, 7, 25)), rng.choice((0, 0, 20))
                memory.depth = rng.choice((1, 2, 16))
        self.master.outstanding = 16 if fast else rng.choice((1, 2, 16))
        self.master.data_ahead = 0 if fast else rng.choice((0, 1, 3))
        if not fast and rng.getrandbits(1):
            number = rng.randrange(len(self.memories))
            low = self.pages[number] * PAGE_BYTES + rng.randrange(SLICE_PAGES * PAGE_BYTES)
            self.memories[number].faults = [Fault(low, low + rng.choice((1, 64, PAGE_BYTES)), rng.choice((2, 3)))]

    def ask(self, reads: list[tuple[int, int]], writes: list[tuple[int, int]], seed: int = 0) -> Items:
        """Bursts of the next runs: byte offset in the read or written half, and beats."""
        half = SLICE_PAGES // 2 * PAGE_BYTES * len(self.memories)
        self.requests = ([(ORIGIN + offset, beats) for offset, beats in reads],
                         [(ORIGIN + half + offset, beats) for offset, beats in writes])
        self.seed = seed
        return {}

    def bursts(self, rng: random.Random, count: int) -> list[tuple[int, int]]:
        """Bursts of different lengths, anywhere within a page."""
        result = []
        for _ in range(count):
            beats = min(rng.choice((*SHORTER, self.burst_beats)), self.burst_beats)
            word = rng.randrange(PAGE_BYTES // self.bus_bytes - beats + 1)
            page = rng.randrange(SLICE_PAGES // 2 * len(self.memories))
            result.append((page * PAGE_BYTES + word * self.bus_bytes, beats))
        return result

    def stimulus(self, rng: random.Random, case: str) -> Items:
        self.turn_knobs(rng, case)
        return self.ask(self.bursts(rng, 30), self.bursts(rng, 20), rng.getrandbits(32))

    def boundary(self) -> Items:
        """Ends of pages and of the region, on the bus and on the ports."""
        self.turn_knobs(random.Random(0), "latency")
        end = SLICE_PAGES // 2 * PAGE_BYTES * len(self.memories)
        bursts = [(base, beats) for page in range(0, end, PAGE_BYTES) for base, beats in (
            (page, 1), (page, self.burst_beats), (page + PAGE_BYTES - self.burst_beats * self.bus_bytes, self.burst_beats),
            (page + PAGE_BYTES - self.bus_bytes, 1))]
        return self.ask(bursts, bursts)

    def begin(self, stimulus: Items) -> None:
        rng = random.Random(self.seed)
        for number, memory in enumerate(self.memories):
            memory.data[:] = self.contents(number)
            memory.want = memory.data.copy()
        reads, writes = self.requests
        self.master.reads.extend(self._read(rng, *request) for request in reads)
        self.master.writes.extend(self._write(rng, *request) for request in writes)

    def _read(self, rng: random.Random, address: int, beats: int) -> ReadBurst:
        expected = []
        for places in self.places(address, beats):
            slices = [memory.word(place) << 8 * memory.port.bus_bytes * number
                      for number, (memory, place) in enumerate(zip(self.memories, places, strict=True))]
            expected.append((sum(slices), self._response(places)))
        return ReadBurst(rng.getrandbits(self.id_bits), address, tuple(expected))

    def _write(self, rng: random.Random, address: int, beats: int) -> WriteBurst:
        words, response = [], 0
        for places in self.places(address, beats):
            word = rng.getrandbits(8 * self.bus_bytes)
            strobes = rng.choice((0, (1 << self.bus_bytes) - 1, rng.getrandbits(self.bus_bytes)))
            words.append((word, strobes))
            response = max(response, self._response(places))
            lanes = word.to_bytes(self.bus_bytes, "little")
            for number, (memory, place) in enumerate(zip(self.memories, places, strict=True)):
                if memory.response(place) or memory.want is None:
                    continue
                size = memory.port.bus_bytes
                for lane in range(size):
                    if strobes >> number * size + lane & 1:
                        memory.want[place + lane] = lanes[number * size + lane]
        return WriteBurst(rng.getrandbits(self.id_bits), address, tuple(words), response)

    def _response(self, places: list[int]) -> int:
        return max(memory.response(place) for memory, place in zip(self.memories, places, strict=True))

    def expected(self, stimulus: Items) -> Items:
        return {}

    def latency_stimulus(self) -> Items:
        rng = random.Random(0)
        self.turn_knobs(rng, "latency")
        beats = min(16, self.burst_beats)
        bursts = [(beats * self.bus_bytes * k, beats) for k in range(24)]
        return self.ask(bursts, bursts)

    def measure(self, trace: Trace) -> dict[str, int]:
        """Latencies less those of the memory; the longest gap on any port in the data, which shows that they are hidden,
        and in the addresses, until the most bursts are under way."""
        bus = self.master.port
        ports = [bus, *(memory.port for memory in self.memories)]
        runs = [cycles for port in ports for cycles in (
            port.transfers["r"], port.transfers["w"], port.transfers["ar"][:OUTSTANDING], port.transfers["aw"][:OUTSTANDING])]
        return {"latency": bus.raised["r"] - bus.transfers["ar"][0] - LATENCY,
                "interval": max(b - a for cycles in runs for a, b in pairwise(cycles)),
                "write_latency": bus.transfers["b"][-1] - bus.transfers["w"][-1] - LATENCY}

    def figures(self, attributes: Mapping[str, Any]) -> Mapping[str, int]:
        return {**super().figures(attributes), "write_latency": WRITE_LATENCY}
