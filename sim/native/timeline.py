"""Timeline of a run: which unit is busy with which operation, as a Chrome trace (ui.perfetto.dev opens it) and as a picture."""

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...accelerators.control.regmap import UNIT_NAMES

__all__ = ["Slice", "Timeline", "draw"]

MEMORY = "memory port"
ENGINE = "engine"


@dataclass(frozen=True)
class Slice:
    """A unit works on an operation from cycle ``start`` up to ``end``."""

    unit: str
    operation: str
    start: int
    end: int


class Timeline:
    """What the driver wrote (option ``timeline``): a line whenever a unit begins or ends, with the beats so far.

    Parameters
    ----------
    path : Path
        The CSV file.
    operations : sequence of str
        Names by tag (``Image.operations``).

    Members
    -------
    slices : list of Slice
    beats : list of (cycle, share)
        Share of cycles in which the read data port carried a word, up to ``cycle`` from the sample before.
    """

    def __init__(self, path: Path, operations: Sequence[str]):
        self.slices: list[Slice] = []
        self.beats: list[tuple[int, float]] = []
        running: dict[str, tuple[str, int]] = {}
        cycle = last_cycle = last_beats = 0
        for row in _rows(path):
            cycle = row["cycle"]
            for number, unit in enumerate(UNIT_NAMES):
                tag = row["linear_tag"] if unit == ENGINE else row["tag"]
                name = operations[tag] if row["busy"] >> number & 1 else ""
                before, start = running.get(unit, ("", 0))
                if name != before:
                    self._end(unit, before, start, cycle)
                    running[unit] = name, cycle
            if cycle - last_cycle >= 1024:
                self.beats.append((cycle, (row["read_beats"] - last_beats) / (cycle - last_cycle)))
                last_cycle, last_beats = cycle, row["read_beats"]
        for unit, (name, start) in running.items():
            self._end(unit, name, start, cycle)
        self.slices.sort(key=lambda each: each.start)

    def _end(self, unit: str, name: str, start: int, end: int) -> None:
        if name and end > start:
            self.slices.append(Slice(unit, name, start, end))

    def chrome_trace(self, clock_mhz: float) -> dict[str, Any]:
        """A trace in the Trace Event Format, times in microseconds."""
        def microseconds(cycles: int) -> float:
            return cycles / clock_mhz

        threads = {unit: number for number, unit in enumerate(UNIT_NAMES)}
        events: list[dict[str, Any]] = [{"ph": "M", "name": "process_name", "pid": 0, "args": {"name": "accelerator"}}]
        events += [{"ph": "M", "name": "thread_name", "pid": 0, "tid": number, "args": {"name": unit}}
                   for unit, number in threads.items()]
        events += [{"ph": "X", "name": each.operation, "cat": each.unit, "pid": 0, "tid": threads[each.unit],
                    "ts": microseconds(each.start), "dur": microseconds(each.end - each.start),
                    "args": {"cycles": each.end - each.start}} for each in self.slices]
        events += [{"ph": "C", "name": MEMORY, "pid": 0, "ts": microseconds(cycle), "args": {"data beats per cycle": round(share, 4)}}
                   for cycle, share in self.beats]
        return {"traceEvents": events, "displayTimeUnit": "ns", "otherData": {"clock_mhz": clock_mhz}}

    def text(self, clock_mhz: float) -> str:
        """``chrome_trace`` as JSON."""
        return json.dumps(self.chrome_trace(clock_mhz)) + "\n"


def _rows(path: Path) -> Iterator[dict[str, int]]:
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            yield {name: int(value) for name, value in row.items()}


def draw(timeline: Timeline, path: Path, begin: int, end: int) -> None:
    """A picture (PNG) of the cycles from ``begin`` to ``end``: a row per unit, and the read data port."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot

    units = [unit for unit in UNIT_NAMES if any(each.unit == unit for each in timeline.slices)]
    figure, (rows, port) = pyplot.subplots(2, 1, figsize=(14, 5), sharex=True, height_ratios=(3, 1), layout="constrained")
    colors = pyplot.get_cmap("tab10")
    for row, unit in enumerate(units):
        spans = [(each.start, each.end - each.start) for each in timeline.slices
                 if each.unit == unit and each.end > begin and each.start < end]
        rows.broken_barh(spans, (row - 0.4, 0.8), color=colors(row % 10))
    rows.set_yticks(range(len(units)), units)
    rows.invert_yaxis()
    samples = [(cycle, share) for cycle, share in timeline.beats if begin <= cycle <= end]
    port.step([cycle for cycle, _ in samples], [share for _, share in samples], where="pre", color="black", linewidth=0.8)
    port.set(ylim=(0, 1.05), xlim=(begin, end), xlabel="cycle", ylabel="read port")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
