"""What the swap controller promises, whatever the cache below it does."""

from dataclasses import dataclass, replace

from amaranth.hdl import Assert, Assume, Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from ...accelerators.cache.paged import PagedCache
from ...accelerators.cache.swap import SwapController
from ...accelerators.cache.swap_formats import SwapCommand, SwapError
from ...accelerators.presets import preset
from .contract import StreamContract

__all__ = ["SlotContract", "SwapAnswerContract", "SwapBounds", "SwapContract"]

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


@dataclass(frozen=True)
class SwapBounds:
    """Cycles that a ``SwapController`` of two sequences of two positions in blocks of one may take for the contract below: somewhat
    more than it does."""

    command: int = 24
    """From the offer of a command to its answer."""
    request: int = 12
    """From the offer of a request to the one for the cache, those aside in which its sequence is swapped."""
    swap: int = 32
    """From the answer to SWAP_OUT or SWAP_IN to its end."""


BOUNDS = SwapBounds()


class SwapAnswerContract(StreamContract):
    """Within the cycles of ``SwapBounds`` a command is answered, a request is passed on, and a swap that was begun ends, if nobody
    stalls, and the mover, and a cache that gives possible lengths and gives back blocks from the last one on, answer at once. One
    command and one request come, the first of them at once; with ``about`` only that command, about sequence 0; with ``out`` behind a
    SWAP_OUT of sequence 0, which had that many positions: when it is back, its full blocks have slots, and a last one that is not full
    has none."""

    def __init__(self, bounds: SwapBounds = BOUNDS, *, about: SwapCommand | None = None, out: int = 0, block_size: int = 1,
                 component: type[SwapController] = SwapController):
        swap = component(_SMALL, sequences=2, block_size=block_size, blocks=2, slots=2)
        swap._cache = self.cache = _AnyCache(swap._cache)
        super().__init__(swap)
        self.cache.ports, self.bounds, self.about, self.out = self.ports, bounds, about, out

    def elaborate(self, platform):
        m = super().elaborate(platform)
        swap, cache, offered, wanted = self.component, self.cache, self.component.i_command, self.component.i_request
        command, request = Signal.like(offered.p), Signal.like(wanted.p)
        busy, moving, pending, begun = Signal(), Signal(), Signal(), Signal(init=self.out == 0)
        passes = cache.i_request.valid & cache.i_request.ready
        m.d.sync += [busy.eq((busy | (offered.valid & offered.ready)) & ~swap.o_done.valid),
                     pending.eq((pending | (wanted.valid & wanted.ready)) & ~passes), moving.eq(moving & ~swap.o_swapped.valid)]
        swaps = command.command.matches(SwapCommand.SWAP_OUT, SwapCommand.SWAP_IN)
        with m.If(offered.valid & offered.ready):
            m.d.sync += command.eq(offered.p)
        with m.If(wanted.valid & wanted.ready):
            m.d.sync += request.eq(wanted.p)
        with m.If(swap.o_done.valid & swaps & (swap.o_done.p.error == SwapError.NONE)):
            m.d.sync += moving.eq(1)
        with m.If(swap.o_swapped.valid):
            m.d.sync += begun.eq(1)
        its = Mux(pending, request.sequence, wanted.p.sequence)
        self._due(m, "command", offered.valid | busy, swap.o_done.valid, self.bounds.command)
        self._due(m, "request", wanted.valid | pending, passes, self.bounds.request,
                  waits=((busy & swaps) | moving) & (its == command.sequence))
        self._due(m, "swap", moving, swap.o_swapped.valid, self.bounds.swap)
        if self.out:
            came_back = (command.command == SwapCommand.SWAP_IN) & swap.o_swapped.valid & ~swap.o_swapped.p.error
            m.d.comb += Assert(~came_back | (swap.room == swap.slots - self.out // swap.block_size))

        m.d.comb += [
            *(Assume(port.ready) for port in (swap.o_done, swap.o_swapped, swap.o_move)),
            *(Assume(port.ready) for port in (cache.i_command, cache.i_look, cache.i_request)),
            *(Assume(port.valid == port.ready) for port in (cache.o_done, cache.o_look, swap.i_moved)),
            Assume(cache.o_done.p.length <= 2),
        ]
        releases, behind = Signal(), Signal(range(swap.blocks + 1), init=swap.blocks)
        gives_back = cache.o_look.valid & cache.o_look.ready & releases
        with m.If(cache.i_look.valid & cache.i_look.ready):
            m.d.sync += releases.eq(cache.i_look.p.release)
        with m.If(gives_back):
            m.d.sync += behind.eq(cache.o_look.p.index)
        with m.Elif(swap.o_swapped.valid):
            m.d.sync += behind.eq(swap.blocks)
        m.d.comb += Assume(~gives_back | (cache.o_look.p.index < behind))
        started, first = Signal(), offered.p
        with m.If(begun):
            m.d.sync += started.eq(1)
            m.d.comb += Assume(started | offered.valid | wanted.valid)
            if self.about is not None:
                m.d.comb += [Assume(~wanted.valid), Assume(~offered.valid | ((first.command == self.about) & (first.sequence == 0)))]
            for name, port in (("command", offered), ("request", wanted)):
                came = Signal(name=f"{name}_came")
                m.d.sync += came.eq(came | (port.valid & port.ready))
                m.d.comb += Assume(~(came & port.valid))
        with m.Else():
            came = Signal(name="first_came")
            m.d.sync += came.eq(came | offered.ready)
            m.d.comb += [
                Assume(offered.valid == ~came), Assume(~wanted.valid), Assume(wanted.p.as_value() == 0),
                Assume(first.command == SwapCommand.SWAP_OUT), Assume(Cat(first.sequence, first.other, first.count) == 0),
                Assume(cache.o_done.p.length == self.out), Assume(cache.o_done.p.error == 0), Assume(~swap.i_moved.p.error),
                Assume(cache.o_look.p.as_value() == 0),
            ]
        return m
