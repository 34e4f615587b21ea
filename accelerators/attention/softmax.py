"""Streaming softmax: dot products in, weights of V rows out, one (row, lane) per cycle."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig
from ..exp import POW2_LATENCY, pow2_negative
from ..pipeline import Pipeline
from ..streams import ROUND_TRIP, CreditQueue, connect
from .formats import WEIGHT_BITS, row_sum_bits, score_layout, state_layout, weight_drops, weight_layout
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

    Parameters
    ----------
    config : AcceleratorConfig
        ``query_lanes``, ``logit_frac_bits`` (F), ``probability_bits`` (B), ``exp_segments``, ``max_context``,
        ``max_head_dim`` and ``kv_bits`` matter.

    Members
    -------
    i : In(stream of score_layout)
        One (row, lane): rows in order, all lanes of a row, lane 0 first. Without ``attention_runs`` the rows that a lane
        sees come before those that it does not. The same lane twice in a row costs a cycle.
    o_weight : Out(stream of weight_layout)
        For every item: factor of the V row and shift of the lane's accumulators; both 0 if the lane does not
        see the row.
    o_total : Out(stream of state_layout)
        For every item with ``final``: sum (B fraction bits) and exponent t, which counts if ``defined``: then
        ``sum`` is at least ``2**(B-1)``, or ``2**22`` below a unified maximum.
    missed, passed : Out(32)
        With ``attention_modes``: lanes since reset that left the unified maximum, for either reason.
    o_probability : Out(stream of probability_layout)
        With ``cache = "evict"``, for every item: what ``AttentionWeights`` takes, 5 cycles before the weight.

    Latency: 24 cycles. Interval: 1 cycle. ``query_lanes`` (3 at least) totals can wait; then no
    further ``final`` item is taken.
    """

    latency = DEPTH + CreditQueue.latency
    interval = 1

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__({
            "i": In(stream.Signature(score_layout(config))),
            "o_weight": Out(stream.Signature(weight_layout(config))),
            "o_total": Out(stream.Signature(state_layout(config))),
            **({"missed": Out(32), "passed": Out(32)} if config.attention_modes else {}),
            **({"o_probability": Out(stream.Signature(probability_layout(config)))} if config.cache == "evict" else {}),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "Softmax":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        config = self.config
        frac, bits = config.logit_frac_bits, config.probability_bits
        pipeline = Pipeline(m)
        register = pipeline.register

        accepted = self.i.valid & self.i.ready
        previous, recent = register(self.i.p.lane), register(accepted, reset=True)
        m.submodules.weights = weights = CreditQueue(self.o_weight.p.shape(), DEPTH + ROUND_TRIP)
        m.submodules.totals = totals = CreditQueue(self.o_total.p.shape(), max(config.query_lanes, 3))
        connect(m, weights.o, wiring.flipped(self.o_weight))
        connect(m, totals.o, wiring.flipped(self.o_total))
        open_ = weights.credit & (totals.credit | ~self.i.p.final) & ~(recent & (previous == self.i.p.lane))
        taps = None
        if config.cache == "evict":
            m.submodules.taps = taps = CreditQueue(self.o_probability.p.shape(), PROBABILITY_DEPTH + ROUND_TRIP)
            connect(m, taps.o, wiring.flipped(self.o_probability))
            m.d.comb += taps.spend.eq(accepted)
            open_ &= taps.credit
        m.d.comb += [
            self.i.ready.eq(open_), weights.spend.eq(accepted), totals.spend.eq(accepted & self.i.p.final),
        ]

        # Logit and its ceiling: 8 stages. The running maximum: two more, one for its memory.
        logit = self._logit(pipeline)
        ceiling = register((logit + ((1 << frac) - 1))[frac:].as_signed())
        logit, valid, item = register(logit), register(accepted, 8, reset=True), register(self.i.p, 8)
        peak = register(self._peak(m, pipeline, valid, item, ceiling))
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
            weights.i.p.factor.eq(register(Mux(large, dropped, weight))),
            weights.i.p.coarse.eq(register(coarse)),
            weights.i.p.shift.eq(register(shift, 5)),
            weights.i.p.last.eq(register(item.last, 5)),
            totals.i.p.sum.eq(register(self._total(m, pipeline, valid, item, moved, p), 4)),
            totals.i.p.exponent.eq(register(peak.top, 5)),
            totals.i.p.defined.eq(register(peak.defined, 5)),
            weights.i.valid.eq(register(valid, 5, reset=True)),
            totals.i.valid.eq(register(valid & item.final, 5, reset=True)),
        ]
        if taps is not None:
            m.d.comb += [taps.i.valid.eq(valid), taps.i.p.p.eq(p), taps.i.p.maximum.eq(peak.maximum), taps.i.p.lane.eq(item.lane),
                         taps.i.p.last.eq(item.final & item.last)]
        if config.attention_modes:
            m.d.comb += [totals.i.p.maximum.eq(register(peak.maximum, 5)),
                         *(totals.i.p[name].eq(register(item[name], 5)) for name in ("merge", "partial"))]
        return m

    def _logit(self, pipeline: Pipeline) -> Value:
        """``dot * query * key`` in F fraction bits, saturated to F + 12 bits: 7 stages."""
        register, item = pipeline.register, self.i.p
        frac = self.config.logit_frac_bits
        scale = register(item.query.mantissa * item.key.mantissa)
        right = register(-(item.query.exponent + item.key.exponent + 23 + frac))
        dot = register(item.dot)

        scale = register((scale + (1 << 14))[15:])
        left, right = register(right < 0), register(Mux(right >= 64, 63, right)[:6])
        dot = register(dot)

        product = pipeline.multiply(dot, scale)
        left, right = register(left, 2), register(right, 2)

        doubled = product << 1
        coarse = register(doubled >> (right & 0x38))
        zero, left, fine = register(product == 0), register(left), register(right[:3])

        shifted = register(coarse >> fine)
        zero, left = register(zero), register(left)

        rounded = (shifted + 1) >> 1
        high = rounded[frac + 11:]
        negative = shifted[-1]
        logit = Signal(signed(frac + 12))
        with pipeline.m.If(left & zero):
            pipeline.m.d.comb += logit.eq(0)
        with pipeline.m.Elif(left | (high.any() & ~high.all())):
            pipeline.m.d.comb += logit.eq(Cat((~negative).replicate(frac + 11), negative))
        with pipeline.m.Else():
            pipeline.m.d.comb += logit.eq(rounded)
        return register(logit)

    def _peak(self, m: Module, pipeline: Pipeline, valid: Value, item: data.View,
              ceiling: Value) -> data.View:
        """Running maximum and top V exponent of the item's lane, before and after it, one stage later."""
        runs, modes = self.config.attention_runs, self.config.attention_modes
        state = data.StructLayout({"maximum": signed(13), "top": signed(16), "defined": 1, **({"seen": 1} if runs else {}),
                                   **({"unified": 1} if modes else {})})
        depth = max(self.config.query_lanes, 2)
        m.submodules.peaks = peaks = memory.Memory(shape=state, depth=depth, init=[])
        read, write = peaks.read_port(domain="comb"), peaks.write_port()
        peak = Signal(data.StructLayout({
            "maximum": signed(13), "old_maximum": signed(13), "top": signed(16), "old_top": signed(16),
            "defined": 1, "scaled": 1, "moves": 1, "raises": 1}))
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
            m.d.sync += [self.missed.eq(self.missed + (valid & begins & item.unified & ~within)),
                         self.passed.eq(self.passed + (valid & peak.moves & old.unified))]
        return peak

    def _total(self, m: Module, pipeline: Pipeline, valid: Value, item: data.View, moved: Value,
               p: Value) -> Value:
        """Sum of probabilities of the item's lane, one stage later: two stages from read to write."""
        bits = row_sum_bits(self.config)
        m.submodules.sums = sums = memory.Memory(shape=bits, depth=max(self.config.query_lanes, 2), init=[])
        read, write = sums.read_port(domain="comb"), sums.write_port()
        kept = pipeline.register(Mux(item.first | moved[5], 0, read.data >> moved[:5]))
        m.d.comb += [
            read.addr.eq(item.lane),
            write.addr.eq(pipeline.register(item.lane)),
            write.data.eq(kept + pipeline.register(p)),
            write.en.eq(pipeline.register(valid, reset=True)),
        ]
        return write.data
