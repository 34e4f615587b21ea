"""Integer square root, one bit per cycle."""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..checks import check_int
from ..config import AcceleratorConfig
from .formats import MANTISSA_BITS

__all__ = ["SquareRoot"]


class SquareRoot(wiring.Component):
    """``floor(sqrt(radicand))``, digit by digit.

    Parameters
    ----------
    bits : int
        Width of the root, 1 to 64; the radicand has twice as many.

    Members
    -------
    i : In(stream.Signature({radicand: 2 * bits}))
    o : Out(stream.Signature({root: bits}))

    Latency: ``bits + 1`` cycles. Interval: ``bits + 2`` cycles.
    """

    def __init__(self, bits: int):
        check_int("bits", bits, 1, 64)
        self.bits = bits
        self.latency = bits + 1
        self.interval = bits + 2
        super().__init__({
            "i": In(stream.Signature(data.StructLayout({"radicand": 2 * bits}))),
            "o": Out(stream.Signature(data.StructLayout({"root": bits}))),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "SquareRoot":
        """The one behind ``1 / sqrt`` of pseudo-floats."""
        return cls(MANTISSA_BITS)

    def elaborate(self, platform):
        m = Module()
        rest = Signal(2 * self.bits)  # radicand bits still to come, from the top
        root = Signal(self.bits)
        remainder = Signal(self.bits + 1)  # at most twice the root
        left = Signal(range(self.bits))
        busy = Signal()

        partial = Cat(rest[-2:], remainder)
        difference = Signal(len(partial) + 1)
        fits = ~difference[-1]
        m.d.comb += [
            difference.eq(partial - Cat(Const(1, 2), root)),
            self.i.ready.eq(~busy & ~self.o.valid),
            self.o.p.root.eq(root),
        ]
        with m.If(busy):
            m.d.sync += [
                rest.eq(rest << 2),
                root.eq(Cat(fits, root)),
                remainder.eq(partial),
                left.eq(left - 1),
            ]
            with m.If(fits):
                m.d.sync += remainder.eq(difference)
            with m.If(left == 0):
                m.d.sync += [busy.eq(0), self.o.valid.eq(1)]
        with m.Elif(self.i.valid & self.i.ready):
            m.d.sync += [
                rest.eq(self.i.p.radicand),
                root.eq(0),
                remainder.eq(0),
                left.eq(self.bits - 1),
                busy.eq(1),
            ]
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        return m
