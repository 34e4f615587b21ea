"""Host link and SDRAM controller alone: a small design for a first look at a board, built in a minute."""

from amaranth.hdl import Cat, ClockDomain, ClockSignal, Module, ResetSignal, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..accelerators.axi import Response
from ..accelerators.link import HostLink
from ..accelerators.memory.sdram import SdramController, SdramSignature
from ..accelerators.memory.sdram_chips import SdramConfig

__all__ = ["BringUp"]

BUS_BITS = 32
BLINK_BITS = 25


class BringUp(wiring.Component):
    """Memory of the board behind the serial line: the host writes, hashes and reads back (``llmrtl.boards.host_link.HostLink``).

    Parameters
    ----------
    memory : SdramConfig
        Chip and clock; its port is 32 bits wide.
    baud : int
        Rate of the serial line.

    Members
    -------
    aclk, aresetn, rx, tx, sdram, leds
        As those of ``System``; ``leds``: the clock runs (blinks), the SDRAM is initialized, bytes come, bytes go, memory is read,
        memory is written.

    Registers: there are none, every access is answered SLVERR.
    """

    def __init__(self, memory: SdramConfig, *, baud: int):
        self.memory = SdramConfig(**memory.to_json() | {"bus_bits": BUS_BITS, "id_bits": 1})
        self.baud = baud
        super().__init__({
            "aclk": In(1), "aresetn": In(1), "rx": In(1), "tx": Out(1),
            "sdram": Out(SdramSignature(self.memory.data_sheet.row_bits)), "leds": Out(8),
        })

    def elaborate(self, platform):
        m = Module()
        m.domains.sync = ClockDomain()
        m.submodules.controller = controller = SdramController(self.memory)
        m.submodules.link = link = HostLink(BUS_BITS, clock_hz=round(1e6 * self.memory.clock_mhz), baud=self.baud)
        wiring.connect(m, controller.pins, wiring.flipped(self.sdram))
        m.d.comb += [ClockSignal().eq(self.aclk), ResetSignal().eq(~self.aresetn), link.rx.eq(self.rx), self.tx.eq(link.tx)]
        for name, member in link.m_axi.signature.members.items():  # IDs stay 0
            master, slave = getattr(link.m_axi, name), getattr(controller.s_axi, name)
            m.d.comb += slave.eq(master) if member.flow is Out else master.eq(slave)

        # Registers.
        bus = link.m_axi_csr
        addressed, written = Signal(), Signal()
        m.d.comb += [bus.arready.eq(~bus.rvalid), bus.awready.eq(~addressed), bus.wready.eq(~written),
                     bus.bvalid.eq(addressed & written), bus.rresp.eq(Response.SLVERR), bus.bresp.eq(Response.SLVERR)]
        m.d.sync += [bus.rvalid.eq(bus.arvalid | (bus.rvalid & ~bus.rready)), addressed.eq(addressed | bus.awvalid),
                     written.eq(written | bus.wvalid)]
        with m.If(bus.bvalid & bus.bready):
            m.d.sync += [addressed.eq(0), written.eq(0)]

        blink = Signal(BLINK_BITS)
        axi = controller.s_axi
        m.d.sync += [blink.eq(blink + 1), self.leds.eq(Cat(
            blink[-1], controller.ready, ~self.rx, ~self.tx, axi.rvalid, axi.awvalid))]
        return m
