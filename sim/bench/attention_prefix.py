"""Sequences behind a common prefix in the attention engine, in parts (Hydragen, arXiv:2402.05099): a cocotb test beside the common
menu."""

import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import cocotb
import numpy as np

from ...accelerators.config import AcceleratorConfig
from ...accelerators.kv_records import record_beats
from ..attention_error import DEMAND, Case, exact, operation
from ..golden.attention import Partial, finished
from .agents import BenchFailure
from .attention import AttentionBench
from .attention_operations import Mode, Operations, Run
from .environment import Environment

GROUPS = 3
"""Prefixes in one run of the bench."""


class _Group:
    """Query heads of some sequences, of each its lanes one behind the other; rows of the prefix, then each sequence's own.

    Attributes
    ----------
    beats, beats_alone : int
        Of all rows; and if each sequence had the prefix for itself.
    """

    def __init__(self, config: AcceleratorConfig, rng: random.Random):
        sequences = rng.randint(2, config.query_lanes)
        heads, prefix = rng.randint(1, config.query_lanes // sequences), rng.randint(4, 40)
        head_dim = config.vector_lanes * rng.randint(1, config.max_head_dim // config.vector_lanes)
        ends = np.cumsum([prefix, *(rng.randint(1, 12) for _ in range(sequences))]).tolist()
        case = Case(ends[-1], rng.choice((1.0, 2.0, 3.0)), rng.choice((0.0, 6.0, 10.0)), rng.choice((1.0, 0.05)))
        self.inputs = operation(config, case, seed=rng.getrandbits(32), lanes=sequences * heads, head_dim=head_dim)
        self.prefix = slice(0, prefix)
        self.suffixes = [slice(*pair) for pair in pairwise(ends)]
        self.lanes = [slice(heads * k, heads * (k + 1)) for k in range(sequences)]
        record = record_beats(head_dim, kv_bits=config.stored_kv_bits, bus_bits=config.bus_bits)
        self.beats, self.beats_alone = record * ends[-1], record * (ends[-1] + prefix * (sequences - 1))

    def run(self, lanes: slice, rows: slice) -> Run:
        """All of these rows for these lanes."""
        q, scales, *sides = self.inputs
        pairs = [[scale.mantissa, scale.exponent] for scale in scales[lanes]]
        count = np.full(len(pairs), rows.stop - rows.start)
        return Run(0 * count, count, q[lanes], pairs, *(side[rows] for side in sides))

    def check(self, parts: Sequence[Partial], config: AcceleratorConfig) -> None:
        """What lanes have behind all of their rows, next to attention over prefix and suffix in float64."""
        x = np.stack([values * 2.0 ** exponent for values, exponent in (finished(part, config) for part in parts)])
        q, scales, *sides = self.inputs
        want = np.concatenate([exact(q[lanes], scales[lanes], *(np.concatenate([side[self.prefix], side[suffix]]) for side in sides))
                               for lanes, suffix in zip(self.lanes, self.suffixes, strict=True)])
        error = float(np.linalg.norm(x - want) / np.linalg.norm(want))
        if error > DEMAND.rmse:
            raise BenchFailure(f"relative RMSE of {error:.1e} next to attention over prefix and suffix, not {DEMAND.rmse}")


@cocotb.test()
async def common_prefix(dut: Any) -> None:
    """Rows of a prefix enter once, for the lanes of all sequences, in an operation of its own; each sequence's rows in another one. The
    operations that come first give parts, which go back in as they leave; those behind merge. In both orders: bit by bit what the merge
    of the parts is, and as exact as attention over all rows of a sequence has to be."""
    env = Environment(dut)
    config = env.bench.config
    if not config.attention_modes:
        return
    assert isinstance(env.bench, AttentionBench)
    env.bench.feedback = {"o_part": "i_part", "o_sums": "i_sums"}
    rng = env.rng("common_prefix")
    for prefix_first in (True, False):
        operations, groups = Operations(config, rng.getrandbits(32)), [_Group(config, rng) for _ in range(GROUPS)]
        for group in groups:
            everyone = slice(0, group.lanes[-1].stop)
            steps = [[(everyone, group.prefix)], list(zip(group.lanes, group.suffixes, strict=True))]
            parts: list[Partial] = []
            for merges, step in zip((False, True), steps if prefix_first else reversed(steps), strict=True):
                given, parts = parts, []
                for lanes, rows in step:
                    mode = Mode(operations.random_mode().phi, partial=not merges, merge=merges)
                    parts += operations.add_runs([group.run(lanes, rows)], mode, given[lanes])
            group.check(parts, config)
        stimulus = env.bench.chosen(operations)
        for port in env.bench.feedback.values():
            del stimulus[port]
        taken = len((await env.run(stimulus)).accepted["i_rows"])
        beats, alone = (sum(each) for each in zip(*((group.beats, group.beats_alone) for group in groups), strict=True))
        cocotb.log.info(f"prefix {'first' if prefix_first else 'last'}: {taken} beats of rows, {alone} without a common prefix")
        if taken != beats:
            raise BenchFailure(f"{taken} beats of rows, not {beats}: those of each prefix once")
