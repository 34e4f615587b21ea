"""Bit length of a number, and the number shifted so that its top bit is set."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig, bits_for_magnitude, check_int

__all__ = ["Normalizer"]


class Normalizer(wiring.Component):
    """Shifts an unsigned number left until its top bit is set: one binary digit of the shift per cycle.

    Parameters
    ----------
    width : int
        Bits of the number, 2 to 128.

    Members
    -------
    i : In(stream.Signature({value: width}))
    o : Out(stream.Signature({value: width, length: range(width + 1)}))
        ``value << (width - length)`` and the bit length; 0 and 0 for 0.

    Latency: ``bit_length(width - 1) + 1`` cycles. Interval: one cycle more.
    """

    def __init__(self, width: int):
        check_int("width", width, 2, 128)
        self.width = width
        self.levels = (width - 1).bit_length()
        self.latency = self.levels + 1
        self.interval = self.levels + 2
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
        value, length = self.o.p.value, self.o.p.length
        level = Signal(range(self.levels))
        busy = Signal()
        m.d.comb += self.i.ready.eq(~busy & ~self.o.valid)
        with m.If(busy):
            m.d.sync += level.eq(level - 1)
            with m.Switch(level):
                for k in range(self.levels):
                    with m.Case(k), m.If(~value[self.width - (1 << k):].any()):
                        m.d.sync += [value.eq(value << (1 << k)), length.eq(length - (1 << k))]
            with m.If(level == 0):
                m.d.sync += [busy.eq(0), self.o.valid.eq(1)]
                with m.If(~value[-2:].any()):
                    m.d.sync += length.eq(0)
        with m.Elif(self.i.valid & self.i.ready):
            m.d.sync += [
                value.eq(self.i.p.value),
                length.eq(self.width),
                level.eq(self.levels - 1),
                busy.eq(1),
            ]
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        return m
