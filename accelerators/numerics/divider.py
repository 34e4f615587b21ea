"""Unsigned integer division, one or two quotient bits per cycle."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..checks import check_int
from ..config import AcceleratorConfig
from ..integers import ceil_div
from .formats import MANTISSA_BITS

__all__ = ["Divider"]


class Divider(wiring.Component):
    """``numerator // denominator`` by restoring division.

    Parameters
    ----------
    numerator_bits, denominator_bits : int
        Operand widths, 1 to 128.
    quotient_bits : int
        Result width, 1 to ``numerator_bits``. A quotient that is known to be short takes only as many steps.
    bits_per_cycle : int
        1 or 2: quotient bits of a cycle, with one subtractor or three beside each other.

    Members
    -------
    i : In(stream.Signature({numerator, denominator}))
        Legal: ``numerator < denominator << quotient_bits`` (else the quotient does not fit).
    o : Out(stream.Signature({quotient}))
        Truncated.

    Latency: ``ceil(quotient_bits / bits_per_cycle) + 1`` cycles. Interval: one cycle more. A denominator of 0 is not
    legal; it gives some quotient in the usual time.
    """

    def __init__(self, numerator_bits: int, denominator_bits: int, quotient_bits: int, bits_per_cycle: int = 1):
        check_int("numerator_bits", numerator_bits, 1, 128)
        check_int("denominator_bits", denominator_bits, 1, 128)
        check_int("quotient_bits", quotient_bits, 1, numerator_bits)
        check_int("bits_per_cycle", bits_per_cycle, 1, 2)
        if numerator_bits > denominator_bits + quotient_bits:
            raise ValueError(f"numerator_bits must be at most denominator_bits + quotient_bits, not "
                             f"{numerator_bits} and {denominator_bits} + {quotient_bits}")
        self.bits_per_cycle = bits_per_cycle
        self.cycles = ceil_div(quotient_bits, bits_per_cycle)
        self.latency = self.cycles + 1
        self.interval = self.cycles + 2
        super().__init__({
            "i": In(stream.Signature(data.StructLayout({
                "numerator": numerator_bits, "denominator": denominator_bits}))),
            "o": Out(stream.Signature(data.StructLayout({"quotient": quotient_bits}))),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "Divider":
        """The one behind reciprocals: ``2**47`` by a normalized mantissa."""
        return cls(2 * MANTISSA_BITS, MANTISSA_BITS, MANTISSA_BITS + 1, bits_per_cycle=2)

    def elaborate(self, platform):
        m = Module()
        bits = self.cycles * self.bits_per_cycle  # quotient bits, with zeros above when they do not divide evenly
        denominator = Signal.like(self.i.p.denominator)
        remainder = Signal.like(denominator)
        # Numerator bits still to come, from the top; quotient bits enter at the bottom.
        rest = Signal(bits)
        left = Signal(range(self.cycles))
        busy = Signal()

        partial = Cat(rest[bits - self.bits_per_cycle:], remainder)
        multiples, digits, reduced = [denominator], Signal(self.bits_per_cycle), Signal.like(remainder)
        if self.bits_per_cycle == 2:
            triple = Signal(len(denominator) + 2)
            multiples += [denominator << 1, triple]
        m.d.comb += reduced.eq(partial)
        for digit, multiple in enumerate(multiples, 1):
            difference = Signal(len(partial) + 1, name=f"difference_{digit}")
            m.d.comb += difference.eq(partial - multiple)
            with m.If(~difference[-1]):
                m.d.comb += [digits.eq(digit), reduced.eq(difference)]
        m.d.comb += [
            self.i.ready.eq(~busy & ~self.o.valid),
            self.o.p.quotient.eq(rest),
        ]
        with m.If(busy):
            m.d.sync += [rest.eq(Cat(digits, rest)), left.eq(left - 1), remainder.eq(reduced)]
            with m.If(left == 0):
                m.d.sync += [busy.eq(0), self.o.valid.eq(1)]
        with m.Elif(self.i.valid & self.i.ready):
            m.d.sync += [
                rest.eq(self.i.p.numerator),
                remainder.eq(self.i.p.numerator >> bits),
                denominator.eq(self.i.p.denominator),
                left.eq(self.cycles - 1),
                busy.eq(1),
            ]
            if self.bits_per_cycle == 2:
                m.d.sync += triple.eq(self.i.p.denominator + (self.i.p.denominator << 1))
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        return m
