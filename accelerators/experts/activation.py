"""Gated activation of the experts: ``SiLU(gate) * up`` in floating point."""

from amaranth.hdl import Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..checks import check_int
from ..numerics.chords import CHORD_STAGES, LOG2E, LOG2E_BITS, POWER_BITS, RECIPROCAL_BITS, U_BITS, power, reciprocal
from ..numerics.pipelined import unsigned_product
from ..pipeline import Pipeline
from ..streams import CreditQueue
from .config import ExpertConfig, Format
from .rounding import ROUND_STAGES, SCALE, round_magnitude, tagged_pipeline

__all__ = ["GatedActivation"]

AT_WHOLE, AT_POWER = 7, 7 + CHORD_STAGES
AT_FACTOR = AT_POWER + 2 + CHORD_STAGES + 4


class GatedActivation(wiring.Component):
    """``round(SiLU(gate) * up)`` with one rounding at the end (Duplex, arXiv:2409.01141, section 5, leaves the approximation open).

    The sigmoid has a small *relative* error also where it is small (``sim/golden/gated.py``)::

        gate -> |gate| * log2(e) -> u -> 2**-u (256 chords) -> t -> 1 / (1 + t) (512 chords) -> r, t * r -.
        gate * up -----------------------------------------------------------------------------------------> * [* scale] -> round -> o

    The result is within 0.51 units in the last place of the exact value in fp16, within 0.501 in bf16; in int8 within 0.501.

    Parameters
    ----------
    config : ExpertConfig
        ``element`` matters.
    tag_bits : int
        Bits that go with a result, 1 to 32.

    Members
    -------
    i : In(stream of {gate, up, tag})
        Bits of ``result_format``, of any size.
    o : Out(stream of {value, special: 1, tag})
        Bits of ``element``: too large ones are infinite, in int8 -127 or 127. ``special``: gate or up is infinite or no number; then
        the value is NaN, in int8 0. An exact 0 is +0.
    scale : In({mantissa: 16, exponent: signed(8)})
        Of int8 only: factor of the results; stands still while some are inside.

    Latency: ``latency`` cycles. Interval: 1 cycle.
    """

    interval = 1

    def __init__(self, config: ExpertConfig, tag_bits: int = 8):
        check_int("tag_bits", tag_bits, 1, 32)
        self.config = config
        self.integers = not config.format.exponent_bits
        self._stages = AT_FACTOR + 3 + 2 * self.integers + ROUND_STAGES
        self.latency = self._stages + CreditQueue.latency + 1  # more than 32 places
        bits = config.result_format.storage_bits
        super().__init__({
            "i": In(stream.Signature(data.StructLayout({"gate": bits, "up": bits, "tag": tag_bits}))),
            "o": Out(stream.Signature(data.StructLayout({"value": config.format.storage_bits, "special": 1, "tag": tag_bits}))),
            **({"scale": In(SCALE)} if self.integers else {}),
        })

    @classmethod
    def for_config(cls, config: ExpertConfig) -> "GatedActivation":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        form = self.config.result_format
        pipeline, results = tagged_pipeline(m, self, self._stages, spare=1)
        register = pipeline.register

        s, e, negative, special = self._parts(pipeline, self.i.p.gate, form)  # 1 register
        s_up, e_up, negative_up, special_up = self._parts(pipeline, self.i.p.up, form)
        special, sign = register(special | special_up), register(negative ^ negative_up)
        product, exponent = register(s * s_up), register(e + e_up - RECIPROCAL_BITS)
        whole, mantissa = self._exponential(m, pipeline, s, e, form)  # AT_WHOLE, AT_POWER
        whole_later = register(whole, AT_POWER - AT_WHOLE)

        # 1 / (1 + t), then the sigmoid with its exponent.
        far = register(Mux(whole_later > POWER_BITS, POWER_BITS + 1, whole_later)[:(POWER_BITS + 1).bit_length()])
        t = register(Mux(far == 0, (1 << POWER_BITS) - 1, register(mantissa) >> far)[:POWER_BITS])
        r = reciprocal(m, pipeline, t)
        small, _ = unsigned_product(pipeline, register(mantissa, 2 + CHORD_STAGES), r)  # 3 registers
        negative = register(negative, AT_FACTOR - 2)
        factor = register(Mux(negative, small[POWER_BITS:], register(r, 3)))
        below = register(Mux(negative, register(whole_later, AT_FACTOR - 1 - AT_POWER), 0))

        magnitude, stages = unsigned_product(pipeline, register(product, AT_FACTOR - 2), factor)
        magnitude = register(magnitude, 3 - stages)  # narrow ones are done earlier
        unit = register(register(exponent, AT_FACTOR - 2) - below, 3)
        special, sign = register(special, AT_FACTOR + 1), register(sign, AT_FACTOR + 1)
        if self.integers:
            magnitude = pipeline.multiply(magnitude, self.scale.mantissa)
            special, sign, unit = register(special, 2), register(sign, 2), register(register(unit) + self.scale.exponent)
        m.d.comb += [results.i.p.value.eq(round_magnitude(pipeline, magnitude, sign, special, unit, self.config.format)),
                     results.i.p.special.eq(register(special, ROUND_STAGES))]
        return m

    def _parts(self, pipeline: Pipeline, bits: Value, form: Format) -> tuple[Value, Value, Value, Value]:
        """``(s, e, negative, special)``, one register later: the magnitude is ``s * 2**e``."""
        register = pipeline.register
        fraction, exponent = bits[:form.fraction_bits], bits[form.fraction_bits:-1]
        s = Signal(form.fraction_bits + 1, reset_less=True, name="significand")
        pipeline.m.d.sync += [s[:-1].eq(fraction), s[-1].eq(exponent.any())]
        return (s, register(Mux(exponent.any(), exponent, 1) - (form.bias + form.fraction_bits)), register(bits[-1]),
                register(exponent.all()))

    def _exponential(self, m: Module, pipeline: Pipeline, s: Value, e: Value, form: Format) -> tuple[Value, Value]:
        """``exp(-s * 2**e)`` is ``2**-whole * power``: ``whole`` 6 registers later, ``power`` ``CHORD_STAGES`` more."""
        register = pipeline.register
        whole_bits = form.exponent_bits + 1
        product = pipeline.multiply(Const(LOG2E), s)
        right = LOG2E_BITS - U_BITS - e
        large = register(register(e > whole_bits - form.fraction_bits), 3)
        right = register(register(Mux(right >= 63, 63, right)[:6]))
        coarse = register(product >> (right & 0x38))
        fine = register(coarse >> register(right[:3]))
        bits = U_BITS + whole_bits
        u = register(Mux(large | fine[bits:].any(), -1, fine)[:bits])
        return power(m, pipeline, u)
