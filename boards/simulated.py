"""A board that is simulated: accelerator, host link, memory; its serial line is a pseudo-terminal."""

import hashlib
import os
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from types import TracebackType

from amaranth.hdl import ClockDomain, ClockSignal, DomainRenamer, Module, ResetSignal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..accelerators.axi import AXI4Signature
from ..accelerators.config import AcceleratorConfig
from ..accelerators.link import HostLink
from ..accelerators.memory.sdram_chips import SdramConfig
from ..accelerators.top import Accelerator
from ..rtl_gen.emit import Emitted, emit
from ..rtl_gen.verilator import QUICK_SPLIT, VERILATOR, quick_environment
from ..rtl_gen.yowasp import build_root
from ..sim.memory.sdram import figures as sdram_figures
from ..sim.native.build import build_simulator, runtime_folder
from .system import System

__all__ = ["BAUD", "CLOCK_HZ", "SimulatedBoard", "SimulatedTop", "build_board", "emitted_board", "emitted_system"]

CLOCK_HZ, BAUD = 12_000_000, 3_000_000  # as few cycles per bit as the link can do
NATIVE, MEMORY = (Path(__file__).parents[1] / "sim" / name for name in ("native", "memory"))


class SimulatedTop(wiring.Component):
    """Accelerator and host link; both have a memory port of their own.

    Parameters
    ----------
    config : AcceleratorConfig
        With one memory port.

    Members
    -------
    aclk, aresetn : In(1)
    rx : In(1), tx : Out(1)
        Serial line of ``BAUD`` at a clock of ``CLOCK_HZ``.
    m_axi_gmem_*, m_axi_link_* : AXI4 masters
    """

    latency = None
    interval = None

    def __init__(self, config: AcceleratorConfig):
        if config.memory_ports != 1:
            raise ValueError(f"memory_ports must be 1 on a simulated board, not {config.memory_ports}")
        self.accelerator = Accelerator(config)
        self.link = HostLink(config.bus_bits, clock_hz=CLOCK_HZ, baud=BAUD)
        self._memory = {name: member for name, member in self.accelerator.signature.members.items() if name.startswith("m_axi_gmem_")}
        link = AXI4Signature(config.bus_bits).members.items()
        super().__init__({"aclk": In(1), "aresetn": In(1), "rx": In(1), "tx": Out(1, init=1), **self._memory,
                          **{f"m_axi_link_{name}": member for name, member in link}})

    def elaborate(self, platform):
        m = Module()
        m.domains.sync = ClockDomain()
        accelerator = self.accelerator
        m.submodules.accelerator = DomainRenamer("accelerator")(accelerator)  # it makes its clock domain itself
        m.submodules.link = link = self.link
        m.d.comb += [ClockSignal().eq(self.aclk), ResetSignal().eq(~self.aresetn),
                     accelerator.aclk.eq(self.aclk), accelerator.aresetn.eq(self.aresetn),
                     link.rx.eq(self.rx), self.tx.eq(link.tx),
                     link.i_token.p.token.eq(accelerator.m_axis_tokens_tdata), link.i_token.p.value.eq(accelerator.m_axis_tokens_tuser),
                     link.i_token.p.last.eq(accelerator.m_axis_tokens_tlast), link.i_token.valid.eq(accelerator.m_axis_tokens_tvalid),
                     accelerator.m_axis_tokens_tready.eq(link.i_token.ready)]
        for name, member in self._memory.items():
            inside, outside = getattr(accelerator, name), getattr(self, name)
            m.d.comb += outside.eq(inside) if member.flow is Out else inside.eq(outside)
        for name, member in link.m_axi.signature.members.items():
            inside, outside = getattr(link.m_axi, name), getattr(self, f"m_axi_link_{name}")
            m.d.comb += outside.eq(inside) if member.flow is Out else inside.eq(outside)
        for name, member in link.m_axi_csr.signature.members.items():
            master, slave = getattr(link.m_axi_csr, name), getattr(accelerator, f"s_axi_csr_{name}")
            m.d.comb += slave.eq(master) if member.flow is Out else master.eq(slave)
        return m


def emitted_board(config: AcceleratorConfig) -> Emitted:
    return emit(SimulatedTop(config), f"board_{config.name}", config)


def emitted_system(config: AcceleratorConfig, memory: SdramConfig) -> Emitted:
    """What a real board has inside (``System``), with a serial line of as few cycles per bit."""
    return emit(System(config, memory, baud=round(1e6 * memory.clock_mhz) * BAUD // CLOCK_HZ), f"system_{config.name}", config)


def build_board(emitted: Emitted, memory: SdramConfig | None = None) -> Path:
    """Path of the simulator of ``emitted`` (``sim/native/board.cpp``), with an SDRAM at the pins of a system, or a memory behind the
    ports of ``SimulatedTop``; ``BuildError`` when a tool fails. Kept by content."""
    widths = {port["name"]: port["width"] for port in emitted.sidecar["ports"]}
    if memory is None:
        defines = f"constexpr unsigned PORT_BYTES = {widths['m_axi_gmem_rdata'] // 8};\n"
    else:
        figures = ", ".join(map(str, sdram_figures(memory.data_sheet, memory.clock_mhz)))
        defines = f"#define SDRAM_FIGURES {{{figures}}}\nconstexpr unsigned PAD_CYCLES = {memory.pad_cycles};\n"
    interface = f"#pragma once\n{defines}"
    environment = quick_environment("board")
    flags = ["--cc", "--exe", "-O3", "--x-assign", "fast", "--x-initial", "fast", "--noassert", "--top-module", emitted.name,
             "--prefix", "Vboard", "-Wno-fatal", *QUICK_SPLIT, "-CFLAGS", "-std=c++20"]
    key = hashlib.sha256(repr((emitted.verilog, interface, flags, environment["MAKEFLAGS"], version("verilator"))).encode())
    for source in (NATIVE / "board.cpp", NATIVE / "memory.h", NATIVE / "dram.h", MEMORY / "sdram.h"):
        key.update(source.read_bytes())
    folder = build_root() / "sim" / "native" / key.hexdigest()[:24]
    program, work = folder / "Vboard", folder / f"work-{os.getpid()}"
    if program.is_file():
        return program
    work.mkdir(parents=True, exist_ok=True)
    (work / "board.sv").write_text(emitted.verilog)
    (work / "interface.h").write_text(interface)
    command = [str(VERILATOR), *flags, "--Mdir", str(work), f"-I{NATIVE}", str(work / "board.sv"), str(NATIVE / "board.cpp"),
               "-o", str(work / "Vboard")]
    build_simulator(command, "Vboard", work, runtime_folder(), folder / "build.log", environment)
    os.replace(work / "Vboard", program)
    shutil.rmtree(work)
    return program


class SimulatedBoard:
    """A running simulation; a context manager.

    Parameters
    ----------
    program : Path
        Of ``build_board``.
    memory_bytes : int
        Size of its memory, which holds nothing at first.
    fault_ppm : int
        Bytes of a million that get lost, come twice or change on the line, in either direction.
    seed : int
        Of the faults.
    contents : Path or None
        A file that memory begins with.

    Members
    -------
    port : str
        Name of the pseudo-terminal.
    """

    def __init__(self, program: Path, memory_bytes: int, *, fault_ppm: int = 0, seed: int = 1,
                 contents: Path | None = None) -> None:
        period = CLOCK_HZ // BAUD
        command = [str(program), str(memory_bytes), str(period), str(fault_ppm), str(seed), *([str(contents)] if contents else [])]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = self._process.stdout.readline().strip()
        if not self.port:
            raise RuntimeError("the simulated board has not started")

    def __enter__(self) -> "SimulatedBoard":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close(kind is not None)

    def close(self, failed: bool = False) -> dict[str, int]:
        """End it; cycles, faults made, reads and writes of both ports. ``RuntimeError`` if a rule of the bus was broken."""
        assert self._process.stdin is not None and self._process.stdout is not None
        if self._process.stdin.closed:
            return {}
        self._process.stdin.close()
        said = self._process.stdout.read()
        self._process.stdout.close()
        if self._process.wait() and not failed:
            raise RuntimeError(f"the simulated board: {said.strip()}")
        return {name: int(value) for name, _, value in (line.partition(" ") for line in said.splitlines()) if value.isdigit()}
