"""Adds the result of a ternary linear to the residual stream."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig
from ..memory.vector import vector_word
from ..numerics import SCALAR
from ..numerics.pipelined import adder_tree, magnitude, round_shift, saturate, unsigned_product
from ..pipeline import Pipeline
from ..streams import ROUND_TRIP, CreditQueue

__all__ = ["ResidualAdd", "counted_word"]

TERM_BITS = 34  # wide enough to saturate any residual


def counted_word(lanes: int) -> data.StructLayout:
    """A word of a vector and how many of its elements were clamped."""
    return data.StructLayout({"word": vector_word(lanes), "saturated": range(lanes + 1)})


class ResidualAdd(wiring.Component):
    """``x = saturate(residual + round(sums * scale))``.

    Parameters
    ----------
    config : AcceleratorConfig
        ``vector_lanes`` (V), ``sum_bits`` and ``multiplier_bits`` matter.

    Members
    -------
    i_command : In(stream of {scale: SCALAR})
        One per packet, there from its first word on, taken with its last one: real value of one unit of
        ``sums``, in units of the residual.
    i : In(stream of {x: V x signed(32), last})
        Words of ``sums`` and ``residual`` in turn; ``last`` on a ``residual``. Sums are smaller than
        ``2**(sum_bits - 1)`` in magnitude; upper bits are ignored.
    o : Out(stream of {x: V x signed(32), last})
        The term is rounded to the nearest, halves up. A positive exponent makes every term that is not 0
        infinite, so its element saturates.
    saturated : Out(range(V + 1))
        Clamped elements of the word on ``o``; 0 while there is none.

    Latency: ``latency`` cycles from ``residual`` to its result: 12, or 13 if ``sum_bits`` is above 19.
    Interval: 1 cycle per word.
    """

    interval = 1

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        self.latency = 12 if config.sum_bits <= 19 else 13
        lanes = config.vector_lanes
        super().__init__({
            "i_command": In(stream.Signature(data.StructLayout({"scale": SCALAR}))),
            "i": In(stream.Signature(vector_word(lanes))),
            "o": Out(stream.Signature(vector_word(lanes))),
            "saturated": Out(range(lanes + 1)),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "ResidualAdd":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        bits = self.config.sum_bits
        m.submodules.results = results = CreditQueue(
            counted_word(self.config.vector_lanes), (self.latency - CreditQueue.latency + ROUND_TRIP) // 2 + 1)
        pipeline = Pipeline(m)
        register = pipeline.register
        m.d.comb += [
            self.o.valid.eq(results.o.valid), self.o.p.eq(results.o.p.word), results.o.ready.eq(self.o.ready),
            self.saturated.eq(Mux(results.o.valid, results.o.p.saturated, 0)),
        ]

        is_residual = Signal()
        accepted = self.i.valid & self.i.ready
        m.d.comb += [
            self.i.ready.eq(results.credit & self.i_command.valid),
            self.i_command.ready.eq(results.credit & self.i.valid & self.i.p.last),
            results.spend.eq(accepted & is_residual),
        ]
        with m.If(accepted):
            m.d.sync += is_residual.eq(~is_residual & ~self.i.p.last)

        # The command goes along with the words: the next one may differ.
        scale = register(self.i_command.p.scale)
        right = -scale.exponent
        infinite = register(scale.exponent > 0)
        shift = register(Mux(right[6:].any(), 63, right[:6]))  # 63 leaves nothing
        terms = []
        for x in self.i.p.x:
            negative, size = register(x[bits - 1]), register(magnitude(x[:bits])[:bits - 1])
            product, latency = unsigned_product(pipeline, size, scale.mantissa, self.config.multiplier_bits)
            negative = register(negative, latency)
            signed_term = register(Mux(negative, -product, product))
            rounded = round_shift(pipeline, signed_term, register(shift, latency))
            unlimited = register(register(product != 0, 4) & register(infinite, latency + 3))
            limited, _ = saturate(rounded, TERM_BITS)
            terms.append((register(limited), unlimited, register(negative, 5)))
        depth = latency + 6

        arrives = register(accepted & ~is_residual, depth, reset=True)
        adds = register(accepted & is_residual, depth, reset=True)
        flags = []
        for k, ((term, infinite, negative), x) in enumerate(zip(terms, self.i.p.x, strict=True)):
            extreme = Cat((~negative).replicate(TERM_BITS - 1), negative).as_signed()
            waiting = Signal(signed(TERM_BITS), name=f"waiting_{k}", reset_less=True)
            with m.If(arrives):
                m.d.sync += waiting.eq(Mux(infinite, extreme, term))
            total = register(register(x, depth) + waiting)
            value, clamped = saturate(total, 32)
            flags.append(register(clamped))
            m.d.comb += results.i.p.word.x[k].eq(register(value))
        m.d.comb += [
            results.i.valid.eq(register(adds, 2, reset=True)),
            results.i.p.word.last.eq(register(self.i.p.last, depth + 2)),
            results.i.p.saturated.eq(adder_tree(flags)),
        ]
        return m
