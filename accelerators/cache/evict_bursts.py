"""Bursts of an evict + merge KV cache: asked for one after another, then written and answered."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring

from ..streams import Queue, StreamBuffer, connect
from .addresses import HEAD_BITS, RowAddresses, row_address_layout
from .evict_formats import Burst, Outcome, decision_layout

__all__ = ["EvictBursts"]

APPENDS = 8
"""Appends that may wait for memory: as many as keep a port busy with the shortest records."""

FETCHES = 5
"""Packets that may be asked for: candidate and rows of two heads, and a row that is merged into."""


class EvictBursts:
    """What the states of an ``EvictCache`` ask of memory, a burst in a cycle, and what becomes of it without them.

    ::

        asks --> RowAddresses -.-> o_read
                               |-> o_fetch --> kinds: what each packet of i_data is
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
        Bursts, in order. ``passed.what``: whose.
    appends : stream of decision_layout
        An append whose writes have been asked for, or will be in this cycle.
    kinds : stream of Burst
        Of each packet of ``i_data``; taken with its last beat.
    records : stream of {kept}
        Of each packet that is one record, as ``RecordMerge`` wants to know.
    skips : Signal
        Driven by the states: words of ``i_record`` are dropped, while no write is under way.
    idle : Signal
        Every write has been answered.

    ``ready`` of ``asks`` and of ``appends`` is a register.
    """

    def __init__(self, m: Module, cache: wiring.Component, merged):
        passed = {"what": Burst}
        m.submodules.asks = asks = StreamBuffer(row_address_layout(cache.slots, passed))
        m.submodules.rows = rows = RowAddresses(cache.config, cache.slots, passed)
        m.submodules.appends = appends = Queue(decision_layout(cache.slots), APPENDS)
        m.submodules.kinds = kinds = Queue(Burst, FETCHES)
        m.submodules.records = records = Queue(1, FETCHES)
        self.asks, self.appends, self.kinds, self.records = asks.i, appends.i, kinds.o, records.o
        self.skips, self.idle = Signal(), Signal()
        self._waiting = [Signal(data.StructLayout({"valid": 1, "head": HEAD_BITS}), name=f"append_{k}") for k in range(APPENDS)]
        connect(m, asks.o, rows.i)
        m.d.comb += [rows.record_beats.eq(cache.record_beats), rows.head_stride.eq(cache.head_stride)]
        self._commands(m, cache, rows.o, merged, kinds.i, records.i)
        self._answers(m, cache, appends.o)

    def settled(self, head: Signal) -> Value:
        """Every write of the appends to ``head`` that were asked for has been answered."""
        return ~Cat(append.valid & (append.head == head) for append in self._waiting).any()

    def _commands(self, m: Module, cache: wiring.Component, command, merged, kinds, records) -> None:
        """To who reads and who writes; a command's words follow it."""
        m.submodules.sources = sources = Queue(1, APPENDS)
        m.submodules.written = written = StreamBuffer(cache.o_data.p.shape())
        connect(m, written.o, wiring.flipped(cache.o_data))
        write, what = command.p.write, command.p.passed.what
        own, room = what != Burst.TOKEN, kinds.ready  # a record leaves ``records`` before it leaves ``kinds``
        fetches = cache.o_fetch.valid & cache.o_fetch.ready
        for port, wanted in ((cache.o_read, ~write & ~own), (cache.o_fetch, ~write & own & room),
                             (cache.o_write, write & sources.i.ready)):
            m.d.comb += [port.valid.eq(command.valid & wanted), port.p.address.eq(command.p.address), port.p.beats.eq(command.p.beats)]
        m.d.comb += [
            kinds.p.eq(what), kinds.valid.eq(fetches), records.p.eq(what == Burst.TARGET),
            records.valid.eq(fetches & (what != Burst.ROWS)),
            sources.i.p.eq(own), sources.i.valid.eq(command.valid & write & cache.o_write.ready),
            command.ready.eq(Mux(write, cache.o_write.ready & sources.i.ready,
                                 Mux(own, cache.o_fetch.ready & room, cache.o_read.ready))),
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
        asks, appends, answer, given = self.asks, self.appends, cache.i_written, cache.o_append
        owed, into, out = Signal(range(2 * APPENDS + 4)), Signal(range(APPENDS)), Signal(range(APPENDS))
        m.d.comb += self.idle.eq(owed == 0)
        m.d.sync += owed.eq(owed + (asks.valid & asks.ready & asks.p.write) - (answer.valid & answer.ready))
        m.d.sync += [into.eq(into + (appends.valid & appends.ready)), out.eq(out + append.ready)]
        for number, waiting in enumerate(self._waiting):
            with m.If(appends.valid & appends.ready & (into == number)):
                m.d.sync += [waiting.valid.eq(1), waiting.head.eq(appends.p.head)]
            with m.Elif(append.ready & (out == number)):
                m.d.sync += waiting.valid.eq(0)

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
            m.d.sync += [*(given.p[name].eq(append.p[name]) for name in append.p.shape().members),
                         given.p.error.eq(failed | (answer.p.error & ~refused))]
        with m.If(answer.valid & answer.ready):
            m.d.sync += [half.eq(~ends), failed.eq((failed | answer.p.error) & ~ends)]
