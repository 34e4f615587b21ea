"""``llmrtl bench``: measures everything, or parts of it, and writes ``docs/RESULTS.md``.

A part adds its figures to the book, saves them in ``build/bench``, and returns what went wrong; the others are measured all the same.
The page keeps what was measured before; where a part never was, it is written beside the figures, and that of the docs stays as it is.
"""

from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict

from ..accelerators.config import AcceleratorConfig
from ..accelerators.presets import preset
from .cell_figures import TOPIC as CELLS
from .cell_figures import measure_cells
from .emit import write_if_changed
from .estimate import prompt_figures
from .expert_memory import POLICIES, STREAMS, run_expert_memory
from .loading import load
from .moe_results import MOE, MOE_PROJECTED, run_layers
from .nextpnr import DEVICE
from .pages import refresh_pages
from .registry import emit_unit
from .report import BENCH_PARTS, RESULTS, Book, Measurement, bench_folder, render
from .runs import CLOCK_MHZ, LARGE_CHECKPOINT, run_models
from .synthesis import (
    ACCELERATOR,
    CACHES,
    config_for,
    console,
    lookup_macs,
    measure_all,
    measure_caches,
    measure_engines,
    measure_kv260,
    measured_units,
    unit_name,
)
from .timing_cases import TOPIC as TIMING
from .timing_cases import run_comparisons

__all__ = ["PARTS", "bench", "forget_stale", "write_page"]

CONFIG = preset("edge")
PROMPTS, PROMPT_LENGTHS = "prompts", (128, 1024)
"""Topic of ``build/bench``, and lengths: what prompts cost the 0.73B model."""

TOPICS = ("units", "accelerator", "engine", "kv260_area", CACHES, CELLS, "runs", "accuracy", "kv260", "serving", TIMING, PROMPTS,
          STREAMS, POLICIES, MOE, MOE_PROJECTED, "boards")
Say = Callable[[str], None]


def _timing(book: Book, say: Say) -> list[str]:
    errors = run_comparisons(book, say)
    for prompt in PROMPT_LENGTHS:
        book.add(PROMPTS, prompt_figures(preset("kv260"), LARGE_CHECKPOINT.name, prompt, CLOCK_MHZ))
    book.save(PROMPTS)
    return errors


PARTS: dict[str, Callable[[Book, Say], list[str]]] = {
    "units": lambda book, say: measure_all(book, CONFIG, measured_units()),
    "accelerator": lambda book, say: measure_all(book, CONFIG, [ACCELERATOR]),
    "engine": lambda book, say: measure_engines(book),
    "area": lambda book, say: measure_kv260(book),
    "caches": lambda book, say: measure_caches(book),
    "cells": measure_cells,
    "runs": lambda book, say: run_models(book, CONFIG, say),
    "timing": _timing,
    "expert_memory": run_expert_memory,
    "moe": run_layers,
    # Boards are made of all that is here, so this package does not import them.
    "boards": lambda book, say: load("llmrtl.boards.figures:board_figures")(book, say),
}


def bench(options: Namespace) -> int:
    """``llmrtl bench``: exit status 1 if anything failed."""
    book, errors = Book(bench_folder()), []
    for topic in TOPICS:
        book.load(topic)
    for part in options.only or BENCH_PARTS:
        errors += PARTS[part](book, lambda text: console.print(text, markup=False, soft_wrap=True))
    return write_page(book, CONFIG, errors)


def forget_stale(book: Book, config: AcceleratorConfig) -> None:
    """Units whose Verilog is not the one that was measured have no figures; all that are to be measured have a row."""
    known = book.topics.get("units", {})
    book.topics["units"] = {}
    for name in measured_units():
        measured = known.get(f"{name}/verilog")
        if measured is not None and measured.value == emit_unit(unit_name(name), config_for(name, config)).sidecar["sha256"]:
            book.add("units", [figure for key, figure in known.items() if key.startswith(f"{name}/")])
        else:
            reason = "not measured with the present Verilog"
            book.add("units", [Measurement(f"{name}/ecp5/lut", None, "", "measured", "llmrtl bench --only units", reason)])


def write_page(book: Book, config: AcceleratorConfig, errors: list[str]) -> int:
    """Write the page, its figures on the other pages, and show ``errors``; the exit status."""
    missing = [topic for topic in TOPICS if topic not in book.topics and not book.load(topic)]
    page = book.folder / RESULTS.name if missing else RESULTS
    forget_stale(book, config)
    write_if_changed(page, render(book, config=asdict(config), device=DEVICE, clock_mhz=CLOCK_MHZ, macs=lookup_macs(preset("kv260"))))
    console.print(f"written: {page}", soft_wrap=True)
    if missing:
        console.print(f"{RESULTS} is as it was: `llmrtl bench` measures what is missing: {', '.join(missing)}", soft_wrap=True)
    for error in errors:
        console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
    if not missing:
        refresh_pages()
    return 1 if errors else 0
