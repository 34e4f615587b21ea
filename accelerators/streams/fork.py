"""One stream to several."""

from amaranth.hdl import Cat, Module, ShapeLike, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..checks import check_int
from ..config import AcceleratorConfig

__all__ = ["Fork"]


class Fork(wiring.Component):
    """Gives every item of ``i`` once to each of ``count`` outputs.

    Each output takes the item when it is ready; the next item comes when all have taken. Put a ``Queue``
    behind an output that must not hold up the others.

    Parameters
    ----------
    shape : shape-like
        Payload of all streams.
    count : int
        Number of outputs, 2 to 16.

    Members
    -------
    i : In(stream.Signature(shape))
    o : Out(stream.Signature(shape)).array(count)

    Latency: 0 cycles (combinational in both directions). Interval: 1 cycle.
    """

    latency = 0
    interval = 1

    def __init__(self, shape: ShapeLike, count: int):
        check_int("count", count, 2, 16)
        self.count = count
        super().__init__({
            "i": In(stream.Signature(shape)),
            "o": Out(stream.Signature(shape)).array(count),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "Fork":
        """Two copies of a stream of vector words."""
        return cls(data.StructLayout({"x": data.ArrayLayout(signed(32), config.vector_lanes), "last": 1}), 2)

    def elaborate(self, platform):
        m = Module()
        taken = Signal(self.count)
        finishes = Cat(taken[k] | port.ready for k, port in enumerate(self.o))
        m.d.comb += self.i.ready.eq(finishes.all())
        for k, port in enumerate(self.o):
            m.d.comb += [
                Value.cast(port.p).eq(Value.cast(self.i.p)),
                port.valid.eq(self.i.valid & ~taken[k]),
            ]
        with m.If(self.i.valid):
            m.d.sync += taken.eq(finishes & ~self.i.ready.replicate(self.count))
        return m
