"""``2**-x`` in fixed point: piecewise linear, pipelined."""

from itertools import pairwise

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .checks import check_int
from .config import AcceleratorConfig
from .pipeline import Pipeline
from .streams import ROUND_TRIP, CreditQueue, connect

__all__ = ["POW2_LATENCY", "Pow2Negative", "pow2_knots", "pow2_negative"]

POW2_LATENCY = 5


def pow2_knots(probability_bits: int, segments: int) -> list[int]:
    """``2**(-k / segments)`` for k = 0 .. segments, in ``probability_bits + 2`` fraction bits, rounded."""
    return [round(2.0 ** (probability_bits + 2 - k / segments)) for k in range(segments + 1)]


def pow2_negative(pipeline: Pipeline, u: Value, *, frac_bits: int, probability_bits: int, segments: int
                  ) -> Value:
    """``2**-u`` in ``probability_bits`` fraction bits, ``POW2_LATENCY`` registers after ``u`` (unsigned).

    ``base[segment] - slope[segment] * rest`` (the chord), then a rounding shift by the integer part.
    """
    m, register = pipeline.m, pipeline.register
    rest_bits = frac_bits - (segments.bit_length() - 1)
    knots = pow2_knots(probability_bits, segments)
    whole_bits = (probability_bits + 2).bit_length()
    table = data.StructLayout({"base": probability_bits + 3, "slope": (knots[0] - knots[1]).bit_length()})

    entry = Signal(table)
    with m.Switch(u[rest_bits:frac_bits]):
        for k, (here, there) in enumerate(pairwise(knots)):
            with m.Case(k):
                m.d.comb += [entry.base.eq(here), entry.slope.eq(here - there)]
    whole = u[frac_bits:]
    # Beyond probability_bits + 1 whole bits the result is 0: one more is enough.
    clipped = Mux(whole > probability_bits + 2, probability_bits + 2, whole)[:whole_bits]
    entry, rest, shift = register(entry), register(u[:rest_bits]), register(clipped)

    product = register(entry.slope * rest)
    base, shift = register(entry.base), register(shift)

    step = (product + (1 << (rest_bits - 1)))[rest_bits:]
    y = register((base - step)[:probability_bits + 3])
    shift = register(shift)

    half_steps = register((y >> 1) >> shift)  # round_shift(y, n + 2) = ((y >> (n + 1)) + 1) >> 1
    return register((half_steps + 1)[1:probability_bits + 2])


class Pow2Negative(wiring.Component):
    """``2**-u``, one value per cycle: a chord per segment and a rounding shift.

    Parameters
    ----------
    frac_bits : int
        Fraction bits of ``u``, 8 to 16.
    probability_bits : int
        Fraction bits of the result, 12 to 26.
    segments : int
        Chords over [0, 1), a power of two, 8 to 256, fewer than ``2**frac_bits``. The largest relative error
        of a chord is ``(ln 2 / segments)**2 / 8``: 2.3e-4 at 16.
    width : int
        Bits of ``u``, ``frac_bits + 1`` to 40.

    Members
    -------
    i : In(stream.Signature({u: width}))
        Unsigned, ``frac_bits`` fraction bits.
    o : Out(stream.Signature({p: probability_bits + 1}))
        1.0 is ``2**probability_bits``; 0 from ``probability_bits + 2`` on.

    Latency: 7 cycles. Interval: 1 cycle.
    """

    latency = POW2_LATENCY + CreditQueue.latency
    interval = 1

    def __init__(self, frac_bits: int, probability_bits: int, segments: int, width: int):
        check_int("frac_bits", frac_bits, 8, 16)
        check_int("probability_bits", probability_bits, 12, 26)
        check_int("segments", segments, 8, 256, power_of_two=True)
        if segments >= 1 << frac_bits:
            raise ValueError(f"segments must be below 2**frac_bits, not {segments}")
        check_int("width", width, frac_bits + 1, 40)
        self.frac_bits, self.probability_bits, self.segments = frac_bits, probability_bits, segments
        super().__init__({
            "i": In(stream.Signature(data.StructLayout({"u": width}))),
            "o": Out(stream.Signature(data.StructLayout({"p": probability_bits + 1}))),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "Pow2Negative":
        """The one inside the streaming softmax."""
        return cls(config.logit_frac_bits, config.probability_bits, config.exp_segments,
                   config.logit_frac_bits + 13)

    def elaborate(self, platform):
        m = Module()
        m.submodules.results = results = CreditQueue(self.o.p.shape(), POW2_LATENCY + ROUND_TRIP)
        connect(m, results.o, wiring.flipped(self.o))
        pipeline = Pipeline(m)
        m.d.comb += [
            self.i.ready.eq(results.credit),
            results.spend.eq(self.i.valid & self.i.ready),
            results.i.valid.eq(pipeline.register(results.spend, POW2_LATENCY, reset=True)),
            results.i.p.p.eq(pow2_negative(pipeline, self.i.p.u, frac_bits=self.frac_bits,
                                           probability_bits=self.probability_bits, segments=self.segments)),
        ]
        return m
