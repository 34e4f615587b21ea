"""A two-entry buffer that registers both directions of a stream."""

from amaranth.hdl import Module, Mux, ShapeLike, Signal, signed
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
        # ``room`` itself is the register: it enables wide ones, in block RAMs too, which cannot invert it.
        waiting, room = Signal.like(self.i.p, reset_less=True), Signal(init=1)
        leaving = Signal.like(self.i.p, reset_less=True)
        m.d.comb += [self.i.ready.eq(room), self.o.p.eq(leaving)]
        # ``waiting`` follows the input until it holds an item: so ``i.valid``, often late, enables no wide register.
        with m.If(room):
            m.d.sync += waiting.eq(self.i.p)
        with m.If(self.o.ready | ~self.o.valid):
            m.d.sync += [leaving.eq(Mux(room, self.i.p, waiting)), self.o.valid.eq(self.i.valid | ~room), room.eq(1)]
        with m.Else():
            m.d.sync += room.eq(room & ~self.i.valid)
        return m
