"""Packed prompts in the attention engine: a cocotb test beside the common menu."""

from typing import Any

import cocotb
import numpy as np

from ...rtl_gen.tiles import plan_tiles
from ..golden.attention import attend
from ..golden.numerics import Scalar
from .attention import AttentionBench
from .attention_operations import Mode, Operations, Run
from .environment import Environment

LENGTHS = (5, 1, 9, 3, 7, 1, 1, 12)
"""Tokens of the prompts."""

GROUP = 2
"""Query heads per K/V head."""


@cocotb.test()
async def packed_prompts(dut: Any) -> None:
    """Prompts packed into tiles give what each of them gives alone, bit for bit; rows that no token of a tile sees are not read."""
    env = Environment(dut)
    config = env.bench.config
    if not config.attention_runs:
        return
    assert isinstance(env.bench, AttentionBench)
    operations = Operations(config, env.seed)
    segments = [segment for segment, length in enumerate(LENGTHS) for _ in range(length)]
    tokens, words = len(segments), 2 * config.kv_lanes // config.vector_lanes
    whole = operations.random_run(tokens * GROUP, words, tokens, 2)
    tiles = plan_tiles(segments, query_lanes=config.query_lanes, group=GROUP)
    for tile in tiles:
        lanes = slice(tile.first * GROUP, (tile.last + 1) * GROUP)
        operations.add_runs([Run(np.repeat(run.starts, GROUP), np.repeat(run.limits, GROUP), whole.q[lanes], whole.scales[lanes], *(
            side[run.first:run.first + run.rows] for side in (whole.k, whole.k_scales, whole.v, whole.v_scales))) for run in tile.runs],
            Mode())
    stimulus = env.bench.chosen(operations)
    assert sum(tile.rows for tile in tiles) < sum(tile.last + 1 for tile in tiles)

    results, exponents = [], []
    for lane in range(tokens * GROUP):
        token = lane // GROUP
        rows = slice(segments.index(segments[token]), token + 1)
        x, exponent = attend(whole.q[lane:lane + 1], [Scalar(*map(int, whole.scales[lane]))], [rows.stop - rows.start],
                             whole.k[rows], whole.k_scales[rows], whole.v[rows], whole.v_scales[rows], config)
        results += operations.words(x[0], "x")
        exponents.append({"exponent": int(exponent[0])})
    stimulus.expected.update(o=results, o_exponent=exponents)
    await env.run(stimulus)
