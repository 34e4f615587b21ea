"""How the front end gets the program: one descriptor ahead of its main machine."""

from amaranth.hdl import Array, Cat, Module, Signal, Value, unsigned
from amaranth.lib import wiring

from ..config import AcceleratorConfig
from .isa import INSTRUCTION_BYTES, Opcode

__all__ = ["Descriptors"]


class Descriptors:
    """Reads descriptor after descriptor and holds one. Two chunks in flight go through the program in turns, from one matrix to the
    next: each has its own offset in it.

    Parameters
    ----------
    m : Module
    config : AcceleratorConfig
    frontend : component
        Its ``program_address``, ``o_program``, ``i_program``.
    paired : Value
        Whether two chunks are in flight.

    Members
    -------
    held : Signal
        ``descriptor`` is there, of chunk ``fetching``.
    descriptor : Signal
    opcode : Value
        Its opcode, legal or not.
    fetching : Signal
    start, take : Signal
        Set in states of the main machine: begin the program; ``descriptor`` is done with.
    again : Signal
        With ``start``, where there may be several sequences: begin with the program's tail, from its first operation for sampled
        tokens on, which runs for each of them.
    """

    def __init__(self, m: Module, config: AcceleratorConfig, frontend: wiring.Component, paired: Value):
        self.m, self._several = m, config.cache == "paged"
        self._offsets = offsets = Array([Signal(32, name=f"offset_{chunk}") for chunk in range(config.chunks)])
        self.descriptor = descriptor = Signal(unsigned(INSTRUCTION_BYTES * 8), name="descriptor")
        self.opcode = opcode = descriptor[:8]
        self.fetching = fetching = Signal(range(2), name="fetching")  # always 0 with one chunk in flight
        self.start, self.held, self.take = (Signal(name=name) for name in ("fetch_start", "fetched", "take"))
        self.again, self._tail_known, self._tail = Signal(name="again"), Signal(name="tail_known"), Signal(32, name="tail")
        with m.FSM(name="fetch"):
            with m.State("IDLE"):
                with m.If(self.start):
                    m.d.sync += [fetching.eq(0), *(offset.eq(0) for offset in offsets)]
                    if self._several:
                        with m.If(self.again):
                            m.d.sync += offsets[0].eq(self._tail)
                    m.next = "COMMAND"
            with m.State("COMMAND"):
                m.d.comb += [frontend.o_program.valid.eq(1),
                             frontend.o_program.p.address.eq(frontend.program_address + offsets[fetching]),
                             frontend.o_program.p.beats.eq(INSTRUCTION_BYTES // config.bus_bytes)]
                with m.If(frontend.o_program.ready):
                    m.next = "COLLECT"
            with m.State("COLLECT"):
                m.d.comb += frontend.i_program.ready.eq(1)
                with m.If(frontend.i_program.valid):
                    m.d.sync += descriptor.eq(Cat(descriptor, frontend.i_program.p.data)[config.bus_bits:])
                    with m.If(frontend.i_program.p.last):
                        m.next = "HOLD"
            with m.State("HOLD"):
                m.d.comb += self.held.eq(1)
                with m.If(self.take):
                    m.d.sync += offsets[fetching].eq(offsets[fetching] + INSTRUCTION_BYTES)
                    m.next = "COMMAND"
                    with m.If(paired & ((opcode == Opcode.LINEAR) | (opcode == Opcode.END))):
                        m.d.sync += fetching.eq(~fetching)
                    with m.If((opcode == Opcode.END) & (fetching == paired)):
                        m.next = "IDLE"

    @property
    def offset(self) -> Value:
        """Byte offset in the program of the descriptor at hand."""
        return self._offsets[self.fetching]

    def offset_taken(self, chunk: Value) -> Value:
        """That of the one taken last for ``chunk``."""
        return self._offsets[chunk] - INSTRUCTION_BYTES

    def begins(self) -> None:
        """In the state before a step's first descriptor: its tail is not known."""
        if self._several:
            self.m.d.sync += self._tail_known.eq(0)

    def begins_tail(self, when: Value) -> None:
        """In a state: if it is ``when``, the program's tail begins with the descriptor that was taken last, unless it has begun."""
        with self.m.If(~self._tail_known & when):
            self.m.d.sync += [self._tail.eq(self.offset_taken(0)), self._tail_known.eq(1)]
