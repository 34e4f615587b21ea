"""Lint of emitted Verilog by three tools: Verilator ``-Wall``, Icarus ``-Wall``, Yosys ``check``.

There are no waivers on the command line: the few that generated code needs are in the head of every
emitted file (see ``emit``), so that it lints clean for whoever receives it.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from importlib.metadata import version
from pathlib import Path

from .emit import Emitted, omit_cleared_memories, write_if_changed
from .verilator import VERILATOR, verilator_environment
from .yowasp import ToolError, build_root, run_yosys, yosys_version

__all__ = ["lint"]

# Icarus 11 says so of every `always_comb` that reads part of a vector. It then wakes up for the whole
# vector, which costs time and changes nothing.
_ICARUS_HARMLESS = "sorry: constant selects in always_* processes are not currently supported"


def lint(emitted: Emitted) -> list[str]:
    """What the tools complain of, one entry per tool; empty when clean. Clean results are remembered."""
    key = hashlib.sha256("\0".join((emitted.name, emitted.verilog, version("verilator"), yosys_version(),
                                    str(shutil.which("iverilog")))).encode()).hexdigest()
    clean = build_root() / "cache" / f"{key}.lint"
    if clean.is_file():
        return []
    clean.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=clean.parent) as scratch:
        source, _ = emitted.emit_to(scratch)
        complaints = [complaint for check in (_verilator, _icarus, _yosys)
                      if (complaint := check(emitted.name, source))]
    if not complaints:
        write_if_changed(clean, "clean\n")
    return complaints


def _run(command: list[str], cwd: Path) -> tuple[int, str]:
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False,
                            env={**os.environ, **verilator_environment()})
    return result.returncode, result.stdout + result.stderr


def _verilator(top: str, source: Path) -> str | None:
    code, output = _run([str(VERILATOR), "--lint-only", "-Wall", "--assert", "--top-module", top,
                         source.name], source.parent)
    return f"verilator -Wall:\n{output}" if code or "%Warning" in output else None


def _icarus(top: str, source: Path) -> str | None:
    if shutil.which("iverilog") is None:
        return None
    code, output = _run(["iverilog", "-g2012", "-Wall", "-t", "null", "-s", top, source.name], source.parent)
    rest = "\n".join(line for line in output.splitlines() if _ICARUS_HARMLESS not in line)
    return f"iverilog -Wall:\n{rest}" if code or rest else None


def _yosys(top: str, source: Path) -> str | None:
    reduced = source.with_suffix(".yosys.sv")
    reduced.write_text(omit_cleared_memories(source.read_text()))
    try:
        run_yosys(f"read_verilog -sv {reduced.name}\nhierarchy -check -top {top}\nproc\ncheck -assert\n",
                  source.parent)
    except ToolError as error:
        return f"yosys check -assert:\n{error}"
    return None
