"""Moves rows of every head of every layer: copies on write, swaps to and from a second region of memory."""

from amaranth.hdl import Array, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..checks import check_int
from ..config import AcceleratorConfig
from ..memory.bursts import ADDRESS_BITS, BURST_COMMAND
from ..numerics.pipelined import LIMB_BITS, unsigned_product
from ..pipeline import Pipeline
from ..streams import StreamBuffer, connect, word_layout

__all__ = ["RowMover", "move_layout"]

HEADS_BITS = 16


def move_layout(rows: int) -> data.StructLayout:
    """``rows`` rows from row ``source`` of region ``from_region`` on, to row ``target`` of region ``to_region`` and on."""
    each = range(rows + 1)
    return data.StructLayout({"from_region": 1, "to_region": 1, "source": each, "target": each, "rows": each})


class RowMover(wiring.Component):
    """Reads rows of a K/V region and writes them elsewhere, head after head: one read and one write command for each head.

    A region is laid out as ``ContiguousCache`` has it, heads of all layers ``head_stride`` bytes apart. Region 0 is the cache, region 1
    another place in memory: a copy on write moves within region 0, swapping (FastSwitch, arXiv:2411.18424) between them, and a run
    of blocks that lie one behind the other is one command::

        i_command -> products -> for each head: o_read, o_write
        i_data (of the reader) ----------------> o_data (of the writer)
        i_written, one for each write ---------> o_done, when the last one has come

    Parameters
    ----------
    config : AcceleratorConfig
        ``bus_bits``, ``max_head_dim`` and ``kv_bits`` matter.
    rows : int
        Most rows of a region, 1 to 2**20; with the longest record they must take fewer than 2**24 beats.

    Members
    -------
    i_command : In(stream of move_layout); o_done : Out(stream of {error})
        ``error``: a write had an error response. A command of no rows moves nothing.
    o_read, o_write : Out(stream of BURST_COMMAND)
    i_data : In(stream of word_layout); o_data : Out(stream of word_layout)
        What was read goes out as it comes, packet by packet.
    i_written : In(stream of {error})
        One for each write command.
    base, head_stride : In(2 x 32)
        Of both regions: byte address of head 0, bytes from one head to the next; multiples of the bus word.
    heads : In(16)
        K/V heads of all layers, at least 1.
    record_beats : In
        Bus words of a record. All plain inputs stand still while a command is under way.

    Source and target may overlap in no row. Latency: ``latency`` cycles from a command to its first read. Interval: 2 cycles for each
    head and what the data take.
    """

    interval = None

    def __init__(self, config: AcceleratorConfig, rows: int | None = None):
        rows = config.max_context if rows is None else rows
        check_int("rows", rows, 1, min(1 << 20, ((1 << 24) - 1) // config.max_record_beats))
        self.config = config
        self.product_latency = 1 if rows.bit_length() <= LIMB_BITS else 2
        self.latency = self.product_latency + 4
        done = data.StructLayout({"error": 1})
        super().__init__({
            "i_command": In(stream.Signature(move_layout(rows))),
            "o_done": Out(stream.Signature(done)),
            "o_read": Out(stream.Signature(BURST_COMMAND)),
            "o_write": Out(stream.Signature(BURST_COMMAND)),
            "i_data": In(stream.Signature(word_layout(config.bus_bits))),
            "o_data": Out(stream.Signature(word_layout(config.bus_bits))),
            "i_written": In(stream.Signature(done)),
            "base": In(data.ArrayLayout(ADDRESS_BITS, 2)), "head_stride": In(data.ArrayLayout(ADDRESS_BITS, 2)),
            "heads": In(HEADS_BITS), "record_beats": In(range(config.max_record_beats + 1)),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "RowMover":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        m.submodules.words = words = StreamBuffer(self.i_data.p.shape())
        connect(m, wiring.flipped(self.i_data), words.i)
        connect(m, words.o, wiring.flipped(self.o_data))
        word = (self.config.bus_bits // 8).bit_length() - 1
        command = Signal.like(self.i_command.p)
        reads, writes = Signal(ADDRESS_BITS - word), Signal(ADDRESS_BITS - word)  # addresses in bus words
        beats, step = Signal(24), Signal(range(self.product_latency + 3))
        left, owed, begun = Signal(HEADS_BITS), Signal(HEADS_BITS), Signal()
        # One multiplier for rows, source and target, one after another.
        factor = Array([command.rows, command.source, command.target])[step]
        product, latency = unsigned_product(Pipeline(m), factor, self.record_beats)
        assert latency == self.product_latency
        for port, address in ((self.o_read, reads), (self.o_write, writes)):
            m.d.comb += [port.p.address.eq(address << word), port.p.beats.eq(beats)]
        m.d.comb += self.i_written.ready.eq(1)
        m.d.sync += owed.eq(owed + begun - self.i_written.valid)
        with m.If(self.i_written.valid & self.i_written.p.error):
            m.d.sync += self.o_done.p.error.eq(1)

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.i_command.ready.eq(1)
                m.d.sync += [
                    command.eq(self.i_command.p), left.eq(self.heads), step.eq(0),
                    reads.eq(self.base[self.i_command.p.from_region][word:]), writes.eq(self.base[self.i_command.p.to_region][word:]),
                    self.o_done.p.error.eq(0),
                ]
                with m.If(self.i_command.valid):
                    m.next = "MULTIPLY"
            with m.State("MULTIPLY"):
                m.d.sync += step.eq(step + 1)
                with m.If(step == self.product_latency):
                    m.d.sync += beats.eq(product)
                with m.If(step == self.product_latency + 1):
                    m.d.sync += reads.eq(reads + product)
                with m.If(step == self.product_latency + 2):
                    m.d.sync += writes.eq(writes + product)
                    m.next = "READ"
            with m.State("READ"):
                m.d.comb += self.o_read.valid.eq(beats != 0)
                with m.If(self.o_read.ready):
                    m.next = "WRITE"
                with m.If(beats == 0):
                    m.next = "DONE"
            with m.State("WRITE"):
                m.d.comb += self.o_write.valid.eq(1)
                with m.If(self.o_write.ready):
                    m.d.comb += begun.eq(1)
                    m.d.sync += [left.eq(left - 1), reads.eq(reads + self.head_stride[command.from_region][word:]),
                                 writes.eq(writes + self.head_stride[command.to_region][word:])]
                    m.next = "READ"
                    with m.If(left == 1):
                        m.next = "WRITTEN"
            with m.State("WRITTEN"):
                with m.If(owed == 0):
                    m.next = "DONE"
            with m.State("DONE"):
                m.d.comb += self.o_done.valid.eq(1)
                with m.If(self.o_done.ready):
                    m.next = "IDLE"
        return m
