"""Runs whole models for ``docs/RESULTS.md``: what ``llmrtl run``, ``llmrtl compare`` and ``models.evaluate`` report.

The commands are executed as they stand in the page. Their JSON is kept in ``build/cache`` under the hash of command, sources
and checkpoint, so an interrupted ``llmrtl bench`` goes on where it stopped and figures of older hardware never appear.
"""

import contextlib
import hashlib
import importlib.util
import io
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..accelerators.config import AcceleratorConfig
from .emit import write_if_changed
from .nextpnr import DEVICE
from .report import Book, Measurement, bench_folder
from .yowasp import ToolError, build_root

__all__ = ["Job", "jobs", "run_models"]

_PACKAGE = Path(__file__).parent.parent
REFERENCES = _PACKAGE.parent / "shared" / "reference" / "checkpoints"
_ABSENT = "needs the reference checkpoints, which are not part of the repository"
_SKIPPED = {"report.py", "runs.py", "synthesis.py", "yosys.py", "nextpnr.py", "lint.py"}

_RUN_FIGURES = {
    "parameters": "", "prompt_tokens": "", "tokens_generated": "", "golden_match": "", "cycles_prefill": "cycles",
    "cycles_per_decoded_token": "cycles", "bytes_read_per_token": "bytes", "bytes_written_per_token": "bytes",
    "read_utilization_prefill": "%", "read_utilization_decode": "%", "simulated_cycles_per_second": "1/s",
}
_COMPARE_FIGURES = {"float_max_error": "", "float_agreement": "%", "golden_max_error": "", "golden_agreement": "%",
                    "golden_kl": "nat"}
_EVALUATE_FIGURES = {
    "greedy_tokens": "", "greedy_agreement": "%", "prompts": "", "identical_continuations": "", "held_out_tokens": "",
    "perplexity_transformers": "", "perplexity_golden": "", "kl_divergence": "nat",
}


@dataclass(frozen=True)
class Job:
    """One command and the figures in the JSON that it writes.

    Parameters
    ----------
    topic, name : str
        Where the figures go: ``NAME/FIGURE`` of ``topic``.
    command : str
        What is executed.
    output : Path
        JSON that the command writes.
    figures : dict of str to str
        Names in the JSON, units.
    inputs : tuple of Path
        Files and folders that the figures depend on, besides the sources.
    unavailable : str
        Why it cannot be run here; empty if it can.
    """

    topic: str
    name: str
    command: str
    output: Path
    figures: dict[str, str]
    inputs: tuple[Path, ...]
    unavailable: str = ""


def jobs(config: AcceleratorConfig) -> list[Job]:
    """The shipped checkpoint and the reference checkpoints."""
    folder = Path(os.path.relpath(bench_folder()))
    result = []

    def add_run(name: str, checkpoint: Path, options: str, unavailable: str = "") -> None:
        output = folder / f"run-{name}.json"
        command = f"llmrtl run --checkpoint {os.path.relpath(checkpoint)} --preset {config.name} {options} --json {output}"
        result.append(Job("runs", name, command, output, _RUN_FIGURES, (checkpoint,), unavailable))

    add_run("stories", _PACKAGE / "models" / "stories", "--tokens 64")
    transformers = all(importlib.util.find_spec(package) for package in ("torch", "transformers"))
    result.append(Job("accuracy", "stories", f"python -m llmrtl.models.evaluate {config.name}", folder / "golden.json",
                      _EVALUATE_FIGURES, (_PACKAGE / "models",), "" if transformers else "needs the extra [golden]"))
    for name in ("bitnet-auto-h128", "llama-bit-h96", "bitnet-auto-h256-mha"):
        checkpoint = REFERENCES / name
        absent = "" if checkpoint.is_dir() else _ABSENT
        add_run(name, checkpoint, "--tokens 32 --ignore-eos", absent)
        output = folder / f"compare-{name}.json"
        command = (f"llmrtl compare {os.path.relpath(checkpoint)} {os.path.relpath(checkpoint / 'expected.npz')} "
                   f"--preset {config.name} --json {output}")
        result.append(Job("accuracy", name, command, output, _COMPARE_FIGURES, (checkpoint,), absent))
    return result


def run_models(book: Book, config: AcceleratorConfig, say: Callable[[str], None], *, execute: bool = True) -> list[str]:
    """Add topics ``runs`` and ``accuracy``; returns errors. Without ``execute`` only remembered results are used."""
    errors = []
    sources = _hash(path for folder in ("accelerators", "rtl_gen", "sim") for path in sorted((_PACKAGE / folder).rglob("*"))
                    if path.suffix in (".py", ".cpp", ".h") and path.name not in _SKIPPED)
    for job in jobs(config):
        try:
            found, reason = _results(job, sources, say, execute), job.unavailable or "`llmrtl bench` has not been run"
        except (ToolError, OSError, ValueError) as error:
            found, reason = None, str(error).splitlines()[0]
            errors.append(f"{job.command}: {error}")
        if found is None:
            book.add(job.topic, [Measurement(f"{job.name}/{figure}", None, unit, "measured", job.command, reason)
                                 for figure, unit in job.figures.items()])
            continue
        book.add(job.topic, _figures(job, found))
        if job.topic == "runs":
            if not found["golden_match"]:
                errors.append(f"{job.command}: differs from the golden model: {found['mismatch'] or found['error']}")
            book.add("runs", _derived(book, job, found, config))
    for topic in ("runs", "accuracy"):
        book.save(topic)
    return errors


def _hash(paths: Any) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _results(job: Job, sources: str, say: Callable[[str], None], execute: bool) -> dict[str, Any] | None:
    """What the command wrote, now or earlier with the same inputs; ``None`` if it was not run."""
    if job.unavailable:
        return None
    inputs = _hash(path for root in job.inputs for path in sorted(root.rglob("*"))
                   if path.is_file() and path.suffix in (".py", ".json", ".safetensors", ".npz"))
    key = hashlib.sha256("\0".join((job.command, sources, inputs)).encode()).hexdigest()
    remembered = build_root() / "cache" / f"{key}.run.json"
    if not remembered.is_file():
        if not execute:
            return None
        say(f"$ {job.command}")
        _execute(job)
        write_if_changed(remembered, job.output.read_text())
    content = json.loads(remembered.read_text())
    return content.get("total", content)


def _execute(job: Job) -> None:
    """Run the command; ``ToolError`` with the end of what it said if it wrote nothing."""
    from .cli import main  # cli imports commands, which import this
    job.output.parent.mkdir(parents=True, exist_ok=True)
    job.output.unlink(missing_ok=True)
    program, *arguments = shlex.split(job.command)
    if program == "python":
        result = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
        status, said = result.returncode, result.stdout + result.stderr
    else:
        complaint = io.StringIO()
        with contextlib.redirect_stderr(complaint):
            status = main(arguments)
        said = complaint.getvalue()
    if not job.output.is_file():
        raise ToolError(f"exit status {status}: " + " ".join(said.splitlines()[-3:]))


def _figures(job: Job, found: dict[str, Any]) -> list[Measurement]:
    machine = f"on {os.cpu_count()} cores, {platform.machine()}; depends on the computer"
    return [Measurement(f"{job.name}/{figure}", found.get(figure), unit, "measured", job.command,
                        machine if figure == "simulated_cycles_per_second" else
                        "" if found.get(figure) is not None else "not in the summary")
            for figure, unit in job.figures.items()]


def _derived(book: Book, job: Job, found: dict[str, Any], config: AcceleratorConfig) -> list[Measurement]:
    """Speed at the frequency that the accelerator reaches on the board's device."""
    fmax, cycles = book.get("accelerator", "accelerator/ecp5/fmax"), found.get("cycles_per_decoded_token")
    formulas = {
        "tokens_per_second": ("1/s", f"Fmax on {DEVICE} / cycles per decoded token", lambda mhz: 1e6 * mhz / cycles),
        "read_bandwidth": ("MB/s", f"Fmax on {DEVICE} * bytes read per token / cycles per decoded token",
                           lambda mhz: mhz * found["bytes_read_per_token"] / cycles),
        "port_bandwidth": ("MB/s", f"Fmax on {DEVICE} * {config.bus_bytes} bytes: what the memory must offer",
                           lambda mhz: mhz * config.bus_bytes),
    }
    figures = []
    for name, (unit, formula, function) in formulas.items():
        known = isinstance(fmax.value, float) and cycles
        value = function(fmax.value) if known else None
        note = formula if known else f"Fmax: {fmax.note}" if fmax.value is None else "too few tokens"
        figures.append(Measurement(f"{job.name}/{name}", value, unit, "derived", "llmrtl bench", note))
    return figures
