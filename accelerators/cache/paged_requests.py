"""The requests of a paged KV cache: states of its machine, from ``CHECK`` to ``SEND``."""

from amaranth.hdl import Module, Mux, Signal

from .addresses import RowAddresses
from .blocks import PoolCommand
from .paged_formats import positions
from .paged_tables import SequenceTables

__all__ = ["send_runs"]


def send_runs(m: Module, tables: SequenceTables, rows: RowAddresses) -> None:
    """States that walk over the blocks of a request, and send a run of them as soon as the next block is elsewhere."""
    cache, offset_bits, request, index = tables.cache, tables.offset_bits, tables.request, tables.index
    again, entry, block_size = tables.again, tables.entry.data, tables.cache.block_size
    at, left = Signal(positions(cache.config)), Signal(positions(cache.config))  # the part that is still to come
    here, offset = Signal(range(block_size + 1)), Signal(range(max(block_size, 2)))
    run, start, empty = Signal.like(rows.i.p.passed), Signal(range(cache.blocks * block_size)), Signal()
    follows, last_block, owned = Signal(), Signal(range(cache.blocks)), Signal()
    room = block_size - offset
    m.d.comb += [
        offset.eq(at[:offset_bits]), here.eq(Mux(left < room, left, room)), follows.eq(empty | (entry == last_block + 1)),
        *(rows.i.p[name].eq(request[name]) for name in ("write", "base", "head")),
        rows.i.p.position.eq(start), rows.i.p.count.eq(run.count), rows.i.p.passed.eq(run),
    ]
    with m.State("CHECK"):
        m.d.sync += [at.eq(request.position), left.eq(request.count), index.eq(request.position >> offset_bits), empty.eq(1),
                     again.eq(1), owned.eq(request.write)]
        m.next = "LOOK"
        with m.If(tables.same & (owned | ~request.write)):
            m.d.sync += [left.eq(0), empty.eq(0), owned.eq(owned)]
            m.next = "SEND"
        with m.Elif(request.position + request.count > tables.state.length):
            m.d.sync += [cache.error.eq(1), again.eq(0)]
            m.next = "IDLE"
        with m.Elif(request.count == 0):
            m.d.sync += again.eq(0)
            m.next = "IDLE"
    with m.State("LOOK"):
        m.next = "ROWS"
        with m.If(request.write):
            m.next = "OWNERS"
    with tables.ask(m, "OWNERS", PoolCommand.COUNT, entry, "OWNERS") as known:
        with m.If(known):
            m.next = "ROWS"
            with m.If(tables.pool.o.p.count > 1):
                m.d.sync += [cache.error.eq(1), again.eq(0), left.eq(0)]
                m.next = "SEND"
    with m.State("ROWS"):
        m.next = "SEND"
        with m.If(follows):
            m.d.sync += [run.count.eq(here + Mux(empty, 0, run.count)), empty.eq(0), run.last.eq(left == here),
                         at.eq(at + here), left.eq(left - here), index.eq(index + 1), last_block.eq(entry)]
            with m.If(empty):
                m.d.sync += [start.eq(entry << offset_bits | offset), run.position.eq(at)]
            with m.If(left != here):
                m.next = "LOOK"
    with m.State("SEND"):
        m.d.comb += rows.i.valid.eq(~empty)
        with m.If(rows.i.ready | empty):
            m.d.sync += empty.eq(1)
            m.next = "ROWS"
            with m.If(left == 0):
                m.next = "IDLE"
            with m.Else():
                m.d.sync += again.eq(0)
