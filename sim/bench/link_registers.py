"""Registers behind the AXI4-Lite port of the host link: some refuse, and reading one of them changes it."""

from collections.abc import Mapping
from typing import Any

from .agents import BenchFailure, Model, Pattern, always

__all__ = ["LinkRegisters"]

COUNT = 64
REFUSES = 63  # its number
SLVERR = 2
PREFIX = "m_axi_csr__"


class LinkRegisters(Model):
    """An AXI4-Lite slave. Every read of register 0 adds one to it, every write adds to register 1: what is done twice shows.

    ``golden_read`` and ``golden_write`` are the same registers for the golden model.
    """

    name = "registers"

    def __init__(self, ports: Mapping[str, Any]):
        self.ports = {name.removeprefix(PREFIX): port for name, port in ports.items() if name.startswith(PREFIX)}
        self.clear()

    def clear(self) -> None:
        self.accepts: Pattern = always
        self.fill()
        self._address: int | None = None
        self._data: int | None = None
        self._moved: list[int] = []
        self._level = dict.fromkeys(("awready", "wready", "arready", "bvalid", "rvalid"), 0)
        for name in self._level:
            self.ports[name].value = 0

    def fill(self) -> None:
        self.values = [0x01010101 * k for k in range(COUNT)]
        self.golden = list(self.values)

    def begin(self, sources: Pattern, sinks: Pattern) -> None:
        self.accepts = sinks

    @property
    def transfers(self) -> list[int]:
        return self._moved

    @staticmethod
    def _read(values: list[int], address: int) -> int | None:
        number = address // 4
        if number >= REFUSES:
            return None
        values[0] = (values[0] + (number == 0)) & 0xFFFFFFFF
        return values[number]

    @staticmethod
    def _write(values: list[int], address: int, value: int) -> bool:
        if address // 4 >= REFUSES:
            return False
        values[address // 4] = value
        values[1] = (values[1] + 1) & 0xFFFFFFFF
        return True

    def golden_read(self, address: int) -> int | None:
        return self._read(self.golden, address)

    def golden_write(self, address: int, value: int) -> bool:
        return self._write(self.golden, address, value)

    def compare(self) -> None:
        if self.values != self.golden:
            raise BenchFailure(f"registers are {self.values}, expected {self.golden}")

    def _set(self, name: str, level: bool) -> None:
        if level != self._level[name]:
            self._level[name] = int(level)
            self.ports[name].value = int(level)

    def drive(self) -> None:
        for name in ("awready", "wready", "arready"):
            self._set(name, self.accepts())

    def sample(self, cycle: int) -> bool:
        ports = self.ports
        answers = ("rready", "bready") if self._level["rvalid"] or self._level["bvalid"] else ()
        high = {name for name in ("awvalid", "wvalid", "arvalid", *answers) if str(ports[name].value) == "1"}
        if self._level["rvalid"] and "rready" in high:
            self._set("rvalid", False)
        if self._level["bvalid"] and "bready" in high:
            self._set("bvalid", False)
        moved = False
        if "arvalid" in high and self._level["arready"]:
            value = self._read(self.values, int(ports["araddr"].value))
            ports["rdata"].value, ports["rresp"].value = (0, SLVERR) if value is None else (value, 0)
            self._set("rvalid", True)
            moved = True
        if "awvalid" in high and self._level["awready"]:
            self._address = int(ports["awaddr"].value)
        if "wvalid" in high and self._level["wready"]:
            self._data = int(ports["wdata"].value)
            if int(ports["wstrb"].value) != 15:
                raise BenchFailure("a register is written in part")
        if self._address is not None and self._data is not None:
            ports["bresp"].value = 0 if self._write(self.values, self._address, self._data) else SLVERR
            self._address = self._data = None
            self._set("bvalid", True)
            moved = True
        if moved:
            self._moved.append(cycle)
        return moved
