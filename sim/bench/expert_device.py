"""Bench of the expert device: layers from router logits to outputs, and attentions."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np

from ...accelerators.experts.instructions import DESCRIPTOR_WORDS, Descriptor, Kind, Start
from ..golden.dispatch import Dispatched, dispatch
from ..golden.expert_device import ExpertDevice
from ..golden.experts import Placement, interleaved, memory_image, packed, place
from ..golden.sequencer import Batch
from ..random_attention import random_attention
from ..random_layer import random_layer
from ..timing.experts import ExpertShape, unit_cycles
from .expert_dispatch import ExpertDispatchBench
from .expert_memory import MemoryBench
from .trace import Trace
from .unit import Items

__all__ = ["ExpertDeviceBench"]

Logits = list[list[int]]
Matrices = tuple[np.ndarray, np.ndarray]


@dataclass
class Phase:
    """A batch: activations are written, then descriptors are sent, when all are answered outputs are read.

    ``work``: descriptors without the places of their matrices, the number of these, and whether the descriptor is to be refused.
    """

    x: np.ndarray
    work: list[tuple[Descriptor, int, bool]]
    read_words: int
    packets: list[list[int]] = field(default_factory=list)
    answers: list[dict[str, int]] = field(default_factory=list)
    out: list[list[int]] = field(default_factory=list)


class ExpertDeviceBench(ExpertDispatchBench, MemoryBench):
    """Batches one behind the other, their logits as early as the unit takes them.

    Some experts are not described, or otherwise than the others, some descriptors are refused; attentions come in between if the unit
    has them. Experts are described before the LAYER before theirs is answered, or after it.
    """

    def stimulus(self, rng: random.Random, case: str) -> Items:
        most = self.config.max_tokens
        size = rng.choice((most + 1, most, rng.randrange(most // 2, most + 1)))
        slopes = rng.choice((0, 300)), rng.choice((20, 150))
        table = [(0, 0), *((400 + slopes[0] * n, 100 + slopes[1] * -(-n // 8)) for n in range(1, size))]
        batches = [self._batch(rng, rng.randrange(1, most // 2), rng.randrange(5), rng.choice((0, 0, 0.2)))
                   for _ in range(rng.randrange(1, 3))]
        if case == "stress":
            batches.append(self._batch(rng, most, 2, 0))
        return self._layers(rng, table, batches, self._requests(rng, rng.choice((0, 60))))

    def boundary(self) -> Items:
        """More tokens than the tables have, all tokens to the same experts, none that is good, one; of the largest dimensions."""
        rng, most = random.Random(4), self.config.max_tokens
        batches = [self._batch(rng, most, 4, 0), self._batch(rng, most - 1, 4, 0), self._batch(rng, 2, 0, 1), self._batch(rng, 1, 4, 0)]
        return self._layers(rng, [(0, 0), *((100 * n, 7) for n in range(1, most))], batches, [], largest=True)

    def latency_stimulus(self) -> Items:
        """A batch without a good token, which is decided while activations are written; one whose experts are all for Logic-PIM."""
        config, rng = self.config, random.Random(5)
        table = [(0, 0), *((1 << 20, 1) for _ in range(config.max_tokens))]
        batches = [[[config.result_format.nan] * config.experts], self._batch(rng, config.token_lanes, 0, 0)]
        empty = Phase(np.zeros((config.max_tokens, config.max_hidden), np.int64), [(Descriptor(Kind.LAYER, begin=True), -1, False)], 1)
        matrices, (_, made) = list[Matrices](), self._dispatched(table, batches)
        words = config.max_hidden // config.lanes, min(config.token_lanes, config.max_intermediate // config.lanes)
        self.shape, self.counts = ExpertShape(*words), [len(tokens) for tokens in made.pim.values()]
        items = self._run(rng, table, batches, [empty, self._phase(rng, made, matrices, words, good=True)], matrices, [], aligned=True)
        return items | {"i_x": 2 * items["i_x"]}  # twice, which takes longer than the decision

    def measure(self, trace: Trace) -> dict[str, int]:
        """Latency of a LAYER without lists. Of one with some, whose first item comes as long after its last word: whether experts
        follow each other as in the unit alone, of which the cycle model tells."""
        latency = trace.raised["o"] - trace.accepted["i"][DESCRIPTOR_WORDS - 1]
        start = trace.accepted["i"][-1] + latency
        cycles = trace.delivered["o"][-2] - start
        model = unit_cycles(self.config, [(own, count, self.shape) for own, count in zip(self.places, self.counts, strict=True)], start)
        return {"latency": latency, "cycles": cycles, "within 2 % of the cycle model": int(abs(cycles - model[-1]) <= 0.02 * cycles)}

    def figures(self, attributes: Mapping[str, Any]) -> Mapping[str, int]:
        return {"latency": attributes["latency"], "within 2 % of the cycle model": 1}

    def _layers(self, rng: random.Random, table: list[tuple[int, int]], batches: list[Logits], requests: list[dict[str, int]], *,
                largest: bool = False) -> Items:
        config, matrices = self.config, list[Matrices]()
        most = config.max_hidden // config.lanes, config.max_intermediate // config.lanes
        phases = []
        for k, made in enumerate(self._dispatched(table, batches)):
            size = most if largest and k == 1 else (rng.randrange(1, 4), rng.randrange(1, 4))
            phases.append(self._phase(rng, made, matrices, size, good=largest))
        for earlier, later in pairwise(phases):
            if rng.randrange(2):
                described = [each for each in later.work if each[0].kind == Kind.EXPERT]
                later.work = [each for each in later.work if each[0].kind != Kind.EXPERT]
                earlier.work += described
        return self._run(rng, table, batches, phases, matrices, requests)

    def _dispatched(self, table: list[tuple[int, int]], batches: list[Logits]) -> list[Dispatched]:
        return [dispatch(self.config, batch, *zip(*table, strict=True), spaces=len(table) % 2 == 0) for batch in batches]

    def _phase(self, rng: random.Random, made: Dispatched, matrices: list[Matrices], size: tuple[int, int], *,
               good: bool) -> Phase:
        """A LAYER for a batch; with ``good`` nothing is refused, experts without a list are not described, and there is no attention.
        What it reads goes into ``matrices``, packed."""
        config, generator, (hidden_words, slice_words) = self.config, np.random.default_rng(rng.getrandbits(32)), size
        tokens = max([token + 1 for tokens in made.pim.values() for token, _ in tokens], default=1)
        layer = random_layer(config, generator, hidden=hidden_words * config.lanes, intermediate=slice_words * config.lanes,
                             experts=config.experts, routes=[[]] * max(tokens, config.token_lanes))
        hidden, work, read_words = hidden_words * config.lanes, [], hidden_words
        numbers = list(made.pim) if good else range(config.experts)
        for number in numbers:
            expert = layer.experts[number]
            other = not good and hidden_words > 1 and rng.randrange(12) == 0
            read_words -= other and read_words == hidden_words
            descriptor = Descriptor(Kind.EXPERT, hidden - other * config.lanes, slice_words * config.lanes, expert=number,
                                    scales=expert.scales)
            refused = [True] * (not good and rng.randrange(6) == 0) + [False] * (good or rng.randrange(8) > 0)
            work += [(descriptor, len(matrices), each) for each in refused]
            matrices.append((packed(config, interleaved(expert)), packed(config, expert.down)))
        rng.shuffle(work)
        work.append((Descriptor(Kind.LAYER), -1, False))
        for _ in range(rng.randrange(3) if config.attention and not good else 0):
            group, positions = rng.randrange(1, config.token_lanes + 1), rng.choice((1, config.lanes + 1, 3 * config.row_words // 2))
            query = rng.randrange(len(layer.x) - group + 1)
            attention = random_attention(config, generator, layer.x[query:query + group], layer.x_scale, positions,
                                         capacity=positions + rng.randrange(config.lanes)).attention
            first, last = attention.scales
            descriptor = Descriptor(Kind.ATTENTION, hidden, attention.v.shape[1], scales=(first, (0, 0), last), positions=positions,
                                    softmax_scale=attention.softmax_scale, query=query, group=group)
            work.insert(rng.randrange(len(work) + 1), (descriptor, len(matrices), False))
            matrices.append((packed(config, attention.k), packed(config, attention.v)))
        begin = next(k for k, (descriptor, _, _) in enumerate(work) if descriptor.kind != Kind.EXPERT)
        work = [(replace(descriptor, begin=k == begin or descriptor.kind == Kind.EXPERT, tag=rng.getrandbits(16)), number, refused)
                for k, (descriptor, number, refused) in enumerate(work)]
        return Phase(layer.x, work, read_words)

    def _refusable(self, rng: random.Random, good: Descriptor) -> list[int]:
        """The words of a descriptor with something wrong."""
        words = replace(good, **rng.choice([
            {"kind": 0}, {"expert": self.config.experts}, {"hidden": 0}, {"first": replace(good.first, offset=1)},
            {"second": replace(good.second, bundle=255)}, {}])).words()
        words[-1] ^= words == good.words()
        return words

    def _run(self, rng: random.Random, table: list[tuple[int, int]], batches: list[Logits], phases: list[Phase],
             matrices: Sequence[Matrices], requests: list[dict[str, int]], *, aligned: bool = False) -> Items:
        """Matrices begin at any read command of a row, or ``aligned`` at the first."""
        config, made = self.config, self._dispatched(table, batches)
        read_words = config.timing.ccd // 2
        skips = [[0 if aligned else read_words * rng.randrange(config.columns) for _ in own] for own in matrices]
        padded = [[np.pad(words, ((skip, 0), (0, 0))) for words, skip in zip(own, each, strict=True)]
                  for own, each in zip(matrices, skips, strict=True)]
        self.places = places = place(config, [[len(words) for words in own] for own in padded]) if padded else []
        placed = [(at, words) for ats, own in zip(places, padded, strict=True) for at, words in zip(ats, own, strict=True)]
        self.image = memory_image(config, placed or [(Placement(0, 0, 1), np.zeros((1, config.word_bytes), np.uint8))])
        golden, decided = ExpertDevice(config, self.image), iter([Batch(each.pim, each.decision.error) for each in made])
        for phase in phases:
            tokens, hidden = phase.x.shape
            golden.x[:tokens, :hidden] = phase.x
            for descriptor, number, refused in phase.work:
                if number >= 0:
                    first, second = (Start(at.bundle, at.row, skip * config.word_bytes)
                                     for at, skip in zip(places[number], skips[number], strict=True))
                    descriptor = replace(descriptor, first=first, second=second)
                phase.packets.append(self._refusable(rng, descriptor) if refused else descriptor.words())
                phase.answers += golden.execute(phase.packets[-1], decided)
            phase.out = golden.out[:tokens, :phase.read_words * config.lanes].tolist()
        self.phases = phases
        given = self._items(table, batches)
        return {"i_table": given["i_table"], "i_logits": given["i"], "i_x": self._x(phases[0]), "i_normal": requests}

    def _x(self, phase: Phase) -> list[dict[str, int]]:
        words = packed(self.config, phase.x).reshape(len(phase.x), -1, self.config.word_bytes)
        return [{"token": token, "word": k, "value": int.from_bytes(word.tobytes(), "little")}
                for token, each in enumerate(words) for k, word in enumerate(each)]

    def begin(self, stimulus: Items) -> None:
        MemoryBench.begin(self, stimulus)
        super().begin(stimulus)
        self.at, self.left = 0, {"i_x": len(stimulus["i_x"])}

    def _through(self, stream: str) -> bool:
        """With the last item of a phase's ``stream``."""
        if stream not in self.left:
            return False
        self.left[stream] -= 1
        return self.left[stream] == 0

    def accepted(self, stream: str, payload: Any) -> Items:
        if not self._through(stream):
            return {}
        phase = self.phases[self.at]
        self.left["o"], self.left["o_read"] = len(phase.answers), len(phase.out) * len(phase.out[0])
        return {"i": [{"word": word, "last": int(k == len(words) - 1)} for words in phase.packets for k, word in enumerate(words)]}

    def react(self, stream: str, payload: Any) -> Items:
        if stream == "o_normal":
            return MemoryBench.react(self, stream, payload)
        if not self._through(stream):
            return {}
        if stream == "o":
            phase = self.phases[self.at]
            return {"i_read": [{"token": token, "element": k} for token, each in enumerate(phase.out) for k in range(len(each))]}
        self.at += 1
        if self.at == len(self.phases):
            return {}
        items = self._x(self.phases[self.at])
        self.left["i_x"] = len(items)
        return {"i_x": items}

    def expected(self, stimulus: Items) -> Items:
        made = ExpertDispatchBench.expected(self, {"i_table": stimulus["i_table"], "i": stimulus["i_logits"]})
        return {"o_token_errors": made["o_errors"], "o_decision": made["o_decision"], "o_xpu": made["o_xpu"],
                "o": [answer for phase in self.phases for answer in phase.answers],
                "o_read": [value for phase in self.phases for each in phase.out for value in each],
                "o_normal": self._anything(stimulus)}
