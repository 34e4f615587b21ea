"""Rules of streams that follow from the registers before a port and from what is known of all states that can be reached."""

from unittest.mock import patch

from amaranth.hdl import Assert, Assume, Module, Signal

from ...accelerators.cache.token_list import TokenList
from ...accelerators.experts.device import ExpertDevice
from .contract import StreamContract

__all__ = ["DeviceContract", "HostLinkContract", "TokenListContract"]


class TokenListContract(StreamContract):
    """A selection waits for its command while a share does, nothing of the one before is left then; with the item of an empty list none
    runs."""

    component: TokenList

    def elaborate(self, platform):
        m = super().elaborate(platform)
        made, given, select = self.component._list, self.component.o, self.component._list._share._select
        idle = select.i.ready | select.i_command.ready
        command = select.i_command
        m.d.comb += [
            Assert(~idle | ~select.o.valid), Assert(~(made.i_share.ready | command.valid) | command.ready),
            Assert(~(given.valid & given.p.none) | (idle & (~command.valid | (command.p.count == 0)))),
        ]
        return m


class HostLinkContract(StreamContract):
    """With any reader of memory that keeps the rules of streams, and registers that answer what they were asked: the link waits for
    each answer, and asks nothing meanwhile. A request stays until its reply is sent."""

    def _design(self, platform):
        names = type(self.component).elaborate.__globals__
        reader = names["BurstReader"]
        with patch.dict(names, BurstReader=lambda *sizes, **options: self._any(reader(*sizes, **options), "reader")):
            m = self.component.elaborate(platform)
        m.d.comb += Assert(m.submodules.hash.start | m.submodules.receiver.o.valid)  # the hash starts while there is no request
        return m

    def elaborate(self, platform):
        m = super().elaborate(platform)
        bus = self.component.m_axi_csr
        asked, told, given = Signal(), Signal(), Signal()
        read, written = bus.rvalid & bus.rready, bus.bvalid & bus.bready
        m.d.sync += [
            asked.eq((asked | (bus.arvalid & bus.arready)) & ~read),
            told.eq((told | (bus.awvalid & bus.awready)) & ~written), given.eq((given | (bus.wvalid & bus.wready)) & ~written),
        ]
        m.d.comb += [
            Assume(~bus.rvalid | asked), Assume(~bus.bvalid | (told & given)),
            Assert(~asked | (bus.rready & ~bus.arvalid)),
            Assert(~told | (bus.bready & ~bus.awvalid)), Assert(~given | (bus.bready & ~bus.wvalid)),
        ]
        return m


class DeviceContract(StreamContract):
    """With any dispatch and any unit that keep the rules of streams; what ``o_read`` gives stays, but for when all outputs become 0, or
    no longer are."""

    component: ExpertDevice

    def _design(self, platform):
        device = self.component
        device._dispatch, device._unit = self._any(device._dispatch, "dispatch"), self._any(device._unit, "unit")  # type: ignore
        m = device.elaborate(platform)
        self.cleared = m.submodules.sequencer.cleared
        return m

    def _holds(self, m: Module, name: str, incoming: bool, valid, ready, payload) -> None:
        if name == "o_read":
            waited, before, cleared = Signal(), Signal.like(payload), Signal()
            m.d.sync += [waited.eq(valid & ~ready), before.eq(payload), cleared.eq(self.cleared)]
            m.d.comb += Assert(~waited | (valid & ((payload == before) | (self.cleared != cleared))))
        else:
            super()._holds(m, name, incoming, valid, ready, payload)
