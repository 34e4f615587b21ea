"""cocotb runners for Verilator (fast, two-state) and Icarus (knows X)."""

import re
import shutil
from pathlib import Path
from typing import Any

from cocotb_tools import runner

from ...rtl_gen.verilator import QUICK_SPLIT, VERILATOR, keep_runtime, quick_environment

__all__ = ["FastVerilator", "for_icarus", "icarus_missing", "publish_ports"]


def icarus_missing() -> str | None:
    """Why Icarus cannot run here, or ``None``."""
    return None if shutil.which("iverilog") and shutil.which("vvp") else "Icarus Verilog is not installed"


def publish_ports(module: str, ports: list[str]) -> str:
    """Verilator control file that lets cocotb see the top-level ports and nothing else."""
    lines = [f'public_flat_rw -module "{module}" -var "{port}"' for port in ports]
    return "\n".join(("`verilator_config", *lines, ""))


def for_icarus(verilog: str) -> str:
    """``verilog`` with every ``always_comb`` as an ``always @*`` that is woken once at the start.

    Icarus 11 wakes each ``always_comb`` of a design whenever anything changes; some designs then run in circles without end.
    """
    parts = re.split(r"(?m)^(?=module )", verilog)
    for k, part in enumerate(parts):
        start = part.find("  always_comb")
        if start >= 0:
            body = re.sub(r"always_comb\n([^;]*;)", r"always_comb begin\n\1\n  end", part[start:])
            body = body.replace("always_comb begin", "always @* begin if (\\$wake ) ;")
            parts[k] = part[:start] + "  reg \\$wake = 1'b0;\n  initial \\$wake <= 1'b1;\n" + body
    return "".join(parts)


class FastVerilator(runner.Verilator):
    """cocotb's runner without ``--public-flat-rw``, which makes simulation 4 to 12 times slower.

    Verilator's own runtime library is compiled once per kind of build and kept in ``runtime``.

    Parameters
    ----------
    runtime : Path
        Folder of compiled runtime objects, shared by all builds with the same flags.
    """

    def __init__(self, runtime: Path):
        super().__init__()
        self._runtime = runtime

    def _simulator_in_path_build_only(self) -> None:
        self.executable = str(VERILATOR)

    def _build_command(self) -> list[list[str]]:
        # The bench spends its time in Python: compile the unit quickly, the shared library well.
        self.env.update(quick_environment("verilator"))
        commands: list[Any] = super()._build_command()
        commands[0] = [*(argument for argument in commands[0] if argument != "--public-flat-rw"), *QUICK_SPLIT]
        if compiled := [str(path) for path in self._runtime.glob("verilated*.o")]:
            # After verilation: make wants objects that are newer than the makefile it has just written.
            commands.insert(1, ["cp", *compiled, str(self.build_dir)])
        return commands

    def build(self, *args: Any, **options: Any) -> None:
        super().build(*args, **options)
        keep_runtime(self._runtime, Path(self.build_dir))
