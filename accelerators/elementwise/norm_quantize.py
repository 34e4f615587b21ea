"""RMSNorm, gain and quantization in one unit: every vector passes twice, short ones from a memory."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig
from ..numerics import Divider, Normalizer
from ..numerics.pipelined import left_justify, magnitude, maximum, round_shift, unsigned_product
from ..pipeline import Pipeline
from ..streams import ROUND_TRIP, CreditQueue, connect
from .step_scale import StepScale, quantize_command, scale_layout, square_sum_bits

__all__ = ["NormQuantize"]

PRODUCT_BITS = 47  # |x| <= 2**31 times |gain| <= 2**15
SIGNIFICANT_BITS = 24
RECIPROCAL_BITS = 26
LEVELS = (127, 32767)
RECIPROCAL_SHIFT = (42, 34)  # levels << shift has 49 bits in both cases
DEPTH = 11  # registers from a word to its q
AT_PRODUCT = 3  # of which to its products


class NormQuantize(wiring.Component):
    """``q = round(levels * x * gain / max|x * gain|)`` and the real value of one step of q.

    After a norm the scale of the vector cancels, so the norm only enters the step. The first pass finds the
    largest product, a divider its reciprocal; the second pass quantizes and sums the squares for the norm. Short
    vectors without norm are sent only once: their products wait in one of two slots of a small memory::

        i -> |x| * |gain| -+-> largest -> Normalizer -> Divider -----.                        (1st pass)
                           |-> slots -.                              v
                           '----------+-> left-justify to 24 bits -> * 1/largest -> round -> o   (2nd pass)
        i -> x >> halvings -> square -> sum -> StepScale -> o_scale                              (2nd pass)

    The stages overlap: while a vector is divided or quantized, the first pass of the next one is taken, and with
    ``once`` that of the one after it as soon as the first leaves its slot.

    Parameters
    ----------
    config : AcceleratorConfig
        ``vector_lanes`` (V), ``max_vector``, ``max_head_dim`` and ``multiplier_bits`` matter.

    Members
    -------
    i : In(stream of {x: V x signed(32), gain: V x signed(16), last})
        Every vector twice, or once if its command says ``once``, ``last`` at the end of each pass; both passes the
        same. One word or more, at most ``max_vector`` elements, padded with zeros.
    i_command : In(stream of quantize_command)
        ``{scale, gain_exponent, norm, wide, once, inverse_length, epsilon}``, one per vector. The first pass does
        not need it, what follows the first pass does. Of a longer vector with ``once`` only the first
        ``max_head_dim`` elements come out.
    o : Out(stream of {q: V x signed(16), last})
        ``|q|`` at most 127, or 32767 if ``wide``. With n and m the product and the largest one, truncated
        to the latter's upper 24 bits: ``round(n * ((levels << k) // m) / 2**k)``, k = 42 or 34, halves away
        from zero. The reciprocal is truncated, which makes q differ from the exact quotient's rounding only
        within 2e-5 of a half for 127 levels, 5e-3 for 32767. All zero for a vector of zeros.
    o_scale : Out(stream of {scale: SCALAR})
        One per vector, before or after its q: see ``StepScale``. Relative error below 6e-7; with ``norm``, where
        the squares are rounded too, below 1e-5 on random vectors (``sim/approximation.py``).

    Latency: ``latency`` cycles from the last word of the first pass to the first word of ``o``, 2 less with ``once``.
    Interval: one cycle per word, ``interval["turn"]`` cycles from the last word of the first pass to the first one of
    the second, more if the command is late or the scale of the vector before not yet computed. With ``once`` two
    vectors of w words take ``max(2 * (w + 1), turn + w - 1, 2 * interval["division"])`` cycles.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        lanes = config.vector_lanes
        self.slot_words = config.max_head_dim // lanes
        self.divider = Divider((LEVELS[0] << RECIPROCAL_SHIFT[0]).bit_length(), SIGNIFICANT_BITS, RECIPROCAL_BITS,
                               bits_per_cycle=2)
        levels = (lanes - 1).bit_length()
        turn = AT_PRODUCT + levels + 1 + Normalizer.latency + self.divider.latency + 1
        self.interval = {"word": 1, "turn": turn, "division": self.divider.interval + 1}
        self.latency = turn + DEPTH + CreditQueue.latency
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
        m.submodules.results = results = CreditQueue(self.o.p.shape(), DEPTH + ROUND_TRIP)
        m.submodules.normalizer = normalizer = Normalizer(PRODUCT_BITS)
        m.submodules.divider = divider = self.divider
        m.submodules.step_scale = step_scale = StepScale(self.config)
        connect(m, results.o, wiring.flipped(self.o))
        connect(m, step_scale.o, wiring.flipped(self.o_scale))
        pipeline = Pipeline(m)
        register = pipeline.register

        # Words of either pass enter here; slot_word counts the words of a first pass that are stored.
        taking, second_pass = Signal(), Signal()
        slot, slot_word = Signal(), Signal(range(self.slot_words + 1))
        m.d.comb += self.i.ready.eq(results.credit & taking)
        accepted = self.i.valid & self.i.ready
        ends = accepted & self.i.p.last
        measures, quantizes = accepted & ~second_pass, accepted & second_pass

        # Products of magnitudes.
        products, signs, largest_x = [], [], []
        for x, gain in zip(self.i.p.x, self.i.p.gain, strict=True):
            x_size, gain_size = register(magnitude(x)), register(magnitude(gain))
            product, _ = unsigned_product(pipeline, x_size, gain_size)
            products.append(product[:PRODUCT_BITS])
            signs.append(register(x[-1] ^ gain[-1], AT_PRODUCT))
            largest_x.append(x_size)

        # First pass: the largest product, and the bit length of the largest |x| (that of the OR of all).
        starts, measured_word = register(slot_word == 0), register(measures, reset=True)
        bits_of_x = Signal(32)
        either = largest_x[0]
        for each in largest_x[1:]:
            either = either | each
        with m.If(measured_word):
            m.d.sync += bits_of_x.eq(Mux(starts, either, bits_of_x | either))
        word_peak, peak_latency = maximum(pipeline, products)
        at_peak = AT_PRODUCT + peak_latency
        peak = Signal(PRODUCT_BITS)
        starts, measured_word = register(starts, at_peak - 1), register(measured_word, at_peak - 1, reset=True)
        with m.If(measured_word & (starts | (word_peak > peak))):
            m.d.sync += peak.eq(word_peak)
        m.d.comb += [
            normalizer.i.valid.eq(register(ends & ~second_pass, at_peak + 1, reset=True)),
            normalizer.i.p.value.eq(peak),
        ]

        # First pass: the products of short vectors wait in their slot. Words leave a slot in every cycle with
        # credit, in which alone a word of the next vector enters, to be written 3 cycles later: so it does not overtake them.
        m.submodules.slots = slots = Memory(
            shape=data.ArrayLayout(data.StructLayout({"size": PRODUCT_BITS, "negative": 1}), len(products)),
            depth=2 << (self.slot_words - 1).bit_length(), init=[])
        write, read = slots.write_port(), slots.read_port()
        row_bits = len(write.addr) - 1
        stores = register(measures & (slot_word != self.slot_words), AT_PRODUCT, reset=True)
        m.d.comb += [
            write.en.eq(stores),
            write.addr.eq(register(Cat(slot_word[:row_bits], slot), AT_PRODUCT)),
            *(write.data[k].size.eq(product) for k, product in enumerate(products)),
            *(write.data[k].negative.eq(negative) for k, negative in enumerate(signs)),
        ]

        # Second pass: quantization, of words from a slot or from the input. The constants move along with the words.
        reciprocal, justify = Signal(RECIPROCAL_BITS), Signal(range(PRODUCT_BITS + 1))
        halvings, wide, norm = Signal(range(17)), Signal(), Signal()
        replaying, replay_ends = Signal(), Signal()
        replayed = register(replaying, reset=True)
        entering = replayed | register(quantizes, AT_PRODUCT, reset=True)
        entering_last = Mux(replayed, register(replay_ends), register(self.i.p.last, AT_PRODUCT))
        shift, factor, late_wide = register(justify), register(reciprocal, 3), register(wide, 6)
        quantized = []
        for product, negative, stored in zip(products, signs, read.data, strict=True):
            chosen = register(Mux(replayed, stored.size, product))  # block memory is slow to give its data
            n = left_justify(pipeline, chosen, shift, SIGNIFICANT_BITS)
            scaled, _ = unsigned_product(pipeline, n, factor, self.config.multiplier_bits)
            half = Mux(late_wide, 1 << (RECIPROCAL_SHIFT[1] - 1), 1 << (RECIPROCAL_SHIFT[0] - 1))
            rounded = register((scaled + half)[RECIPROCAL_SHIFT[1]:])
            size = Mux(register(late_wide), rounded, rounded[RECIPROCAL_SHIFT[0] - RECIPROCAL_SHIFT[1]:])[:15]
            negative = register(Mux(replayed, stored.negative, negative), DEPTH - AT_PRODUCT - 1)
            quantized.append(register(Mux(negative, -size, size)))
        m.d.comb += [
            results.spend.eq(quantizes | replaying),
            results.i.valid.eq(register(entering, DEPTH - AT_PRODUCT, reset=True)),
            results.i.p.last.eq(register(entering_last, DEPTH - AT_PRODUCT)),
            *(results.i.p.q[k].eq(q) for k, q in enumerate(quantized)),
        ]

        # Second pass: sum of squares. It is taken before the scale of the next vector is begun, and that before its words.
        load = Signal()
        word_sum, summed = self._square_sum(pipeline, halvings)
        total, total_ready = Signal(square_sum_bits(self.config)), Signal()
        adds, ends_sum = (register(flag & norm, summed, reset=True) for flag in (quantizes, ends & second_pass))
        m.d.comb += [
            step_scale.i_squares.p.squares.eq(total),
            step_scale.i_squares.p.halvings.eq(halvings),
            step_scale.i_squares.valid.eq(total_ready),
        ]
        with m.If(load):
            m.d.sync += total.eq(0)
        with m.Elif(adds):
            m.d.sync += [total.eq(total + word_sum), total_ready.eq(ends_sum)]
        with m.If(total_ready & step_scale.i_squares.ready):
            m.d.sync += total_ready.eq(0)

        # Normalized peaks and their commands, each to the divider and to the scale.
        command = self.i_command.p
        decided, launched = Signal(), Signal()
        free = Signal()  # divider and scale unit were free a cycle ago; only a launch makes them busy
        m.d.sync += free.eq(step_scale.i.ready & divider.i.ready & ~launched)
        m.d.comb += [
            launched.eq(normalizer.o.valid & decided & free),
            step_scale.i.valid.eq(launched),
            step_scale.i.p.command.eq(command),
            step_scale.i.p.command.norm.eq(command.norm & ~command.once),
            step_scale.i.p.peak.mantissa.eq(normalizer.o.p.value[-SIGNIFICANT_BITS:]),
            step_scale.i.p.peak.exponent.eq(normalizer.o.p.length - SIGNIFICANT_BITS),
            divider.i.valid.eq(launched),
            divider.i.p.denominator.eq(normalizer.o.p.value[-SIGNIFICANT_BITS:]),
            divider.i.p.numerator.eq(Mux(command.wide, LEVELS[1] << RECIPROCAL_SHIFT[1], LEVELS[0] << RECIPROCAL_SHIFT[0])),
            normalizer.o.ready.eq(launched),
            self.i_command.ready.eq(launched),
        ]

        # What is known of the vector in the divider, and the constants of the one whose words are under way.
        divided, next_once, next_justify = Signal(), Signal(), Signal.like(justify)
        next_wide, next_norm = Signal(), Signal()
        with m.If(launched):
            m.d.sync += [
                divided.eq(1), next_once.eq(command.once), next_justify.eq(PRODUCT_BITS - normalizer.o.p.length),
                next_wide.eq(command.wide), next_norm.eq(step_scale.i.p.command.norm),
            ]
        with m.If(load):
            m.d.sync += [
                divided.eq(0), reciprocal.eq(divider.o.p.quotient), justify.eq(next_justify), wide.eq(next_wide),
                norm.eq(next_norm), halvings.eq(0),
            ]
            for bit in range(16):
                with m.If(bits_of_x[16 + bit]):
                    m.d.sync += halvings.eq(bit + 1)

        last_words = Array([Signal(row_bits, name=f"last_word_{k}") for k in range(2)])
        leaves, sent_twice = load & next_once, load & ~next_once
        self._input(m, (measures, ends), (taking, second_pass), (slot, slot_word, last_words),
                    (decided, launched, leaves, sent_twice))
        replay_slot, replay_word = self._quantization(
            m, results.credit, (load, divider.o.valid & divided, next_once, entering & entering_last),
            (replaying, replay_ends), last_words)
        m.d.comb += [
            read.addr.eq(Cat(replay_word, replay_slot)),
            divider.o.ready.eq(load),
        ]
        return m

    def _square_sum(self, pipeline, halvings):
        """``(sum of the squares of a word, latency)``."""
        squares = []
        for x in self.i.p.x:
            short = round_shift(pipeline, pipeline.register(x), halvings, moving=False)[:18].as_signed()
            squares.append(pipeline.register((short * short)[:33]))
        word_sum, latency = pipeline.add(squares)
        return word_sum, 5 + latency

    def _input(self, m, words, phase, slots, events):
        """Which words are taken, and in which pass. There is room for two vectors in the slots and two peaks in the
        normalizer."""
        measures, ends = words
        taking, second_pass = phase
        slot, slot_word, last_words = slots
        decided, launched, leaves, sent_twice = events
        stored, measured = Signal(range(3)), Signal(range(3))
        keeps, permitted = Signal(), Signal()
        m.d.sync += [
            stored.eq(stored + keeps - leaves),
            measured.eq(measured + (measures & (slot_word == 0)) - launched),
        ]
        with m.If(sent_twice):
            m.d.sync += permitted.eq(1)
        with m.If(launched):
            m.d.sync += decided.eq(0)
        with m.FSM(name="input"):
            with m.State("MEASURE"):
                m.d.comb += taking.eq((slot_word != 0) | ((stored != 2) & (measured != 2)))
                with m.If(measures & (slot_word != self.slot_words)):
                    m.d.sync += slot_word.eq(slot_word + 1)
                with m.If(ends):
                    m.next = "DECIDE"
            with m.State("DECIDE"):
                with m.If(self.i_command.valid & ~decided):
                    m.d.sync += [decided.eq(1), slot_word.eq(0)]
                    m.next = "QUANTIZE"
                    with m.If(self.i_command.p.once):
                        m.d.comb += keeps.eq(1)
                        m.d.sync += [slot.eq(~slot), last_words[slot].eq(slot_word - 1)]
                        m.next = "MEASURE"
            with m.State("QUANTIZE"):
                m.d.comb += [taking.eq(permitted), second_pass.eq(1)]
                with m.If(ends):
                    m.d.sync += permitted.eq(0)
                    m.next = "MEASURE"

    def _quantization(self, m, credit, events, replay, last_words):
        """Constants, then the words of a slot, or those from the input until the last one is there: ``(slot, word)``.

        The next vector may enter the slot, and be shorter, as soon as its words begin to leave.
        """
        load, constants_ready, once, last_entering = events
        replaying, replay_ends = replay
        slot, word, last_word = Signal(), Signal.like(last_words[0]), Signal.like(last_words[0])
        m.d.comb += replay_ends.eq(word == last_word)
        with m.FSM(name="quantization"):
            with m.State("WAIT"):
                m.d.comb += load.eq(constants_ready)
                with m.If(load):
                    m.d.sync += last_word.eq(last_words[slot])
                    m.next = "PASS"
                    with m.If(once):
                        m.next = "REPLAY"
            with m.State("REPLAY"):
                m.d.comb += replaying.eq(credit)
                with m.If(credit):
                    m.d.sync += word.eq(word + 1)
                    with m.If(replay_ends):
                        m.d.sync += [word.eq(0), slot.eq(~slot)]
                        m.next = "WAIT"
            with m.State("PASS"):
                with m.If(last_entering):
                    m.next = "WAIT"
        return slot, word
