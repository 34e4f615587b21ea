"""First in, first out queue of any payload and depth."""

from amaranth.hdl import Module, Shape, ShapeLike, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ..checks import check_int
from ..config import AcceleratorConfig
from .buffer import StreamBuffer
from .connect import connect
from .words import word_layout

__all__ = ["Queue"]

SHALLOW = 32
"""Deepest queue that stays in lookup-table memory; deeper ones get a buffer behind the block memory."""


class Queue(wiring.Component):
    """Queue of ``depth`` items.

    ``i.ready``, ``o.valid`` and ``level`` depend on registers only. Up to 32 items the output comes from
    the register of a synchronous memory read; deeper queues fit block memory and have a buffer more,
    because block memory is slow to give its data.

    Parameters
    ----------
    shape : shape-like
        Payload of both streams, at least one bit.
    depth : int
        Items that the queue can hold, 3 to 2**20 (for two, take a ``StreamBuffer``).

    Members
    -------
    i : In(stream.Signature(shape))
    o : Out(stream.Signature(shape))
        The same items in the same order.
    level : Out(range(depth + 1))
        Items inside, counted from the cycle after they went in.

    Latency: 2 cycles up to 32 items, 3 cycles above. Interval: 1 cycle.
    """

    interval = 1

    def __init__(self, shape: ShapeLike, depth: int):
        check_int("depth", depth, 3, 1 << 20)
        if Shape.cast(shape).width < 1:
            raise ValueError(f"shape must have at least one bit, not {shape!r}")
        self.depth = depth
        self.latency = 2 if depth <= SHALLOW else 3
        super().__init__({
            "i": In(stream.Signature(shape)),
            "o": Out(stream.Signature(shape)),
            "level": Out(range(depth + 1)),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "Queue":
        """The prefetch queue: ``prefetch_beats`` bus words with their ``last``."""
        return cls(word_layout(config.bus_bits), config.prefetch_beats)

    def elaborate(self, platform):
        m = Module()
        i, o = Value.cast(self.i.p), Value.cast(self.o.p)
        m.submodules.storage = storage = Memory(shape=len(i), depth=self.depth, init=[])
        write, read = storage.write_port(), storage.read_port()
        enters, leaves = self.i.valid & self.i.ready, self.o.valid & self.o.ready
        room = Signal(init=1)
        m.d.comb += [
            self.i.ready.eq(room),
            write.data.eq(i),
            write.en.eq(enters),
        ]
        self._advance(m, write.addr, enters)
        with m.If(enters & ~leaves):
            m.d.sync += [self.level.eq(self.level + 1), room.eq(self.level != self.depth - 1)]
        with m.Elif(leaves & ~enters):
            m.d.sync += [self.level.eq(self.level - 1), room.eq(1)]

        # The rows are never all in use, because the output registers take an item each: equal is empty.
        # (Comparing addresses also shows Yosys that no row is read while it is written: it would otherwise
        # add a bypass register and a multiplexer per bit.)
        fetched, taken = Signal(), Signal()
        m.d.comb += read.en.eq((read.addr != write.addr) & (taken | ~fetched))
        self._advance(m, read.addr, read.en)
        with m.If(taken | ~fetched):
            m.d.sync += fetched.eq(read.en)
        if self.depth <= SHALLOW:
            m.d.comb += [o.eq(read.data), self.o.valid.eq(fetched), taken.eq(self.o.ready)]
        else:
            m.submodules.output = output = StreamBuffer(self.o.p.shape())
            connect(m, output.o, wiring.flipped(self.o))
            m.d.comb += [Value.cast(output.i.p).eq(read.data), output.i.valid.eq(fetched), taken.eq(output.i.ready)]
        return m

    def _advance(self, m, row, step):
        """Drive ``row`` from a counter of rows that goes up with ``step`` and wraps at ``depth``."""
        counter = Signal(range(self.depth))
        m.d.comb += row.eq(counter)
        with m.If(step):
            m.d.sync += counter.eq(counter + 1)
            if self.depth & (self.depth - 1):
                with m.If(counter == self.depth - 1):
                    m.d.sync += counter.eq(0)
