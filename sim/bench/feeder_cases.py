"""Vectors that are sent ahead of the command that uses them: cocotb tests of the activation feeder."""

import random
from typing import Any

import cocotb

from .agents import BenchFailure, always, bursts, never
from .environment import Environment
from .ternary import EngineItems, random_matrix
from .ternary_parts import ActivationFeederBench


def _items(env: Environment, tokens: list[int]) -> EngineItems:
    """One matrix of two blocks per entry of ``tokens``; two K tiles, the last one without its last column."""
    assert isinstance(env.bench, ActivationFeederBench)
    config = env.bench.config
    rng = random.Random(2)
    columns = min(config.max_vector, 2 * config.tile_activations) - 1
    return env.bench.items([random_matrix(rng, 2 * config.table_rows, columns, 1, count) for count in tokens])


def _vectors(items: EngineItems, matrices: int) -> int:
    """Words of the vectors of the first ``matrices`` commands."""
    words = len(items["i_activations"]) // sum(len(matrix.q) for matrix in items.matrices)
    return words * sum(len(matrix.q) for matrix in items.matrices[:matrices])


@cocotb.test()
async def vectors_sent_ahead(dut: Any) -> None:
    """Nothing is fed: as many vectors of each token are taken as there are chunks, before the commands or behind them."""
    env = Environment(dut)
    config = env.bench.config
    for late in ("i_command", "o"):
        await env.reset()
        items = _items(env, [config.token_lanes] * 4)
        scoreboard = env.load(items)
        (env.sources | env.sinks)[late].pattern = never
        for _ in range(len(items["i_activations"]) + 4 * config.tile_activations):
            await env.step(scoreboard)
        taken, ahead = len(env.trace().accepted["i_activations"]), _vectors(items, config.chunks)
        if taken != ahead:
            raise BenchFailure(f"without {late} {taken} words of activations were taken, not those of "
                               f"{config.chunks} commands: {ahead}")
        (env.sources | env.sinks)[late].pattern = always
        await env.finish(scoreboard)


@cocotb.test()
async def tokens_come_and_go(dut: Any) -> None:
    """Commands of few tokens between those of many: the buffers of a token are used in turn whatever others do."""
    env = Environment(dut)
    most = env.bench.config.token_lanes
    rng = env.rng("tokens_come_and_go")
    for sinks in (bursts(rng, 0.3), bursts(rng, 0.9)):
        await env.run(_items(env, [1, most, 1, 1, most, max(1, most - 1), 1, most]), sinks=sinks)


@cocotb.test()
async def filled_while_fed(dut: Any) -> None:
    """The vectors of ``chunks`` commands go in while the first one is fed; the next ones wait until it has been fed."""
    env = Environment(dut)
    config = env.bench.config
    items = _items(env, [config.token_lanes] * 3)
    # A slow sink: there is time for all the vectors.
    trace = await env.run(items, sinks=bursts(env.rng("filled_while_fed"), 0.2))
    words, fed = trace.accepted["i_activations"], trace.delivered["o"][:len(trace.delivered["o"]) // 3]
    ahead = _vectors(items, config.chunks)
    if words[ahead - 1] > fed[-1]:
        raise BenchFailure(f"the vectors of {config.chunks} commands were in at cycle {words[ahead - 1]}, but the first command "
                           f"had been fed at {fed[-1]}")
    # Behind the read there are registers.
    read = fed[-2 - config.buffer_tokens]
    if words[ahead] <= read:
        raise BenchFailure(f"a vector was taken at cycle {words[ahead]} into a buffer that was fed until {read} at least")
