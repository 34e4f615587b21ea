"""Writes measured figures into ``README.md`` between markers, so that none is typed by hand."""

import json
from pathlib import Path
from typing import Any

from .emit import write_if_changed
from .report import Measurement, show
from .yowasp import build_root

__all__ = ["refresh_readme"]

README = Path("README.md")
BEGIN, END = "<!-- figures: llmrtl bench -->", "<!-- end of figures -->"


def _load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}


def _figures(path: Path) -> list[dict[str, Any]]:
    return _load(path).get("measurements", [])


_KV260 = {
    "decode-128-ideal/read_utilization_decode": "0.73B on `kv260`, decode at context 128: data beats per port-cycle",
    "decode-128-ddr4/memory.share_of_bound.decode": "the same on DDR4-2400: share of the bound",
    "decode-128-ddr4/tokens_per_second": "the same: tokens per second at 250 MHz",
    "decode-1024-ddr4/tokens_per_second": "at context 1024: tokens per second at 250 MHz",
    "prefill-128-ideal/prompt_tokens_per_second": "prefill of 128 tokens: tokens per second at 250 MHz",
}


def _rows() -> list[tuple[str, str, str]]:
    """(figure, value, command) of everything that has been measured."""
    root = build_root()
    rows = []
    summary = _load(root / "run" / "summary.json")
    if summary.get("golden_match"):
        command = f"`make run` (preset `{summary['preset']}`)"
        rows += [
            ("tokens equal to the golden model", f"{summary['tokens_generated']} of {summary['tokens_generated']}", command),
            ("cycles per decoded token", f"{summary['cycles_per_decoded_token']:,.0f}", command),
            ("memory read per decoded token", f"{summary['bytes_read_per_token']:,} bytes", command),
            ("read port carries data in decode", f"{summary['read_utilization_decode']:.1%} of cycles", command),
            ("read port carries data in prefill", f"{summary['read_utilization_prefill']:.1%} of cycles", command),
            ("cycles of prefill", f"{summary['cycles_prefill']:,} for {summary['prompt_tokens']} tokens", command),
        ]
    for figure in _figures(root / "bench" / "kv260.json"):
        if figure["name"] in _KV260 and figure["value"] is not None:
            measurement = Measurement(**figure)
            text = f"{show(measurement)} {measurement.unit}".removesuffix(" %").strip()
            rows.append((f"{_KV260[figure['name']]} ({figure['kind']})", text, f"`{figure['command'].partition(' --json')[0]}`"))
    golden = _load(root / "bench" / "golden.json")
    if golden:
        command = f"`{golden['command']}`"
        rows += [
            ("greedy tokens of the integer model equal to transformers (fp32)",
             f"{golden['greedy_agreement']:.2%} of {golden['greedy_tokens']}", command),
            ("whole greedy continuations equal", f"{golden['identical_continuations']} of {golden['prompts']}", command),
            ("perplexity on held-out stories, transformers / integer model",
             f"{golden['perplexity_transformers']:.4f} / {golden['perplexity_golden']:.4f}", command),
            ("mean KL divergence", f"{golden['kl_divergence']:.1e} nats", command),
        ]
    return rows


def refresh_readme(readme: Path = README) -> bool:
    """Replace the table between the markers of ``readme``; whether the file changed.

    ``ValueError`` if the markers are missing.
    """
    text = readme.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{readme}: has no lines {BEGIN!r} and {END!r}")
    table = ["| figure (measured, unless marked) | value | reproduce with |", "|---|---|---|"]
    table += [f"| {name} | {value} | {command} |" for name, value, command in _rows()]
    return write_if_changed(readme, f"{before}{BEGIN}\n" + "\n".join(table) + f"\n{END}{after}")


if __name__ == "__main__":
    refresh_readme()
