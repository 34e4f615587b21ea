"""The common test menu: cocotb tests that every unit must pass."""

import json
import os
from pathlib import Path
from typing import Any

import cocotb

from .agents import BenchFailure, always, bursts, never
from .environment import Environment

STRESS_ROUNDS = 3


@cocotb.test()
async def back_to_back(dut: Any) -> None:
    """Items without a gap, sink always ready."""
    env = Environment(dut)
    await env.run(env.bench.stimulus(env.rng("back_to_back"), "back_to_back"))


@cocotb.test()
async def idle_gaps(dut: Any) -> None:
    """Sources pause at random."""
    env = Environment(dut)
    rng = env.rng("idle_gaps")
    await env.run(env.bench.stimulus(rng, "idle_gaps"), sources=bursts(rng, 0.4))


@cocotb.test()
async def back_pressure(dut: Any) -> None:
    """Sinks pause at random."""
    env = Environment(dut)
    rng = env.rng("back_pressure")
    await env.run(env.bench.stimulus(rng, "back_pressure"), sinks=bursts(rng, 0.4))


@cocotb.test()
async def sink_stalled_from_start(dut: Any) -> None:
    """No sink is ready: some output must still raise valid. Then each output is stalled alone: it must
    raise valid too. Then all is taken."""
    env = Environment(dut)
    stimulus = env.bench.stimulus(env.rng("sink_stalled_from_start"), "sink_stalled_from_start")
    expected = env.bench.expected(stimulus)
    wanted = [name for name in env.sinks if expected.get(name)]
    for stalled in [wanted] if len(wanted) <= 1 else [wanted, *([name] for name in wanted)]:
        await env.reset()
        scoreboard = env.load(stimulus)
        for name in stalled:
            env.sinks[name].pattern = never
        idle = 0
        while stalled and all(env.sinks[name].raised is None for name in stalled):
            idle = 0 if await env.step(scoreboard) else idle + 1
            if idle > env.bench.patience:
                raise BenchFailure(f"valid waits for ready: with {', '.join(stalled)} stalled from the "
                                   f"start, no valid came within {idle} cycles")
        for _ in range(20):
            await env.step(scoreboard)
        for sink in env.sinks.values():
            sink.pattern = always
        await env.finish(scoreboard)


@cocotb.test()
async def reset_mid_stream(dut: Any) -> None:
    """Reset after a random number of cycles, several times; fresh stimulus must then pass in full."""
    env = Environment(dut)
    rng = env.rng("reset_mid_stream")
    trace = await env.run(env.bench.stimulus(rng, "reset_mid_stream"))
    cycles = [cycle for stream in (*trace.accepted.values(), *trace.delivered.values()) for cycle in stream]
    length = max(cycles) - min(cycles) + 1 if cycles else 1
    for _ in range(3):
        await env.reset()
        scoreboard = env.load(env.bench.stimulus(rng, "reset_mid_stream"), sinks=bursts(rng, 0.7))
        for _ in range(rng.randint(1, length)):
            await env.step(scoreboard)
        await env.reset(cycles=1)
        await env.run(env.bench.stimulus(rng, "reset_mid_stream"))


@cocotb.test()
async def boundary(dut: Any) -> None:
    """Extreme values."""
    env = Environment(dut)
    stimulus = env.bench.boundary()
    if stimulus is not None:
        await env.run(stimulus)


@cocotb.test()
async def stress(dut: Any) -> None:
    """Random gaps on both sides, rounds of random stimulus."""
    env = Environment(dut)
    rng = env.rng("stress")
    for _ in range(STRESS_ROUNDS):
        await env.run(env.bench.stimulus(rng, "stress"), sources=bursts(rng, rng.choice((0.2, 0.6, 0.95))),
                      sinks=bursts(rng, rng.choice((0.2, 0.6, 0.95))))


@cocotb.test()
async def latency(dut: Any) -> None:
    """Latency and interval, measured, against what the component promises."""
    env = Environment(dut)
    stimulus = env.bench.latency_stimulus()
    if stimulus is None:
        stimulus = env.bench.stimulus(env.rng("latency"), "latency")
    measured = env.bench.measure(await env.run(stimulus))
    attributes = {key: env.sidecar[key] for key in ("latency", "interval")}
    Path(os.environ["LLMRTL_FIGURES"]).write_text(json.dumps(measured))
    promises = env.bench.figures(attributes)
    if not promises:
        raise BenchFailure("the component promises neither latency nor interval, nor does figures() of "
                           "the bench")
    for name, promised in promises.items():
        if measured.get(name) != promised:
            raise BenchFailure(f"{name} is {measured.get(name)} cycles, but the component promises "
                               f"{promised}")
