"""Programs that place, route and pack designs, from the extra [boards]."""

import subprocess
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..rtl_gen.yowasp import ToolError

__all__ = ["run_tool", "tool_versions"]


def tool_versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of installed packages; ``ToolError`` for one that is not there."""
    try:
        return {package: version(package) for package in packages}
    except PackageNotFoundError as error:
        raise ToolError(f"{error.name} is not installed, it comes with the extra [boards]: pip install 'llmrtl[boards]'") from None


def run_tool(name: str, launch: Sequence[str], arguments: Sequence[str], cwd: Path, makes: str) -> None:
    """Run a program that is Python (``launch``: ``-c`` or ``-m`` and what follows) and writes the file ``makes``; ``ToolError`` with
    the end of its file ``log``, or of what it printed, if it failed or there is no such file."""
    result = subprocess.run([sys.executable, *launch, *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    if result.returncode or not (cwd / makes).is_file():
        log = cwd / "log"
        said = (log.read_text() if log.exists() else "") or result.stdout + result.stderr
        raise ToolError(f"{name} failed with exit code {result.returncode}:\n" + "\n".join(said.splitlines()[-12:]))
