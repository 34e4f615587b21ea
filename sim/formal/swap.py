"""What the swap controller promises, whatever the cache below it does."""

from dataclasses import replace

from amaranth.hdl import Assert, Assume, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from ...accelerators.cache.paged import PagedCache
from ...accelerators.cache.swap import SwapController
from ...accelerators.cache.swap_formats import SwapCommand, SwapError
from ...accelerators.presets import preset
from .contract import StreamContract

__all__ = ["SwapContract"]


class _AnyCache(wiring.Component):
    """In the place of a ``PagedCache``: it answers what it likes, when it likes."""

    def __init__(self, cache: PagedCache):
        super().__init__(cache.signature)
        self.ports: list[Signal] = []

    def elaborate(self, platform):
        m = Module()
        for name, member in self.signature.members.items():
            port = getattr(self, name)
            if member.is_port:
                driven = [port] if member.flow == Out else []
            else:
                driven = [port.valid, port.payload] if member.flow == Out else [port.ready]
            for number, signal in enumerate(driven):
                self.ports.append(Signal(len(Value.cast(signal)), name=f"cache_{name}_{number}"))
                m.d.comb += Value.cast(signal).eq(self.ports[-1])
            if not member.is_port and member.flow == Out:
                waited, before = Signal(name=f"cache_{name}_waited"), Signal(len(Value.cast(port.payload)), name=f"cache_{name}_before")
                m.d.sync += [waited.eq(port.valid & ~port.ready), before.eq(port.payload)]
                m.d.comb += Assume(~waited | (port.valid & (Value.cast(port.payload) == before)))
        return m


class SwapContract(StreamContract):
    """No request for a sequence that goes, or is out, passes: from the answer to SWAP_OUT until it failed, or the next command about
    the sequence. With any cache that keeps the rules of streams."""

    def __init__(self):
        component = SwapController(replace(preset("tiny"), max_context=2), sequences=2, block_size=1, blocks=2, slots=2)
        component._cache = self.cache = _AnyCache(component._cache)
        super().__init__(component)

    def elaborate(self, platform):
        m = super().elaborate(platform)
        self.ports += self.cache.ports
        swap, passes, followed = self.component, self.cache.i_request, 0
        command, gone = Signal.like(swap.i_command.p), Signal()
        with m.If(swap.o_done.valid & (swap.o_done.p.error == SwapError.NONE) & (command.command == SwapCommand.SWAP_OUT)
                  & (command.sequence == followed)):
            m.d.sync += gone.eq(1)
        with m.If(swap.o_swapped.valid & swap.o_swapped.p.error & (swap.o_swapped.p.sequence == followed)):
            m.d.sync += gone.eq(0)
        with m.If(swap.i_command.valid & swap.i_command.ready):
            m.d.sync += command.eq(swap.i_command.p)
            with m.If(swap.i_command.p.sequence == followed):
                m.d.sync += gone.eq(0)
        m.d.comb += Assert(~(gone & passes.valid & (passes.p.sequence == followed)))
        return m
