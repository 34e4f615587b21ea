"""Bench of the write arbiter: a master in front of each of its ports, an AXI4 memory behind it."""

import random
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ..memory.axi_master import AxiMaster, WriteBurst
from ..memory.axi_memory import AxiMemory, Fault
from .agents import Model
from .trace import Trace
from .unit import Items, UnitBench

__all__ = ["WriteArbiterBench"]

REGION_BYTES = 1 << 14  # of each client
LATENCY = 20


class WriteArbiterBench(UnitBench):
    """Every byte of every client arrives, each answer goes to its client with its ID, nothing else has changed."""

    patience = 4000

    def __init__(self, config: Any):
        super().__init__(config)
        self.bus_bytes = config.bus_bytes

    def models(self, ports: Mapping[str, Any]) -> Sequence[Model]:
        self.clients = [AxiMaster(dict(ports), f"s_axi__{number}")
                        for number in range(sum(name.startswith("s_axi__") and name.endswith("__awvalid") for name in ports))]
        self.id_bits = len(ports["s_axi__0__awid"])
        self.memory = AxiMemory(dict(ports), np.zeros(len(self.clients) * REGION_BYTES, dtype=np.uint8))
        self.requests: list[list[WriteBurst]] = []
        return [*self.clients, self.memory]

    def stimulus(self, rng: random.Random, case: str) -> Items:
        fast = case in ("back_to_back", "latency")
        memory = self.memory
        memory.rng, memory.reorder = random.Random(rng.getrandbits(32)), not fast
        memory.latency, memory.jitter = (LATENCY, 0) if fast else (rng.choice((1, 7)), rng.choice((0, 20)))
        memory.depth = 16 if fast else rng.choice((1, 2, 16))
        low = rng.randrange(len(memory.data))
        memory.faults = [] if fast else [Fault(low, low + 256, rng.choice((2, 3)))]
        self.requests = []
        for number, client in enumerate(self.clients):
            client.outstanding, client.data_ahead = (8, 0) if fast else (rng.choice((1, 2, 8)), rng.choice((0, 1, 3)))
            name = rng.getrandbits(self.id_bits)  # one, so that answers come in order
            self.requests.append([self._burst(rng, name, number, rng.choice((1, 1, 2, 3, 16, 64))) for _ in range(20)])
        return {}

    def _burst(self, rng: random.Random, name: int, client: int, beats: int) -> WriteBurst:
        word = rng.randrange(4096 // self.bus_bytes - beats + 1)
        address = client * REGION_BYTES + rng.randrange(REGION_BYTES // 4096) * 4096 + word * self.bus_bytes
        words = tuple((rng.getrandbits(8 * self.bus_bytes), rng.getrandbits(self.bus_bytes)) for _ in range(beats))
        response = max(self.memory.response(address + beat * self.bus_bytes) for beat in range(beats))
        return WriteBurst(name, address, words, response)

    def begin(self, stimulus: Items) -> None:
        memory = self.memory
        memory.data[:] = np.random.default_rng(1).integers(0, 256, len(memory.data), dtype=np.uint8)
        memory.want = memory.data.copy()
        for client, bursts in zip(self.clients, self.requests, strict=True):
            client.writes.extend(bursts)
            for burst in bursts:
                for beat, (word, strobes) in enumerate(burst.beats):
                    address = burst.address + beat * self.bus_bytes
                    for lane in range(self.bus_bytes):
                        if strobes >> lane & 1 and not memory.response(address):
                            memory.want[address + lane] = word >> 8 * lane & 0xFF

    def expected(self, stimulus: Items) -> Items:
        return {}

    def latency_stimulus(self) -> Items:
        self.stimulus(random.Random(0), "latency")
        rng = random.Random(0)
        self.requests = [[self._burst(rng, number, number, 16) for _ in range(12)] for number in range(len(self.clients))]
        return {}

    def measure(self, trace: Trace) -> dict[str, int]:
        """Latency of addresses and answers; the longest gap in the data, once they flow, is that between two bursts."""
        memory = self.memory.port
        asked = memory.raised["aw"] - min(client.port.transfers["aw"][0] for client in self.clients)
        answered = min(client.port.raised["b"] for client in self.clients) - memory.transfers["b"][0]
        gaps = [b - a for a, b in pairwise(memory.transfers["w"])]
        return {"latency": max(asked, answered), "interval": min(gaps), "between_bursts": max(gaps)}

    def figures(self, attributes: Mapping[str, Any]) -> Mapping[str, int]:
        return {**super().figures(attributes), "between_bursts": 2}
