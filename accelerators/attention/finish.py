"""End of an operation: one division per lane, one multiplication per element."""

from amaranth.hdl import Cat, Module, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig
from ..pipeline import Pipeline
from ..streams import ROUND_TRIP, CreditQueue, Queue, connect
from .formats import EXPONENT, mixed_layout, result_layout, row_sum_bits, total_layout

__all__ = ["FACTOR_BITS", "NO_VALUE_EXPONENT", "RECIPROCAL_BITS", "Finish"]

RECIPROCAL_BITS = 17
"""Width of the reciprocal of the sum of probabilities."""

FACTOR_BITS = 35
"""Width of the sums in the product with the reciprocal: 18 + 17 bits, two multipliers."""

NO_VALUE_EXPONENT = -1024
"""Exponent of a lane that saw no V scale: below all in use, so that it never is the largest."""

DEPTH = 6
"""Registers from ``i`` to the queue of results: shifts by whole bytes and by bits, operands, products, their sum, rounding."""

FACTOR_DEPTH = 3
"""Those before the products."""


class Finish(wiring.Component):
    """Divides the weighted sums of each lane by its sum of probabilities.

    ``R = min(2**(lb + 16) // sum, 2**17 - 1)`` with ``lb = bit_length(sum)``, a bit per cycle;
    ``x = round_shift((sums << z >> pre) * R, post)``, ``z`` being the leading zeros of ``sum``: so a short text, whose sums are small,
    loses nothing. The next lane's division runs while this lane's words pass.

    Parameters
    ----------
    config : AcceleratorConfig
        The shifts ``pre`` and ``post`` follow from the accumulator width A: ``max(0, A + 1 - 35)`` and ``max(0, A + 1 - pre - 15)``.

    Members
    -------
    i : In(stream of mixed_layout)
        Sums, lane after lane.
    i_total : In(stream of total_layout)
        One per lane.
    o : Out(stream of result_layout)
        ``|x| < 2**31``; the value is ``x * 2**exponent``.
    o_exponent : Out(stream of {exponent: signed(16)})
        One per lane, given before the lane's first word.

    Latency: 8 cycles from ``i`` to ``o`` once the reciprocal is there, which takes 21 cycles from
    ``i_total`` and one or more for leading zeros of the sum (4 or 1 of them per cycle). Interval: 1 cycle
    per word; a lane takes at least as long as its reciprocal.
    """

    interval = None

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        self.latency = DEPTH + CreditQueue.latency
        width = config.accumulator_bits + 1
        self.before = max(0, width - FACTOR_BITS)
        self.after = max(0, width - self.before + RECIPROCAL_BITS - 32)
        super().__init__({
            "i": In(stream.Signature(mixed_layout(config))),
            "i_total": In(stream.Signature(total_layout(config))),
            "o": Out(stream.Signature(result_layout(config))),
            "o_exponent": Out(stream.Signature(EXPONENT)),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "Finish":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        config = self.config
        reciprocal, exponent = Signal(RECIPROCAL_BITS), Signal(signed(16))
        divided, taken = Signal(), Signal()
        zeros = Signal(6)
        self._divide(m, reciprocal, exponent, zeros, divided, taken)

        factor, ready = Signal(RECIPROCAL_BITS), Signal()
        pipeline = Pipeline(m)
        register = pipeline.register
        m.submodules.exponents = exponents = Queue(EXPONENT, max(config.query_lanes, 3))
        connect(m, exponents.o, wiring.flipped(self.o_exponent))
        m.submodules.results = results = CreditQueue(self.o.p.shape(), DEPTH + ROUND_TRIP)
        connect(m, results.o, wiring.flipped(self.o))
        accepted = self.i.valid & self.i.ready
        m.d.comb += [
            taken.eq(divided & ~ready & exponents.i.ready),
            exponents.i.valid.eq(divided & ~ready),
            exponents.i.p.exponent.eq(exponent),
            self.i.ready.eq(results.credit & ready),
            results.spend.eq(accepted),
            results.i.valid.eq(register(accepted, DEPTH, reset=True)),
            results.i.p.last.eq(register(self.i.p.last, DEPTH)),
        ]
        with m.If(taken):
            m.d.sync += [factor.eq(reciprocal), ready.eq(1)]
        with m.Elif(accepted & self.i.p.last):
            m.d.sync += ready.eq(0)
        half = 1 << self.after >> 1
        multiplier, left = register(factor, FACTOR_DEPTH), Signal.like(zeros)
        with m.If(taken):
            m.d.sync += left.eq(zeros)
        fine = register(left[:3])
        for sums, x in zip(self.i.p.sums, results.i.p.x, strict=True):
            width = len(sums) + 1
            whole_bytes = register((sums << Cat(0, 0, 0, left[3:]))[:width])
            normalized = register((whole_bytes << fine)[:width])
            product = pipeline.multiply(register(normalized[self.before:].as_signed()), multiplier)
            m.d.comb += x.eq(register(((product + half) >> self.after)[:32].as_signed()))
        return m

    def _divide(self, m: Module, reciprocal: Signal, exponent: Signal, zeros: Signal, done: Signal, taken: Signal) -> None:
        """Normalize (by 4 or 1 bits per cycle; the sums are to be shifted as far), then restoring division, a bit per cycle."""
        bits = row_sum_bits(self.config)
        divisor, remainder = Signal(bits), Signal(bits + 1)
        step = Signal(range(RECIPROCAL_BITS))
        doubled = Signal(bits + 1)
        m.d.comb += doubled.eq(remainder << 1)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.i_total.ready.eq(1)
                m.d.sync += [
                    divisor.eq(self.i_total.p.sum),
                    exponent.eq(self.i_total.p.exponent + (self.before + self.after - bits)),
                    reciprocal.eq(0),
                    zeros.eq(0),
                ]
                with m.If(self.i_total.valid):
                    m.next = "NORMALIZE"
                    with m.If(~self.i_total.p.defined):
                        m.d.sync += exponent.eq(NO_VALUE_EXPONENT)
                        m.next = "DONE"
            with m.State("NORMALIZE"):
                m.d.sync += [remainder.eq(1 << (bits - 1)), step.eq(0)]
                with m.If(divisor[-1]):
                    m.next = "DIVIDE"
                with m.Elif(divisor[-4:].any()):
                    m.d.sync += [divisor.eq(divisor << 1), zeros.eq(zeros + 1)]
                with m.Else():
                    m.d.sync += [divisor.eq(divisor << 4), zeros.eq(zeros + 4)]
            with m.State("DIVIDE"):
                fits = doubled >= divisor
                m.d.sync += [remainder.eq(doubled), reciprocal.eq(reciprocal << 1 | fits), step.eq(step + 1)]
                with m.If(fits):
                    m.d.sync += remainder.eq(doubled - divisor)
                with m.If(step == RECIPROCAL_BITS - 1):
                    m.next = "DONE"
            with m.State("DONE"):
                m.d.comb += done.eq(1)
                with m.If(taken):
                    m.next = "IDLE"
