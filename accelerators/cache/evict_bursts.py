"""Bursts of an evict + merge KV cache: asked for one after another, then written and answered."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring

from ..streams import Queue, StreamBuffer, connect
from .addresses import RowAddresses, row_address_layout
from .evict_formats import Outcome, append_layout

__all__ = ["EvictBursts"]

APPENDS = 8
"""Appends that may wait for memory: as many as keep a port busy with the shortest records."""


class EvictBursts:
    """What the states of an ``EvictCache`` ask of memory, a burst in a cycle, and what becomes of it without them.

    ::

        asks --> RowAddresses -.-> o_read, o_fetch
                               '-> o_write --> sources: whose words come --> i_record or merged --> o_data
        appends (queue) --------------------> answers of the first one, as many as it has writes --> o_append

    Parameters
    ----------
    m : Module
        That of the cache: memories and registers are put into it.
    cache : EvictCache
        Its ports and sizes matter.
    merged : stream of word_layout
        Merged records, a packet each.

    Members
    -------
    asks : stream of row_address_layout
        Bursts, in order. ``own``: what the cache reads for itself, or the merged record.
    appends : stream of append_layout
        An append whose writes have been asked for, or will be in this cycle.
    skips : Signal
        Driven by the states: words of ``i_record`` are dropped, while no write is under way.
    settled, idle : Signal
        Every write to head ``asks.p.head``, every write at all, has been answered.

    ``ready`` of both streams is a register.
    """

    def __init__(self, m: Module, cache: wiring.Component, merged):
        own = {"own": 1}
        m.submodules.asks = asks = StreamBuffer(row_address_layout(cache.slots, own))
        m.submodules.rows = rows = RowAddresses(cache.config, cache.slots, own)
        m.submodules.appends = appends = Queue(append_layout(cache.slots), APPENDS)
        self.asks, self.appends = asks.i, appends.i
        self.skips, self.settled, self.idle = Signal(), Signal(), Signal()
        connect(m, asks.o, rows.i)
        m.d.comb += [rows.record_beats.eq(cache.record_beats), rows.head_stride.eq(cache.head_stride)]
        self._commands(m, cache, rows.o, merged)
        self._answers(m, cache, appends.o)

    def _commands(self, m: Module, cache: wiring.Component, command, merged) -> None:
        """To who reads and who writes; a command's words follow it."""
        m.submodules.sources = sources = Queue(1, APPENDS)
        m.submodules.written = written = StreamBuffer(cache.o_data.p.shape())
        connect(m, written.o, wiring.flipped(cache.o_data))
        write, own = command.p.write, command.p.passed.own
        for port, wanted in ((cache.o_read, ~write & ~own), (cache.o_fetch, ~write & own), (cache.o_write, write & sources.i.ready)):
            m.d.comb += [port.valid.eq(command.valid & wanted), port.p.address.eq(command.p.address), port.p.beats.eq(command.p.beats)]
        m.d.comb += [
            sources.i.p.eq(own), sources.i.valid.eq(command.valid & write & cache.o_write.ready),
            command.ready.eq(Mux(write, cache.o_write.ready & sources.i.ready, Mux(own, cache.o_fetch.ready, cache.o_read.ready))),
        ]
        record, source = cache.i_record, sources.o
        m.d.comb += [
            written.i.p.eq(Mux(source.p, merged.p, record.p)),
            written.i.valid.eq(source.valid & Mux(source.p, merged.valid, record.valid)),
            merged.ready.eq(written.i.ready & source.valid & source.p),
            record.ready.eq((written.i.ready & source.valid & ~source.p) | self.skips),
            source.ready.eq(written.i.valid & written.i.ready & written.i.p.last),
        ]

    def _answers(self, m: Module, cache: wiring.Component, append) -> None:
        """Counts writes that have no answer; an append is through with the last of its own."""
        asks, answer, given = self.asks, cache.i_written, cache.o_append
        owed, mixed, owed_head = Signal(range(2 * APPENDS + 4)), Signal(), Signal.like(asks.p.head)
        asked = asks.valid & asks.ready & asks.p.write
        m.d.comb += [self.idle.eq(owed == 0), self.settled.eq(self.idle | ~(mixed | (owed_head == asks.p.head)))]
        m.d.sync += owed.eq(owed + asked - (answer.valid & answer.ready))
        with m.If(asked):
            m.d.sync += [owed_head.eq(asks.p.head), mixed.eq(~self.idle & (mixed | (owed_head != asks.p.head)))]

        free, refused, ends, half, failed = (Signal(name=name) for name in ("free", "refused", "ends", "half", "failed"))
        m.d.comb += [
            free.eq(given.ready | ~given.valid), refused.eq(append.p.outcome == Outcome.REFUSED),
            answer.ready.eq(append.valid & free & ~refused),
            ends.eq(append.valid & free & (refused | (answer.valid & (half | (append.p.outcome != Outcome.MERGED))))),
            append.ready.eq(ends),
        ]
        with m.If(free):
            m.d.sync += given.valid.eq(ends)
        with m.If(ends):
            m.d.sync += [given.p.eq(append.p), given.p.error.eq(failed | (answer.p.error & ~refused))]
        with m.If(answer.valid & answer.ready):
            m.d.sync += [half.eq(~ends), failed.eq((failed | answer.p.error) & ~ends)]
