"""Bench of the SDRAM controller: a master in front of it, a chip that checks its data sheet behind it."""

import random
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ...accelerators.memory.sdram_chips import SdramConfig
from ..memory.axi_master import AxiMaster, ReadBurst, WriteBurst
from ..memory.sdram import SdramModel
from .agents import Model
from .trace import Trace
from .unit import Items, UnitBench

__all__ = ["SdramControllerBench"]

DECERR = 3


class SdramControllerBench(UnitBench):
    """Every word read is the chip's, every byte written arrives, nothing else has changed, and no rule of the data sheet is broken.

    Reads are of the lower half of the chip, writes of the upper; both also of addresses behind its end.
    """

    Config = SdramConfig
    patience = 4000
    modules = (*UnitBench.modules, "llmrtl.sim.bench.sdram_cases")

    def __init__(self, config: Any):
        super().__init__(config)
        self.bus_bytes = config.bus_bytes
        self.size = config.data_sheet.bytes
        self.burst_beats = min(64, 4096 // self.bus_bytes)

    def models(self, ports: Mapping[str, Any]) -> Sequence[Model]:
        self.memory = SdramModel(dict(ports), self.config.data_sheet, self.config.clock_mhz, self.config.pad_cycles)
        self.memory.contents[:] = np.random.default_rng(1).integers(0, 256, self.size, dtype=np.uint8)
        self.master = AxiMaster(dict(ports))
        self.requests: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
        self.seed = 0
        return [self.master, self.memory]

    def ask(self, reads: list[tuple[int, int]], writes: list[tuple[int, int]], seed: int = 0) -> Items:
        """Bursts of the next run: address and beats."""
        self.requests, self.seed = (reads, writes), seed
        return {}

    def bursts(self, rng: random.Random, count: int, low: int) -> list[tuple[int, int]]:
        """Bursts of different lengths: near each other, so that rows are met again, or anywhere; some behind the end."""
        result = []
        for _ in range(count):
            beats = min(rng.choice((1, 1, 2, 3, 16, self.burst_beats, 256)), 4096 // self.bus_bytes)
            word = rng.randrange(4096 // self.bus_bytes - beats + 1)
            page = low // 4096 + rng.choice((rng.randrange(3), rng.randrange(self.size // 8192)))
            if rng.random() < 0.1:
                page = rng.choice((self.size // 4096, (1 << 20) - 1, self.size // 2048 + 7))
            result.append((page * 4096 + word * self.bus_bytes, beats))
        return result

    def stimulus(self, rng: random.Random, case: str) -> Items:
        fast = case in ("back_to_back", "latency")
        self.master.outstanding = 8 if fast else rng.choice((1, 2, 8))
        self.master.data_ahead = 0 if fast else rng.choice((0, 1, 3))
        return self.ask(self.bursts(rng, 16, 0), self.bursts(rng, 12, self.size // 2), rng.getrandbits(32))

    def boundary(self) -> Items:
        """Ends of pages and of the chip."""
        page, half = 2 << self.config.data_sheet.column_bits, self.size // 2
        beats = min(self.burst_beats, page // self.bus_bytes)
        bursts = [(0, 1), (page - self.bus_bytes, 2), (page, beats), (4 * page - self.bus_bytes, 2), (half - 8 * self.bus_bytes, 8)]
        return self.ask([*bursts, (self.size, 2)],
                        [(half + address, count) for address, count in bursts] + [(self.size, 1), ((1 << 32) - 4096, 4)])

    def begin(self, stimulus: Items) -> None:
        rng = random.Random(self.seed)
        self.memory.want = self.memory.contents.copy()
        reads, writes = self.requests
        self.master.reads.extend(self.read(rng, *request) for request in reads)
        self.master.writes.extend(self.write(rng, *request) for request in writes)

    def read(self, rng: random.Random, address: int, beats: int, contents: np.ndarray | None = None) -> ReadBurst:
        """A burst with the data that must come, as of the run's beginning or of ``contents``."""
        contents = self.memory.contents if contents is None else contents
        words = contents[address:address + beats * self.bus_bytes].tobytes() if address < self.size else bytes(beats * self.bus_bytes)
        expected = tuple((int.from_bytes(words[first:first + self.bus_bytes], "little"), DECERR * (address >= self.size))
                         for first in range(0, len(words), self.bus_bytes))
        return ReadBurst(rng.getrandbits(self.config.id_bits), address, expected)

    def write(self, rng: random.Random, address: int, beats: int) -> WriteBurst:
        """A burst of random data and strobes, which also go into ``want``."""
        words = []
        for beat in range(beats):
            data = rng.randbytes(self.bus_bytes)
            strobes = rng.choice((0, (1 << self.bus_bytes) - 1, rng.getrandbits(self.bus_bytes)))
            words.append((int.from_bytes(data, "little"), strobes))
            first = address + beat * self.bus_bytes
            if address < self.size and self.memory.want is not None:
                for lane in range(self.bus_bytes):
                    if strobes >> lane & 1:
                        self.memory.want[first + lane] = data[lane]
        return WriteBurst(rng.getrandbits(self.config.id_bits), address, tuple(words), DECERR * (address >= self.size))

    def expected(self, stimulus: Items) -> Items:
        return {}

    def levels(self, stimulus: Items) -> dict[str, int]:
        return {"ready": 1}

    def latency_stimulus(self) -> Items:
        """The case measures in its own way (``sdram_cases``); here a sequential stream."""
        self.master.outstanding = 8
        return self.ask([(self.burst_beats * self.bus_bytes * k, self.burst_beats) for k in range(8)], [])

    def measure(self, trace: Trace) -> dict[str, int]:
        """Shortest time between two beats."""
        beats = self.master.port.transfers["r"]
        return {"interval": min(b - a for a, b in pairwise(beats))}
