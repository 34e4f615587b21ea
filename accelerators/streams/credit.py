"""Credit-based flow control: pipelines and long wires that never stop."""

from amaranth.hdl import Module, ShapeLike, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..checks import check_int
from ..config import AcceleratorConfig
from ..pipeline import Pipeline
from .connect import connect
from .queue import Queue
from .words import word_layout

__all__ = ["ROUND_TRIP", "CreditQueue", "Relay"]

ROUND_TRIP = 4
"""Cycles from the last stage of a pipeline, through the queue, until its place can be promised again."""


class CreditQueue(wiring.Component):
    """Queue at the end of a pipeline whose registers have no enable: a place is promised before an item enters.

    A pipeline that stops as a whole needs an enable on each of its registers, a net that spans the device and keeps registers
    out of multipliers. Here it never stops: what is in it has its place in the queue::

        spend ---> count ---> credit
                     ^
        i ---> queue ---> o

    Parameters
    ----------
    shape : shape-like
        Payload of both streams, at least one bit.
    depth : int
        Places, 3 to 1024: items in the pipeline and in the queue together. One item per cycle takes ``ROUND_TRIP`` more than
        the pipeline has stages.

    Members
    -------
    credit, ample : Out(1)
        There is a place for one more item; for two more. Registers. Who takes ``ample`` through one more register, and has no
        other look at ``credit``, never spends too much.
    spend : In(1)
        An item is on its way; only with ``credit``.
    i : In(stream.Signature(shape, always_ready=True))
        Exactly one item for every ``spend``, at any time after it.
    o : Out(stream.Signature(shape))
        The same items in the same order.

    Latency: 2 cycles from ``i`` to ``o``, 3 cycles above 32 places. Interval: 1 cycle.
    """

    latency = 2
    interval = 1

    def __init__(self, shape: ShapeLike, depth: int):
        check_int("depth", depth, 3, 1024)
        self.depth = depth
        super().__init__({
            "credit": Out(1, init=1),
            "ample": Out(1, init=1),
            "spend": In(1),
            "i": In(stream.Signature(shape, always_ready=True)),
            "o": Out(stream.Signature(shape)),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "CreditQueue":
        """Bus words with their ``last``, behind a register."""
        return cls(word_layout(config.bus_bits), ROUND_TRIP + 2)

    def elaborate(self, platform):
        m = Module()
        m.submodules.queue = queue = Queue(self.o.p.shape(), self.depth)
        connect(m, queue.o, wiring.flipped(self.o))
        returned, used = Signal(), Signal(range(self.depth + 1))
        m.d.comb += [queue.i.valid.eq(self.i.valid), queue.i.p.eq(self.i.p)]
        m.d.sync += returned.eq(self.o.valid & self.o.ready)
        with m.If(self.spend & ~returned):
            m.d.sync += [used.eq(used + 1), self.credit.eq(used != self.depth - 1), self.ample.eq(used < self.depth - 2)]
        with m.Elif(returned & ~self.spend):
            m.d.sync += [used.eq(used - 1), self.credit.eq(1), self.ample.eq(used != self.depth)]
        return m


class Relay(wiring.Component):
    """A stream across the device: registers that never stop, then a ``CreditQueue``.

    Unlike with a chain of ``StreamBuffer``, no register needs to know in the same cycle whether the next one has room.

    Parameters
    ----------
    shape : shape-like
        Payload of both streams, at least one bit.
    stages : int
        Registers between ``i`` and the queue, 1 to 26.

    Members
    -------
    i : In(stream.Signature(shape))
        ``ready`` is a register.
    o : Out(stream.Signature(shape))
        The same items in the same order. ``o.payload`` comes straight from registers.
    ample : Out(1)
        See ``CreditQueue``; there is one place more than the pace needs.

    Latency: ``stages + 2`` cycles. Interval: 1 cycle.
    """

    interval = 1

    def __init__(self, shape: ShapeLike, stages: int = 1):
        check_int("stages", stages, 1, 30 - ROUND_TRIP)
        self.stages = stages
        self.latency = stages + CreditQueue.latency
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape)), "ample": Out(1)})

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "Relay":
        """Bus words with their ``last``."""
        return cls(word_layout(config.bus_bits))

    def elaborate(self, platform):
        m = Module()
        m.submodules.queue = queue = CreditQueue(self.o.p.shape(), self.stages + ROUND_TRIP + 2)
        connect(m, queue.o, wiring.flipped(self.o))
        register, accepted = Pipeline(m).register, self.i.valid & queue.credit
        m.d.comb += [
            self.i.ready.eq(queue.credit), self.ample.eq(queue.ample), queue.spend.eq(accepted),
            queue.i.valid.eq(register(accepted, self.stages, reset=True)), queue.i.p.eq(register(self.i.p, self.stages)),
        ]
        return m
