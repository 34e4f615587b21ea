"""Bit length of a number, and the number shifted so that its top bit is set."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..checks import check_int
from ..config import AcceleratorConfig
from ..integers import bits_for_magnitude

__all__ = ["Normalizer", "leading_zeros"]


class Normalizer(wiring.Component):
    """Shifts an unsigned number left until its top bit is set: leading zeros, then the shift.

    Holds two numbers when ``o`` stalls.

    Parameters
    ----------
    width : int
        Bits of the number, 2 to 128.

    Members
    -------
    i : In(stream.Signature({value: width}))
    o : Out(stream.Signature({value: width, length: range(width + 1)}))
        ``value << (width - length)`` and the bit length; 0 and 0 for 0.

    Latency: 2 cycles. Interval: 1 cycle.
    """

    latency = 2
    interval = 1

    def __init__(self, width: int):
        check_int("width", width, 2, 128)
        self.width = width
        super().__init__({
            "i": In(stream.Signature(data.StructLayout({"value": width}))),
            "o": Out(stream.Signature(data.StructLayout({"value": width, "length": range(width + 1)}))),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "Normalizer":
        """Wide enough for every sum of squares of ``NormQuantize``."""
        return cls(32 + bits_for_magnitude(config.max_vector))

    def elaborate(self, platform):
        m = Module()
        value, zeros, full = Signal(self.width), Signal(range(self.width)), Signal()
        moves = ~self.o.valid | self.o.ready
        m.d.comb += self.i.ready.eq(~full | moves)
        with m.If(self.i.ready):
            m.d.sync += [
                value.eq(self.i.p.value),
                zeros.eq(leading_zeros(Cat(Const(0, (1 << len(zeros)) - self.width), self.i.p.value))),
                full.eq(self.i.valid),
            ]
        with m.If(moves):
            m.d.sync += [
                self.o.p.value.eq(value << zeros),
                self.o.p.length.eq(Mux(value.any(), self.width - zeros, 0)),
                self.o.valid.eq(full),
            ]
        return m


def leading_zeros(value: Value) -> Value:
    """Of a number that is not 0, in a power of two of bits (some count for 0)."""
    half = len(value) // 2
    low, high = value[:half], value[half:]
    if half == 1:
        return ~high
    empty = ~high.any()
    return Cat(Mux(empty, leading_zeros(low), leading_zeros(high)), empty)
