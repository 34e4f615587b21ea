"""What every component promises on its streams, as assumptions and assertions around it."""

from amaranth.hdl import Assert, Assume, Cat, Elaboratable, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In

__all__ = ["StreamContract"]


class StreamContract(Elaboratable):
    """A component whose environment keeps the rules of streams, and may otherwise do what it likes.

    Assumed of every input stream, proved of every output stream: an item that was offered stays, with its payload, until it is
    taken. All plain inputs are free. There is no reset but the initial state.

    Parameters
    ----------
    component : wiring.Component
        Everything below is about its members.
    order : (str, str), optional
        Input and output stream of the same payload: proved that what comes out is what went in, in the same order, nothing lost,
        doubled or invented. (An item of the run, any one, is followed by its number.)
    answered : int, optional
        Proved: while no output is stalled, no input waits for that many cycles.
    items : int
        Items of a run that ``order`` can follow, a power of two.

    Members
    -------
    ports : list of Signal
        Free inputs of the proof.
    """

    def __init__(self, component: wiring.Component, *, order: tuple[str, str] | None = None, answered: int | None = None,
                 items: int = 16):
        self.component, self.order, self.answered, self.items = component, order, answered, items
        self.ports: list[Signal] = []

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = self.component
        streams = {}
        for name, member in self.component.signature.members.items():
            port = getattr(self.component, name)
            if member.is_port:
                if member.flow == In:
                    self._free(m, port, name)
                continue
            if not isinstance(member.signature, stream.Signature):
                raise ValueError(f"{name} of {type(self.component).__name__}: only streams and plain ports can be proved")
            streams[name] = port
            incoming = member.flow == In
            for part, value in (("valid", port.valid), ("payload", port.payload), ("ready", port.ready)):
                if isinstance(Value.cast(value), Signal) and (part == "ready") != incoming:
                    self._free(m, value, f"{name}__{part}")
            waited, before = Signal(name=f"{name}_waited"), Signal(len(Value.cast(port.payload)), name=f"{name}_before")
            m.d.sync += [waited.eq(port.valid & ~port.ready), before.eq(port.payload)]
            holds = ~waited | (port.valid & (Value.cast(port.payload) == before))
            m.d.comb += Assume(holds) if incoming else Assert(holds)
        if self.order is not None:
            self._in_order(m, *(streams[name] for name in self.order))
        if self.answered is not None:
            sinks = [streams[name] for name, member in self.component.signature.members.items()
                     if not member.is_port and member.flow != In]
            sources = [port for name, port in streams.items() if not any(port is sink for sink in sinks)]
            self._answers(m, sources, sinks, self.answered)
        return m

    def _free(self, m: Module, signal, name: str) -> None:
        port = Signal(len(Value.cast(signal)), name=name)
        self.ports.append(port)
        m.d.comb += Value.cast(signal).eq(port)

    def _in_order(self, m: Module, source, sink) -> None:
        followed = Signal(range(self.items), name="followed")
        chosen, kept = Signal.like(followed), Signal(len(Value.cast(source.payload)))
        self.ports.append(followed)
        first = Signal(init=1)
        gone_in, gone_out, seen = Signal(range(2 * self.items)), Signal(range(2 * self.items)), Signal()
        number = Mux(first, followed, chosen)  # any, but the same in the whole run
        enters, leaves = source.valid & source.ready, sink.valid & sink.ready
        m.d.sync += [first.eq(0), chosen.eq(number)]
        with m.If(enters & ~gone_in[-1]):
            m.d.sync += gone_in.eq(gone_in + 1)
            with m.If(gone_in == number):
                m.d.sync += [kept.eq(source.payload), seen.eq(1)]
        with m.If(leaves & ~gone_out[-1]):
            m.d.sync += gone_out.eq(gone_out + 1)
        passes = enters & (gone_in == number)  # out in the cycle in which it comes in
        m.d.comb += [
            Assert(~(leaves & (gone_out == number)) | Mux(seen, Value.cast(sink.payload) == kept,
                                                          passes & (Value.cast(sink.payload) == Value.cast(source.payload)))),
            Assert((gone_out <= gone_in + enters) | gone_in[-1]),
        ]

    def _answers(self, m: Module, sources, sinks, answered: int) -> None:
        stalled = Cat(sink.valid & ~sink.ready for sink in sinks).any()
        for number, source in enumerate(sources):
            waits = Signal(range(answered + 1), name=f"waits_{number}")
            m.d.sync += waits.eq(Mux(source.valid & ~source.ready & ~stalled, waits + 1, 0))
            m.d.comb += Assert(waits != answered)
