"""Mixture-of-experts layers of full size on a device with Logic-PIM, by the cycle model of the expert unit.

The device is that of Duplex (arXiv:2409.01141): an xPU and 5 stacks of 32 pseudo channels, each with a unit at 650 MHz. An expert
lies in one stack, each of its 32 units has a slice of the intermediate dimension, in whole words; the experts of a layer go to the
stacks in turn, layer after layer. Stacks work at the same time, each on its experts one after another. The xPU is a roofline over all
stacks. Only experts count: no attention, no dense layers, no reduction.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from ...accelerators.experts.config import EXPERT_PRESETS, ExpertConfig
from .experts import ExpertShape, layer_cycles

__all__ = ["BATCHES", "MODELS", "WAYS", "MoeModel", "throughput"]

CLOCK = 650e6
STACKS, UNITS = 5, 32
XPU_BYTES, XPU_FLOPS = STACKS * 665.6e9, 989e12
BATCHES = (32, 64, 128)
DRAWS = 20
"""Layers with routes of their own, that are averaged."""

WAYS = ("xPU only", "Logic-PIM only", "Duplex rule", "Duplex rule, ping-pong")


@dataclass(frozen=True)
class MoeModel:
    """Layers with experts, their number, and their dimensions; two matrices of ``hidden x intermediate`` in, one out."""

    name: str
    layers: int
    hidden: int
    intermediate: int
    experts: int
    top_k: int = 2

    @property
    def weights(self) -> int:
        """Of an expert."""
        return 3 * self.hidden * self.intermediate


MODELS = (MoeModel("Mixtral 47B", 32, 4096, 14336, 8), MoeModel("GLaM 143B", 16, 4096, 16384, 64),
          MoeModel("Grok1 314B", 64, 6144, 32768, 8))


@cache
def _unit_seconds(config: ExpertConfig, shape: ExpertShape, tiles: int) -> float:
    """Of an expert with as many tiles of tokens, among others."""
    cycles = layer_cycles(config, [tiles * config.token_lanes] * 2, shape)
    return (cycles[1] - cycles[0]) / CLOCK


class _Device:
    def __init__(self, model: MoeModel, ping_pong: bool):
        self.model = model
        self.config = replace(EXPERT_PRESETS["duplex"], name="projected", max_hidden=8192, ping_pong=ping_pong)
        lanes = self.config.lanes
        self.shape = ExpertShape(model.hidden // lanes, -(-model.intermediate // UNITS // lanes))

    def pim(self, tokens: int) -> float:
        return _unit_seconds(self.config, self.shape, -(-tokens // self.config.token_lanes)) if tokens else 0.0

    def xpu(self, tokens: int) -> float:
        return max(2 * self.model.weights / XPU_BYTES, 2 * tokens * self.model.weights / XPU_FLOPS) if tokens else 0.0

    def makespan(self, counts: Sequence[int], on_pim: set[int], layer: int) -> float:
        stacks = [0.0] * STACKS
        for expert in on_pim:
            stacks[(expert + layer * len(counts)) % STACKS] += self.pim(counts[expert])
        return max(*stacks, sum(self.xpu(count) for expert, count in enumerate(counts) if expert not in on_pim))

    def by_rule(self, counts: Sequence[int], layer: int) -> float:
        """The published rule: the experts with the fewest tokens move to Logic-PIM, the best of all borders."""
        order = sorted(range(len(counts)), key=lambda expert: (counts[expert], expert))
        return min(self.makespan(counts, set(order[:moved]), layer) for moved in range(len(counts) + 1))


def throughput(model: MoeModel, batch: int, seed: int = 1) -> dict[str, float]:
    """Tokens per second through all layers with experts, in each of ``WAYS``; every token goes to random experts."""
    rng = np.random.default_rng(seed)
    seconds = dict.fromkeys(WAYS, 0.0)
    single, turns = _Device(model, False), _Device(model, True)
    for layer in range(DRAWS):
        chosen = np.concatenate([rng.choice(model.experts, model.top_k, replace=False) for _ in range(batch)])
        counts = np.bincount(chosen, minlength=model.experts).tolist()
        everything = set(range(model.experts))
        for way, spent in zip(WAYS, (single.makespan(counts, set(), layer), single.makespan(counts, everything, layer),
                                     single.by_rule(counts, layer), turns.by_rule(counts, layer)), strict=True):
            seconds[way] += spent
    return {way: batch * DRAWS / model.layers / spent for way, spent in seconds.items()}
