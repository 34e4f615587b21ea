"""Weights that come before everything else: a cocotb test of ``Mix`` beside the common menu."""

from functools import partial
from typing import Any

import cocotb

from .attention import MixBench
from .environment import Environment

COMMAND, VALUES = 40, 80
"""Cycles after reset in which the first command and the first beat of V are offered."""


def _after(env: Environment, due: int) -> bool:
    return env.cycle >= due


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
        env.sources["i_command"].pattern = partial(_after, env, start + COMMAND)
        env.sources["i_values"].pattern = partial(_after, env, start + VALUES)
        await env.finish(scoreboard)
