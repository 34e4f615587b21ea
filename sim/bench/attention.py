"""Benches of the attention unit and of its parts: one random operation gives the streams between all of
them."""

import random
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from ...accelerators.config import AcceleratorConfig
from ...accelerators.integers import ceil_div
from ...accelerators.kv_records import HEADER_BITS, header_in_tail
from ..golden.exp import pow2_negative
from .attention_operations import Mode, Operations
from .trace import Trace
from .unit import Items, UnitBench

__all__ = ["AttentionBench", "FinishBench", "JoiningBench", "LaneTableBench", "MixBench", "PartingBench", "Pow2NegativeBench",
           "RowSplitterBench", "ScoresBench", "SoftmaxBench"]


class Recorded(dict):
    """Stimulus that knows what must come out, and the weights inside."""

    expected: Items
    weights: list[dict[str, Any]]
    fallbacks: dict[str, int]


class _PartBench(UnitBench):
    """``inputs`` and ``outputs`` name, for each port, the stream of ``Operations``; ``mode_inputs``, ``mode_outputs`` and
    ``evict_outputs`` those of ports that come with modes and with a budget of rows; ``fallbacks`` says whether they are counted."""

    inputs: Mapping[str, str] = {}
    outputs: Mapping[str, str] = {}
    mode_inputs: Mapping[str, str] = {}
    mode_outputs: Mapping[str, str] = {}
    evict_outputs: Mapping[str, str] = {}
    fallbacks = False

    def __init__(self, config: AcceleratorConfig):
        super().__init__(config)
        self.operations = 8 if config.bus_bits < 512 else 3

    def chosen(self, operations: Operations) -> Recorded:
        """The streams of the unit."""
        streams = operations.streams
        inputs = {**self.inputs, **(self.mode_inputs if self.config.attention_modes else {})}
        stimulus = Recorded({port: self._filled(streams[name]) for port, name in inputs.items()})
        outputs = {**self.outputs, **(self.mode_outputs if self.config.attention_modes else {}),
                   **(self.evict_outputs if self.config.cache == "evict" else {})}
        stimulus.expected = {port: streams[name] for port, name in outputs.items()}
        stimulus.weights = operations.weights
        counted = self.fallbacks and self.config.attention_modes
        stimulus.fallbacks = {"missed": operations.missed, "passed": operations.passed} if counted else {}
        return stimulus

    def levels(self, stimulus: Items) -> Mapping[str, int]:
        assert isinstance(stimulus, Recorded)
        return stimulus.fallbacks

    @staticmethod
    def _filled(items: list[Any]) -> list[Any]:
        """As input, what does not matter is 0."""
        def filled(item: Any) -> Any:
            if isinstance(item, list):
                return [filled(each) for each in item]
            return {key: filled(value) for key, value in item.items()} if isinstance(item, dict) else 0 if item is None else item
        return [filled(item) for item in items]

    def stimulus(self, rng: random.Random, case: str) -> Items:
        operations = Operations(self.config, rng.getrandbits(32))
        for _ in range(self.operations):
            operations.add_random()
        return self.chosen(operations)

    def boundary(self) -> Items:
        """Extreme elements, scales and exponents; all lanes and the largest head, then one of everything."""
        config = self.config
        operations = Operations(config, 0)
        bound, lanes, size = operations.bound, config.query_lanes, config.max_head_dim
        low, high = (np.full((lanes, size), value) for value in (-bound, bound - 1))
        ones = [[0xFFFFFF, 0], [0x800000, -1 << 15], [0x800000, (1 << 15) - 1], [0, 0]]
        scales = [ones[lane % 4] for lane in range(lanes)]
        top = [[0xFFFF, -64], [0x8000, -30000], [0xFFFF, 30000], [0, 0], [0xFFFF, 30000]]
        rows = len(top)
        limits = [rows - lane % (rows + 1) for lane in range(lanes)]
        for q in (low, high):
            for k, v in ((-bound, bound - 1), (bound - 1, -bound), (-bound, -bound)):
                keys, values = np.full((rows, size), k), np.full((rows, size), v)
                operations.add(q, scales, limits, keys, top, values, top[::-1])
        steps = [[0x8000, -15 - 2 * config.kv_bits + row] for row in range(40)]
        operations.add(low, [[0x800000, -23]] * lanes, [40] * lanes, np.full((40, size), -bound), steps,
                       np.full((40, size), -bound), steps[::-1])
        if config.attention_modes:
            self._windows(operations)
        small = np.ones((1, config.vector_lanes), np.int64)
        operations.add(small, [[0x800000, -23]], [1], small, [[0x8000, -15]], small, [[0x8000, -15]])
        return self.chosen(operations)

    def _windows(self, operations: Operations) -> None:
        """First rows at both ends of the window of a unified maximum and beside it, then a row at ``phi`` or just above."""
        config, words = self.config, operations.config.vector_lanes
        window, ones = config.unified_window, np.ones((1, words), np.int64)
        for first in (1, 0, -1, 1 - window, -window, -window - 1, -40):
            for later in (0, 1, 40):
                # All scales are 1, so the first elements of the keys are the logits.
                phi, rows = 9, np.zeros((3, words), np.int64)
                rows[:, 0] = phi + first, phi + later - 1, phi + later
                operations.add(ones, [[0x800000, -23]], [3], rows, [[0x8000, -15]] * 3, np.repeat(ones, 3, 0) * 100,
                               [[0x8000, -15]] * 3, Mode(phi, later == 1))

    def full(self, rows: int, words: int, lanes: int | None = None, exponent: int = -31, count: int = 1, mode: Mode = Mode(),
             sink: int = 0) -> Items:
        """Operations of all (or of some) lanes, all rows visible. The standard deviation of the logits is about
        ``27 * sqrt(head_dim) * 2**(exponent + 22)``: below 1 if not given, so that accumulators move by few bits. A first key that is
        ``sink`` times what all queries have in common is an attention sink: its
        logits are among the largest; then all operations are alike."""
        config = self.config
        operations = Operations(config, 0)
        shape, lanes = (rows, words * config.vector_lanes), lanes or config.query_lanes
        row_scales = [[0x8000, -16]] * rows
        for number in range(count):
            if number == 0 or not sink:
                q, k, v = (operations.rng.integers(-9, 9, size) for size in ((lanes, shape[1]), shape, shape))
            if sink and number == 0:
                common = 1 - 2 * (np.arange(shape[1]) % 2)
                q, k[0] = q + 4 * common, sink * common
            operations.add(q, [[0x800000, exponent]] * lanes, [rows] * lanes, k, row_scales, v, row_scales, mode)
        return self.chosen(operations)

    def latency_stimulus(self) -> Items:
        return self.full(8, self.config.max_head_dim // self.config.vector_lanes)

    def expected(self, stimulus: Items) -> Items:
        assert isinstance(stimulus, Recorded)
        return stimulus.expected


class ScoresBench(_PartBench):
    """Dot products."""

    inputs = {"i_command": "commands", "i_query": "queries", "i_keys": "keys"}
    outputs = {"o": "dots"}

    def latency_stimulus(self) -> Items:
        """More rows than the queue of dot products holds."""
        return self.full(64, self.config.max_head_dim // self.config.vector_lanes)

    def measure(self, trace: Trace) -> dict[str, int]:
        """From the last beat of the first row; gaps between beats."""
        beats = ceil_div(self.config.max_head_dim, self.config.kv_lanes)
        return {"latency": trace.latency("i_keys", "o", beats - 1), "interval": trace.interval("i_keys")}


class LaneTableBench(_PartBench):
    """Scales, limits and flags."""

    inputs = {"i_command": "commands", "i_lane": "lanes", "i_header": "headers", "i_dots": "dots"}
    outputs = {"o": "scores"}

    def measure(self, trace: Trace) -> dict[str, int]:
        return {"latency": trace.latency("i_dots", "o"), "interval": trace.interval("i_dots")}


class RowSplitterBench(_PartBench):
    """Headers, keys, values."""

    inputs = {"i_command": "commands", "i": "rows"}
    outputs = {"o_header": "headers", "o_keys": "keys", "o_values": "values"}

    def measure(self, trace: Trace) -> dict[str, int]:
        """From the last beat of the first header; gaps between beats."""
        config = self.config
        if header_in_tail(config.max_head_dim, kv_bits=config.stored_kv_bits, bus_bits=config.bus_bits):
            beats = ceil_div(config.max_head_dim, config.kv_lanes)
        else:
            beats = ceil_div(HEADER_BITS, config.bus_bits)
        return {"latency": trace.latency("i", "o_header", beats - 1), "interval": trace.interval("i")}


class SoftmaxBench(_PartBench):
    """Weights and sums of probabilities."""

    inputs = {"i": "scores"}
    outputs = {"o_weight": "weights", "o_total": "states"}
    evict_outputs = {"o_probability": "probabilities"}
    fallbacks = True

    def measure(self, trace: Trace) -> dict[str, int]:
        return {"latency": trace.latency("i", "o_weight"), "interval": trace.interval("i")}


class MixBench(_PartBench):
    """Weighted sums."""

    inputs = {"i_command": "commands", "i_weights": "weights", "i_values": "values"}
    outputs = {"o": "all_sums"}
    modules = (*UnitBench.modules, "llmrtl.sim.bench.attention_early")

    def latency_stimulus(self) -> Items:
        """One row of one beat."""
        return self.full(1, 1)

    def measure(self, trace: Trace) -> dict[str, int]:
        """From the last weight."""
        return {"latency": trace.latency("i_weights", "o", -1)}


class FinishBench(_PartBench):
    """Divisions and products."""

    inputs = {"i": "sums", "i_total": "totals"}
    outputs = {"o": "results", "o_exponent": "exponents"}

    def measure(self, trace: Trace) -> dict[str, int]:
        return {"latency": trace.latency("i", "o")}


class JoiningBench(_PartBench):
    """States and sums, some to be merged with parts given."""

    inputs = {"i_state": "states", "i": "all_sums", "i_part": "given_parts", "i_sums": "given_sums"}
    outputs = {"o_state": "joined_states", "o": "joined_sums"}

    def stimulus(self, rng: random.Random, case: str) -> Items:
        """With a stalled sink first a merged lane of one word, which can leave before its state, and one that passes."""
        operations, one = Operations(self.config, rng.getrandbits(32)), np.ones((1, self.config.vector_lanes), np.int64)
        for merges in (True, False) if case == "sink_stalled_from_start" else ():
            operations.add(one, [[0x800000, -23]], [1], one, [[0x8000, -15]], one, [[0x8000, -15]], Mode(merge=merges))
        for _ in range(self.operations):
            operations.add_random()
        return self.chosen(operations)

    def measure(self, trace: Trace) -> dict[str, int]:
        return {"latency": trace.latency("i", "o")}


class PartingBench(_PartBench):
    """States and sums, each to one of two ways out."""

    inputs = {"i_state": "joined_states", "i": "joined_sums"}
    outputs = {"o_total": "totals", "o": "sums", "o_part": "parts", "o_sums": "partial_sums"}

    def measure(self, trace: Trace) -> dict[str, int]:
        return {"latency": trace.latency("i", "o"), "interval": trace.interval("i")}


class AttentionBench(_PartBench):
    """Whole operations; items of an output that ``feedback`` names are given to an input, as they come."""

    inputs = {"i_command": "commands", "i_query": "queries", "i_lane": "lanes", "i_rows": "rows"}
    outputs = {"o": "results", "o_exponent": "exponents"}
    mode_inputs = {"i_part": "given_parts", "i_sums": "given_sums"}
    mode_outputs = {"o_part": "parts", "o_sums": "partial_sums"}
    evict_outputs = {"o_weights": "row_weights"}
    fallbacks = True
    modules = (*UnitBench.modules, "llmrtl.sim.bench.attention_rate", "llmrtl.sim.bench.attention_packed",
               "llmrtl.sim.bench.attention_prefix")
    feedback: Mapping[str, str] = {}

    def react(self, stream: str, payload: Any) -> Items:
        return {self.feedback[stream]: [payload]} if stream in self.feedback else {}

    def measure(self, trace: Trace) -> dict[str, int]:
        """From the last beat to the first result; most cycles per row, but for those that wait for queries."""
        rows = trace.accepted["i_rows"]
        starts = [start for start in rows[::len(rows) // 8] if start > trace.accepted["i_query"][-1]]
        return {"latency": trace.latency("i_rows", "o", -1),
                "interval": max(b - a for a, b in pairwise(starts))}


class Pow2NegativeBench(UnitBench):
    """Values over the whole range, segment ends, and where the result runs out."""

    def _width(self) -> int:
        return self.config.logit_frac_bits + 13

    def stimulus(self, rng: random.Random, case: str) -> Items:
        bits = self._width()
        return {"i": [{"u": rng.getrandbits(bits) >> rng.randrange(bits)} for _ in range(300)]}

    def boundary(self) -> Items:
        frac = self.config.logit_frac_bits
        step = (1 << frac) // self.config.exp_segments
        ends = [k * step + j for k in range(self.config.exp_segments + 1) for j in (-1, 0, 1)]
        zeros = [(self.config.probability_bits + k << frac) + j for k in range(-1, 5) for j in (-1, 0, 1)]
        return {"i": [{"u": u} for u in (*ends[1:], *zeros, (1 << self._width()) - 1)]}

    def expected(self, stimulus: Items) -> Items:
        results = pow2_negative(np.array([item["u"] for item in stimulus["i"]]), self.config)
        return {"o": [{"p": p} for p in results]}
