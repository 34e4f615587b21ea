"""The requests of a paged KV cache: a machine that walks over their blocks."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data

from .addresses import RowAddresses
from .paged_formats import positions
from .paged_tables import SequenceTables

__all__ = ["send_runs"]


def send_runs(m: Module, tables: SequenceTables, rows: RowAddresses) -> None:
    """States from ``IDLE`` to ``SEND``: a block in each cycle, whose number was looked up in the one before. A run is sent as soon as
    the next block is elsewhere, or was the last one; rows of one block at once in ``WALK``, if they are taken.

    A request that comes behind a command waits for it in ``CHECK``. What it needs then of an EXTEND is there at once: ``tail``."""
    cache, offset_bits, request, again, lookup, tail = (
        tables.cache, tables.offset_bits, tables.request, tables.again, tables.lookup, tables.tail)
    offered, block_size, each = cache.i_request.p, cache.block_size, positions(cache.config)
    behind, same, owned, end = Signal(), Signal(), Signal(), Signal(len(offered.position) + 1)
    beyond, none = Signal(), Signal()
    at, left = Signal(each), Signal(each)  # what is still to be looked up
    part = Signal(data.StructLayout({"position": each, "count": range(block_size + 1), "last": 1}))  # in a block that was looked up
    run, start, empty = Signal.like(rows.i.p.passed), Signal(range(cache.blocks * block_size)), Signal()
    next_block, joins, denied = Signal(range(cache.blocks + 1)), Signal(), Signal()

    def row(block, position):
        return (block << offset_bits) | position[:offset_bits]

    def look_up() -> None:
        """In a state: the block of ``at``."""
        room = block_size - at[:offset_bits]
        m.d.comb += lookup.en.eq(1)
        m.d.sync += [
            part.position.eq(at), part.count.eq(Mux(left < room, left, room)), part.last.eq(left <= room),
            at.eq(((at >> offset_bits) + 1) << offset_bits), left.eq(left - room),
        ]

    def refuse(following: str) -> None:
        m.d.sync += [cache.error.eq(1), again.eq(0), empty.eq(0)]
        m.next = following

    def accept() -> None:
        """In a state: it is the last one of the request before."""
        m.d.comb += cache.i_request.ready.eq(1)
        m.next = "IDLE"
        with m.If(cache.i_request.valid):
            m.next = "CHECK"

    m.d.comb += [
        lookup.en.eq(0), lookup.addr.eq(tables.index_of(at) | request.sequence << tables.index_bits),
        joins.eq(empty | (lookup.data == next_block)), none.eq(request.count == 0),
        denied.eq(beyond | (request.write & ~none & tables.denied)),
        *(rows.i.p[name].eq(request[name]) for name in ("write", "base", "head")),
        rows.i.p.position.eq(start), rows.i.p.count.eq(run.count), rows.i.p.passed.eq(run),
    ]
    with m.If(empty):  # sent without having been a run
        m.d.comb += [rows.i.p.position.eq(row(lookup.data, part.position)), rows.i.p.count.eq(part.count),
                     *(rows.i.p.passed[name].eq(part[name]) for name in ("position", "count", "last"))]
    with m.FSM(name="requests") as states:
        m.d.comb += tables.serving.eq(~states.ongoing("IDLE") & ~behind & ~cache.i_request.ready)
        with m.State("IDLE"):
            accept()
        with m.State("CHECK"):
            with m.If(tables.returns):
                m.d.sync += behind.eq(0)
            with m.If(~behind):  # whether it is needed or not
                look_up()
            with m.If((~behind | tables.returns) & tail.valid & ~none & (request.sequence == tail.sequence)
                      & (tables.index_of(request.position) == tail.index) & (end <= tail.end)):
                m.d.sync += [start.eq(row(tables.first_block, request.position)), run.position.eq(request.position),
                             run.count.eq(request.count), run.last.eq(1), again.eq(1), owned.eq(1)]
                m.next = "SEND"
            with m.Elif(behind):  # what is kept of the sequence is not yet there
                m.next = "CHECK"
            with m.Elif(again & same & (owned | ~request.write)):
                m.next = "SEND"
            with m.Else():
                m.d.sync += [empty.eq(1), again.eq(1), owned.eq(request.write), beyond.eq(end > tables.asked.length)]
                m.next = "WALK"
        with m.State("WALK"):
            m.d.comb += rows.i.valid.eq(~denied & ~none & Mux(empty, part.last, ~joins))
            with m.If(denied):
                refuse("REFUSE")
                with m.If(~empty):
                    m.next = "STOP"
            with m.Elif(none):
                m.d.sync += [again.eq(0), empty.eq(0)]
                m.next = "IDLE"
            with m.Elif(joins | rows.i.ready):
                look_up()
                m.d.sync += [run.count.eq(part.count + Mux(joins & ~empty, run.count, 0)), run.last.eq(part.last), empty.eq(0),
                             next_block.eq(lookup.data + 1)]
                with m.If(empty | ~joins):
                    m.d.sync += [start.eq(row(lookup.data, part.position)), run.position.eq(part.position)]
                with m.If(~joins):
                    m.d.sync += again.eq(0)
                with m.If(part.last):
                    m.next = "SEND"
                    with m.If(empty & rows.i.ready):
                        accept()
        with m.State("SEND"):
            m.d.comb += rows.i.valid.eq(1)
            with m.If(rows.i.ready):
                accept()
        with m.State("STOP"):
            m.d.comb += rows.i.valid.eq(1)
            with m.If(rows.i.ready):
                m.next = "REFUSE"
        with m.State("REFUSE"):
            answer = rows.i.p.passed
            m.d.comb += [rows.i.valid.eq(1), rows.i.p.count.eq(0), answer.count.eq(0), answer.last.eq(1), answer.error.eq(1)]
            with m.If(rows.i.ready):
                accept()
    with m.If(cache.i_request.valid & cache.i_request.ready):
        m.d.sync += [
            request.eq(offered), at.eq(offered.position), left.eq(offered.count), end.eq(offered.position + offered.count),
            same.eq(Cat(offered[name] == request[name] for name in ("sequence", "position", "count")).all()),
            behind.eq(Mux(tables.awaits, cache.i_command.valid, ~tables.returns)),
        ]
