"""Case of the exponents per head beyond the menu: operation after operation."""

from typing import Any

import cocotb

from .environment import Environment


@cocotb.test()
async def clear(dut: Any) -> None:
    """``clear`` forgets the maxima of the operation before."""
    env = Environment(dut)
    rng = env.rng("clear")
    await env.reset()
    for _ in range(4):
        await env.finish(env.load(env.bench.stimulus(rng, "clear")))
        env.ports["clear"].value = 1
        await env.step(None)
        env.ports["clear"].value = 0
