"""Requests to an SDRAM in their order, cut into segments."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..streams import Queue, StreamBuffer, connect
from .bursts import ADDRESS_BITS
from .sdram_chips import SdramConfig

__all__ = ["ANSWERS", "LONGEST_BURST", "SEGMENT_BEATS", "SdramRequests", "segment_layout"]

LONGEST_BURST = 256
ANSWERS = 4
"""Writes under way whose answers have not left."""

SEGMENT_BEATS = 16


def _page_bits(config: SdramConfig) -> tuple[int, int]:
    """Address bits within a bus word, and those of a bus word within a page."""
    word = config.bus_bytes.bit_length() - 1
    return word, config.data_sheet.column_bits + 1 - word


def segment_layout(config: SdramConfig) -> data.StructLayout:
    """Beats of a request that lie in one page: ``length`` is their number less one, ``column`` counts bus words; ``last`` marks the
    final segment of a request; ``outside``: behind the end of the chip."""
    return data.StructLayout({
        "write": 1, "outside": 1, "last": 1, "id": config.id_bits, "column": _page_bits(config)[1], "bank": 2,
        "row": config.data_sheet.row_bits, "length": range(SEGMENT_BEATS)})


class SdramRequests(wiring.Component):
    """Reads and writes, in turns when both ask; a write when all its data are in the controller's queue and its answer has room.

    Parameters
    ----------
    config : SdramConfig

    Members
    -------
    i_read, i_write : In(stream of {id, address: 32, length: 8})
        AR and AW; ``length`` is beats less one. ``i_read.ready`` does not depend on ``i_read.valid``.
    beat, answered : In(1)
        A beat of a write went into the queue; an answer left.
    o : Out(stream of segment_layout)
        Segments end at multiples of 16 beats. From a register, which is empty for a cycle between two segments.

    Latency: 2 cycles. Interval: 2 cycles per segment.
    """

    latency = 2
    interval = 2

    def __init__(self, config: SdramConfig):
        self.config = config
        self._address = data.StructLayout({"id": config.id_bits, "address": ADDRESS_BITS, "length": 8})
        super().__init__({
            "i_read": In(stream.Signature(self._address)), "i_write": In(stream.Signature(self._address)),
            "beat": In(1), "answered": In(1), "o": Out(stream.Signature(segment_layout(config))),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.addresses = addresses = Queue(self._address, ANSWERS)
        m.submodules.ordered = ordered = StreamBuffer(data.StructLayout({"write": 1, "request": self._address}))
        connect(m, wiring.flipped(self.i_write), addresses.i)
        read, write = self.i_read, addresses.o
        grant_write = Signal()
        arrived = Signal(range(2 * LONGEST_BURST))  # beats that belong to no granted write
        enough, room, turn = Signal(), Signal(init=1), Signal()
        answers = Signal(range(ANSWERS + 1))  # writes granted and not answered
        with m.If(grant_write):
            m.d.sync += [arrived.eq(arrived + self.beat - write.p.length - 1), enough.eq(0)]
        with m.Else():
            m.d.sync += [arrived.eq(arrived + self.beat), enough.eq(write.valid & (arrived > write.p.length))]
        m.d.sync += [answers.eq(answers + grant_write - self.answered), room.eq(answers < ANSWERS - 1)]
        may_write = enough & room
        m.d.comb += [
            grant_write.eq(ordered.i.ready & may_write & (turn | ~read.valid)),
            read.ready.eq(ordered.i.ready & ~(may_write & turn)), write.ready.eq(grant_write),
            ordered.i.valid.eq(grant_write | (read.valid & read.ready)), ordered.i.p.write.eq(grant_write),
            ordered.i.p.request.eq(Mux(grant_write, write.p.as_value(), read.p.as_value())),
        ]
        with m.If(ordered.i.valid & ordered.i.ready):
            m.d.sync += turn.eq(~grant_write)
        self._split(m, ordered.o)
        return m

    def _split(self, m, ordered):
        """Segments of a request, one after another."""
        (word_bits, page), block = _page_bits(self.config), SEGMENT_BEATS.bit_length() - 1
        rows = page + 2 + self.config.data_sheet.row_bits
        segment, request = self.o, ordered.p.request
        begun, word, left = Signal(), Signal(ADDRESS_BITS - word_bits), Signal(8)
        here, beats = Signal.like(word), Signal(8)
        room = Signal(block)  # beats to the next multiple of a segment, less one
        final = Signal()
        m.d.comb += [
            here.eq(Mux(begun, word, request.address[word_bits:])), beats.eq(Mux(begun, left, request.length)),
            room.eq(~here[:block]), final.eq(beats <= room), ordered.ready.eq(final & ~segment.valid),
        ]
        with m.If(segment.ready):
            m.d.sync += segment.valid.eq(0)
        with m.If(ordered.valid & ~segment.valid):
            m.d.sync += [
                segment.valid.eq(1), segment.p.write.eq(ordered.p.write), segment.p.id.eq(request.id), segment.p.last.eq(final),
                segment.p.length.eq(Mux(final, beats, room)), segment.p.column.eq(here[:page]),
                segment.p.bank.eq(here[page:page + 2]), segment.p.row.eq(here[page + 2:rows]),
                segment.p.outside.eq(here[rows:].any()),
                begun.eq(~final), word.eq(Cat(Const(0, block), here[block:] + 1)), left.eq(beats - room - 1),
            ]
