"""What controllers promise beyond the rules of streams, or need beyond them."""

from unittest.mock import patch

from amaranth.hdl import Array, Assert, Assume, Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from ...accelerators.cache.addresses import RowAddresses
from ...accelerators.cache.blocks import COUNT_BITS, BlockPool, PoolCommand
from ...accelerators.cache.contiguous import ContiguousCache
from ...accelerators.cache.mover import RowMover
from ...accelerators.cache.select import TopSelect
from ...accelerators.cache.window import WindowCache
from ...accelerators.config import AcceleratorConfig
from ...accelerators.presets import preset
from ...accelerators.streams import ROUND_TRIP, CreditQueue
from .contract import StreamContract

__all__ = ["AddressContract", "CreditContract", "MoverContract", "PoolContract", "RowTaker", "SelectContract",
           "WindowContract", "WrittenContract"]


class RowTaker(wiring.Component):
    """In place of ``RowAddresses``: takes rows when ``takes`` says so, and gives nothing."""

    def __init__(self, rows: RowAddresses):
        super().__init__({**rows.signature.members, "takes": In(1)})
        self.passed, self.rows = rows.passed, rows

    def elaborate(self, platform):
        m = Module()
        m.submodules.left_out = self.rows
        m.d.comb += self.i.ready.eq(self.takes)
        return m


class PoolContract(StreamContract):
    """A block is given out only while nobody has it; counts are the owners, never below 0; what is refused is what must be;
    ``free`` is the number of blocks without owner; ``shared`` are those that have more than one."""

    def __init__(self, blocks: int):
        super().__init__(BlockPool(blocks), answered=2)

    def elaborate(self, platform):
        m = super().elaborate(platform)
        pool = self.component
        owners = Array([Signal(COUNT_BITS, name=f"owners_{block}") for block in range(pool.blocks)])
        command, result = Signal.like(pool.i.p), pool.o.p
        with m.If(pool.i.valid & pool.i.ready):
            m.d.sync += command.eq(pool.i.p)
        before = Signal(COUNT_BITS)
        allocates = command.command == PoolCommand.ALLOCATE
        none_free = Cat(each == 0 for each in owners).any() == 0
        m.d.comb += [before.eq(owners[result.block]), Assume(pool.i.p.block < pool.blocks)]
        refuses, after = Signal(), Signal(COUNT_BITS)
        with m.Switch(command.command):
            with m.Case(PoolCommand.ALLOCATE):
                m.d.comb += [refuses.eq(none_free), after.eq(1)]
            with m.Case(PoolCommand.SHARE):
                m.d.comb += [refuses.eq((before == 0) | before.all()), after.eq(before + 1)]
            with m.Case(PoolCommand.RELEASE):
                m.d.comb += [refuses.eq(before == 0), after.eq(before - 1)]
            with m.Default():
                m.d.comb += refuses.eq(1)
        with m.If(pool.o.valid):
            m.d.comb += Assert(result.refused == refuses)
            with m.If(~refuses):
                m.d.comb += [Assert(result.count == after), Assert(~allocates | (before == 0)),
                             Assert(allocates | (result.block == command.block))]
            with m.If(pool.o.ready & ~refuses):
                m.d.sync += owners[result.block].eq(after)
        changes = pool.o.valid & ~refuses
        now = [Mux(changes & (result.block == block), after, each) for block, each in enumerate(owners)]
        settled = pool.i.ready | pool.o.valid
        m.d.comb += Assert(~settled | (pool.free == sum(each == 0 for each in now)))
        for asked, shared in zip(pool.asked, pool.shared, strict=True):
            has = Array(now)[asked]
            m.d.comb += [Assume(asked < pool.blocks), Assert(~settled | (has == 0) | (shared == (has > 1)))]
        return m


class CreditContract(StreamContract):
    """Who spends only with ``credit``, and sends an item for each time he spent, loses nothing; ``ample`` means two places."""

    def __init__(self, depth: int, bits: int = 2):
        super().__init__(CreditQueue(bits, depth), order=("i", "o"), items=8)

    def elaborate(self, platform):
        m = super().elaborate(platform)
        queue = self.component
        owed, inside = Signal(range(queue.depth + 2)), Signal(range(queue.depth + 2))
        leaves = queue.o.valid & queue.o.ready
        m.d.sync += [owed.eq(owed + queue.spend - queue.i.valid), inside.eq(inside + queue.i.valid - leaves)]
        m.d.comb += [
            Assume(~queue.spend | queue.credit), Assume(~queue.i.valid | (owed != 0)),
            Assert(~queue.credit | (owed + inside < queue.depth)), Assert(owed + inside <= queue.depth),
            Assert(Mux(queue.ample, owed + inside + 2 <= queue.depth, 1)),
        ]
        return m


class WrittenContract(StreamContract):
    """Memory answers writes that were commanded, and no others; while it owes an answer, nothing is asked of the component."""

    def elaborate(self, platform):
        m = super().elaborate(platform)
        part, owed = self.component, Signal(8)
        m.d.sync += owed.eq(owed + (part.o_write.valid & part.o_write.ready) - (part.i_written.valid & part.i_written.ready))
        m.d.comb += [Assume(~part.i_written.valid | (owed != 0)), self.outside.eq((owed != 0) & ~part.i_written.valid)]
        return m


class MoverContract(WrittenContract):
    """As WrittenContract; there is a head."""

    def __init__(self, rows: int, **bounds):
        super().__init__(RowMover(preset("tiny"), rows=rows), **bounds)

    def elaborate(self, platform):
        m = super().elaborate(platform)
        m.d.comb += Assume(self.component.heads != 0)
        return m


class AddressContract(StreamContract):
    """Every request within bounds is answered by one command in the promised number of cycles, while nobody stalls; there is no command
    without a request, and none for one out of bounds. ``capacity`` stands still."""

    def __init__(self, config: AcceleratorConfig):
        cache = ContiguousCache(config)
        # Behind a stall, places in the queue are free a round trip later.
        super().__init__(cache, answered=cache.interval + 1 + ROUND_TRIP, narrow={"record_beats": 2, "head_stride": 4},
                         still=("capacity",))

    def elaborate(self, platform):
        m = super().elaborate(platform)
        cache, request = self.component, self.component.i_request
        taken = request.valid & request.ready & (request.p.position + request.p.count <= cache.capacity)
        given = (cache.o_read.valid & cache.o_read.ready) | (cache.o_write.valid & cache.o_write.ready)
        inside, writes = Signal(range(16)), Signal(range(16))
        m.d.sync += [inside.eq(inside + taken - given),
                     writes.eq(writes + (taken & request.p.write) - (cache.o_write.valid & cache.o_write.ready))]
        m.d.comb += [Assert(~cache.o_read.valid | (inside > writes)), Assert(~cache.o_write.valid | (writes != 0))]
        self._due(m, "command", inside != 0, given, cache.latency + 1)
        return m


def _of_short_texts(component: type[WindowCache], bits: int) -> type[WindowCache]:
    """With positions of ``bits`` bits."""
    short = patch.dict(component.elaborate.__globals__, POSITION_BITS=bits)
    return type("Short", (component,), {name: short(getattr(component, name)) for name in ("__init__", "elaborate")})


class WindowContract(StreamContract):
    """Every position has the slot ``slot(j)``, in rows that stay among the ring's or the sinks'; every request is taken within
    ``answered`` cycles and gives its runs, or an error, while nobody stalls.

    ``sinks``, ``recent``, and ``length`` while a request is under way, stand still. What makes addresses of rows is left out;
    positions have four bits in place of 20, so that a remainder takes as many cycles.
    """

    BITS = 3

    def __init__(self, config: AcceleratorConfig, *, answered: int | None = None, component: type[WindowCache] = WindowCache):
        window = _of_short_texts(component, self.BITS + 1)(config)
        window._rows = self.taker = RowTaker(window._rows)
        super().__init__(window, answered=answered, narrow={"length": self.BITS, "sinks": 2, "recent": 2, "clear": 0},
                         still=("sinks", "recent"))

    def elaborate(self, platform):
        m = super().elaborate(platform)
        self._free(m, self.taker.takes, "takes")
        window, rows = self.component, self.component._rows.i
        m.d.comb += self.outside.eq(rows.valid & ~rows.ready)
        may_change, before = Signal(init=1), Signal.like(window.length)
        m.d.sync += [may_change.eq(window.i_request.ready), before.eq(window.length)]
        m.d.comb += Assume(may_change | (window.length == before))
        run = rows.p.passed
        last, most = run.position + run.count - 1, window.sinks + window.recent
        beyond = (run.position - window.sinks)[:self.BITS]
        m.d.comb += [
            Assume(window.recent != 0), Assume(window.i_request.p.position[self.BITS:] == 0),
            Assert(~rows.valid | (
                (run.count != 0) & (run.count == rows.p.count) & (rows.p.position + run.count <= most)
                & (last < window.length) & ((rows.p.position < window.sinks) == (run.position < window.sinks))
                & ((last < window.sinks) | (run.position + window.recent >= window.length))
                & Mux(run.position < window.sinks, rows.p.position == run.position,
                      rows.p.position == window.sinks + beyond % window.recent[:2]))),
        ]
        return m


class SelectContract(StreamContract):
    """As many indices as were asked for, or as the list has, rising, the last one marked, which with ``within`` comes in so
    many cycles from the command while nobody stalls. While a list comes or a command is awaited, nothing is asked of it."""

    def __init__(self, depth: int, bits: int, *, within: int | None = None, component: type[TopSelect] = TopSelect, **bounds):
        super().__init__(component(depth, bits), awaited=("i_command",), **bounds)
        self.within = within

    def elaborate(self, platform):
        m = super().elaborate(platform)
        select = self.component
        length, left = (Signal(range(select.depth + 1), name=name) for name in ("length", "left"))
        index, begun = Signal.like(select.o.p.index), Signal()
        with m.If(select.i.valid & select.i.ready & (length != select.depth)):
            m.d.sync += length.eq(length + 1)
        with m.If(select.i_command.valid & select.i_command.ready):
            wanted = select.i_command.p.count
            m.d.sync += [left.eq(Mux(wanted < length, wanted, length)), length.eq(0), begun.eq(0)]
        with m.If(select.o.valid):
            m.d.comb += [Assert(left != 0), Assert(select.o.p.last == (left == 1)), Assert(~begun | (select.o.p.index > index))]
            with m.If(select.o.ready):
                m.d.sync += [left.eq(left - 1), index.eq(select.o.p.index), begun.eq(1)]
        m.d.comb += [Assert(~select.i.ready | (left == 0)), self.outside.eq(select.i.ready)]
        if self.within is not None:
            self._due(m, "indices", left != 0, select.o.valid & select.o.ready & select.o.p.last, self.within)
        return m
