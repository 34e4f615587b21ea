"""LM head: rows of 4-, 8- or 16-bit weights times one activation vector, one bus beat per cycle."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig
from ..integers import ceil_div
from ..streams import ROUND_TRIP, CreditQueue, connect

__all__ = ["LOGIT_BITS", "HeadMatvec", "logit_layout"]

LOGIT_BITS = 48
SCALE_BITS = 16
LIMB_BITS = 16


def logit_layout(max_vocab: int) -> data.StructLayout:
    """One logit: the row that it belongs to and its value; ``last`` on the last row."""
    return data.StructLayout({"index": range(max_vocab), "value": signed(LOGIT_BITS), "last": 1})


class HeadMatvec(wiring.Component):
    """Matrix times vector at full port rate, for the LM head.

    Each beat of ``i_weights`` carries ``lanes = bus_bits / head_bits`` weights, which meet their activations
    in ``lanes`` multipliers and a pipelined adder tree; the sum of a row is multiplied by the row's scale::

        i_weights --+--> weights ----> x --> adder tree --> accumulate --> x --> queue --> o
                    +--> row scales    ^                                   ^
        i_activations --> memory ------+          row scale (delayed) -----+

    For each command the unit first takes the activation vector (up to ``last``), then the weights: blocks of
    ``bus_bits / 16`` rows, the last one may be shorter; a block is one beat with the 16-bit row scales of its
    rows, then the rows, ``ceil(words * vector_lanes / lanes)`` beats each. All little-endian. A row result is
    ``floor(dot * row_scale / 2**shift)`` with ``shift = config.head_shift`` (0 for 8-bit operands), so that
    every value fits 48 bits whatever the operands are.

    Parameters
    ----------
    config : AcceleratorConfig
        ``bus_bits``, ``vector_lanes``, ``head_bits``, ``head_activation_bits``, ``max_vector`` and
        ``max_vocab`` matter here.

    Members
    -------
    i_command : In(stream): ``{rows: 1..max_vocab, words: 1..max_vector / vector_lanes}``
        Rows of the matrix; words of the activation vector. Zero rows or words are not legal.
    i_activations : In(stream): ``{q: vector_lanes x signed(head_activation_bits), last}``
        The vector, ``words`` words, ``last`` on the final one. Weights that pad a row beyond it must be 0.
    i_weights : In(stream): ``unsigned(bus_bits)``
    o : Out(stream): ``{index, value: signed(48), last}``
        One logit per row in row order, ``last`` on the final row.

    Latency: ``latency`` cycles from the last beat of a row to its logit on ``o``. Interval: one beat of
    ``i_weights`` per cycle, and one word of ``i_activations`` per cycle before; the next command is taken
    ``latency`` cycles after the last beat. If ``o`` is not taken, the unit accepts beats until the rows in
    flight fill the queue at its end.
    """

    interval = 1

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        self.lanes = config.bus_bits // config.head_bits
        self.levels = (self.lanes - 1).bit_length()
        self.latency = self.levels + 8
        self.places = self.latency - CreditQueue.latency + ROUND_TRIP  # rows in the pipeline and behind it
        words = ceil_div(config.max_vector, config.vector_lanes)
        super().__init__({
            "i_command": In(stream.Signature(data.StructLayout({
                "rows": range(config.max_vocab + 1), "words": range(words + 1)}))),
            "i_activations": In(stream.Signature(data.StructLayout({
                "q": data.ArrayLayout(signed(config.head_activation_bits), config.vector_lanes),
                "last": 1}))),
            "i_weights": In(stream.Signature(unsigned(config.bus_bits))),
            "o": Out(stream.Signature(logit_layout(config.max_vocab))),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "HeadMatvec":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        config, lanes = self.config, self.lanes
        words_per_beat = lanes // config.vector_lanes
        beats = ceil_div(config.max_vector, lanes)
        block_rows = config.bus_bits // SCALE_BITS

        m.submodules.queue = queue = CreditQueue(logit_layout(config.max_vocab), self.places)
        connect(m, queue.o, wiring.flipped(self.o))

        m.submodules.activations = activations = Memory(
            shape=data.ArrayLayout(signed(config.head_activation_bits), lanes), depth=beats, init=[])
        write = activations.write_port(granularity=config.vector_lanes)
        read = activations.read_port()

        rows_left = Signal(range(config.max_vocab + 1))
        last_row = Signal(range(config.max_vocab))
        last_beat = Signal(range(beats))
        load_word = Signal(range(max(words_per_beat, 2)))
        load_beat = Signal(range(beats))
        beat = Signal(range(beats))
        block_row = Signal(range(block_rows))
        scales = Signal(data.ArrayLayout(SCALE_BITS, block_rows))
        take_beat = Signal()
        finished = Signal()
        row_first, row_last = beat == 0, beat == last_beat

        m.d.comb += [
            write.addr.eq(load_beat),
            write.data.eq(Cat(self.i_activations.p.q.as_value() for _ in range(words_per_beat))),
            read.addr.eq(beat),
        ]
        with m.FSM():
            with m.State("COMMAND"):
                m.d.comb += self.i_command.ready.eq(1)
                m.d.sync += [
                    rows_left.eq(self.i_command.p.rows),
                    last_row.eq(self.i_command.p.rows - 1),
                    last_beat.eq((self.i_command.p.words - 1) // words_per_beat),
                    load_word.eq(0),
                    load_beat.eq(0),
                ]
                with m.If(self.i_command.valid):
                    m.next = "ACTIVATIONS"
            with m.State("ACTIVATIONS"):
                m.d.comb += self.i_activations.ready.eq(1)
                m.d.sync += beat.eq(0)
                with m.If(self.i_activations.valid):
                    m.d.comb += write.en.eq(1 << load_word)
                    m.d.sync += load_word.eq(load_word + 1)
                    with m.If(load_word == words_per_beat - 1):
                        m.d.sync += [load_word.eq(0), load_beat.eq(load_beat + 1)]
                    with m.If(self.i_activations.p.last):
                        m.next = "SCALES"
            with m.State("SCALES"):
                m.d.comb += self.i_weights.ready.eq(1)
                m.d.sync += block_row.eq(0)
                with m.If(self.i_weights.valid):
                    m.d.sync += scales.eq(self.i_weights.p)
                    m.next = "ROWS"
            with m.State("ROWS"):
                m.d.comb += self.i_weights.ready.eq(queue.credit)
                with m.If(self.i_weights.valid & self.i_weights.ready):
                    m.d.comb += take_beat.eq(1)
                    m.d.sync += beat.eq(beat + 1)
                    with m.If(row_last):
                        m.d.sync += [
                            beat.eq(0),
                            rows_left.eq(rows_left - 1),
                            block_row.eq(block_row + 1),
                            scales.eq(scales.as_value() >> SCALE_BITS),
                        ]
                        with m.If(rows_left == 1):
                            m.next = "DRAIN"
                        with m.Elif(block_row == block_rows - 1):
                            m.next = "SCALES"
            with m.State("DRAIN"), m.If(finished):
                m.next = "COMMAND"

        result, result_valid = self._pipeline(m, take_beat, row_first, row_last, scales[0], read.data)
        index = Signal(range(config.max_vocab))
        m.d.comb += [
            queue.i.valid.eq(result_valid),
            queue.i.p.index.eq(index),
            queue.i.p.value.eq(result),
            queue.i.p.last.eq(index == last_row),
            finished.eq(result_valid & queue.i.p.last),
        ]
        with m.If(result_valid):
            m.d.sync += index.eq(Mux(finished, 0, index + 1))
        m.d.comb += queue.spend.eq(take_beat & row_last)
        return m

    def _pipeline(self, m, take_beat, row_first, row_last, scale, activations):
        """Products, tree, sum of a row, row scale: ``(value, valid)``, ``latency - 2`` cycles later."""
        config, lanes = self.config, self.lanes
        # Two registers: block memory is slow to give its data, and a multiplier takes most of a cycle.
        arrived, weights = (Signal(data.ArrayLayout(signed(config.head_bits), lanes), name=name, reset_less=True)
                            for name in ("arrived", "weights"))
        operands = Signal.like(activations, reset_less=True)
        m.d.sync += [arrived.eq(self.i_weights.p), weights.eq(arrived), operands.eq(activations)]

        def delayed(value, cycles: int, name: str, *, reset: bool = False):
            for stage in range(cycles):
                register = Signal.like(value, name=f"{name}_{stage}", reset_less=not reset)
                m.d.sync += register.eq(value)
                value = register
            return value

        level = []
        for lane in range(lanes):
            product = Signal(signed(config.head_bits + config.head_activation_bits), name=f"product_{lane}", reset_less=True)
            m.d.sync += product.eq(weights[lane] * operands[lane])
            level.append(product)
        while len(level) > 1:
            sums = []
            for a, b in zip(level[::2], level[1::2], strict=True):
                sum_ = Signal(signed(len(a) + 1), name=f"tree_{len(level) // 2}_{len(sums)}", reset_less=True)
                m.d.sync += sum_.eq(a + b)
                sums.append(sum_)
            level = sums

        to_tree = 3 + self.levels
        valid = delayed(take_beat, to_tree, "valid", reset=True)
        first = delayed(row_first, to_tree, "first")
        complete = delayed(take_beat & row_last, to_tree + 1, "complete", reset=True)
        row_scale = delayed(scale, to_tree + 1, "row_scale")
        total = Signal(signed(config.head_sum_magnitude.bit_length() + 1))
        with m.If(valid):
            m.d.sync += total.eq(Mux(first, 0, total) + level[0])

        # total * row_scale in limbs, each one multiplier of at most 18 bits, summed one cycle later
        limbs = []
        for low in range(0, len(total), LIMB_BITS):
            high = low + LIMB_BITS
            top = high + 1 >= len(total)  # keeps the sign; a remainder of one bit joins it
            limb = (total[low:] if top else Cat(total[low:high], Const(0, 1))).as_signed()
            product = Signal(signed(len(limb) + SCALE_BITS), name=f"scaled_{low}", reset_less=True)
            m.d.sync += product.eq(limb * row_scale)
            limbs.append(product << low)
            if top:
                break
        value = Signal(signed(LOGIT_BITS))
        scaled = limbs[0]
        for limb in limbs[1:]:
            scaled = scaled + limb
        m.d.sync += value.eq(scaled >> config.head_shift)
        return value, delayed(complete, 2, "scaled_complete", reset=True)
