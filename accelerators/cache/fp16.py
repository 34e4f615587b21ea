"""K/V records of fp16 elements that pass through unchanged, for designs that bring an attention of their own."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..checks import check_int
from ..config import AcceleratorConfig
from ..streams import Upsizer, word_layout

__all__ = ["Fp16Packer", "Fp16Splitter"]


class Fp16Packer(wiring.Component):
    """Makes one K/V record of a key vector and a value vector of fp16 elements.

    ::

        i   K K K K*  V V V V*                        * = last
        o   K beats, padded | V beats, padded*

    No bit of an element is looked at: NaN with their payloads, infinities, subnormals and the sign of zero stay what they are. There
    are no scales and so no header. ``fp16_record_beats`` counts the words of a record: all that a cache controller knows of it. Give
    the controller a configuration with ``kv_bits = 16``, whose records are never shorter.

    Parameters
    ----------
    bus_bits : int
        Memory word, 32 to 512, a power of two.
    vector_lanes : int
        Elements per input word (V), 1 to 64; ``16 * vector_lanes`` divides ``bus_bits``.

    Members
    -------
    i : In(stream.Signature({x: ArrayLayout(16, vector_lanes), last: 1}))
        Two packets per record: K, V, of the same length.
    o : Out(stream.Signature({data: bus_bits, last: 1}))
        One packet per record.

    Latency: 1 cycle from the input word that completes a beat. Interval: 1 cycle per input word.
    ``i.ready`` depends on ``o.ready`` within the cycle.
    """

    latency = 1
    interval = 1

    def __init__(self, bus_bits: int, vector_lanes: int):
        check_int("bus_bits", bus_bits, 32, 512, power_of_two=True)
        check_int("vector_lanes", vector_lanes, 1, 64)
        if bus_bits % (16 * vector_lanes):
            raise ValueError(f"16 * vector_lanes must divide bus_bits, not {16 * vector_lanes} and {bus_bits}")
        super().__init__({
            "i": In(stream.Signature(data.StructLayout({"x": data.ArrayLayout(16, vector_lanes), "last": 1}))),
            "o": Out(stream.Signature(word_layout(bus_bits))),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "Fp16Packer":
        return cls(config.bus_bits, config.vector_lanes)

    def elaborate(self, platform):
        m = Module()
        elements = self.i.p.x.as_value()
        m.submodules.words = words = Upsizer(len(elements), len(self.o.p.data))
        in_values = Signal()
        m.d.comb += [
            words.i.p.data.eq(elements), words.i.p.last.eq(self.i.p.last),
            words.i.valid.eq(self.i.valid), self.i.ready.eq(words.i.ready),
            self.o.p.data.eq(words.o.p.data), self.o.p.last.eq(words.o.p.last & in_values),
            self.o.valid.eq(words.o.valid), words.o.ready.eq(self.o.ready),
        ]
        with m.If(words.o.valid & words.o.ready & words.o.p.last):
            m.d.sync += in_values.eq(~in_values)
        return m


class Fp16Splitter(wiring.Component):
    """Splits records of an ``Fp16Packer`` into keys and values.

    Parameters
    ----------
    bus_bits : int
        Memory word, 32 to 512, a power of two.
    rows : int
        Most records of a command, 1 to 2**20.

    Members
    -------
    i_command : In(stream.Signature({rows, beats: 16}))
        Records that follow, and beats of K (= of V) in each; both at least 1. Others are not checked.
    i : In(stream.Signature(bus_bits))
        Row after row.
    o_keys, o_values : Out(stream.Signature({data: bus_bits, last: 1}))
        Element 0 in the lowest bits; ``last`` on the last beat of a vector, whose padding is zero.

    Latency: 0 (combinational). Interval: 1 cycle per beat, and one idle cycle between commands.
    """

    latency = 0
    interval = 1

    def __init__(self, bus_bits: int, rows: int):
        check_int("bus_bits", bus_bits, 32, 512, power_of_two=True)
        check_int("rows", rows, 1, 1 << 20)
        command = data.StructLayout({"rows": range(rows + 1), "beats": 16})
        super().__init__({
            "i_command": In(stream.Signature(command)),
            "i": In(stream.Signature(bus_bits)),
            "o_keys": Out(stream.Signature(word_layout(bus_bits))),
            "o_values": Out(stream.Signature(word_layout(bus_bits))),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "Fp16Splitter":
        return cls(config.bus_bits, config.max_context)

    def elaborate(self, platform):
        m = Module()
        active, in_values, beat = Signal(), Signal(), Signal(16)
        rows, last_beat = Signal.like(self.i_command.p.rows), Signal.like(beat)  # rows left, this one included
        last, ready = beat == last_beat, Signal()
        m.d.comb += [
            self.i_command.ready.eq(~active),
            self.o_keys.p.data.eq(self.i.p), self.o_keys.p.last.eq(last),
            self.o_values.p.data.eq(self.i.p), self.o_values.p.last.eq(last),
            self.o_keys.valid.eq(self.i.valid & active & ~in_values),
            self.o_values.valid.eq(self.i.valid & active & in_values),
            ready.eq((self.o_keys.ready & ~in_values) | (self.o_values.ready & in_values)),
            self.i.ready.eq(active & ready),
        ]
        with m.If(self.i_command.valid & ~active):
            m.d.sync += [active.eq(1), rows.eq(self.i_command.p.rows), last_beat.eq(self.i_command.p.beats - 1)]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += beat.eq(beat + 1)
            with m.If(last):
                m.d.sync += [beat.eq(0), in_values.eq(~in_values)]
                with m.If(in_values):
                    m.d.sync += [rows.eq(rows - 1), active.eq(rows != 1)]
        return m
