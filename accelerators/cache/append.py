"""Packs keys and values into K/V records."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig, ceil_div
from ..numerics import SCALAR
from ..streams import Queue, Upsizer, connect, word_layout

__all__ = ["HEADER_BITS", "RecordPacker", "record_beats"]

HEADER_BITS = 64
STORED_EXPONENT_OFFSET = 8  # mantissa bits that a stored scale drops


def record_beats(config: AcceleratorConfig, head_dim: int) -> int:
    """Bus words of one record: header, K and V, each padded to whole words."""
    return ceil_div(HEADER_BITS, config.bus_bits) + 2 * ceil_div(head_dim * config.kv_bits, config.bus_bits)


class RecordPacker(wiring.Component):
    """Makes one K/V record of a key vector, a value vector and their scales.

    ::

        i        K K K K*  V V V V*                                             * = last
        i_scale  K  V
        o        header (K scale, V scale) | K beats, padded | V beats, padded*

    A stored scale has 32 bits: mantissa (16 bits, the top ones of the scale's) in the lower, exponent
    (signed, as much larger as bits were dropped) in the upper half; zero is 0. The K scale takes bits 0 to 31
    of the header, the V scale bits 32 to 63; the header takes whole bus words, the rest of the last is zero.

    The vectors wait in a queue for their scales, which may come before, with or after them. The queue holds
    two of the largest records, so the next vectors may go in whole before the scales of these are there.

    Parameters
    ----------
    config : AcceleratorConfig
        Of it: ``bus_bits``, ``vector_lanes``, ``kv_bits``, ``max_head_dim``.

    Members
    -------
    i : In(stream.Signature({q: ArrayLayout(signed(kv_bits), vector_lanes), last: 1}))
        Two packets per record: K, V. At most ``max_head_dim`` elements each, of the same length.
    i_scale : In(stream.Signature({scale: SCALAR}))
        Two per record: K, V.
    o : Out(stream.Signature({data: bus_bits, last: 1}))
        Registered. One packet per record.

    Latency: 2 cycles from the V scale to the header; data follow without a gap as far as they are there.
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
        data_beats = record_beats(self.config, self.config.max_head_dim) - header_beats

        m.submodules.words = words = Upsizer(len(Value.cast(self.i.p.q)), bits)
        m.submodules.queue = queue = Queue(word_layout(bits), max(3, 2 * data_beats))
        m.d.comb += [
            words.i.p.data.eq(Value.cast(self.i.p.q)),
            words.i.p.last.eq(self.i.p.last),
            words.i.valid.eq(self.i.valid),
            self.i.ready.eq(words.i.ready),
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

        free, in_values = Signal(), Signal()
        beat = Signal(range(max(header_beats, 2)))
        header_beat = header if header_beats == 1 else header.word_select(beat, bits)
        m.d.comb += free.eq(self.o.ready | ~self.o.valid)
        with m.If(free):
            m.d.sync += [self.o.valid.eq(0), self.o.p.last.eq(0)]
        with m.FSM():
            with m.State("HEADER"):
                with m.If(free & (scales == 2)):
                    m.d.sync += [self.o.p.data.eq(header_beat), self.o.valid.eq(1)]
                    with m.If(beat == header_beats - 1):
                        m.d.sync += [beat.eq(0), scales.eq(0)]
                        m.next = "DATA"
                    with m.Else():
                        m.d.sync += beat.eq(beat + 1)
            with m.State("DATA"):
                m.d.comb += queue.o.ready.eq(free)
                with m.If(free):
                    m.d.sync += [
                        self.o.valid.eq(queue.o.valid),
                        self.o.p.data.eq(queue.o.p.data),
                        self.o.p.last.eq(queue.o.p.last & in_values),
                    ]
                with m.If(free & queue.o.valid & queue.o.p.last):
                    m.d.sync += in_values.eq(~in_values)
                    with m.If(in_values):
                        m.next = "HEADER"
        return m

    def _stored(self):
        """The scale on ``i_scale`` as a record holds it."""
        scale = self.i_scale.p.scale
        exponent = scale.exponent + STORED_EXPONENT_OFFSET
        largest = (1 << 15) - 1
        word = Cat(scale.mantissa[STORED_EXPONENT_OFFSET:], Mux(exponent > largest, largest, exponent)[:16])
        return Mux(scale.mantissa == 0, 0, word)
