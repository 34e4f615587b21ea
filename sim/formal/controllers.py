"""What controllers promise beyond the rules of streams, or need beyond them."""

from amaranth.hdl import Array, Assert, Assume, Cat, Mux, Signal

from ...accelerators.cache.blocks import COUNT_BITS, BlockPool, PoolCommand
from ...accelerators.cache.mover import RowMover
from ...accelerators.presets import preset
from ...accelerators.streams import CreditQueue
from .contract import StreamContract

__all__ = ["CreditContract", "MoverContract", "PoolContract"]


class PoolContract(StreamContract):
    """A block is given out only while nobody has it; counts are the owners, never below 0; what is refused is what must be;
    ``free`` is the number of blocks without owner."""

    def __init__(self, blocks: int):
        super().__init__(BlockPool(blocks), answered=4)

    def elaborate(self, platform):
        m = super().elaborate(platform)
        pool = self.component
        owners = Array([Signal(COUNT_BITS, name=f"owners_{block}") for block in range(pool.blocks)])
        command, result = Signal.like(pool.i.p), pool.o.p
        with m.If(pool.i.valid & pool.i.ready):
            m.d.sync += command.eq(pool.i.p)
        before, idle = Signal(COUNT_BITS), Signal()
        allocates = command.command == PoolCommand.ALLOCATE
        none_free = Cat(each == 0 for each in owners).any() == 0
        m.d.comb += [before.eq(owners[result.block]), idle.eq(pool.i.ready)]
        m.d.comb += Assume(pool.i.p.block < pool.blocks)
        refuses, after = Signal(), Signal(COUNT_BITS)
        with m.Switch(command.command):
            with m.Case(PoolCommand.ALLOCATE):
                m.d.comb += [refuses.eq(none_free), after.eq(1)]
            with m.Case(PoolCommand.SHARE):
                m.d.comb += [refuses.eq((before == 0) | before.all()), after.eq(before + 1)]
            with m.Case(PoolCommand.RELEASE):
                m.d.comb += [refuses.eq(before == 0), after.eq(before - 1)]
            with m.Default():
                m.d.comb += after.eq(before)
        with m.If(pool.o.valid):
            m.d.comb += Assert(result.refused == refuses)
            with m.If(~refuses):
                m.d.comb += [Assert(result.count == after), Assert(~allocates | (before == 0)),
                             Assert(allocates | (result.block == command.block))]
            with m.If(pool.o.ready & ~refuses):
                m.d.sync += owners[result.block].eq(after)
        m.d.comb += Assert(~idle | (pool.free == sum(each == 0 for each in owners)))
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


class MoverContract(StreamContract):
    """Memory answers writes that were commanded, and no others."""

    def __init__(self, rows: int):
        super().__init__(RowMover(preset("tiny"), rows=rows))

    def elaborate(self, platform):
        m = super().elaborate(platform)
        mover, owed = self.component, Signal(8)
        m.d.sync += owed.eq(owed + (mover.o_write.valid & mover.o_write.ready) - mover.i_written.valid)
        m.d.comb += Assume(~mover.i_written.valid | (owed != 0))
        return m
