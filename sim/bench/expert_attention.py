"""Benches of the expert unit with decode attention: attentions among the experts of a layer."""

import random
from collections.abc import Mapping
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from ...accelerators.experts.errors import ExpertError
from ..golden.expert_attention import attend
from ..golden.experts import add_expert, expert_tokens, packed
from ..random_attention import RandomAttention, random_attention
from ..timing.experts import AttentionShape, ExpertShape, latencies, softmax_latency, unit_cycles
from .agents import BenchFailure
from .expert_core import ExpertCoreBench, ExpertUnitBench, token_items
from .trace import Trace
from .unit import Items

__all__ = ["AttentionCoreBench", "AttentionStreamBench", "AttentionUnitBench"]

TOO_LONG, TOO_MANY = 3, 4
"""Refusals beside those of experts."""

Matrix = tuple[int, int]
"""Of an expert or an attention: the first or the second."""


class AttentionCoreBench(ExpertCoreBench):
    """A layer of experts with attentions before, between and behind them; their query heads are tokens of the layer. In some runs
    something is refused in the middle.

    Numbers from ``experts`` on are attentions. Whether the MIX of one comes before the SCORES of the next is a matter of time.
    """

    def stimulus(self, rng: random.Random, case: str) -> Items:
        config = self.config
        hidden_words = rng.randrange(1, 4)
        several_rows = 3 * config.row_words // hidden_words
        choices = [1, config.lanes - 1, config.lanes, config.lanes + 1, min(several_rows, config.max_intermediate)]
        return self._mixed(rng, hidden_words, [(rng.choice((1, config.token_lanes // 2, config.token_lanes)), rng.choice(choices))
                                               for _ in range(rng.randrange(2, 5))], refused=rng.randrange(5), between=rng.randrange(4))

    def boundary(self) -> Items:
        """The longest context between two of the shortest, with infinities in K and V, and behind the first a list that is refused."""
        lanes, most = self.config.token_lanes, self.config.max_intermediate
        return self._mixed(random.Random(3), 1, [(lanes, 1), (lanes, most), (lanes, 1)], experts=1, between=2, extreme=True)

    def latency_stimulus(self) -> Items:
        """An expert and an attention, both with a full tile and of the largest dimensions."""
        words = self.config.max_hidden // self.config.lanes, self.config.max_intermediate // self.config.lanes
        return self._mixed(random.Random(2), words[0], [(self.config.token_lanes, self.config.max_intermediate)], experts=1,
                           slice_words=words[1])

    def _mixed(self, rng: random.Random, hidden_words: int, attentions: list[tuple[int, int]], *, experts: int = 2,
               slice_words: int = 1, refused: int = 0, between: int = 0, extreme: bool = False) -> Items:
        """``attentions``: group and positions of each. ``between``: what is refused in the middle."""
        config, (most, _) = self.config, max(attentions)
        tokens = max(most, rng.randrange(1, 2 * config.token_lanes) if experts > 1 else config.token_lanes)
        items = self._layer(rng, tokens, hidden_words, slice_words, experts=experts, refused=refused, extreme=extreme)
        generator = np.random.default_rng(rng.getrandbits(32))
        self.attentions: dict[int, tuple[list[int], RandomAttention]] = {}
        for number, (group, positions) in enumerate(attentions, experts):
            heads = sorted(rng.sample(range(tokens), group))
            capacity = min(positions + rng.choice((0, 2 * config.lanes)), config.max_intermediate)
            made = random_attention(config, generator, self.layer.x[heads], self.layer.x_scale, positions, capacity=capacity)
            if extreme and positions > 1:
                made.attention.k[generator.random(made.attention.k.shape) < 0.1] = 1
                made.attention.v[3, positions // 2] = 0 if config.element == "int8" else config.format.infinity
            self.attentions[number] = heads, made
            self.used.insert(rng.randrange(len(self.used) + 1) if experts > 1 else len(self.used), number)
        if rng.randrange(2) and experts > 1:  # one behind the other
            self.used.sort(key=lambda number: number in self.attentions)
        self.between, self.behind = between, rng.randrange(len(self.used)) if experts > 1 else 1
        self._place([*self.packed, *((packed(config, made.attention.k), packed(config, made.attention.v))
                                     for _, made in self.attentions.values())])
        return items

    def instruction(self, number: int, **changes: Any) -> dict[str, Any]:
        if number not in self.attentions:
            return super().instruction(number, **changes)
        attention = self.attentions[number][1].attention
        first, last = attention.scales
        scales = {} if self.config.format.exponent_bits else {
            "scales": [{"mantissa": mantissa, "exponent": exponent} for mantissa, exponent in (first, (1, 0), last)]}
        return self.placed(number) | {
            "slice_words": attention.v.shape[1] // self.config.lanes, "attention": 1, "positions": attention.positions,
            "softmax_scale": attention.softmax_scale, **scales, **changes}

    def tokens(self, number: int) -> list[dict[str, int]]:
        if number not in self.attentions:
            return super().tokens(number)
        return token_items([(head, 12345) for head in self.attentions[number][0]])

    def _refusals(self) -> list[tuple[dict[str, Any], list[dict[str, int]], ExpertError]]:
        number, config = min(self.attentions), self.config
        if self.refused == TOO_LONG:
            return [(self._too_long(number), self.tokens(number), ExpertError.DIMENSIONS)]
        if self.refused == TOO_MANY:
            return [(self.instruction(number), token_items([(token, 0) for token in range(config.token_lanes + 1)]),
                     ExpertError.DIMENSIONS)]
        return super()._refusals()

    def _too_long(self, number: int, **changes: int) -> dict[str, Any]:
        return self.instruction(number, slice_words=1, positions=self.config.lanes + 1, **changes)

    def _items(self) -> list[tuple[dict[str, Any], list[dict[str, int]], ExpertError]]:
        """What is refused in the middle leaves the layer as it is, whether its tokens come for the first time or not."""
        items, at, number = super()._items(), len(self._refusals()) + self.behind + 1, min(self.attentions)
        tokens = len(self.layer.x)
        if self.between:
            items.insert(at, [
                (self._too_long(number, first=0), self.tokens(number), ExpertError.DIMENSIONS),
                (self.instruction(number, first=0), token_items([(tokens - 1, 0)] * 2), ExpertError.ORDER),
                (self.instruction(number, first=0), token_items([(token, 0) for token in range(self.config.token_lanes + 1)]),
                 ExpertError.DIMENSIONS)][self.between - 1])
        return items

    def begin(self, stimulus: Items) -> None:
        super().begin(stimulus)
        self.ahead, self.kept = list(self.used), list[int]()

    def react(self, stream: str, payload: Any) -> Items:
        if stream == "o_run":
            matrix = self._matrix(payload)
            if matrix not in self._next():
                raise BenchFailure(f"run of matrix {matrix}; those that may come are {self._next()}")
            if matrix[1]:
                self.kept.remove(matrix[0])
            else:
                self.kept.append(self.ahead.pop(0))
        return super().react(stream, payload)

    def _matrix(self, run: Mapping[str, int]) -> Matrix:
        """Whose run it is."""
        for number in self.used:
            for which, at in enumerate(self.places[number]):
                tiles = -(-len(self.tokens(number)) // self.config.token_lanes)
                if run == {"bundle": at.bundle, "row": at.row, "column": 0, "words": at.words, "tiles": tiles}:
                    return number, which
        raise BenchFailure(f"there is no matrix for the run {dict(run)}")

    def _next(self) -> list[Matrix]:
        """Matrices that may be asked for: the MIX of an attention may let the SCORES of the next one go first."""
        first = [(number, 0) for number in self.ahead[:1]]
        if not self.kept:
            return first
        overtakes = len(self.kept) == 1 and self.kept[0] in self.attentions and self.ahead and self.ahead[0] in self.attentions
        return [(self.kept[0], 1), *(first if overtakes else [])]

    def expected(self, stimulus: Items) -> Items:
        items = super().expected(stimulus)
        return items | {name: [dict.fromkeys(run) for run in items[name]] for name in items if name == "o_run"}

    def _outputs(self) -> np.ndarray:
        config, layer, out = self.config, self.layer, np.zeros(self.layer.x.shape, np.int64)
        for number in self.used:
            if number in self.attentions:
                heads, made = self.attentions[number]
                out[heads] = attend(config, out[heads], made.q, made.attention)
            else:
                add_expert(config, out, layer.x, expert_tokens(layer.routes, number), layer.experts[number])
        return out

    def measure(self, trace: Trace) -> dict[str, int]:
        """Gaps behind the last word of SCORES and, if rows are long enough for words never to wait, of GATE_UP."""
        words = trace.accepted["i_words"]
        ends = list(accumulate(at.words for number in self.used for at in self.places[number]))
        gaps = [later - earlier for earlier, later in pairwise(words)]
        latency, softmax, (_, made) = gaps[ends[0] - 1], gaps[ends[2] - 1], self.attentions[1]
        figures = {"softmax": softmax - made.attention.positions, "finish": trace.delivered["o"][1] - words[-1]}
        return figures | ({"latency": latency} if self._long_rows() else {})

    def figures(self, attributes: Mapping[str, Any]) -> Mapping[str, int]:
        latency, finish = latencies(self.config)
        figures = {"softmax": softmax_latency(self.config), "finish": finish}
        return figures | ({"latency": latency} if self._long_rows() else {})


class AttentionUnitBench(AttentionCoreBench, ExpertUnitBench):
    """The same on bundles with a timing checker; the xPU reads single banks meanwhile."""

    def stimulus(self, rng: random.Random, case: str) -> Items:
        return super().stimulus(rng, case) | {"i_normal": self._requests(rng, rng.choice((0, 60)))}

    def latency_stimulus(self) -> Items:
        """A small expert, then the longest context with a full tile."""
        config = self.config
        return self._mixed(random.Random(2), config.max_hidden // config.lanes, [(config.token_lanes, config.max_intermediate)],
                           experts=1, slice_words=min(config.token_lanes, config.max_intermediate // config.lanes))

    def measure(self, trace: Trace) -> dict[str, int]:
        """Cycles of the attention, from the response to the expert before it on; in how many of them a word meets its lanes, in
        percent; whether the cycle model says the same."""
        config, start, (_, made) = self.config, trace.accepted["i_x"][-1] + 1, self.attentions[1]
        (hidden, own), attention, heads = self.dimensions, made.attention, len(self.attentions[1][0])
        shape = AttentionShape(hidden, attention.v.shape[1] // config.lanes, attention.positions)
        model = unit_cycles(config, [(self.places[0], len(self.tokens(0)), ExpertShape(hidden, own)),
                                     (self.places[1], heads, shape)], start)
        first, last = trace.delivered["o"]
        return {"cycles": last - first, "percent with a word": 100 * sum(shape.sizes(config)) // (last - first),
                "within 2 % of the cycle model": int(abs(last - start - model[1]) <= 0.02 * (last - start))}

    def figures(self, attributes: Mapping[str, Any]) -> Mapping[str, int]:
        return {"within 2 % of the cycle model": 1}


class AttentionStreamBench(AttentionUnitBench):
    """Many K/V heads one behind the other: how much of the time memory gives words of K and V. A unit of other sizes:
    ``max_hidden`` is the head dimension, ``max_intermediate`` the context."""

    WORDS = 4096
    """Of the sequence, at least; but four heads."""

    def latency_stimulus(self) -> Items:
        config, words = self.config, self.config.max_hidden // self.config.lanes
        heads = max(4, self.WORDS // (2 * words * config.max_intermediate))
        items = self._mixed(random.Random(4), words, [(config.token_lanes, config.max_intermediate)] * heads, experts=1)
        self.used = sorted(self.attentions)
        return items

    def measure(self, trace: Trace) -> dict[str, int]:
        """From the first response to the last but one, so that what begins and ends the sequence is not in it: words in percent of the
        cycles. The first and the last response: whether the cycle model says the same."""
        config, start, given = self.config, trace.accepted["i_x"][-1] + 1, trace.delivered["o"]
        shape = AttentionShape(self.dimensions[0], config.max_intermediate // config.lanes, config.max_intermediate)
        model = unit_cycles(config, [(self.places[number], config.token_lanes, shape) for number in self.used], start)
        words = (len(given) - 2) * sum(shape.sizes(config))
        return {"percent with a word": 100 * words // (given[-2] - given[0]), "cycles": given[-1] - start, "model": round(model[-1]),
                "within 2 % of the cycle model": int(all(abs(cycle - start - projected) <= 0.02 * (cycle - start)
                                                         for cycle, projected in zip(given, model, strict=True)))}
