"""Weighted combine: results of an expert, times the token's weight, are added to what other experts gave."""

from dataclasses import replace

from amaranth.hdl import Const, Module, Mux
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..checks import check_int
from ..streams import CreditQueue
from .config import ExpertConfig
from .gemm import elements, exact_product
from .rounding import ROUND_STAGES, round_magnitude, rounded_layout, tagged_pipeline

__all__ = ["Combine"]

PRODUCT_STAGES = 5


class Combine(wiring.Component):
    """``old + weight * value``, rounded once to the result format: the reduction at the end of Duplex's co-processing
    (arXiv:2409.01141, section 6), with experts in a fixed order.

    Elements are integers in units of ``2**format.low`` (``sim/golden/floats.py``, ``multiply_add``)::

        weight, value -> integers -> * -.
        old, 1 -------> integers -> * -+-> sum -> magnitude -> round -> o

    Parameters
    ----------
    config : ExpertConfig
        ``element`` matters; all numbers are of its ``result_format``.
    tag_bits : int
        Bits that go with a sum, 1 to 32.

    Members
    -------
    i : In(stream of {value, weight, old, tag})
        Bits of ``result_format``.
    o : Out(stream of {value, tag})
        NaN if one of the three is special: infinite, no number, or from 2**16 on in bf16. A sum of 0 is +0. bf16 loses what lies below
        ``2**-32`` in each of the three.

    Latency: 15 cycles. Interval: 1 cycle.
    """

    _stages = PRODUCT_STAGES + 2 + ROUND_STAGES
    latency = _stages + CreditQueue.latency
    interval = 1

    def __init__(self, config: ExpertConfig, tag_bits: int = 8):
        check_int("tag_bits", tag_bits, 1, 32)
        self.config = replace(config, element="fp16") if config.element == "int8" else config
        bits = config.result_format.storage_bits
        super().__init__({
            "i": In(stream.Signature(data.StructLayout({"value": bits, "weight": bits, "old": bits, "tag": tag_bits}))),
            "o": Out(stream.Signature(rounded_layout(config, tag_bits))),
        })

    @classmethod
    def for_config(cls, config: ExpertConfig) -> "Combine":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        form = self.config.format
        pipeline, results = tagged_pipeline(m, self, self._stages)
        register = pipeline.register

        ((value,), (weight,), (old,)) = (elements(pipeline, each, form) for each in (self.i.p.value, self.i.p.weight, self.i.p.old))
        one = Const(1), Const(0), Const(-form.low), Const(0)
        (product, special), (kept, special_old) = exact_product(pipeline, weight, value, self.config), exact_product(
            pipeline, old, one, self.config)
        total = register(product + kept)
        special, negative = register(special | special_old, PRODUCT_STAGES - 1), register(total[-1])
        magnitude = register(Mux(total[-1], -total, total)[:len(total) - 1])
        m.d.comb += results.i.p.value.eq(round_magnitude(pipeline, magnitude, negative, special, Const(2 * form.low), form))
        return m
