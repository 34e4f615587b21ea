"""Blocks of a paged KV cache: free list and reference counts."""

from enum import IntEnum

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..checks import check_int
from ..config import AcceleratorConfig

__all__ = ["BlockPool", "PoolCommand", "pool_command", "pool_result"]

COUNT_BITS = 8
"""Width of a reference count."""


class PoolCommand(IntEnum):
    """What is asked of the pool."""

    ALLOCATE = 0
    """A block that nobody has; its count becomes 1. ``block`` does not matter."""
    SHARE = 1
    """One more has ``block``."""
    RELEASE = 2
    """One fewer has ``block``; at 0 it is free again."""


def pool_command(blocks: int) -> data.StructLayout:
    """``{command: PoolCommand, block}``."""
    return data.StructLayout({"command": 2, "block": range(blocks)})


def pool_result(blocks: int) -> data.StructLayout:
    """``{block, count, refused}``."""
    return data.StructLayout({"block": range(blocks), "count": COUNT_BITS, "refused": 1})


class BlockPool(wiring.Component):
    """Gives out the blocks of a paged KV cache and counts who has them (vLLM's block manager, arXiv:2309.06180, section 4).

    Blocks that were never given out are counted by a register, those that came back lie on a stack: so nothing has to be
    initialized, and the block freed last is given out first.

    Parameters
    ----------
    blocks : int
        2 to 2**16.

    Members
    -------
    i : In(stream of pool_command)
    o : Out(stream of pool_result)
        One for each command. ``count`` is the count after the command; 0 is free. ``refused``: nothing has changed, because no
        block is free (ALLOCATE), nobody has the block (SHARE, RELEASE), 255 have it (SHARE), or there is no such command; ``count`` is
        0 or 255 then.
    free : Out(range(blocks + 1))
        Free blocks.
    asked : In(2 x range(blocks)); shared : Out(2)
        Of each block that is asked about, one that somebody has, in the same cycle: others have it too. A command counts from the
        cycle of its answer on.

    Latency: 2 cycles. Interval: 2 cycles: the next command comes with the answer, at the earliest.
    """

    latency = 2
    interval = 2

    def __init__(self, blocks: int):
        check_int("blocks", blocks, 2, 1 << 16)
        self.blocks = blocks
        super().__init__({
            "i": In(stream.Signature(pool_command(blocks))),
            "o": Out(stream.Signature(pool_result(blocks))),
            "free": Out(range(blocks + 1), init=blocks),
            "asked": In(data.ArrayLayout(range(blocks), 2)),
            "shared": Out(2),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "BlockPool":
        """Of four sequences in blocks of 16 positions."""
        return cls(config.blocks)

    def elaborate(self, platform):
        m = Module()
        blocks = self.blocks
        m.submodules.counts = counts = memory.Memory(shape=COUNT_BITS, depth=blocks, init=[])
        m.submodules.several = several = memory.Memory(shape=1, depth=blocks, init=[])
        m.submodules.returned = returned = memory.Memory(shape=range(blocks), depth=blocks, init=[])
        read, write = counts.read_port(domain="comb"), counts.write_port()
        pop, push = returned.read_port(domain="comb"), returned.write_port()
        note = several.write_port()
        for number, asked in enumerate(self.asked):
            look = several.read_port(domain="comb")
            m.d.comb += [look.addr.eq(asked), self.shared[number].eq(look.data)]
        fresh, stacked = Signal(range(blocks + 1)), Signal(range(blocks + 1))  # first block never given out; blocks on the stack
        command, held = Signal.like(self.i.p), Signal(COUNT_BITS)
        taken, deciding = Signal(), Signal()
        block, count, refused = Signal(range(blocks)), Signal(COUNT_BITS), Signal()
        allocates = command.command == PoolCommand.ALLOCATE
        has_room, reuses, top = Signal(), Signal(), Signal(range(blocks))  # a register late: they stand from a command to its decision
        m.d.comb += [
            self.i.ready.eq(~deciding & (~self.o.valid | self.o.ready)), taken.eq(self.i.valid & self.i.ready),
            read.addr.eq(self.i.p.block), pop.addr.eq(stacked - 1), push.addr.eq(stacked),
            block.eq(Mux(allocates, Mux(reuses, top, fresh), command.block)),
            push.data.eq(block), write.addr.eq(block), write.data.eq(count),
            note.en.eq(write.en), note.addr.eq(block),
        ]
        m.d.sync += [deciding.eq(taken), has_room.eq(self.free != 0), reuses.eq(stacked != 0), top.eq(pop.data)]
        with m.If(taken):
            m.d.sync += [command.eq(self.i.p), held.eq(Mux(self.i.p.block < fresh, read.data, 0))]
        m.d.comb += refused.eq(1)
        with m.Switch(command.command):
            with m.Case(PoolCommand.ALLOCATE):
                m.d.comb += [refused.eq(~has_room), count.eq(~refused)]
            with m.Case(PoolCommand.SHARE):
                m.d.comb += [refused.eq((held == 0) | held.all()), count.eq(held + ~refused), note.data.eq(1)]
            with m.Case(PoolCommand.RELEASE):
                m.d.comb += [refused.eq(held == 0), count.eq(held - ~refused), note.data.eq(held > 2)]
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(deciding):
            m.d.sync += [self.o.valid.eq(1), self.o.p.block.eq(block), self.o.p.count.eq(count), self.o.p.refused.eq(refused)]
            with m.If(~refused):
                m.d.comb += write.en.eq(1)
                with m.If(allocates):
                    m.d.sync += self.free.eq(self.free - 1)
                    with m.If(reuses):
                        m.d.sync += stacked.eq(stacked - 1)
                    with m.Else():
                        m.d.sync += fresh.eq(fresh + 1)
                with m.Elif((command.command == PoolCommand.RELEASE) & (held == 1)):
                    m.d.comb += push.en.eq(1)
                    m.d.sync += [stacked.eq(stacked + 1), self.free.eq(self.free + 1)]
        return m
