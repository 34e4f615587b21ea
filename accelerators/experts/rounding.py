"""Exact sums become floating-point numbers, with one rounding."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..checks import check_int
from ..numerics.normalizer import leading_zeros
from ..pipeline import Pipeline
from ..streams import ROUND_TRIP, CreditQueue, connect
from .config import SCALE_EXPONENT_BITS, ExpertConfig, Format

__all__ = ["ROUND_STAGES", "SCALE", "SumRounder", "round_magnitude", "rounded_layout", "rounded_sum", "sum_layout", "sum_stages",
           "tagged_pipeline"]

ROUND_STAGES = 6
"""Registers of ``round_magnitude``."""

SCALE = data.StructLayout({"mantissa": 16, "exponent": signed(SCALE_EXPONENT_BITS)})
"""Factor of integer sums: ``mantissa * 2**exponent``."""


def sum_layout(config: ExpertConfig, tag_bits: int) -> data.StructLayout:
    """An exact sum in units of ``2**(2 * format.low)``; ``special``: it is no number; ``tag`` goes with it."""
    return data.StructLayout({"sum": signed(config.sum_bits), "special": 1, "tag": tag_bits})


def rounded_layout(config: ExpertConfig, tag_bits: int) -> data.StructLayout:
    return data.StructLayout({"value": config.result_format.storage_bits, "tag": tag_bits})


def tagged_pipeline(m: Module, unit: Any, stages: int, *, spare: int = 0) -> tuple[Pipeline, CreditQueue]:
    """A pipeline of ``stages`` registers, 0 or more, from ``unit.i`` to a ``CreditQueue`` in front of ``unit.o``: an item enters when
    it has a place, and its ``tag`` goes along. What else the queue takes is the caller's. ``spare``: places beyond those of the items
    under way.

    Latency: ``stages + CreditQueue.latency`` cycles. Interval: 1 cycle.
    """
    m.submodules.results = results = CreditQueue(unit.o.p.shape(), stages + ROUND_TRIP + spare)
    connect(m, results.o, wiring.flipped(unit.o))
    pipeline = Pipeline(m)
    register = pipeline.register
    accepted = unit.i.valid & unit.i.ready
    m.d.comb += [unit.i.ready.eq(results.credit), results.spend.eq(accepted),
                 results.i.valid.eq(register(accepted, stages, reset=True)),
                 results.i.p.tag.eq(register(unit.i.p.tag, stages))]
    return pipeline, results


class SumRounder(wiring.Component):
    """Rounds exact sums to the result format: nearest, ties to even, subnormals; too large is infinite, ``special`` is NaN.

    ::

        i -> sign, magnitude -> [* scale] -> leading zeros -> shift, shift -> denormalize -> round -> o

    Parameters
    ----------
    config : ExpertConfig
        ``element`` matters.
    tag_bits : int
        Bits that go with a sum, 1 to 32.

    Members
    -------
    i : In(stream of sum_layout)
    o : Out(stream of rounded_layout)
    scale : In({mantissa: 16, exponent: signed(8)})
        Of int8 only: factor of the sums; stands still while sums are inside.

    Latency: ``latency`` cycles. Interval: 1 cycle.
    """

    interval = 1

    def __init__(self, config: ExpertConfig, tag_bits: int = 8):
        check_int("tag_bits", tag_bits, 1, 32)
        self.config, self.tag_bits = config, tag_bits
        self.integers = not config.format.exponent_bits
        self._stages = sum_stages(config)
        self.latency = self._stages + CreditQueue.latency
        super().__init__({
            "i": In(stream.Signature(sum_layout(config, tag_bits))),
            "o": Out(stream.Signature(rounded_layout(config, tag_bits))),
            **({"scale": In(SCALE)} if self.integers else {}),
        })

    @classmethod
    def for_config(cls, config: ExpertConfig) -> "SumRounder":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        pipeline, results = tagged_pipeline(m, self, self._stages)
        scale = self.scale if self.integers else None
        m.d.comb += results.i.p.value.eq(rounded_sum(pipeline, self.i.p.sum, self.i.p.special, self.config, scale))
        return m


def sum_stages(config: ExpertConfig) -> int:
    """Registers of ``rounded_sum``."""
    return 1 + 3 * (not config.format.exponent_bits) + ROUND_STAGES


def rounded_sum(pipeline: Pipeline, total: Value, special: Value, config: ExpertConfig, scale: Any) -> Value:
    """``total * 2**(2 * low)``, of int8 ``total * scale``, as bits of the result format, ``sum_stages`` registers later."""
    register = pipeline.register
    magnitude = register(Mux(total[-1], -total, total)[:config.sum_bits])
    special, negative, unit = register(special), register(total[-1]), Const(2 * config.format.low, signed(8))
    if scale is not None:
        # Two 17-bit halves times 16 bits, then their sum.
        low, high = register(magnitude[:17] * scale.mantissa), register(magnitude[17:] * scale.mantissa)
        magnitude = register(register((high << 17) + low))
        special, negative, unit = register(special, 3), register(negative, 3), scale.exponent
    return round_magnitude(pipeline, magnitude, negative, special, unit, config.result_format)


def round_magnitude(pipeline: Pipeline, magnitude: Value, negative: Value, special: Value, unit: Value, form: Format) -> Value:
    """``magnitude * 2**unit`` with its sign, as bits of ``form``, ``ROUND_STAGES`` registers later; ``special``: ``form.nan``."""
    register = pipeline.register

    # The top bit to the left end.
    width, fraction = 1 << (len(magnitude) - 1).bit_length(), form.fraction_bits
    zeros = register(leading_zeros(Cat(magnitude, Const(0, width - len(magnitude)))))
    magnitude, unit = register(magnitude), register(unit)
    coarse = register((magnitude << Cat(Const(0, 4), zeros[4:]))[:width])
    fine, exponent = register(zeros[:4]), Signal(signed(12))  # exponent field; below 1 for subnormals
    pipeline.m.d.sync += exponent.eq(width - 1 + form.bias + unit - zeros)
    normal, later_exponent = register((coarse << fine)[:width]), register(exponent)

    # Hidden bit, fraction and guard; what lies below is sticky. Subnormals move down.
    kept, sticky = register(normal[width - fraction - 2:]), register(normal[:width - fraction - 2].any())
    is_zero, largest = register(~normal[-1]), max((1 << form.exponent_bits) - 2, 0)
    down = register(Mux(later_exponent >= 1, 0, Mux(later_exponent < -fraction, fraction + 2, 1 - later_exponent))[:4])
    base = register(Mux(later_exponent >= 1, later_exponent - 1, 0)[:max(form.exponent_bits, 1)])
    infinite, is_zero = register(later_exponent > largest), register(is_zero)
    moved = register(kept >> down)
    sticky = register(sticky | (kept & ((1 << down) - 1)[:len(kept)]).any())
    base, infinite = register(base), register(infinite)
    up = moved[0] & (sticky | moved[1])
    bits, size = Signal(form.storage_bits), Signal(form.storage_bits - 1)
    special, negative = register(special, ROUND_STAGES - 1), register(negative, ROUND_STAGES - 1)
    pipeline.m.d.comb += [bits.eq((base << fraction) + moved[1:] + up),
                          size.eq(Mux(is_zero, 0, Mux(infinite | bits[-1], form.infinity, bits)))]
    value = Cat(size, negative & ~is_zero) if form.exponent_bits else Mux(negative, -size, size)[:form.storage_bits]
    return register(Mux(special, form.nan, value))
