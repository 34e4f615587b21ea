"""A read master that checks what it gets: the other side of an arbiter or of a memory controller."""

from collections import deque
from typing import Any

import numpy as np

from ..bench.agents import BenchFailure, Model, Pattern, always
from .axi_port import AxiPort

__all__ = ["AxiReader"]


class AxiReader(Model):
    """Asks for the bursts in ``requests``, one after another, and compares every beat with ``data``.

    Parameters
    ----------
    ports : dict of str to handle
        Ports of the unit.
    data : array of uint8
        What the memory holds.
    prefix : str
        Name of the port: ``s_axi__0``.

    Attributes
    ----------
    requests : deque of (address, beats)
        Bursts to ask for; append before a run.
    outstanding : int
        Bursts that may be open at once.
    responses : set of int
        Responses that have come.
    """

    def __init__(self, ports: dict[str, Any], data: np.ndarray, prefix: str):
        self.name = prefix
        self.port = AxiPort(ports, prefix)
        self.data = data
        self.outstanding = 4
        self.clear()

    def clear(self) -> None:
        self.port.clear()
        self.asks: Pattern = always
        self.takes: Pattern = always
        self.requests: deque[tuple[int, int]] = deque()
        self.responses: set[int] = set()
        self._open: deque[list[int]] = deque()  # next address, beats left
        self._offered = False
        self.port.set("ar", valid=0, size=self.port.bus_bytes.bit_length() - 1, burst=1)
        self.port.set("r", ready=0)

    def begin(self, sources: Pattern, sinks: Pattern) -> None:
        self.asks, self.takes = sources, sinks

    @property
    def transfers(self) -> list[int]:
        return sorted(cycle for cycles in self.port.transfers.values() for cycle in cycles)

    def drive(self) -> None:
        if not self._offered:
            if self.requests and len(self._open) < self.outstanding and self.asks():
                address, beats = self.requests[0]
                self.port.set("ar", valid=1, addr=address, len=beats - 1)
                self._offered = True
            else:
                self.port.set("ar", valid=0, addr=0xDEAD << 2, len=0xEE)
        self.port.set("r", ready=int(self.takes()))

    def sample(self, cycle: int) -> bool:
        seen = self.port.sample(cycle)
        if "ar" in seen:
            self._open.append(list(self.requests.popleft()))
            self._offered = False
        if "r" in seen:
            self._check(seen["r"])
        return bool(seen)

    def _check(self, beat: dict[str, int]) -> None:
        burst = self._open[0]
        address, size = burst[0], self.port.bus_bytes
        want = int.from_bytes(self.data[address:address + size].tobytes(), "little")
        self.responses.add(beat["resp"])
        if beat["data"] != want:
            raise BenchFailure(f"{self.name}: wrong data from {address:#x}: {beat['data']:#x}, "
                               f"expected {want:#x}")
        burst[0] += size
        burst[1] -= 1
        if burst[1] == 0:
            self._open.popleft()

    def pending(self) -> str | None:
        if self.requests:
            return f"{self.name} has {len(self.requests)} bursts to ask for"
        return self.port.pending()
