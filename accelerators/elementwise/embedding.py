"""Embedding rows to the residual stream's fixed point."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig
from ..memory.vector import vector_word
from ..numerics.pipelined import adder_tree, round_shift, saturate
from ..pipeline import Pipeline
from ..streams import ROUND_TRIP, CreditQueue
from .residual import counted_word

__all__ = ["Embedding"]

DEPTH = 7


class Embedding(wiring.Component):
    """``x = saturate(round(e * 2**shift))``.

    Parameters
    ----------
    config : AcceleratorConfig
        ``vector_lanes`` (V) and ``embedding_bits`` matter.

    Members
    -------
    i_command : In(stream of {shift: signed(6)})
        One per packet, there from its first word on, taken with its last one.
    i : In(stream of {data: V x signed(16), last})
        Elements of a row. With ``embedding_bits = 32`` a word holds V / 2 elements (little endian), and two
        words, the second one with ``last``, make one word of the result.
    o : Out(stream of {x: V x signed(32), last})
        Rounded to the nearest, halves up.
    saturated : Out(range(V + 1))
        Clamped elements of the word on ``o``; 0 while there is none.

    Latency: 9 cycles from the word that completes one of ``o``. Interval: 1 cycle per word of ``i``.
    """

    latency = DEPTH + CreditQueue.latency
    interval = 1

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        lanes = config.vector_lanes
        super().__init__({
            "i_command": In(stream.Signature(data.StructLayout({"shift": signed(6)}))),
            "i": In(stream.Signature(data.StructLayout({
                "data": data.ArrayLayout(signed(16), lanes), "last": 1}))),
            "o": Out(stream.Signature(vector_word(lanes))),
            "saturated": Out(range(lanes + 1)),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "Embedding":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        lanes, bits = self.config.vector_lanes, self.config.embedding_bits
        m.submodules.results = results = CreditQueue(counted_word(lanes), DEPTH + ROUND_TRIP)
        pipeline = Pipeline(m)
        register = pipeline.register
        accepted = self.i.valid & self.i.ready
        m.d.comb += [
            self.o.valid.eq(results.o.valid), self.o.p.eq(results.o.p.word), results.o.ready.eq(self.o.ready),
            self.saturated.eq(Mux(results.o.valid, results.o.p.saturated, 0)),
            self.i.ready.eq(results.credit & self.i_command.valid),
            self.i_command.ready.eq(results.credit & self.i.valid & self.i.p.last),
        ]

        row = self.i.p.data.as_value()
        completes = accepted
        if bits == 32:
            lower, second = Signal(len(row)), Signal()
            with m.If(accepted):
                m.d.sync += [second.eq(~second & ~self.i.p.last), lower.eq(row)]
            row, completes = Cat(lower, row), accepted & second
        m.d.comb += results.spend.eq(completes)
        elements = register(data.View(data.ArrayLayout(signed(bits), lanes), row))

        # The command goes along with the words: the next one may differ.
        shift = register(self.i_command.p.shift)
        left, right = Mux(shift < 0, 0, shift)[:5], Mux(shift < 0, -shift, 0)[:6]
        left = register(left, 3)
        fine_left = register(left)
        flags = []
        for k, e in enumerate(elements):
            rounded = round_shift(pipeline, e, right)
            coarse = register(rounded << Cat(Const(0, 3), left[3:]))
            value, clamped = saturate(register((coarse << fine_left[:3])[:bits + 31].as_signed()), 32)
            flags.append(register(clamped))
            m.d.comb += results.i.p.word.x[k].eq(register(value))
        m.d.comb += [
            results.i.valid.eq(register(completes, DEPTH, reset=True)),
            results.i.p.word.last.eq(register(self.i.p.last, DEPTH)),
            results.i.p.saturated.eq(adder_tree(flags)),
        ]
        return m
