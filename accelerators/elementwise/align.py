"""Brings words with different exponents to one exponent."""

from amaranth.hdl import Module, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig
from ..memory.vector import vector_word
from ..numerics.pipelined import round_shift
from ..pipeline import Pipeline
from ..streams import ROUND_TRIP, CreditQueue, connect

__all__ = ["Align"]

DEPTH = 4


class Align(wiring.Component):
    """``floor(x / 2**shift + 1/2)``, with one shift per word.

    Attention gives the heads of a token with an exponent each; shifted by its distance from the largest
    exponent, each head's words fit one vector.

    Parameters
    ----------
    config : AcceleratorConfig
        ``vector_lanes`` (V) matters.

    Members
    -------
    i : In(stream of {x: V x signed(32), shift: 0..63, last})
        A shift of 32 or more gives 0.
    o : Out(stream of {x: V x signed(32), last})

    Latency: 6 cycles. Interval: 1 cycle.
    """

    latency = DEPTH + CreditQueue.latency
    interval = 1

    def __init__(self, config: AcceleratorConfig):
        lanes = config.vector_lanes
        super().__init__({
            "i": In(stream.Signature(data.StructLayout({
                "x": data.ArrayLayout(signed(32), lanes), "shift": 6, "last": 1}))),
            "o": Out(stream.Signature(vector_word(lanes))),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "Align":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        m.submodules.results = results = CreditQueue(self.o.p.shape(), DEPTH + ROUND_TRIP)
        connect(m, results.o, wiring.flipped(self.o))
        pipeline = Pipeline(m)
        shift = pipeline.register(self.i.p.shift)
        m.d.comb += [
            self.i.ready.eq(results.credit),
            results.spend.eq(self.i.valid & self.i.ready),
            results.i.valid.eq(pipeline.register(results.spend, DEPTH, reset=True)),
            results.i.p.last.eq(pipeline.register(self.i.p.last, DEPTH)),
            *(results.i.p.x[k].eq(round_shift(pipeline, pipeline.register(x), shift)) for k, x in enumerate(self.i.p.x)),
        ]
        return m
