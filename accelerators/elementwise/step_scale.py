"""Real value of one step of a quantized vector: a short program for the pseudo-float unit."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig
from ..numerics import SCALAR, Normalizer, ScalarOp, ScalarUnit
from ..streams import StreamBuffer, connect

__all__ = ["StepScale", "quantize_command", "scale_layout", "square_sum_bits"]

LEVEL_BITS = (7, 15)
"""127 and 32767 are ``2**n - 1``, so ``1 / (2**n - 1) = 2**-n * (1 + 2**-n) * (1 + 2**-2n) * ...``. To the nearest 24 bits
that is both factors for n = 7 and the first one for n = 15: two additions instead of a product."""


def quantize_command() -> data.StructLayout:
    """How to quantize a vector.

    scale : real value of one unit of x. gain_exponent : the real gain is ``gain * 2**gain_exponent``.
    norm : divide by the root of the mean square. wide : 16-bit results instead of 8-bit ones.
    once : the vector, of at most ``max_head_dim`` elements, is sent only once; ``norm`` is then ignored.
    inverse_length : 1 / (elements without padding). epsilon : added to the mean square.
    """
    return data.StructLayout({"scale": SCALAR, "gain_exponent": signed(8), "norm": 1, "wide": 1,
                              "once": 1, "inverse_length": SCALAR, "epsilon": SCALAR})


def scale_layout() -> data.StructLayout:
    """Real value of one step of a quantized vector."""
    return data.StructLayout({"scale": SCALAR})


def square_sum_bits(config: AcceleratorConfig) -> int:
    """Width of a sum of ``max_vector`` squares of at most ``2**32``."""
    return (config.max_vector << 32).bit_length()


class StepScale(wiring.Component):
    """Scale of a quantized vector from its largest product and, with ``norm``, its sum of squares.

    ``step = peak * scale * (1 / levels)``, with ``norm`` times ``rsqrt(squares * 2**(2 * halvings) *
    inverse_length * scale * scale + epsilon)``, then times ``2**gain_exponent``; from left to right,
    truncated each time.

    Parameters
    ----------
    config : AcceleratorConfig
        ``max_vector`` sets the width of the sum of squares.

    Members
    -------
    i : In(stream of {command: quantize_command, peak: SCALAR})
        Taken when no vector is under way. ``once`` of the command does not matter.
    i_squares : In(stream of {squares, halvings: 0..16})
        One for each command with ``norm``.
    o : Out(stream of {scale: SCALAR})

    Latency (a dictionary): 15 cycles ``plain``, 109 with ``norm`` if the squares are there. Interval: as many.
    """

    def __init__(self, config: AcceleratorConfig):
        self.bits = square_sum_bits(config)
        multiply, rsqrt, add = (ScalarUnit.latency[op] + 1 for op in ("multiply", "rsqrt", "add"))
        plain = multiply + 5
        normed = plain + 4 * multiply + rsqrt + add + Normalizer.latency + 1
        self.latency = {"plain": plain, "norm": normed}
        self.interval = self.latency
        super().__init__({
            "i": In(stream.Signature(data.StructLayout({"command": quantize_command(), "peak": SCALAR}))),
            "i_squares": In(stream.Signature(data.StructLayout({
                "squares": self.bits, "halvings": range(17)}))),
            "o": Out(stream.Signature(scale_layout())),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "StepScale":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        m.submodules.unit = unit = ScalarUnit()
        m.submodules.normalizer = normalizer = Normalizer(self.bits)
        m.submodules.buffer = buffer = StreamBuffer(self.o.p.shape())
        connect(m, buffer.o, wiring.flipped(self.o))
        command = Signal(quantize_command())
        step, mean = Signal(SCALAR), Signal(SCALAR)
        halvings = Signal(range(17))

        # The product with 1 / levels: 2**23 times the mantissa of the step, plus fractions of itself.
        size = len(step.mantissa)
        quotient = Signal(2 * size)
        whole = Cat(Const(0, size - 1), step.mantissa)
        narrow_bits, wide_bits = LEVEL_BITS

        scale = command.scale
        program = (
            (ScalarOp.MULTIPLY, step, scale, step),
            (ScalarOp.MULTIPLY, mean, command.inverse_length, mean),
            (ScalarOp.MULTIPLY, mean, scale, mean),
            (ScalarOp.MULTIPLY, mean, scale, mean),
            (ScalarOp.ADD, mean, command.epsilon, mean),
            (ScalarOp.RSQRT, mean, mean, mean),
            (ScalarOp.MULTIPLY, step, mean, step),
        )
        counter = Signal(range(len(program)))
        with m.Switch(counter):
            for number, (op, a, b, _) in enumerate(program):
                with m.Case(number):
                    m.d.comb += [unit.i.p.op.eq(op), unit.i.p.a.eq(a), unit.i.p.b.eq(b)]

        m.d.comb += normalizer.o.ready.eq(1)
        with m.FSM():
            with m.State("COMMAND"):
                m.d.comb += self.i.ready.eq(1)
                m.d.sync += [command.eq(self.i.p.command), step.eq(self.i.p.peak), counter.eq(0)]
                with m.If(self.i.valid):
                    m.next = "ISSUE"
            with m.State("ISSUE"):
                m.d.comb += unit.i.valid.eq(1)
                with m.If(unit.i.ready):
                    m.next = "STORE"
            with m.State("STORE"):
                m.d.comb += unit.o.ready.eq(1)
                with m.If(unit.o.valid):
                    m.d.sync += counter.eq(counter + 1)
                    m.next = "ISSUE"
                    with m.Switch(counter):
                        for number, (_, _, _, destination) in enumerate(program):
                            with m.Case(number):
                                m.d.sync += destination.eq(unit.o.p)
                                if number == 0:
                                    m.next = "FIRST_FACTOR"
                                if number == 1:
                                    # The exponent of a zero does not matter: the next product is (0, 0).
                                    m.d.sync += mean.exponent.eq(unit.o.p.exponent + (halvings << 1))
                                if number == len(program) - 1:
                                    m.next = "SCALE"
            with m.State("FIRST_FACTOR"):
                m.d.sync += quotient.eq(whole + Mux(command.wide, whole >> wide_bits, whole >> narrow_bits))
                m.next = "SECOND_FACTOR"
            with m.State("SECOND_FACTOR"):
                with m.If(~command.wide):
                    m.d.sync += quotient.eq(quotient + (quotient >> 2 * narrow_bits))
                m.next = "QUOTIENT"
            with m.State("QUOTIENT"):
                m.d.sync += [
                    step.mantissa.eq(Mux(quotient[-1], quotient[size:], quotient[size - 1:])),
                    step.exponent.eq(step.exponent - Mux(command.wide, wide_bits, narrow_bits) + quotient[-1]),
                ]
                m.next = "SCALE"
                with m.If(command.norm):
                    m.next = "SQUARES"
            with m.State("SQUARES"):
                m.d.comb += [
                    normalizer.i.valid.eq(self.i_squares.valid),
                    normalizer.i.p.value.eq(self.i_squares.p.squares),
                    self.i_squares.ready.eq(1),  # the normalizer is empty
                ]
                m.d.sync += halvings.eq(self.i_squares.p.halvings)
                with m.If(self.i_squares.valid):
                    m.next = "NORMALIZE"
            with m.State("NORMALIZE"):
                m.d.sync += [
                    mean.mantissa.eq(normalizer.o.p.value[-len(mean.mantissa):]),
                    mean.exponent.eq(normalizer.o.p.length - len(mean.mantissa)),
                ]
                with m.If(normalizer.o.valid):
                    m.next = "ISSUE"
            with m.State("SCALE"):
                m.d.comb += [
                    buffer.i.valid.eq(1),
                    buffer.i.p.scale.mantissa.eq(step.mantissa),
                    buffer.i.p.scale.exponent.eq(Mux(step.mantissa == 0, 0,
                                                     step.exponent + command.gain_exponent)),
                ]
                with m.If(buffer.i.ready):
                    m.next = "COMMAND"
        return m
