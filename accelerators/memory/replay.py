"""Replay buffer: loads a short table from memory once and repeats it."""

from amaranth.hdl import Module, ShapeLike, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig
from ..integers import ceil_div

__all__ = ["ReplayBuffer"]


class ReplayBuffer(wiring.Component):
    """Keeps the gains of a norm, or the rotary table of a position, and repeats them for every vector.

    Parameters
    ----------
    shape : shape-like
        One word.
    depth : int
        Longest table, words.

    Members
    -------
    i_command : In(stream of {words, times: 16})
        Load a table, then repeat its first ``words`` (1..depth) words ``times`` (1 or more) times.
    i : In(stream of {data: shape, last: 1})
        The table. Everything up to ``last`` belongs to it; words beyond ``words`` are dropped. A table shorter than
        ``words`` is repeated with whatever the buffer held behind its end.
    o : Out(stream of shape)

    Latency: 2 cycles from the ``last`` word of the table to the first word out. Interval: one word per cycle; the next table
    is loaded from the cycle after the final word on.
    """

    latency = 2
    interval = 1

    def __init__(self, shape: ShapeLike, depth: int):
        self.shape, self.depth = shape, depth
        super().__init__({
            "i_command": In(stream.Signature(data.StructLayout({"words": range(depth + 1), "times": 16}))),
            "i": In(stream.Signature(data.StructLayout({"data": shape, "last": 1}))),
            "o": Out(stream.Signature(shape)),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "ReplayBuffer":
        """The buffer for gains."""
        return cls(data.ArrayLayout(16, config.vector_lanes), ceil_div(config.max_vector, config.vector_lanes))

    def elaborate(self, platform):
        m = Module()
        m.submodules.table = table = memory.Memory(shape=self.shape, depth=self.depth, init=[])
        write, read = table.write_port(), table.read_port()
        times, index, last = Signal(16), Signal(range(self.depth)), Signal(range(self.depth))
        stored = Signal()  # all words that are kept are there; further ones are dropped
        fetched, advance = Signal(), Signal()
        m.d.comb += [
            advance.eq(~fetched | self.o.ready),
            write.addr.eq(index), write.data.eq(self.i.p.data),
            read.addr.eq(index), read.en.eq(advance),
            self.o.p.eq(read.data), self.o.valid.eq(fetched),
        ]
        with m.If(advance):
            m.d.sync += fetched.eq(0)
        with m.FSM():
            with m.State("COMMAND"):
                m.d.comb += self.i_command.ready.eq(1)
                with m.If(self.i_command.valid):
                    m.d.sync += [last.eq(self.i_command.p.words - 1), times.eq(self.i_command.p.times), index.eq(0), stored.eq(0)]
                    m.next = "LOAD"
            with m.State("LOAD"):
                m.d.comb += self.i.ready.eq(1)
                with m.If(self.i.valid):
                    m.d.comb += write.en.eq(~stored)
                    m.d.sync += [index.eq(index + 1), stored.eq(stored | (index == last))]
                    with m.If(self.i.p.last):
                        m.d.sync += index.eq(0)
                        m.next = "REPLAY"
            with m.State("REPLAY"):
                with m.If(advance):
                    m.d.sync += [fetched.eq(1), index.eq(index + 1)]
                    with m.If(index == last):
                        m.d.sync += [index.eq(0), times.eq(times - 1)]
                        with m.If(times == 1):
                            m.next = "COMMAND"
        return m
