"""What every component promises on its streams, as assumptions and assertions around it."""

from collections.abc import Callable, Collection, Mapping
from itertools import product
from typing import Any

from amaranth.hdl import Assert, Assume, Cat, Cover, Elaboratable, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In

from ...accelerators.axi import AXI4LiteSignature, AXI4Signature

__all__ = ["StreamContract"]

PAYLOAD = {"id", "addr", "len", "size", "burst", "cache", "prot", "data", "resp", "last", "strb"}
"""What stands on a channel of AXI4 beside ``valid`` and ``ready``."""


class _Any(wiring.Component):
    """A component whose inside ``drives`` makes."""

    def __init__(self, signature: wiring.Signature, drives: Callable[[Module, wiring.Component], None]):
        super().__init__(signature)
        self._drives = drives

    def elaborate(self, platform):
        m = Module()
        self._drives(m, self)
        return m


class StreamContract(Elaboratable):
    """A component whose environment keeps the rules of streams, and may otherwise do what it likes.

    Assumed of every input stream, proved of every output stream (and of the channels of AXI4 and AXI4-Lite ports in the same way): an
    item that was offered stays, with its payload, until it is taken. All plain inputs are free, reset among them.

    Parameters
    ----------
    component : wiring.Component
        Everything below is about its members.
    order : (str, str), optional
        Input and output stream of the same payload: proved that what comes out is what went in, in the same order, nothing lost,
        doubled or invented. (An item of the run, any one, is followed by its number.)
    answered : int, optional
        Proved: no input waits for that many cycles on end, while no output is stalled and nobody else is awaited. Also an attribute:
        what asks for less must fail.
    awaited : sequence of str
        Input streams for which the component may wait: while one is ready and not valid, nothing is asked of the component.
    items : int
        Items of a run that ``order`` can follow, a power of two.
    narrow : mapping of str to int
        Bits of a plain input that may be other than 0 (all): what a proof can reach is then small.
    still : sequence of str
        Plain inputs that stand still in the whole run.

    That an item of each output stream can wait is there to be shown too (``prove``, method ``reached``).

    A component without an output stream or AXI4 port is refused (``ValueError``) when it is elaborated.

    Members
    -------
    ports : list of Signal
        Free inputs of the proof.
    sources, sinks : dict of str to stream
        Input and output streams; those of an array are ``o__0``, ``o__1``, ...
    outside : Signal
        Driven by contracts that know it: others have to act (a memory has not answered yet).
    """

    def __init__(self, component: wiring.Component, *, order: tuple[str, str] | None = None, answered: int | None = None,
                 awaited: Collection[str] = (), items: int = 16, narrow: Mapping[str, int] = {},
                 still: Collection[str] = ()):
        self.component, self.order, self.answered, self.awaited = component, order, answered, awaited
        self.items, self.narrow, self.still = items, narrow, still
        self.ports: list[Signal] = []
        self.sources: dict[str, Any] = {}
        self.sinks: dict[str, Any] = {}
        self._entries: dict[str, Any] = {}
        self._stalls: list[Any] = []
        self.outside = Signal()

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = self._design(platform)
        self._watch(m, self.component.signature, self.component, "", False)
        if not self._stalls:
            raise ValueError(f"{type(self.component).__name__} has no output stream and no AXI4 port: there is nothing to prove")
        if self.order is not None:
            streams = {**self.sources, **self.sinks}
            self._in_order(m, *(streams[name] for name in self.order))
        if self.answered is not None:
            self._answers(m, self.answered)
        return m

    def _design(self, platform) -> Elaboratable:
        """The component, perhaps with other parts."""
        return self.component

    def _any(self, part: wiring.Component, name: str) -> wiring.Component:
        """To be put in the place of a part: what it gives is free, but keeps the rules; proved is that it is given what keeps them."""
        return _Any(part.signature, lambda m, any_part: self._watch(m, any_part.signature, any_part, name, True))

    def _watch(self, m: Module, signature, owner, prefix: str, flipped: bool) -> None:
        """Frees the inputs of an interface; assumes and asserts the rules of its streams, and of the channels of its AXI4 ports."""
        for name, member in signature.members.items():
            incoming = (member.flow == In) != flipped
            for index in product(*map(range, member.dimensions)):
                port = getattr(owner, name)
                for each in index:
                    port = port[each]
                where = "__".join((*filter(None, (prefix,)), name, *map(str, index)))
                if member.is_port:
                    if incoming:
                        self._free(m, port, where)
                elif isinstance(inner := member.signature.flip() if member.flow == In else member.signature, stream.Signature):
                    for part, value in (("valid", port.valid), ("payload", port.payload), ("ready", port.ready)):
                        if isinstance(Value.cast(value), Signal) and (part == "ready") != incoming:
                            self._free(m, value, f"{where}__{part}")
                    (self.sources if incoming else self.sinks)[where] = port
                    self._holds(m, where, incoming, port.valid, port.ready, port.payload)
                else:
                    self._watch(m, inner, port, where, incoming)
                    for channel in ("ar", "r", "aw", "w", "b") if isinstance(inner, AXI4Signature | AXI4LiteSignature) else ():
                        parts = [key for key in inner.members if key.startswith(channel) and key[len(channel):] in PAYLOAD]
                        if parts:
                            self._holds(m, f"{where}__{channel}", (inner.members[channel + "valid"].flow == In) != incoming,
                                        getattr(port, channel + "valid"), getattr(port, channel + "ready"),
                                        Cat(getattr(port, key) for key in parts))

    def _holds(self, m: Module, name: str, incoming: bool, valid, ready, payload) -> None:
        payload = Value.cast(payload)
        waited, before = Signal(name=f"{name}_waited"), Signal(len(payload), name=f"{name}_before")
        m.d.sync += [waited.eq(valid & ~ready), before.eq(payload)]
        holds = ~waited | (valid & (payload == before))
        m.d.comb += Assume(holds) if incoming else Assert(holds)
        if incoming:
            self._entries[name] = (valid, ready)
            if name in self.awaited:
                self._stalls.append(ready & ~valid)
        else:
            self._stalls.append(valid & ~ready)
            m.d.comb += Cover(waited)

    def _free(self, m: Module, signal, name: str) -> None:
        value = Value.cast(signal)
        port = Signal(self.narrow.get(name, len(value)), name=name)
        if len(port):
            self.ports.append(port)
        m.d.comb += value.eq(port)
        if name in self.still:
            begun, before = Signal(name=f"{name}_begun"), Signal.like(port, name=f"{name}_before")
            m.d.sync += [begun.eq(1), before.eq(port)]
            m.d.comb += Assume(~begun | (port == before))

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

    def _answers(self, m: Module, answered: int) -> None:
        stalled = Cat(self.outside, *self._stalls).any()
        for name, (valid, ready) in self._entries.items():
            waits = Signal(range(answered + 1), name=f"{name}_waits")
            m.d.sync += waits.eq(Mux(valid & ~ready & ~stalled, waits + 1, 0))
            m.d.comb += Assert(waits != answered)

    def _due(self, m: Module, name: str, owed, comes, within: int, waits=0) -> None:
        """Asserts that what is ``owed`` comes within so many cycles, and the next one within so many behind it; those in which an
        output is stalled, or which others need (``waits``, ``outside``), are not counted."""
        age = Signal(range(within + 1), name=f"{name}_age")
        stalled = Cat(self.outside, *self._stalls, waits).any()
        m.d.sync += age.eq(Mux(comes | ~owed, 0, age + ~stalled))
        m.d.comb += Assert(age < within)
