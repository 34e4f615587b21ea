"""Partial results of attention on their way to memory and back."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import PART_BITS, AcceleratorConfig
from ..streams import Downsizer, Upsizer, connect, word_layout
from .formats import part_streams, row_sum_bits

__all__ = ["PartPacker", "PartUnpacker", "stored_state"]


def stored_state(config: AcceleratorConfig) -> data.StructLayout:
    """The state of a lane as the first word of its part has it: the sum in 64 bits, then what the other 64 bits need; the rest of the
    word is 0."""
    bits = row_sum_bits(config)
    return data.StructLayout({"sum": bits, "free": PART_BITS - bits, "exponent": signed(16), "maximum": signed(16), "defined": 1})


class PartPacker(wiring.Component):
    """Makes bus words of the partial results of lanes, each a packet of whole bus words::

        word 0      sum (64 bits) | exponent (16, signed) | maximum (16, signed) | defined (1) | zeros
        word 1 ..   vector_lanes weighted sums, 64 bits each, signed, the first one lowest

    A word has ``vector_lanes`` times 64 bits, lowest bits first; what is left of the last bus word is zero.

    Parameters
    ----------
    config : AcceleratorConfig
        ``vector_lanes``, ``bus_bits`` and the widths of sums matter.

    Members
    -------
    i_part : In(stream of partial_layout)
        One per lane.
    i_sums : In(stream of mixed_layout)
        Its weighted sums, behind its state.
    o : Out(stream.Signature({data: bus_bits, last: 1}))
        Registered.

    Latency: 1 cycle. Interval: 1 cycle per word or per bus word, whichever are more.
    """

    latency = 1
    interval = None

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__({
            **part_streams("i", config),
            "o": Out(stream.Signature(word_layout(config.bus_bits))),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "PartPacker":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        bits, bus = self.config.part_word_bits, self.config.bus_bits
        m.submodules.resize = resize = Downsizer(bits, bus) if bits > bus else Upsizer(bits, bus)
        connect(m, resize.o, wiring.flipped(self.o))
        state, in_sums = Signal(stored_state(self.config)), Signal()
        m.d.comb += [state[name].eq(self.i_part.p[name]) for name in self.i_part.p.shape().members]
        with m.If(in_sums):
            m.d.comb += [resize.i.valid.eq(self.i_sums.valid), self.i_sums.ready.eq(resize.i.ready),
                         *(resize.i.p.data[i * PART_BITS:(i + 1) * PART_BITS].eq(value) for i, value in enumerate(self.i_sums.p.sums)),
                         resize.i.p.last.eq(self.i_sums.p.last)]
        with m.Else():
            m.d.comb += [resize.i.valid.eq(self.i_part.valid), self.i_part.ready.eq(resize.i.ready), resize.i.p.data.eq(state)]
        with m.If(resize.i.valid & resize.i.ready):
            m.d.sync += in_sums.eq(~resize.i.p.last)
        return m


class PartUnpacker(wiring.Component):
    """Takes what ``PartPacker`` made.

    Parameters
    ----------
    config : AcceleratorConfig
        As of ``PartPacker``.

    Members
    -------
    words : In(16)
        Words of weighted sums of a lane; steady while a packet is inside.
    i : In(stream.Signature({data: bus_bits, last: 1}))
        A packet per lane, as long as ``words`` says.
    o_part : Out(stream of partial_layout)
    o_sums : Out(stream of mixed_layout)

    Latency: 1 cycle. Interval: 1 cycle per word or per bus word, whichever are more.
    """

    latency = 1
    interval = None

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__({
            "words": In(16),
            "i": In(stream.Signature(word_layout(config.bus_bits))),
            **part_streams("o", config),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "PartUnpacker":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        bits, bus = self.config.part_word_bits, self.config.bus_bits
        m.submodules.resize = resize = Upsizer(bus, bits) if bits > bus else Downsizer(bus, bits)
        connect(m, wiring.flipped(self.i), resize.i)
        word, number = resize.o, Signal(16)
        state = Signal(stored_state(self.config))
        beyond = number > self.words  # zeros that fill the last bus word
        m.d.comb += [
            state.eq(word.p.data[:len(state.as_value())]),
            *(self.o_part.p[name].eq(state[name]) for name in self.o_part.p.shape().members),
            self.o_part.valid.eq(word.valid & (number == 0)),
            self.o_sums.valid.eq(word.valid & (number != 0) & ~beyond), self.o_sums.p.last.eq(number == self.words),
            *(value.eq(word.p.data[i * PART_BITS:(i + 1) * PART_BITS]) for i, value in enumerate(self.o_sums.p.sums)),
            word.ready.eq(Mux(number == 0, self.o_part.ready, self.o_sums.ready | beyond)),
        ]
        with m.If(word.valid & word.ready):
            m.d.sync += number.eq(Mux(word.p.last, 0, number + 1))
        return m
