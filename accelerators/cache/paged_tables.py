"""What the states of a paged KV cache share: its sequences, and the one that they are about."""

from collections.abc import Iterator
from contextlib import contextmanager

from amaranth.hdl import Const, Module, Mux, Signal, Value
from amaranth.lib import data, memory, wiring

from ..config import ceil_div
from .blocks import BlockPool, PoolCommand
from .paged_formats import SequenceCommand, positions

__all__ = ["SequenceTables"]


class SequenceTables:
    """Length and blocks of each sequence of a ``PagedCache``, and what its states have in hand.

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
        Ports of the memory of lengths and numbers of blocks: of the sequence that is asked for, of the other one of a command, and to
        write back ``state``.
    entry, enter
        Ports of the memory of blocks. Read is block ``index`` of ``sequence``, or with ``reads_other`` of the command's other one, a
        cycle late; written is the block that the pool gives.
    used
        A bit for each sequence: its length was written since reset. All others are empty.
    command, request
        The latest ones. ``again``: the request was one run, and no command came since; ``same``: this one is for the same rows.
    sequence, state, source_length
        What they are about, its length and number of blocks, and the length of the other one.
    total, needed
        Positions and blocks that a command comes to.
    stays, least
        Positions and blocks that are left of a sequence whose blocks are dropped.
    block, copied_from
        What the pool answered; the block that ``block`` is to be a copy of.
    answer
        Payload of ``o_done``.
    """

    def __init__(self, m: Module, cache: wiring.Component, pool: BlockPool):
        config, offset_bits = cache.config, cache.block_size.bit_length() - 1
        most = ceil_div(config.max_context, cache.block_size)
        index_bits = (most - 1).bit_length()
        kept = data.StructLayout({"length": positions(config), "held": range(most + 1)})
        m.submodules.sequences = sequences = memory.Memory(shape=kept, depth=cache.sequences, init=[])
        m.submodules.tables = tables = memory.Memory(shape=range(cache.blocks), depth=cache.sequences << index_bits, init=[])
        self.cache, self.pool, self.offset_bits = cache, pool, offset_bits
        self.mine, self.theirs, self.entry = sequences.read_port(domain="comb"), sequences.read_port(domain="comb"), tables.read_port()
        self.keep = sequences.write_port()
        self.enter = tables.write_port()

        self.used = Signal(cache.sequences)
        self.command, self.request = Signal.like(cache.i_command.p), Signal.like(cache.i_request.p)
        self.sequence = Signal(range(cache.sequences))
        self.state, self.index = Signal(kept), Signal(range(1 << index_bits))
        self.source_length = Signal(positions(config))
        self.reads_other = Signal()
        self.again, self.needed = Signal(), Signal.like(self.state.held)
        self.same = Signal()
        self.total = Signal(len(self.state.length) + 1)
        self.block, self.copied_from = Signal(range(cache.blocks)), Signal(range(cache.blocks))
        self.answer = cache.o_done.p

        self.stays, self.least = Const(0), Const(0)
        command, state = self.command, self.state
        if cache.lookups:
            self.stays, self.least = Signal.like(state.length, name="stays"), Signal.like(state.held, name="least")
            shrinks = command.command == SequenceCommand.SHRINK
            m.d.comb += [self.stays.eq(Mux(shrinks, command.count, 0)), self.least.eq(Mux(shrinks, self.blocks_of(command.count), 0))]
        m.d.comb += [
            self.mine.addr.eq(Mux(cache.i_command.valid, cache.i_command.p.sequence, cache.i_request.p.sequence)),
            self.theirs.addr.eq(cache.i_command.p.other),
            self.entry.addr.eq(self.index | Mux(self.reads_other, command.other, self.sequence) << index_bits),
            self.enter.addr.eq(self.index | self.sequence << index_bits), self.enter.data.eq(pool.o.p.block),
            self.keep.addr.eq(self.sequence), self.keep.data.eq(state),
            cache.o_copy.p.source.eq(self.copied_from), cache.o_copy.p.target.eq(self.block),
            cache.o_copy.p.rows.eq(state.length[:offset_bits]),
            self.answer.length.eq(state.length),
        ]

    def blocks_of(self, count: Value) -> Value:
        """Blocks that ``count`` positions need."""
        return (count + self.cache.block_size - 1) >> self.offset_bits

    @contextmanager
    def ask(self, m: Module, name: str, what: PoolCommand, about, refused: str) -> Iterator[Value]:
        """States that send a command to the pool, and what happens when it was done: while the given signal is high."""
        pool = self.pool
        with m.State(name):
            m.d.comb += [pool.i.valid.eq(1), pool.i.p.command.eq(what), pool.i.p.block.eq(about)]
            with m.If(pool.i.ready):
                m.next = name + "_ANSWER"
        with m.State(name + "_ANSWER"):
            m.d.comb += pool.o.ready.eq(1)
            m.d.sync += self.block.eq(pool.o.p.block)
            with m.If(pool.o.valid & pool.o.p.refused):
                m.next = refused
            yield pool.o.valid & ~pool.o.p.refused
