"""Cycles of attention operations that follow each other: a cocotb test beside the common menu."""

from itertools import pairwise
from typing import Any

import cocotb

from ...accelerators.attention.formats import mix_lanes
from ...accelerators.config import ceil_div, record_beats
from .agents import BenchFailure
from .attention import AttentionBench, Recorded
from .environment import Environment

OPERATIONS = 4
WIDE_ROWS = 256
UTILIZATION = 0.95
EXPONENT = -28
"""Scale of queries: the logits have a standard deviation of about 4 bits."""


def _pass_cycles(weights: list[dict[str, Any]], lanes: int, served: int, beats: int) -> int:
    """Cycles of the passes beyond the first that rescaling takes, by the rule in the docstring of ``Mix``."""
    extra = 0
    for row in range(0, len(weights), lanes):
        shifts = [item["shift"] for item in weights[row:row + lanes]]
        for turn in range(0, lanes, served):
            most = max(0 if shift >= 32 else shift // 4 + shift % 4 for shift in shifts[turn:turn + served])
            extra += max(most - 1, 0) * max(beats, 3)
    return extra


@cocotb.test()
async def rate(dut: Any) -> None:
    """Heads back to back, as in decode: beats are taken at the documented rate, at a word of 512 bits in 95 % of the cycles or
    more unless rows have fewer beats than lanes."""
    env = Environment(dut)
    config = env.bench.config
    wide = config.bus_bits == 512
    rows = WIDE_ROWS if wide else 24
    longest = config.max_head_dim // config.vector_lanes
    for words in (config.kv_lanes // config.vector_lanes, longest * 3 // 4, longest):
        head_dim = words * config.vector_lanes
        beats, record = ceil_div(head_dim, config.kv_lanes), record_beats(
            head_dim, kv_bits=config.stored_kv_bits, bus_bits=config.bus_bits)
        assert isinstance(env.bench, AttentionBench)
        for lanes in sorted({1, min(2, config.query_lanes), config.query_lanes}):
            stimulus = env.bench.full(rows, words, lanes, EXPONENT, OPERATIONS)
            assert isinstance(stimulus, Recorded)
            taken = (await env.run(stimulus)).accepted["i_rows"]
            turns = ceil_div(lanes, mix_lanes(config))
            row = max(config.row_cycles(record, beats), lanes, turns * max(beats, 3) if turns == 1 else turns * beats, 3)
            each = len(stimulus.weights) // OPERATIONS
            starts = [*taken[::rows * record], taken[-1] + 1]
            what = f"{lanes} lanes, {rows} rows of {record} beats"
            # The first operation waits for its queries.
            for k, (start, end) in list(enumerate(pairwise(starts)))[1:]:
                bound = rows * row + 3 + lanes * beats + _pass_cycles(
                    stimulus.weights[k * each:(k + 1) * each], lanes, mix_lanes(config), beats)
                if end - start > bound:
                    raise BenchFailure(f"{what}: operation {k} takes {end - start} cycles, but {bound} are promised")
            utilization = (OPERATIONS - 1) * rows * record / (starts[-1] - starts[1])
            dut._log.info(f"{what}: beats in {utilization:.1%} of the cycles")
            if wide and record >= row and utilization < UTILIZATION:
                raise BenchFailure(f"{what}: beats in {utilization:.1%} of the cycles, not {UTILIZATION:.0%}")
