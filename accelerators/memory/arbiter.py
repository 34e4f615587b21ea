"""Several AXI4 readers on one AXI4 read port."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..axi import AXI4Signature, drive_bursts
from ..config import AcceleratorConfig, check_int
from ..streams import StreamBuffer
from .bursts import ADDRESS_BITS

__all__ = ["ReadArbiter"]

POLICIES = ("round_robin", "priority")


class ReadArbiter(wiring.Component):
    """Shares one AXI4 read port among ``clients`` readers; the ID of a burst is the number of its reader.

    Bursts of one client are answered in order; those of different clients in any order, and their beats may
    interleave. One burst is granted per cycle. A client that is not ready for its beats holds up those of the
    others (``BurstReader`` is always ready).

    Parameters
    ----------
    bus_bits : int
        Bus word, 32 to 1024, a power of two.
    clients : int
        Number of readers, 2 to 16.
    policy : ``"round_robin"`` or ``"priority"``
        Whom to grant when several ask: the next one after the last granted, or the lowest number. With
        ``"priority"`` the higher numbers wait as long as a lower one asks.

    Members
    -------
    s_axi : In(AXI4Signature(bus_bits, read=True, write=False)).array(clients)
        Full-width INCR bursts, without IDs. ``arsize``, ``arburst``, ``arcache`` and ``arprot`` are ignored.
    m_axi : Out(AXI4Signature(bus_bits, id_bits=ceil(log2(clients)), read=True, write=False))

    Latency: 1 cycle on AR and 1 cycle on R, both registered in both directions but for ``s_axi.arready``,
    which depends on ``m_axi.arready`` and all ``s_axi.arvalid`` within the cycle. Interval: 1 cycle per beat
    and per burst.

    Bad input: beats with an ID that is no client's are dropped.
    """

    latency = 1
    interval = 1

    def __init__(self, bus_bits: int, clients: int, *, policy: str = "round_robin"):
        check_int("bus_bits", bus_bits, 32, 1024, power_of_two=True)
        check_int("clients", clients, 2, 16)
        if policy not in POLICIES:
            raise ValueError(f"policy must be one of {', '.join(POLICIES)}, not {policy!r}")
        self.bus_bits, self.clients, self.policy = bus_bits, clients, policy
        self.id_bits = (clients - 1).bit_length()
        super().__init__({
            "s_axi": In(AXI4Signature(bus_bits, address_bits=ADDRESS_BITS, write=False)).array(clients),
            "m_axi": Out(AXI4Signature(bus_bits, address_bits=ADDRESS_BITS, id_bits=self.id_bits,
                                       write=False)),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "ReadArbiter":
        """Two clients: program and data."""
        return cls(config.bus_bits, 2)

    def elaborate(self, platform):
        m = Module()
        drive_bursts(m, self.m_axi)
        self._request(m)
        self._respond(m)
        return m

    def _request(self, m):
        """AR: grant one client per cycle."""
        axi = self.m_axi
        asks = Cat(port.arvalid for port in self.s_axi)
        candidates = Signal(self.clients)
        if self.policy == "priority":
            m.d.comb += candidates.eq(asks)
        else:
            after_last = Signal(self.clients)  # the clients with higher numbers than the last one granted
            later = asks & after_last
            m.d.comb += candidates.eq(Mux(later.any(), later, asks))
        free = Signal()
        m.d.comb += free.eq(axi.arready | ~axi.arvalid)
        with m.If(free):
            m.d.sync += axi.arvalid.eq(asks.any())
            for client, port in enumerate(self.s_axi):  # the lowest number wins
                with m.If(candidates[client] & ~candidates[:client].any()):
                    m.d.comb += port.arready.eq(1)
                    m.d.sync += [axi.arid.eq(client), axi.araddr.eq(port.araddr), axi.arlen.eq(port.arlen)]
                    if self.policy == "round_robin":
                        m.d.sync += after_last.eq(Const(-(2 << client), self.clients))

    def _respond(self, m):
        """R: every beat goes to the client that its ID names."""
        axi = self.m_axi
        m.submodules.beats = beats = StreamBuffer(data.StructLayout(
            {"client": self.id_bits, "data": self.bus_bits, "response": 2, "last": 1}))
        m.d.comb += [
            beats.i.p.client.eq(axi.rid),
            beats.i.p.data.eq(axi.rdata),
            beats.i.p.response.eq(axi.rresp),
            beats.i.p.last.eq(axi.rlast),
            beats.i.valid.eq(axi.rvalid),
            axi.rready.eq(beats.i.ready),
        ]
        beat = beats.o
        with m.Switch(beat.p.client):
            for client, port in enumerate(self.s_axi):
                m.d.comb += [
                    port.rdata.eq(beat.p.data),
                    port.rresp.eq(beat.p.response),
                    port.rlast.eq(beat.p.last),
                ]
                with m.Case(client):
                    m.d.comb += [port.rvalid.eq(beat.valid), beat.ready.eq(port.rready)]
            with m.Default():
                m.d.comb += beat.ready.eq(1)
