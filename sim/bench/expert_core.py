"""Benches of the expert unit, with and without its memory: layers of random experts."""

import random
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from ...accelerators.experts.errors import ExpertError
from ..golden.expert_attention import no_attention
from ..golden.experts import Route, expert_tokens, interleaved, memory_image, outputs, packed, place, results_of
from ..random_layer import random_layer, stored
from ..timing.experts import ExpertShape, latencies, layer_cycles
from .expert_gemm import ExpertBench
from .expert_memory import MemoryBench
from .trace import Trace
from .unit import Items

__all__ = ["ExpertCoreBench", "ExpertUnitBench"]


class ExpertCoreBench(ExpertBench):
    """One layer a run: the input buffer is filled, then come experts and their tokens, then outputs are read.

    Some tokens have no expert. In some runs an expert that is refused comes before the layer. Memory is ``react``: it answers runs.
    """

    patience = 4000

    def stimulus(self, rng: random.Random, case: str) -> Items:
        tokens = rng.randrange(1, 2 * self.config.token_lanes + 4)
        return self._layer(rng, tokens, rng.randrange(1, 4), rng.randrange(1, 4), refused=rng.randrange(3))

    def boundary(self) -> Items:
        """All tokens, one word per row; activations and weights with infinities, zeros, subnormals."""
        return self._layer(random.Random(3), self.config.max_tokens, 1, 1, extreme=True)

    def latency_stimulus(self) -> Items:
        """An expert with a full tile, of the largest dimensions."""
        words = self.config.max_hidden // self.config.lanes, self.config.max_intermediate // self.config.lanes
        return self._layer(random.Random(2), self.config.token_lanes, *words, experts=1)

    def _layer(self, rng: random.Random, tokens: int, hidden_words: int, slice_words: int, *, experts: int = 3, refused: int = 0,
               extreme: bool = False) -> Items:
        config = self.config
        generator = np.random.default_rng(rng.getrandbits(32))
        weights = stored(generator.random((tokens, experts)), results_of(config))
        # Of several experts, some tokens have none, but not all.
        routes = [[(e, int(weights[token, e])) for e in sorted(rng.sample(range(experts), rng.randrange(least, experts + 1)))]
                  for token in range(tokens) for least in [token == 0 or experts == 1]]
        layer = random_layer(config, generator, hidden=hidden_words * config.lanes, intermediate=slice_words * config.lanes,
                             experts=experts, routes=routes)
        if extreme:
            for matrix in (layer.x, layer.experts[0].gate, layer.experts[-1].down):
                matrix[generator.random(matrix.shape) < 0.02] = 0 if config.element == "int8" else config.format.infinity
                matrix[generator.random(matrix.shape) < 0.1] = 1
        self.layer, self.refused, self.dimensions = layer, refused, (hidden_words, slice_words)
        self.used = [number for number, count in enumerate(layer.counts) if count]
        self._place([(packed(config, interleaved(expert)), packed(config, expert.down)) for expert in layer.experts])
        words = packed(config, layer.x).reshape(tokens, hidden_words, -1)
        return {"i_x": [{"token": token, "word": k, "value": int.from_bytes(words[token, k].tobytes(), "little")}
                        for token in range(tokens) for k in range(hidden_words)]}

    def begin(self, stimulus: Items) -> None:
        self.left, self.responses = len(stimulus["i_x"]), 0

    def _place(self, matrices: list[tuple[np.ndarray, np.ndarray]]) -> None:
        self.places = place(self.config, [[len(each) for each in own] for own in matrices])
        self.packed = matrices
        self.matrices = {(at.bundle, at.row): words for own, ats in zip(matrices, self.places, strict=True)
                         for at, words in zip(ats, own, strict=True)}

    def instruction(self, number: int, **changes: int) -> dict[str, Any]:
        scales = {} if self.config.format.exponent_bits else {
            "scales": [{"mantissa": mantissa, "exponent": exponent} for mantissa, exponent in self.layer.experts[number].scales]}
        return {**self.placed(number), "slice_words": self.dimensions[1], **scales, **no_attention(self.config), **changes}

    def placed(self, number: int) -> dict[str, Any]:
        gate_up, down = ({"bundle": at.bundle, "row": at.row, "column": 0} for at in self.places[number])
        return {"gate_up": gate_up, "down": down, "hidden_words": self.dimensions[0], "first": int(number == self.used[0])}

    def tokens(self, number: int) -> list[dict[str, int]]:
        return token_items(expert_tokens(self.layer.routes, number))

    def accepted(self, stream: str, payload: Any) -> Items:
        if stream != "i_x":
            return {}
        self.left -= 1
        if self.left:
            return {}
        items = self._items()
        return {"i": [item for item, _, _ in items], "i_tokens": [token for _, tokens, _ in items for token in tokens]}

    def _items(self) -> list[tuple[dict[str, Any], list[dict[str, int]], ExpertError]]:
        """All that comes: items, their tokens, what becomes of them."""
        return [*self._refusals(), *((self.instruction(number), self.tokens(number), ExpertError.NONE) for number in self.used)]

    def _refusals(self) -> list[tuple[dict[str, Any], list[dict[str, int]], ExpertError]]:
        """What is refused before the layer begins."""
        first = self.used[0]
        if self.refused == 1:
            return [(self.instruction(first, slice_words=0), self.tokens(first), ExpertError.DIMENSIONS)]
        return [(self.instruction(first), token_items([(3, 0), (3, 0), (1, 0)]), ExpertError.ORDER)] if self.refused == 2 else []

    def react(self, stream: str, payload: Any) -> Items:
        if stream == "o_run":
            return {"i_words": run_words(self.config, payload, self.matrices[payload["bundle"], payload["row"]])}
        if stream == "o":
            self.responses += 1
            if self.responses == len(self._items()):
                tokens, hidden = self.layer.x.shape
                return {"i_read": [{"token": token, "element": k} for token in range(tokens) for k in range(hidden)]}
        return {}

    def expected(self, stimulus: Items) -> Items:
        runs = []
        for number in self.used:
            tiles = -(-len(self.tokens(number)) // self.config.token_lanes)
            runs += [{"bundle": at.bundle, "row": at.row, "column": 0, "words": at.words, "tiles": tiles} for at in self.places[number]]
        return {"o_run": runs, "o": [int(cause) for _, _, cause in self._items()],
                "o_read": self._outputs().reshape(-1).tolist()}

    def _outputs(self) -> np.ndarray:
        return outputs(self.config, self.layer.x, self.layer.routes, dict(enumerate(self.layer.experts)))

    def measure(self, trace: Trace) -> dict[str, int]:
        words, last = trace.accepted["i_words"], self.places[0][0].words - 1
        gaps = [later - earlier for earlier, later in pairwise(words)]
        finish = {"finish": trace.raised["o"] - words[-1]}
        return {"latency": gaps.pop(last), "interval": max(gaps), **finish} if self._long_rows() else finish

    def figures(self, attributes: Mapping[str, Any]) -> Mapping[str, int]:
        promised = super().figures(attributes) if self._long_rows() else {}
        return {**promised, "finish": latencies(self.config)[1]}

    def _long_rows(self) -> bool:
        """Else words wait for the results of those before them."""
        return self.config.max_hidden // self.config.lanes >= self.config.token_lanes


class ExpertUnitBench(ExpertCoreBench, MemoryBench):
    """The same on bundles with a timing checker; the xPU reads single banks meanwhile."""

    def stimulus(self, rng: random.Random, case: str) -> Items:
        return super().stimulus(rng, case) | {"i_normal": self._requests(rng, rng.choice((0, 60)))}

    def begin(self, stimulus: Items) -> None:
        MemoryBench.begin(self, stimulus)
        super().begin(stimulus)
        self.image = memory_image(self.config, [(at, words) for ats, own in zip(self.places, self.packed, strict=True)
                                                for at, words in zip(ats, own, strict=True)])

    def react(self, stream: str, payload: Any) -> Items:
        return MemoryBench.react(self, stream, payload) if stream == "o_normal" else super().react(stream, payload)

    def expected(self, stimulus: Items) -> Items:
        items = super().expected(stimulus)
        del items["o_run"]
        return items | {"o_normal": self._anything(stimulus)}

    def measure(self, trace: Trace) -> dict[str, int]:
        """Cycles of the expert from the instruction to the response, and whether the cycle model says the same."""
        start = trace.accepted["i_x"][-1] + 1
        cycles = trace.raised["o"] - start
        (model,) = layer_cycles(self.config, self.layer.counts, ExpertShape(*self.dimensions), start)
        return {"cycles": cycles, "within 2 % of the cycle model": int(abs(cycles - model) <= 0.02 * cycles)}

    def figures(self, attributes: Mapping[str, Any]) -> Mapping[str, int]:
        return {"within 2 % of the cycle model": 1}


def token_items(tokens: list[Route]) -> list[dict[str, int]]:
    return [{"token": token, "weight": weight, "last": int(k == len(tokens) - 1)} for k, (token, weight) in enumerate(tokens)]


def run_words(config: Any, run: dict[str, int], matrix: np.ndarray) -> list[dict[str, int]]:
    """What the weight streamer gives for a run from column 0 on."""
    items, words = [], [int.from_bytes(each.tobytes(), "little") for each in matrix]
    for start in range(0, len(words), config.row_words):
        stretch = words[start:start + config.row_words]
        items += [{"word": word, "tile": tile, "end": int(k == len(stretch) - 1)}
                  for tile in range(run["tiles"]) for k, word in enumerate(stretch)]
    return items
