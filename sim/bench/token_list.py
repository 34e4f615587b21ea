"""Bench of the list of tokens behind one reader."""

import random
from collections.abc import Mapping
from typing import Any

from ..golden.select import compared_rows, share_count, top_indices, value_deviation
from .deviation import RecomputeListBench, Rows
from .trace import Trace
from .unit import Items

__all__ = ["TokenListBench"]


class TokenListBench(RecomputeListBench):
    """The lists of ``RecomputeListBench``: reads of the old cache and of the new one take turns."""

    reads = 0
    """Rows of a read; 0: as many as the unit allows."""

    def _begin(self) -> Items:
        self.scores: list[list[int]] = []
        self.saturated = False
        return {"i_command": [], "i": []}

    def _list(self, items: Items, old: Rows, new: Rows, exponent: int) -> None:
        heads, rows, head_dim = old.values.shape
        share = self.SHARES[(len(self.scores) + 1 + self.offset) % len(self.SHARES)]
        items["i_command"].append(self.cases.shape(rows, head_dim) | {"heads": heads, "exponent": exponent, "share": share})
        most = self.reads or compared_rows(self.config)
        beats = most * self.cases.record_beats(head_dim)
        for head in range(heads):
            streams = [self.cases.beats(each, head) for each in (old, new)]
            for first in range(0, len(streams[0]), beats):
                for stream in streams:
                    read = stream[first:first + beats]
                    items["i"] += [{"data": beat, "last": int(k == len(read) - 1)} for k, beat in enumerate(read)]
        scores, large = value_deviation(old.values, old.value_scales, new.values, new.value_scales, exponent=exponent,
                                        kv_bits=self.config.kv_bits)
        self.scores.append(scores)
        self.saturated |= large

    def stimulus(self, rng: random.Random, case: str) -> Items:
        self.reads = rng.randint(1, compared_rows(self.config))
        return super().stimulus(rng, case)

    def boundary(self) -> Items:
        self.reads = 0
        return super().boundary()

    def expected(self, stimulus: Items) -> Items:
        out: list[dict[str, int | None]] = []
        for scores, command in zip(self.scores, stimulus["i_command"], strict=True):
            chosen = top_indices(scores, share_count(len(scores), command["share"]))
            out += [{"index": index, "last": int(k == len(chosen) - 1), "none": 0} for k, index in enumerate(chosen)]
            if not chosen:
                out.append({"index": None, "last": 1, "none": 1})
        return {"o": out}

    def latency_stimulus(self) -> Items:
        """All tokens of a context, of the shortest head."""
        self.reads = 0
        return super().latency_stimulus()

    def measure(self, trace: Trace) -> dict[str, int]:
        return {"latency": trace.delivered["o"][-1] - trace.accepted["i"][-1], "interval": trace.interval("i")}

    def figures(self, attributes: Mapping[str, Any]) -> Mapping[str, int]:
        return {"latency": attributes["latency"], "interval": attributes["interval"]}
