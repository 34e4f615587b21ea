"""Cycles of attention operations that follow each other: a cocotb test beside the common menu."""

from itertools import pairwise
from math import log2
from operator import add
from typing import Any

import cocotb

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
    """Cycles of a row while no lane is rescaled: as attention takes its beats, but at least as many as lanes, of which some may go side
    by side, turns of the value mix, and 3 or 2."""
    beats, turns = ceil_div(head_dim, config.kv_lanes), ceil_div(lanes, config.mix_lanes)
    record = record_beats(head_dim, kv_bits=config.stored_kv_bits, bus_bits=config.bus_bits)
    return max(record, ceil_div(lanes, config.softmax_ways), turns * beats, config.least_row_cycles)


def _pass_cycles(weights: list[dict[str, Any]], lanes: int, config: AcceleratorConfig, beats: int) -> int:
    """Cycles of the passes beyond the first that rescaling takes, by the rule in the docstring of ``Mix``."""
    extra, served = 0, config.mix_lanes
    small = (0, 1, 1, 2) if config.row_cycles else (0, 1, 2, 3)
    together = max if config.row_cycles else add
    for row in range(0, len(weights), lanes):
        shifts = [item["shift"] for item in weights[row:row + lanes]]
        for turn in range(0, lanes, served):
            most = max(0 if shift >= 32 else together(shift // 4, small[shift % 4]) for shift in shifts[turn:turn + served])
            extra += max(most - 1, 0) * max(beats, config.least_row_cycles)
    return extra


def _weight_cycles(config: AcceleratorConfig, rows: int, lanes: int) -> int:
    """Cycles of an operation in ``AttentionWeights``, which works on one while the next ones come."""
    if config.cache != "evict":
        return 0
    latency = promised(AttentionWeights(config)).latency
    return lanes * (2 * rows + latency["lane"]) + latency["fixed"]


async def _check(env: Environment, stimulus: Items, rows: int, lanes: int, head_dim: int, what: str, *, demand: bool,
                 buffered: int = 1) -> None:
    """Each operation takes the documented cycles; with ``demand``, and unless rows have fewer beats than attention takes cycles for,
    95 % of them have a beat. Of operations so many that a buffer is full for most of them only all behind the first ``buffered`` are
    looked at, together."""
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
    bounds = [rows * row + 3 + lanes * beats + _pass_cycles(stimulus.weights[k * each:(k + 1) * each], lanes, config, beats)
              for k in range(count)]
    # The first operation waits for its queries.
    for k, (start, end) in list(enumerate(pairwise(starts)))[1:] if buffered == 1 else ():
        if end - start > max(bounds[k], _weight_cycles(config, rows, lanes)):
            raise BenchFailure(f"{what}: operation {k} takes {end - start} cycles, but {bounds[k]} are promised")
    cycles, bound = starts[-1] - starts[buffered], sum(bounds[buffered:])
    if cycles > max(bound, (count - buffered) * _weight_cycles(config, rows, lanes)):
        raise BenchFailure(f"{what}: operations take {cycles} cycles, but {bound} are promised")
    utilization = (count - buffered) * rows * record / cycles
    cocotb.log.info(f"{what}: beats in {utilization:.1%} of the cycles")
    if demand and record >= row and utilization < UTILIZATION:
        raise BenchFailure(f"{what}: beats in {utilization:.1%} of the cycles, not {UTILIZATION:.0%}")


@cocotb.test()
async def rate(dut: Any) -> None:
    """Heads back to back, as in decode: beats are taken at the documented rate, at a word of 512 bits in 95 % of the cycles or
    more unless rows have fewer beats than attention takes cycles for."""
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
async def rate_of_short_rows(dut: Any) -> None:
    """Where ``row_cycles`` says that rows may have few beats: heads of one word, of half a beat and of a whole one, at a context of 256
    rows and so many operations one after the other that no buffer hides what rescaling takes, at the logits' largest deviation."""
    env = Environment(dut)
    config = env.bench.config
    if not config.row_cycles:
        return
    assert isinstance(env.bench, AttentionBench)
    for head_dim in sorted({config.vector_lanes, max(config.vector_lanes, config.kv_lanes // 2), config.kv_lanes}):
        exponent = EXPONENT + round(log2(64 / head_dim) / 2)
        for lanes in sorted({1, config.mix_lanes, config.query_lanes}):
            stimulus = env.bench.full(WIDE_ROWS, head_dim // config.vector_lanes, lanes, exponent, 4 * OPERATIONS)
            await _check(env, stimulus, WIDE_ROWS, lanes, head_dim, "", demand=True, buffered=OPERATIONS)


@cocotb.test()
async def rate_of_modes(dut: Any) -> None:
    """A context of 256 rows in every mode: beats in 95 % of the cycles or more; with a unified maximum nothing is rescaled, where a
    running maximum takes more passes over the same rows, but for ``row_cycles``. (The largest logit of all is the unified maximum.)"""
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
            passes[mode] = _pass_cycles(stimulus.weights, lanes, config, ceil_div(config.max_head_dim, config.kv_lanes))
            if any(stimulus.fallbacks.values()):
                raise BenchFailure(f"{mode}: the stimulus leaves the window: {stimulus.fallbacks}")
            phi = max([phi, *(part["maximum"] for part in stimulus.expected["o_part"])])
            await _check(env, stimulus, WIDE_ROWS, lanes, config.max_head_dim, f"{mode}: ", demand=True)
    for mode, cycles in passes.items():
        unified = mode.phi is not None
        if (cycles and unified) or not (cycles or unified or config.row_cycles):
            raise BenchFailure(f"{mode}: {cycles} cycles of further passes")
