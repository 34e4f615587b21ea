"""Cycle model of the expert unit: stretches of bundle rows, not cycles, so a layer of full size takes seconds.

Per stretch: when its row is open, its reads, with the refreshes that come between; when it may have its half of the buffer; how long
all tiles pass over it. Latencies are those of the components. ``tests/sim/test_expert_timing.py`` compares it with RTL.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import ceil

from ...accelerators.experts.attention import AttentionPath
from ...accelerators.experts.config import SLOTS, ExpertConfig
from ...accelerators.experts.core import ExpertCore
from ...accelerators.experts.dram_commands import data_cycles
from ..golden.experts import Placement, place, stretches
from .promises import promised

__all__ = ["AttentionShape", "BundleReads", "ExpertShape", "latencies", "layer_cycles", "softmax_latency", "unit_cycles"]

CUT = 3
"""Cycles from one stretch to the next in ``WeightStreamer``: its states."""

OPEN = 2
"""Cycles from a stretch to its activate on the pins."""

BUFFER = 3
"""Cycles from a word on the pins to ``WeightStreamer.o``: register, memory, buffer; also from the last word that is read in a half
of the buffer until that one is taken."""

ASK = 4
"""Cycles from the last word that is gathered until ``WeightStreamer`` has the run: states of ``TokenGather`` and ``Operation``."""

AT_END = AttentionPath.lead + 2
"""Cycles from the last position in the softmax until a word of MIX enters."""

LONG_AGO = -(1 << 30)


@dataclass(frozen=True)
class ExpertShape:
    """Words of a row of gate and up, and of a row of the unit's share of down."""

    hidden_words: int
    slice_words: int

    def sizes(self, config: ExpertConfig) -> tuple[int, int]:
        """Words of both matrices."""
        return 2 * self.slice_words * config.lanes * self.hidden_words, self.hidden_words * config.lanes * self.slice_words


@dataclass(frozen=True)
class AttentionShape:
    """Words of a row of K, words of a row of V as it is stored, and positions."""

    hidden_words: int
    slice_words: int
    positions: int

    def sizes(self, config: ExpertConfig) -> tuple[int, int]:
        """Words of both matrices."""
        return self.positions * self.hidden_words, self.hidden_words * config.lanes * self.slice_words


class BundleReads:
    """Reads of stretches, one after another, in tCK from reset; a refresh as soon as it is due."""

    def __init__(self, config: ExpertConfig):
        self.timing = config.timing
        self.late = 3 * config.timing.rrd + config.timing.faw if config.activate_limits else 0  # of the second half's activate
        self.due = config.timing.refi
        self.last_read: float = LONG_AGO
        self.ready = [0.0] * config.bundles
        self.activated: list[float] = [LONG_AGO] * config.bundles

    def stretch(self, bundle: int, reads: int, earliest: float) -> tuple[float, float]:
        """First and last read of a stretch that is known at ``earliest``."""
        timing = self.timing
        at: float = max(earliest, self.ready[bundle], self.activated[bundle] + timing.rc + self.late)
        while at >= self.due:
            at = max(at, self.due + timing.rfc)
            self.due += timing.refi
        opened, first = at + self.late, -1.0
        now = max(opened + timing.rcd, self.last_read + timing.ccd)
        while True:
            if now >= self.due:
                closed = max(self.due, self.last_read + timing.rtp, opened + timing.ras)
                at = max(closed + timing.rp, opened + timing.rc) + timing.rfc
                self.due += timing.refi
                self.ready = [at] * len(self.ready)
                opened = at + self.late
                now = max(opened + timing.rcd, self.last_read + timing.ccd)
                continue
            count = min(reads, ceil((self.due - now) / timing.ccd))
            first = now if first < 0 else first
            self.last_read, reads = now + (count - 1) * timing.ccd, reads - count
            if not reads:
                break
            now = self.last_read + timing.ccd
        self.activated[bundle] = opened
        self.ready[bundle] = max(self.last_read + timing.rtp, opened + timing.ras) + timing.rp
        return first, self.last_read


@cache
def latencies(config: ExpertConfig) -> tuple[int, int]:
    """From the last word of GATE_UP to the first of DOWN, and from its last word to the response."""
    core = promised(ExpertCore(config))
    return core.latency, core.finish


@cache
def softmax_latency(config: ExpertConfig) -> int:
    """From the last word of SCORES to the first of MIX, less a cycle per position."""
    return promised(ExpertCore(config)).softmax


def layer_cycles(config: ExpertConfig, counts: Sequence[int], shape: ExpertShape, start: int = 0) -> list[float]:
    """Cycles, from the first instruction on, until each expert with tokens is through.

    Parameters
    ----------
    counts : sequence of int
        Tokens of each expert; experts without are placed too.
    start : int
        Cycles from reset to the first instruction: refreshes go on.
    """
    places = place(config, [list(shape.sizes(config))] * len(counts))
    return unit_cycles(config, [(own, tokens, shape) for own, tokens in zip(places, counts, strict=True) if tokens], start)


def unit_cycles(config: ExpertConfig, items: Sequence[tuple[Sequence[Placement], int, ExpertShape | AttentionShape]],
                start: int = 0) -> list[float]:
    """The same for experts and attentions one behind the other: where both matrices of each are, its tokens, its shape."""
    latency, finish = latencies(config)
    unit, memory = _Unit(config, start), BundleReads(config)
    finished: list[float] = []
    freed, kept = float(start), None  # the x lanes are; the MIX of an attention that waits for the SCORES of the next one

    def mix(own: _Mix, asked: float) -> float:
        """When it begins."""
        begun = max(unit.end + 2, own.ready, start + finished[-1] if finished else 0)
        finished.append(unit.matrix(memory, own.at, 1, own.row_words, asked, begun) + finish - start)
        return begun

    for own, tokens, shape in items:
        asked = freed + tokens * shape.hidden_words + ASK
        tiles = -(-tokens // config.token_lanes)
        attention = isinstance(shape, AttentionShape)
        if kept is not None and not (attention and asked <= kept.passed):
            mix(kept, min(asked, kept.passed))
            kept = None
        # Scores never wait for each other.
        up = unit.matrix(memory, own[0], tiles, config.token_lanes if attention else shape.hidden_words, asked, unit.end + 2)
        freed = up if config.attention else up + latency
        if isinstance(shape, AttentionShape):
            begun = mix(kept, asked) if kept is not None else 0
            passed = max(up + softmax_latency(config) - AT_END, begun) + shape.positions
            kept = _Mix(own[1], shape.slice_words, passed, passed + AT_END)
        else:
            down = unit.matrix(memory, own[1], tiles, shape.slice_words, asked, up + latency)
            finished.append(down + finish - start)
    if kept is not None:
        mix(kept, kept.passed)
    return finished


@dataclass(frozen=True)
class _Mix:
    """Where V is, words of its rows, when the softmax has the last position, and when the first word may meet its p."""

    at: Placement
    row_words: int
    passed: float
    ready: float


class _Unit:
    """The streamer's two halves and the walk over their words."""

    def __init__(self, config: ExpertConfig, start: int):
        self.config, self.given, self.end = config, float(start), float(start)
        self.free = [float(start)] * 2

    def matrix(self, memory: BundleReads, at: Placement, tiles: int, row_words: int, asked: float, ready: float) -> float:
        """Cycle of the last word of a matrix, whose run is there at ``asked`` and whose words are wanted from ``ready`` on."""
        config, per_read, left = self.config, self.config.timing.ccd // SLOTS, at.words
        slow = max(1.0, config.token_lanes / row_words)  # results of short rows leave one by one
        self.given, self.end = max(self.given + 1, asked), max(self.end, ready)
        for bundle, _ in stretches(config, at):
            words = min(left, config.row_words)
            left -= words
            self.given = max(self.given + CUT, self.free[0])
            first, last = memory.stretch(bundle, -(-words // per_read), SLOTS * (self.given + OPEN))
            come = data_cycles(config) + BUFFER
            begin = max(self.end, first / SLOTS + come)
            self.end = max(begin + words * slow, last / SLOTS + come + per_read) + (tiles - 1) * words * slow
            self.free = [self.free[1], self.end - BUFFER + 1]
        return self.end
