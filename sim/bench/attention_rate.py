"""Cycles of attention operations that follow each other: a cocotb test beside the common menu."""

from itertools import pairwise
from typing import Any

import cocotb

from ...accelerators.attention.formats import mix_lanes
from ...accelerators.attention.weights import AttentionWeights
from ...accelerators.config import AcceleratorConfig
from ...accelerators.integers import ceil_div
from ...accelerators.kv_records import record_beats
from ..timing.promises import promised
from .agents import BenchFailure
from .attention import AttentionBench, Recorded
from .attention_operations import Mode
from .environment import Environment
from .unit import Items

__all__ = ["UTILIZATION", "row_interval"]

OPERATIONS = 4
WIDE_ROWS = 256
UTILIZATION = 0.95
EXPONENT = -28
"""Scale of queries: the logits have a standard deviation of about 4 bits."""


def row_interval(config: AcceleratorConfig, head_dim: int, lanes: int) -> int:
    """Cycles of a row while no lane is rescaled: as attention takes its beats, but at least as many as lanes, turns of the value mix,
    and 3."""
    beats, turns = ceil_div(head_dim, config.kv_lanes), ceil_div(lanes, mix_lanes(config))
    record = record_beats(head_dim, kv_bits=config.stored_kv_bits, bus_bits=config.bus_bits)
    return max(record, lanes, turns * beats, 3)


def _pass_cycles(weights: list[dict[str, Any]], lanes: int, served: int, beats: int) -> int:
    """Cycles of the passes beyond the first that rescaling takes, by the rule in the docstring of ``Mix``."""
    extra = 0
    for row in range(0, len(weights), lanes):
        shifts = [item["shift"] for item in weights[row:row + lanes]]
        for turn in range(0, lanes, served):
            most = max(0 if shift >= 32 else shift // 4 + shift % 4 for shift in shifts[turn:turn + served])
            extra += max(most - 1, 0) * max(beats, 3)
    return extra


def _weight_cycles(config: AcceleratorConfig, rows: int, lanes: int) -> int:
    """Cycles of an operation in ``AttentionWeights``, which works on one while the next ones come."""
    if config.cache != "evict":
        return 0
    latency = promised(AttentionWeights(config)).latency
    return lanes * (2 * rows + latency["lane"]) + latency["fixed"]


async def _check(env: Environment, stimulus: Items, rows: int, lanes: int, head_dim: int, what: str, *, demand: bool) -> None:
    """Each operation takes the documented cycles; with ``demand``, and unless rows have fewer beats than lanes, 95 % of them have a
    beat."""
    config = env.bench.config
    assert isinstance(stimulus, Recorded)
    beats = ceil_div(head_dim, config.kv_lanes)
    record = record_beats(head_dim, kv_bits=config.stored_kv_bits, bus_bits=config.bus_bits)
    count = len(stimulus["i_command"])
    taken = (await env.run(stimulus)).accepted["i_rows"]
    row = row_interval(config, head_dim, lanes)
    each = len(stimulus.weights) // count
    starts = [*taken[::rows * record], taken[-1] + 1]
    what = f"{what}{lanes} lanes, {rows} rows of {record} beats"
    # The first operation waits for its queries.
    for k, (start, end) in list(enumerate(pairwise(starts)))[1:]:
        bound = rows * row + 3 + lanes * beats + _pass_cycles(
            stimulus.weights[k * each:(k + 1) * each], lanes, mix_lanes(config), beats)
        if end - start > max(bound, _weight_cycles(config, rows, lanes)):
            raise BenchFailure(f"{what}: operation {k} takes {end - start} cycles, but {bound} are promised")
    utilization = (count - 1) * rows * record / (starts[-1] - starts[1])
    cocotb.log.info(f"{what}: beats in {utilization:.1%} of the cycles")
    if demand and record >= row and utilization < UTILIZATION:
        raise BenchFailure(f"{what}: beats in {utilization:.1%} of the cycles, not {UTILIZATION:.0%}")


@cocotb.test()
async def rate(dut: Any) -> None:
    """Heads back to back, as in decode: beats are taken at the documented rate, at a word of 512 bits in 95 % of the cycles or
    more unless rows have fewer beats than lanes."""
    env = Environment(dut)
    config = env.bench.config
    wide = config.bus_bits == 512
    rows = WIDE_ROWS if wide else 24
    longest = config.max_head_dim // config.vector_lanes
    assert isinstance(env.bench, AttentionBench)
    for words in (config.kv_lanes // config.vector_lanes, longest * 3 // 4, longest):
        for lanes in sorted({1, min(2, config.query_lanes), config.query_lanes}):
            stimulus = env.bench.full(rows, words, lanes, EXPONENT, OPERATIONS)
            await _check(env, stimulus, rows, lanes, words * config.vector_lanes, "", demand=wide)


@cocotb.test()
async def rate_of_modes(dut: Any) -> None:
    """A context of 256 rows in every mode: beats in 95 % of the cycles or more; with a unified maximum nothing is rescaled, where a
    running maximum takes more passes over the same rows. (The largest logit of all is the unified maximum.)"""
    env = Environment(dut)
    config = env.bench.config
    if not config.attention_modes:
        return
    assert isinstance(env.bench, AttentionBench)
    lanes, words, passes, phi = config.query_lanes, config.max_head_dim // config.vector_lanes, {}, 0
    for unified in (False, True):
        for partial in (True, False):
            mode = Mode(phi if unified else None, partial)
            stimulus = env.bench.full(WIDE_ROWS, words, lanes, EXPONENT - 1, 2, mode, 3)
            assert isinstance(stimulus, Recorded)
            passes[mode] = _pass_cycles(stimulus.weights, lanes, mix_lanes(config), ceil_div(config.max_head_dim, config.kv_lanes))
            if any(stimulus.fallbacks.values()):
                raise BenchFailure(f"{mode}: the stimulus leaves the window: {stimulus.fallbacks}")
            phi = max([phi, *(part["maximum"] for part in stimulus.expected["o_part"])])
            await _check(env, stimulus, WIDE_ROWS, lanes, config.max_head_dim, f"{mode}: ", demand=True)
    for mode, cycles in passes.items():
        if (cycles == 0) != (mode.phi is not None):
            raise BenchFailure(f"{mode}: {cycles} cycles of further passes")
