"""Elements of K/V records in 4 bits: steps of ``INT4_STEP`` of the 8-bit quantization."""

from amaranth.hdl import Cat, Const, Mux, Value

from ..kv_records import INT4_STEP

__all__ = ["expanded", "rounded"]


def rounded(q: Value) -> Value:
    """``q / INT4_STEP`` of a signed 8-bit ``q``, halves away from zero: -7 .. 7, as 4 bits."""
    size = Mux(q[-1], -q, q)[:8]
    beyond = Cat(size >= (2 * step + 1) * INT4_STEP // 2 for step in range(7))  # as many ones as the result is large
    magnitude = Cat(beyond.xor(), Mux(beyond[3], beyond[5], beyond[1]), beyond[3])
    return Mux(q[-1], -magnitude, magnitude)[:4]


def expanded(element: Value) -> Value:
    """``INT4_STEP`` times a signed 4-bit ``element`` of -7 .. 7, as 8 bits: ``16 * (element + sign) + 2 * (element mod 8)``, where the
    sign is -1 or 0. Each bit is a function of four."""
    low, middle, high, negative = element
    return Cat(Const(0, 1), low, middle, high,
               low ^ negative, middle ^ (negative & ~low), high ^ (negative & ~low & ~middle), negative)
