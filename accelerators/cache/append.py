"""Packs keys and values into K/V records."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig
from ..integers import ceil_div
from ..kv_records import HEADER_BITS
from ..numerics import SCALAR
from ..streams import Queue, Upsizer, connect, word_layout
from .int4 import rounded

__all__ = ["RecordPacker"]

STORED_EXPONENT_OFFSET = 8  # mantissa bits that a stored scale drops
TAILS = 4
"""Records inside at once, where headers can lie in a tail."""


class RecordPacker(wiring.Component):
    """Makes one K/V record of a key vector, a value vector and their scales.

    ::

        i        K K K K*  V V V V*                                             * = last
        i_scale  K  V
        o        header (K scale, V scale) | K beats, padded | V beats, padded*
                 or, if the padding of K is long enough: K beats, padding, header | V beats, padded*

    A stored scale has 32 bits: mantissa (16 bits, the top ones of the scale's) in the lower, exponent
    (signed, as much larger as bits were dropped) in the upper half; zero is 0. The K scale takes bits 0 to 31
    of the header, the V scale bits 32 to 63. The header is the top 64 bits of K's last beat if K leaves them free;
    else it takes whole bus words in front, the rest of the last is zero.

    The vectors wait in a queue for their scales, which may come before, with or after them. The queue holds
    two of the largest records, so the next vectors may go in whole before the scales of these are there. Where
    headers can lie in a tail, a record waits for the end of its K, and a fifth record for the end of the first.

    With ``kv_storage = "int4"`` an element q is stored as ``round(q / INT4_STEP)``, halves away from zero: -7 .. 7, in half the bits.
    Scales stay those of q, so a stored element stands for ``INT4_STEP`` times the scale.

    Parameters
    ----------
    config : AcceleratorConfig
        Of it: ``bus_bits``, ``vector_lanes``, ``kv_bits``, ``kv_storage``, ``max_head_dim``.

    Members
    -------
    i : In(stream.Signature({q: ArrayLayout(signed(kv_bits), vector_lanes), last: 1}))
        Two packets per record: K, V. At most ``max_head_dim`` elements each, of the same length.
    i_scale : In(stream.Signature({scale: SCALAR}))
        Two per record: K, V.
    o : Out(stream.Signature({data: bus_bits, last: 1}))
        Registered. One packet per record.

    Latency: 2 cycles from the V scale, and where headers can lie in a tail (``header_words`` is not 0) 3 from the last
    word of K, 4 if K is a single beat that has it, to the first beat (one more if ``max_head_dim > 8 * kv_lanes``: the queue
    is deep then); data follow without a gap as far as they are there.
    Interval: 1 cycle per input word, 1 cycle per beat.

    Bad input: an exponent above 32759 saturates to 32767; no legal model has one. Vectors longer than
    ``max_head_dim`` whose scales come later than the data fill the queue and stall.
    """

    latency = 2
    interval = 1

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        elements = data.ArrayLayout(signed(config.kv_bits), config.vector_lanes)
        super().__init__({
            "i": In(stream.Signature(data.StructLayout({"q": elements, "last": 1}))),
            "i_scale": In(stream.Signature(data.StructLayout({"scale": SCALAR}))),
            "o": Out(stream.Signature(word_layout(config.bus_bits))),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "RecordPacker":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        bits = self.config.bus_bits
        header_beats = ceil_div(HEADER_BITS, bits)
        data_beats = 2 * ceil_div(self.config.max_head_dim, self.config.kv_lanes)
        elements = Value.cast(self.i.p.q)
        if self.config.kv_storage == "int4":
            elements = Cat(rounded(q) for q in self.i.p.q)
        free, in_values = Signal(), Signal()

        m.submodules.words = words = Upsizer(len(elements), bits)
        m.submodules.queue = queue = Queue(word_layout(bits), max(3, 2 * data_beats))
        in_tail, is_known, takes, ends = self._tail(m)
        m.d.comb += [
            words.i.p.data.eq(elements),
            words.i.p.last.eq(self.i.p.last),
            words.i.valid.eq(self.i.valid & takes),
            self.i.ready.eq(words.i.ready & takes),
        ]
        connect(m, words.o, queue.i)

        header, scales = Signal(header_beats * bits), Signal(range(3))
        with m.If(self.i_scale.valid & self.i_scale.ready):
            with m.If(scales == 0):
                m.d.sync += header[:32].eq(self._stored())
            with m.Else():
                m.d.sync += header[32:64].eq(self._stored())
            m.d.sync += scales.eq(scales + 1)
        m.d.comb += self.i_scale.ready.eq(scales != 2)

        complete, in_data = (scales == 2) & is_known, Signal()
        beat = Signal(range(max(header_beats, 2)))
        header_beat = header if header_beats == 1 else header.word_select(beat, bits)
        tail = Cat(Const(0, bits - HEADER_BITS), header[:HEADER_BITS]) if self.config.header_words else 0
        last = queue.o.valid & queue.o.p.last
        m.d.comb += [
            free.eq(self.o.ready | ~self.o.valid),
            queue.o.ready.eq(free & (in_data | (complete & in_tail))),
            ends.eq(queue.o.ready & last & in_values),
        ]
        with m.If(free):
            m.d.sync += [self.o.valid.eq(0), self.o.p.last.eq(0)]
        with m.If(queue.o.ready):
            m.d.sync += [
                self.o.valid.eq(queue.o.valid),
                self.o.p.data.eq(queue.o.p.data | Mux(in_tail & last & ~in_values, tail, 0)),
                self.o.p.last.eq(last & in_values),
                in_data.eq((in_data | queue.o.valid) & ~ends),
            ]
            with m.If(last):
                m.d.sync += in_values.eq(~in_values)
                with m.If(in_tail & ~in_values):
                    m.d.sync += scales.eq(0)
        with m.Elif(free & complete):
            m.d.sync += [self.o.p.data.eq(header_beat), self.o.valid.eq(1), beat.eq(beat + 1)]
            with m.If(beat == header_beats - 1):
                m.d.sync += [beat.eq(0), scales.eq(0), in_data.eq(1)]
        return m

    def _tail(self, m: Module):
        """Whether the header of the record at hand lies in K's tail, whether that is known, whether words may go in, and a
        signal that ends the record."""
        room, parts = self.config.header_words, self.config.kv_lanes // self.config.vector_lanes
        ends = Signal()
        if not room:
            return Const(0), Const(1), Const(1), ends
        part, second = Signal(range(parts)), Signal()
        m.submodules.tails = tails = Queue(1, TAILS)
        accepted = self.i.valid & self.i.ready
        with m.If(accepted):
            m.d.sync += part.eq(part + 1)
            with m.If(self.i.p.last):
                m.d.sync += [part.eq(0), second.eq(~second)]
        m.d.comb += [
            tails.i.p.eq(part < room),
            tails.i.valid.eq(accepted & self.i.p.last & ~second),
            tails.o.ready.eq(ends),
        ]
        return tails.o.p, tails.o.valid, tails.i.ready, ends

    def _stored(self):
        """The scale on ``i_scale`` as a record holds it."""
        scale = self.i_scale.p.scale
        exponent = scale.exponent + STORED_EXPONENT_OFFSET
        largest = (1 << 15) - 1
        word = Cat(scale.mantissa[STORED_EXPONENT_OFFSET:], Mux(exponent > largest, largest, exponent)[:16])
        return Mux(scale.mantissa == 0, 0, word)
