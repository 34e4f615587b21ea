"""Benches of the weight streamer and of the controller behind it."""

import random
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ...accelerators.experts.dram_commands import BUNDLE_BANKS, data_cycles
from ..golden.dram import given_words, granule_address
from ..memory.bundles import BundleMemory, hashed_granule, word_of
from .agents import BenchFailure, Model
from .expert_gemm import ExpertBench
from .trace import Trace
from .unit import Items

__all__ = ["BundleControllerBench", "WeightStreamerBench"]


class MemoryBench(ExpertBench):
    """Reads of bundles, and of single banks, whose answers come in any order: a request is known by its tag.

    ``image``: contents of rows (``memory_image``); those behind have a hash of their address, as all have without it.
    """

    patience = 4000
    image: np.ndarray | None = None

    def models(self, ports: Mapping[str, Any]) -> Sequence[Model]:
        return [BundleMemory(dict(ports), self.config, self._granule)]

    def _granule(self, address: int) -> int:
        banks, config = BUNDLE_BANKS * self.config.columns, self.config
        (bundle, row), at = divmod(address // banks, config.rows), address % banks
        if self.image is None or row >= self.image.shape[1]:
            return hashed_granule(config, address)
        return int.from_bytes(self.image[bundle, row].reshape(banks, -1)[at].tobytes(), "little")

    def _word(self, *place: int) -> int:
        return word_of(self.config, self._granule, *place)

    def _requests(self, rng: random.Random, count: int) -> list[dict[str, int]]:
        """Few rows, so that many are in an open one; with more bundles or with fewer, so that paths meet or not."""
        config, bundles = self.config, rng.choice(([3], [0, 1], range(self.config.bundles)))
        place = {"bundle": 0, "bank": 0, "row": 0}
        requests = []
        for tag in range(count):
            if rng.randrange(3):
                place = {"bundle": rng.choice(bundles), "bank": rng.randrange(BUNDLE_BANKS), "row": rng.choice((0, 1, config.rows - 1))}
            requests.append(place | {"column": rng.randrange(config.columns), "tag": tag})
        return requests

    def begin(self, stimulus: Items) -> None:
        self._open = {item["tag"]: item for item in stimulus.get("i_normal", ())}

    def react(self, stream: str, payload: Any) -> Items:
        if stream == "o_normal":
            request = self._open.pop(payload["tag"], None)
            if request is None:
                raise BenchFailure(f"tag {payload['tag']} was not asked for, or answered before")
            place = (request[name] for name in ("bundle", "row", "column", "bank"))
            if payload["data"] != self._granule(granule_address(self.config, *place)):
                raise BenchFailure(f"wrong data for {request}")
        return {}

    def _anything(self, stimulus: Items) -> list[dict[str, None]]:
        return [{"data": None, "tag": None} for _ in stimulus.get("i_normal", ())]

    @cached_property
    def _first_word(self) -> int:
        """Cycles from the stretch, when idle, to its first word: the activate, tRCD, the read's data."""
        timing = self.config.timing
        opening = timing.rcd + (timing.faw + 3 * timing.rrd if self.config.activate_limits else 0)
        return 3 + opening // 2 + data_cycles(self.config)


class BundleControllerBench(MemoryBench):
    def constants(self) -> Mapping[str, int]:
        return {"slots": 3}

    def stimulus(self, rng: random.Random, case: str) -> Items:
        """Stretches of rows, some of them twice, some in turns, some anywhere."""
        config, items = self.config, []
        stretch = {"bundle": 0, "row": 0}
        for _ in range(rng.randrange(20, 60)):
            kind = rng.randrange(4)
            if kind == 1:
                stretch = {"bundle": stretch["bundle"] ^ 1, "row": stretch["row"]}
            elif kind == 2:
                stretch = {"bundle": stretch["bundle"], "row": (stretch["row"] + 1) % config.rows}
            elif kind == 3:
                stretch = {"bundle": rng.randrange(config.bundles), "row": rng.choice((0, 1, config.rows - 1))}
            column = rng.choice((0, 0, rng.randrange(config.columns)))
            items.append(stretch | {"column": column, "last": rng.choice((config.columns - 1, rng.randrange(column, config.columns)))})
        return {"i": items, "i_normal": self._requests(rng, rng.choice((0, 100, 250)))}

    def boundary(self) -> Items:
        last = {"bundle": self.config.bundles - 1, "row": self.config.rows - 1, "column": self.config.columns - 1}
        stretches = [last | {"last": last["column"]}, {"bundle": 0, "row": 0, "column": 0, "last": 0}] * 3
        return {"i": stretches, "i_normal": [last | {"bank": BUNDLE_BANKS - 1, "tag": 255}, last | {"bank": 0, "tag": 254}]}

    def latency_stimulus(self) -> Items:
        return {"i": [{"bundle": 1, "row": 3, "column": 0, "last": self.config.columns - 1}], "i_normal": []}

    def measure(self, trace: Trace) -> dict[str, int]:
        return {"latency": trace.latency("i", "o")}

    def figures(self, attributes: Mapping[str, Any]) -> Mapping[str, int]:
        return {"latency": self._first_word}

    def expected(self, stimulus: Items) -> Items:
        words = [self._word(each["bundle"], each["row"], column, k) for each in stimulus["i"]
                 for column in range(each["column"], each["last"] + 1) for k in range(self.config.timing.ccd // 2)]
        return {"o": words, "o_normal": self._anything(stimulus)}


class WeightStreamerBench(MemoryBench):
    def _run(self, rng: random.Random, words: int, tiles: int) -> dict[str, int]:
        config = self.config
        return {"bundle": rng.randrange(config.bundles), "row": rng.choice((0, 5, config.rows - 1)),
                "column": rng.choice((0, rng.randrange(config.columns))), "words": words, "tiles": tiles}

    def stimulus(self, rng: random.Random, case: str) -> Items:
        row = self.config.row_words
        runs = [self._run(rng, rng.choice((rng.randrange(1, 8), row, rng.randrange(1, 6 * row))), rng.choice((1, 1, 2, 3)))
                for _ in range(8)]
        runs.insert(2, self._run(rng, 0, 1))
        runs.insert(4, self._run(rng, 3, 0))
        return {"i": runs, "i_normal": self._requests(rng, rng.choice((0, 100)))}

    def boundary(self) -> Items:
        config = self.config
        corner = {"bundle": config.bundles - 1, "row": config.rows - 1, "column": config.columns - 1}
        return {"i": [corner | {"words": 1, "tiles": config.tiles}, corner | {"words": 3 * config.row_words, "tiles": 1},
                      corner | {"column": 0, "words": config.row_words, "tiles": config.tiles}], "i_normal": []}

    def latency_stimulus(self) -> Items:
        return {"i": [{"bundle": 0, "row": 0, "column": 0, "words": self.config.row_words, "tiles": 2}], "i_normal": []}

    def measure(self, trace: Trace) -> dict[str, int]:
        return {"latency": trace.latency("i", "o")}

    def figures(self, attributes: Mapping[str, Any]) -> Mapping[str, int]:
        """Three states for the stretch; memory, a register, block memory and a buffer for the word."""
        return {"latency": 3 + self._first_word + 3}

    def expected(self, stimulus: Items) -> Items:
        words = [{"word": self._word(*place), "tile": tile, "end": end} for run in stimulus["i"]
                 for place, tile, end in given_words(self.config, run)]
        return {"o": words, "o_normal": self._anything(stimulus)}
