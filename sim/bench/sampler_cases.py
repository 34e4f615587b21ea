"""Cases of the sampler beyond the menu: seeds, and k out of range."""

from typing import Any

import cocotb
import numpy as np

from ..golden.numerics import Scalar
from ..golden.sampler import WARM_UP, Sampler
from .agents import BenchFailure
from .environment import Environment
from .sampler import SamplerBench
from .scoreboard import Scoreboard
from .unit import Items

SCALE = Scalar(1 << 23, -29)
"""64 logit units are one unit of log2."""


async def _draw(env: Environment, golden: Sampler, k: int, given: int | None = None) -> None:
    """One sampled token for ``k``, with ``given`` in its place in the command."""
    logits = [int(value) for value in np.random.default_rng(k).integers(-200, 0, 2 * env.bench.config.top_k)]
    token, value = golden.sample(np.array(logits), greedy=False, k=k, scale=SCALE)
    bench = SamplerBench(env.bench.config)
    _load(env, bench.items([(logits, False, k if given is None else given, SCALE)]))
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
        await _reseed(env, seed)
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


def _seed_before(state: int) -> int:
    """The seed whose first draw is ``state``: the generator's steps are undone."""
    for _ in range(WARM_UP + 1):
        for shift in (5, -17, 13):
            known = state
            for _ in range(32):
                known = state ^ ((known << shift) & 0xFFFF_FFFF if shift > 0 else known >> -shift)
            state = known
    return state


@cocotb.test()
async def threshold_on_an_edge(dut: Any) -> None:
    """Two equal candidates: a draw of exactly one half takes the second, one less the first."""
    env = Environment(dut)
    if env.bench.config.top_k < 2:
        return
    await env.reset()
    bench = SamplerBench(env.bench.config)
    for draw, token in ((1 << 31, 1), ((1 << 31) - 1, 0)):
        await _reseed(env, _seed_before(draw))
        _load(env, bench.items([([7, 7], False, 2, SCALE)]))
        await env.finish(Scoreboard(env.sinks, {"o": [{"token": token, "value": 7}]}))


class _Taken:
    """Takes what comes, in place of a scoreboard."""

    def __init__(self, env: Environment):
        self.tokens: list[int] = []
        self._unpack = env.sinks["o"].codec.unpack

    def check(self, name: str, bits: int) -> None:
        self.tokens.append(self._unpack(bits)["token"])


@cocotb.test()
async def reseed_during_a_draw(dut: Any) -> None:
    """Whenever the seed comes, the draw is one of the old or of the new seed, never of a half-warm one."""
    env = Environment(dut)
    await env.reset()
    config = env.bench.config
    scale = Scalar(1 << 23, -6 - config.logit_frac_bits)  # no shift: the draw is short
    items = SamplerBench(config).items([([7] * config.top_k, False, config.top_k, scale)])

    async def draw(cycle: int | None, old: int, new: int) -> tuple[int, int]:
        """Token and cycles; ``new`` is seeded in ``cycle``."""
        await _reseed(env, old)
        for _ in range(WARM_UP):
            await env.step(None)
        _load(env, items)
        taken: Any = _Taken(env)
        cycles = 0
        while not taken.tokens:
            env.ports["seed"].value = new
            env.ports["reseed"].value = cycles == cycle
            await env.step(taken)
            cycles += 1
        env.ports["reseed"].value = 0
        return taken.tokens[0], cycles

    _, total = await draw(None, 1, 1)
    for cycle in range(total - 50 - config.top_k, total - 30):
        old, new = cycle + 1, cycle << 16
        token, _ = await draw(cycle, old, new)
        golden = [Sampler(config, seed).sample(np.full(config.top_k, 7), greedy=False, k=config.top_k,
                                               scale=scale)[0] for seed in (old, new)]
        if token not in golden:
            raise BenchFailure(f"token {token} of a seed in cycle {cycle} is neither of {golden}")


async def _reseed(env: Environment, seed: int) -> None:
    env.ports["seed"].value = seed
    env.ports["reseed"].value = 1
    await env.step(None)
    env.ports["reseed"].value = 0


def _load(env: Environment, items: Items) -> None:
    for name, payloads in items.items():
        for payload in payloads:
            env.sources[name].append(payload)
