"""Powers of two, reciprocals and logarithms: chords from a table, pipelined. ``sim/golden/chords.py`` has the same tables."""

from itertools import pairwise
from math import log2

from amaranth.hdl import Cat, Const, Module, Value, signed
from amaranth.lib import data, memory

from ..pipeline import Pipeline
from .normalizer import leading_zeros
from .pipelined import left_justify

__all__ = ["CHORD_STAGES", "LOG2E", "LOG2E_BITS", "LOGARITHM_BITS", "LOGARITHM_STAGES", "POWER_BITS", "RECIPROCAL_BITS", "U_BITS",
           "logarithm", "power", "reciprocal"]

LOG2E_BITS = 25
"""Fraction bits of log2(e)."""

LOG2E = round(1.4426950408889634 * 2 ** LOG2E_BITS)

U_BITS, POWER_BITS, RECIPROCAL_BITS, LOGARITHM_BITS = 20, 19, 20, 18
"""Fraction bits of an exponent, of a power, of a reciprocal, of a logarithm."""

POWERS = [round(2.0 ** (POWER_BITS + 1 + k / 256)) for k in range(257)]
RECIPROCALS = [round((1 << RECIPROCAL_BITS) / (1 + k / 512)) - 1 for k in range(513)]
LOGARITHMS = [round(log2(1 + k / 512) * 2 ** LOGARITHM_BITS) for k in range(513)]

CHORD_STAGES = 4

LOGARITHM_STAGES = 3 + CHORD_STAGES


def power(m: Module, pipeline: Pipeline, u: Value) -> tuple[Value, Value]:
    """``2**-u`` is ``2**-whole * power``, 1 <= power < 2: the first 1, the second ``1 + CHORD_STAGES`` registers later."""
    rest = pipeline.register((-u)[:U_BITS])
    whole = pipeline.register(u[U_BITS:] + u[:U_BITS].any())
    return whole, _chord(m, pipeline, "powers", POWERS, rest)[1:POWER_BITS + 2]


def reciprocal(m: Module, pipeline: Pipeline, t: Value) -> Value:
    """``1 / (1 + t)`` of a fraction, ``CHORD_STAGES`` registers later, at most ``1 - 2**-RECIPROCAL_BITS``."""
    return _chord(m, pipeline, "reciprocals", RECIPROCALS, t)[:RECIPROCAL_BITS]


def logarithm(m: Module, pipeline: Pipeline, x: Value) -> Value:
    """To base 2 of an integer that is not 0, ``LOGARITHM_STAGES`` registers later; ``x`` has 10 to 64 bits."""
    register, width = pipeline.register, len(x)
    zeros = register(leading_zeros(Cat(Const(0, (1 << (width - 1).bit_length()) - width), x)))
    mantissa = left_justify(pipeline, register(x), zeros, width)
    fraction = _chord(m, pipeline, "logarithms", LOGARITHMS, mantissa[:-1])[:LOGARITHM_BITS]
    return Cat(fraction, register((width - 1 - zeros)[:len(zeros)], 2 + CHORD_STAGES))


def _chord(m: Module, pipeline: Pipeline, name: str, knots: list[int], x: Value) -> Value:
    """Between the knots of [0, 1) at the fraction ``x``."""
    register = pipeline.register
    rest_bits = len(x) - (len(knots) - 2).bit_length()
    slopes = [b - a for a, b in pairwise(knots)]
    entry = data.StructLayout({"base": max(knots).bit_length(), "slope": signed(max(map(abs, slopes)).bit_length() + 1)})
    m.submodules[name] = table = memory.Memory(shape=entry, depth=len(slopes), init=[
        {"base": base, "slope": slope} for base, slope in zip(knots, slopes, strict=False)])
    read = table.read_port()
    m.d.comb += read.addr.eq(x[rest_bits:])
    rest, chord = register(x[:rest_bits], 2), register(read.data)  # block memory is slow to give its data
    step = register(chord.slope * rest)
    return register((register(chord.base) + (step >> rest_bits))[:entry["base"].width])
