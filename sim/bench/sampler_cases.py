"""Cases of the sampler beyond the menu: seeds, and k out of range."""

from typing import Any

import cocotb
import numpy as np

from ..golden.numerics import Scalar
from ..golden.sampler import Sampler
from .environment import Environment
from .scoreboard import Scoreboard

SCALE = Scalar(1 << 23, -29)
"""64 logit units are one unit of log2."""


async def _draw(env: Environment, golden: Sampler, k: int, given: int | None = None) -> None:
    """One sampled token for ``k``, with ``given`` in its place in the command."""
    logits = [int(value) for value in np.random.default_rng(k).integers(-200, 0, 2 * env.bench.config.top_k)]
    token, value = golden.sample(np.array(logits), greedy=False, k=k, scale=SCALE)
    for name, items in env.bench.items([(logits, False, k if given is None else given, SCALE)]).items():
        for item in items:
            env.sources[name].append(item)
    await env.finish(Scoreboard(env.sinks, {"o": [{"token": token, "value": value}]}))


@cocotb.test()
async def reseed(dut: Any) -> None:
    """The generator restarts at any time; its warm-up is over before the next draw."""
    env = Environment(dut)
    await env.reset()
    rng = env.rng("reseed")
    for seed in (0, 1, 2, 0xFFFF_FFFF, rng.getrandbits(32), rng.getrandbits(32)):
        for _ in range(rng.choice((1, 20))):
            await env.step(None)
        env.ports["seed"].value = seed
        env.ports["reseed"].value = 1
        await env.step(None)
        env.ports["reseed"].value = 0
        golden = Sampler(env.bench.config, seed)
        for _ in range(4):
            await _draw(env, golden, env.bench.config.top_k)


@cocotb.test()
async def k_out_of_range(dut: Any) -> None:
    """k = 0 acts as 1, k above top_k as top_k."""
    env = Environment(dut)
    await env.reset()
    golden = Sampler(env.bench.config)
    top_k = env.bench.config.top_k
    for given, meant in ((0, 1), (top_k + 1, top_k), (255, top_k)):
        for _ in range(3):
            await _draw(env, golden, meant, given)
