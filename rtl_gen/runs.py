"""Runs whole models for ``docs/RESULTS.md``: what ``llmrtl run``, ``llmrtl compare`` and ``models.evaluate`` report.

The commands are executed as they stand in the page. Their JSON is kept in ``build/cache`` under the hash of command, sources
and checkpoint, so an interrupted ``llmrtl bench`` goes on where it stopped and figures of older hardware never appear.
"""

import ast
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
from ..accelerators.presets import preset
from ..sim.native.run import MEMORY_MODELS
from .emit import write_if_changed
from .generate import emitted_accelerator
from .nextpnr import DEVICE
from .report import Book, Measurement, bench_folder
from .yowasp import ToolError, build_root

__all__ = ["Job", "file_hash", "job_figures", "job_results", "jobs", "run_models", "serving_jobs"]

_PACKAGE = Path(__file__).parent.parent
REFERENCES = _PACKAGE.parent / "shared" / "reference" / "checkpoints"
_ABSENT = "needs the reference checkpoints, which are not part of the repository"
LARGE_CHECKPOINT = Path("build/checkpoints/bitnet-0.73b")
CLOCK_MHZ = 250.0
"""Clock of the kv260 figures: that of TeLLMe."""

CONTEXTS = (128, 512, 1024)
SERVING = preset("tiny_paged")
REQUESTS = _PACKAGE / "docs" / "requests.json"
_COMPILER = ("compile.py", "tensors.py", "calibration.py", "image.py", "generate.py")

_RUN_FIGURES = {
    "parameters": "", "prompt_tokens": "", "tokens_generated": "", "golden_match": "", "cycles_prefill": "cycles",
    "cycles_per_decoded_token": "cycles", "bytes_read_per_token": "bytes", "bytes_written_per_token": "bytes",
    "read_utilization_prefill": "%", "read_utilization_decode": "%", "simulated_cycles_per_second": "1/s",
}
_DECODE_FIGURES = {
    "golden_match": "", "hidden_state_compared": "", "cycles_per_decoded_token": "cycles", "bytes_read_per_token": "bytes",
    "read_utilization_decode": "%", "memory.share_of_bound.decode": "%", "memory.bound_gb_s": "GB/s",
    "ternary_bits_per_weight": "bit", "simulated_cycles_per_second": "1/s",
}
_PREFILL_FIGURES = {
    "golden_match": "", "hidden_state_compared": "", "prompt_tokens": "", "cycles_prefill": "cycles",
    "read_utilization_prefill": "%", "lookup_utilization": "%", "simulated_cycles_per_second": "1/s",
}
_SERVING_FIGURES = {
    "golden_match": "", "kv_bytes_peak": "bytes", "kv_bytes_peak_without_sharing": "bytes", "kv_bytes_read": "bytes",
    "kv_bytes_read_without_groups": "bytes", "steps": "", "tokens_through_the_model": "", "tokens_per_step": "", "cycles": "cycles",
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
    prepare : str
        Command that makes the first of ``inputs`` if it is missing.
    """

    topic: str
    name: str
    command: str
    output: Path
    figures: dict[str, str]
    inputs: tuple[Path, ...]
    unavailable: str = ""
    prepare: str = ""


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
        for formats, option in ((name, ""), (f"{name}, high precision", " --high-precision")):
            output = folder / f"compare-{formats.replace(', ', '-').replace(' ', '-')}.json"
            command = (f"llmrtl compare {os.path.relpath(checkpoint)} {os.path.relpath(checkpoint / 'expected.npz')} "
                       f"--preset {config.name}{option} --json {output}")
            result.append(Job("accuracy", formats, command, output, _COMPARE_FIGURES, (checkpoint,), absent))
    return result


def kv260_jobs() -> list[Job]:
    """The 0.73B-parameter model on preset kv260: a decoded token at several contexts, with both memory models; prefill.

    Final hidden states are compared as well (``--check-hidden``).
    """
    folder = Path(os.path.relpath(bench_folder()))
    result = []

    def add(name: str, options: str, figures: dict[str, str]) -> None:
        output = folder / f"kv260-{name}.json"
        command = (f"llmrtl run --checkpoint {LARGE_CHECKPOINT} --preset kv260 {options} --ignore-eos --check-hidden "
                   f"--json {output}")
        result.append(Job("kv260", name, command, output, figures, (LARGE_CHECKPOINT,),
                          prepare=f"llmrtl random-checkpoint {LARGE_CHECKPOINT.name} -o {LARGE_CHECKPOINT}"))

    for memory in MEMORY_MODELS:
        for context in CONTEXTS:
            # The second token is measured; it sees ``context`` rows of K/V.
            add(f"decode-{context}-{memory}", f"--memory-model {memory} --prompt-ids 1 --fill-context {context - 2} --tokens 2",
                _DECODE_FIGURES)
    for memory in MEMORY_MODELS:
        add(f"prefill-128-{memory}", f"--memory-model {memory} --prompt-length 128 --tokens 1", _PREFILL_FIGURES)
    return result


def serving_jobs() -> list[Job]:
    """The requests of the docs, which begin alike, on a paged KV cache: as they are served, and with less of what serving does."""
    folder, checkpoint = Path(os.path.relpath(bench_folder())), _PACKAGE / "models" / "stories"
    figures = _SERVING_FIGURES | {f"requests.{each['name']}.{figure}": "cycles" for each in json.loads(REQUESTS.read_text())
                                  for figure in ("cycles_to_first_token", "cycles_between_tokens")}
    result = []
    for name, option in (("all token lanes", ""), ("2 tokens per step", " --token-budget 2"), ("no groups", " --no-groups"),
                         ("no sharing", " --no-sharing")):
        output = folder / f"serving-{name.replace(' ', '-')}.json"
        command = (f"llmrtl serve-sim {os.path.relpath(REQUESTS)} --checkpoint {os.path.relpath(checkpoint)} --preset {SERVING.name}"
                   f"{option} --json {output}")
        result.append(Job("serving", name, command, output, figures, (checkpoint,)))
    return result


def run_models(book: Book, config: AcceleratorConfig, say: Callable[[str], None], *, execute: bool = True) -> list[str]:
    """Add topics ``runs``, ``accuracy``, ``kv260`` and ``serving``; returns errors. Without ``execute`` only remembered results are
    used."""
    errors = []
    sources: dict[str, str] = {}
    configs = {"runs": config, "accuracy": config, "kv260": preset("kv260"), "serving": SERVING}
    for job in [*jobs(config), *kv260_jobs(), *serving_jobs()]:
        if job.topic not in sources:
            sources[job.topic] = _sources(job.topic, configs[job.topic])
        try:
            found, reason = job_results(job, sources[job.topic], say, execute), job.unavailable or "`llmrtl bench` has not been run"
        except (ToolError, OSError, ValueError) as error:
            found, reason = None, str(error).splitlines()[0]
            errors.append(f"{job.command}: {error}")
        if found is None:
            book.add(job.topic, [Measurement(f"{job.name}/{figure}", None, unit, "measured", job.command, reason)
                                 for figure, unit in job.figures.items()])
            continue
        book.add(job.topic, job_figures(job, found))
        if not found.get("golden_match", True):
            told = found if job.topic != "serving" else next(each for each in found["requests"].values() if each["mismatch"])
            errors.append(f"{job.command}: differs from the golden model: {told['mismatch'] or told['error']}")
        if job.topic == "runs":
            book.add("runs", _derived(book, job, found, config))
        if job.topic == "kv260":
            book.add("kv260", _at_clock(job, found))
    for topic in configs:
        book.save(topic)
    return errors


def file_hash(paths: Any) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _golden_model() -> list[Path]:
    """The files of the golden model of the accelerator: ``sim/golden/machine.py`` and what it imports from there."""
    folder, found = _PACKAGE / "sim" / "golden", set[Path]()
    missing = [folder / "__init__.py", folder / "machine.py"]
    while missing:
        path = missing.pop()
        found.add(path)
        imported = {folder / f"{name}.py" for node in ast.walk(ast.parse(path.read_text()))
                    if isinstance(node, ast.ImportFrom) and node.level == 1
                    for name in ([node.module] if node.module else [each.name for each in node.names])}
        missing += imported - found
    return sorted(found)


def _sources(topic: str, config: AcceleratorConfig) -> str:
    """Hash of what decides the figures of a topic: golden model and compiler, and for runs the Verilog and the driver."""
    paths = [*_golden_model(), *(_PACKAGE / "rtl_gen" / name for name in _COMPILER)]
    if topic == "accuracy":
        return file_hash([*paths, _PACKAGE / "sim" / "reference.py"])
    if topic == "serving":
        paths += [REQUESTS, *(_PACKAGE / "rtl_gen" / name for name in ("serve.py", "scheduler.py"))]
    native = (path for path in sorted((_PACKAGE / "sim" / "native").iterdir()) if path.suffix in (".py", ".cpp", ".h"))
    return file_hash([*paths, *native]) + emitted_accelerator(config, observe=topic == "kv260").sidecar["sha256"]


def job_results(job: Job, sources: str, say: Callable[[str], None], execute: bool) -> dict[str, Any] | None:
    """What the command wrote, now or earlier with the same inputs; ``None`` if it was not run."""
    if job.unavailable:
        return None
    if job.prepare and execute and not job.inputs[0].exists():
        say(f"$ {job.prepare}")
        _command(job.prepare)
    inputs = file_hash(path for root in job.inputs for path in sorted(root.rglob("*"))
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
    """Run the command; ``ToolError`` with the end of what it said if it failed (1: a figure is not what it should be)."""
    job.output.parent.mkdir(parents=True, exist_ok=True)
    job.output.unlink(missing_ok=True)
    status, said = _command(job.command)
    if status not in (0, 1) or not job.output.is_file():
        raise ToolError(f"exit status {status}: " + " ".join(said.splitlines()[-3:]))


def _command(command: str) -> tuple[int, str]:
    """Exit status and complaints of a command."""
    from .cli import main  # cli imports commands, which import this
    program, *arguments = shlex.split(command)
    if program == "python":
        result = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
        return result.returncode, result.stdout + result.stderr
    complaint = io.StringIO()
    with contextlib.redirect_stderr(complaint):
        status = main(arguments)
    return status, complaint.getvalue()


def job_figures(job: Job, found: dict[str, Any]) -> list[Measurement]:
    machine = f"on {os.cpu_count()} cores, {platform.machine()}; depends on the computer"
    figures = []
    for name, unit in job.figures.items():
        value: Any = found
        for key in name.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        note = machine if name == "simulated_cycles_per_second" else "" if value is not None else "not in the summary"
        figures.append(Measurement(f"{job.name}/{name}", value, unit, "measured", job.command, note))
    return figures


def _at_clock(job: Job, found: dict[str, Any]) -> list[Measurement]:
    """Speed of the 0.73B model at ``CLOCK_MHZ``."""
    clock = f"{CLOCK_MHZ:g} MHz"
    if job.figures is _DECODE_FIGURES:
        cycles = found["cycles_per_decoded_token"]
        return [Measurement(f"{job.name}/tokens_per_second", 1e6 * CLOCK_MHZ / cycles, "1/s", "derived", job.command,
                            f"{clock} / cycles per decoded token")]
    tokens, cycles = found["prompt_tokens"], found["cycles_prefill"]
    return [Measurement(f"{job.name}/prompt_tokens_per_second", 1e6 * CLOCK_MHZ * tokens / cycles, "1/s", "derived",
                        job.command, f"{clock} * prompt tokens / cycles of prefill"),
            Measurement(f"{job.name}/time_to_first_token", cycles / (1e6 * CLOCK_MHZ), "s", "derived", job.command,
                        f"cycles of prefill / {clock}")]


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
