"""Writes measured figures and what ``make run`` and ``make test`` print into ``README.md``, between markers: none is typed by hand.

A figure that was not measured on this machine, and an output that is not that of ``make run``, stay as they stand.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .commands import console_file
from .emit import write_if_changed
from .report import Measurement, show
from .yowasp import build_root

__all__ = ["FIGURES", "MAKE_RUN", "OUTPUT", "TABLE", "TESTS", "refresh_readme"]

README = Path("README.md")
MAKE_RUN = "llmrtl run --checkpoint models/stories --preset edge --tokens 64"
"""What `make run` executes."""

TABLE = "<!-- figures: llmrtl bench -->", "<!-- end of figures -->"
OUTPUT = "<!-- output: make run -->", "<!-- end of output -->"
TESTS = "<!-- output: make test -->", "<!-- end of tests -->"
_HEAD = ["| figure | value (measured, unless marked) | reproduce with |", "|---|---|---|"]

Summary = dict[str, Any]


@dataclass(frozen=True)
class Figure:
    """A row of the table: its name there, the file in ``build`` that it comes from, and how.

    ``show`` takes what the file holds; it returns value and command, or ``None`` if the file does not tell.
    """

    name: str
    source: str
    show: Callable[[Summary], tuple[str, str] | None]


def _run(name: str, text: Callable[[Summary], str]) -> Figure:
    return Figure(name, "run/summary.json",
                  lambda summary: (text(summary), f"`make run` (preset `{summary['preset']}`)") if _is_make_run(summary) else None)


def _stored(topic: str, name: str, measurement: str) -> Figure:
    def shown(book: Summary) -> tuple[str, str] | None:
        for each in book["measurements"]:
            if each["name"] == measurement and each["value"] is not None:
                figure = Measurement(**each)
                unit = f" {figure.unit}" if figure.unit not in ("", "%") else ""
                kind = "" if figure.kind == "measured" else f" ({figure.kind})"
                return f"{show(figure)}{unit}{kind}", f"`{figure.command.partition(' --json')[0]}`"
        return None
    return Figure(name, f"bench/{topic}.json", shown)


def _kv260(name: str, measurement: str) -> Figure:
    return _stored("kv260", name, measurement)


def _board(name: str, measurement: str) -> Figure:
    return _stored("boards", name, f"ulx3s-85f/{measurement}")


def _edge(name: str, measurement: str) -> Figure:
    return _stored("accelerator", name, f"accelerator/ecp5/{measurement}")


def _golden(name: str, text: Callable[[Summary], str]) -> Figure:
    return Figure(name, "bench/golden.json", lambda golden: (text(golden), f"`{golden['command']}`"))


FIGURES = (
    _run("tokens equal to the golden model", lambda run: f"{run['tokens_generated']} of {run['tokens_generated']}"),
    _run("cycles per decoded token", lambda run: f"{run['cycles_per_decoded_token']:,.0f}"),
    _run("memory read per decoded token", lambda run: f"{run['bytes_read_per_token']:,} bytes"),
    _run("read port carries data in decode", lambda run: f"{run['read_utilization_decode']:.1%} of cycles"),
    _run("read port carries data in prefill", lambda run: f"{run['read_utilization_prefill']:.1%} of cycles"),
    _run("cycles of prefill", lambda run: f"{run['cycles_prefill']:,} for {run['prompt_tokens']} tokens"),
    _kv260("0.73B on `kv260`, decode at context 128: data beats per port-cycle", "decode-128-ideal/read_utilization_decode"),
    _kv260("the same on DDR4-2400: share of the bound", "decode-128-ddr4/memory.share_of_bound.decode"),
    _kv260("the same: tokens per second at 250 MHz", "decode-128-ddr4/tokens_per_second"),
    _kv260("at context 1024: tokens per second at 250 MHz", "decode-1024-ddr4/tokens_per_second"),
    _kv260("prefill of 128 tokens: tokens per second at 250 MHz", "prefill-128-ideal/prompt_tokens_per_second"),
    _edge("`edge` placed and routed on LFE5U-85F: clock", "fmax"),
    _edge("the same: LUT (4 inputs)", "used/LUT"), _edge("the same: flip-flops", "used/FF"),
    _edge("the same: EBR (18 kbit)", "used/BRAM"), _edge("the same: MULT18X18D", "used/DSP"),
    _board("board `ulx3s-85f`, the whole design with its pins: clock, of 60 MHz asked for", "fmax"),
    _board("board `ulx3s-85f`: LUT (4 inputs)", "used/LUT"),
    _board("board `ulx3s-85f`: sequential reads, share of the SDRAM's data bus", "sdram_read_share"),
    _board("board `ulx3s-85f`: shipped model at context 64, tokens per second", "tokens_per_second"),
    _golden("greedy tokens of the integer model equal to transformers (fp32)",
            lambda golden: f"{golden['greedy_agreement']:.2%} of {golden['greedy_tokens']}"),
    _golden("whole greedy continuations equal", lambda golden: f"{golden['identical_continuations']} of {golden['prompts']}"),
    _golden("perplexity on held-out stories, transformers / integer model",
            lambda golden: f"{golden['perplexity_transformers']:.4f} / {golden['perplexity_golden']:.4f}"),
    _golden("mean KL divergence", lambda golden: f"{golden['kl_divergence']:.1e} nats"),
)
"""All rows, in the order of the table."""


def refresh_readme(readme: Path = README) -> bool:
    """Replace what was measured here between the markers of ``readme``; whether the file changed.

    ``ValueError`` if a marker is missing, or if the table has a row that is none of ``FIGURES`` (it was renamed or typed).
    """
    text = readme.read_text()
    before, table, after = _between(readme, text, TABLE)
    text = before + _table(readme, table) + after
    before, output, after = _between(readme, text, OUTPUT)
    text = before + (_output() or output) + after
    before, output, after = _between(readme, text, TESTS)
    tests = build_root() / "test.txt"
    return write_if_changed(readme, before + (f"```\n{tests.read_text()}```\n" if tests.is_file() else output) + after)


def _between(readme: Path, text: str, markers: tuple[str, str]) -> tuple[str, str, str]:
    """What stands before, between and behind the markers, which belong to the first and the last part."""
    before, begin, rest = text.partition(f"{markers[0]}\n")
    inner, end, after = rest.partition(markers[1])
    if not begin or not end:
        raise ValueError(f"{readme}: must have the lines {markers[0]!r} and {markers[1]!r}, in this order")
    return before + begin, inner, end + after


def _table(readme: Path, text: str) -> str:
    """The rows of ``text``, those that were measured here replaced."""
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in text.splitlines() if line not in _HEAD}
    for name in rows:
        if name not in {figure.name for figure in FIGURES}:
            raise ValueError(f"{readme}: the table has a row that rtl_gen/readme.py does not know: {name!r}")
    for figure in FIGURES:
        source = build_root() / figure.source
        found = figure.show(json.loads(source.read_text())) if source.is_file() else None
        if found is not None:
            rows[figure.name] = f"| {figure.name} | {' | '.join(found)} |"
    return "".join(f"{line}\n" for line in [*_HEAD, *(rows[figure.name] for figure in FIGURES if figure.name in rows)])


def _is_make_run(summary: Summary) -> bool:
    return summary["golden_match"] and summary.get("command") == MAKE_RUN


def _output() -> str | None:
    """What the latest run printed, if that was `make run` and every token was right."""
    path = build_root() / "run" / "summary.json"
    if not path.is_file() or not _is_make_run(json.loads(path.read_text())):
        return None
    lines = [line.rstrip() for line in console_file(path).read_text().rstrip().splitlines()]
    return "\n".join(("```", *lines, "```", ""))


if __name__ == "__main__":
    refresh_readme()
