"""Cycle counts of the ternary engine: cocotb tests beside the common menu."""

import random
from typing import Any

import cocotb

from ...accelerators.ternary.timing import HAZARD, TernaryTiming
from .agents import BenchFailure, always, never
from .environment import Environment
from .ternary import EngineItems, random_matrix


def _check(what: str, measured: object, promised: object) -> None:
    if measured != promised:
        raise BenchFailure(f"{what}: {measured}, but the model of cycles says {promised}")


def _matrices(env: Environment, groups: int, tiles: int, block: int, count: int = 1) -> EngineItems:
    """Matrices of ``groups`` row groups and ``tiles`` K tiles in blocks of ``block`` row groups, for all token lanes."""
    config = env.bench.config
    rng = random.Random(1)
    return EngineItems(config, [random_matrix(rng, groups * config.table_rows, tiles * config.tile_activations, block,
                                              config.token_lanes) for _ in range(count)])


def _tiles(env: Environment, most: int) -> int:
    return min(most, env.bench.config.max_vector // env.bench.config.tile_activations)


@cocotb.test()
async def full_rate(dut: Any) -> None:
    """Sweeps that hide the building of tables: every lane word one cycle after the other, across K tiles, blocks and
    matrices (whose activations are sent ahead)."""
    env = Environment(dut)
    config, timing = env.bench.config, TernaryTiming(env.bench.config)
    tiles = _tiles(env, 3)
    depth = config.max_block_rows // config.table_rows
    sweep = min(depth, max(timing.build, timing.reload(tiles * config.tile_activations, config.token_lanes)))
    stimulus = _matrices(env, 2 * sweep, tiles, sweep, count=2)
    taken = (await env.run(stimulus)).accepted["i_weights"]
    words = 2 * sweep * tiles
    if sweep < timing.build:
        return  # short_sweeps has this case
    _check("cycles of a matrix", taken[words - 1] - taken[0] + 1, words)
    if sweep >= timing.reload(tiles * config.tile_activations, config.token_lanes):
        utilization = len(taken) / (taken[-1] - taken[0] + 1)
        _check("utilization of the lookup lanes", utilization, 1.0)


@cocotb.test()
async def short_sweeps(dut: Any) -> None:
    """Sweeps shorter than the building of tables: one per ``build`` cycles."""
    env = Environment(dut)
    timing = TernaryTiming(env.bench.config)
    for block in (1, HAZARD, max(1, timing.build - 1)):
        block = min(block, env.bench.config.max_block_rows // env.bench.config.table_rows)
        tiles = _tiles(env, 3)
        taken = (await env.run(_matrices(env, 2 * block, tiles, block))).accepted["i_weights"]
        for sweep in range(2 * tiles - 1):
            _check(f"cycles from sweep to sweep of {block} row groups",
                   taken[(sweep + 1) * block] - taken[sweep * block], timing.sweep(block))


@cocotb.test()
async def ragged_blocks(dut: Any) -> None:
    """Blocks of different length: cycles of the whole matrix."""
    env = Environment(dut)
    timing = TernaryTiming(env.bench.config)
    tiles = _tiles(env, 3)
    block = min(timing.build + 5, env.bench.config.max_block_rows // env.bench.config.table_rows)
    for groups in (block + 1, 2 * block + timing.build // 2, block // 2):
        taken = (await env.run(_matrices(env, groups, tiles, block))).accepted["i_weights"]
        _check(f"cycles of {groups} row groups in blocks of {block}", taken[-1] - taken[0] + 1,
               timing.matrix(groups, tiles, block))


@cocotb.test()
async def idle_weights(dut: Any) -> None:
    """After a pause both tables are ready: two sweeps follow each other as fast as the accumulators allow."""
    env = Environment(dut)
    timing = TernaryTiming(env.bench.config)
    tiles = _tiles(env, 3)
    for block in (1, HAZARD - 1, HAZARD, 2 * HAZARD):
        await env.reset()
        scoreboard = env.load(_matrices(env, block, tiles, block))
        env.sources["i_weights"].pattern = never
        for _ in range(4 * timing.build + timing.start + len(env.sources["i_activations"].items)):
            await env.step(scoreboard)
        env.sources["i_weights"].pattern = always
        await env.finish(scoreboard)
        taken = env.trace().accepted["i_weights"]
        _check(f"cycles of two sweeps of {block} row groups after a pause", taken[2 * block - 1] - taken[0] + 1,
               2 * block + (HAZARD - 1 if block < HAZARD else 0))


@cocotb.test()
async def stalled_sums(dut: Any) -> None:
    """Sums are not taken: words are accepted until the result slots are used; all but the last K tile pass."""
    env = Environment(dut)
    timing = TernaryTiming(env.bench.config)
    tiles = _tiles(env, 2)
    sweep = 2 * timing.result_slots
    sweep = min(sweep, env.bench.config.max_block_rows // env.bench.config.table_rows)
    await env.reset()
    stimulus = _matrices(env, sweep, tiles, sweep)
    scoreboard = env.load(stimulus)
    env.sinks["o_sums"].pattern = never
    idle = 0
    while idle < 4 * timing.build + timing.start:
        idle = 0 if await env.step(scoreboard) else idle + 1
    taken = len(env.trace().accepted["i_weights"])
    _check("words taken before the first sums are", taken, (tiles - 1) * sweep + min(sweep, timing.result_slots))
    env.sinks["o_sums"].pattern = always
    await env.finish(scoreboard)
