"""Wiring of streams between units: by condition, by field, through a buffer."""

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import wiring

from .buffer import StreamBuffer
from .credit import Relay

__all__ = ["buffer_before", "buffered", "merge", "pass_fields", "scatter", "steer", "steer_data"]


def steer(m: Module, source, sinks) -> None:
    """Offer ``source`` to the sink of the pair (sink, condition) whose condition holds; conditions exclude each other."""
    for sink, condition in sinks:
        m.d.comb += [sink.valid.eq(source.valid & condition), sink.payload.eq(source.payload)]
        with m.If(condition):
            m.d.comb += source.ready.eq(sink.ready)


def steer_data(m: Module, source, sink, condition) -> None:
    """Offer the ``data`` of ``source`` to a sink without ``last`` while ``condition`` holds."""
    m.d.comb += [sink.valid.eq(source.valid & condition), sink.payload.eq(source.p.data)]
    with m.If(condition):
        m.d.comb += source.ready.eq(sink.ready)


def scatter(m: Module, source, name: str, conditions: dict[str, Value]) -> dict:
    """``source`` through a ``Relay`` to each sink far away, while its condition holds; conditions exclude each other.

    Returns the ends of the relays. ``source.ready`` is a register, so in the cycle after a condition ended it may still be high:
    nothing may be offered then.
    """
    ends, ample, ready = {}, [], Signal(name=f"{name}_ready")
    for sink, condition in conditions.items():
        m.submodules[f"{name}_{sink}"] = relay = Relay(source.p.shape())
        m.d.comb += [relay.i.payload.eq(source.payload), relay.i.valid.eq(source.valid & source.ready & condition)]
        ample.append(relay.ample & condition)
        ends[sink] = relay.o
    m.d.sync += ready.eq(Cat(ample).any())
    m.d.comb += source.ready.eq(ready)
    return ends


def merge(m: Module, sources, sink) -> None:
    """Feed ``sink`` from the source of the pair (source, condition) whose condition holds; conditions exclude each other."""
    for source, condition in sources:
        with m.If(condition):
            m.d.comb += [sink.valid.eq(source.valid), sink.payload.eq(source.payload), source.ready.eq(sink.ready)]


def buffered(m: Module, source, name: str) -> StreamBuffer:
    """A buffer behind ``source``, submodule ``name``."""
    m.submodules[name] = buffer = StreamBuffer(source.p.shape())
    wiring.connect(m, source, buffer.i)
    return buffer


def buffer_before(m: Module, sink, name: str):
    """The input of a buffer in front of ``sink``, submodule ``name``."""
    m.submodules[name] = buffer = StreamBuffer(sink.p.shape())
    wiring.connect(m, buffer.o, sink)
    return buffer.i


def pass_fields(m: Module, source, sink, **constants) -> None:
    """Connect two streams whose payloads have fields of the same names (widths may differ); extra fields are constants."""
    m.d.comb += [sink.valid.eq(source.valid), source.ready.eq(sink.ready)]
    for name, _ in sink.p.shape():
        m.d.comb += sink.p[name].eq(constants[name] if name in constants else source.p[name])
