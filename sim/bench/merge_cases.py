"""Merges of short records that pile up: cocotb tests of the record merger."""

from typing import Any

import cocotb

from .agents import bursts, never
from .environment import Environment
from .evict import RecordMergeBench

QUIET = 300
"""Cycles without a transfer: longer than a merge takes."""


def _bench(env: Environment) -> RecordMergeBench:
    assert isinstance(env.bench, RecordMergeBench)
    env.bench.resize(env.bench.config.kv_lanes)
    return env.bench


@cocotb.test()
async def output_stalled_until_nothing_moves(dut: Any) -> None:
    """As many merges as fit are done behind the first one, whose record nobody takes."""
    env = Environment(dut)
    bench, rng = _bench(env), env.rng("output_stalled_until_nothing_moves")
    await env.reset()
    scoreboard = env.load(bench.merges(rng, 40))
    env.sinks["o"].pattern = never
    idle = 0
    while idle < QUIET:
        idle = 0 if await env.step(scoreboard) else idle + 1
    env.sinks["o"].pattern = bursts(rng, 0.3)
    await env.finish(scoreboard)


@cocotb.test()
async def inputs_at_their_own_pace(dut: Any) -> None:
    """Each input pauses as it likes, for long at times."""
    env = Environment(dut)
    bench, rng = _bench(env), env.rng("inputs_at_their_own_pace")
    for _ in range(4):
        await env.reset()
        scoreboard = env.load(bench.merges(rng, 24))
        for source in env.sources.values():
            source.pattern = bursts(rng, rng.choice((0.05, 0.5, 0.95)))
        env.sinks["o"].pattern = bursts(rng, rng.choice((0.05, 0.5, 0.95)))
        await env.finish(scoreboard)
