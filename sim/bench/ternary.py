"""Benches of the ternary engine and its parts."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...accelerators.config import AcceleratorConfig
from ...accelerators.integers import ceil_div
from ...accelerators.ternary.timing import TernaryTiming
from ..golden import ternary as golden
from .trace import Trace
from .unit import Items, UnitBench

__all__ = ["EngineItems", "Matrix", "TernaryEngineBench", "integers", "random_matrix"]


def integers(rng: random.Random, shape: tuple[int, ...], low: int, high: int) -> np.ndarray:
    """Random integers in ``low..high``."""
    return np.random.default_rng(rng.getrandbits(64)).integers(low, high, shape, endpoint=True)


@dataclass(frozen=True)
class Matrix:
    """One command: trits ``[rows, columns]``, activations ``[tokens, columns]``, row groups of a block."""

    trits: np.ndarray
    q: np.ndarray
    block_rows: int


def random_matrix(rng: random.Random, rows: int, columns: int, block_rows: int, tokens: int) -> Matrix:
    """A matrix of the given shape, a share of it zeros."""
    trits = integers(rng, (rows, columns), -1, 1)
    return Matrix(trits * (integers(rng, (rows, 1), 0, 3) > 0), integers(rng, (tokens, columns), -127, 127), block_rows)


class TernaryEngineBench(UnitBench):
    """Matrices of odd shapes, many blocks, few rows; sums against ``golden.matvec``."""

    modules: tuple[str, ...] = ("llmrtl.sim.bench.menu", "llmrtl.sim.bench.ternary_cycles")

    def matrices(self, rng: random.Random, count: int = 6) -> list[Matrix]:
        """Random shapes: one row, fewer rows than a block, a block of fewer row groups than the pipeline is deep."""
        config = self.config
        found = []
        for _ in range(count):
            depth = config.max_block_rows // config.table_rows
            block_rows = min(rng.choice((1, 2, 3, 4, 5, 9, depth)), depth)
            rows = rng.choice((1, config.table_rows, rng.randint(1, 6), rng.randint(1, 12 * config.table_rows)))
            columns = rng.choice((1, rng.randint(1, config.tile_activations),
                                  rng.randint(1, min(config.max_vector, 4 * config.tile_activations))))
            found.append(random_matrix(rng, rows, columns, block_rows, rng.randint(1, config.token_lanes)))
        return found

    def stimulus(self, rng: random.Random, case: str) -> Items:
        return EngineItems(self.config, self.matrices(rng))

    def boundary(self) -> Items:
        """Largest sums of either sign, and the longest vector."""
        config = self.config
        rows = 2 * config.table_rows
        ones = np.ones((rows, config.max_vector), dtype=np.int64)
        ones[config.table_rows:] = -1
        top = np.full((config.token_lanes, config.max_vector), 127)
        return EngineItems(config, [Matrix(ones, top, 2), Matrix(ones, -top, 1), Matrix(ones[:, :1], top[:, :1], 1),
                                    Matrix(0 * ones[:, :1], top[:, :1], 1)])

    def latency_stimulus(self) -> Items:
        """Two blocks of three K tiles, sweeps long enough to hide the building of tables."""
        config, rng = self.config, random.Random(0)
        self.sweep = min(max(TernaryTiming(config).build, 8), config.max_block_rows // config.table_rows)
        self.tiles = min(3, config.max_vector // config.tile_activations)
        return EngineItems(config, [random_matrix(rng, 2 * self.sweep * config.table_rows,
                                                  self.tiles * config.tile_activations, self.sweep, config.token_lanes)])

    def measure(self, trace: Trace) -> dict[str, int]:
        vectors_in = max(trace.accepted["i_activations"][-1], trace.accepted["i_command"][0])
        return {"latency": trace.latency("i_weights", "o_sums", index=(self.tiles - 1) * self.sweep),
                "interval": trace.interval("i_weights"),
                "start": trace.accepted["i_weights"][0] - vectors_in}

    def figures(self, attributes: Mapping[str, Any]) -> Mapping[str, int]:
        timing = TernaryTiming(self.config)
        return {"latency": attributes["latency"], "start": timing.start,
                "interval": attributes["interval"] + timing.sweep(self.sweep) - self.sweep}

    def expected(self, stimulus: Items) -> Items:
        assert isinstance(stimulus, EngineItems)
        return {"o_sums": [word for matrix in stimulus.matrices for word in self._sums(matrix)]}

    def _sums(self, matrix: Matrix) -> list[dict[str, Any]]:
        config = self.config
        groups = golden.row_groups(len(matrix.trits), config)
        sums = np.zeros((config.token_lanes, groups * config.table_rows), dtype=np.int64)
        sums[:len(matrix.q), :len(matrix.trits)] = golden.matvec(matrix.trits, matrix.q)
        words = []
        for group in range(groups):
            values = sums[:, group * config.table_rows:(group + 1) * config.table_rows]
            known = [[int(v) for v in token] if t < len(matrix.q) else [None] * config.table_rows
                     for t, token in enumerate(values)]
            words.append({"sums": [v for token in known for v in token], "last": group == groups - 1})
        return words


class EngineItems(Items):
    """Items of the engine's inputs for matrices in order, and the matrices themselves."""

    def __init__(self, config: AcceleratorConfig, matrices: list[Matrix]):
        self.matrices = matrices
        lanes = config.vector_lanes
        super().__init__(i_command=[], i_activations=[], i_weights=[])
        for matrix in matrices:
            rows, columns = matrix.trits.shape
            tokens = len(matrix.q)
            words = ceil_div(columns, lanes)
            q = np.pad(matrix.q, ((0, 0), (0, words * lanes - columns))).reshape(tokens, words, lanes)
            self["i_command"].append({"tiles": golden.tiles(columns, config), "rows": golden.row_groups(rows, config),
                                      "block_rows": matrix.block_rows, "tokens": tokens})
            self["i_activations"] += [{"token": token, "q": q[token, word], "last": word == words - 1}
                                      for token in range(tokens) for word in range(words)]
            self["i_weights"] += golden.lane_words(matrix.trits, config, matrix.block_rows)
