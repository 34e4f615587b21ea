"""The commands of a paged KV cache: states of its machine, from ``DECIDE`` to ``ANSWER``."""

from amaranth.hdl import Module, Mux, Signal

from .blocks import PoolCommand
from .paged_formats import SequenceCommand, SequenceError
from .paged_tables import SequenceTables

__all__ = ["compare", "decide", "drop", "extend", "fork"]


def decide(m: Module, tables: SequenceTables) -> None:
    """Where a command begins, or why it is refused; before that it waits for the request before it."""
    cache, pool, command, state, answer = tables.cache, tables.pool, tables.command, tables.state, tables.answer
    total, needed, reads_other = tables.total, tables.needed, tables.reads_other
    pair = (command.command == SequenceCommand.FORK) | (command.command == SequenceCommand.COMPARE)
    with m.State("DECIDE"), m.If(~tables.serving):
        m.d.sync += [answer.error.eq(SequenceError.NONE), tables.used.bit_select(tables.sequence, 1).eq(1),
                     tables.again.eq(0), tables.found.eq(0), tables.tail.valid.eq(0)]
        m.next = "ANSWER"
        with m.If((tables.sequence >= cache.sequences) | (pair & (command.other >= cache.sequences))):
            m.d.sync += answer.error.eq(SequenceError.UNKNOWN)
        with m.Else(), m.Switch(command.command):
            with m.Case(SequenceCommand.EXTEND):
                inside = state.length[:tables.offset_bits].any()
                m.d.sync += [needed.eq(tables.blocks_of(total)), tables.inside.eq(inside & (command.count != 0))]
                m.next = "GROW"
                with m.If(total > cache.config.max_context):
                    m.d.sync += answer.error.eq(SequenceError.TOO_LONG)
                    m.next = "ANSWER"
                with m.Elif((command.count != 0) & ~inside & (tables.index == state.held) & (pool.free != 0)):
                    take(m, tables, "TAKE")
            with m.Case(SequenceCommand.FORK):
                m.d.sync += [tables.index.eq(0), needed.eq(tables.blocks_of(command.count)), reads_other.eq(1)]
                with m.If(command.count > tables.source.length):
                    m.d.sync += answer.error.eq(SequenceError.TOO_LONG)
                with m.Elif((state.length != 0) | (state.held != 0)):
                    m.d.sync += answer.error.eq(SequenceError.NOT_EMPTY)
                with m.Elif(command.count != 0):
                    m.next = "SHARE_READ"
            with m.Case(SequenceCommand.FREE):
                m.next = "DROP"
            with m.Case(SequenceCommand.COMPARE):
                m.d.sync += [tables.index.eq(0), needed.eq(tables.blocks_of(command.count)), reads_other.eq(1)]
                with m.If((command.count > tables.source.length) | (command.count > state.length)):
                    m.d.sync += answer.error.eq(SequenceError.TOO_LONG)
                with m.Elif(command.count != 0):
                    m.next = "COMPARE_READ"
            with m.Default():
                m.d.sync += answer.error.eq(SequenceError.UNKNOWN)


def take(m: Module, tables: SequenceTables, following: str) -> None:
    """In a state, when the pool has a free block and decides nothing: it gives it."""
    m.d.comb += [tables.pool.i.valid.eq(1), tables.pool.i.p.command.eq(PoolCommand.ALLOCATE)]
    m.next = following


def extend(m: Module, tables: SequenceTables) -> None:
    """EXTEND: an own block at the end, then blocks behind it, each asked for as the one before it comes. What is known of the sequence
    is there in the cycle in which the pool gives the last one."""
    cache, pool, state, entry, enter, tail = tables.cache, tables.pool, tables.state, tables.entry, tables.enter, tables.tail
    enough = Signal()

    def grown() -> None:
        behind = tables.index_of(state.length) + 1
        m.d.sync += [state.length.eq(tables.total), tail.valid.eq(tables.command.count != 0), tail.sequence.eq(tables.sequence),
                     tail.index.eq(tables.index_of(state.length)),
                     tail.end.eq(Mux(tables.needed == behind, tables.total, behind << tables.offset_bits))]

    def take_first() -> None:
        with m.If(state.held >= tables.needed):
            grown()
            m.next = "ANSWER"
        with m.Elif(pool.free != 0):
            take(m, tables, "TAKE")

    with m.State("GROW"):
        m.d.comb += pool.i.p.command.eq(PoolCommand.ALLOCATE)
        m.next = "NO_BLOCK"
        with m.If(tables.inside & tables.shared):
            m.d.sync += tables.copied_from.eq(entry.data)
            with m.If(pool.free != 0):
                take(m, tables, "OWN")
        with m.Else():
            m.d.sync += [tables.index.eq(state.held), tables.found.eq(1), tail.block.eq(entry.data)]
            take_first()
    with m.State("OWN"):  # the pool decides
        m.next = "COPY"
    with m.State("COPY"):
        m.d.comb += [cache.o_copy.valid.eq(1), pool.o.ready.eq(cache.o_copy.ready)]
        with m.If(cache.o_copy.ready):
            m.d.comb += enter.en.eq(1)
            m.d.sync += [tail.block.eq(pool.o.p.block), tables.found.eq(1), tables.leaves.eq(1), tables.index.eq(state.held)]
            m.next = "NO_BLOCK"
            take_first()
    with m.State("TAKE"):  # the pool decides
        m.d.sync += [state.held.eq(state.held + 1), enough.eq(state.held + 1 == tables.needed)]
        m.next = "TAKEN"
        with m.If(state.held + 1 == tables.needed):
            grown()
    with m.State("TAKEN"):
        m.d.comb += enter.en.eq(1)
        m.d.sync += tables.index.eq(state.held)
        m.next = "NO_BLOCK"
        with m.If(~tables.found):
            m.d.comb += tables.first_block.eq(pool.o.p.block)
            m.d.sync += [tail.block.eq(pool.o.p.block), tables.found.eq(1)]
        with m.If(enough):
            m.next = "ANSWER"
            tables.tell(m)
        with m.Elif(pool.free != 0):
            take(m, tables, "TAKE")
    with m.State("NO_BLOCK"):
        m.d.sync += tables.answer.error.eq(SequenceError.NO_BLOCK)
        m.next = "ANSWER"


def fork(m: Module, tables: SequenceTables) -> None:
    """FORK: an owner more for each block of the other sequence; all are given back if one has too many."""
    index, state = tables.index, tables.state
    with m.State("SHARE_READ"):
        m.next = "SHARE"
    with tables.ask(m, "SHARE", PoolCommand.SHARE, tables.entry.data, "SHARED_TOO_OFTEN") as shared:
        with m.If(shared):
            m.d.comb += tables.enter.en.eq(1)
            m.d.sync += [index.eq(index + 1), state.held.eq(state.held + 1)]
            m.next = "SHARE_READ"
            with m.If(state.held + 1 == tables.needed):
                m.d.sync += state.length.eq(tables.command.count)
                m.next = "ANSWER"
    with m.State("SHARED_TOO_OFTEN"):
        m.d.sync += tables.answer.error.eq(SequenceError.SHARED_TOO_OFTEN)
        m.next = "DROP"


def compare(m: Module, tables: SequenceTables) -> None:
    """COMPARE: the tables' words come a cycle late, those of both sequences in turn."""
    index, block, reads_other = tables.index, tables.block, tables.reads_other
    with m.State("COMPARE_READ"):
        m.d.sync += reads_other.eq(0)
        m.next = "COMPARE_OTHER"
    with m.State("COMPARE_OTHER"):
        m.d.sync += [block.eq(tables.entry.data), reads_other.eq(1), index.eq(index + 1)]
        m.next = "COMPARE_MINE"
    with m.State("COMPARE_MINE"):
        m.d.sync += reads_other.eq(0)
        m.next = "COMPARE_OTHER"
        with m.If(index == tables.needed[:len(index)]):  # it may have gone round
            m.next = "ANSWER"
        with m.If(block != tables.entry.data):
            m.d.sync += tables.answer.error.eq(SequenceError.DIFFERENT)
            m.next = "ANSWER"


def drop(m: Module, tables: SequenceTables) -> None:
    """FREE, and what a FORK had when it failed."""
    state = tables.state
    with m.State("DROP"):
        m.d.sync += [tables.reads_other.eq(0), tables.index.eq(state.held - 1), state.length.eq(0)]
        m.next = "DROP_READ"
        with m.If(state.held == 0):
            m.next = "ANSWER"
    with m.State("DROP_READ"):
        m.next = "GIVE_BACK"
    with tables.ask(m, "GIVE_BACK", PoolCommand.RELEASE, tables.entry.data, "GIVE_BACK") as gone:
        with m.If(gone):
            m.d.sync += state.held.eq(state.held - 1)
            m.next = "DROP"
