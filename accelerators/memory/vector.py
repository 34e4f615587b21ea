"""Vector memory: one bank of int32 per token lane, one read stream, one write stream, one port for matrix results."""

from functools import reduce
from operator import or_

from amaranth.hdl import Array, Module, Mux, Signal, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig, ceil_div

__all__ = ["VectorMemory", "access_layout", "vector_word"]


def vector_word(lanes: int) -> data.StructLayout:
    """One word of a vector stream: ``lanes`` signed 32-bit elements and ``last``."""
    return data.StructLayout({"x": data.ArrayLayout(signed(32), lanes), "last": 1})


def access_layout(config: AcceleratorConfig) -> data.StructLayout:
    """Command of a read or write stream; see ``VectorMemory``."""
    return data.StructLayout({"token": range(max(config.token_lanes, 2)), "base": 16, "words": 16, "paired": 1,
                              "offset": 16})


class _Address(wiring.Component):
    """Walks the word addresses of one access: base + i, or base + i and base + offset + i in turn when paired.

    An access ends after ``words`` (``until_end=False``) or with the step at which ``end`` is high.
    """

    def __init__(self, config: AcceleratorConfig, *, until_end: bool):
        self.until_end = until_end
        super().__init__({
            "i_command": In(stream.Signature(access_layout(config))),
            "o": Out(stream.Signature(data.StructLayout({
                "token": range(max(config.token_lanes, 2)), "address": 16, "last": 1, "beyond": 1}))),
            "end": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        command = Signal.like(self.i_command.p)
        active, second = Signal(), Signal()
        index, address = Signal(16), Signal(16)
        final = Signal()
        m.d.comb += [
            final.eq((index == command.words) & (second | ~command.paired)),
            self.o.valid.eq(active),
            self.o.p.token.eq(command.token),
            self.o.p.address.eq(Mux(second, address + command.offset, address)),
            self.o.p.last.eq(final),
            self.o.p.beyond.eq(index > command.words),
        ]
        step = Signal()
        m.d.comb += step.eq(self.o.valid & self.o.ready)
        done = Signal()
        m.d.comb += [done.eq(step & (self.end if self.until_end else final)), self.i_command.ready.eq(~active)]
        with m.If(step):
            m.d.sync += second.eq(~second & command.paired)
            with m.If(second | ~command.paired):
                m.d.sync += [index.eq(index + 1), address.eq(address + 1)]
        with m.If(done):
            m.d.sync += active.eq(0)
        with m.If(self.i_command.valid & ~active):
            m.d.sync += [command.eq(self.i_command.p), active.eq(1), second.eq(0), index.eq(1),
                         address.eq(self.i_command.p.base)]
        return m


class VectorMemory(wiring.Component):
    """Scratch memory of the elementwise units and target of the ternary engine.

    Parameters
    ----------
    config : AcceleratorConfig
        ``token_lanes`` banks of ``vector_memory`` int32 elements, ``vector_lanes`` per word.

    Members
    -------
    i_read, i_write_access : In(stream of access_layout)
        ``token``: bank; ``base``: first word; ``words``: number of words (1 or more), of each half when ``paired``, and then
        the words ``base + i`` and ``base + offset + i`` (modulo 2**16) take turns.
    o : Out(stream of vector_word)
        The words of the read accesses, ``last`` on the final word of each.
    i : In(stream of vector_word)
        Words to write. A write access ends with the word that carries ``last``; an unpaired packet longer than ``words`` is
        cut to it. A packet shorter than ``words`` leaves the remaining words as they are.
    i_sums_access : In(stream of {base, split})
        Announces one matrix result: ``base`` is its first word, ``split`` the row groups of the first of its two vectors.
    i_sums : In(stream of {sums: token_lanes * table_rows x signed(sum_bits), last})
        One row group of all token lanes, written to all banks at once.
    magnitude_bits : Out, token_lanes x {first: 6, second: 6}
        Bit lengths of the largest magnitudes before and from ``split`` in the latest result; valid while ``sums_busy`` is 0.
    write_busy, sums_busy : Out(1)
        An announced write (result) has not been written completely.

    Latency: 3 cycles from a read command to its first word. Interval: one word per cycle and one cycle more per access; reads,
    writes and results do not slow each other. A read sees a word from the cycle after it was accepted on ``i`` or
    ``i_sums``. Writes on ``i`` and ``i_sums`` never come together (``i`` waits while a result is announced).
    """

    latency = 3
    interval = 1

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        lanes, tokens = config.vector_lanes, config.token_lanes
        super().__init__({
            "i_read": In(stream.Signature(access_layout(config))),
            "o": Out(stream.Signature(vector_word(lanes))),
            "i_write_access": In(stream.Signature(access_layout(config))),
            "i": In(stream.Signature(vector_word(lanes))),
            "i_sums_access": In(stream.Signature(data.StructLayout({"base": 16, "split": 16}))),
            "i_sums": In(stream.Signature(data.StructLayout({
                "sums": data.ArrayLayout(signed(config.sum_bits), tokens * config.table_rows), "last": 1}))),
            "magnitude_bits": Out(data.ArrayLayout(data.StructLayout({"first": 6, "second": 6}), tokens)),
            "write_busy": Out(1),
            "sums_busy": Out(1),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "VectorMemory":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        config = self.config
        lanes, tokens, rows = config.vector_lanes, config.token_lanes, config.table_rows
        depth = ceil_div(config.vector_memory, lanes)
        banks = []
        for token in range(tokens):
            bank = memory.Memory(shape=data.ArrayLayout(signed(32), lanes), depth=depth, init=[])
            m.submodules[f"bank_{token}"] = bank
            banks.append((bank.read_port(), bank.write_port(granularity=1)))

        # Reads: address, memory output, registered selection of the bank; all three stages move together.
        m.submodules.read = read = _Address(config, until_end=False)
        wiring.connect(m, wiring.flipped(self.i_read), read.i_command)
        advance = Signal()
        at_memory = Signal(data.StructLayout({"valid": 1, "token": range(max(tokens, 2)), "last": 1}))
        m.d.comb += [advance.eq(~self.o.valid | self.o.ready), read.o.ready.eq(advance)]
        for read_port, _ in banks:
            m.d.comb += [read_port.addr.eq(read.o.p.address), read_port.en.eq(advance)]
        with m.If(advance):
            m.d.sync += [
                at_memory.valid.eq(read.o.valid),
                at_memory.token.eq(read.o.p.token),
                at_memory.last.eq(read.o.p.last),
                self.o.valid.eq(at_memory.valid),
                self.o.p.last.eq(at_memory.last),
                self.o.p.x.eq(Array([port.data.as_value() for port, _ in banks])[at_memory.token]),
            ]

        # Results of the matrix engine: every bank takes table_rows elements of its own token.
        base, group, split = Signal(16), Signal(range(config.max_vector * 16)), Signal(16)
        ratio_bits = (lanes // rows).bit_length() - 1
        m.d.comb += [self.i_sums_access.ready.eq(~self.sums_busy), self.i_sums.ready.eq(self.sums_busy)]
        ones = [[Signal(config.sum_bits - 1, name=f"magnitude_{token}_{half}") for half in range(2)]
                for token in range(tokens)]
        with m.If(self.i_sums_access.valid & ~self.sums_busy):
            m.d.sync += [self.sums_busy.eq(1), base.eq(self.i_sums_access.p.base), group.eq(0),
                         split.eq(self.i_sums_access.p.split)]
            m.d.sync += [bits.eq(0) for pair in ones for bits in pair]
        sums_step = Signal()
        m.d.comb += sums_step.eq(self.i_sums.valid & self.sums_busy)
        with m.If(sums_step):
            m.d.sync += group.eq(group + 1)
            with m.If(self.i_sums.p.last):
                m.d.sync += self.sums_busy.eq(0)

        # Writes of the elementwise units: one bank.
        m.submodules.write = write = _Address(config, until_end=True)
        wiring.connect(m, wiring.flipped(self.i_write_access), write.i_command)
        m.d.comb += [
            self.i.ready.eq(write.o.valid & ~self.sums_busy),
            write.o.ready.eq(self.i.valid & ~self.sums_busy),
            self.write_busy.eq(write.o.valid | self.i_write_access.valid),
        ]
        m.d.comb += write.end.eq(self.i.p.last)
        write_step = Signal()
        m.d.comb += write_step.eq(self.i.valid & self.i.ready)

        for token, (_, port) in enumerate(banks):
            mine = self.i_sums.p.sums
            elements = [mine[token * rows + row] for row in range(rows)]
            with m.If(self.sums_busy):
                lane_group = group[:ratio_bits] if ratio_bits else 0
                m.d.comb += port.addr.eq(base + (group >> ratio_bits))
                for lane in range(lanes):
                    m.d.comb += port.data[lane].eq(elements[lane % rows])
                    selected = (lane_group == lane // rows) if ratio_bits else 1
                    m.d.comb += port.en[lane].eq(sums_step & selected)
            with m.Else():
                m.d.comb += [port.addr.eq(write.o.p.address), port.data.eq(self.i.p.x)]
                hit = write_step & (write.o.p.token == token) & ~write.o.p.beyond
                m.d.comb += port.en.eq(Mux(hit, (1 << lanes) - 1, 0))
            with m.If(sums_step):
                sizes = [Mux(value < 0, -value, value)[:config.sum_bits - 1] for value in elements]
                for half, here in enumerate((group < split, group >= split)):
                    with m.If(here):
                        m.d.sync += ones[token][half].eq(reduce(or_, sizes, ones[token][half]))
            for half, name in enumerate(("first", "second")):
                bits = self.magnitude_bits[token][name]
                for position in range(config.sum_bits - 1):
                    with m.If(ones[token][half][position]):
                        m.d.comb += bits.eq(position + 1)
        return m
