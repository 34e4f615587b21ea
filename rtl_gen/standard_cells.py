"""Area in standard cells: Yosys with any liberty file.

Modules are kept, so each has its own area. Memories up to ``REGISTER_FILE_BITS`` become flip-flops; larger ones would be SRAM macros,
of which a liberty file of standard cells knows nothing: they are counted in bits and left out of the area.
"""

import hashlib
import json
import re
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .emit import Emitted, omit_cleared_memories, write_if_changed
from .yowasp import ToolError, build_root, run_yosys, yosys_version

__all__ = ["DEFAULT_LIBERTY", "CellArea", "default_liberty", "map_to_cells"]

DEFAULT_LIBERTY = Path("/usr/share/qflow/tech/osu018/osu018_stdcells.lib")
"""Of Debian's package ``qflow-tech-osu018``: Oklahoma State University's cells for TSMC 180 nm; areas in um2."""

REGISTER_FILE_BITS = 4096
"""A memory with at most so many bits is made of flip-flops."""

_COARSE = """read_verilog -sv design.sv
chformal -remove
delete t:$print
hierarchy -check -top {top}
synth -top {top} -run begin:fine
write_json coarse.json
"""

_FINE = """opt -fast -full
{registers}
opt -undriven -fine
techmap
opt -fast
dfflibmap -liberty cells.lib
abc -liberty cells.lib
opt_clean
read_liberty -lib cells.lib
check -assert
tee -q -o stat.json stat -json -liberty cells.lib
"""


@dataclass(frozen=True)
class CellArea:
    """A unit in standard cells.

    Members
    -------
    name, library : str
        Top module; name of the library in the liberty file.
    area : float
        All cells below the top, in the units of the liberty file (um2 for osu018), without ``memory_bits``.
    flip_flops : int
    memory_bits : int
        Bits of memories that are left to SRAM macros.
    modules : dict of str to float
        Area of all instances of each module, without those below it.
    cells : dict of str to int
        Cells by type.
    """

    name: str
    library: str
    area: float
    flip_flops: int
    memory_bits: int
    modules: dict[str, float]
    cells: dict[str, int]


def default_liberty() -> Path:
    """``DEFAULT_LIBERTY``; ``FileNotFoundError`` that says where it comes from if it is not there."""
    if not DEFAULT_LIBERTY.is_file():
        raise FileNotFoundError(f"{DEFAULT_LIBERTY} is missing: install Debian's qflow-tech-osu018, or name another with --liberty")
    return DEFAULT_LIBERTY


def map_to_cells(emitted: Emitted, liberty: Path) -> CellArea:
    """Map a unit to the cells of a liberty file. The result is kept in ``build/cache`` under the hash of all that it depends on.

    Raises ``OSError`` if the file cannot be read, ``ValueError`` if it is no liberty file or has no flip-flop, ``ToolError`` with the
    end of the log if Yosys fails.
    """
    text = liberty.read_text(errors="replace")
    named = re.search(r"^\s*library\s*\(\s*\"?([^\")\s]+)", text, re.M)
    if named is None:
        raise ValueError(f"{liberty} is not a liberty file: it has no 'library (NAME)'")
    flip_flops = {cell.split(")")[0].strip(" \"") for cell in re.split(r"\bcell\s*\(", text)[1:] if re.search(r"\bff\s*\(", cell)}
    if not flip_flops:
        raise ValueError(f"{liberty}: library {named[1]} has no flip-flop")
    verilog = omit_cleared_memories(emitted.verilog)
    parts = (verilog, text, _COARSE, _FINE, str(REGISTER_FILE_BITS), yosys_version())
    cached = build_root() / "cache" / f"{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()}.cells.json"
    if cached.is_file():
        return CellArea(**json.loads(cached.read_text()))
    cached.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=cached.parent) as folder:
            scratch = Path(folder)
            (scratch / "design.sv").write_text(verilog)
            (scratch / "cells.lib").write_text(text)
            run_yosys(_COARSE.format(top=emitted.name), scratch)
            small, macro_bits = _memories(json.loads((scratch / "coarse.json").read_text())["modules"])
            registers = "\n".join(f"memory_map {module}/c:{cell}" for module, cell in small)
            run_yosys("read_json coarse.json\n" + _FINE.format(registers=registers), scratch)
            statistics = json.loads((scratch / "stat.json").read_text())
    except ToolError as error:
        raise ToolError(f"{emitted.name} in cells of {named[1]}: {error}") from None
    result = _result(emitted.name, named[1], statistics, macro_bits, flip_flops)
    write_if_changed(cached, json.dumps(asdict(result), indent=1) + "\n")
    return result


def _memories(modules: dict[str, Any]) -> tuple[list[tuple[str, str]], dict[str, int]]:
    """``(module, cell)`` of memories that become flip-flops; bits of the others, by module."""
    small: list[tuple[str, str]] = []
    macros: dict[str, int] = {}
    for name, module in modules.items():
        for cell, what in module["cells"].items():
            if what["type"] == "$mem_v2":
                size, width = (int(str(what["parameters"][each]), 2) for each in ("SIZE", "WIDTH"))
                if size * width <= REGISTER_FILE_BITS:
                    small.append((name, cell))
                else:
                    macros[name] = macros.get(name, 0) + size * width
    return small, macros


def _result(name: str, library: str, statistics: dict[str, Any], macro_bits: dict[str, int], flip_flops: set[str]) -> CellArea:
    modules = {key.removeprefix("\\"): module for key, module in statistics["modules"].items()}
    times = dict.fromkeys(modules, 0)

    def visit(module: str, count: int) -> None:
        times[module] += count
        for cell, number in modules[module]["num_cells_by_type"].items():
            if (below := cell.removeprefix("\\")) in modules:
                visit(below, count * number)
    visit(name, 1)
    cells: dict[str, int] = {}
    for module, what in modules.items():
        for cell, number in what["num_cells_by_type"].items():
            if cell not in modules and not cell.startswith("$"):
                cells[cell] = cells.get(cell, 0) + number * times[module]
    areas = {module: times[module] * float(what["area"]) for module, what in modules.items() if times[module]}
    return CellArea(name, library, sum(areas.values()), sum(count for cell, count in cells.items() if cell in flip_flops),
                    sum(bits * times[module] for module, bits in macro_bits.items()), areas, dict(sorted(cells.items())))
