"""What the swap controller promises, whatever the cache below it does."""

from dataclasses import replace

from amaranth.hdl import Assert, Assume, Cat, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from ...accelerators.cache.paged import PagedCache
from ...accelerators.cache.swap import SwapController
from ...accelerators.cache.swap_formats import SwapCommand, SwapError
from ...accelerators.presets import preset
from .contract import StreamContract

__all__ = ["SlotContract", "SwapContract"]

_SMALL = replace(preset("tiny"), max_context=2)


class _AnyCache(wiring.Component):
    """In the place of a ``PagedCache``: it answers what it likes, when it likes. ``ports`` are the contract's."""

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
        component = SwapController(_SMALL, sequences=2, block_size=1, blocks=2, slots=2)
        component._cache = self.cache = _AnyCache(component._cache)
        super().__init__(component)
        self.cache.ports = self.ports

    def elaborate(self, platform):
        m = super().elaborate(platform)
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


class _Slots:
    """Of a ``SwapController``, before it in a class: shows which slots are taken and given back."""

    def __init__(self, *args, **sizes):
        super().__init__(*args, **sizes)
        self.takes, self.gives, self.slot, self.given = Signal(), Signal(), Signal(range(self.slots)), Signal(range(self.slots))

    def elaborate(self, platform):
        m = super().elaborate(platform)
        slots = self._tables.slots
        m.d.comb += [self.takes.eq(slots.take), self.gives.eq(slots.give), self.slot.eq(slots.pointer), self.given.eq(slots.given)]
        return m


class SlotContract(StreamContract):
    """A slot is given to a block only while no block has it, and only given back by one that has it; ``room`` is the number of those
    that nobody has. With any cache that keeps the rules of streams and gives possible lengths; the first command is SWAP_OUT of
    sequence 0, which has two positions, and for ``prompt`` cycles nobody stalls. While the cache or the mover owes something,
    nothing is asked."""

    def __init__(self, prompt: int, *, answered: int | None = None, component: type[SwapController] = SwapController):
        watched = type("Watched", (_Slots, component), {})(_SMALL, sequences=2, block_size=1, blocks=2, slots=2)
        watched._cache = self.cache = _AnyCache(watched._cache)
        super().__init__(watched, answered=answered, awaited=("i_moved",))
        self.cache.ports, self.prompt = self.ports, prompt

    def elaborate(self, platform):
        m = super().elaborate(platform)
        swap, cache = self.component, self.cache
        owned, cycle = Signal(swap.slots), Signal(range(self.prompt + 1))
        with m.If(swap.takes):
            m.d.comb += Assert((swap.slot < swap.slots) & ~owned.bit_select(swap.slot, 1))
            m.d.sync += owned.bit_select(swap.slot, 1).eq(1)
        with m.If(swap.gives):
            m.d.comb += Assert(owned.bit_select(swap.given, 1))
            m.d.sync += owned.bit_select(swap.given, 1).eq(0)
        m.d.comb += [
            Assert(~(swap.takes & swap.gives)), Assert(swap.room == sum(~each for each in owned)),
            Assume(~cache.o_done.valid | (cache.o_done.p.length <= 2)),
            self.outside.eq(Cat(*(port.valid & ~port.ready for port in (cache.i_command, cache.i_look, cache.i_request)),
                                *(port.ready & ~port.valid for port in (cache.o_done, cache.o_look))).any()),
        ]
        with m.If(cycle != self.prompt):
            first = swap.i_command.p
            m.d.sync += cycle.eq(cycle + 1)
            m.d.comb += [
                Assume(~swap.i_request.valid), Assume(swap.o_done.ready), Assume(swap.o_swapped.ready), Assume(swap.o_move.ready),
                Assume(swap.i_moved.valid), Assume(cache.i_command.ready), Assume(cache.i_look.ready),
                Assume(cache.o_done.valid == cache.o_done.ready), Assume(cache.o_done.p.length == 2),
                Assume(cache.o_look.valid == cache.o_look.ready), Assume(~cache.o_look.p.shared),
                Assume((cycle != 0) | (swap.i_command.valid & (first.command == SwapCommand.SWAP_OUT) & (first.sequence == 0))),
            ]
        return m
