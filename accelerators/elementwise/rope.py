"""Rotary position embedding: rotates pairs of elements by angles from a table."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig
from ..memory.vector import vector_word
from ..numerics.pipelined import signed_product
from ..pipeline import Pipeline
from ..streams import ROUND_TRIP, CreditQueue, connect

__all__ = ["Rope", "rotation_word"]

TABLE_FRACTION = 14
RESULT_FRACTION = 6
DROPPED = TABLE_FRACTION - RESULT_FRACTION


def rotation_word(lanes: int) -> data.StructLayout:
    """Cosines and sines of one word of pairs, Q1.14."""
    each = data.ArrayLayout(signed(16), lanes)
    return data.StructLayout({"cos": each, "sin": each})


class Rope(wiring.Component):
    """Rotates the pairs (element i, element i + head_dim / 2) of a head (RoFormer, arXiv:2104.09864).

    ``lo' = round(lo * cos - hi * sin)``, ``hi' = round(hi * cos + lo * sin)``, with 6 more fraction bits than
    the input; halves are rounded up. Each word meets both factors when it comes; the products of ``lo`` wait
    for those of ``hi``, and ``hi'`` leaves in the next slot::

        i -> * cos -+-> wait -.-> lo' -.
          -> * sin -+---------'-> hi' -'-> round -> o

    Parameters
    ----------
    config : AcceleratorConfig
        ``vector_lanes`` (V) and ``sum_bits`` matter.

    Members
    -------
    i : In(stream of {x: V x signed(32), last})
        Words ``lo``, ``hi`` in turn; ``last`` on a ``hi``. Elements fit ``sum_bits``: upper bits are ignored.
    i_table : In(stream of {cos: V x signed(16), sin: V x signed(16)})
        One word per pair of words; taken with ``hi``. Points of the unit circle in Q1.14: then the result
        fits int32. (For other values it may wrap.)
    o : Out(stream of {x: V x signed(32), last})
        Words ``lo'``, ``hi'`` in turn. Error at most half a step, plus that of the table.

    Latency: ``latency`` cycles from ``lo`` to ``lo'`` (``hi`` following at once): 8, or 9 if ``sum_bits`` is
    above 18. Interval: 1 cycle per word.
    """

    interval = 1

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        self.latency = 8 if config.sum_bits <= 18 else 9
        super().__init__({
            "i": In(stream.Signature(vector_word(config.vector_lanes))),
            "i_table": In(stream.Signature(rotation_word(config.vector_lanes))),
            "o": Out(stream.Signature(vector_word(config.vector_lanes))),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "Rope":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        bits = self.config.sum_bits
        m.submodules.results = results = CreditQueue(self.o.p.shape(), self.latency - CreditQueue.latency + ROUND_TRIP)
        connect(m, results.o, wiring.flipped(self.o))
        pipeline = Pipeline(m)
        register = pipeline.register

        high = Signal()
        accepted = self.i.valid & self.i.ready
        m.d.comb += [
            self.i.ready.eq(results.credit & self.i_table.valid),
            self.i_table.ready.eq(results.credit & self.i.valid & high),
            results.spend.eq(accepted),
        ]
        with m.If(accepted):
            m.d.sync += high.eq(~high & ~self.i.p.last)

        table = register(self.i_table.p)
        products = []
        for x, cos, sin in zip(self.i.p.x, table.cos, table.sin, strict=True):
            x = register(x[:bits].as_signed())
            by_cos, latency = signed_product(pipeline, x, cos)
            by_sin, _ = signed_product(pipeline, x, sin)
            products.append((by_cos, by_sin))
        is_low = register(accepted & ~high, 1 + latency, reset=True)
        is_high = register(accepted & high, 1 + latency, reset=True)
        last = register(self.i.p.last, 1 + latency)

        low_next, high_next = register(is_high, reset=True), register(is_high, 2, reset=True)
        for k, (by_cos, by_sin) in enumerate(products):
            waiting_cos, waiting_sin = (Signal(each.shape(), name=f"waiting_{name}", reset_less=True)
                                        for name, each in (("cos", by_cos), ("sin", by_sin)))
            with m.If(is_low):
                m.d.sync += [waiting_cos.eq(by_cos), waiting_sin.eq(by_sin)]
            low, other = register(waiting_cos - by_sin), register(by_cos + waiting_sin)
            turned = register(Mux(low_next, low, register(other)))
            m.d.comb += results.i.p.x[k].eq(register((turned + (1 << (DROPPED - 1))) >> DROPPED))
        m.d.comb += [
            results.i.valid.eq(register(low_next | high_next, 2, reset=True)),
            results.i.p.last.eq(register(register(last, 2) & high_next, 2)),
        ]
        return m
