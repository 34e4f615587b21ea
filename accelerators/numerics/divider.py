"""Unsigned integer division, one quotient bit per cycle."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig, check_int
from .formats import MANTISSA_BITS

__all__ = ["Divider"]


class Divider(wiring.Component):
    """``numerator // denominator`` by restoring division.

    Parameters
    ----------
    numerator_bits, denominator_bits : int
        Operand widths, 1 to 128.
    quotient_bits : int
        Result width, 1 to ``numerator_bits``. A quotient that is known to be short takes only that many
        cycles.

    Members
    -------
    i : In(stream.Signature({numerator, denominator}))
        Legal: ``numerator < denominator << quotient_bits`` (else the quotient does not fit).
    o : Out(stream.Signature({quotient}))
        Truncated.

    Latency: ``quotient_bits + 1`` cycles. Interval: ``quotient_bits + 2`` cycles. A denominator of 0 is not
    legal; it gives some quotient in the usual time.
    """

    def __init__(self, numerator_bits: int, denominator_bits: int, quotient_bits: int):
        check_int("numerator_bits", numerator_bits, 1, 128)
        check_int("denominator_bits", denominator_bits, 1, 128)
        check_int("quotient_bits", quotient_bits, 1, numerator_bits)
        if numerator_bits > denominator_bits + quotient_bits:
            raise ValueError(f"numerator_bits must be at most denominator_bits + quotient_bits, not "
                             f"{numerator_bits} and {denominator_bits} + {quotient_bits}")
        self.quotient_bits = quotient_bits
        self.latency = quotient_bits + 1
        self.interval = quotient_bits + 2
        super().__init__({
            "i": In(stream.Signature(data.StructLayout({
                "numerator": numerator_bits, "denominator": denominator_bits}))),
            "o": Out(stream.Signature(data.StructLayout({"quotient": quotient_bits}))),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "Divider":
        """The one behind reciprocals: ``2**47`` by a normalized mantissa."""
        return cls(2 * MANTISSA_BITS, MANTISSA_BITS, MANTISSA_BITS + 1)

    def elaborate(self, platform):
        m = Module()
        bits = self.quotient_bits
        denominator = Signal.like(self.i.p.denominator)
        remainder = Signal.like(denominator)
        # Numerator bits still to come, from the top; quotient bits enter at the bottom.
        rest = Signal(bits)
        left = Signal(range(bits))
        busy = Signal()

        partial = Cat(rest[-1], remainder)
        difference = Signal(len(partial) + 1)
        fits = ~difference[-1]
        m.d.comb += [
            difference.eq(partial - denominator),
            self.i.ready.eq(~busy & ~self.o.valid),
            self.o.p.quotient.eq(rest),
        ]
        with m.If(busy):
            m.d.sync += [rest.eq(Cat(fits, rest)), left.eq(left - 1), remainder.eq(partial)]
            with m.If(fits):
                m.d.sync += remainder.eq(difference)
            with m.If(left == 0):
                m.d.sync += [busy.eq(0), self.o.valid.eq(1)]
        with m.Elif(self.i.valid & self.i.ready):
            m.d.sync += [
                rest.eq(self.i.p.numerator),
                remainder.eq(self.i.p.numerator >> bits),
                denominator.eq(self.i.p.denominator),
                left.eq(bits - 1),
                busy.eq(1),
            ]
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        return m
