"""Random attention operations, and what goes through every stream of the attention unit because of them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ...accelerators.config import AcceleratorConfig
from ...accelerators.integers import ceil_div
from ...accelerators.kv_records import HEADER_BITS, header_in_tail
from ..golden.attention import Partial, finished, scaled_down, weight_drops, weight_range
from ..golden.cache import kept, stored
from ..golden.lanes import LaneState, partial
from ..golden.merge import merge
from ..golden.numerics import Scalar
from ..golden.weights import attention_weights
from .unit import Items

__all__ = ["Mode", "Operations", "Run", "part_fields"]


def _packed(values: np.ndarray, bits: int) -> int:
    return sum((int(value) & (1 << bits) - 1) << bits * k for k, value in enumerate(values))


def _pair(scale: np.ndarray) -> dict[str, int]:
    return {"mantissa": int(scale[0]), "exponent": int(scale[1])}


def part_fields(part: Partial) -> dict[str, int]:
    """The state of a part as a payload."""
    return {"sum": part.total, "exponent": part.exponent, "defined": int(part.defined), "maximum": part.maximum}


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


class Mode(NamedTuple):
    """How an operation is done: its unified maximum, if it has one, whether its results are partial, and whether its lanes are merged
    with parts given."""

    phi: int | None = None
    partial: bool = False
    merge: bool = False

    def fields(self) -> dict[str, int]:
        return {"unified": int(self.phi is not None), "phi": self.phi or 0, "merge": int(self.merge),
                "partial": int(self.partial)}


class Operations:
    """Operations, and their items for every stream.

    Attributes
    ----------
    streams : Items
        ``commands``, ``queries``, ``lanes``, ``rows``, ``headers``, ``keys``, ``values``, ``dots``, ``scores``, ``weights``,
        ``probabilities``, ``row_weights``, ``totals``, ``sums``, ``results``, ``exponents``; with modes ``partial_sums`` and
        ``parts``, of all operations together ``all_sums`` and ``states``, behind merges ``joined_sums`` and ``joined_states``; what
        lanes are merged with, ``given_sums`` and ``given_parts``.
    weights : list
        Those of ``streams["weights"]``, one by one where lanes come side by side.
    missed, passed : int
        Lanes that left a unified maximum.
    """

    def __init__(self, config: AcceleratorConfig, seed: int):
        self.config = config
        self.rng = np.random.default_rng(seed)
        self.bound = 1 << (config.kv_bits - 1)
        self.streams: Items = {name: [] for name in (
            "commands", "queries", "lanes", "rows", "headers", "keys", "values", "dots", "scores", "weights",
            "probabilities", "row_weights", "states", "totals", "all_sums", "sums", "results", "exponents", "parts", "partial_sums",
            "joined_states", "joined_sums", "given_parts", "given_sums")}
        self.weights: list[dict[str, Any]] = []
        self.missed = self.passed = 0

    def add_random(self) -> None:
        """Any number of lanes, some rows, any head size, scales that reach from flat to saturated logits; where there are runs,
        up to three of them."""
        config, rng = self.config, self.rng
        lanes = int(rng.integers(1, config.query_lanes + 1))
        words = int(rng.integers(1, config.max_head_dim // config.vector_lanes + 1))
        spread = int(rng.choice((1, 4, 40)))
        runs = [self.random_run(lanes, words, int(rng.integers(1, 12)), spread)
                for _ in range(rng.integers(1, 4) if config.attention_runs else 1)]
        self.add_runs(runs, self.random_mode() if config.attention_modes else Mode())

    def random_mode(self) -> Mode:
        phi = int(self.rng.integers(-4, 12)) if self.rng.random() < 0.7 else None
        return Mode(phi, bool(self.rng.random() < 0.5), bool(self.rng.random() < 0.5))

    def _scales(self, count: int, centre: int, spread: int, bits: int) -> np.ndarray:
        """Normalized mantissas of ``bits`` bits with exponents around ``centre``; one in eight is zero."""
        mantissas = self.rng.integers(1 << (bits - 1), 1 << bits, count) * (self.rng.random(count) > 0.125)
        exponents = centre - bits + 16 + self.rng.integers(-spread, spread + 1, count)
        return np.stack([mantissas, exponents * (mantissas != 0)], axis=1)

    def add(self, q, scales, limits, k, k_scales, v, v_scales, mode: Mode = Mode()) -> None:
        """An operation of one run."""
        self.add_runs([Run(np.zeros(len(q), int), limits, q, scales, k, k_scales, v, v_scales)], mode)

    def add_runs(self, runs: Sequence[Run], mode: Mode = Mode(), given: Sequence[Partial] = ()) -> list[Partial]:
        """One operation; the state of each lane behind it. ``given``: what lanes are merged with; random parts by default."""
        config, streams = self.config, self.streams
        lanes, head_dim = runs[0].q.shape
        states = [LaneState(config, mode.phi) for _ in range(lanes)]
        sums = np.zeros((lanes, head_dim), np.int64)
        first_item = len(streams["probabilities"])
        joined: list[Partial] = []
        for number, run in enumerate(runs):
            self._add_run(run, states, sums, mode, number == 0, number == len(runs) - 1)
        self._add_row_weights(streams["probabilities"][first_item:], lanes)
        for lane, state in enumerate(states):
            self.missed, self.passed = self.missed + state.missed, self.passed + state.passed
            words, flags = self.words(sums[lane], "sums"), {"merge": mode.merge, "partial": mode.partial}
            total = {"sum": state.total, "exponent": state.top, "defined": state.top is not None}
            part: dict[str, Any] = {**total, "maximum": state.maximum}
            streams["all_sums"] += words
            streams["states"].append({**part, **flags} if config.attention_modes else total)
            joined.append(state.partial(sums[lane]))
            if mode.merge:
                other = given[lane] if given else self._given(lanes, head_dim)
                streams["given_parts"].append(part_fields(other))
                streams["given_sums"] += self.words(other.acc, "sums")
                joined[-1] = merge(joined[-1], other)
                words, part = self.words(joined[-1].acc, "sums"), part_fields(joined[-1])
                total = {name: part[name] for name in total}
            streams["joined_states"].append({**part, **flags})
            streams["joined_sums"] += words
            if mode.partial:
                streams["partial_sums"] += words
                streams["parts"].append(part)
                continue
            x, exponent = finished(joined[-1], config)
            streams["sums"] += words
            streams["totals"].append(total)
            streams["results"] += self.words(x, "x")
            streams["exponents"].append({"exponent": exponent})
        return joined

    def _given(self, lanes: int, head_dim: int) -> Partial:
        """What a lane has behind other rows: of some, or of none."""
        words, rows, spread = head_dim // self.config.vector_lanes, int(self.rng.integers(1, 4)), int(self.rng.choice((1, 4, 40)))
        run = self.random_run(lanes, words, rows, spread)
        seen = slice(int(run.starts[0]), int(run.limits[0]))
        return partial(run.q[0], Scalar(*(int(value) for value in run.scales[0])), run.k[seen], run.k_scales[seen], run.v[seen],
                       run.v_scales[seen], self.config)

    def _add_row_weights(self, items: Sequence[dict[str, Any]], lanes: int) -> None:
        """Weights of the rows of an operation, as many as a cache with a budget may have; a lane that saw none has no maximum."""
        p, maxima = (np.array([item[name] or 0 for item in items], np.int64).reshape(-1, lanes)[:self.config.max_budget]
                     for name in ("p", "maximum"))
        weights = attention_weights(p, maxima)
        self.streams["row_weights"] += [{"weight": int(weight), "last": int(row == len(weights) - 1)}
                                        for row, weight in enumerate(weights)]

    def _add_run(self, run: Run, states: list[LaneState], sums: np.ndarray, mode: Mode, begins: bool, ends: bool) -> None:
        config, streams = self.config, self.streams
        modes = mode.fields() if config.attention_modes else {}
        starts, limits, q, scales, k, k_scales, v, v_scales = run
        k, v = (kept(side, config) for side in (k, v))
        lanes, rows, words = len(q), len(k), q.shape[1] // config.vector_lanes
        beats = ceil_div(q.shape[1], config.kv_lanes)
        command = {"lanes": lanes, "rows": rows, "beats": beats, "words": words, **modes}
        streams["commands"].append(command | ({"begins": begins, "ends": ends} if config.attention_runs else {}))
        for lane in range(lanes):
            start = {"start": int(starts[lane])} if config.attention_runs else {}
            streams["lanes"].append({"scale": _pair(scales[lane]), **start, "limit": int(limits[lane])})
            streams["queries"] += self.words(q[lane], "q")
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
            group = self.config.softmax_ways
            present = {"present": 1} if group > 1 else {}
            first_weight = len(self.weights)
            dots, scores = [], []
            for lane, state in enumerate(states):
                query = int(scales[lane][0]) >> 8, int(scales[lane][1])
                dot, last = int(q[lane] @ k[row]), lane == lanes - 1
                visible, final = bool(starts[lane] <= row < limits[lane]), ends and row == rows - 1
                ends_row = lane // group == (lanes - 1) // group  # on all lanes of the last group
                dots.append({"dot": dot, "last": ends_row})
                scores.append({
                    "dot": dot, "lane": lane // group, "query": {"mantissa": query[0], "exponent": query[1]}, **header,
                    "visible": visible, "first": begins and row == 0, "final": final, "last": ends_row, **present, **modes})
                weight, shift = state.step(dot, query, k_scales[row], v_scales[row]) if visible else (0, 0)
                sums[lane] = scaled_down(sums[lane], shift) + weight * v[row]
                streams["probabilities"].append({"p": state.p if visible else 0, "maximum": state.maximum, "lane": lane,
                                                 "last": final and last})
                coarse = int(weight_range(weight, config))
                self.weights.append({
                    "factor": weight >> int(weight_drops(config)[coarse]), "coarse": coarse, "shift": shift, "last": ends_row})
            weights = self.weights[first_weight:]
            any_query = {"mantissa": None, "exponent": None}
            for name, items, none in (("dots", dots, {"dot": None}), ("weights", weights, {"factor": 0, "coarse": 0, "shift": 0}),
                                      ("scores", scores, {"dot": None, "query": any_query, "visible": 0, "present": 0})):
                streams[name] += self._side_by_side(items, none)

    def _side_by_side(self, items: list[dict[str, Any]], none: dict[str, Any]) -> list[Any]:
        """Items of the lanes of a row, as many side by side as the softmax takes; ``none``: what is different in a lane that is not in
        use."""
        ways = self.config.softmax_ways
        padded = items + [items[-1] | none] * (-len(items) % ways)
        return items if ways == 1 else [padded[at:at + ways] for at in range(0, len(padded), ways)]

    def random_run(self, lanes: int, words: int, rows: int, spread: int) -> Run:
        """Scales that reach ``spread`` bits to both sides; lanes see any rows, or none."""
        config, rng = self.config, self.rng
        shape = (rows, words * config.vector_lanes)
        centre = -2 * config.kv_bits - shape[1].bit_length() // 2
        limits = rng.integers(0, rows + 2, lanes)
        starts = rng.integers(0, rows + 1, lanes) * (rng.random(lanes) < 0.5) if config.attention_runs else limits * 0
        return Run(starts, limits, rng.integers(-self.bound, self.bound, (lanes, shape[1])), self._scales(lanes, centre, spread, 24),
                   rng.integers(-self.bound, self.bound, shape), self._scales(rows, -16, spread, 16),
                   rng.integers(-self.bound, self.bound, shape), self._scales(rows, -20, spread, 16))

    def _stored(self, vector: np.ndarray) -> list[int]:
        """Beats of a K or V vector in a record."""
        elements, lanes = stored(vector, self.config), self.config.kv_lanes
        return [_packed(elements[at:at + lanes], self.config.stored_kv_bits) for at in range(0, len(elements), lanes)]

    def words(self, vector: np.ndarray, name: str) -> list[dict[str, Any]]:
        words = vector.reshape(-1, self.config.vector_lanes)
        return [{name: word, "last": k == len(words) - 1} for k, word in enumerate(words)]
