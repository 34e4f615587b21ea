"""A two-entry buffer that registers both directions of a stream."""

from amaranth.hdl import Module, ShapeLike, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig

__all__ = ["StreamBuffer"]


class StreamBuffer(wiring.Component):
    """Two-entry buffer that registers both directions of a stream (a skid buffer).

    ``i.ready``, ``o.valid`` and ``o.payload`` come straight from registers, so the buffer cuts every
    combinational path between its neighbours at full throughput.

    Parameters
    ----------
    shape : shape-like
        Payload of both streams.

    Members
    -------
    i : In(stream.Signature(shape))
    o : Out(stream.Signature(shape))
        The same items in the same order.

    Latency: 1 cycle. Interval: 1 cycle.
    """

    latency = 1
    interval = 1

    def __init__(self, shape: ShapeLike):
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "StreamBuffer":
        """A buffer for one beat of a vector of int16."""
        return cls(data.ArrayLayout(signed(16), config.vector_lanes))

    def elaborate(self, platform):
        m = Module()
        waiting = Signal.like(self.i.p)
        full = Signal()
        m.d.comb += self.i.ready.eq(~full)
        with m.If(self.o.ready | ~self.o.valid):
            with m.If(full):
                m.d.sync += [self.o.p.eq(waiting), full.eq(0)]
            with m.Else():
                m.d.sync += [self.o.p.eq(self.i.p), self.o.valid.eq(self.i.valid)]
        with m.Elif(self.i.valid & ~full):
            m.d.sync += [waiting.eq(self.i.p), full.eq(1)]
        return m
