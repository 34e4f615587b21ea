"""What is read from memory, to the units that use it."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring

from ..control.isa import Opcode
from ..streams.route import buffer_before, buffered, merge, steer, steer_data
from .parts import OPERATIONS, Parts, Running
from .records import move_rows

__all__ = ["read_data", "read_matrices"]


def read_matrices(m: Module, core: wiring.Component, parts: Parts) -> None:
    """Matrices go to the LM head whenever they come, to the engine as many as it was told of: one with too few beats starves it, so
    that the watchdog names it, instead of going on with the next one's."""
    frontend, executor, matrices = parts.frontend, parts.executor, parts.matrices
    ahead, matrix_ended = frontend.o_weights, Signal()
    m.d.comb += [
        core.o_weights.p.address.eq(ahead.p.address), core.o_weights.p.beats.eq(ahead.p.beats),
        core.o_weights.valid.eq(ahead.valid & matrices.i.ready), ahead.ready.eq(core.o_weights.ready & matrices.i.ready),
        matrices.i.p.head.eq(ahead.p.head), matrices.i.valid.eq(ahead.valid & core.o_weights.ready),
        matrices.o.ready.eq(matrix_ended),
    ]
    announced = Signal(range(OPERATIONS))
    to_engine, to_rows = Signal(), Signal()
    m.d.sync += [
        matrix_ended.eq(core.i_weights.valid & core.i_weights.ready & core.i_weights.p.last),
        announced.eq(announced + (executor.o_engine.valid & executor.o_engine.ready) - (matrix_ended & ~matrices.o.p.head)),
    ]
    m.d.comb += [to_engine.eq(matrices.o.valid & ~matrices.o.p.head & announced.any() & ~matrix_ended),
                 to_rows.eq(matrices.o.valid & matrices.o.p.head & ~matrix_ended)]
    steer(m, core.i_weights, [(buffer_before(m, parts.lane_words.i, "lane_beats"), to_engine)])
    steer_data(m, core.i_weights, buffer_before(m, parts.head.i_weights, "head_beats"), to_rows)


def read_data(m: Module, core: wiring.Component, parts: Parts, running: Running):
    """All other data; returns ``copying``, a signal with a paged cache only."""
    op, frontend, mover, cache = running.op, parts.frontend, parts.mover, parts.cache
    executor, engine, embedding, gains, table = parts.executor, parts.engine, parts.embedding, parts.gains, parts.table
    # Before a sequence writes to a block that others have too, its rows are copied, while nothing else is read or written.
    i_data, copying = core.i_data, None
    if parts.paged:
        i_data, copying = stream.Signature(i_data.p.shape()).create(path=("fetched_data",)), Signal()
        move_rows(m, core, frontend, mover, copying)
        merge(m, [(frontend.o_data, ~copying), (mover.o_read, copying)], core.o_data)
        steer(m, core.i_data, [(i_data, ~copying), (mover.i_data, copying)])
    # While tokens are appended, the cache reads for itself; what the front end reads next waits for them.
    if parts.evict:
        i_data, appends = stream.Signature(i_data.p.shape()).create(path=("fetched_data",)), op[Opcode.APPEND]
        merge(m, [(frontend.o_data, ~appends), (cache.o_fetch, appends)], core.o_data)
        steer(m, core.i_data, [(i_data, ~appends), (cache.i_data, appends)])
    # Rows that are compared take the way of no other data: the list knows how many it takes.
    if parts.tokens is not None:
        i_data, compares = stream.Signature(i_data.p.shape()).create(path=("fetched_data",)), op[Opcode.DEVIATE]
        steer(m, core.i_data, [(i_data, ~compares), (buffer_before(m, parts.tokens.i, "compared_beats"), compares)])

    # Other memory data: open to the operation that runs, for as many packets as it announced.
    # All conditions are registers, so the last packet closes the gate for two cycles, until they know.
    blocks = [] if parts.means is None else [op[Opcode.MEANS], op[Opcode.RETRIEVE]]
    announced_to, another, packet_ended, closed = Signal(3 + len(blocks)), Signal(), Signal(), Signal()
    m.d.sync += [
        announced_to.eq(Mux(executor.data_packets.any(),
                            Cat(op[Opcode.EMBED] | op[Opcode.NORM], op[Opcode.ROPE], op[Opcode.ATTEND], *blocks), 0)),
        another.eq(executor.data_packets[1:].any()),
        packet_ended.eq(i_data.valid & i_data.ready & i_data.p.last),
        closed.eq(packet_ended),
    ]
    gate = Signal()
    m.d.comb += gate.eq(Mux(another, ~(packet_ended & closed), ~(packet_ended | closed)))
    to_short, to_table, to_attention, *to_blocks = (announced & gate for announced in announced_to)
    steer(m, i_data, [(buffer_before(m, parts.short_words.i, "short_beats"), to_short),
                       (buffer_before(m, parts.table_words.i, "table_beats"), to_table)])
    steer_data(m, i_data, buffer_before(m, parts.attention.i_rows, "rows_ahead"), to_attention)
    if parts.means is not None:
        for unit, name, condition in ((parts.means, "averaged_beats", to_blocks[0]), (parts.retrieval, "scored_beats", to_blocks[1])):
            steer_data(m, i_data, buffer_before(m, unit.i, name), condition)
    m.d.comb += executor.packet_taken.eq(packet_ended)
    # A gearbox passes the ``ready`` of its sink on to the memory's queues within the cycle: so that comes from a register.
    short_ahead, table_ahead, lanes_ahead = (
        buffered(m, words.o, f"{name}_ahead")
        for name, words in (("short", parts.short_words), ("table", parts.table_words), ("lanes", parts.lane_words)))
    m.d.comb += [
        embedding.i.valid.eq(short_ahead.o.valid & op[Opcode.EMBED]), embedding.i.p.data.eq(short_ahead.o.p.data),
        embedding.i.p.last.eq(short_ahead.o.p.last),
        gains.i.valid.eq(short_ahead.o.valid & op[Opcode.NORM]), gains.i.p.data.eq(short_ahead.o.p.data),
        gains.i.p.last.eq(short_ahead.o.p.last),
        short_ahead.o.ready.eq(Mux(op[Opcode.EMBED], embedding.i.ready, gains.i.ready & op[Opcode.NORM])),
        table.i.valid.eq(table_ahead.o.valid), table.i.p.data.eq(table_ahead.o.p.data),
        table.i.p.last.eq(table_ahead.o.p.last), table_ahead.o.ready.eq(table.i.ready),
        engine.i_weights.valid.eq(lanes_ahead.o.valid), engine.i_weights.payload.eq(lanes_ahead.o.p.data),
        lanes_ahead.o.ready.eq(engine.i_weights.ready),
    ]
    return copying
