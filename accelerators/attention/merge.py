"""Merge of partial attention results: maxima, sums of probabilities and weighted sums of two sets of rows become those of all rows."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig
from ..pipeline import Pipeline
from ..streams import ROUND_TRIP, CreditQueue, StreamBuffer, connect
from .formats import mixed_layout, partial_layout

__all__ = ["PartialMerge"]

CLEAR = 32
"""A shift that clears."""

DEPTH = 3
"""Registers from ``i`` to the queue of words: coarse shifts, fine shifts, sum."""


class PartialMerge(wiring.Component):
    """Two parts of the attention of a lane, over different rows, become one (FlashAttention-2, arXiv:2307.08691, section 3.1).

    For rows that are split over passes, engines or devices (split-K, Hydragen's prefix and suffix, arXiv:2402.05099, TokenRing,
    arXiv:2412.20501): ``Finish`` divides once, behind the last merge. All rescaling is by shifts, as within a part::

        i_parts --> shifts of both -.-> sums of probabilities --> o_part
        i       --> word of a, of b '-> shift, shift, add ------> o

    Parameters
    ----------
    config : AcceleratorConfig
        As for ``Mix`` and ``Finish``. Both parts together have at most ``max_context`` rows.

    Members
    -------
    i_parts : In(stream of {a, b: partial_layout})
        One per lane.
    i : In(stream of {a, b: vector_lanes sums, last})
        The lane's weighted sums, word by word. Of a part that is not ``defined`` they do not matter.
    o_part : Out(stream of partial_layout)
        One per lane, offered before its words are taken.
    o : Out(stream of mixed_layout)

    Latency: ``latency`` cycles from ``i`` to ``o``; 3 cycles from ``i_parts`` to ``o_part``, when the lane before has ended. Interval:
    1 cycle per word, 3 cycles more per lane.
    """

    latency = DEPTH + CreditQueue.latency
    interval = None

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        part, word = partial_layout(config), mixed_layout(config).members["sums"]
        super().__init__({
            "i_parts": In(stream.Signature(data.StructLayout({"a": part, "b": part}))),
            "i": In(stream.Signature(data.StructLayout({"a": word, "b": word, "last": 1}))),
            "o_part": Out(stream.Signature(part)),
            "o": Out(stream.Signature(mixed_layout(config))),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "PartialMerge":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        m.submodules.results = results = CreditQueue(self.o.p.shape(), DEPTH + ROUND_TRIP)
        connect(m, results.o, wiring.flipped(self.o))
        m.submodules.merged = merged = StreamBuffer(self.o_part.p.shape())
        connect(m, merged.o, wiring.flipped(self.o_part))
        pipeline = Pipeline(m)
        register = pipeline.register

        # Of each lane: what either part must move down by.
        parts = Signal.like(self.i_parts.p)
        sides = (parts.a, parts.b)
        open_, taken = Signal(), Signal()
        maximum, exponent = Signal(signed(16)), Signal(signed(16))
        seen, defined = [side.sum != 0 for side in sides], [side.defined for side in sides]
        sum_shifts, word_shifts = [Signal(6) for _ in sides], [Signal(6) for _ in sides]

        def larger(values, valid):
            a, b = values
            return Mux(valid[0] & (~valid[1] | (a > b)), a, Mux(valid[1], b, 0))

        def limited(distance):
            return Mux(distance >= CLEAR, CLEAR, distance)

        sums = [Mux(shift == CLEAR, 0, side.sum >> shift[:5]) for side, shift in zip(sides, sum_shifts, strict=True)]
        m.d.comb += [
            merged.i.p.sum.eq(sums[0] + sums[1]), merged.i.p.maximum.eq(maximum), merged.i.p.exponent.eq(exponent),
            merged.i.p.defined.eq(parts.a.defined | parts.b.defined),
            self.i.ready.eq(open_ & results.credit), taken.eq(self.i.valid & self.i.ready),
            results.spend.eq(taken),
        ]
        with m.FSM():
            with m.State("PARTS"):
                m.d.comb += self.i_parts.ready.eq(1)
                m.d.sync += parts.eq(self.i_parts.p)
                with m.If(self.i_parts.valid):
                    m.next = "LARGER"
            with m.State("LARGER"):
                m.d.sync += [maximum.eq(larger([side.maximum for side in sides], seen)),
                             exponent.eq(larger([side.exponent for side in sides], defined))]
                m.next = "SHIFTS"
            with m.State("SHIFTS"):
                for side, sum_shift, word_shift in zip(sides, sum_shifts, word_shifts, strict=True):
                    down = maximum - side.maximum
                    m.d.sync += [sum_shift.eq(Mux(side.sum != 0, limited(down), CLEAR)),
                                 word_shift.eq(Mux(side.defined, limited(down + exponent - side.exponent), CLEAR))]
                m.next = "PART"
            with m.State("PART"):
                m.d.comb += merged.i.valid.eq(1)
                with m.If(merged.i.ready):
                    m.next = "WORDS"
            with m.State("WORDS"):
                m.d.comb += open_.eq(1)
                with m.If(taken & self.i.p.last):
                    m.next = "PARTS"

        def moved(value, shift):
            """``value >> shift`` in two registers, 0 for ``CLEAR``."""
            coarse = register(Mux(shift[5], 0, value >> Cat(0, 0, 0, shift[3:5])).as_signed())
            return register(coarse >> register(shift[:3]))

        for a, b, total in zip(self.i.p.a, self.i.p.b, results.i.p.sums, strict=True):
            m.d.comb += total.eq(register(moved(a, word_shifts[0]) + moved(b, word_shifts[1])))
        m.d.comb += [results.i.valid.eq(register(taken, DEPTH, reset=True)), results.i.p.last.eq(register(self.i.p.last, DEPTH))]
        return m
