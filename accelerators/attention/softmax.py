"""Streaming softmax: dot products in, weights of V rows out, a lane (or some side by side) per cycle."""

from itertools import pairwise
from typing import NamedTuple

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig
from ..exp import POW2_LATENCY, pow2_negative
from ..integers import ceil_div
from ..pipeline import Pipeline
from ..streams import ROUND_TRIP, CreditQueue, connect
from .formats import WEIGHT_BITS, row_sum_bits, score_layout, side_by_side, state_layout, ways_of, weight_drops, weight_layout
from .logit import scaled_logit
from .weights import probability_layout

__all__ = ["Softmax"]

CLEAR = 32
"""Rescaling shift that clears."""

DEPTH = 17 + POW2_LATENCY
"""Registers from a score to the queue of weights."""

PROBABILITY_DEPTH = DEPTH - 5
"""Registers from a score to its probability."""


def clipped(value: Value, limit: int) -> Value:
    """The smaller of an unsigned value and ``limit`` (a power of two)."""
    bits = limit.bit_length() - 1
    return Mux(value[bits:].any(), limit, value[:bits])


class _Lane(NamedTuple):
    """An item 5 stages before the queues, if there is one (``valid``): its probability, its lane's maximum; at an earlier stage,
    whether its lane has just left a unified maximum."""

    valid: Value
    item: data.View
    p: Value
    peak: data.View
    leaves: data.View


class Softmax(wiring.Component):
    """Online softmax (FlashAttention-2, arXiv:2307.08691) in integers (after ITA, arXiv:2307.03493).

    Scales a dot product to a base-2 logit, keeps the running maximum (an integer, so that rescaling is a
    shift), the sum of probabilities and the largest V exponent of each lane, and weighs the lane's V row::

        dot, scales -> logit -> m' = max(m, ceil) -> p = 2^-(m' - logit) -> l' = (l >> m' - m) + p -> o_total
                                t' = max(t, v.exponent)          '--------> p * v.mantissa >> ...  -> o_weight

    With ``attention_modes`` an operation may have a *unified* maximum (FlashDecoding++, arXiv:2311.01282, section 3), so that nothing
    is rescaled: if the ceil of a lane's first row lies in ``phi - W .. phi`` (W = ``unified_window``), its maximum is ``phi`` from then
    on. The paper finds rows outside of the window at the end, and computes them once more. Here rows come one after another, and what
    the running maximum needs is at hand: a lane goes on with it, at once and for good, if its first row is out of the window
    (``missed``) or a later row is above ``phi`` (``passed``); no row is read twice. That later rows lie far below needs nothing: the
    first row alone keeps the sum at ``2**(B-1-W)`` or more, so the lane is as exact as a running maximum with ``B - W`` = 23
    probability bits.

    ``softmax_ways`` lanes of a row go side by side through as many copies of all this: lanes have nothing in common but their V row.

    Parameters
    ----------
    config : AcceleratorConfig
        ``query_lanes``, ``row_cycles``, ``logit_frac_bits`` (F), ``probability_bits`` (B), ``exp_segments``, ``max_context``,
        ``max_head_dim`` and ``kv_bits`` matter.

    Members
    -------
    i : In(stream of score_layout, of lanes side by side)
        One (row, lane): rows in order, all lanes of a row, lane 0 first. Without ``attention_runs`` the rows that a lane
        sees come before those that it does not. The same lane (or group of them) twice in a row costs a cycle.
    o_weight : Out(stream of weight_layout, of lanes side by side)
        For every item: factor of the V row and shift of the lane's accumulators; both 0 if the lane does not
        see the row.
    o_total : Out(stream of state_layout)
        For every lane of an item with ``final``, one after the other: sum (B fraction bits) and exponent t, which counts if
        ``defined``: then ``sum`` is at least ``2**(B-1)``, or ``2**22`` below a unified maximum.
    missed, passed : Out(32)
        With ``attention_modes``: lanes since reset that left the unified maximum, for either reason.
    passes : Out(1)
        With ``attention_modes``: ``passed`` has just grown.
    o_probability : Out(stream of probability_layout)
        With ``cache = "evict"``, for every item: what ``AttentionWeights`` takes, 5 cycles before the weight.

    Latency: 24 cycles. Interval: 1 cycle. Totals of all lanes (of 3 items at least) can wait; then no
    further ``final`` item is taken.
    """

    latency = DEPTH + CreditQueue.latency
    interval = 1

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        self._groups = max(ceil_div(config.query_lanes, config.softmax_ways), 2)
        super().__init__({
            "i": In(stream.Signature(side_by_side(config, score_layout(config)))),
            "o_weight": Out(stream.Signature(side_by_side(config, weight_layout(config)))),
            "o_total": Out(stream.Signature(state_layout(config))),
            **({"missed": Out(32), "passed": Out(32), "passes": Out(1)} if config.attention_modes else {}),
            **({"o_probability": Out(stream.Signature(probability_layout(config)))} if config.cache == "evict" else {}),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "Softmax":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        config = self.config
        register = Pipeline(m).register
        items = ways_of(config, self.i.p)
        first = items[0]  # what lanes have in common is that of each of them

        accepted = self.i.valid & self.i.ready
        previous, recent = register(first.lane), register(accepted, reset=True)
        m.submodules.weights = weights = CreditQueue(self.o_weight.p.shape(), DEPTH + ROUND_TRIP)
        present = {"present": 1} if len(items) > 1 else {}
        total = side_by_side(config, data.StructLayout({**self.o_total.p.shape().members, **present}))
        m.submodules.totals = totals = CreditQueue(total, max(ceil_div(config.query_lanes, len(items)), 3))
        connect(m, weights.o, wiring.flipped(self.o_weight))
        if len(items) > 1:
            self._one_by_one(m, totals.o)
        else:
            connect(m, totals.o, wiring.flipped(self.o_total))
        open_ = weights.credit & (totals.credit | ~first.final) & ~(recent & (previous == first.lane))
        taps = None
        if config.cache == "evict":
            m.submodules.taps = taps = CreditQueue(self.o_probability.p.shape(), PROBABILITY_DEPTH + ROUND_TRIP)
            connect(m, taps.o, wiring.flipped(self.o_probability))
            m.d.comb += taps.spend.eq(accepted)
            open_ &= taps.credit
        m.d.comb += [
            self.i.ready.eq(open_), weights.spend.eq(accepted), totals.spend.eq(accepted & first.final),
        ]
        lanes = [self._lane(m, f"_{way}" if way else "", accepted, *ends)
                 for way, ends in enumerate(zip(items, ways_of(config, weights.i.p), ways_of(config, totals.i.p), strict=True))]
        valid, item, p, peak, _ = lanes[0]
        m.d.comb += [weights.i.valid.eq(register(valid, 5, reset=True)), totals.i.valid.eq(register(valid & item.final, 5, reset=True))]
        if taps is not None:
            m.d.comb += [taps.i.valid.eq(valid), taps.i.p.p.eq(p), taps.i.p.maximum.eq(peak.maximum), taps.i.p.lane.eq(item.lane),
                         taps.i.p.last.eq(item.final & item.last)]
        if config.attention_modes:
            m.d.sync += [self.missed.eq(self.missed + sum(lane.leaves.missed for lane in lanes)),
                         self.passed.eq(self.passed + sum(lane.leaves.passed for lane in lanes)),
                         self.passes.eq(Cat(lane.leaves.passed for lane in lanes).any())]
        return m

    def _lane(self, m: Module, suffix: str, accepted: Value, item: data.View, weight_out: data.View, total_out: data.View) -> _Lane:
        """What becomes of an item, up to both queues. ``suffix``: of the names of memories."""
        config = self.config
        frac, bits = config.logit_frac_bits, config.probability_bits
        pipeline = Pipeline(m)
        register = pipeline.register

        # Logit and its ceiling: 8 stages. The running maximum: two more, one for its memory.
        logit = scaled_logit(pipeline, item, frac)
        ceiling = register((logit + ((1 << frac) - 1))[frac:].as_signed())
        logit, valid, item = register(logit), register(accepted, 8, reset=True), register(item, 8)
        peak = leaves = register(self._peak(m, suffix, pipeline, valid, item, ceiling))
        logit, valid, item = register(logit, 2), register(valid, 2, reset=True), register(item, 2)

        # Differences: one stage.
        moved = register(Mux(peak.moves, peak.maximum - peak.old_maximum, 0)[:13])
        raised = register(Mux(peak.raises, peak.top - peak.old_top, 0)[:16])
        below = register((peak.top - item.value.exponent)[:16])
        u = register((peak.maximum.shift_left(frac) - logit)[:frac + 13])
        valid, item, peak = register(valid, reset=True), register(item), register(peak)

        # The probability.
        p = pow2_negative(pipeline, u, frac_bits=frac, probability_bits=bits, segments=config.exp_segments)
        shift = register(register(clipped(moved + raised, CLEAR)), POW2_LATENCY - 1)
        moved = register(register(clipped(moved, CLEAR)), POW2_LATENCY - 1)
        below = register(register(clipped(below, CLEAR)), POW2_LATENCY - 1)
        valid = register(valid, POW2_LATENCY, reset=True)
        item, peak = register(item, POW2_LATENCY), register(peak, POW2_LATENCY)
        p, mantissa = register(Mux(item.visible, p, 0)), register(Mux(peak.scaled, item.value.mantissa, 0))
        shift, moved, below = register(shift), register(moved), register(below)
        valid, item, peak = register(valid, reset=True), register(item), register(peak)

        # Weight: probability times V mantissa, shifted to the lane's exponent, in one of the ranges; 5 stages
        product = pipeline.multiply(p, mantissa)
        below = register(below, 2)
        half_steps = register(Mux(below[5], 0, product[15:] >> below[:5]))
        weight = register((half_steps + 1)[1:bits + 2])
        drops = weight_drops(config)
        rounded = [(weight + (1 << drop >> 1)) >> drop for drop in drops]
        large, coarse, dropped = Const(0, 1), Const(0, 1), rounded[-1]
        if drops[1:]:  # rounding in the middle range must not need an 18th bit: it ends one bit earlier
            large, largest = weight[WEIGHT_BITS:].any(), weight[WEIGHT_BITS - 1 + drops[1]:].any()
            coarse, dropped = Mux(large, Cat(~largest, largest), 0), Mux(largest, rounded[2], rounded[1])
        m.d.comb += [
            weight_out.factor.eq(register(Mux(large, dropped, weight))),
            weight_out.coarse.eq(register(coarse)),
            weight_out.shift.eq(register(shift, 5)),
            weight_out.last.eq(register(item.last, 5)),
            total_out.sum.eq(register(self._total(m, suffix, pipeline, valid, item, moved, p), 4)),
            total_out.exponent.eq(register(peak.top, 5)),
            total_out.defined.eq(register(peak.defined, 5)),
        ]
        if config.attention_modes:
            m.d.comb += total_out.maximum.eq(register(peak.maximum, 5))
        m.d.comb += [total_out[name].eq(register(item[name], 5)) for name in ("merge", "partial", "present")
                     if name in total_out.shape().members]
        return _Lane(valid, item, p, peak, leaves)

    def _one_by_one(self, m: Module, totals: stream.Interface) -> None:
        """Totals that come side by side leave one after the other."""
        ways = ways_of(self.config, totals.p)
        way = Signal(range(len(ways)))
        last = Signal()
        m.d.comb += [self.o_total.valid.eq(totals.valid), totals.ready.eq(self.o_total.ready & last)]
        with m.If(self.o_total.valid & self.o_total.ready):
            m.d.sync += way.eq(Mux(last, 0, way + 1))
        with m.Switch(way):
            for number, (total, after) in enumerate(pairwise([*ways, None])):
                with m.Case(number):
                    m.d.comb += [last.eq(1 if after is None else ~after.present),
                                 *(self.o_total.p[name].eq(total[name]) for name in self.o_total.p.shape().members)]

    def _peak(self, m: Module, suffix: str, pipeline: Pipeline, valid: Value, item: data.View, ceiling: Value) -> data.View:
        """Running maximum and top V exponent of the item's lane, before and after it, one stage later."""
        runs, modes = self.config.attention_runs, self.config.attention_modes
        state = data.StructLayout({"maximum": signed(13), "top": signed(16), "defined": 1, **({"seen": 1} if runs else {}),
                                   **({"unified": 1} if modes else {})})
        m.submodules[f"peaks{suffix}"] = peaks = memory.Memory(shape=state, depth=self._groups, init=[])
        read, write = peaks.read_port(domain="comb"), peaks.write_port()
        peak = Signal(data.StructLayout({
            "maximum": signed(13), "old_maximum": signed(13), "top": signed(16), "old_top": signed(16),
            "defined": 1, "scaled": 1, "moves": 1, "raises": 1, **({"missed": 1, "passed": 1} if modes else {})}))
        m.d.comb += read.addr.eq(item.lane)
        register = pipeline.register
        if modes:
            below = item.phi - ceiling
            within = register(item.unified & (below >= 0) & (below <= self.config.unified_window))
        old, valid, item, ceiling = (register(read.data), register(valid, reset=True), register(item),
                                     register(ceiling))
        exponent, known = item.value.exponent, old.defined & ~item.first
        # The lane's first row; without runs an operation's first row is, or the lane sees none.
        seen = old.seen & ~item.first if runs else ~item.first
        begins = item.visible & ~seen if runs else item.first
        m.d.comb += [
            peak.scaled.eq(item.visible & (item.value.mantissa != 0)),
            peak.moves.eq(item.visible & seen & (ceiling > old.maximum)),
            peak.raises.eq(peak.scaled & known & (exponent > old.top)),
            peak.old_maximum.eq(old.maximum),
            peak.old_top.eq(old.top),
            peak.defined.eq(known | peak.scaled),
            peak.maximum.eq(Mux(begins | peak.moves, ceiling, old.maximum)),
            peak.top.eq(Mux(peak.raises | (peak.scaled & ~known), exponent, old.top)),
            write.addr.eq(item.lane),
            write.en.eq(valid),
            write.data.maximum.eq(peak.maximum),
            write.data.top.eq(peak.top),
            write.data.defined.eq(peak.defined),
        ]
        if runs:
            m.d.comb += write.data.seen.eq(seen | item.visible)
        if modes:
            with m.If(begins & within):
                m.d.comb += peak.maximum.eq(item.phi)
            m.d.comb += write.data.unified.eq(Mux(begins, within, old.unified & ~peak.moves))
            m.d.comb += [peak.missed.eq(valid & begins & item.unified & ~within), peak.passed.eq(valid & peak.moves & old.unified)]
        return peak

    def _total(self, m: Module, suffix: str, pipeline: Pipeline, valid: Value, item: data.View, moved: Value,
               p: Value) -> Value:
        """Sum of probabilities of the item's lane, one stage later: two stages from read to write."""
        bits = row_sum_bits(self.config)
        m.submodules[f"sums{suffix}"] = sums = memory.Memory(shape=bits, depth=self._groups, init=[])
        read, write = sums.read_port(domain="comb"), sums.write_port()
        kept = pipeline.register(Mux(item.first | moved[5], 0, read.data >> moved[:5]))
        m.d.comb += [
            read.addr.eq(item.lane),
            write.addr.eq(pipeline.register(item.lane)),
            write.data.eq(kept + pipeline.register(p)),
            write.en.eq(pipeline.register(valid, reset=True)),
        ]
        return write.data
