"""A cache controller with reader, writer and an ideal memory: what its addresses cost on the port."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ...accelerators.cache.evict_cache import EvictCache
from ...accelerators.cache.window import WindowCache, window_request
from ...accelerators.config import POSITION_BITS, AcceleratorConfig
from ...accelerators.memory.reader import BurstReader
from ...accelerators.memory.writer import BurstWriter
from ...accelerators.streams import Queue
from ...accelerators.streams.route import pass_fields

__all__ = ["CacheOnPort", "EvictOnPort", "WindowOfText"]


class CacheOnPort(wiring.Component):
    """``cache`` commands a ``BurstReader`` and a ``BurstWriter``; memory answers in the next cycle, a beat in each, and data to write
    are always there. So each cycle without a beat, between the first and the last one, is lost by addresses.

    Parameters
    ----------
    config : AcceleratorConfig
    cache : wiring.Component
        Its members but ``o_read`` and ``o_write`` are the members here.

    Members
    -------
    o_in, o_out : Out(stream of 1 bit, always_ready=True)
        A beat read or written; the bit is its ``last``.
    """

    def __init__(self, config: AcceleratorConfig, cache: wiring.Component):
        self.config, self.cache = config, cache
        beat = stream.Signature(1, always_ready=True)
        members = {name: member for name, member in cache.signature.members.items() if name not in ("o_read", "o_write")}
        super().__init__({**members, "o_in": Out(beat), "o_out": Out(beat)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.cache = cache = self.cache
        m.submodules.reader = reader = BurstReader.for_config(self.config)
        m.submodules.writer = writer = BurstWriter.for_config(self.config)
        _pass_on(m, self, cache, self.cache.signature.members.keys() - {"o_read", "o_write"})
        for source, sink in ((cache.o_read, reader.i_command), (cache.o_write, writer.i_command)):
            pass_fields(m, source, sink)

        _give_reads(m, reader, self.o_in)
        m.d.comb += reader.o.ready.eq(1)
        m.d.comb += [writer.i.valid.eq(1), writer.o_done.ready.eq(1)]
        _take_writes(m, writer, self.o_out)
        return m


class EvictOnPort(wiring.Component):
    """An ``EvictCache`` commands a ``BurstReader`` and a ``BurstWriter``; records are always there, memory is that of ``CacheOnPort``.

    Members
    -------
    i_request : In(stream of evict_request), i_weights : In(stream of {weight, last}), o_append : Out(stream of append_layout)
    record_beats, head_stride, beats, words, sinks, recent, threshold : In
        See ``EvictCache``.
    word : In(bus_bits)
        What all of memory holds.
    o_in, o_out : Out(stream of 1 bit, always_ready=True)
        A beat read or written; the bit is its ``last``.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config, self.cache = config, EvictCache(config)
        self.passed = ("i_request", "i_weights", "o_append", "record_beats", "head_stride", "beats", "words", "sinks", "recent",
                       "threshold")
        beat = stream.Signature(1, always_ready=True)
        super().__init__({**{name: self.cache.signature.members[name] for name in self.passed}, "word": In(config.bus_bits),
                          "o_in": Out(beat), "o_out": Out(beat)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.cache = cache = self.cache
        m.submodules.reader = reader = BurstReader.for_config(self.config)
        m.submodules.writer = writer = BurstWriter.for_config(self.config)
        _pass_on(m, self, cache, self.passed)
        pass_fields(m, cache.o_fetch, reader.i_command)
        pass_fields(m, reader.o, cache.i_data)
        m.d.comb += reader.m_axi.rdata.eq(self.word)
        _give_reads(m, reader, self.o_in)
        pass_fields(m, cache.o_write, writer.i_command)
        pass_fields(m, writer.o_done, cache.i_written)
        beat = Signal.like(self.record_beats)
        pass_fields(m, cache.o_data, writer.i)
        m.d.comb += [cache.i_record.valid.eq(1), cache.i_record.p.last.eq(beat == self.record_beats - 1)]
        with m.If(cache.i_record.ready):
            m.d.sync += beat.eq(Mux(cache.i_record.p.last, 0, beat + 1))
        _take_writes(m, writer, self.o_out)
        return m


class WindowOfText(wiring.Component):
    """A ``WindowCache`` that is told ``length`` with each request, as a sequencer does: at the earliest."""

    def __init__(self, config: AcceleratorConfig):
        self.cache = WindowCache(config)
        members = self.cache.signature.members
        request = data.StructLayout({**window_request(config).members, "length": POSITION_BITS})
        super().__init__({**{name: member for name, member in members.items() if name not in ("i_request", "length")},
                          "i_request": In(stream.Signature(request))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.cache = cache = self.cache
        _pass_on(m, self, cache, self.signature.members.keys() - {"i_request"})
        request, told = cache.i_request, Signal.like(cache.length)
        pass_fields(m, wiring.flipped(self.i_request), request)
        m.d.comb += cache.length.eq(told)
        with m.If(self.i_request.valid & self.i_request.ready):
            m.d.sync += told.eq(self.i_request.p.length)
        return m


def _pass_on(m: Module, outer, inner, names) -> None:
    """Connect the members of a component with those of one within it."""
    for name in sorted(names):
        member, here, there = inner.signature.members[name], getattr(outer, name), getattr(inner, name)
        if not member.is_port:
            wiring.connect(m, *((wiring.flipped(here), there) if member.flow == In else (there, wiring.flipped(here))))
        else:
            m.d.comb += there.eq(here) if member.flow == In else here.eq(there)


def _give_reads(m: Module, reader: BurstReader, o_in) -> None:
    """A queue of bursts, whose beats come one per cycle."""
    m.submodules.asked = asked = Queue(8, 16)
    beat, axi = Signal(8), reader.m_axi
    m.d.comb += [
        asked.i.valid.eq(axi.arvalid), axi.arready.eq(asked.i.ready), asked.i.p.eq(axi.arlen),
        axi.rvalid.eq(asked.o.valid), axi.rlast.eq(beat == asked.o.p), asked.o.ready.eq(axi.rready & axi.rlast),
        o_in.valid.eq(axi.rvalid & axi.rready), o_in.p.eq(axi.rlast),
    ]
    with m.If(axi.rvalid & axi.rready):
        m.d.sync += beat.eq(Mux(axi.rlast, 0, beat + 1))


def _take_writes(m: Module, writer: BurstWriter, o_out) -> None:
    """Memory takes writes at once; a burst is answered in the cycle after its last beat."""
    axi, owed = writer.m_axi, Signal(8)
    m.d.comb += [axi.awready.eq(1), axi.wready.eq(1), axi.bvalid.eq(owed != 0), o_out.valid.eq(axi.wvalid), o_out.p.eq(axi.wlast)]
    m.d.sync += owed.eq(owed + (axi.wvalid & axi.wlast) - (axi.bvalid & axi.bready))
