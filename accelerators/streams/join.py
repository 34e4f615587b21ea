"""Several streams to one."""

from collections.abc import Mapping

from amaranth.hdl import Cat, Module, ShapeLike, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig

__all__ = ["Join"]


class Join(wiring.Component):
    """Combines one item of every input into one output item.

    Parameters
    ----------
    shapes : mapping of str to shape-like
        Field name and payload of each input; at least two.

    Members
    -------
    i_<name> : In(stream.Signature(shape)), for every name
    o : Out(stream.Signature(StructLayout(shapes)))

    Latency: 0 cycles (combinational in both directions). Interval: 1 cycle. ``ready`` of an input waits
    for ``valid`` of the others.
    """

    latency = 0
    interval = 1

    def __init__(self, shapes: Mapping[str, ShapeLike]):
        if not isinstance(shapes, Mapping):
            raise TypeError(f"shapes must be a mapping of field names to shapes, not {shapes!r}")
        if len(shapes) < 2:
            raise ValueError(f"shapes must have at least two fields, not {list(shapes)}")
        self.names = list(shapes)
        super().__init__(
            {f"i_{name}": In(stream.Signature(shape)) for name, shape in shapes.items()}
            | {"o": Out(stream.Signature(data.StructLayout(dict(shapes))))})

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "Join":
        """Vector elements with their gains."""
        return cls({"x": data.ArrayLayout(signed(32), config.vector_lanes),
                    "gain": data.ArrayLayout(signed(16), config.vector_lanes)})

    def elaborate(self, platform):
        m = Module()
        ports = [getattr(self, f"i_{name}") for name in self.names]
        m.d.comb += self.o.valid.eq(Cat(port.valid for port in ports).all())
        for name, port in zip(self.names, ports, strict=True):
            m.d.comb += [
                Value.cast(self.o.p[name]).eq(Value.cast(port.p)),
                port.ready.eq(self.o.valid & self.o.ready),
            ]
        return m
