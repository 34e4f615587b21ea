"""Arithmetic of pseudo-floats, one operation at a time."""

from enum import IntEnum

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig
from .divider import Divider
from .formats import MANTISSA_BITS, SCALAR
from .root import SquareRoot

__all__ = ["ScalarOp", "ScalarUnit", "scalar_request"]

LIMB = MANTISSA_BITS // 2


class ScalarOp(IntEnum):
    """Operations of ``ScalarUnit``."""

    MULTIPLY = 0
    ADD = 1
    RECIPROCAL = 2
    RSQRT = 3


def scalar_request() -> data.StructLayout:
    """One operation: ``op`` is a ``ScalarOp``; ``b`` does not matter for RECIPROCAL and RSQRT."""
    return data.StructLayout({"op": 2, "a": SCALAR, "b": SCALAR})


class ScalarUnit(wiring.Component):
    """``a * b``, ``a + b``, ``1 / a`` and ``1 / sqrt(a)`` of pseudo-floats, truncated.

    Small rather than fast: one 12 x 12 multiplier used four times, one divider, one square root. Operands are
    normalized (top bit of the mantissa set) or zero (0, 0), and so is the result; ``1 / 0`` is 0. The
    exponent wraps when it leaves 16 bits, which no legal model comes near.

    Parameters
    ----------
    none

    Members
    -------
    i : In(stream of scalar_request)
    o : Out(stream of SCALAR)

    Latency (a dictionary, by lower-case operation name): multiply 9, add 6, reciprocal 17, rsqrt 43 cycles.
    Interval: one cycle more.
    """

    latency = {"multiply": 9, "add": 6, "reciprocal": 17, "rsqrt": 43}
    interval = {name: cycles + 1 for name, cycles in latency.items()}

    def __init__(self) -> None:
        super().__init__({
            "i": In(stream.Signature(scalar_request())),
            "o": Out(stream.Signature(SCALAR)),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "ScalarUnit":
        return cls()

    def elaborate(self, platform):
        m = Module()
        m.submodules.divider = divider = Divider(2 * MANTISSA_BITS, MANTISSA_BITS, MANTISSA_BITS + 1,
                                                       bits_per_cycle=2)
        m.submodules.square_root = square_root = SquareRoot(MANTISSA_BITS)
        a, b, op = Signal(SCALAR), Signal(SCALAR), Signal(2)
        exponent = Signal(signed(16))
        # Raw result: 25 bits of which one of the upper two is set (or zero); the lower one counts 2**exponent
        # times 2**-1 when the upper one is set.
        raw = Signal(MANTISSA_BITS + 1)

        # Four partial products, lowest first, each two registers after its ``step``.
        step = Signal(range(6))
        left, right, partial = (Signal(bits, reset_less=True, name=name) for name, bits in (
            ("left", LIMB), ("right", LIMB), ("partial", 2 * LIMB)))
        total = Signal(4 * LIMB)
        m.d.sync += [
            left.eq(a.mantissa.word_select(step[1], LIMB)),
            right.eq(b.mantissa.word_select(step[0], LIMB)),
            partial.eq(left * right),
        ]

        # Sum: the operand with the smaller exponent goes right.
        gap, distance = Signal(signed(17)), Signal(5)
        m.d.sync += gap.eq(a.exponent - b.exponent)

        m.d.comb += [
            divider.i.p.numerator.eq(1 << (2 * MANTISSA_BITS - 1)),
            divider.i.p.denominator.eq(a.mantissa),
            square_root.i.p.radicand.eq(Mux(a.exponent[0], Cat(Const(0, MANTISSA_BITS - 1), a.mantissa),
                                     Cat(Const(0, MANTISSA_BITS), a.mantissa))),
        ]
        with m.FSM():
            with m.State("REQUEST"):
                m.d.comb += self.i.ready.eq(1)
                m.d.sync += [a.eq(self.i.p.a), b.eq(self.i.p.b), op.eq(self.i.p.op), step.eq(0)]
                with m.If(self.i.valid), m.Switch(self.i.p.op):
                    with m.Case(ScalarOp.MULTIPLY):
                        m.next = "MULTIPLY"
                    with m.Case(ScalarOp.ADD):
                        m.next = "GAP"
                    with m.Case(ScalarOp.RECIPROCAL):
                        m.next = "DIVIDE"
                    with m.Default():
                        m.next = "ROOT"
            with m.State("MULTIPLY"):
                m.d.sync += [step.eq(step + 1), exponent.eq(a.exponent + b.exponent + (MANTISSA_BITS - 1))]
                with m.Switch(step):
                    with m.Case(2):
                        m.d.sync += total.eq(partial)
                    with m.Case(3, 4):
                        m.d.sync += total.eq(total + (partial << LIMB))
                    with m.Case(5):
                        m.d.sync += total.eq(total + (partial << 2 * LIMB))
                        m.next = "PRODUCT"
            with m.State("PRODUCT"):
                m.d.sync += raw.eq(total[MANTISSA_BITS - 1:])
                m.next = "RESULT"
            with m.State("GAP"):
                m.next = "COMPARE"
            with m.State("COMPARE"):
                size = Mux(gap < 0, -gap, gap)
                far = (size > MANTISSA_BITS) | (a.mantissa == 0) | (b.mantissa == 0)
                m.d.sync += distance.eq(Mux(far, MANTISSA_BITS, size))
                with m.If((b.mantissa != 0) & ((gap < 0) | (a.mantissa == 0))):
                    m.d.sync += [a.eq(b), b.eq(a)]
                m.next = "ALIGN"
            with m.State("ALIGN"):
                m.d.sync += b.mantissa.eq(b.mantissa >> distance)
                m.next = "SUM"
            with m.State("SUM"):
                m.d.sync += [raw.eq(a.mantissa + b.mantissa), exponent.eq(a.exponent)]
                m.next = "RESULT"
            with m.State("ROOT"):
                m.d.comb += square_root.i.valid.eq(1)
                with m.If(square_root.i.ready):
                    m.next = "ROOT_WAIT"
            with m.State("ROOT_WAIT"):
                m.d.comb += square_root.o.ready.eq(1)
                m.d.sync += a.mantissa.eq(square_root.o.p.root)
                with m.If(square_root.o.valid):
                    # The radicand was even in its exponent: halve that.
                    m.d.sync += a.exponent.eq((a.exponent - MANTISSA_BITS + a.exponent[0]) >> 1)
                    m.next = "DIVIDE"
            with m.State("DIVIDE"):
                m.d.comb += divider.i.valid.eq(1)
                m.d.sync += exponent.eq(-a.exponent - (2 * MANTISSA_BITS - 1))
                with m.If(divider.i.ready):
                    m.next = "DIVIDE_WAIT"
            with m.State("DIVIDE_WAIT"):
                m.d.comb += divider.o.ready.eq(1)
                m.d.sync += raw.eq(Mux(a.mantissa == 0, 0, divider.o.p.quotient))
                with m.If(divider.o.valid):
                    m.next = "RESULT"
            with m.State("RESULT"):
                with m.If(raw[-1]):
                    m.d.sync += [self.o.p.mantissa.eq(raw[1:]), self.o.p.exponent.eq(exponent + 1)]
                with m.Else():
                    m.d.sync += [self.o.p.mantissa.eq(raw), self.o.p.exponent.eq(Mux(raw == 0, 0, exponent))]
                m.d.sync += self.o.valid.eq(1)
                m.next = "TAKEN"
            with m.State("TAKEN"), m.If(self.o.ready):
                m.d.sync += self.o.valid.eq(0)
                m.next = "REQUEST"
        return m
