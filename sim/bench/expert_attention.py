"""Benches of the expert unit with decode attention: attentions among the experts of a layer."""

import random
from collections.abc import Mapping
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from ..golden.expert_attention import attend
from ..golden.experts import add_expert, expert_tokens, packed
from ..random_attention import RandomAttention, random_attention
from ..timing.experts import AttentionShape, ExpertShape, latencies, softmax_latency, unit_cycles
from .expert_core import ExpertCoreBench, ExpertUnitBench, token_items
from .trace import Trace
from .unit import Items

__all__ = ["AttentionCoreBench", "AttentionUnitBench"]

TOO_LONG, TOO_MANY = 3, 4
"""Refusals beside those of experts."""


class AttentionCoreBench(ExpertCoreBench):
    """A layer of experts with an attention before, between and behind them; its query heads are tokens of the layer.

    Numbers from ``experts`` on are attentions.
    """

    def stimulus(self, rng: random.Random, case: str) -> Items:
        config = self.config
        hidden_words = rng.randrange(1, 4)
        several_rows = 3 * config.row_words // hidden_words
        choices = [1, config.lanes - 1, config.lanes, config.lanes + 1, min(several_rows, config.max_intermediate)]
        return self._mixed(rng, hidden_words, [(rng.choice((1, config.token_lanes // 2, config.token_lanes)), rng.choice(choices))
                                               for _ in range(rng.randrange(2, 4))], refused=rng.randrange(5))

    def boundary(self) -> Items:
        """The longest context after the shortest, with infinities in K and V."""
        return self._mixed(random.Random(3), 1, [(self.config.token_lanes, 1), (self.config.token_lanes, self.config.max_intermediate)],
                           experts=1, extreme=True)

    def latency_stimulus(self) -> Items:
        """An expert and an attention, both with a full tile and of the largest dimensions."""
        words = self.config.max_hidden // self.config.lanes, self.config.max_intermediate // self.config.lanes
        return self._mixed(random.Random(2), words[0], [(self.config.token_lanes, self.config.max_intermediate)], experts=1,
                           slice_words=words[1])

    def _mixed(self, rng: random.Random, hidden_words: int, attentions: list[tuple[int, int]], *, experts: int = 2,
               slice_words: int = 1, refused: int = 0, extreme: bool = False) -> Items:
        """``attentions``: group and positions of each."""
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

    def _refusals(self) -> list[tuple[dict[str, Any], list[dict[str, int]]]]:
        number, config = min(self.attentions), self.config
        if self.refused == TOO_LONG:
            changes = {"slice_words": 1, "positions": config.lanes + 1}
            return [(self.instruction(number, **changes), self.tokens(number))]
        if self.refused == TOO_MANY:
            return [(self.instruction(number), token_items([(token, 0) for token in range(config.token_lanes + 1)]))]
        return super()._refusals()

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
