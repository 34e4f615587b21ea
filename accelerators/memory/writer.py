"""Writes transfers to memory over AXI4."""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from ..axi import AXI4Signature, drive_bursts, is_error
from ..checks import check_int
from ..config import AcceleratorConfig
from ..streams import connect
from .bursts import ADDRESS_BITS, BURST_COMMAND, BurstSplitter, check_bursts, default_burst_beats

__all__ = ["BurstWriter"]


class BurstWriter(wiring.Component):
    """Turns commands into AXI4 write bursts and reports each command when all its responses are there.

    ::

        i_command --> splitter --+--> AW
                                 +--> burst lengths --> W <-- i
                                 +--> bursts pending --> o_done <-- B

    Address and data channels run independently: neither waits for the other's ``ready``.

    Parameters
    ----------
    bus_bits : int
        Bus word, 32 to 1024, a power of two.
    burst_beats : int
        Longest burst, a power of two, 2 to 256, at most 4 KiB. Bursts end at multiples of it.
    outstanding : int
        Bursts begun and not yet answered, 2 to 64.

    Members
    -------
    i_command : In(stream.Signature({address: 32, beats: 24}))
        Byte address, a multiple of the bus word.
    i : In(stream.Signature({data: bus_bits}))
        The beats of all commands, one after another.
    o_done : Out(stream.Signature({error: 1}))
        Registered. One per command, in order, also for a command of no beats.
    m_axi : Out(AXI4Signature(bus_bits, read=False, write=True))
        No IDs.
    error : Out(1), error_address : Out(32)
        Sticky: a response was SLVERR or DECERR, or a command's address was no multiple of the bus word; the
        address is that of the first beat of the first such burst. All beats are taken all the same; those of
        an unaligned command are sent with no strobe set, so that memory keeps its contents.
    clear : In(1)
        Clears ``error``.

    Latency: 3 cycles from command to ``awvalid``, 1 cycle from ``i`` to W, 1 cycle from B to ``o_done``. The
    attribute is the time from the final beat of a command to its ``o_done`` with a memory that answers in the
    cycle after WLAST. Interval: 1 cycle per beat. ``i.ready`` depends on ``wready`` within the cycle.
    """

    latency = 3
    interval = 1

    def __init__(self, bus_bits: int, *, burst_beats: int = 64, outstanding: int = 4):
        check_bursts(bus_bits, burst_beats)
        check_int("outstanding", outstanding, 2, 64)
        self.bus_bits, self.burst_beats, self.outstanding = bus_bits, burst_beats, outstanding
        super().__init__({
            "i_command": In(stream.Signature(BURST_COMMAND)),
            "i": In(stream.Signature(data.StructLayout({"data": bus_bits}))),
            "o_done": Out(stream.Signature(data.StructLayout({"error": 1}))),
            "m_axi": Out(AXI4Signature(bus_bits, address_bits=ADDRESS_BITS, read=False)),
            "error": Out(1),
            "error_address": Out(ADDRESS_BITS),
            "clear": In(1),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "BurstWriter":
        """The writer of K/V records."""
        return cls(config.bus_bits, burst_beats=default_burst_beats(config.bus_bits))

    def elaborate(self, platform):
        m = Module()
        axi = self.m_axi
        drive_bursts(m, axi)
        m.submodules.splitter = splitter = BurstSplitter(self.bus_bits, self.burst_beats)
        connect(m, wiring.flipped(self.i_command), splitter.i)
        burst = splitter.o
        word = (self.bus_bits // 8).bit_length() - 1

        m.submodules.lengths = lengths = fifo.SyncFIFO(width=9, depth=self.outstanding)
        m.submodules.pending = pending = fifo.SyncFIFO(width=3 + ADDRESS_BITS, depth=self.outstanding)
        begins, address_free = Signal(), Signal()
        m.d.comb += [
            address_free.eq(axi.awready | ~axi.awvalid),
            begins.eq(burst.valid & address_free & lengths.w_rdy & pending.w_rdy),
            burst.ready.eq(begins),
            lengths.w_data.eq(Cat(burst.p.length, burst.p.unaligned)),
            lengths.w_en.eq(begins & ~burst.p.empty),
            pending.w_data.eq(Cat(burst.p.last, burst.p.unaligned, burst.p.empty, burst.p.address)),
            pending.w_en.eq(begins),
        ]
        with m.If(address_free):
            m.d.sync += [
                axi.awvalid.eq(begins & ~burst.p.empty),
                axi.awaddr.eq(Cat(Const(0, word), burst.p.address[word:])),
                axi.awlen.eq(burst.p.length),
            ]

        self._send(m, lengths)
        self._report(m, pending)
        return m

    def _send(self, m, lengths):
        """W: beats of ``i``, with ``wlast`` where the first of ``lengths`` ends."""
        axi = self.m_axi
        beat = Signal(range(self.burst_beats))
        data_free, final = Signal(), Signal()
        m.d.comb += [
            data_free.eq(axi.wready | ~axi.wvalid),
            final.eq(beat == lengths.r_data[:8]),
            self.i.ready.eq(data_free & lengths.r_rdy),
            lengths.r_en.eq(self.i.valid & self.i.ready & final),
        ]
        with m.If(data_free):
            m.d.sync += [
                axi.wvalid.eq(self.i.valid & lengths.r_rdy),
                axi.wdata.eq(self.i.p.data),
                axi.wstrb.eq((~lengths.r_data[8]).replicate(self.bus_bits // 8)),
                axi.wlast.eq(final),
            ]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += beat.eq(beat + 1)
            with m.If(final):
                m.d.sync += beat.eq(0)

    def _report(self, m, pending):
        """B: gather the responses of a command."""
        axi, done = self.m_axi, self.o_done
        word = (self.bus_bits // 8).bit_length() - 1
        last, unaligned, empty = pending.r_data[0], pending.r_data[1], pending.r_data[2]
        address = pending.r_data[3:]
        done_free, answered, failed, failed_before = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            done_free.eq(done.ready | ~done.valid),
            axi.bready.eq(done_free & pending.r_rdy & ~empty),
            answered.eq(done_free & pending.r_rdy & (empty | axi.bvalid)),
            pending.r_en.eq(answered),
            failed.eq(unaligned | (is_error(axi.bresp) & ~empty)),
        ]
        with m.If(done_free):
            m.d.sync += [done.valid.eq(answered & last), done.p.error.eq(failed_before | failed)]
        with m.If(answered):
            m.d.sync += failed_before.eq((failed_before | failed) & ~last)
        with m.If(~self.error & answered & failed):
            m.d.sync += [
                self.error.eq(1),
                self.error_address.eq(Cat(address[:word] & unaligned.replicate(word), address[word:])),
            ]
        with m.If(self.clear):
            m.d.sync += self.error.eq(0)
