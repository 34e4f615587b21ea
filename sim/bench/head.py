"""Bench of the LM head."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...accelerators.integers import ceil_div
from ..golden.head import QuantizedHead, head_bytes, matvec, pack_rows, unpack_head
from .trace import Trace
from .unit import Items, UnitBench

__all__ = ["HeadMatvecBench"]


class HeadMatvecBench(UnitBench):
    """A few matrices, one after another, whose packed image arrives beat by beat."""

    def _items(self, heads: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Items:
        """Items for matrices given as (weights, row scales, activations)."""
        lanes = self.config.vector_lanes
        items: Items = {"i_command": [], "i_activations": [], "i_weights": []}
        for weights, row_scales, q in heads:
            words = list(q.reshape(-1, lanes))
            items["i_command"].append({"rows": len(weights), "words": len(words)})
            items["i_activations"] += [{"q": word, "last": word is words[-1]} for word in words]
            image = pack_rows(QuantizedHead(weights, row_scales, self.config.head_shift), self.config)
            beats = image.reshape(-1, self.config.bus_bytes)
            items["i_weights"] += [int.from_bytes(beat.tobytes(), "little") for beat in beats]
        return items

    def _random(self, generator: np.random.Generator, rows: int, words: int, low: int, high: int
                ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        bound = 1 << (self.config.head_bits - 1)
        size = words * self.config.vector_lanes
        return (generator.integers(-bound, bound, (rows, size)),
                generator.integers(0, 1 << 16, rows, dtype=np.uint16),
                generator.integers(low, high, size))

    def _bound(self) -> int:
        return 1 << (self.config.head_activation_bits - 1)

    def stimulus(self, rng: random.Random, case: str) -> Items:
        generator = np.random.default_rng(rng.getrandbits(32))
        shapes = [(rng.randint(1, 40), rng.randint(1, 9)) for _ in range(4)]
        bound = self._bound()
        return self._items([self._random(generator, *shape, -bound, bound) for shape in shapes])

    def boundary(self) -> Items:
        """Longest vector, extreme operands, single row and word, exactly one block, one row more."""
        config, bound = self.config, self._bound()
        words = config.max_vector // config.vector_lanes
        size = words * config.vector_lanes
        low = 1 << (config.head_bits - 1)
        weights = np.array([[-low] * size, [low - 1] * size, [0] * size])
        scales = np.array([0xFFFF, 0xFFFF, 0xFFFF], dtype=np.uint16)
        heads = [(weights, scales, np.full(size, value)) for value in (-bound, bound - 1)]
        generator = np.random.default_rng(0)
        block = config.bus_bits // 16
        for rows in (1, block, block + 1):
            heads.append(self._random(generator, rows, 1, -bound, bound))
        return self._items(heads)

    def expected(self, stimulus: Items) -> Items:
        config = self.config
        activations, beats = iter(stimulus["i_activations"]), iter(stimulus["i_weights"])
        out = []
        for command in stimulus["i_command"]:
            rows, size = command["rows"], command["words"] * config.vector_lanes
            q = np.concatenate([next(activations)["q"] for _ in range(command["words"])])
            count = ceil_div(head_bytes(rows, size, config), config.bus_bytes)
            image = b"".join(next(beats).to_bytes(config.bus_bytes, "little") for _ in range(count))
            head = unpack_head(np.frombuffer(image, dtype=np.uint8), rows, size, config)
            out += [{"index": index, "value": value, "last": index == rows - 1}
                    for index, value in enumerate(matvec(head, q))]
        return {"o": out}

    def latency_stimulus(self) -> Items:
        """One-beat rows: the most logits per beat."""
        generator = np.random.default_rng(0)
        return self._items([self._random(generator, 40, 1, -8, 8)])

    def measure(self, trace: Trace) -> dict[str, int]:
        """From the last beat of the first row (after the scales); gaps between beats."""
        return {"latency": trace.latency("i_weights", "o", 1), "interval": trace.interval("i_weights")}

    def figures(self, attributes: Mapping[str, Any]) -> Mapping[str, int]:
        return {"latency": attributes["latency"], "interval": attributes["interval"]}
