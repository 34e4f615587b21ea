"""Benches of the parts of the ternary engine: feeder, table builder, lookup lanes, accumulators; of the direct lanes."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...accelerators.config import AcceleratorConfig
from ...accelerators.ternary.code import decode, entries
from ...accelerators.ternary.timing import HAZARD, TernaryTiming
from ..golden import ternary as golden
from .ternary import EngineItems, Matrix, TernaryEngineBench, integers
from .trace import Trace
from .unit import Items, UnitBench

__all__ = ["AccumulatorsBench", "ActivationFeederBench", "DirectLanesBench", "LookupLanesBench", "TableBuilderBench"]


class ActivationFeederBench(TernaryEngineBench):
    """Activations of every K tile of every block, and what is said about each sweep."""

    modules = ("llmrtl.sim.bench.menu", "llmrtl.sim.bench.feeder_cases")

    def stimulus(self, rng: random.Random, case: str) -> Items:
        return self.items(self.matrices(rng))

    def items(self, matrices: list[Matrix]) -> EngineItems:
        """Commands and activations of ``matrices``."""
        items = EngineItems(self.config, matrices)
        del items["i_weights"]
        return items

    def boundary(self) -> Items:
        items = super().boundary()
        del items["i_weights"]
        # Commands with a zero are dropped, and so is a word for a token that does not exist (if one can be named).
        zero = {name: 1 for name in ("tiles", "rows", "block_rows", "tokens")}
        items["i_command"] = [{**zero, name: 0} for name in zero] + items["i_command"]
        tokens = self.config.token_lanes
        if tokens & (tokens - 1):
            items["i_activations"].insert(0, {"token": tokens, "q": [1] * self.config.vector_lanes, "last": True})
        return items

    def latency_stimulus(self) -> Items:
        items = super().latency_stimulus()
        del items["i_weights"]
        return items

    def measure(self, trace: Trace) -> dict[str, int]:
        start = max(trace.accepted["i_activations"][-1], trace.accepted["i_command"][0])
        return {"latency": trace.raised["o"] - start, "interval": trace.interval("o")}

    def figures(self, attributes: Mapping[str, Any]) -> Mapping[str, int]:
        return {"latency": attributes["latency"], "interval": 1}

    def expected(self, stimulus: Items) -> Items:
        assert isinstance(stimulus, EngineItems)
        config = self.config
        elements, sweeps = [], []
        for matrix in stimulus.matrices:
            rows, columns = matrix.trits.shape
            tiles, groups = golden.tiles(columns, config), golden.row_groups(rows, config)
            padded = np.full((config.token_lanes, tiles * config.tile_activations), None)
            padded[:len(matrix.q), :columns] = matrix.q
            for first in range(0, groups, matrix.block_rows):
                elements += [{"x": list(x)} for x in padded.T]
                sweeps += [{"last_row": min(matrix.block_rows, groups - first) - 1, "first": tile == 0,
                            "emit": tile == tiles - 1,
                            "last": tile == tiles - 1 and first + matrix.block_rows >= groups} for tile in range(tiles)]
        return {"o": elements, "o_tiles": sweeps}


def table_items(config: AcceleratorConfig, q: np.ndarray) -> list[dict[str, Any]]:
    """What the table builder gives for one K tile ``q [tokens, tile_activations]``; ``None`` where there is no table."""
    timing = TernaryTiming(config)
    groups = q.reshape(len(q), config.tables, config.group_size)
    sums = groups @ np.array(entries(config.group_size)).T
    found: list[dict[str, Any]] = []
    for slice_ in range(timing.slices):
        first = slice_ * timing.builders
        if slice_ == timing.slices - 1:
            first = config.tables - timing.builders
        for entry in range(config.table_entries):
            values = [[int(token[table, entry]) if table >= slice_ * timing.builders else None
                       for table in range(first, first + timing.builders)] for token in sums]
            found.append({"slice": slice_, "entry": entry, "sums": values, "last": False})
    found[-1]["last"] = True
    return found


class TableBuilderBench(UnitBench):
    """Tables of random tiles."""

    def tiles(self, rng: random.Random, count: int) -> list[np.ndarray]:
        return [integers(rng, (self.config.token_lanes, self.config.tile_activations), -127, 127) for _ in range(count)]

    def _stimulus(self, tiles: list[np.ndarray]) -> Items:
        return {"i": [{"x": x} for tile in tiles for x in tile.T]}

    def stimulus(self, rng: random.Random, case: str) -> Items:
        return self._stimulus(self.tiles(rng, 4))

    def boundary(self) -> Items:
        shape = (self.config.token_lanes, self.config.tile_activations)
        return self._stimulus([np.full(shape, value) for value in (127, -127, 0)])

    def expected(self, stimulus: Items) -> Items:
        columns = np.array([item["x"] for item in stimulus["i"]]).T
        tiles = np.split(columns, columns.shape[1] // self.config.tile_activations, axis=1)
        return {"o": [item for tile in tiles for item in table_items(self.config, tile)]}

    def measure(self, trace: Trace) -> dict[str, int]:
        first_slice = self.config.group_size * TernaryTiming(self.config).builders
        return {"latency": trace.latency("i", "o", index=first_slice - 1), "interval": trace.interval("o"),
                "build": trace.delivered["o"][-1] - trace.delivered["o"][0] + 1}

    def figures(self, attributes: Mapping[str, Any]) -> Mapping[str, int]:
        return {"latency": attributes["latency"], "interval": 1, "build": 4 * TernaryTiming(self.config).build}


class LookupLanesBench(UnitBench):
    """Random tiles and trits; tables of the next tile are written while words of this one are looked up."""

    def _items(self, sweeps: list[tuple[np.ndarray, np.ndarray]]) -> Items:
        """Items for ``(activations [tokens, columns], trits [rows, columns])`` of each K tile."""
        tables, words = [], []
        for q, trits in sweeps:
            # What a builder without a table gives must not matter.
            tables += [{**item, "sums": [[-1 if v is None else v for v in token] for token in item["sums"]]}
                       for item in table_items(self.config, q)]
            lane_words = golden.lane_words(trits, self.config)
            words += [{"indices": word, "last": n == len(lane_words) - 1} for n, word in enumerate(lane_words)]
        return {"i_tables": tables, "i": words}

    def _random(self, rng: random.Random, groups: int) -> tuple[np.ndarray, np.ndarray]:
        config = self.config
        return (integers(rng, (config.token_lanes, config.tile_activations), -127, 127),
                integers(rng, (groups * config.table_rows, config.tile_activations), -1, 1))

    def stimulus(self, rng: random.Random, case: str) -> Items:
        return self._items([self._random(rng, groups) for groups in (1, 2, rng.randint(10, 60), 3, 7, 1, 1)])

    def boundary(self) -> Items:
        config = self.config
        top = np.full((config.token_lanes, config.tile_activations), 127)
        ones = np.ones((config.table_rows, config.tile_activations), dtype=int)
        trits = np.concatenate([ones, -ones, 0 * ones])
        return self._items([(top, trits), (-top, trits), (0 * top, trits)])

    def latency_stimulus(self) -> Items:
        rng = random.Random(0)
        return self._items([self._random(rng, TernaryTiming(self.config).build) for _ in range(3)])

    def expected(self, stimulus: Items) -> Items:
        config, timing = self.config, TernaryTiming(self.config)
        tables = iter(stimulus["i_tables"])
        bank: np.ndarray | None = None
        found = []
        sign_bit = config.index_bits - 1
        for word in stimulus["i"]:
            if bank is None:
                bank = np.zeros((config.tables, config.table_entries, config.token_lanes), dtype=np.int64)
                for item in (next(tables) for _ in range(timing.build)):
                    first = item["slice"] * timing.builders
                    count = min(timing.builders, config.tables - first)
                    bank[first:first + count, item["entry"]] = np.array(item["sums"]).T[timing.builders - count:]
            code = self.code(word["indices"])
            sign, entry = code >> sign_bit, code & ((1 << sign_bit) - 1)
            values = (bank[np.arange(config.tables), entry] * (1 - 2 * sign)[..., None]).sum(axis=1)
            found.append(self.sums(values, code))
            if word["last"]:
                bank = None
        return {"o": found}

    def code(self, word: int) -> np.ndarray:
        """Indices ``[table_rows, tables]`` of a lane word."""
        config = self.config
        indices = [word >> position * config.index_bits & ((1 << config.index_bits) - 1)
                   for position in range(config.table_rows * config.tables)]
        return np.array(indices).reshape(config.table_rows, config.tables)

    def sums(self, products: np.ndarray, code: np.ndarray) -> dict[str, Any]:
        """What leaves the tree for ``products [rows, tokens]``: the carry of each row is still to be added."""
        carry = self.carries(code)
        return {"sums": list((products - carry[:, None]).T.reshape(-1)),
                "carry": sum(int(bit) << row for row, bit in enumerate(carry))}

    def carries(self, code: np.ndarray) -> np.ndarray:
        """Sign of the last pair of terms of each row, which is that of its first one: 1 is minus."""
        return code[:, (self.config.tables - 1) // 2 * 2] >> self.config.index_bits - 1

    def measure(self, trace: Trace) -> dict[str, int]:
        return {"latency": trace.latency("i", "o"), "interval": trace.interval("i")}


class DirectLanesBench(LookupLanesBench):
    """Random tiles and trits; activations of the next tile are loaded while words of this one are multiplied."""

    def _items(self, sweeps: list[tuple[np.ndarray, np.ndarray]]) -> Items:
        return {"i_activations": [{"x": x} for q, _ in sweeps for x in q.T], "i": super()._items(sweeps)["i"]}

    def latency_stimulus(self) -> Items:
        rng = random.Random(0)
        return self._items([self._random(rng, self.config.tile_activations + 1) for _ in range(3)])

    def expected(self, stimulus: Items) -> Items:
        config = self.config
        columns = np.array([item["x"] for item in stimulus["i_activations"]]).T
        tiles = iter(np.split(columns, columns.shape[1] // config.tile_activations, axis=1))
        q, found = next(tiles), []
        for word in stimulus["i"]:
            code = self.code(word["indices"])
            products = golden.matvec(decode(code, config.group_size).reshape(config.table_rows, -1), q)
            found.append(self.sums(products.T, code))
            if word["last"]:
                q = next(tiles, q)
        return {"o": found}

    def carries(self, code: np.ndarray) -> np.ndarray:
        """Here a term is a trit; one that is 0 has the sign of its index."""
        table, trit = divmod((self.config.tile_activations - 1) // 2 * 2, self.config.group_size)
        trits = decode(code[:, table], self.config.group_size)[:, trit]
        return np.where(trits == 0, code[:, table] >> self.config.index_bits - 1, trits < 0).astype(int)


class AccumulatorsBench(UnitBench):
    """Blocks of random partial sums, a row group not before it may be read."""

    def _items(self, blocks: list[np.ndarray], carries: int) -> Items:
        """Items for blocks of partial sums ``[tiles, rows, lanes]``; ``carries``: random generator seed, or -1 for all 1."""
        config = self.config
        rng = np.random.default_rng(carries if carries >= 0 else 0)
        items = []
        for number, block in enumerate(blocks):
            for tile, rows in enumerate(block):
                items += [{"sums": list(values), "row": row, "first": tile == 0, "emit": tile == len(block) - 1,
                           "carry": int(rng.integers(0, 1 << config.table_rows)) if carries >= 0
                           else (1 << config.table_rows) - 1,
                           "last": number == len(blocks) - 1 and row == len(rows) - 1}
                          for row, values in enumerate(rows)]
        return {"i": items}

    def stimulus(self, rng: random.Random, case: str) -> Items:
        config = self.config
        limit = 126 * config.tile_activations
        tiles = max(1, config.max_vector // config.tile_activations)
        depth = config.max_block_rows // config.table_rows
        blocks = [integers(rng, (rng.randint(1, min(tiles, 4)), rows, config.token_lanes * config.table_rows), -limit, limit)
                  for rows in (HAZARD, rng.randint(HAZARD, 12), min(depth, 40))]
        return self._items(blocks, rng.getrandbits(30))

    def boundary(self) -> Items:
        config = self.config
        tiles = max(1, config.max_vector // config.tile_activations)
        shape = (tiles, HAZARD, config.token_lanes * config.table_rows)
        top = 127 * config.tile_activations
        return self._items([np.full(shape, top - 1), np.full(shape, -top - 1)], -1)

    def expected(self, stimulus: Items) -> Items:
        config = self.config
        memory: dict[int, np.ndarray] = {}
        found = []
        for item in stimulus["i"]:
            carry = [item["carry"] >> row & 1 for row in range(config.table_rows)] * config.token_lanes
            total = np.array(item["sums"]) + carry + (0 if item["first"] else memory[item["row"]])
            memory[item["row"]] = total
            if item["emit"]:
                found.append({"sums": list(total), "last": item["last"]})
        return {"o": found}

    def latency_stimulus(self) -> Items:
        lanes = self.config.token_lanes * self.config.table_rows
        return self._items([np.arange(HAZARD * lanes).reshape(1, HAZARD, lanes)], 1)
