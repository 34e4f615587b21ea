"""Mean keys and values of the blocks of a cache: what a query looks at to choose blocks."""

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..attention.formats import HEADER, beat_numbers, max_beats
from ..attention.rows import RowSplitter
from ..config import AcceleratorConfig
from ..elementwise.norm_quantize import NormQuantize
from ..numerics import SCALAR, ScalarUnit
from ..numerics.formats import MANTISSA_BITS
from ..pipeline import Pipeline
from ..streams import ROUND_TRIP, CreditQueue, Fork, Queue, StreamBuffer, connect, word_layout
from .append import RecordPacker
from .grid import FACTOR_BITS, GRID_LATENCY, grid_factor

__all__ = ["BlockMeans", "means_command"]

SUM_LIMIT = 32
"""Bits of a sum that ``NormQuantize`` takes."""


def means_command(config: AcceleratorConfig) -> data.StructLayout:
    """Rows of a K/V head, from the first of a block on: rows, beats of K (= of V) per row, V-words per head (all at least 1),
    exponent of a step."""
    return data.StructLayout({"rows": range(config.max_context + 1), "beats": 16, "words": 16, "exponent": signed(16)})


class BlockMeans(wiring.Component):
    """A K/V record for each block of rows, with the mean key and the mean value (ReKV, arXiv:2503.00540, section 3.2: mean keys).

    So the table of means is a cache of its own, with the same records, addresses, readers and attention. Rows have scales of their
    own, so they are summed in steps of ``2**exponent``::

        i -> RowSplitter - K, V -> queue -> x factor -> + <--> sums of a block, per element of K and V
                   '---- headers ---> factor             '- last row of a block -> queue -> NormQuantize -> RecordPacker -> o

        factor = floor(scale * 2**(kv_bits - exponent)), at most 2**17 - 1
        sum    = of element * factor over the rows of the block, exact
        q      = round(127 * sum / max|sum|), scale = max|sum| * (1 / rows) * 2**(exponent - kv_bits) / 127, as NormQuantize does

    The mean is never rounded but to its q: the division by the rows is a factor of the scale, ``1 / rows`` to the nearest 24
    bits (exact for whole blocks). A block that is not full, the last one, is the mean of the rows that it has. What the factors
    lose is below half a step per element, for scales below ``2**(exponent + 17 - kv_bits)``; larger ones saturate. Sums of more
    than 32 bits (``kv_bits`` of 16 or a ``block_size`` above 128) drop their low bits.

    Parameters
    ----------
    config : AcceleratorConfig
        ``block_size``, ``bus_bits``, ``kv_bits``, ``vector_lanes``, ``max_head_dim`` and ``max_context`` matter. Multipliers: one per
        element of a beat, and those of ``NormQuantize``.

    Members
    -------
    i_command : In(stream of means_command)
        One per head.
    i : In(stream of bus_bits)
        Row records, see ``RowSplitter``.
    o : Out(stream of {data: bus_bits, last})
        ``ceil(rows / block_size)`` records, as ``RecordPacker`` makes them; ``last`` on the last beat of each.
    saturated : Out(1)
        Sticky: a scale was too large for the exponent; it counted as the largest one.
    clear : In(1)
        Clears ``saturated``.

    Latency: ``latency`` cycles from the last beat of a block of one V-word per vector to the first beat of its record; of a longer one
    until its words have been through ``NormQuantize``. Interval: 1 cycle per beat while blocks take longer to come than their two
    vectors in ``NormQuantize``, and an idle one between heads.
    """

    interval = 1

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        self._bits = config.kv_bits + FACTOR_BITS + config.block_size.bit_length() - 1  # of a sum, signed
        self._depth = GRID_LATENCY + 2
        beats, sums = max_beats(config) + ROUND_TRIP, 2 * max_beats(config) + ROUND_TRIP
        self._beats = Queue(config.kv_beat_bits, beats)  # a key may come before its scale, in the last beat: it waits
        self._sums = CreditQueue(data.ArrayLayout(signed(self._bits), config.kv_lanes), sums)
        self._quantize = NormQuantize(config)
        # The value's scale is begun when the key has been divided: a product, and 6 cycles of ``StepScale``.
        quantized = self._quantize.interval["turn"] + ScalarUnit.latency["multiply"] + 6 + RecordPacker.latency
        self.latency = self._beats.latency + self._depth + CreditQueue.latency + (sums > 32) + quantized
        super().__init__({
            "i_command": In(stream.Signature(means_command(config))),
            "i": In(stream.Signature(config.bus_bits)),
            "o": Out(stream.Signature(word_layout(config.bus_bits))),
            "saturated": Out(1),
            "clear": In(1),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "BlockMeans":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.splitter = splitter = RowSplitter(config)
        m.submodules.commands = commands = Fork(means_command(config), 2)
        connect(m, wiring.flipped(self.i_command), commands.i)
        connect(m, wiring.flipped(self.i), splitter.i)
        m.d.comb += [
            splitter.i_command.valid.eq(commands.o[0].valid), commands.o[0].ready.eq(splitter.i_command.ready),
            *(splitter.i_command.p[name].eq(commands.o[0].p[name]) for name in ("rows", "beats", "words")),
        ]

        m.submodules.headers = headers = StreamBuffer(HEADER)
        m.submodules.beats = beats = self._beats
        connect(m, splitter.o_header, headers.i)
        m.d.comb += [
            beats.i.valid.eq(splitter.o_keys.valid | splitter.o_values.valid),
            beats.i.p.eq(Mux(splitter.o_keys.valid, splitter.o_keys.p, splitter.o_values.p)),
            splitter.o_keys.ready.eq(beats.i.ready), splitter.o_values.ready.eq(beats.i.ready),
        ]

        m.submodules.blocks = blocks = Queue(self._block(), ROUND_TRIP)
        m.submodules.sums = sums = self._sums
        self._accumulate(m, commands.o[1], headers.o, beats.o, blocks.i, sums)
        self._records(m, blocks.o, sums.o)
        return m

    def _block(self) -> data.StructLayout:
        """What is known of a block whose sums come: its rows but one, words of a vector but one."""
        return data.StructLayout({"rows": range(max(self.config.block_size, 2)), "words": 16, "exponent": signed(16)})

    def _accumulate(self, m: Module, commands, headers, beats, blocks, sums) -> None:
        """Adds beat after beat to the sums of its place; those of a block's last row go to the queue."""
        config = self.config
        command, active = Signal(means_command(config)), Signal()
        beat, in_values, row_of_block = Signal(beat_numbers(config)), Signal(), Signal(range(max(config.block_size, 2)))
        rows_left, accepted = Signal(range(config.max_context + 1)), Signal()
        ends_vector, last_row = beat == command.beats - 1, rows_left == 1
        ends_row = accepted & ends_vector & in_values
        closes = (row_of_block == config.block_size - 1) | last_row
        announces = closes & ends_vector & in_values
        m.d.comb += [
            commands.ready.eq(~active),
            accepted.eq(active & beats.valid & headers.valid & ((sums.credit & blocks.ready) | ~closes)),
            beats.ready.eq(accepted), headers.ready.eq(ends_row), sums.spend.eq(accepted & closes),
            blocks.valid.eq(accepted & announces),
            blocks.p.rows.eq(row_of_block), blocks.p.words.eq(command.words - 1), blocks.p.exponent.eq(command.exponent),
        ]
        with m.If(commands.valid & ~active):
            m.d.sync += [command.eq(commands.p), rows_left.eq(commands.p.rows), active.eq(1)]
        with m.If(accepted):
            m.d.sync += beat.eq(beat + 1)
            with m.If(ends_vector):
                m.d.sync += [beat.eq(0), in_values.eq(~in_values)]
        with m.If(ends_row):
            m.d.sync += [row_of_block.eq(Mux(closes, 0, row_of_block + 1)), rows_left.eq(rows_left - 1), active.eq(~last_row)]

        pipeline = Pipeline(m)
        register = pipeline.register
        scale = Mux(in_values, headers.p.value.as_value(), headers.p.key.as_value())
        factor, large = grid_factor(pipeline, data.View(headers.p.key.shape(), scale), command.exponent, config.kv_bits,
                                    accepted & (beat == 0))
        with m.If(self.clear):
            m.d.sync += self.saturated.eq(0)
        with m.If(large):
            m.d.sync += self.saturated.eq(1)
        layout = data.ArrayLayout(signed(config.kv_bits), config.kv_lanes)
        products = [register(element * factor) for element in data.View(layout, register(beats.p, GRID_LATENCY))]

        # The same place comes again in the second cycle at the earliest, behind a beat of the other vector.
        place = register(Cat(beat, in_values), GRID_LATENCY)
        m.submodules.totals = totals = memory.Memory(shape=sums.i.p.shape(), depth=1 << len(place), init=[])
        read, write = totals.read_port(), totals.write_port()
        begins = register(row_of_block == 0, GRID_LATENCY + 1)
        added = [Mux(begins, 0, total) + product for total, product in zip(read.data, products, strict=True)]
        m.d.comb += [
            read.addr.eq(place), write.addr.eq(register(place)), write.en.eq(register(accepted, GRID_LATENCY + 1, reset=True)),
            *(total.eq(value[:self._bits].as_signed()) for total, value in zip(write.data, added, strict=True)),
            sums.i.p.eq(register(write.data)), sums.i.valid.eq(register(sums.spend, self._depth, reset=True)),
        ]

    def _records(self, m: Module, blocks, sums) -> None:
        """Words of a vector's sums to ``NormQuantize`` with the scale of their mean, and its words to a record."""
        config = self.config
        lanes, parts, dropped = config.vector_lanes, config.kv_lanes // config.vector_lanes, max(0, self._bits - SUM_LIMIT)
        m.submodules.quantize = quantize = self._quantize
        m.submodules.scales = scales = Queue(SCALAR, ROUND_TRIP)
        m.submodules.packer = packer = RecordPacker(config)
        connect(m, packer.o, wiring.flipped(self.o))

        word, part, in_values = Signal(16), Signal(range(parts)), Signal()
        goes, ends_vector = Signal(), word == blocks.p.words
        shares = Array([Const(*_reciprocal(rows)) for rows in range(1, config.block_size + 1)])
        exponents = Array([Const(_reciprocal_exponent(rows), signed(8)) for rows in range(1, config.block_size + 1)])
        words = Signal(data.ArrayLayout(data.ArrayLayout(signed(self._bits), lanes), parts))
        chosen = words[part]
        m.d.comb += [
            words.as_value().eq(sums.p.as_value()),
            quantize.i.valid.eq(sums.valid & blocks.valid & scales.i.ready),
            goes.eq(quantize.i.valid & quantize.i.ready),
            quantize.i.p.last.eq(ends_vector),
            *(x.eq(value[dropped:].as_signed()) for x, value in zip(quantize.i.p.x, chosen, strict=True)),
            *(gain.eq(1) for gain in quantize.i.p.gain),
            scales.i.valid.eq(goes & ends_vector),
            scales.i.p.mantissa.eq(shares[blocks.p.rows]),
            scales.i.p.exponent.eq(exponents[blocks.p.rows] + blocks.p.exponent + (dropped - config.kv_bits)),
            sums.ready.eq(goes & (ends_vector | (part == parts - 1))), blocks.ready.eq(goes & ends_vector & in_values),
            quantize.i_command.valid.eq(scales.o.valid), scales.o.ready.eq(quantize.i_command.ready),
            quantize.i_command.p.scale.eq(scales.o.p), quantize.i_command.p.once.eq(1),
            quantize.i_command.p.wide.eq(config.kv_bits == 16),
            packer.i.valid.eq(quantize.o.valid), quantize.o.ready.eq(packer.i.ready), packer.i.p.last.eq(quantize.o.p.last),
            *(q.eq(value[:config.kv_bits].as_signed()) for q, value in zip(packer.i.p.q, quantize.o.p.q, strict=True)),
            packer.i_scale.valid.eq(quantize.o_scale.valid), quantize.o_scale.ready.eq(packer.i_scale.ready),
            packer.i_scale.p.scale.eq(quantize.o_scale.p.scale),
        ]
        with m.If(goes):
            m.d.sync += [word.eq(word + 1), part.eq(part + 1)]
            with m.If(ends_vector):
                m.d.sync += [word.eq(0), part.eq(0), in_values.eq(~in_values)]


def _reciprocal_exponent(rows: int) -> int:
    """Exponent of ``1 / rows`` with a mantissa of 24 bits."""
    return -(rows - 1).bit_length() - MANTISSA_BITS + 1


def _reciprocal(rows: int) -> tuple[int, int]:
    """Its mantissa, to the nearest, and the mantissa's width."""
    return ((2 << -_reciprocal_exponent(rows)) // rows + 1) >> 1, MANTISSA_BITS
