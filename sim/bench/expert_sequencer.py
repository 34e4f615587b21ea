"""Bench of the expert unit's sequencer."""

import random
from collections.abc import Mapping
from typing import Any

from ...accelerators.experts.errors import ExpertError
from ...accelerators.experts.instructions import Kind
from ..golden.sequencer import Batch, ExpertSequencer
from .expert_core import token_items
from .expert_decoder import operation_fields
from .expert_gemm import ExpertBench
from .trace import Trace
from .unit import Items

__all__ = ["ExpertSequencerBench"]


class ExpertSequencerBench(ExpertBench):
    """Layers, most of whose experts are described, and attentions; some descriptors refused; a unit that says anything of an item."""

    def _operation(self, rng: random.Random, kind: int, **values: Any) -> dict[str, Any]:
        """What a kind has no use for is anything."""
        config = self.config

        def place() -> dict[str, int]:
            return {"bundle": rng.randrange(config.bundles), "row": rng.randrange(config.rows), "column": rng.randrange(config.columns)}
        group = rng.randrange(1, config.token_lanes + 1)
        made = {"kind": int(kind), "cause": 0, "tag": rng.getrandbits(16), "expert": rng.randrange(config.experts),
                "begin": rng.randrange(2), "gate_up": place(), "down": place(), "hidden_words": rng.choice((3, 3, 3, 3, 3, 2)),
                "slice_words": rng.randrange(1, 16),
                "scales": [{"mantissa": rng.getrandbits(16), "exponent": rng.randrange(-128, 128)} for _ in range(3)],
                "positions": rng.randrange(config.max_intermediate + 1), "softmax_scale": rng.getrandbits(26),
                "query": rng.randrange(config.max_tokens - group + 1), "group": group, **values}
        return {name: made[name] for name in operation_fields(config)}

    def _batch(self, rng: random.Random, most: int) -> Batch:
        config = self.config
        if rng.randrange(6) == 0:
            return Batch({}, True)
        experts = sorted(rng.sample(range(config.experts), rng.randrange(min(most, config.experts) + 1)))
        return Batch({expert: [(token, rng.getrandbits(16)) for token in sorted(
            rng.sample(range(config.max_tokens), rng.randrange(1, config.token_lanes + 2)))] for expert in experts})

    def _items(self, operations: list[dict[str, Any]], batches: list[Batch]) -> Items:
        self.batches = batches
        lists = [token | {"expert": expert} for batch in batches for expert, tokens in batch.lists.items()
                 for token in token_items(list(tokens))]
        return {"i": operations, "i_list": lists,
                "i_decision": [{"pim": sum(1 << expert for expert in batch.lists), "error": int(batch.error)} for batch in batches]}

    def stimulus(self, rng: random.Random, case: str) -> Items:
        operations, batches = [], [self._batch(rng, 6) for _ in range(4)]
        self.seed = rng.getrandbits(32)
        for batch in batches:
            experts = [self._operation(rng, Kind.EXPERT, expert=expert) for expert in batch.lists if rng.randrange(8)]
            experts += [self._operation(rng, Kind.EXPERT) for _ in range(2)]  # some again, otherwise
            others = [self._operation(rng, rng.randrange(4), cause=rng.randrange(1, 16)) for _ in range(2)]
            if self.config.attention:
                others += [self._operation(rng, Kind.ATTENTION) for _ in range(rng.randrange(3))]
            operations += rng.sample(experts + others, len(experts + others))
            operations.append(self._operation(rng, Kind.LAYER))
        return self._items(operations, batches)

    def boundary(self) -> Items:
        """A list for each expert, none of which is described, then all; no list."""
        rng, self.seed = random.Random(1), 1
        every = Batch({expert: [(self.config.max_tokens - 1, 0xFFFF)] for expert in range(self.config.experts)})
        layer = self._operation(rng, Kind.LAYER)
        experts = [self._operation(rng, Kind.EXPERT, expert=expert, hidden_words=3) for expert in every.lists]
        return self._items([layer, *experts, layer | {"begin": 0}, layer | {"begin": 1}], [every, every, Batch({})])

    def latency_stimulus(self) -> Items:
        rng, self.seed = random.Random(1), 1
        return self._items([self._operation(rng, Kind.EXPERT, expert=5), self._operation(rng, Kind.LAYER)], [Batch({5: [(0, 1)]})])

    def measure(self, trace: Trace) -> dict[str, int]:
        """From the cycle after the EXPERT's, in which the LAYER is there."""
        return {"latency": trace.latency("i", "o_item") - 1}

    def figures(self, attributes: Mapping[str, Any]) -> Mapping[str, int]:
        return {"latency": attributes["latency"]}

    def begin(self, stimulus: Items) -> None:
        self.causes = random.Random(self.seed)

    def _cause(self, causes: random.Random) -> int:
        return int(causes.choice((ExpertError.NONE, ExpertError.NONE, ExpertError.DIMENSIONS, ExpertError.ORDER)))

    def react(self, stream: str, payload: Any) -> Items:
        return {"i_done": [self._cause(self.causes)]} if stream == "o_item" else {}

    def expected(self, stimulus: Items) -> Items:
        causes, golden, batches = random.Random(self.seed), ExpertSequencer(self.config), iter(self.batches)
        results: Items = {"o": [], "o_item": [], "o_tokens": []}
        for operation in stimulus["i"]:
            for step in golden.take(operation, batches):
                results["o"].append(step.answer)
                if step.item is not None:
                    results["o"][-1] = step.answer | {"cause": self._cause(causes)}
                    anything = {} if step.item.get("attention", 1) else {"positions": None, "softmax_scale": None}
                    results["o_item"].append(step.item | anything)
                    results["o_tokens"] += token_items(list(step.tokens))
        self.cleared = golden.cleared
        return results

    def levels(self, stimulus: Items) -> Mapping[str, int]:
        return {"cleared": int(self.cleared)}
