"""One wide AXI4 master on several narrower AXI4 ports."""

from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, fifo, wiring
from amaranth.lib.wiring import In, Out

from ..axi import AXI4Signature, drive_bursts
from ..checks import check_int
from ..config import AcceleratorConfig
from ..streams import Queue, StreamBuffer
from .bursts import ADDRESS_BITS

__all__ = ["PortStripe"]

PAGE_BITS = 12  # a burst that stays in its page of 4 KiB does so on every port, because bases are multiples of it
WRITE_BEATS = 16  # that a port may lag behind the fastest


class PortStripe(wiring.Component):
    """Spreads every memory word over all ports, so that together they are one port as wide as all of them.

    ::

        s_axi.AR --+--> address register of each port --> m_axi[p].AR
                   +--> IDs ----------------------------+
        s_axi.R  <----- join of all <-- queue of each port <-- m_axi[p].R
        s_axi.AW --+--> address register of each port --> m_axi[p].AW
                   +--> IDs ----------------------------+
        s_axi.W  -----> queue of each port -------------> m_axi[p].W
        s_axi.B  <----- join of all <-- buffer of each port <- m_axi[p].B

    Word ``w`` of the bus, at byte ``w * bus_bits / 8``, is cut into ``ports`` slices, the lowest bits first; slice p
    lies at byte ``base[p] + w * port_bits / 8`` behind port p. A burst of n beats is so a burst of n beats on every port,
    from ``base[p] + address / ports``, and crosses 4 KiB nowhere if it does not on ``s_axi``.

    The ports run apart: each takes an address as soon as its own register is free, up to one burst ahead of the
    slowest, and its read data go on until its queue is full. With ``skew_beats`` of ``outstanding`` times the longest
    burst ``rready`` never falls: choose that where a port that is held up may hold up another, behind one memory
    controller with a shared queue. Elsewhere the queues only even out the ports' stalls.

    All responses come in the order of the bursts, reads and writes each for themselves.

    Parameters
    ----------
    bus_bits : int
        Memory word, 32 to 1024, a power of two, at least ``8 * ports``.
    ports : int
        2 to 8, a power of two.
    id_bits : int
        Width of the IDs of ``s_axi``, 1 to 16.
    outstanding : int
        Bursts of each direction that are begun and not yet answered in full, 2 to 64. All ports are busy in every cycle
        if the beats of ``outstanding - 1`` bursts cover the memory's latency plus 8 cycles.
    skew_beats : int
        Depth of the read queue of each port, 3 to 2**16.

    Members
    -------
    s_axi : In(AXI4Signature(bus_bits, id_bits=id_bits))
        Full-width INCR bursts from a multiple of the bus word. ``size``, ``burst``, ``cache`` and ``prot`` are ignored.
    m_axi : Out(AXI4Signature(bus_bits / ports)).array(ports)
        No IDs: all responses come in order.
    base : In(ArrayLayout(32, ports))
        Byte address of word 0 of each port, a multiple of 4 KiB: the lowest 12 bits are ignored. Constant while
        bursts are under way. Addresses wrap at 2**32.

    A response is the worst of all ports': DECERR, SLVERR, OKAY (no port may answer EXOKAY, which nobody asks for).

    Latency: 1 cycle on AR and AW; 2 cycles (3 for more than 32 ``skew_beats``) on R; 2 cycles on W; 1 cycle on B. The
    attribute is what a read takes longer than on a port, AR and R; a write takes 3 cycles longer, from its final beat
    to its response. Interval: 1 cycle per beat and per burst. ``arready`` and ``awready`` depend on those of the ports
    within the cycle, ``wready`` on registers only.
    """

    interval = 1

    def __init__(self, bus_bits: int, ports: int, *, id_bits: int, outstanding: int = 8, skew_beats: int = 32):
        check_int("bus_bits", bus_bits, 32, 1024, power_of_two=True)
        check_int("ports", ports, 2, 8, power_of_two=True)
        if bus_bits < 8 * ports:
            raise ValueError(f"bus_bits must be at least 8 * ports, not {bus_bits} and {ports} ports")
        check_int("id_bits", id_bits, 1, 16)
        check_int("outstanding", outstanding, 2, 64)
        check_int("skew_beats", skew_beats, 3, 1 << 16)
        self.bus_bits, self.ports, self.id_bits = bus_bits, ports, id_bits
        self.outstanding, self.skew_beats = outstanding, skew_beats
        self.port_bits = bus_bits // ports
        self._beats = [Queue(data.StructLayout({"data": self.port_bits, "response": 2, "last": 1}), skew_beats)
                       for _ in range(ports)]
        self.latency = 1 + self._beats[0].latency
        super().__init__({
            "s_axi": In(AXI4Signature(bus_bits, address_bits=ADDRESS_BITS, id_bits=id_bits)),
            "m_axi": Out(AXI4Signature(self.port_bits, address_bits=ADDRESS_BITS)).array(ports),
            "base": In(data.ArrayLayout(ADDRESS_BITS, ports)),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "PortStripe":
        """The configuration's ports (two if it has one), and IDs for three readers."""
        return cls(config.bus_bits, max(2, config.memory_ports), id_bits=2, outstanding=16)

    def elaborate(self, platform):
        m = Module()
        for port in self.m_axi:
            drive_bursts(m, port)
        m.submodules.read_ids = read_ids = fifo.SyncFIFO(width=self.id_bits, depth=self.outstanding)
        m.submodules.write_ids = write_ids = fifo.SyncFIFO(width=self.id_bits, depth=self.outstanding)
        self._ask(m, "ar", read_ids)
        self._ask(m, "aw", write_ids)
        self._receive(m, read_ids)
        self._send(m)
        self._answer(m, write_ids)
        return m

    def _ask(self, m, prefix, ids):
        """AR or AW: every port takes the burst once, when its register is free; the next one comes when all have."""

        def signals(axi):
            return [getattr(axi, prefix + name) for name in ("valid", "ready", "addr", "len")]

        valid, ready, address, length = signals(self.s_axi)
        offered, done = Signal(name=f"{prefix}_offered"), Signal(name=f"{prefix}_done")
        taken = Signal(self.ports, name=f"{prefix}_taken")
        free = Signal(self.ports, name=f"{prefix}_free")
        m.d.comb += [
            offered.eq(valid & ids.w_rdy),
            done.eq((taken | free).all()),
            ready.eq(ids.w_rdy & done),
            ids.w_en.eq(offered & done),
            ids.w_data.eq(getattr(self.s_axi, f"{prefix}id")),
        ]
        with m.If(offered):
            m.d.sync += taken.eq((taken | free) & ~done.replicate(self.ports))
        offset = address[self.ports.bit_length() - 1:]
        for number, port in enumerate(self.m_axi):
            port_valid, port_ready, port_address, port_length = signals(port)
            page = self.base[number][PAGE_BITS:] + offset[PAGE_BITS:]
            m.d.comb += free[number].eq(port_ready | ~port_valid)
            with m.If(free[number]):
                m.d.sync += [
                    port_valid.eq(offered & ~taken[number]),
                    port_address.eq(Cat(offset[:PAGE_BITS], page)),
                    port_length.eq(length),
                ]

    def _receive(self, m, ids):
        """R: a beat when all ports have theirs."""
        bus, beats = self.s_axi, [queue.o for queue in self._beats]
        for number, (port, queue) in enumerate(zip(self.m_axi, self._beats, strict=True)):
            m.submodules[f"read_queue_{number}"] = queue
            m.d.comb += [
                queue.i.p.data.eq(port.rdata),
                queue.i.p.response.eq(port.rresp),
                queue.i.p.last.eq(port.rlast),
                queue.i.valid.eq(port.rvalid),
                port.rready.eq(queue.i.ready),
                queue.o.ready.eq(bus.rvalid & bus.rready),
            ]
        m.d.comb += [
            bus.rvalid.eq(Cat(beat.valid for beat in beats).all()),
            bus.rdata.eq(Cat(beat.p.data for beat in beats)),
            bus.rresp.eq(reduce(or_, (beat.p.response for beat in beats))),  # the worst, of 0, 2 and 3
            bus.rlast.eq(beats[0].p.last),
            bus.rid.eq(ids.r_data),
            ids.r_en.eq(bus.rvalid & bus.rready & bus.rlast),
        ]

    def _send(self, m):
        """W: all queues take the slices of a beat at once."""
        bus = self.s_axi
        layout = data.StructLayout({"data": self.port_bits, "strobe": self.port_bits // 8, "last": 1})
        queues = [Queue(layout, WRITE_BEATS) for _ in self.m_axi]
        m.d.comb += bus.wready.eq(Cat(queue.i.ready for queue in queues).all())
        for number, (port, queue) in enumerate(zip(self.m_axi, queues, strict=True)):
            m.submodules[f"write_queue_{number}"] = queue
            m.d.comb += [
                queue.i.p.data.eq(bus.wdata.word_select(number, self.port_bits)),
                queue.i.p.strobe.eq(bus.wstrb.word_select(number, self.port_bits // 8)),
                queue.i.p.last.eq(bus.wlast),
                queue.i.valid.eq(bus.wvalid & bus.wready),
                port.wdata.eq(queue.o.p.data),
                port.wstrb.eq(queue.o.p.strobe),
                port.wlast.eq(queue.o.p.last),
                port.wvalid.eq(queue.o.valid),
                queue.o.ready.eq(port.wready),
            ]

    def _answer(self, m, ids):
        """B: one response when all ports have theirs."""
        bus = self.s_axi
        buffers = [StreamBuffer(2) for _ in self.m_axi]
        for number, (port, buffer) in enumerate(zip(self.m_axi, buffers, strict=True)):
            m.submodules[f"response_{number}"] = buffer
            m.d.comb += [
                buffer.i.p.eq(port.bresp),
                buffer.i.valid.eq(port.bvalid),
                port.bready.eq(buffer.i.ready),
                buffer.o.ready.eq(bus.bvalid & bus.bready),
            ]
        m.d.comb += [
            bus.bvalid.eq(Cat(buffer.o.valid for buffer in buffers).all()),
            bus.bresp.eq(reduce(or_, (buffer.o.p for buffer in buffers))),
            bus.bid.eq(ids.r_data),
            ids.r_en.eq(bus.bvalid & bus.bready),
        ]
