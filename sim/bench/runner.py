"""Builds a simulation of an emitted unit, runs the menu in it and reads the results.

Builds are kept in ``build/sim`` under the hash of Verilog, ports and flags. Runs go to ``build/runs``. Lock
files keep parallel workers out of each other's folders.
"""

import fcntl
import hashlib
import json
import os
import random
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from cocotb_tools import runner as cocotb_runner
from cocotb_tools.runner import get_runner

from ...accelerators.checks import Configuration
from ...rtl_gen.emit import Emitted
from ...rtl_gen.loading import load
from ...rtl_gen.registry import Unit, emit_unit
from ...rtl_gen.yowasp import build_root
from .simulators import FastVerilator, for_icarus, publish_ports

__all__ = ["SIMULATORS", "Report", "run_bench", "run_unit"]

SIMULATORS = ("verilator", "icarus")
_FLAGS = {
    "verilator": ["--assert", "-Wno-fatal"],
    "icarus": [],
}
_TIMESCALE = ("1ns", "1ps")
_ASSERTION = re.compile(r"%Error|ERROR:|\b[Aa]ssert(ion)?\b")
_STOPPED = "simulation ended prematurely"


@dataclass
class Report:
    """Outcome of one simulator run.

    Attributes
    ----------
    passed : list of str
        Cases that passed.
    failed : dict of str to str
        Cases that failed, with the message.
    problems : list of str
        What went wrong outside the cases: assertion text, a crash.
    figures : dict
        What the latency case measured.
    seed : int
    folder : Path
        Log, results and waveform.
    """

    title: str
    seed: int
    folder: Path
    passed: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return not self.failed and not self.problems and bool(self.passed)

    def __str__(self) -> str:
        lines = [f"{self.title}, seed {self.seed}: {len(self.passed)} passed, {len(self.failed)} failed"]
        lines += [f"  FAILED {name}: {message}" for name, message in self.failed.items()]
        lines += [f"  PROBLEM {problem}" for problem in self.problems]
        if self.figures:
            lines.append("  measured: " + ", ".join(f"{k} {v}" for k, v in self.figures.items()))
        if not self.ok:
            lines.append(f"  see {self.folder}")
        return "\n".join(lines)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _runner(simulator: str, waves: bool) -> Any:
    if simulator not in SIMULATORS:
        raise ValueError(f"simulator must be one of {', '.join(SIMULATORS)}, not {simulator!r}")
    if simulator == "icarus":
        return get_runner("icarus")
    return FastVerilator(build_root() / "sim" / f"runtime-{version('verilator')}{'-waves' if waves else ''}")


def _build(emitted: Emitted, simulator: str, waves: bool) -> Path:
    """Folder of the built simulation, built if it is not there yet."""
    ports = [port["name"] for port in emitted.sidecar["ports"]] + ["clk", "rst"]
    control = publish_ports(emitted.name, ports)
    text = for_icarus(emitted.verilog) if simulator == "icarus" else emitted.verilog
    key = hashlib.sha256("\0".join((simulator, str(waves), text, control,
                                    *_FLAGS[simulator])).encode()).hexdigest()[:24]
    folder = build_root() / "sim" / key
    done = folder / "done"
    if done.exists():
        return folder
    with _locked(folder.with_suffix(".lock")):
        if done.exists():
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        verilog, _ = emitted.emit_to(folder)
        verilog.write_text(text)
        sources = [verilog]
        if simulator == "verilator":
            sources.append(folder / "ports.vlt")
            sources[-1].write_text(control)
        log = folder / "build.log"
        cocotb_runner.MAX_PARALLEL_BUILD_JOBS = 2
        try:
            _runner(simulator, waves).build(sources=sources, hdl_toplevel=emitted.name, build_dir=folder,
                                     build_args=_FLAGS[simulator], timescale=_TIMESCALE, waves=waves,
                                     log_file=log)
        except RuntimeError as error:
            tail = "\n".join(log.read_text().splitlines()[-20:])
            raise RuntimeError(f"{simulator} cannot build {emitted.name}: {error}\n{tail}") from None
        done.touch()
    return folder


def run_bench(emitted: Emitted, bench: str, simulator: str = "verilator", *, seed: int | None = None,
              cases: Sequence[str] = (), waves: bool = False, folder: Path | None = None) -> Report:
    """Run the menu on ``emitted``.

    Parameters
    ----------
    bench : str
        ``module:Class`` of the ``UnitBench``.
    simulator : "verilator" or "icarus"
    seed : int or None
        ``None`` takes ``$LLMRTL_SEED``, or a random one.
    cases : sequence of str
        Names of the cases to run; all if empty.
    waves : bool
        Record a waveform; also with ``$LLMRTL_WAVES`` set to 1.
    folder : Path or None
        For log, results and waveform; ``build/runs/<unit>-<preset>-<simulator>`` by default.
    """
    seed = int(os.environ.get("LLMRTL_SEED", random.getrandbits(31))) if seed is None else seed
    waves = waves or os.environ.get("LLMRTL_WAVES") == "1"
    built = _build(emitted, simulator, waves)
    preset = (emitted.sidecar["config"] or {}).get("name", "none")
    report = Report(f"{emitted.name} {preset} {simulator}", seed,
                    folder or build_root() / "runs" / f"{emitted.name}-{preset}-{simulator}")
    with _locked(report.folder.with_suffix(".lock")):
        shutil.rmtree(report.folder, ignore_errors=True)
        _simulate(report, emitted, bench, simulator, built, cases, waves)
    return report


def _simulate(report: Report, emitted: Emitted, bench: str, simulator: str, built: Path,
              cases: Sequence[str], waves: bool) -> None:
    runs = report.folder
    _, sidecar = emitted.emit_to(runs)
    figures, log, results = runs / "figures.json", runs / "run.log", runs / "results.xml"
    instance = _runner(simulator, waves)
    instance.hdl_toplevel = emitted.name
    instance.build_dir = built
    modules = load(bench).modules
    # cocotb has pytest rewrite the assertions of all that it imports, longer than many a bench runs: those of the cases are enough.
    rewritten = " ".join(f"{module.rpartition('.')[2]}.py" for module in modules)
    environment = {"LLMRTL_SIDECAR": str(sidecar), "LLMRTL_BENCH": bench, "LLMRTL_SEED": str(report.seed),
                   "LLMRTL_FIGURES": str(figures), "COCOTB_ANSI_OUTPUT": "0", "COCOTB_REWRITE_ASSERTION_FILES": rewritten,
                   "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    test_filter = r"\.(" + "|".join(map(re.escape, cases)) + ")$" if cases else None
    plusargs = [f"+dumpfile_path={runs / emitted.name}.fst"] if simulator == "icarus" and waves else []
    stopped = None
    try:
        instance.test(test_module=modules, hdl_toplevel=emitted.name, hdl_toplevel_lang="verilog",
                      build_dir=built, test_dir=runs, waves=waves, plusargs=plusargs,
                      extra_env=environment, log_file=log, results_xml=str(results),
                      test_filter=test_filter, timescale=_TIMESCALE)
    except (RuntimeError, SystemExit) as error:
        stopped = error  # also raised, under pytest, when a case failed
    _read(report, results, log, figures)
    if stopped is not None and not report.failed:
        report.problems.append(f"the simulator stopped: {stopped}")


def _read(report: Report, results: Path, log: Path, figures: Path) -> None:
    stopped = False
    if results.is_file():
        for case in ElementTree.parse(results).getroot().iter("testcase"):
            name = case.get("name", "?")
            failure = next((child for child in case if child.tag in ("failure", "error")), None)
            if failure is None:
                report.passed.append(name)
            else:
                message = failure.get("error_msg") or failure.get("message") or "failed"
                if _STOPPED in message:
                    message = "not run" if stopped else "the simulator stopped here"
                    stopped = True
                report.failed[name] = message
    text = log.read_text(errors="replace") if log.is_file() else ""
    report.problems += [f"simulator output: {line}" for line in text.splitlines()
                        if _ASSERTION.search(line) and "cocotb" not in line][:3]
    if not report.passed and not report.failed:
        report.problems.append("no case ran:\n" + "\n".join(text.splitlines()[-20:]))
    if figures.is_file():
        report.figures = json.loads(figures.read_text())


def run_unit(unit: Unit, config: Configuration, simulator: str = "verilator", **options: Any) -> Report:
    """Emit a registered unit and run its bench; options as for ``run_bench``."""
    return run_bench(emit_unit(unit, config), unit.bench, simulator, **options)
