"""Bench of the mover of K/V rows: it plays the reader and the writer."""

import random
from collections.abc import Mapping
from typing import Any

from ..golden.cache import record_beats
from ..golden.mover import move_bursts
from .trace import Trace
from .unit import Items, UnitBench

__all__ = ["RowMoverBench"]


class RowMoverBench(UnitBench):
    """Moves within and between regions; every word that is read depends on its address, some writes fail."""

    HEADS = 5

    def __init__(self, config: Any):
        super().__init__(config)
        self.beats = record_beats(config.max_head_dim, kv_bits=config.stored_kv_bits, bus_bits=config.bus_bits)
        row = self.beats * config.bus_bytes
        self.stride = (config.max_context * row, (config.max_context + 3) * row)
        self.base = (64 * config.bus_bytes, (1 << 31) + 32 * config.bus_bytes)

    def constants(self) -> Mapping[str, int]:
        return {"record_beats": self.beats, "heads": self.HEADS, "base": self.base[0] | self.base[1] << 32,
                "head_stride": self.stride[0] | self.stride[1] << 32}

    def stimulus(self, rng: random.Random, case: str) -> Items:
        most = self.config.max_context
        moves = []
        for _ in range(6):
            rows = rng.choice((0, 1, 1, rng.randint(0, 3)))
            moves.append({"from_region": rng.getrandbits(1), "to_region": rng.getrandbits(1), "rows": rows,
                          "source": rng.randint(0, most - rows), "target": rng.randint(0, most - rows)})
        self.failing = {rng.randrange(6 * self.HEADS) for _ in range(rng.choice((0, 2)))}
        return {"i_command": moves}

    def boundary(self) -> Items:
        most, self.failing = self.config.max_context, {self.HEADS - 1}
        return {"i_command": [
            {"from_region": k, "to_region": 1 - k, "source": source, "target": target, "rows": rows}
            for k in (0, 1) for source, target, rows in ((0, most - 1, 1), (most - 1, 0, 1), (0, 0, 0), (most, most, 0))]}

    def _moves(self, stimulus: Items) -> list[list[tuple[int, int, int]]]:
        return [move_bursts(**move, base=self.base, head_stride=self.stride, heads=self.HEADS, record_beats=self.beats,
                            bus_bytes=self.config.bus_bytes) for move in stimulus["i_command"]]

    def begin(self, stimulus: Items) -> None:
        self.writes = 0

    def _words(self, address: int, beats: int) -> list[dict[str, int]]:
        mask = (1 << self.config.bus_bits) - 1
        return [{"data": (address // self.config.bus_bytes + k) * 0x9E3779B97F4A7C15 & mask, "last": int(k == beats - 1)}
                for k in range(beats)]

    def react(self, stream: str, payload: Any) -> Items:
        if stream == "o_read":
            return {"i_data": self._words(payload["address"], payload["beats"])}
        if stream == "o_write":
            self.writes += 1
            return {"i_written": [{"error": int(self.writes - 1 in self.failing)}]}
        return {}

    def expected(self, stimulus: Items) -> Items:
        items: Items = {"o_read": [], "o_write": [], "o_data": [], "o_done": []}
        for bursts in self._moves(stimulus):
            first = len(items["o_write"])
            for source, target, beats in bursts:
                items["o_read"].append({"address": source, "beats": beats})
                items["o_write"].append({"address": target, "beats": beats})
                items["o_data"] += self._words(source, beats)
            items["o_done"].append({"error": int(any(first <= number < len(items["o_write"]) for number in self.failing))})
        return items

    def latency_stimulus(self) -> Items:
        self.failing = set()
        return {"i_command": [{"from_region": 0, "to_region": 1, "source": 1, "target": 2, "rows": 1}]}

    def measure(self, trace: Trace) -> dict[str, int]:
        return {"latency": trace.delivered["o_read"][0] - trace.accepted["i_command"][0]}
