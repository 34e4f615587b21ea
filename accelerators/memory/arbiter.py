"""Several AXI4 masters on one AXI4 port: readers, writers."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..axi import AXI4Signature, drive_bursts
from ..checks import check_int
from ..config import AcceleratorConfig
from ..streams import Queue, StreamBuffer
from .bursts import ADDRESS_BITS

__all__ = ["ReadArbiter", "WriteArbiter"]

POLICIES = ("round_robin", "priority")
TURNS = 8  # write bursts granted whose data have not gone on


def _client_id(port, channel, client):
    """ID behind the arbiter: that of the client, and its number."""
    return Cat(getattr(port, f"{channel}id"), Const(client, 4)) if port.signature.id_bits else client


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
    client_id_bits : int
        IDs of the readers, 0 to 8. They are the low bits of the IDs of ``m_axi``, the number of the reader the high ones.

    Members
    -------
    s_axi : In(AXI4Signature(bus_bits, id_bits=client_id_bits, read=True, write=False)).array(clients)
        Full-width INCR bursts. ``arsize``, ``arburst``, ``arcache`` and ``arprot`` are ignored.
    m_axi : Out(AXI4Signature(bus_bits, id_bits=client_id_bits + ceil(log2(clients)), read=True, write=False))

    Latency: 1 cycle on AR and 1 cycle on R, both registered in both directions but for ``s_axi.arready``,
    which depends on ``m_axi.arready`` and all ``s_axi.arvalid`` within the cycle. Interval: 1 cycle per beat
    and per burst.

    Bad input: beats with an ID that is no client's are dropped.
    """

    latency = 1
    interval = 1

    def __init__(self, bus_bits: int, clients: int, *, policy: str = "round_robin", client_id_bits: int = 0):
        check_int("bus_bits", bus_bits, 32, 1024, power_of_two=True)
        check_int("clients", clients, 2, 16)
        if policy not in POLICIES:
            raise ValueError(f"policy must be one of {', '.join(POLICIES)}, not {policy!r}")
        check_int("client_id_bits", client_id_bits, 0, 8)
        self.bus_bits, self.clients, self.policy, self.client_id_bits = bus_bits, clients, policy, client_id_bits
        self.id_bits = client_id_bits + (clients - 1).bit_length()
        super().__init__({
            "s_axi": In(AXI4Signature(bus_bits, address_bits=ADDRESS_BITS, id_bits=client_id_bits, write=False)).array(clients),
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
                    m.d.sync += [axi.arid.eq(_client_id(port, "ar", client)), axi.araddr.eq(port.araddr), axi.arlen.eq(port.arlen)]
                    if self.policy == "round_robin":
                        m.d.sync += after_last.eq(Const(-(2 << client), self.clients))

    def _respond(self, m):
        """R: every beat goes to the client that its ID names."""
        axi = self.m_axi
        m.submodules.beats = beats = StreamBuffer(data.StructLayout(
            {**({"id": self.client_id_bits} if self.client_id_bits else {}), "client": self.id_bits - self.client_id_bits,
             "data": self.bus_bits, "response": 2, "last": 1}))
        if self.client_id_bits:
            m.d.comb += [beats.i.p.id.eq(axi.rid), *(port.rid.eq(beats.o.p.id) for port in self.s_axi)]
        m.d.comb += [
            beats.i.p.client.eq(axi.rid[self.client_id_bits:]),
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


class WriteArbiter(wiring.Component):
    """Shares one AXI4 write port among ``clients`` writers, in turns; the high bits of the ID of a burst are the number of its writer.

    ::

        AW --> one per cycle --+--> AW
                               +--> whose turn it is
        W  ----------------------------+--> W: the bursts in the order of their addresses
        B  <-- the writer that the ID names

    Data of a burst go on after its address was granted, those of the next burst after them: a writer that is slow with its data
    holds up the others.

    Parameters
    ----------
    bus_bits : int
        Bus word, 32 to 1024, a power of two.
    clients : int
        Number of writers, 2 to 16.
    client_id_bits : int
        IDs of the writers, 0 to 8.

    Members
    -------
    s_axi : In(AXI4Signature(bus_bits, id_bits=client_id_bits, read=False)).array(clients)
        Full-width INCR bursts. ``awsize``, ``awburst``, ``awcache`` and ``awprot`` are ignored.
    m_axi : Out(AXI4Signature(bus_bits, id_bits=client_id_bits + ceil(log2(clients)), read=False))

    Latency: 1 cycle on AW and B; 1 cycle on W, or 3 from the grant of its address. Interval: 1 cycle per beat and per burst; a cycle
    between two bursts on W.

    Bad input: answers with an ID that is no client's are dropped.
    """

    latency = 1
    interval = 1

    def __init__(self, bus_bits: int, clients: int, *, client_id_bits: int = 0):
        check_int("bus_bits", bus_bits, 32, 1024, power_of_two=True)
        check_int("clients", clients, 2, 16)
        check_int("client_id_bits", client_id_bits, 0, 8)
        self.bus_bits, self.clients, self.client_id_bits = bus_bits, clients, client_id_bits
        self.client_bits = (clients - 1).bit_length()
        super().__init__({
            "s_axi": In(AXI4Signature(bus_bits, address_bits=ADDRESS_BITS, id_bits=client_id_bits, read=False)).array(clients),
            "m_axi": Out(AXI4Signature(bus_bits, address_bits=ADDRESS_BITS, id_bits=client_id_bits + self.client_bits, read=False)),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "WriteArbiter":
        """Accelerator and host link."""
        return cls(config.bus_bits, 2, client_id_bits=2)

    def elaborate(self, platform):
        m = Module()
        axi = self.m_axi
        drive_bursts(m, axi)

        # AW: one client per cycle, the next one after the last granted first.
        m.submodules.turns = turns = Queue(self.client_bits, TURNS)
        asks, candidates, after_last = Cat(port.awvalid for port in self.s_axi), Signal(self.clients), Signal(self.clients)
        later = asks & after_last
        m.d.comb += candidates.eq(Mux(later.any(), later, asks))
        free = Signal()
        m.d.comb += [free.eq((axi.awready | ~axi.awvalid) & turns.i.ready), turns.i.valid.eq(free & asks.any())]
        with m.If(axi.awready):
            m.d.sync += axi.awvalid.eq(0)
        with m.If(free):
            m.d.sync += axi.awvalid.eq(asks.any())
            for client, port in enumerate(self.s_axi):
                with m.If(candidates[client] & ~candidates[:client].any()):
                    m.d.comb += [port.awready.eq(1), turns.i.p.eq(client)]
                    m.d.sync += [axi.awid.eq(_client_id(port, "aw", client)), axi.awaddr.eq(port.awaddr), axi.awlen.eq(port.awlen),
                                 after_last.eq(Const(-(2 << client), self.clients))]

        # W: the beats of the client whose turn it is.
        m.submodules.beats = beats = StreamBuffer(data.StructLayout({"data": self.bus_bits, "strobes": self.bus_bits // 8, "last": 1}))
        turn, begun = Signal(self.client_bits), Signal()
        with m.If(~begun):
            m.d.comb += turns.o.ready.eq(1)
            m.d.sync += [turn.eq(turns.o.p), begun.eq(turns.o.valid)]
        with m.Elif(beats.i.valid & beats.i.ready & beats.i.p.last):
            m.d.sync += begun.eq(0)
        with m.Switch(turn):
            for client, port in enumerate(self.s_axi):
                with m.Case(client):
                    m.d.comb += [
                        beats.i.p.data.eq(port.wdata), beats.i.p.strobes.eq(port.wstrb), beats.i.p.last.eq(port.wlast),
                        beats.i.valid.eq(port.wvalid & begun), port.wready.eq(beats.i.ready & begun)]
        m.d.comb += [axi.wdata.eq(beats.o.p.data), axi.wstrb.eq(beats.o.p.strobes), axi.wlast.eq(beats.o.p.last),
                     axi.wvalid.eq(beats.o.valid), beats.o.ready.eq(axi.wready)]

        # B: to the client that the ID names.
        m.submodules.answers = answers = StreamBuffer(data.StructLayout({"id": len(axi.bid), "response": 2}))
        m.d.comb += [answers.i.p.id.eq(axi.bid), answers.i.p.response.eq(axi.bresp), answers.i.valid.eq(axi.bvalid),
                     axi.bready.eq(answers.i.ready)]
        with m.Switch(answers.o.p.id[self.client_id_bits:]):
            for client, port in enumerate(self.s_axi):
                m.d.comb += port.bresp.eq(answers.o.p.response)
                if self.client_id_bits:
                    m.d.comb += port.bid.eq(answers.o.p.id)
                with m.Case(client):
                    m.d.comb += [port.bvalid.eq(answers.o.valid), answers.o.ready.eq(port.bready)]
            with m.Default():
                m.d.comb += answers.o.ready.eq(1)
        return m
