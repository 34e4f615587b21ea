"""Numbers of a merge of two records: factors of their elements, what sums are quantized by, new scales."""

from enum import IntEnum

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data

from ..config import POSITION_BITS, AcceleratorConfig
from ..numerics import SCALAR, Divider
from ..numerics.formats import MANTISSA_BITS
from ..numerics.normalizer import leading_zeros
from ..numerics.pipelined import left_justify, unsigned_product
from ..pipeline import Pipeline
from ..streams import StreamBuffer, connect

__all__ = ["QUANTIZE_SHIFT", "MergeNumbers", "merge_command"]

LEVEL_BITS = 7
"""Quantized elements reach 127, which is ``2**7 - 1``."""

FACTOR_BITS, RECIPROCAL_DROP = 16, 14
MULTIPLIER_BITS = LEVEL_BITS + MANTISSA_BITS - RECIPROCAL_DROP

NORMAL_BITS = POSITION_BITS + FACTOR_BITS
"""Of what is normalized: tokens times the mantissa of a scale, an integer, the upper bits of a product of mantissas."""

STAGES = 8
"""Registers from operands to a normalized product."""

NUMERATOR_BITS = 2 * MANTISSA_BITS

QUANTIZE_SHIFT = NUMERATOR_BITS - 1 - RECIPROCAL_DROP
"""Sums go left before the product so that what follows is a right shift by this."""


class Number(IntEnum):
    """What is normalized: 127 times the tokens of both; tokens times scale of either; the largest sum; this over TOTAL."""

    NONE = 0
    TOTAL = 1
    CANDIDATE = 2
    KEPT = 3
    PEAK = 4
    SCALE = 5


def merge_command() -> data.StructLayout:
    """Whether the candidate is merged (else it is dropped), and the tokens that either record stands for, at least 1."""
    return data.StructLayout({"merges": 1, "kept": POSITION_BITS, "candidate": POSITION_BITS})


class MergeNumbers:
    """Of the merge that runs, and of the next one what does not depend on its elements. The formulas: ``RecordMerge``.

    ::

        operands --> product --> normalized --.-> CANDIDATE, KEPT: exponent -> distances -> factors of the next merge
                                              |-> TOTAL, PEAK: Divider --> inverse of the next merge; multiplier, shift
                                              '-> SCALE --> scales

    Parameters
    ----------
    m : Module
        That of the component.
    config : AcceleratorConfig
        ``multiplier_bits`` matters.
    command : merge_command
        Of the next merge, in the cycle of ``prepares``.
    headers : list of HEADER
        Of the next merge: the candidate's, from the cycle behind ``prepares`` on, that of the record kept with ``known``.
    scales : stream of {scale}
        Takes the new scales, of key and value.

    Members
    -------
    prepares, known, begins : Signal
        Driven: the next merge is to be prepared; the header of the record kept is there; the merge begins.
    peak, value, peak_ends : Signal
        Driven: largest magnitude of a vector's sums (V's, or K's), in the cycle of ``peak_ends``.
    prepared : Signal
        The next merge can begin, but for its elements, and those before it.
    factors : list of lists of Signal
        Of key and value: the candidate's, and that of the record kept.
    multipliers, shifts, ready : list of Signal
        Of key and value, from ``ready`` on; that is also where no merge runs.
    scaled : Signal
        All scales of merges that have begun were taken.
    """

    def __init__(self, m: Module, config: AcceleratorConfig, command, headers: list, scales):
        def vectors(name: str, shape) -> list:
            return [Signal(shape, name=f"{vector}_{name}") for vector in ("key", "value")]

        self._m, self._register = m, Pipeline(m).register
        self.prepares, self.known, self.begins = Signal(), Signal(), Signal()
        self.peak, self.value, self.peak_ends = Signal(MANTISSA_BITS), Signal(), Signal()
        pairs = vectors("candidate_factor", FACTOR_BITS), vectors("kept_factor", FACTOR_BITS)
        self.factors = [list(pair) for pair in zip(*pairs, strict=True)]
        self.multipliers, self.shifts = vectors("multiplier", MULTIPLIER_BITS), vectors("shift", 5)
        self.ready = [Signal(init=1, name=f"{vector}_ready") for vector in ("key", "value")]
        self.prepared, self.scaled = Signal(), Signal()
        self._peaks, self._unscaled, exponents = vectors("peak", SCALAR), vectors("unscaled", 1), vectors("exponent", signed(16))
        self._inverse = Signal(SCALAR)

        self._normalize(command, headers, config.multiplier_bits)
        factors, next_exponents, made = self._next_factors(headers)
        inverse, divided = self._reciprocals()
        self._scale(exponents, scales)
        m.d.comb += self.prepared.eq(made & divided)
        with m.If(self.begins):
            m.d.sync += [
                self._inverse.eq(inverse), made.eq(0), divided.eq(0), *(ready.eq(0) for ready in self.ready),
                *(mine.eq(new + inverse.exponent) for mine, new in zip(exponents, next_exponents, strict=True)),
                *(mine.eq(new) for pair in zip(self.factors, factors, strict=True) for mine, new in zip(*pair, strict=True)),
            ]

    def _normalize(self, offered, headers: list, multiplier_bits: int) -> None:
        """A product in a cycle, of the merge that runs first; ``STAGES`` later ``_kind`` and ``_of_value``, what it is, and
        ``_mantissa``, ``_length``: its upper bits, the top one set but for 0, and the bits of the integer."""
        m, register = self._m, self._register
        number, factor = Signal(POSITION_BITS + LEVEL_BITS), Signal(MANTISSA_BITS)
        kind, of_value = Signal(Number), Signal()
        command, both, item = Signal(merge_command()), Signal(POSITION_BITS), Signal(range(6), init=5)
        kept = item > 2  # TOTAL, CANDIDATE of key and value, KEPT of both
        header = Mux(kept, headers[1].as_value(), headers[0].as_value())
        with m.If(self.peak_ends):
            m.d.comb += [kind.eq(Number.PEAK), of_value.eq(self.value), number.eq(self.peak), factor.eq(1)]
        with m.Elif(Cat(self._unscaled).any()):
            second = ~self._unscaled[0]
            m.d.comb += [kind.eq(Number.SCALE), of_value.eq(second), factor.eq(self._inverse.mantissa),
                         number.eq(Mux(second, self._peaks[1].mantissa, self._peaks[0].mantissa))]
            m.d.sync += [self._unscaled[0].eq(0), self._unscaled[1].eq(self._unscaled[1] & ~second)]
        with m.Elif(item == 0):
            m.d.comb += [kind.eq(Number.TOTAL), number.eq((both << LEVEL_BITS) - both), factor.eq(1)]
            m.d.sync += item.eq(1)
        with m.Elif((item < 3) | ((item < 5) & self.known)):
            m.d.comb += [kind.eq(Mux(kept, Number.KEPT, Number.CANDIDATE)), of_value.eq(~item[0]),
                         number.eq(Mux(kept, command.kept, command.candidate)), factor.eq(Mux(of_value, header[32:48], header[:16]))]
            m.d.sync += item.eq(item + 1)
        with m.If(self.prepares):
            m.d.sync += [item.eq(0), command.eq(offered), both.eq(offered.kept + offered.candidate)]

        operands = register(number), register(factor)
        product, stages = unsigned_product(Pipeline(m), *operands, multiplier_bits)
        assert stages + 5 == STAGES
        upper = register(kind, 1 + stages) == Number.SCALE
        normal = register(Mux(upper, product[NUMERATOR_BITS - NORMAL_BITS:NUMERATOR_BITS], product[:NORMAL_BITS]))
        padding = Const(0, (1 << (NORMAL_BITS - 1).bit_length()) - NORMAL_BITS)
        zeros = register(leading_zeros(Cat(padding, normal)))
        self._mantissa = left_justify(Pipeline(m), register(normal), zeros, MANTISSA_BITS)
        self._length = register(NORMAL_BITS - zeros, 2)
        self._kind, self._early_value = register(kind, STAGES, reset=True), register(of_value, STAGES - 1)
        self._of_value = register(self._early_value)

    def _next_factors(self, headers: list) -> tuple[list, list, Signal]:
        """``factors`` and exponents of the next merge, and whether they are made."""
        m, register = self._m, self._register
        part = data.StructLayout({"mantissa": FACTOR_BITS, "exponent": signed(16)})
        candidates = [Signal(part, name=f"{vector}_candidate_part") for vector in ("key", "value")]
        factors = [[Signal(FACTOR_BITS, name=f"next_{vector}_{name}") for name in ("candidate", "kept")] for vector in ("key", "value")]
        exponents, made = [Signal(signed(16), name=f"next_{vector}_exponent") for vector in ("key", "value")], Signal()
        is_kept, value = self._kind == Number.KEPT, self._of_value
        header = Mux(is_kept, headers[1].as_value(), headers[0].as_value())
        mantissa = self._mantissa[MANTISSA_BITS - FACTOR_BITS:]
        exponent = Mux(value, header[48:], header[16:32]).as_signed() + self._length - MANTISSA_BITS
        for number in range(2):
            with m.If((self._kind == Number.CANDIDATE) & (value == number)):
                m.d.sync += [candidates[number].mantissa.eq(mantissa), candidates[number].exponent.eq(exponent)]

        # The larger exponent, how far the other one is below it, what is left of the other one.
        mine = [register(Mux(value, *(candidate[name] for candidate in reversed(candidates)))) for name in ("mantissa", "exponent")]
        mine[1] = mine[1].as_signed()
        theirs = [register(mantissa), register(exponent[:16].as_signed())]
        keeps = ~mine[0].any() | (theirs[0].any() & (theirs[1] > mine[1]))
        larger = register(Mux(keeps, theirs[1], mine[1]))
        moved = []
        for mantissa, exponent in (mine, theirs):
            away = (larger - register(exponent))[:17].as_signed()
            distance = register(Mux(away > FACTOR_BITS, FACTOR_BITS, away)[:5])
            moved.append(register(mantissa, 2) >> distance)
        larger, ends, value = register(larger), register(is_kept, 3, reset=True), register(value, 3)
        for number in range(2):
            with m.If(ends & (value == number)):
                m.d.sync += [*(factor.eq(each) for factor, each in zip(factors[number], moved, strict=True)),
                             exponents[number].eq(larger)]
        with m.If(ends & value):
            m.d.sync += made.eq(1)
        return factors, exponents, made

    def _reciprocals(self) -> tuple[Signal, Signal]:
        """Multipliers and shifts from peaks; of the next merge the inverse of its total, and whether that is there."""
        m = self._m
        total, inverse, divided = Signal(SCALAR), Signal(SCALAR), Signal()
        m.submodules.divider = divider = Divider(NUMERATOR_BITS, MANTISSA_BITS, MANTISSA_BITS + 1, bits_per_cycle=2)
        numbers, waiting = [*self._peaks, total], Signal(3)
        chosen, raw = Signal(range(3)), Signal(MANTISSA_BITS + 1)
        # The next total waits until both peaks of the merge that runs have been divided: else that one might wait for it.
        due = Cat(waiting[:2], waiting[2] & self.ready[0] & self.ready[1])
        first = Mux(waiting[0], self._peaks[0].mantissa, self._peaks[1].mantissa)
        m.d.comb += [divider.i.p.numerator.eq(1 << NUMERATOR_BITS - 1),
                     divider.i.p.denominator.eq(Mux(waiting[:2].any(), first, total.mantissa))]
        with m.FSM(name="division"):
            with m.State("WAIT"):
                m.d.comb += divider.i.valid.eq(due.any())
                m.d.sync += [waiting.eq(waiting & ~(due & -due)[:3]), chosen.eq(Mux(due[0], 0, Mux(due[1], 1, 2)))]
                with m.If(due.any()):
                    m.next = "DIVIDE"
            with m.State("DIVIDE"):
                m.d.comb += divider.o.ready.eq(1)
                m.d.sync += raw.eq(divider.o.p.quotient)
                with m.If(divider.o.valid):
                    m.next = "QUOTIENT"
            with m.State("QUOTIENT"):
                mantissa = Mux(raw[-1], raw[1:], raw[:-1])
                for number in range(2):
                    with m.If(chosen == number):
                        peak, multiplier = self._peaks[number], ((mantissa << LEVEL_BITS) - mantissa) >> RECIPROCAL_DROP
                        m.d.sync += [self.multipliers[number].eq(Mux(peak.mantissa[-1], multiplier, 0)),  # else all elements are 0
                                     self.shifts[number].eq(raw[-1] - peak.exponent), self.ready[number].eq(1)]
                with m.If(chosen == 2):
                    m.d.sync += [inverse.mantissa.eq(mantissa), inverse.exponent.eq(raw[-1] - total.exponent - (NUMERATOR_BITS - 1)),
                                 divided.eq(1)]
                m.next = "WAIT"
        for number, kind in ((0, Number.PEAK), (1, Number.PEAK), (2, Number.TOTAL)):
            with m.If((self._kind == kind) & ((number == 2) | (self._of_value == number))):
                m.d.sync += [numbers[number].mantissa.eq(self._mantissa), numbers[number].exponent.eq(self._length - MANTISSA_BITS),
                             waiting[number].eq(1)]
                if number < 2:
                    m.d.sync += self._unscaled[number].eq(1)
        return inverse, divided

    def _scale(self, exponents: list, scales) -> None:
        """New scales, from ``e`` and the exponent of the inverse."""
        m = self._m
        m.submodules.scales = made = StreamBuffer(scales.p.shape())
        connect(m, made.o, scales)
        base = self._register(Mux(self._early_value, *(
            peak.exponent + exponent for peak, exponent in zip(reversed(self._peaks), reversed(exponents), strict=True))))
        lost = NUMERATOR_BITS - NORMAL_BITS - FACTOR_BITS  # bits of the product below; of both mantissas above a factor's
        m.d.comb += [made.i.valid.eq(self._kind == Number.SCALE), made.i.p.scale.mantissa.eq(self._mantissa),
                     made.i.p.scale.exponent.eq(base + self._length + lost)]
        due = Signal(range(3))
        m.d.sync += due.eq(Mux(self.begins, 2, due - (scales.valid & scales.ready)))
        m.d.comb += self.scaled.eq(due == 0)
