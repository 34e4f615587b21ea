"""Row records: splits them into headers, keys and values."""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..cache.int4 import expanded
from ..config import AcceleratorConfig
from ..integers import ceil_div
from ..kv_records import HEADER_BITS
from .formats import HEADER, beat_numbers, command_layout

__all__ = ["RowSplitter"]


class RowSplitter(wiring.Component):
    """Splits row records ``header, K beats, V beats`` or ``K beats with the header, V beats`` into three streams.

    With ``kv_storage = "int4"`` an element leaves as ``INT4_STEP`` times itself, in 8 bits: what is behind knows beats of twice as many
    bits as a bus word has, and nothing of the format.

    Parameters
    ----------
    config : AcceleratorConfig
        ``bus_bits``, ``max_head_dim``, ``kv_bits``, ``kv_storage``, ``vector_lanes`` and ``max_context`` matter.

    Members
    -------
    i_command : In(stream of command_layout)
        ``rows``, ``beats`` and ``words`` matter. The header is in the top 64 bits of K's last beat if ``words`` leaves
        them free (``header_words`` of the configuration).
    i : In(stream of bus_bits)
        Row after row; a header of its own has 64 bits, ``ceil(64 / bus_bits)`` beats, the rest of its last is not used.
    o_header : Out(stream of HEADER)
        With the last beat of K if it lies there: that beat waits until the header before has gone.
    o_keys, o_values : Out(stream of kv_beat_bits)
        ``kv_lanes`` elements of ``kv_bits``. Zero where the header was.

    Latency: 1 cycle for headers, 0 for keys and values (combinational). Interval: 1 cycle per beat, and one idle cycle between
    operations.

    Bad input: a 4-bit element of -8, which no record has, leaves as -16.
    """

    latency = 1
    interval = 1

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        beat = stream.Signature(config.kv_beat_bits)
        super().__init__({
            "i_command": In(stream.Signature(command_layout(config))),
            "i": In(stream.Signature(config.bus_bits)),
            "o_header": Out(stream.Signature(HEADER)),
            "o_keys": Out(beat),
            "o_values": Out(beat),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "RowSplitter":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        width, room = self.config.bus_bits, self.config.header_words
        parts = self.config.kv_lanes // self.config.vector_lanes
        header_beats = ceil_div(HEADER_BITS, width)
        command = Signal(command_layout(self.config))
        row = Signal(range(self.config.max_context))
        beat = Signal(range(max(len(beat_numbers(self.config)), header_beats)))
        header = self.o_header.p.as_value()
        last = beat == command.beats - 1
        in_tail = Signal() if room else Const(0)
        packed = self.config.kv_storage == "int4"
        elements = Cat(expanded(self.i.p[at:at + 4]) for at in range(0, width, 4)) if packed else self.i.p
        m.d.comb += [self.o_keys.p.eq(elements), self.o_values.p.eq(elements)]
        if room:
            with m.If(in_tail & last):
                m.d.comb += self.o_keys.p[-HEADER_BITS * self.config.kv_bits // self.config.stored_kv_bits:].eq(0)
        with m.If(self.o_header.ready):
            m.d.sync += self.o_header.valid.eq(0)
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += beat.eq(beat + 1)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.i_command.ready.eq(1)
                m.d.sync += [command.eq(self.i_command.p), row.eq(0)]
                with m.If(self.i_command.valid):
                    m.next = "HEADER"
                if room:
                    last_word = (self.i_command.p.words - 1)[:parts.bit_length() - 1]
                    m.d.sync += in_tail.eq(last_word < room)
                    with m.If(self.i_command.valid & (last_word < room)):
                        m.next = "KEYS"
            with m.State("HEADER"):
                m.d.comb += self.i.ready.eq(self.o_header.ready | ~self.o_header.valid)
                with m.If(self.i.valid & self.i.ready):
                    for k in range(header_beats):
                        with m.If(beat == k):
                            m.d.sync += header[k * width:(k + 1) * width].eq(self.i.p)
                    with m.If(beat == header_beats - 1):
                        m.d.sync += [self.o_header.valid.eq(1), beat.eq(0)]
                        m.next = "KEYS"
            with m.State("KEYS"):
                free = ~(in_tail & last & self.o_header.valid)
                m.d.comb += [self.o_keys.valid.eq(self.i.valid & free), self.i.ready.eq(self.o_keys.ready & free)]
                with m.If(self.i.valid & self.i.ready & last):
                    m.d.sync += beat.eq(0)
                    if room:
                        with m.If(in_tail):
                            m.d.sync += [header.eq(self.i.p[-HEADER_BITS:]), self.o_header.valid.eq(1)]
                    m.next = "VALUES"
            with m.State("VALUES"):
                m.d.comb += [self.o_values.valid.eq(self.i.valid), self.i.ready.eq(self.o_values.ready)]
                with m.If(self.i.valid & self.i.ready & last):
                    m.d.sync += [beat.eq(0), row.eq(row + 1)]
                    m.next = "HEADER"
                    with m.If(in_tail):
                        m.next = "KEYS"
                    with m.If(row == command.rows - 1):
                        m.next = "IDLE"
        return m
