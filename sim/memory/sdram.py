"""The SDRAM of ``sdram.h`` from Python: as a chip that is stepped clock by clock, and behind the pins of a unit."""

import ctypes
import fcntl
import hashlib
import os
import subprocess
from collections import deque
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ...accelerators.memory.sdram_chips import SdramChip
from ...rtl_gen.yowasp import build_root
from ..bench.agents import BenchFailure, Model

__all__ = ["COMMANDS", "Chip", "SdramModel", "figures"]

SOURCES = Path(__file__).parent
FLAGS = ("-std=c++20", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC")
COMMANDS = {"MODE": 0b000, "REFRESH": 0b001, "PRECHARGE": 0b010, "ACTIVE": 0b011, "WRITE": 0b100, "READ": 0b101, "STOP": 0b110,
            "NOP": 0b111}
"""RAS#, CAS#, WE#."""

COUNTS = ("active", "precharge", "refresh", "read", "write")


@cache
def _library() -> ctypes.CDLL:
    """Compiled once per version of the sources."""
    key = hashlib.sha256(repr(FLAGS).encode())
    for name in ("sdram_library.cpp", "sdram.h"):
        key.update((SOURCES / name).read_bytes())
    folder = build_root() / "sim" / f"sdram-{key.hexdigest()[:24]}"
    file = folder / "sdram.so"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.is_file():
            partial = folder / "partial"
            done = subprocess.run(["g++", *FLAGS, str(SOURCES / "sdram_library.cpp"), "-o", str(partial)], text=True,
                                  stderr=subprocess.PIPE, check=False)
            if done.returncode:
                raise RuntimeError(f"compiling sdram_library.cpp failed:\n{done.stderr}")
            os.replace(partial, file)
    library = ctypes.CDLL(str(file))
    for name, result, arguments in (
            ("new", ctypes.c_void_p, [ctypes.POINTER(ctypes.c_int64)]), ("delete", None, [ctypes.c_void_p]),
            ("words", ctypes.POINTER(ctypes.c_uint16), [ctypes.c_void_p]), ("violation", ctypes.c_char_p, [ctypes.c_void_p]),
            ("counts", ctypes.POINTER(ctypes.c_uint64), [ctypes.c_void_p]),
            ("step", ctypes.c_int32, [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_uint32])):
        function = getattr(library, f"sdram_{name}")
        function.restype, function.argtypes = result, arguments
    return library


def figures(chip: SdramChip, clock_mhz: float) -> list[int]:
    """``SdramFigures`` of ``sdram.h``."""
    def ps(ns: float) -> int:
        return round(1000 * ns)

    return [round(1e6 / clock_mhz), chip.row_bits, chip.column_bits, ps(chip.clock_ns[2]), ps(chip.clock_ns[3]),
            *map(ps, (chip.rc, chip.rfc, chip.ras, chip.ras_most, chip.rcd, chip.rp, chip.rrd, chip.wr, chip.mrd)),
            chip.rrd_clocks, chip.wr_clocks, chip.mrd_clocks, ps(chip.refresh_ns), ps(chip.power_up_ns)]


class Chip:
    """One chip.

    Parameters
    ----------
    chip : SdramChip
    clock_mhz : float

    Attributes
    ----------
    words : array of uint16
        Contents by row, bank, column; shared with the chip.
    """

    def __init__(self, chip: SdramChip, clock_mhz: float):
        self._library = _library()
        values = figures(chip, clock_mhz)
        self._chip = ctypes.c_void_p(self._library.sdram_new((ctypes.c_int64 * len(values))(*values)))
        self.words = np.ctypeslib.as_array(self._library.sdram_words(self._chip), (chip.bytes // 2,))

    def __del__(self) -> None:
        if hasattr(self, "_chip"):
            self._library.sdram_delete(self._chip)

    def step(self, command: int = COMMANDS["NOP"], *, bank: int = 0, address: int = 0, dqm: int = 0, dq: int | None = None,
             cke: int = 1, cs_n: int = 0) -> int | None:
        """One clock edge; ``dq`` is what the controller drives, if it does. The word that is valid at the next edge, or None."""
        pins = cke | cs_n << 1 | (command >> 2 & 1) << 2 | (command >> 1 & 1) << 3 | (command & 1) << 4 | bank << 5 | dqm << 7
        word = self._library.sdram_step(self._chip, pins | (dq is not None) << 9, address, dq or 0)
        return None if word < 0 else word

    @property
    def violation(self) -> str:
        """The first rule that was broken, or nothing."""
        return self._library.sdram_violation(self._chip).decode()

    @property
    def counts(self) -> dict[str, int]:
        """Commands so far."""
        values = self._library.sdram_counts(self._chip)
        return {name: int(values[number]) for number, name in enumerate(COUNTS)}


class SdramModel(Model):
    """The chip behind the pins of a unit, pads included; a broken rule ends the run.

    Parameters
    ----------
    ports : dict of str to handle
        Ports of the unit.
    chip : SdramChip
    clock_mhz : float
    pad_cycles : int
        Between the chip's data and ``dq_i``.
    prefix : str
        Of the ports.

    Attributes
    ----------
    contents : array of uint8
        By row, bank, column. Given to every chip that a reset makes.
    want : array of uint8 or None
        If set, what the chip must hold after the run.
    chip : Chip
    """

    def __init__(self, ports: dict[str, Any], chip: SdramChip, clock_mhz: float, pad_cycles: int = 1, prefix: str = "pins"):
        self.name = prefix
        self._pins = {name: ports[f"{prefix}__{name}"] for name in (
            "cke", "cs_n", "ras_n", "cas_n", "we_n", "ba", "a", "dqm", "dq_o", "dq_oe", "dq_i")}
        self._sheet, self._clock_mhz, self._pad_cycles = chip, clock_mhz, pad_cycles
        self.contents = np.zeros(chip.bytes, dtype=np.uint8)
        self.want: np.ndarray | None = None
        self._noise = 0x1D0F
        self.clear()

    def clear(self) -> None:
        """Power-up: another chip."""
        self.chip = Chip(self._sheet, self._clock_mhz)
        self.chip.words[:] = self.contents.view(np.uint16)
        self._coming: deque[int | None] = deque([None] * self._pad_cycles)
        self._next: int | None = None

    def drive(self) -> None:
        self._coming.append(self._next)
        word = self._coming.popleft()
        self._noise = (self._noise * 0x5DEB + 0x3619) & 0xFFFF  # what an undriven bus reads as
        self._pins["dq_i"].value = self._noise if word is None else word

    def sample(self, cycle: int) -> bool:
        pins = {name: str(handle.value) for name, handle in self._pins.items()}
        if pins["dq_oe"] == "0":
            pins["dq_o"] = "0"
        try:
            values = {name: int(bits, 2) for name, bits in pins.items()}
        except ValueError:
            raise BenchFailure(f"the SDRAM's pins are {pins}") from None
        self._next = self.chip.step(
            values["ras_n"] << 2 | values["cas_n"] << 1 | values["we_n"], bank=values["ba"], address=values["a"], dqm=values["dqm"],
            dq=values["dq_o"] if values["dq_oe"] else None, cke=values["cke"], cs_n=values["cs_n"])
        if self.chip.violation:
            raise BenchFailure(f"SDRAM, {self.chip.violation}")
        return False

    def finish(self) -> None:
        """Compare the contents with ``want``."""
        if self.want is None:
            return
        wrong = np.flatnonzero(self.want != self.chip.words.view(np.uint8))
        if len(wrong):
            raise BenchFailure(f"SDRAM: {len(wrong)} bytes are wrong after the run, the first at {int(wrong[0]):#x}: "
                               f"{self.chip.words.view(np.uint8)[wrong[0]]:#04x}, expected {self.want[wrong[0]]:#04x}")
