"""A common exponent for vectors that each have a scale, and sums over heads: pieces of the pipelines that compare cache rows."""

from amaranth.hdl import Module, Mux, ShapeLike, Signal, Value
from amaranth.lib import data, memory

from ..numerics.pipelined import saturate
from ..pipeline import Pipeline

__all__ = ["FACTOR_BITS", "GRID_LATENCY", "SCORE_BITS", "SUMS_LATENCY", "grid_factor", "head_sums"]

FACTOR_BITS = 17
"""Width of a factor: an 18-bit signed multiplier takes it."""

GRID_LATENCY = 4
"""Registers from a scale to its factor."""

SCORE_BITS = 48
"""Width of a sum over heads, and of the scores that ``TopSelect`` compares."""

SUMS_LATENCY = 2
"""Registers from a row's value to its sum over heads."""


def grid_factor(pipeline: Pipeline, scale: data.View, exponent: Value, fraction: int, takes: Value) -> tuple[Value, Value]:
    """``(factor, saturated)`` of a ``SCALE16`` in steps of ``2**(exponent - fraction)``, ``GRID_LATENCY`` registers later.

    ``floor(mantissa * 2**(scale.exponent - exponent + fraction))``, at most ``2**17 - 1``. The factor stays until the next scale
    that ``takes`` says to take; ``saturated`` is 1 for a cycle if that one is too large.
    """
    register = pipeline.register
    right, mantissa = register(exponent - scale.exponent + (1 - fraction)), register(scale.mantissa)
    large = register((right < 0) & (mantissa != 0))
    amount = register(Mux(right < 0, 0, Mux(right > FACTOR_BITS, FACTOR_BITS, right))[:5])
    coarse = register((register(mantissa) << 1) >> (amount & 0x18))
    fine, large, takes = register(amount[:3]), register(large), register(takes, GRID_LATENCY - 1, reset=True)
    factor = Signal(FACTOR_BITS)
    with pipeline.m.If(takes):
        pipeline.m.d.sync += factor.eq(Mux(large, (1 << FACTOR_BITS) - 1, coarse >> fine))
    return factor, register(takes & large, reset=True)


def head_sums(m: Module, pipeline: Pipeline, depth: int, shape: ShapeLike, value: Value, *, valid: Value, first: Value,
              last: Value) -> Value:
    """Sum of ``value`` over the passes of a list, ``SUMS_LATENCY`` registers later, saturated to ``shape``.

    A pass gives a value for each of up to ``depth`` rows, in order, ``last`` with the last one; in the ``first`` pass of a list
    the sums begin anew. The same row must not come again before the third cycle.
    """
    register = pipeline.register
    m.submodules.sums = sums = memory.Memory(shape=shape, depth=depth, init=[])
    read, write = sums.read_port(), sums.write_port()
    number = Signal(range(depth))
    with m.If(valid):
        m.d.sync += number.eq(Mux(last, 0, number + 1))
    total = Mux(register(first, 2), 0, register(read.data)) + register(value, 2)  # block memory is slow to give its data
    bits = len(write.data)
    result = Signal(write.data.shape())
    if write.data.shape().signed:
        m.d.comb += result.eq(saturate(total, bits)[0])
    else:
        m.d.comb += result.eq(Mux(total[bits:].any(), (1 << bits) - 1, total))
    m.d.comb += [
        read.addr.eq(number), write.addr.eq(register(number, SUMS_LATENCY)), write.data.eq(result),
        write.en.eq(register(valid, SUMS_LATENCY, reset=True)),
    ]
    return result
