"""Scaled logits of the streaming softmax."""

from amaranth.hdl import Cat, Mux, Signal, Value, signed
from amaranth.lib import data

from ..pipeline import Pipeline

__all__ = ["scaled_logit"]


def scaled_logit(pipeline: Pipeline, item: data.View, frac: int) -> Value:
    """``dot * query * key`` of a score with ``frac`` (F) fraction bits, saturated to F + 12 bits: 7 stages."""
    register = pipeline.register
    scale = register(item.query.mantissa * item.key.mantissa)
    right = register(-(item.query.exponent + item.key.exponent + 23 + frac))
    dot = register(item.dot)

    scale = register((scale + (1 << 14))[15:])
    left, right = register(right < 0), register(Mux(right >= 64, 63, right)[:6])
    dot = register(dot)

    product = pipeline.multiply(dot, scale)
    left, right = register(left, 2), register(right, 2)

    doubled = product << 1
    coarse = register(doubled >> (right & 0x38))
    zero, left, fine = register(product == 0), register(left), register(right[:3])

    shifted = register(coarse >> fine)
    zero, left = register(zero), register(left)

    rounded = (shifted + 1) >> 1
    high = rounded[frac + 11:]
    negative = shifted[-1]
    logit = Signal(signed(frac + 12))
    with pipeline.m.If(left & zero):
        pipeline.m.d.comb += logit.eq(0)
    with pipeline.m.Elif(left | (high.any() & ~high.all())):
        pipeline.m.d.comb += logit.eq(Cat((~negative).replicate(frac + 11), negative))
    with pipeline.m.Else():
        pipeline.m.d.comb += logit.eq(rounded)
    return register(logit)
