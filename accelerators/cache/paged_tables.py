"""What the states of a paged KV cache share: its sequences, and the one that they are about."""

from collections.abc import Iterator
from contextlib import contextmanager

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, memory, wiring

from ..integers import ceil_div
from .blocks import BlockPool, PoolCommand
from .paged_formats import positions

__all__ = ["SequenceTables"]


class SequenceTables:
    """Length and blocks of each sequence of a ``PagedCache``, and what the states of its commands have in hand.

    Parameters
    ----------
    m : Module
        That of the cache: memories and registers are put into it.
    cache : PagedCache
        Its ports and sizes matter.
    pool : BlockPool
        A submodule of ``m``.

    Members
    -------
    mine, theirs, keep
        What is kept of the sequence that a command is about, of the other one, and the port to write ``state`` back.
    entry, shared, enter
        Ports of the memory of blocks. Read is block ``index`` of ``sequence``, or with ``reads_other`` of the command's other one, a
        cycle late, and whether it is ``shared``; written is the block that the pool gives.
    asked, lookup, denied
        For requests: what is kept of the sequence of ``request``, and one of its blocks, a cycle late; it is not to be written, as
        others have it too.
    used
        A bit for each sequence: its length was written since reset. All others are empty.
    command, request
        The latest ones.
    awaits, returns
        No command is under way; it ends in this cycle.
    serving
        A request is under way that came before the command: the command waits.
    again
        The latest request was one run, and no command came since.
    tail
        The latest command was an EXTEND, if ``valid``: the block of the first position that it added, and the ``end`` of rows there.
    found, first_block
        ``tail.block`` is known; that block, in the cycle in which the pool gives it as well.
    sequence, state, source
        What a command is about, what is kept of it, and of the other one.
    total, needed
        Positions and blocks that a command comes to.
    block
        The one that was looked up.
    inside, copied_from, leaves
        An EXTEND begins within a block, which may be shared; the one that was, and is given back when the command is done.
    answer
        Payload of ``o_done``.
    """

    def __init__(self, m: Module, cache: wiring.Component, pool: BlockPool):
        config, offset_bits = cache.config, cache.block_size.bit_length() - 1
        most = ceil_div(config.max_context, cache.block_size)
        self.index_bits = index_bits = (most - 1).bit_length()
        kept = data.StructLayout({"length": positions(config), "held": range(most + 1)})
        m.submodules.sequences = sequences = memory.Memory(shape=kept, depth=cache.sequences, init=[])
        m.submodules.tables = tables = memory.Memory(shape=range(cache.blocks), depth=cache.sequences << index_bits, init=[])
        self.cache, self.pool, self.offset_bits, self.used = cache, pool, offset_bits, Signal(cache.sequences)
        self.command, self.request = Signal.like(cache.i_command.p), Signal.like(cache.i_request.p)
        self.mine, self.theirs, self.asked = (self._kept(m, sequences.read_port(domain="comb"), sequence, name) for sequence, name in (
            (cache.i_command.p.sequence, "mine"), (cache.i_command.p.other, "theirs"), (self.request.sequence, "asked")))
        self.keep = sequences.write_port()
        self.entry, self.enter, self.lookup = tables.read_port(), tables.write_port(), tables.read_port()

        self.awaits, self.returns, self.serving = Signal(), Signal(), Signal()
        self.sequence, self.reads_other = Signal(range(cache.sequences)), Signal()
        self.state, self.source, self.index = Signal(kept), Signal(kept), Signal(range(1 << index_bits))
        self.total, self.needed = Signal(len(self.state.length) + 1), Signal.like(self.state.held)
        self.shared, self.denied = pool.shared
        self.block, self.copied_from = Signal(range(cache.blocks)), Signal(range(cache.blocks))
        self.inside, self.leaves = Signal(), Signal()
        self.again, self.found, self.first_block = Signal(), Signal(), Signal(range(cache.blocks))
        self.tail = Signal(data.StructLayout({"valid": 1, "sequence": range(cache.sequences), "index": range(1 << index_bits),
                                              "block": range(cache.blocks), "end": positions(config)}))
        self.answer = cache.o_done.p

        command, state = self.command, self.state
        m.d.comb += [
            self.total.eq(state.length + command.count), self.first_block.eq(self.tail.block),
            self.entry.addr.eq(self.index | Mux(self.reads_other, command.other, self.sequence) << index_bits),
            self.enter.addr.eq(self.index | self.sequence << index_bits), self.enter.data.eq(pool.o.p.block),
            pool.o.ready.eq(1), pool.asked[0].eq(self.entry.data), pool.asked[1].eq(self.lookup.data),
            self.keep.addr.eq(self.sequence), self.keep.data.eq(state),
            cache.o_copy.p.source.eq(self.copied_from), cache.o_copy.p.target.eq(pool.o.p.block),
            cache.o_copy.p.rows.eq(state.length[:offset_bits]),
            self.answer.length.eq(state.length),
        ]
        if cache.lookups:
            self._look(m, sequences, cache.i_look, cache.o_look)

    def _look(self, m: Module, sequences: memory.Memory, i_look, o_look) -> None:
        """Which block a sequence has, and whether others have it too; some are given back. Nobody else reads while a command is
        awaited, nobody writes a cycle later, and in the last cycle of a command, or where none comes, nobody needs the pool: so no
        command takes longer."""
        pool, look = self.pool.i, Signal.like(i_look.p)
        its = self._kept(m, sequences.read_port(domain="comb"), look.sequence, "looked")
        m.d.comb += [o_look.p.index.eq(look.index), pool.p.command.eq(PoolCommand.RELEASE), pool.p.block.eq(o_look.p.block)]
        with m.If(self.awaits):
            m.d.comb += self.entry.addr.eq(look.index | look.sequence << self.index_bits)
        requested, offered = Signal(), self.cache.i_request  # a request about the same sequence is under way, or comes
        m.d.comb += requested.eq((self.serving & (look.sequence == self.request.sequence))
                                 | (offered.valid & (look.sequence == offered.p.sequence)))
        with m.FSM(name="looks"):
            with m.State("IDLE"):
                m.d.comb += i_look.ready.eq(1)
                m.d.sync += look.eq(i_look.p)
                with m.If(i_look.valid):
                    m.next = "FIND"
                    with m.If(i_look.p.release):
                        m.next = "LAST"
            with m.State("LAST"):
                m.d.sync += look.index.eq(its.held - 1)
                m.next = "FIND"
            with m.State("FIND"), m.If(self.awaits & ~(look.release & requested)):
                m.next = "FOUND"
            with m.State("FOUND"):
                m.d.sync += [o_look.p.block.eq(self.entry.data), o_look.p.shared.eq(self.shared)]
                m.next = "TELL"
                with m.If(look.release):
                    m.d.comb += [self.keep.en.eq(1), self.keep.addr.eq(look.sequence), self.keep.data.held.eq(look.index),
                                 self.keep.data.length.eq(look.index << self.offset_bits)]
                    m.next = "GIVE"
                    with m.If(look.sequence == self.request.sequence):
                        m.d.sync += self.again.eq(0)
                    with m.If(look.sequence == self.tail.sequence):
                        m.d.sync += self.tail.valid.eq(0)
            with m.State("GIVE"), m.If((self.returns & ~self.leaves) | (self.awaits & ~self.cache.i_command.valid)):
                m.d.comb += pool.valid.eq(1)
                with m.If(pool.ready):
                    m.next = "TELL"
            with m.State("TELL"):
                m.d.comb += o_look.valid.eq(1)
                with m.If(o_look.ready):
                    m.next = "IDLE"

    def _kept(self, m: Module, port, sequence: Value, name: str) -> data.View:
        """What is kept of a sequence; all is 0 of one that is not in use."""
        view = Signal(port.data.shape(), name=name)
        m.d.comb += [port.addr.eq(sequence), view.eq(Mux(self.used.bit_select(sequence, 1), port.data.as_value(), 0))]
        return view

    def blocks_of(self, count: Value) -> Value:
        """Blocks that ``count`` positions need."""
        return (count + self.cache.block_size - 1) >> self.offset_bits

    def index_of(self, position: Value) -> Value:
        """Number of a position's block in its sequence."""
        return (position >> self.offset_bits)[:self.index_bits]

    @contextmanager
    def ask(self, m: Module, name: str, what: PoolCommand, about, refused: str) -> Iterator[Value]:
        """States that send a command to the pool, and what happens when it was done: while the given signal is high."""
        pool = self.pool
        with m.State(name):
            m.d.comb += [pool.i.valid.eq(1), pool.i.p.command.eq(what), pool.i.p.block.eq(about)]
            with m.If(pool.i.ready):
                m.next = name + "_ANSWER"
        with m.State(name + "_ANSWER"):
            with m.If(pool.o.valid & pool.o.p.refused):
                m.next = refused
            yield pool.o.valid & ~pool.o.p.refused

    def tell(self, m: Module) -> None:
        """In a state: the command is done; a block that was copied is given back."""
        pool = self.pool.i
        m.d.comb += [self.keep.en.eq(1), self.cache.o_done.valid.eq(1)]
        with m.If(self.leaves):
            m.d.comb += [pool.valid.eq(self.cache.o_done.ready), pool.p.command.eq(PoolCommand.RELEASE),
                         pool.p.block.eq(self.copied_from)]
        with m.If(self.cache.o_done.ready):
            m.d.comb += self.returns.eq(1)
            m.d.sync += self.leaves.eq(0)
            m.next = "IDLE"
