"""Synthesis of emitted Verilog with Yosys: cells by type, LUT, FF, block RAM, DSP, and where they are.

It reads the Verilog, as any other user of a unit does. (From RTLIL it would be no quicker, and Yosys would see less: of
clocked read ports it does not find out that no row is read while it is written, and adds a bypass.) Results are kept in
``build/cache`` under the hash of Verilog, script and Yosys version, so nothing runs twice.
"""

import gzip
import hashlib
import json
import re
import tempfile
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .block_ram import OUTPUT_REGISTERS, use_output_registers
from .emit import Emitted, omit_cleared_memories, write_if_changed
from .files import write_atomically
from .multiplier import MULTIPLIER_REGISTERS, use_multiplier_registers
from .netlist import NAMING, name_cells, resources_by_instance
from .yowasp import ToolError, build_root, run_yosys, yosys_version

__all__ = ["TARGETS", "Synthesis", "Target", "synthesize"]


@dataclass(frozen=True)
class Target:
    """A family of devices.

    Parameters
    ----------
    family : str
        For people.
    commands : str
        Yosys commands; ``{top}`` is the top module. They leave out the last step where that names all cells (see ``netlist.py``).
    cells : dict of str to dict of str to int
        What one cell of a type (a regular expression) takes: ``{"LUT": 2}``. Types that are not here are wiring.
    luts_estimated : bool
        Logic LUTs come from the estimate of ``stat -tech xilinx``, which pairs small functions in one LUT6.
    """

    family: str
    commands: str
    cells: dict[str, dict[str, float]]
    luts_estimated: bool = False


# ``synth_lattice`` with a step of its own for LUTs. Its ``abc9 -W 300`` takes a wire for a quarter of what nextpnr needs on a part that
# is half full, so it saves LUTs where levels cost more. On the executor: 13.7 -> 10.6 ns before placement for 9 % more LUTs.
_ECP5 = """scratchpad -copy abc9.script.flow2 abc9.script
synth_lattice -family ecp5 -run begin:map_luts -top {top}
check -latchonly -assert
techmap -map +/lattice/latches_map.v
abc9 -W 900
clean
synth_lattice -family ecp5 -run map_cells:check -top {top}"""

TARGETS = {
    # What nextpnr packs: a carry cell is two LUTs, a 16x4 RAM four and two for its write port.
    "ecp5": Target("Lattice ECP5", _ECP5, {
        "LUT4": {"LUT": 1}, "CCU2C": {"LUT": 2}, "TRELLIS_DPR16X4": {"LUT": 6, "LUTRAM": 6},
        "TRELLIS_FF": {"FF": 1}, "DP16KD|PDPW16KD": {"BRAM": 1}, "MULT18X18D|MULT9X9D": {"DSP": 1}}),
    "xcup": Target("AMD UltraScale+", "synth_xilinx -family xcup -uram -flatten -noiopad -noclkbuf -top {top}", {
        "RAM32M16|RAM64M8|RAM32X16DR8|RAM64X8SW|RAM512X1S|RAM256X1D": {"LUT": 8, "LUTRAM": 8},
        "RAM32M|RAM64M|RAM128X1D|RAM256X1S": {"LUT": 4, "LUTRAM": 4},
        "RAM32X1D|RAM64X1D|RAM128X1S": {"LUT": 2, "LUTRAM": 2}, "RAM32X1S|RAM64X1S": {"LUT": 1, "LUTRAM": 1},
        "SRL16E|SRLC16E|SRLC32E": {"LUT": 1, "LUTRAM": 1}, "FD[RSCP]E": {"FF": 1},
        "RAMB36E2": {"BRAM": 1}, "RAMB18E2": {"BRAM": 0.5}, "URAM288": {"URAM": 1}, "DSP48E2": {"DSP": 1}}, luts_estimated=True),
    "ice40": Target("Lattice iCE40 UltraPlus", "synth_ice40 -dsp -device u -run begin:check -top {top}", {
        "SB_LUT4": {"LUT": 1}, "SB_DFF.*": {"FF": 1}, "SB_RAM40_4K.*": {"BRAM": 1}, "SB_SPRAM256KA": {"SPRAM": 1},
        "SB_MAC16": {"DSP": 1}}),
}


@dataclass(frozen=True)
class Synthesis:
    """What a component takes on a target before placement.

    Members
    -------
    name, target : str
        Top module; key of ``TARGETS``.
    lut : int
        LUTs: ECP5 LUT4 with those of carries and distributed RAM, as nextpnr packs them; UltraScale+ LUT6, logic
        estimated by Yosys plus distributed RAM and shift registers; iCE40 LUT4.
    ff : int
        Flip-flops, without the registers inside an ECP5's block RAMs and multipliers (``block_ram.py``, ``multiplier.py``).
    bram : float
        Block RAMs: ECP5 EBR of 18 kbit, UltraScale+ of 36 kbit (a RAMB18 is half a one), iCE40 EBR of 4 kbit.
    uram : int
        UltraRAMs of 288 kbit (UltraScale+).
    dsp : int
        MULT18X18D, DSP48E2 or SB_MAC16.
    lutram : int
        The LUTs that are distributed RAM or shift registers; part of ``lut``.
    cells : dict of str to int
        Cells by type.
    hierarchy : dict of str to dict of str to int
        ECP5 only: ``LUT``, ``FF``, ``BRAM``, ``DSP`` below each instance path (``core.attention``), submodules
        included. A LUT belongs to the instance in which its output was named; logic merged across a border counts once.
    key : str
        Name of the results in the cache.
    """

    name: str
    target: str
    lut: int
    ff: int
    bram: float
    uram: int
    dsp: int
    lutram: int
    cells: dict[str, int]
    hierarchy: dict[str, dict[str, int]]
    key: str

    def netlist(self) -> str:
        """JSON netlist for nextpnr (ECP5 only)."""
        return gzip.decompress(_cache(self.key, "netlist.json.gz").read_bytes()).decode()


_ESCAPED = re.compile(r"\\\S+")


def _yosys_safe(verilog: str) -> str:
    r"""Call array elements ``\x(0)`` instead of ``\x[0]``, and leave out loops that Yosys would unroll.

    Yosys (0.60 to 0.70 at least) stops in ABC9 with ``Assert count_id(wire->name) == 0`` when a wire has the name of
    one bit of another.
    """
    return _ESCAPED.sub(lambda name: name[0].replace("[", "(").replace("]", ")"), omit_cleared_memories(verilog))


def synthesize(emitted: Emitted, target: str) -> Synthesis:
    """Synthesize a unit for a key of ``TARGETS``.

    Raises ``ValueError`` for an unknown target and ``ToolError`` with the end of the log if Yosys fails.
    """
    if target not in TARGETS:
        raise ValueError(f"target must be one of {', '.join(TARGETS)}, not {target!r}")
    kind, name = TARGETS[target], emitted.name
    wants_netlist = target == "ecp5"
    script = (f"read_verilog -sv design.sv\nchformal -remove\ndelete t:$print\n{kind.commands.format(top=name)}\n"
              f"tee -q -o stat.json stat -json{' -tech xilinx' if kind.luts_estimated else ''}\n"
              + "blackbox =A:whitebox\nwrite_json netlist.json\n" * wants_netlist)
    verilog = _yosys_safe(emitted.verilog)
    passes = (NAMING, OUTPUT_REGISTERS, MULTIPLIER_REGISTERS) if wants_netlist else (NAMING,)
    key = hashlib.sha256("\0".join((verilog, script, yosys_version(), repr(kind), *passes)).encode()).hexdigest()
    cached = _cache(key, "synthesis.json")
    if cached.is_file() and (_cache(key, "netlist.json.gz").is_file() or not wants_netlist):
        return Synthesis(**json.loads(cached.read_text()))
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cached.parent) as folder:
            scratch = Path(folder)
            (scratch / "design.sv").write_text(verilog)
            run_yosys(script, scratch)
            statistics = json.loads((scratch / "stat.json").read_text())["design"]
            netlist = (scratch / "netlist.json").read_bytes() if wants_netlist else b""
    except ToolError as error:
        raise ToolError(f"synthesis of {name} for {target}: {error}") from None
    except OSError as error:
        raise OSError(f"cannot write {cached.parent}: {error.strerror or error}") from error
    if wants_netlist:
        design = json.loads(netlist)
        module = design["modules"][name]
        if moved := use_output_registers(module) + use_multiplier_registers(module):
            statistics["num_cells_by_type"]["TRELLIS_FF"] -= moved
        name_cells(module)
    result = _result(name, target, statistics, key)
    if wants_netlist:
        result.hierarchy.update(
            {path: {resource: _resources(kind, cells)[resource] for resource in ("LUT", "FF", "BRAM", "DSP")}
             for path, cells in resources_by_instance(module).items()})
        write_atomically(_cache(key, "netlist.json.gz"), gzip.compress(json.dumps(design).encode(), 4, mtime=0))
    write_if_changed(cached, json.dumps(asdict(result), indent=1) + "\n")
    return result


def _cache(key: str, suffix: str) -> Path:
    return build_root() / "cache" / f"{key}.{suffix}"


def _resources(kind: Target, cells: dict[str, int]) -> defaultdict[str, Any]:
    """Sum of what the cells take."""
    total: defaultdict[str, Any] = defaultdict(int)
    for cell, count in cells.items():
        for pattern, resources in kind.cells.items():
            if re.fullmatch(pattern, cell):
                for resource, amount in resources.items():
                    total[resource] += count * amount
    return total


def _result(name: str, target: str, statistics: dict[str, Any], key: str) -> Synthesis:
    kind = TARGETS[target]
    cells = {cell: count for cell, count in sorted(statistics["num_cells_by_type"].items()) if cell != "$scopeinfo"}
    if unmapped := [cell for cell in cells if cell.startswith("$")]:
        raise ToolError(f"synthesis of {name} for {target}: no such cells on this device: {', '.join(unmapped)}")
    total = _resources(kind, cells)
    logic = int(statistics["estimated_num_lc"]) if kind.luts_estimated else 0
    return Synthesis(name, target, total["LUT"] + logic, total["FF"], total["BRAM"], total["URAM"], total["DSP"],
                     total["LUTRAM"], cells, {}, key)
