"""A master that reads and writes and checks every answer: what stands in front of a bridge or a controller."""

from collections import deque
from dataclasses import dataclass
from typing import Any

from ..bench.agents import BenchFailure, Model, Pattern, always
from .axi_port import AxiPort

__all__ = ["AxiMaster", "ReadBurst", "WriteBurst"]


@dataclass(frozen=True)
class ReadBurst:
    """A burst to ask for; ``beats`` are the data and the response that must come."""

    name: int  # ID
    address: int
    beats: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class WriteBurst:
    """A burst to write; ``beats`` are data and strobes, ``response`` must come."""

    name: int  # ID
    address: int
    beats: tuple[tuple[int, int], ...]
    response: int


class AxiMaster(Model):
    """Reads and writes at the same time, or what of it the port has; expects the answers of each direction in the order of its
    bursts.

    Parameters
    ----------
    ports : dict of str to handle
        Ports of the unit.
    prefix : str
        Name of the port.

    Attributes
    ----------
    reads : deque of ReadBurst, writes : deque of WriteBurst
        What to do, one after another; append before a run.
    outstanding : int
        Bursts of each direction that may be open at once.
    data_ahead : int
        Write bursts whose data may come before their addresses.
    responses : set of int
        Responses that have come.
    """

    def __init__(self, ports: dict[str, Any], prefix: str = "s_axi"):
        self.name = prefix
        self.port = AxiPort(ports, prefix)
        self.outstanding, self.data_ahead = 4, 0
        self.clear()

    def clear(self) -> None:
        self.port.clear()
        self.asks: Pattern = always
        self.takes: Pattern = always
        self.reads: deque[ReadBurst] = deque()
        self.writes: deque[WriteBurst] = deque()
        self.responses: set[int] = set()
        self._reading: deque[ReadBurst] = deque()  # asked for, not answered in full
        self._beat = 0  # of the first of them
        self._writing: deque[WriteBurst] = deque()  # address sent, not answered
        self._data: deque[tuple[int, int, int, int]] = deque()  # number of the burst, data, strobes, last
        self._addresses = 0  # of write bursts, sent
        self._offered: set[str] = set()
        size = self.port.bus_bytes.bit_length() - 1
        for channel, idle in (("ar", {"size": size, "burst": 1}), ("aw", {"size": size, "burst": 1}), ("w", {})):
            if channel in self.port.channels:
                self.port.set(channel, valid=0, **idle)
        for channel in self._takes():
            self.port.set(channel, ready=0)

    def _takes(self) -> list[str]:
        return [channel for channel in ("r", "b") if channel in self.port.channels]

    def begin(self, sources: Pattern, sinks: Pattern) -> None:
        self.asks, self.takes = sources, sinks
        for number, burst in enumerate(self.writes):
            self._data.extend((number, *beat, int(k == len(burst.beats) - 1)) for k, beat in enumerate(burst.beats))

    @property
    def transfers(self) -> list[int]:
        return sorted(cycle for cycles in self.port.transfers.values() for cycle in cycles)

    def drive(self) -> None:
        for channel, waiting, under_way in (("ar", self.reads, self._reading), ("aw", self.writes, self._writing)):
            if channel in self._offered or channel not in self.port.channels:
                continue
            if waiting and len(under_way) < self.outstanding and self.asks():
                burst = waiting[0]
                self.port.set(channel, valid=1, id=burst.name, addr=burst.address, len=len(burst.beats) - 1)
                self._offered.add(channel)
            else:
                self.port.set(channel, valid=0, id=0, addr=0xDEAD << 2, len=0xEE)
        if "w" not in self._offered and "w" in self.port.channels:
            if self._data and self._data[0][0] < self._addresses + self.data_ahead and self.asks():
                _, word, strobes, last = self._data[0]
                self.port.set("w", valid=1, data=word, strb=strobes, last=last)
                self._offered.add("w")
            else:
                self.port.set("w", valid=0, data=0, strb=0, last=1)
        for channel in self._takes():
            self.port.set(channel, ready=int(self.takes()))

    def sample(self, cycle: int) -> bool:
        seen = self.port.sample(cycle)
        self._offered -= seen.keys()
        if "ar" in seen:
            self._reading.append(self.reads.popleft())
        if "aw" in seen:
            self._writing.append(self.writes.popleft())
            self._addresses += 1
        if "w" in seen:
            self._data.popleft()
        if "r" in seen:
            self._check_read(seen["r"])
        if "b" in seen:
            self._check_write(seen["b"])
        return bool(seen)

    def _check_read(self, beat: dict[str, int]) -> None:
        burst = self._reading[0]
        word, response = burst.beats[self._beat]
        self._compare(f"beat {self._beat} of the read from {burst.address:#x}", beat,
                      {"id": burst.name, "data": word, "resp": response})
        self._beat += 1
        if self._beat == len(burst.beats):
            self._reading.popleft()
            self._beat = 0

    def _check_write(self, answer: dict[str, int]) -> None:
        burst = self._writing.popleft()
        self._compare(f"the answer to the write to {burst.address:#x}", answer,
                      {"id": burst.name, "resp": burst.response})

    def _compare(self, what: str, got: dict[str, int], want: dict[str, int]) -> None:
        for name, value in want.items():
            if got[name] != value:
                raise BenchFailure(f"{self.name}: {name} of {what} is {got[name]:#x}, expected {value:#x}")
        self.responses.add(got["resp"])

    def pending(self) -> str | None:
        if self.reads or self.writes or self._data:
            return (f"{self.name} has {len(self.reads)} reads and {len(self.writes)} writes to ask for and "
                    f"{len(self._data)} beats to write")
        return self.port.pending()
