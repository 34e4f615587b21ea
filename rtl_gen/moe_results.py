"""Layers on the expert unit for ``docs/RESULTS.md``: simulated ones, and the cycle model's projections of full size, with a plot."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..accelerators.experts.config import EXPERT_PRESETS
from ..sim.timing.moe import BATCHES, MODELS, WAYS, throughput
from .registry import emit_unit
from .report import Book, Measurement, bench_folder
from .runs import Job, file_hash, job_figures, job_results
from .yowasp import ToolError

__all__ = ["MOE", "MOE_PROJECTED", "PLOT", "layer_jobs", "run_layers"]

MOE, MOE_PROJECTED = "moe", "moe_projected"
PRESETS = ("narrow_duplex", "duplex")
PLOT = Path("docs/moe.png")
PAPER = {"up to": 2.67, "on average": 2.07}
"""Throughput of Duplex over the GPU, whole models (arXiv:2409.01141)."""

_PACKAGE = Path(__file__).parent.parent
_FIGURES = {
    "golden_match": "", "timing_violations": "", "cycles_logic_pim": "cycles", "cycles_of_the_model": "cycles", "bytes": "bytes",
    "busy": "%", "stalls.starved": "cycles", "stalls.waiting": "cycles", "stalls.held": "cycles", "memory.activates": "",
    "memory.refreshes": "", "relative_rms_error": "",
}


def layer_jobs() -> list[Job]:
    """All on Logic-PIM: the scaled Mixtral at batches of 1 to 128; on the unit of full width its share (1/32) of experts of full size,
    a layer's and one alone."""
    folder = Path(os.path.relpath(bench_folder()))
    result = []

    def add(name: str, options: str) -> None:
        output = folder / f"moe-{re.sub(r'[^0-9a-z]+', '-', name)}.json"
        result.append(Job(MOE, name, f"llmrtl moe {options} --split logic-pim --json {output}", output, _FIGURES, ()))
    for batch in (1, 2, 4, 8, 16, 32, 64, 128):
        add(f"batch {batch}", f"--tokens {batch}")
    add("batch 8, one bundle per expert", "--tokens 8 --policy single")
    add("batch 8, 1:32 of each expert", "--tokens 8 --intermediate 56")
    add("batch 8, 8 experts of 4096 x 14336, 1:32 of each", "--preset duplex --tokens 8 --hidden 4096 --intermediate 448")
    for tokens in (1, 8, 16, 32):
        add(f"one expert of 4096 x 14336, 1:32 of it, batch {tokens}",
            f"--preset duplex --tokens {tokens} --top-k 1 --expert 0 --hidden 4096 --intermediate 448")
    return result


def run_layers(book: Book, say: Callable[[str], None]) -> list[str]:
    """Add both topics; returns errors. Results of earlier runs with the same hardware are used again."""
    errors, worst = [], 0.0
    book.topics.pop(MOE, None)  # also what is not a job any more
    folders = ("golden", "traces", "timing")
    sources = file_hash([path for folder in folders for path in sorted((_PACKAGE / "sim" / folder).glob("*.[pc]*"))]
                        + [_PACKAGE / "sim" / "random_layer.py", Path(__file__).parent / "moe.py"])
    sources += "".join(emit_unit("expert_unit", EXPERT_PRESETS[name]).sidecar["sha256"] for name in PRESETS)
    for job in layer_jobs():
        reason = job.unavailable
        try:
            found = job_results(job, sources, say, True)
        except (ToolError, OSError, ValueError) as error:
            errors.append(f"{job.command}: {error}")
            found, reason = None, str(error).splitlines()[0]
        if found is None:
            book.add(MOE, [Measurement(f"{job.name}/{name}", None, unit, "measured", job.command, reason)
                           for name, unit in job.figures.items()])
            continue
        if not found["golden_match"] or found["timing_violations"]:
            errors.append(f"{job.command}: differs from the golden model, or breaks the memory's timing")
        off = found["cycles_of_the_model"] / found["cycles_logic_pim"] - 1
        worst = max(worst, abs(off))
        book.add(MOE, [*job_figures(job, found), Measurement(f"{job.name}/model_error", off, "%", "derived", job.command,
                                                             "cycles of the model / measured cycles - 1")])
    book.save(MOE)
    book.add(MOE_PROJECTED, projections(f"the cycle model is within {worst:.1%} of the simulated layers"))
    book.save(MOE_PROJECTED)
    plot(book, PLOT)
    return errors


def projections(note: str) -> list[Measurement]:
    """Tokens per second through the layers with experts, and what that is times that of the xPU alone."""
    figures = []
    for model in MODELS:
        for batch in BATCHES:
            rates = throughput(model, batch)
            for way, rate in rates.items():
                name = f"{model.name}, batch {batch}/{way}"
                figures += [Measurement(f"{name}/rate", rate, "1/s", "projected", "llmrtl bench --only moe", note),
                            Measurement(f"{name}/gain", rate / rates[WAYS[0]], "", "projected", "llmrtl bench --only moe", note)]
    return figures


def plot(book: Book, path: Path) -> None:
    """Gains over the xPU alone as bars, with the paper's."""
    # Slow to import, and only needed here.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    figure = Figure(figsize=(9, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    cases = [f"{model.name}, batch {batch}" for model in MODELS for batch in BATCHES]
    for k, way in enumerate(WAYS[1:]):
        gains: list[Any] = [book.get(MOE_PROJECTED, f"{case}/{way}/gain").value for case in cases]
        axes.bar([place + 0.26 * (k - 1) for place in range(len(cases))], gains, 0.26, label=way)
    for (label, gain), style in zip(PAPER.items(), ("--", ":"), strict=True):
        axes.axhline(gain, color="black", linestyle=style, linewidth=1, label=f"paper, whole models, {label}: {gain}")
    axes.axhline(1, color="grey", linewidth=0.8)
    axes.set_xticks(range(len(cases)), [case.replace(", ", "\n") for case in cases], fontsize="x-small")
    axes.set(ylabel="throughput over the xPU alone", title="Layers with experts (projected by the cycle model)")
    axes.legend(fontsize="x-small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=110, metadata={"Software": None})
