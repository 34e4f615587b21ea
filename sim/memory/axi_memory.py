"""AXI4 memory with knobs for everything a real one may do."""

import random
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..bench.agents import BenchFailure, Model, Pattern, always
from .axi_port import AxiPort

__all__ = ["AxiMemory", "Fault"]

OKAY, SLVERR, DECERR = 0, 2, 3


@dataclass(frozen=True)
class Fault:
    """Bytes ``low`` to ``high - 1`` answer with ``response`` (2 is SLVERR, 3 DECERR) and are not written."""

    low: int
    high: int
    response: int = SLVERR


@dataclass
class _Open:
    """A burst that is not answered in full; for writes, one whose data are all there."""

    name: int  # ID
    address: int
    beats: int
    due: int  # first cycle in which its answer may start
    response: int = OKAY
    done: int = 0


class AxiMemory(Model):
    """The memory behind an AXI4 port of the unit, with a protocol checker on the port.

    Bursts with the same ID are answered in order. Addresses outside of ``data`` answer DECERR, data 0.
    While ``rvalid`` or ``bvalid`` is down the payload is nonsense, with an error response.

    Parameters
    ----------
    ports : dict of str to handle
        Ports of the unit.
    data : array of uint8
        Contents, from address 0 on; shared, so that a bench sees what is written.
    prefix : str
        Name of the port.

    Attributes
    ----------
    latency : int
        Cycles from the transfer on AR (or the last of AW and W) to the first that may have ``valid`` up; at
        least 1.
    jitter : int
        Up to so many more, at random for every burst.
    depth : int
        Bursts of each direction that are taken before the first is answered.
    reorder : bool
        Mix the beats of bursts with different IDs, at random; else answer in the order of the addresses.
    faults : list of Fault
    want : array of uint8 or None
        If set, what ``data`` must hold after the run.
    eager : tuple of str
        Channels (``"r"``, ``"b"``) on which the unit promises to be always ready.
    rng : random.Random
    accepts, offers : Pattern
        Cycles in which it may be ready, and may raise valid; set by every run of the menu.
    """

    def __init__(self, ports: dict[str, Any], data: np.ndarray, prefix: str = "m_axi"):
        if data.dtype != np.uint8 or data.ndim != 1:
            raise TypeError(f"data must be a one-dimensional array of uint8, not {data.dtype} of shape "
                            f"{data.shape}")
        self.name = prefix
        self.port = AxiPort(ports, prefix)
        self.data = data
        self.latency, self.jitter, self.depth, self.reorder = 1, 0, 16, False
        self.faults: list[Fault] = []
        self.want: np.ndarray | None = None
        self.eager: tuple[str, ...] = ()
        self.rng = random.Random(0)
        self.clear()

    def clear(self) -> None:
        self.port.clear()
        self.accepts: Pattern = always
        self.offers: Pattern = always
        self._now = 0
        self._reads: list[_Open] = []
        self._addresses: deque[dict[str, int]] = deque()
        self._beats: list[dict[str, int]] = []
        self._bursts: deque[list[dict[str, int]]] = deque()
        self._writes: list[_Open] = []
        self._offered: dict[str, _Open | None] = {"r": None, "b": None}
        for channel in self.port.channels:
            if channel in ("r", "b"):
                self.port.set(channel, valid=0)
            else:
                self.port.set(channel, ready=0)

    def begin(self, sources: Pattern, sinks: Pattern) -> None:
        self.offers, self.accepts = sources, sinks

    @property
    def transfers(self) -> list[int]:
        return sorted(cycle for cycles in self.port.transfers.values() for cycle in cycles)

    def response(self, address: int) -> int:
        """Response to one bus word."""
        for fault in self.faults:
            if fault.low <= address < fault.high:
                return fault.response
        return OKAY if address + self.port.bus_bytes <= len(self.data) else DECERR

    def word(self, address: int) -> int:
        return int.from_bytes(self.data[address:address + self.port.bus_bytes].tobytes(), "little")

    def drive(self) -> None:
        for channel, backlog in (("ar", self._reads), ("aw", self._addresses), ("w", self._bursts)):
            if channel in self.port.channels:
                self.port.set(channel, ready=int(len(backlog) < self.depth and self.accepts()))
        for channel, backlog in (("r", self._reads), ("b", self._writes)):
            if channel in self.port.channels and self._offered[channel] is None:
                self._offer(channel, backlog)

    def _offer(self, channel: str, backlog: list[_Open]) -> None:
        heads: dict[int, _Open] = {}  # the oldest burst of every ID
        for burst in backlog:
            heads.setdefault(burst.name, burst)
        ready = [burst for burst in heads.values() if burst.due <= self._now]
        if not self.reorder:
            ready = [burst for burst in ready if burst is backlog[0]]
        if not ready or not self.offers():
            self.port.set(channel, valid=0, data=self.rng.getrandbits(8 * self.port.bus_bytes), resp=DECERR,
                          last=self.rng.getrandbits(1))
            return
        burst = self._offered[channel] = self.rng.choice(ready) if self.reorder else ready[0]
        if channel == "b":
            self.port.set("b", valid=1, id=burst.name, resp=burst.response)
            return
        address = burst.address + burst.done * self.port.bus_bytes
        self.port.set("r", valid=1, id=burst.name, data=self.word(address), resp=self.response(address),
                      last=int(burst.done == burst.beats - 1))

    def sample(self, cycle: int) -> bool:
        seen = self.port.sample(cycle)
        if "ar" in seen:
            self._reads.append(self._open(seen["ar"]))
        if "aw" in seen:
            self._addresses.append(seen["aw"])
        if "w" in seen:
            self._beats.append(seen["w"])
            if seen["w"]["last"]:
                self._bursts.append(self._beats)
                self._beats = []
        if "r" in seen:
            burst = self._offered["r"]
            assert burst is not None
            burst.done += 1
            if burst.done == burst.beats:
                self._reads.remove(burst)
            self._offered["r"] = None
        if "b" in seen:
            answered = self._offered["b"]
            assert answered is not None
            self._writes.remove(answered)
            self._offered["b"] = None
        while self._addresses and self._bursts:
            self._write(self._open(self._addresses.popleft()), self._bursts.popleft())
        self._now += 1
        return bool(seen)

    def _open(self, burst: dict[str, int]) -> _Open:
        due = self._now + max(1, self.latency) + self.rng.randint(0, self.jitter)
        return _Open(burst.get("id", 0), burst["addr"], burst["len"] + 1, due)

    def _write(self, burst: _Open, beats: list[dict[str, int]]) -> None:
        for position, beat in enumerate(beats):
            address = burst.address + position * self.port.bus_bytes
            response = self.response(address)
            burst.response = max(burst.response, response)
            if response == OKAY:
                for lane in range(self.port.bus_bytes):
                    if beat["strb"] >> lane & 1:
                        self.data[address + lane] = beat["data"] >> 8 * lane & 0xFF
        self._writes.append(burst)

    def pending(self) -> str | None:
        return self.port.pending()

    def finish(self) -> None:
        """Compare the contents with ``want``; look for stalls on ``eager`` channels."""
        for channel in self.eager:
            if self.port.stalls[channel]:
                raise BenchFailure(f"{self.name} {channel.upper()} channel: the unit was not ready in "
                                   f"{self.port.stalls[channel]} cycles with valid up")
        if self.want is None:
            return
        wrong = np.flatnonzero(self.want != self.data)
        if len(wrong):
            address = int(wrong[0])
            raise BenchFailure(f"{self.name}: {len(wrong)} bytes are wrong after the run, the first at "
                               f"{address:#x}: {self.data[address]:#04x}, expected {self.want[address]:#04x}")
