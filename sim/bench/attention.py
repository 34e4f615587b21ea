"""Benches of the attention unit and of its parts: one random operation gives the streams between all of
them."""

import random
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from ...accelerators.config import HEADER_BITS, AcceleratorConfig, ceil_div, header_in_tail
from ..golden.attention import NO_VALUE_EXPONENT, WEIGHT_BITS, LaneState, finish, scaled_down
from ..golden.cache import restored, stored
from ..golden.exp import pow2_negative
from .trace import Trace
from .unit import Items, UnitBench

__all__ = ["AttentionBench", "FinishBench", "LaneTableBench", "MixBench", "Operations", "Pow2NegativeBench",
           "RowSplitterBench", "Run", "ScoresBench", "SoftmaxBench"]


def _packed(values: np.ndarray, bits: int) -> int:
    return sum((int(value) & (1 << bits) - 1) << bits * k for k, value in enumerate(values))


def _pair(scale: np.ndarray) -> dict[str, int]:
    return {"mantissa": int(scale[0]), "exponent": int(scale[1])}


class Run(NamedTuple):
    """Rows of an operation, and which of them each lane sees: ``starts .. limits - 1``. Scales are (mantissa, exponent), of 24
    bits for queries and 16 bits for rows."""

    starts: np.ndarray
    limits: Any
    q: np.ndarray
    scales: Any
    k: np.ndarray
    k_scales: Any
    v: np.ndarray
    v_scales: Any


class Operations:
    """Random operations, and what goes through every stream of the attention unit because of them.

    Attributes
    ----------
    streams : Items
        ``commands``, ``queries``, ``lanes``, ``rows``, ``headers``, ``keys``, ``values``, ``dots``,
        ``scores``, ``weights``, ``totals``, ``sums``, ``results``, ``exponents``.
    """

    def __init__(self, config: AcceleratorConfig, seed: int):
        self.config = config
        self.rng = np.random.default_rng(seed)
        self.bound = 1 << (config.kv_bits - 1)
        self.streams: Items = {name: [] for name in (
            "commands", "queries", "lanes", "rows", "headers", "keys", "values", "dots", "scores", "weights",
            "totals", "sums", "results", "exponents")}

    def add_random(self) -> None:
        """Any number of lanes, some rows, any head size, scales that reach from flat to saturated logits; where there are runs,
        up to three of them."""
        config, rng = self.config, self.rng
        lanes = int(rng.integers(1, config.query_lanes + 1))
        words = int(rng.integers(1, config.max_head_dim // config.vector_lanes + 1))
        spread, runs = int(rng.choice((1, 4, 40))), []
        for _ in range(rng.integers(1, 4) if config.attention_runs else 1):
            rows = int(rng.integers(1, 12))
            shape = (rows, words * config.vector_lanes)
            centre = -2 * config.kv_bits - shape[1].bit_length() // 2
            limits = rng.integers(0, rows + 2, lanes)
            runs.append(Run(rng.integers(0, rows + 1, lanes) * (rng.random(lanes) < 0.5) if config.attention_runs else limits * 0,
                            limits, rng.integers(-self.bound, self.bound, (lanes, shape[1])),
                            self._scales(lanes, centre, spread, 24),
                            rng.integers(-self.bound, self.bound, shape), self._scales(rows, -16, spread, 16),
                            rng.integers(-self.bound, self.bound, shape), self._scales(rows, -20, spread, 16)))
        self.add_runs(runs)

    def _scales(self, count: int, centre: int, spread: int, bits: int) -> np.ndarray:
        """Normalized mantissas of ``bits`` bits with exponents around ``centre``; one in eight is zero."""
        mantissas = self.rng.integers(1 << (bits - 1), 1 << bits, count) * (self.rng.random(count) > 0.125)
        exponents = centre - bits + 16 + self.rng.integers(-spread, spread + 1, count)
        return np.stack([mantissas, exponents * (mantissas != 0)], axis=1)

    def add(self, q, scales, limits, k, k_scales, v, v_scales) -> None:
        """An operation of one run."""
        self.add_runs([Run(np.zeros(len(q), int), limits, q, scales, k, k_scales, v, v_scales)])

    def add_runs(self, runs: Sequence["Run"]) -> None:
        """One operation."""
        config, streams = self.config, self.streams
        lanes, head_dim = runs[0].q.shape
        states = [LaneState(config) for _ in range(lanes)]
        sums = np.zeros((lanes, head_dim), np.int64)
        for number, run in enumerate(runs):
            self._add_run(run, states, sums, number == 0, number == len(runs) - 1)
        for lane, state in enumerate(states):
            x, exponent = np.zeros_like(sums[lane]), NO_VALUE_EXPONENT
            if state.top is not None:
                x, exponent = finish(sums[lane], state.total, state.top, config)
            streams["sums"] += self._words(sums[lane], "sums")
            streams["results"] += self._words(x, "x")
            streams["exponents"].append({"exponent": exponent})

    def _add_run(self, run: "Run", states: list[LaneState], sums: np.ndarray, begins: bool, ends: bool) -> None:
        config, streams = self.config, self.streams
        starts, limits, q, scales, k, k_scales, v, v_scales = run
        k, v = (restored(stored(side, config), config) for side in (k, v))
        lanes, rows, words = len(q), len(k), q.shape[1] // config.vector_lanes
        beats = ceil_div(q.shape[1], config.kv_lanes)
        command = {"lanes": lanes, "rows": rows, "beats": beats, "words": words}
        streams["commands"].append(command | ({"begins": begins, "ends": ends} if config.attention_runs else {}))
        for lane in range(lanes):
            start = {"start": int(starts[lane])} if config.attention_runs else {}
            streams["lanes"].append({"scale": _pair(scales[lane]), **start, "limit": int(limits[lane])})
            streams["queries"] += self._words(q[lane], "q")
        padded = np.zeros((2, rows, beats * config.kv_lanes), np.int64)
        padded[0, :, :q.shape[1]], padded[1, :, :q.shape[1]] = k, v
        for row in range(rows):
            header = {"key": _pair(k_scales[row]), "value": _pair(v_scales[row])}
            bits = _packed(np.concatenate([k_scales[row], v_scales[row]]), 16)
            keys, values = ([_packed(beat, config.kv_bits) for beat in side.reshape(beats, -1)]
                            for side in padded[:, row])
            streams["headers"].append(header)
            streams["keys"] += keys
            streams["values"] += values
            front: list[int] = []
            keys, values = (self._stored(side[row]) for side in (k, v))
            if header_in_tail(q.shape[1], kv_bits=config.stored_kv_bits, bus_bits=config.bus_bits):
                keys[-1] |= bits << config.bus_bits - HEADER_BITS
            else:
                front = [bits >> start & (1 << config.bus_bits) - 1 for start in range(0, HEADER_BITS, config.bus_bits)]
            streams["rows"] += front + keys + values
            for lane, state in enumerate(states):
                query = int(scales[lane][0]) >> 8, int(scales[lane][1])
                dot, last = int(q[lane] @ k[row]), lane == lanes - 1
                visible, final = bool(starts[lane] <= row < limits[lane]), ends and row == rows - 1
                streams["dots"].append({"dot": dot, "last": last})
                streams["scores"].append({
                    "dot": dot, "lane": lane, "query": {"mantissa": query[0], "exponent": query[1]}, **header,
                    "visible": visible, "first": begins and row == 0, "final": final, "last": last})
                weight, shift = state.step(dot, query, k_scales[row], v_scales[row]) if visible else (0, 0)
                sums[lane] = scaled_down(sums[lane], shift) + weight * v[row]
                coarse = weight >= 1 << WEIGHT_BITS
                streams["weights"].append({
                    "factor": weight >> config.probability_bits - WEIGHT_BITS + 1 if coarse else weight,
                    "coarse": coarse, "shift": shift, "last": last})
                if final:
                    streams["totals"].append({"sum": state.total, "exponent": state.top,
                                              "defined": state.top is not None})

    def _stored(self, vector: np.ndarray) -> list[int]:
        """Beats of a K or V vector in a record."""
        elements, lanes = stored(vector, self.config), self.config.stored_kv_lanes
        return [_packed(elements[at:at + lanes], self.config.stored_kv_bits) for at in range(0, len(elements), lanes)]

    def _words(self, vector: np.ndarray, name: str) -> list[dict[str, Any]]:
        words = vector.reshape(-1, self.config.vector_lanes)
        return [{name: word, "last": k == len(words) - 1} for k, word in enumerate(words)]


class Recorded(dict):
    """Stimulus that knows what must come out, and the weights inside."""

    expected: Items
    weights: list[dict[str, Any]]


class _PartBench(UnitBench):
    """``inputs`` and ``outputs`` name, for each port, the stream of ``Operations``."""

    inputs: Mapping[str, str] = {}
    outputs: Mapping[str, str] = {}

    def __init__(self, config: AcceleratorConfig):
        super().__init__(config)
        self.operations = 8 if config.bus_bits < 512 else 3

    def _chosen(self, operations: Operations) -> Items:
        streams = operations.streams
        stimulus = Recorded({port: self._filled(streams[name]) for port, name in self.inputs.items()})
        stimulus.expected = {port: streams[name] for port, name in self.outputs.items()}
        stimulus.weights = streams["weights"]
        return stimulus

    @staticmethod
    def _filled(items: list[Any]) -> list[Any]:
        """As input, what does not matter is 0."""
        return [{key: 0 if value is None else value for key, value in item.items()}
                if isinstance(item, dict) else item for item in items]

    def stimulus(self, rng: random.Random, case: str) -> Items:
        operations = Operations(self.config, rng.getrandbits(32))
        for _ in range(self.operations):
            operations.add_random()
        return self._chosen(operations)

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
        small = np.ones((1, config.vector_lanes), np.int64)
        operations.add(small, [[0x800000, -23]], [1], small, [[0x8000, -15]], small, [[0x8000, -15]])
        return self._chosen(operations)

    def full(self, rows: int, words: int, lanes: int | None = None, exponent: int = -31, count: int = 1) -> Items:
        """Operations of all (or of some) lanes, all rows visible. The standard deviation of the logits is about
        ``27 * sqrt(head_dim) * 2**(exponent + 22)``: below 1 if not given, so that accumulators move by few bits."""
        config = self.config
        operations = Operations(config, 0)
        shape, lanes = (rows, words * config.vector_lanes), lanes or config.query_lanes
        row_scales = [[0x8000, -16]] * rows
        for _ in range(count):
            q, k, v = (operations.rng.integers(-9, 9, size) for size in ((lanes, shape[1]), shape, shape))
            operations.add(q, [[0x800000, exponent]] * lanes, [rows] * lanes, k, row_scales, v, row_scales)
        return self._chosen(operations)

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
            beats = ceil_div(config.max_head_dim, config.stored_kv_lanes)
        else:
            beats = ceil_div(HEADER_BITS, config.bus_bits)
        return {"latency": trace.latency("i", "o_header", beats - 1), "interval": trace.interval("i")}


class SoftmaxBench(_PartBench):
    """Weights and sums of probabilities."""

    inputs = {"i": "scores"}
    outputs = {"o_weight": "weights", "o_total": "totals"}


class MixBench(_PartBench):
    """Weighted sums."""

    inputs = {"i_command": "commands", "i_weights": "weights", "i_values": "values"}
    outputs = {"o": "sums"}
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


class AttentionBench(_PartBench):
    """Whole operations."""

    inputs = {"i_command": "commands", "i_query": "queries", "i_lane": "lanes", "i_rows": "rows"}
    outputs = {"o": "results", "o_exponent": "exponents"}
    modules = (*UnitBench.modules, "llmrtl.sim.bench.attention_rate")

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
