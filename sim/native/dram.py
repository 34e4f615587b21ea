"""The DDR4 model of ``dram.h`` from Python: what it reports, and measurements of it without an accelerator."""

import fcntl
import hashlib
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...rtl_gen.yowasp import build_root
from .build import SOURCES, BuildError

__all__ = ["DramReport", "Measurement", "measure"]

PORTS, PORT_BYTES = 4, 16  # of dram_bench.cpp
FLAGS = ("-std=c++20", "-O2", "-Wall", "-Wextra", "-Werror")


@dataclass
class DramReport:
    """The device, its timing and what was counted.

    Parameters
    ----------
    device : str
        Name of the model.
    peak_gb_s : float
        Of the data bus, 10**9 bytes per second.
    timing : dict
        JEDEC name -> (DRAM clocks, nanoseconds; 0 where the standard gives clocks only).
    statistics : dict
        Name -> count: 64-byte bursts read and written, row hits, misses (closed bank) and conflicts (another row was open),
        activates, precharges, refreshes, collisions (reads of bytes that a queued write held).
    """

    device: str
    peak_gb_s: float
    timing: dict[str, tuple[int, float]] = field(default_factory=dict)
    statistics: dict[str, int] = field(default_factory=dict)

    @property
    def refresh_share(self) -> float:
        """Share of time in which the device refreshes and nothing else."""
        return self.timing["tRFC"][0] / self.timing["tREFI"][0]

    @property
    def sustained_gb_s(self) -> float:
        """Peak less refresh: what no pattern exceeds for long."""
        return self.peak_gb_s * (1 - self.refresh_share)

    @classmethod
    def begin(cls, fields: Sequence[str]) -> "DramReport":
        """From the line ``dram NAME CLOCK_KHZ BYTES CLOCKS``: a burst of BYTES takes CLOCKS."""
        name, khz, burst_bytes, clocks = fields
        return cls(name, int(burst_bytes) * int(khz) / int(clocks) / 1e6)

    def add(self, keyword: str, fields: Sequence[str]) -> None:
        """A line ``timing NAME CLOCKS PICOSECONDS`` or ``statistic NAME COUNT``."""
        if keyword == "timing":
            self.timing[fields[0]] = int(fields[1]), int(fields[2]) / 1000
        else:
            self.statistics[fields[0]] = int(fields[1])


@dataclass
class Measurement:
    """What ``measure`` saw: fabric cycles, bytes read and written, and the device's report."""

    cycles: int
    read_bytes: int
    written_bytes: int
    clock_mhz: float
    dram: DramReport

    @property
    def gb_s(self) -> float:
        return (self.read_bytes + self.written_bytes) * self.clock_mhz / self.cycles / 1000


def measure(pattern: str, *, streams: int = PORTS, burst_bytes: int = 1024, cycles: int = 250_000, clock_mhz: float = 250.0,
            writes: int = 0, spread: bool = True, device: str = "ddr4", commands: Path | None = None) -> Measurement:
    """Drive the model behind four 128-bit ports.

    Parameters
    ----------
    pattern : ``"sequential"``, ``"random"`` or ``"hot"``
        Addresses of each port's bursts: one after another, anywhere in the port's 16 MiB, or among its first 16 bursts.
    streams : int
        Ports in use, 1 to 4.
    burst_bytes : int
        16 to 4096; addresses are multiples of it.
    cycles : int
        Fabric cycles.
    writes : int
        Percent of bursts that are writes.
    spread : bool
        Ports begin in different banks, as ``run.port_bases`` places them; False: all in the same bank.
    device : ``"ddr4"`` or ``"ddr4-x8"``
        Devices of 16 or 8 data lines.
    commands : Path
        File of all DRAM commands: ``clock,command,group,bank,row,column``.
    """
    arguments = [pattern, streams, burst_bytes, cycles, round(1000 * clock_mhz), writes, int(spread), device]
    command = [str(_build()), *map(str, arguments), *([str(commands)] if commands is not None else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    read = written = 0
    report: DramReport | None = None
    for line in done.stdout.splitlines():
        keyword, *fields = line.split()
        if keyword == "port":
            read += PORT_BYTES * int(fields[1])
            written += PORT_BYTES * int(fields[2])
        elif keyword == "dram":
            report = DramReport.begin(fields)
        elif report is not None:
            report.add(keyword, fields)
    assert report is not None
    return Measurement(cycles, read, written, clock_mhz, report)


def _build() -> Path:
    """The measuring program, compiled once per version of its sources."""
    names = ("dram_bench.cpp", "memory.h", "dram.h")
    key = hashlib.sha256(repr(FLAGS).encode())
    for name in names:
        key.update((SOURCES / name).read_bytes())
    folder = build_root() / "sim" / "native" / f"dram-{key.hexdigest()[:24]}"
    program = folder / "dram_bench"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.is_file():
            partial = folder / "partial"
            done = subprocess.run(["g++", *FLAGS, str(SOURCES / names[0]), "-o", str(partial)], text=True,
                                  stderr=subprocess.PIPE, check=False)
            if done.returncode:
                raise BuildError(f"compiling {names[0]} failed:\n{done.stderr}")
            os.replace(partial, program)
    return program
