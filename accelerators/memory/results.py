"""Results of the ternary engine on their way into vector memory: row groups become words, magnitudes are measured."""

from functools import reduce
from itertools import pairwise
from operator import or_

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig
from .layout import VectorLayout

__all__ = ["ResultCollector", "magnitude_layout", "result_access_layout", "sums_word"]


def result_access_layout(config: AcceleratorConfig) -> data.StructLayout:
    """Announcement of a matrix result; see ``VectorMemory``."""
    return data.StructLayout({"chunk": range(max(config.chunks, 2)), "base": 16, "split": 16})


def sums_word(config: AcceleratorConfig) -> data.StructLayout:
    """A row group of all token lanes."""
    return data.StructLayout({"sums": data.ArrayLayout(signed(config.sum_bits), config.token_lanes * config.table_rows),
                              "last": 1})


def magnitude_layout(config: AcceleratorConfig) -> data.ArrayLayout:
    """Bit lengths of the two vectors of a result, per slot."""
    return data.ArrayLayout(data.StructLayout({"first": 6, "second": 6}), config.token_slots)


class ResultCollector(wiring.Component):
    """Turns row groups of all token lanes into words, and writes the words of the lanes that share a bank in turn.

    The sums of the lane with turn ``k`` of a bank are delayed by ``k`` cycles. So its words are complete ``k`` cycles after
    those of the first lane, when the write port of the bank is free for them. All banks write the same turn at a time.

    Parameters
    ----------
    config : AcceleratorConfig

    Members
    -------
    i_access : In(stream of result_access_layout); i_sums : In(stream of sums_word)
        See ``VectorMemory``.
    into : Out(chunks)
        A word for the banks of this chunk is on ``words`` in this cycle.
    turn : Out(sharing)
        Which lane of each bank it belongs to, one bit each.
    address : Out(16)
        Its address in the banks.
    words : Out, per bank vector_lanes x signed(sum_bits)
    chunk : Out(range(chunks))
        Of the latest announced result.
    busy, done : Out(1)
        See ``sums_busy`` and ``sums_done`` of ``VectorMemory``.
    magnitude_bits : Out(magnitude_layout)

    Latency: 1 cycle from the row group that completes a word to the first turn, and ``VectorLayout.done`` cycles from the last
    row group to ``done``. Interval: one row group per cycle, and ``VectorLayout.done + 2`` cycles from the last row group of a
    result to the first one of the next.
    """

    latency = 1
    interval = 1

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        layout = VectorLayout(config)
        word = data.ArrayLayout(signed(config.sum_bits), config.vector_lanes)
        super().__init__({
            "i_access": In(stream.Signature(result_access_layout(config))),
            "i_sums": In(stream.Signature(sums_word(config))),
            "into": Out(config.chunks), "turn": Out(layout.sharing), "address": Out(16),
            "words": Out(data.ArrayLayout(word, layout.banks)),
            "chunk": Out(range(max(config.chunks, 2))), "busy": Out(1), "done": Out(1),
            "magnitude_bits": Out(magnitude_layout(config)),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "ResultCollector":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        config, layout = self.config, VectorLayout(self.config)
        rows, width = config.table_rows, config.sum_bits

        # From the announcement to the last row group, and on until everything is written.
        started, taken, collecting = Signal(), Signal(), Signal()
        ending = Signal(layout.done)
        m.d.comb += [
            started.eq(self.i_access.valid & ~self.busy), self.i_access.ready.eq(~self.busy),
            taken.eq(self.i_sums.valid & collecting), self.i_sums.ready.eq(collecting),
            self.done.eq(ending[-1]),
        ]
        m.d.sync += ending.eq(Cat(taken & self.i_sums.p.last, ending))
        with m.If(started):
            m.d.sync += [self.busy.eq(1), collecting.eq(1), self.chunk.eq(self.i_access.p.chunk)]
        with m.If(taken & self.i_sums.p.last):
            m.d.sync += collecting.eq(0)
        with m.If(self.done):
            m.d.sync += self.busy.eq(0)

        # Words: the earlier row groups of each lane in registers, the last one as it comes.
        position = Signal(range(max(layout.groups, 2)))
        ends = position == layout.groups - 1
        with m.If(started):
            m.d.sync += position.eq(0)
        with m.Elif(taken):
            m.d.sync += position.eq(Mux(ends, 0, position + 1))
        takes, complete = [taken], [taken & ends]
        for turn in range(1, layout.sharing):
            takes.append(Signal(name=f"takes_{turn}"))
            complete.append(Signal(name=f"complete_{turn}"))
            m.d.sync += [takes[-1].eq(takes[-2]), complete[-1].eq(complete[-2])]
        elements = [[self.i_sums.p.sums[lane * rows + row] for row in range(rows)] for lane in range(config.token_lanes)]
        for bank in range(layout.banks):
            for turn, lane in enumerate(layout.lanes(bank)):
                parts = [Signal(rows * width, name=f"group_{lane}_{n}") for n in range(layout.groups - 1)]
                group = Cat(elements[lane])
                for delay in range(turn):
                    delayed = Signal(rows * width, name=f"delayed_{lane}_{delay}")
                    m.d.sync += delayed.eq(group)
                    group = delayed
                parts.append(group)
                with m.If(takes[turn]):
                    m.d.sync += [part.eq(following) for part, following in pairwise(parts)]
                with m.If(complete[turn]):
                    m.d.sync += self.words[bank].eq(Cat(parts))

        # Turns: the lanes of a bank are ``words`` apart.
        following = Signal(16)
        m.d.sync += [self.turn.eq(Cat(complete)),
                     *(self.into[chunk].eq(Cat(complete).any() & (self.chunk == chunk)) for chunk in range(config.chunks))]
        with m.If(started):
            m.d.sync += following.eq(self.i_access.p.base)
        with m.If(complete[0]):
            m.d.sync += [self.address.eq(following), following.eq(following + 1)]
        with m.Else():
            m.d.sync += self.address.eq(self.address + layout.words)

        self._measure(m, elements, started, taken)
        return m

    def _measure(self, m: Module, elements, started, taken) -> None:
        """Bit lengths of the largest magnitudes: of the first vector when the second begins, and at the end."""
        config = self.config
        width = config.sum_bits
        until_split, in_second = Signal(16), Signal()
        begins_second, counted = Signal(), Signal()
        m.d.sync += [counted.eq(taken), begins_second.eq(taken & ~in_second & (until_split == 0))]
        with m.If(started):
            m.d.sync += [until_split.eq(self.i_access.p.split), in_second.eq(0)]
        with m.Elif(taken & ~in_second):
            m.d.sync += [until_split.eq(until_split - 1), in_second.eq(until_split == 0)]
        for lane, values in enumerate(elements):
            # The bit length of the largest magnitude is that of the union of the bits of all.
            union, group = Signal(width - 1, name=f"union_{lane}"), Signal(width - 1, name=f"group_union_{lane}")
            signs = [value[-1] for value in values]
            sizes = [((value ^ sign.replicate(width)) + sign)[:width - 1] for value, sign in zip(values, signs, strict=True)]
            m.d.sync += group.eq(reduce(or_, sizes))
            with m.If(started):
                m.d.sync += union.eq(0)
            with m.Elif(counted):
                m.d.sync += union.eq(Mux(begins_second, 0, union) | group)
            bits = Signal(6, name=f"bits_{lane}")
            for n in range(width - 1):
                with m.If(union[n]):
                    m.d.comb += bits.eq(n + 1)
            for chunk in range(config.chunks):
                magnitude = self.magnitude_bits[chunk * config.token_lanes + lane]
                with m.If((begins_second | self.done) & (self.chunk == chunk)):
                    with m.If(self.done & in_second):
                        m.d.sync += magnitude.second.eq(bits)
                    with m.Else():
                        m.d.sync += [magnitude.first.eq(bits), magnitude.second.eq(0)]
