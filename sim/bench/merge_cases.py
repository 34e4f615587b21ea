"""Merges that follow each other, or pile up: cocotb tests of the record merger."""

from itertools import pairwise
from typing import Any

import cocotb

from ...accelerators.cache.record_merge import RecordMerge
from .agents import BenchFailure, bursts, never
from .environment import Environment
from .evict import RecordMergeBench

QUIET = 300
"""Cycles without a transfer: longer than a merge takes."""


def _bench(env: Environment, head_dim: int) -> RecordMergeBench:
    assert isinstance(env.bench, RecordMergeBench)
    env.bench.resize(head_dim)
    return env.bench


@cocotb.test()
async def output_stalled_until_nothing_moves(dut: Any) -> None:
    """As many merges of short records as fit are done behind the first one, whose record nobody takes."""
    env = Environment(dut)
    bench, rng = _bench(env, env.bench.config.kv_lanes), env.rng("output_stalled_until_nothing_moves")
    await env.reset()
    scoreboard = env.load(bench.merges(rng, 40))
    env.sinks["o"].pattern = never
    idle = 0
    while idle < QUIET:
        idle = 0 if await env.step(scoreboard) else idle + 1
    env.sinks["o"].pattern = bursts(rng, 0.3)
    await env.finish(scoreboard)


@cocotb.test()
async def one_stream_is_slow(dut: Any) -> None:
    """Each one; the others pause a little."""
    env = Environment(dut)
    bench, rng = _bench(env, env.bench.config.kv_lanes), env.rng("one_stream_is_slow")
    for slow in (*env.sources, "o"):
        await env.reset()
        scoreboard = env.load(bench.merges(rng, 24))
        for name, source in env.sources.items():
            source.pattern = bursts(rng, 0.05 if name == slow else 0.95)
        env.sinks["o"].pattern = bursts(rng, 0.05 if slow == "o" else 0.95)
        await env.finish(scoreboard)


@cocotb.test()
async def merges_one_after_another(dut: Any) -> None:
    """Of the longest records and of short ones: the next one takes no longer than ``RecordMerge.between`` says, nor its records."""
    env = Environment(dut)
    config = env.bench.config
    merge = RecordMerge(config)
    for head_dim in (config.max_head_dim, config.kv_lanes):
        bench = _bench(env, head_dim)
        trace = await env.run(bench.full(8))
        begins = trace.delivered["o"][::bench.record_beats]
        most = max(merge.between(head_dim // config.vector_lanes), 2 * bench.record_beats + 4)
        late = [b - a for a, b in pairwise(begins) if b - a > most]
        if late:
            raise BenchFailure(f"head_dim {head_dim}: merges began {late} cycles after those before, not {most}")
