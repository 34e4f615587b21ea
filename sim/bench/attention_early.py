"""Weights that come before everything else: a cocotb test of ``Mix`` beside the common menu."""

from typing import Any

import cocotb

from .attention import MixBench
from .environment import Environment

COMMAND, VALUES = 40, 80
"""Cycles after reset in which the first command and the first beat of V are offered."""


@cocotb.test()
async def weights_first(dut: Any) -> None:
    """After reset the weights of whole rows wait for the first command, and then for V: nothing is read before it is there."""
    env = Environment(dut)
    assert isinstance(env.bench, MixBench)
    for beats in (1, 2):
        words = beats * env.bench.config.kv_lanes // env.bench.config.vector_lanes
        await env.reset()
        scoreboard = env.load(env.bench.full(6, words))
        start = env.cycle
        for name, delay in (("i_command", COMMAND), ("i_values", VALUES)):
            env.sources[name].pattern = lambda due=start + delay: env.cycle >= due
        await env.finish(scoreboard)
