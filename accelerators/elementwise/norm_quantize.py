"""RMSNorm, gain and quantization in one unit: every vector passes twice."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig
from ..numerics import Divider, Normalizer
from ..numerics.pipelined import left_justify, magnitude, maximum, round_shift, unsigned_product
from ..pipeline import Pipeline
from ..streams import StreamBuffer, connect
from .step_scale import StepScale, quantize_command, scale_layout, square_sum_bits

__all__ = ["NormQuantize"]

PRODUCT_BITS = 47  # |x| <= 2**31 times |gain| <= 2**15
SIGNIFICANT_BITS = 24
RECIPROCAL_BITS = 26
LEVELS = (127, 32767)
RECIPROCAL_SHIFT = (42, 34)  # levels << shift has 49 bits in both cases
DEPTH = 10  # registers from a word to its q


class NormQuantize(wiring.Component):
    """``q = round(levels * x * gain / max|x * gain|)`` and the real value of one step of q.

    After a norm the scale of the vector cancels, so the norm only enters the step. The first pass finds the
    largest product, a divider its reciprocal; the second pass quantizes and sums the squares for the norm::

        i -> |x| * |gain| -+-> largest -> Normalizer -> Divider -----.            (1st pass)
                           '-> left-justify to 24 bits -> * 1/largest -> round -> o   (2nd pass)
        i -> x >> halvings -> square -> sum -> StepScale -> o_scale                  (2nd pass)

    Parameters
    ----------
    config : AcceleratorConfig
        ``vector_lanes`` (V) and ``max_vector`` matter.

    Members
    -------
    i : In(stream of {x: V x signed(32), gain: V x signed(16), last})
        Every vector twice, ``last`` at the end of each pass; both passes the same. One word or more, at most
        ``max_vector`` elements, padded with zeros.
    i_command : In(stream of quantize_command)
        ``{scale, gain_exponent, norm, wide, inverse_length, epsilon}``, one per vector. The first pass does
        not need it.
    o : Out(stream of {q: V x signed(16), last})
        ``|q|`` at most 127, or 32767 if ``wide``. With n and m the product and the largest one, truncated
        to the latter's upper 24 bits: ``round(n * ((levels << k) // m) / 2**k)``, k = 42 or 34, halves away
        from zero. The reciprocal is truncated, which makes q differ from the exact quotient's rounding only
        within 2e-5 of a half for 127 levels, 5e-3 for 32767. All zero for a vector of zeros.
    o_scale : Out(stream of {scale: SCALAR})
        One per vector, before or after its q: see ``StepScale``. Relative error below 6e-7; with ``norm``, where
        the squares are rounded too, below 1e-5 on random vectors (``sim/approximation.py``).

    Latency: ``latency`` cycles from the last word of the first pass to the first word of ``o``. Interval: one
    cycle per word, ``interval["turn"]`` cycles from the last word of the first pass to the first one of the
    second, more if the command is late or the scale of the vector before not yet computed.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        lanes = config.vector_lanes
        levels = (lanes - 1).bit_length()
        turn = levels + 40
        self.interval = {"word": 1, "turn": turn}
        self.latency = turn + DEPTH + 1
        super().__init__({
            "i": In(stream.Signature(data.StructLayout({
                "x": data.ArrayLayout(signed(32), lanes), "gain": data.ArrayLayout(signed(16), lanes),
                "last": 1}))),
            "i_command": In(stream.Signature(quantize_command())),
            "o": Out(stream.Signature(data.StructLayout({
                "q": data.ArrayLayout(signed(16), lanes), "last": 1}))),
            "o_scale": Out(stream.Signature(scale_layout())),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "NormQuantize":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        m.submodules.buffer = buffer = StreamBuffer(self.o.p.shape())
        m.submodules.normalizer = normalizer = Normalizer(PRODUCT_BITS)
        m.submodules.divider = divider = Divider(
            (LEVELS[0] << RECIPROCAL_SHIFT[0]).bit_length(), SIGNIFICANT_BITS, RECIPROCAL_BITS)
        m.submodules.step_scale = step_scale = StepScale(self.config)
        connect(m, buffer.o, wiring.flipped(self.o))
        connect(m, step_scale.o, wiring.flipped(self.o_scale))
        pipeline = Pipeline(m, buffer.i.ready)
        register = pipeline.register

        # What the first pass found out; constant while words of the second pass are under way.
        reciprocal, justify = Signal(RECIPROCAL_BITS), Signal(range(PRODUCT_BITS + 1))
        halvings, wide = Signal(range(17)), Signal()

        # Words of either pass enter here.
        taking, second_pass = Signal(), Signal()
        m.d.comb += self.i.ready.eq(buffer.i.ready & taking)
        accepted = self.i.valid & taking
        ends = accepted & buffer.i.ready & self.i.p.last

        # Products of magnitudes.
        products, signs, largest_x = [], [], []
        for x, gain in zip(self.i.p.x, self.i.p.gain, strict=True):
            x_size, gain_size = register(magnitude(x)), register(magnitude(gain))
            product, product_latency = unsigned_product(pipeline, x_size, gain_size)
            products.append(product[:PRODUCT_BITS])
            signs.append(register(x[-1] ^ gain[-1], 1 + product_latency))
            largest_x.append(x_size)
        at_product = 1 + product_latency

        # First pass: the largest product, and the bit length of the largest |x| (that of the OR of all).
        clear = Signal()
        first_word = register(accepted & ~second_pass, reset=True)
        bits_of_x = Signal(32)
        either = largest_x[0]
        for each in largest_x[1:]:
            either = either | each
        with m.If(clear):
            m.d.sync += bits_of_x.eq(0)
        with m.Elif(pipeline.advance & first_word):
            m.d.sync += bits_of_x.eq(bits_of_x | either)
        word_peak, peak_latency = maximum(pipeline, products)
        peak, counts = Signal(PRODUCT_BITS), register(first_word, at_product - 1 + peak_latency, reset=True)
        with m.If(clear):
            m.d.sync += peak.eq(0)
        with m.Elif(pipeline.advance & counts & (word_peak > peak)):
            m.d.sync += peak.eq(word_peak)
        measured = register(ends & ~second_pass, at_product + peak_latency + 1, reset=True)

        # Second pass: quantization.
        quantized, flag = [], [accepted & second_pass]
        for product, negative in zip(products, signs, strict=True):
            n = left_justify(pipeline, product, justify, SIGNIFICANT_BITS, moving=False)
            scaled, scaled_latency = unsigned_product(pipeline, n, reciprocal)
            half = Mux(wide, 1 << (RECIPROCAL_SHIFT[1] - 1), 1 << (RECIPROCAL_SHIFT[0] - 1))
            rounded = register((scaled + half)[RECIPROCAL_SHIFT[1]:])
            size = Mux(wide, rounded, rounded[RECIPROCAL_SHIFT[0] - RECIPROCAL_SHIFT[1]:])[:15]
            negative = register(negative, 2 + scaled_latency + 1)
            quantized.append(register(Mux(negative, -size, size)))
        word_sum, summed = self._square_sum(pipeline, halvings)
        for _ in range(max(DEPTH, summed)):
            flag.append(register(flag[-1], reset=True))
        m.d.comb += [
            buffer.i.valid.eq(flag[DEPTH]),
            buffer.i.p.last.eq(register(self.i.p.last, DEPTH)),
            *(buffer.i.p.q[k].eq(q) for k, q in enumerate(quantized)),
        ]

        # Second pass: sum of squares.
        total, total_ready = Signal(square_sum_bits(self.config)), Signal()
        last_word = register(ends & second_pass, summed, reset=True)
        with m.If(clear):
            m.d.sync += [total.eq(0), total_ready.eq(0)]
        with m.Elif(pipeline.advance & flag[summed]):
            m.d.sync += [total.eq(total + word_sum), total_ready.eq(last_word)]
        m.d.comb += [
            step_scale.i_squares.p.squares.eq(total),
            step_scale.i_squares.p.halvings.eq(halvings),
            step_scale.i_squares.valid.eq(total_ready),
        ]

        self._control(m, (taking, second_pass, clear, ends, measured), Cat(flag[1:]).any(), peak, bits_of_x,
                      normalizer, divider, step_scale, (reciprocal, justify, halvings, wide))
        return m

    def _square_sum(self, pipeline, halvings):
        """``(sum of the squares of a word, latency)``."""
        squares = []
        for x in self.i.p.x:
            short = round_shift(pipeline, pipeline.register(x), halvings, moving=False)[:18].as_signed()
            squares.append(pipeline.register((short * short)[:33]))
        word_sum, latency = pipeline.add(squares)
        return word_sum, 5 + latency

    def _control(self, m, phase, quantizing, peak, bits_of_x, normalizer, divider, step_scale, constants):
        taking, second_pass, clear, ends, measured = phase
        reciprocal, justify, halvings, wide = constants
        significant, length = Signal(SIGNIFICANT_BITS), Signal(range(PRODUCT_BITS + 1))
        command = self.i_command.p
        m.d.comb += [
            normalizer.i.p.value.eq(peak),
            divider.i.p.denominator.eq(significant),
            divider.i.p.numerator.eq(Mux(command.wide, LEVELS[1] << RECIPROCAL_SHIFT[1],
                                         LEVELS[0] << RECIPROCAL_SHIFT[0])),
            step_scale.i.p.command.eq(command),
            step_scale.i.p.peak.mantissa.eq(significant),
            step_scale.i.p.peak.exponent.eq(length - SIGNIFICANT_BITS),
        ]
        with m.FSM():
            with m.State("MEASURE"):
                m.d.comb += taking.eq(1)
                with m.If(ends):
                    m.next = "LARGEST"
            with m.State("LARGEST"):
                m.d.comb += normalizer.i.valid.eq(measured)
                with m.If(measured):
                    m.next = "NORMALIZE"
            with m.State("NORMALIZE"):
                m.d.comb += normalizer.o.ready.eq(1)
                m.d.sync += [
                    significant.eq(normalizer.o.p.value[-SIGNIFICANT_BITS:]),
                    length.eq(normalizer.o.p.length),
                ]
                with m.If(normalizer.o.valid):
                    m.next = "DIVIDE"
            with m.State("DIVIDE"):
                m.d.comb += divider.i.valid.eq(self.i_command.valid)
                with m.If(self.i_command.valid):
                    m.next = "RECIPROCAL"
            with m.State("RECIPROCAL"):
                # Words of the vector before still need its constants, its scale still needs its unit.
                settled = ~quantizing & divider.o.valid
                m.d.comb += [
                    step_scale.i.valid.eq(settled),
                    divider.o.ready.eq(~quantizing & step_scale.i.ready),
                    self.i_command.ready.eq(settled & step_scale.i.ready),
                    clear.eq(settled & step_scale.i.ready),
                ]
                with m.If(clear):
                    m.d.sync += [
                        reciprocal.eq(divider.o.p.quotient),
                        justify.eq(PRODUCT_BITS - length),
                        wide.eq(command.wide),
                        halvings.eq(0),
                    ]
                    for bit in range(16):
                        with m.If(bits_of_x[16 + bit]):
                            m.d.sync += halvings.eq(bit + 1)
                    m.next = "QUANTIZE"
            with m.State("QUANTIZE"):
                m.d.comb += [taking.eq(1), second_pass.eq(1)]
                with m.If(ends):
                    m.next = "MEASURE"
        return m
