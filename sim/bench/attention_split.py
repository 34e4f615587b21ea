"""Bench of one attention in parts."""

import random
from itertools import pairwise

import numpy as np

from ..golden.attention import Partial, finished
from ..golden.merge import merge
from .attention_operations import Mode, Operations, Run
from .trace import Trace
from .unit import Items, UnitBench

__all__ = ["SplitAttentionBench"]

MOST = 8
"""Parts of an attention."""


class _Split(dict):
    """Stimulus that knows what must come out."""

    expected: Items


class SplitAttentionBench(UnitBench):
    """Rows cut into up to 8 parts, which come in any order; some lanes see no row of some parts, or of all."""

    def _add(self, stimulus: _Split, operations: Operations, whole: Run, pieces: list[tuple[int, int]], phi: int | None = None) -> None:
        """One attention: the rows of ``whole`` piece by piece."""
        merged: list[Partial] = []
        for start, end in pieces:
            parts = operations.add_runs([self._cut(whole, start, end)], Mode(phi, partial=True))
            merged = [merge(*pair) for pair in zip(merged, parts, strict=True)] if merged else parts
        stimulus["i_reduce"].append({"lanes": len(merged), "parts": len(pieces)})
        for part in merged:
            x, exponent = finished(part, self.config)
            stimulus.expected["o"] += operations.words(x, "x")
            stimulus.expected["o_exponent"].append({"exponent": exponent})

    def _begun(self, seed: int) -> tuple[_Split, Operations]:
        operations = Operations(self.config, seed)
        streams = operations.streams
        stimulus = _Split(i_command=streams["commands"], i_query=streams["queries"], i_lane=streams["lanes"], i_rows=streams["rows"],
                          i_reduce=[])
        stimulus.expected = {"o": [], "o_exponent": []}
        return stimulus, operations

    def _random(self, seed: int, counts: list[int]) -> Items:
        """Attentions of so many parts each."""
        stimulus, operations = self._begun(seed)
        order = random.Random(seed)
        for count in counts:
            lanes = order.randint(1, self.config.query_lanes)
            words = order.randint(1, self.config.max_head_dim // self.config.vector_lanes)
            whole = operations.random_run(lanes, words, order.randint(count, 12 + count), order.choice((1, 4, 40)))
            cuts = [0, *sorted(order.sample(range(1, len(whole.k)), count - 1)), len(whole.k)]
            pieces = list(pairwise(cuts))
            order.shuffle(pieces)
            self._add(stimulus, operations, whole, pieces, operations.random_mode().phi)
        return stimulus

    @staticmethod
    def _cut(run: Run, start: int, end: int) -> Run:
        """Rows ``start .. end - 1``."""
        starts, limits = (np.clip(np.asarray(bound) - start, 0, end - start) for bound in (run.starts, run.limits))
        return run._replace(starts=starts, limits=limits,
                            **{name: getattr(run, name)[start:end] for name in ("k", "k_scales", "v", "v_scales")})

    def stimulus(self, rng: random.Random, case: str) -> Items:
        return self._random(rng.getrandbits(32), rng.sample(range(1, MOST + 1), 4))

    def boundary(self) -> Items:
        return self._random(0, [1, MOST, 1, 2])

    def latency_stimulus(self) -> Items:
        """Two parts of all lanes and the largest head, with hardly any rescaling."""
        stimulus, operations = self._begun(0)
        lanes, rows = self.config.query_lanes, 16
        run = operations.random_run(lanes, self.config.max_head_dim // self.config.vector_lanes, 2 * rows, 0)
        flat = [[0x8000, -40]] * 2 * rows
        self._add(stimulus, operations, run._replace(starts=np.zeros(lanes, int), limits=np.full(lanes, 2 * rows), k_scales=flat,
                                                     v_scales=flat), [(0, rows), (rows, 2 * rows)])
        return stimulus

    def expected(self, stimulus: Items) -> Items:
        assert isinstance(stimulus, _Split)
        return stimulus.expected

    def measure(self, trace: Trace) -> dict[str, int]:
        """Most cycles per row of the second part."""
        beats = trace.accepted["i_rows"]
        starts = beats[len(beats) // 2::self.config.max_record_beats]
        return {"interval": max(b - a for a, b in pairwise(starts))}
