"""Reads transfers from memory over AXI4."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from ..axi import AXI4Signature, drive_bursts, is_error
from ..checks import check_int
from ..config import AcceleratorConfig
from ..streams import Queue, connect, word_layout
from .bursts import ADDRESS_BITS, BURST_COMMAND, BurstSplitter, check_bursts, default_burst_beats

__all__ = ["BurstReader"]


class BurstReader(wiring.Component):
    """Turns commands into AXI4 read bursts and gives the beats in order.

    ::

        i_command --> splitter --> AR, while the queue has room for the burst
                                          o <-- queue <-- R, always ready

    A burst is only asked for when the queue can hold all of it, so ``rready`` is always up: a reader whose
    consumer stalls never holds up the responses of others on the same port. The queue is the prefetch
    queue: as long as it has room, bursts of this command and of the next are asked for back to back. The port
    is busy in every cycle if ``outstanding - 1`` bursts, and ``buffer_beats - burst_beats`` beats, cover the
    memory's latency plus 8 cycles.

    A memory that answers in order answers a burst when all before it have been answered, whoever asked for them: bursts of a reader
    that is ahead of its consumer delay those of another whose consumer waits. ``limit`` keeps a reader back, ``wants`` and ``full``
    tell how the other one does.

    Parameters
    ----------
    bus_bits : int
        Bus word, 32 to 1024, a power of two.
    burst_beats : int
        Longest burst, a power of two, 2 to 256, at most 4 KiB. Bursts end at multiples of it.
    outstanding : int
        Bursts asked for and not yet answered in full, 2 to 64.
    buffer_beats : int
        Depth of the queue, ``burst_beats`` to 2**16.

    Members
    -------
    i_command : In(stream.Signature({address: 32, beats: 24}))
        Byte address, a multiple of the bus word. A command of no beats gives nothing.
    o : Out(stream.Signature({data: bus_bits, last: 1}))
        Registered. ``last`` marks the final beat of a command.
    m_axi : Out(AXI4Signature(bus_bits, read=True, write=False))
        No IDs: all responses come in order.
    error : Out(1), error_address : Out(32)
        Sticky: a response was SLVERR or DECERR, or a command's address was no multiple of the bus word; the
        address is that of the first beat of the first such burst. All beats come all the same (of an
        unaligned command: those from the bus word that holds its address on).
    clear : In(1)
        Clears ``error``.
    limit : In(range(outstanding + 1))
        Bursts that may be asked for and not yet answered in full, at most ``outstanding``, which it is if it is left open. One that
        is offered to memory stays offered.
    wants : Out(1)
        A cycle ago: a command was offered, or one that had come two cycles before or earlier had a burst that memory had not taken.
    full : Out(1)
        A cycle ago: half of the queue or more was filled.

    Latency: 2 cycles from command to ``arvalid``; 2 cycles (3 for more than 32 ``buffer_beats``) from R to
    ``o``. The attribute is their sum with a memory that answers in the cycle after AR. Interval: 1 cycle per
    beat.
    """

    interval = 1

    def __init__(self, bus_bits: int, *, burst_beats: int = 64, outstanding: int = 4,
                 buffer_beats: int | None = None):
        check_bursts(bus_bits, burst_beats)
        check_int("outstanding", outstanding, 2, 64)
        if buffer_beats is None:
            buffer_beats = 4 * burst_beats
        check_int("buffer_beats", buffer_beats, max(3, burst_beats), 1 << 16)
        self.bus_bits, self.burst_beats = bus_bits, burst_beats
        self.outstanding, self.buffer_beats = outstanding, buffer_beats
        self._queue = Queue(word_layout(bus_bits), buffer_beats)
        self.latency = BurstSplitter.latency + 1 + self._queue.latency
        super().__init__({
            "i_command": In(stream.Signature(BURST_COMMAND)),
            "o": Out(stream.Signature(word_layout(bus_bits))),
            "m_axi": Out(AXI4Signature(bus_bits, address_bits=ADDRESS_BITS, write=False)),
            "error": Out(1),
            "error_address": Out(ADDRESS_BITS),
            "clear": In(1),
            "limit": In(range(outstanding + 1), init=outstanding),
            "wants": Out(1),
            "full": Out(1),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig, buffer_beats: int | None = None) -> "BurstReader":
        """A reader with a queue of ``buffer_beats``, room for at least four bursts; by default that of the weights."""
        buffer_beats = config.prefetch_beats if buffer_beats is None else buffer_beats
        beats = min(default_burst_beats(config.bus_bits), buffer_beats // 4)
        return cls(config.bus_bits, burst_beats=beats, buffer_beats=buffer_beats, outstanding=8)

    def elaborate(self, platform):
        m = Module()
        axi = self.m_axi
        drive_bursts(m, axi)
        m.submodules.splitter = splitter = BurstSplitter(self.bus_bits, self.burst_beats)
        connect(m, wiring.flipped(self.i_command), splitter.i)
        m.submodules.queue = queue = self._queue
        connect(m, queue.o, wiring.flipped(self.o))

        burst = splitter.o
        word = (self.bus_bits // 8).bit_length() - 1
        asks, answered, leaves = axi.arvalid & axi.arready, Signal(), Signal()
        m.d.sync += leaves.eq(self.o.valid & self.o.ready)
        # Beats asked for that have not left the queue (a cycle ago). Only falls between two bursts, so arvalid is stable.
        reserved = Signal(range(self.buffer_beats + 1))
        room = Signal(init=1)
        reserved_next = Signal.like(reserved)
        with m.If(asks):
            m.d.comb += reserved_next.eq(reserved + burst.p.length + ~leaves)
        with m.Else():
            m.d.comb += reserved_next.eq(reserved - leaves)
        m.d.sync += [
            reserved.eq(reserved_next),
            room.eq(reserved_next <= self.buffer_beats - self.burst_beats),
        ]

        m.submodules.pending = pending = fifo.SyncFIFO(
            width=1 + ADDRESS_BITS - word, depth=self.outstanding)
        # Whether one more may be asked for, compared before it is known if a burst is asked for or answered.
        free, waiting, most = Signal(init=1), Signal(range(self.outstanding + 1)), Signal.like(self.limit)
        m.d.comb += most.eq(Mux(self.limit < self.outstanding, self.limit, self.outstanding))
        with m.If(asks & ~answered):
            m.d.sync += [waiting.eq(waiting + 1), free.eq(waiting + 1 < most)]
        with m.Elif(answered & ~asks):
            m.d.sync += waiting.eq(waiting - 1)
            with m.If(~axi.arvalid):
                m.d.sync += free.eq(waiting <= most)
        with m.Elif(asks | ~axi.arvalid):
            m.d.sync += free.eq(waiting < most)
        m.d.comb += [
            axi.araddr.eq(Cat(Const(0, word), burst.p.address[word:])),
            axi.arlen.eq(burst.p.length),
            axi.arvalid.eq(burst.valid & ~burst.p.empty & room & free),
            burst.ready.eq(burst.p.empty | (axi.arready & room & free)),
            pending.w_data.eq(Cat(burst.p.last, burst.p.address[word:])),
            pending.w_en.eq(asks),
        ]

        m.d.comb += [
            axi.rready.eq(1),
            answered.eq(axi.rvalid & axi.rlast),
            pending.r_en.eq(answered),
            queue.i.valid.eq(axi.rvalid),
            queue.i.p.data.eq(axi.rdata),
            queue.i.p.last.eq(axi.rlast & pending.r_data[0]),
        ]
        level = Signal.like(reserved)  # beats in the queue, or that left it a cycle ago
        m.d.sync += [level.eq(level + axi.rvalid - leaves), self.full.eq(level >= self.buffer_beats // 2),
                     self.wants.eq((burst.valid & ~burst.p.empty) | self.i_command.valid)]
        with m.If(~self.error):
            with m.If(axi.rvalid & is_error(axi.rresp)):
                m.d.sync += [self.error.eq(1), self.error_address.eq(Cat(Const(0, word), pending.r_data[1:]))]
            with m.Elif(asks & burst.p.unaligned):
                m.d.sync += [self.error.eq(1), self.error_address.eq(burst.p.address)]
        with m.If(self.clear):
            m.d.sync += self.error.eq(0)
        return m
