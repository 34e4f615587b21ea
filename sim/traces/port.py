"""A cache controller with reader, writer and an ideal memory: what its addresses cost on the port."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ...accelerators.config import AcceleratorConfig
from ...accelerators.memory.reader import BurstReader
from ...accelerators.memory.writer import BurstWriter
from ...accelerators.streams import Queue
from ...accelerators.streams.route import pass_fields

__all__ = ["CacheOnPort"]


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
        for name, member in cache.signature.members.items():
            if name in ("o_read", "o_write"):
                continue
            here, there = getattr(self, name), getattr(cache, name)
            if not member.is_port:
                wiring.connect(m, *((wiring.flipped(here), there) if member.flow == In else (there, wiring.flipped(here))))
            else:
                m.d.comb += there.eq(here) if member.flow == In else here.eq(there)
        for source, sink in ((cache.o_read, reader.i_command), (cache.o_write, writer.i_command)):
            pass_fields(m, source, sink)

        # Reads: a queue of bursts, whose beats come one per cycle.
        m.submodules.asked = asked = Queue(8, 16)
        beat, axi = Signal(8), reader.m_axi
        m.d.comb += [
            asked.i.valid.eq(axi.arvalid), axi.arready.eq(asked.i.ready), asked.i.p.eq(axi.arlen),
            axi.rvalid.eq(asked.o.valid), axi.rlast.eq(beat == asked.o.p), asked.o.ready.eq(axi.rready & axi.rlast),
            reader.o.ready.eq(1), self.o_in.valid.eq(axi.rvalid & axi.rready), self.o_in.p.eq(axi.rlast),
        ]
        with m.If(axi.rvalid & axi.rready):
            m.d.sync += beat.eq(Mux(axi.rlast, 0, beat + 1))

        # Writes: taken at once; a burst is answered in the cycle after its last beat.
        axi, owed = writer.m_axi, Signal(8)
        m.d.comb += [axi.awready.eq(1), axi.wready.eq(1), axi.bvalid.eq(owed != 0), writer.i.valid.eq(1), writer.o_done.ready.eq(1),
                     self.o_out.valid.eq(axi.wvalid), self.o_out.p.eq(axi.wlast)]
        m.d.sync += owed.eq(owed + (axi.wvalid & axi.wlast) - (axi.bvalid & axi.bready))
        return m
