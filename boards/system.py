"""What every board has inside: accelerator, SDRAM controller and host link, all on one clock."""

from typing import Any

from amaranth.hdl import Cat, ClockDomain, ClockSignal, Const, DomainRenamer, Module, ResetSignal, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..accelerators.axi import merge_channels
from ..accelerators.config import AcceleratorConfig
from ..accelerators.link import HostLink
from ..accelerators.memory.arbiter import ReadArbiter, WriteArbiter
from ..accelerators.memory.bursts import ADDRESS_BITS
from ..accelerators.memory.sdram import SdramController, SdramSignature
from ..accelerators.memory.sdram_chips import SdramConfig
from ..accelerators.top import Accelerator

__all__ = ["LEDS", "System", "memory_config"]

LEDS = ("clock", "ready", "receives", "sends", "token", "reads", "writes", "error")
"""Status, lowest first: the clock runs (blinks), the SDRAM is initialized, bytes come and go on the serial line, tokens come, memory is
read and written, the accelerator's interrupt is up (a generation has ended, or an error)."""

BLINK_BITS = 25
SHOW_BITS = 21
MASTER_ID_BITS = 2  # of the accelerator


def memory_config(config: AcceleratorConfig, board_memory: SdramConfig) -> SdramConfig:
    """The board's memory controller for the bus of an accelerator, with an ID bit for the two masters."""
    fields = board_memory.to_json() | {"bus_bits": config.bus_bits, "id_bits": MASTER_ID_BITS + 1}
    return SdramConfig(**fields)


class System(wiring.Component):
    """Accelerator, SDRAM and a serial line to the host.

    ::

        rx, tx <--> host link --AXI4-Lite--> registers of the accelerator
                     |     ^------tokens------- accelerator
                     |AXI4                        |AXI4
                     +--------> arbiters <--------+
                                   |AXI4
                            SDRAM controller <--> pins

    Parameters
    ----------
    config : AcceleratorConfig
        With one memory port.
    memory : SdramConfig
        Chip and clock; width and IDs of its port are those that ``config`` needs.
    baud : int
        Rate of the serial line.

    Members
    -------
    aclk, aresetn : In(1)
        Clock and synchronous active-low reset of everything.
    rx : In(1), tx : Out(1)
        Serial line to the host, 8N1, idle high.
    sdram : Out(SdramSignature)
        Pins of the SDRAM but its clock; see ``SdramController`` for the cycles from a READ to ``dq_i``.
    leds : Out(8)
        ``LEDS``.
    """

    def __init__(self, config: AcceleratorConfig, memory: SdramConfig, *, baud: int):
        if config.memory_ports != 1:
            raise ValueError(f"memory_ports of {config.name} must be 1, not {config.memory_ports}: a board has one memory")
        self.config, self.memory, self.baud = config, memory_config(config, memory), baud
        super().__init__({
            "aclk": In(1), "aresetn": In(1), "rx": In(1), "tx": Out(1),
            "sdram": Out(SdramSignature(self.memory.data_sheet.row_bits)), "leds": Out(len(LEDS)),
        })

    def elaborate(self, platform):
        m = Module()
        config, bus_bits = self.config, self.config.bus_bits
        m.domains.sync = ClockDomain()
        m.d.comb += [ClockSignal().eq(self.aclk), ResetSignal().eq(~self.aresetn)]
        accelerator = Accelerator(config)
        m.submodules.accelerator = DomainRenamer("accelerator")(accelerator)  # it makes its clock domain itself
        m.submodules.controller = controller = SdramController(self.memory)
        m.submodules.link = link = HostLink(bus_bits, clock_hz=round(1e6 * self.memory.clock_mhz), baud=self.baud)
        m.submodules.read_arbiter = reads = ReadArbiter(bus_bits, 2, client_id_bits=MASTER_ID_BITS)
        m.submodules.write_arbiter = writes = WriteArbiter(bus_bits, 2, client_id_bits=MASTER_ID_BITS)

        m.d.comb += [accelerator.aclk.eq(self.aclk), accelerator.aresetn.eq(self.aresetn)]
        wiring.connect(m, controller.pins, wiring.flipped(self.sdram))
        m.d.comb += [link.rx.eq(self.rx), self.tx.eq(link.tx)]

        # Memory: the accelerator is client 0, the host link client 1.
        gmem = _prefixed(accelerator, "m_axi_gmem_")
        for arbiter, channels in ((reads, ("ar", "r")), (writes, ("aw", "w", "b"))):
            for client, master in ((0, gmem), (1, _members(link.m_axi))):
                _join(m, master, _members(arbiter.s_axi[client]), channels)
        merge_channels(m, wiring.flipped(controller.s_axi), read=reads.m_axi, write=writes.m_axi)

        # Registers and tokens.
        _join(m, _members(link.m_axi_csr), _prefixed(accelerator, "s_axi_csr_"), ("ar", "r", "aw", "w", "b"))
        m.d.comb += [
            link.i_token.p.token.eq(accelerator.m_axis_tokens_tdata), link.i_token.p.value.eq(accelerator.m_axis_tokens_tuser),
            link.i_token.p.last.eq(accelerator.m_axis_tokens_tlast), link.i_token.valid.eq(accelerator.m_axis_tokens_tvalid),
            accelerator.m_axis_tokens_tready.eq(link.i_token.ready),
        ]
        self._show(m, accelerator, controller)
        return m

    def _show(self, m, accelerator, controller):
        """Status: events stay visible for 2**20 to 2**21 cycles."""
        blink, tick = Signal(BLINK_BITS), Signal()
        m.d.sync += [blink.eq(blink + 1), tick.eq(~blink[:SHOW_BITS - 1].any())]
        events = {"receives": ~self.rx, "sends": ~self.tx, "token": accelerator.m_axis_tokens_tvalid,
                  "reads": controller.s_axi.arvalid, "writes": controller.s_axi.awvalid}
        levels = {"clock": blink[-1], "ready": controller.ready, "error": accelerator.irq}
        for name, event in events.items():
            happened, shown = Signal(name=f"{name}_happened"), Signal(name=f"{name}_shown")
            with m.If(tick):
                m.d.sync += [shown.eq(happened), happened.eq(event)]
            with m.Else():
                m.d.sync += happened.eq(happened | event)
            levels[name] = shown
        m.d.sync += self.leds.eq(Cat(levels[name] for name in LEDS))


def _members(port: Any) -> dict[str, Any]:
    return {name: getattr(port, name) for name in port.signature.members}


def _prefixed(component: wiring.Component, prefix: str) -> dict[str, Any]:
    """Members of an interface that a component has as separate ports."""
    return {name.removeprefix(prefix): getattr(component, name) for name in component.signature.members if name.startswith(prefix)}


def _join(m: Module, master: dict[str, Any], slave: dict[str, Any], channels: tuple[str, ...]) -> None:
    """Connect channels of AXI ports. IDs that the master does not have are 0."""
    for channel in channels:
        to_slave = channel in ("ar", "aw", "w")
        for name in (name for name in slave if name.startswith(channel)):
            source, sink = (master, slave) if to_slave != name.endswith("ready") else (slave, master)
            if name in sink and (name in source or name.endswith("id")):
                m.d.comb += sink[name].eq(source.get(name, Const(0, ADDRESS_BITS)))
