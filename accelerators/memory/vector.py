"""Vector memory: int32 vectors of all tokens in flight, one read stream, one write stream, one port for matrix results."""

from amaranth.hdl import Array, Module, Mux, Signal, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig
from ..streams import ROUND_TRIP, CreditQueue, connect
from .layout import VectorLayout
from .results import ResultCollector, magnitude_layout, result_access_layout, sums_word

__all__ = ["VectorMemory", "access_layout", "vector_word"]


def vector_word(lanes: int) -> data.StructLayout:
    """One word of a vector stream: ``lanes`` signed 32-bit elements and ``last``."""
    return data.StructLayout({"x": data.ArrayLayout(signed(32), lanes), "last": 1})


COMPARED_BITS = 4
"""Lowest bits of the addresses of a read and a write that are compared. The enables of many block RAMs depend on them, so they are
few; equal bits of different addresses only cost a wait."""


def access_layout(config: AcceleratorConfig) -> data.StructLayout:
    """Command of a read or write stream; see ``VectorMemory``. ``token`` is a slot: ``chunk * token_lanes + lane``."""
    return data.StructLayout({"token": range(max(config.token_slots, 2)), "base": 16, "words": 16, "paired": 1,
                              "offset": 16})


class _Address(wiring.Component):
    """Walks the words of one access: base + i, or base + i and base + offset + i in turn when paired.

    An access ends after ``words`` (``until_end=False``) or with the step at which ``end`` is high.
    """

    def __init__(self, config: AcceleratorConfig, *, until_end: bool):
        self.config = config
        self.until_end = until_end
        super().__init__({
            "i_command": In(stream.Signature(access_layout(config))),
            "o": Out(stream.Signature(data.StructLayout({
                "chunk": range(max(config.chunks, 2)), "bank": range(max(VectorLayout(config).banks, 2)), "address": 16,
                "last": 1, "beyond": 1}))),
            "end": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        layout = VectorLayout(self.config)
        places = [layout.place(slot) for slot in range(self.config.token_slots)]
        chunk, bank, start = (Array(values)[self.i_command.p.token] for values in zip(*places, strict=True))
        words, paired = Signal(16), Signal()
        active, second, final = Signal(), Signal(), Signal()
        index, other = Signal(16), Signal(16)
        m.d.comb += [
            final.eq((index == words) & (second | ~paired)),
            self.o.valid.eq(active),
            self.o.p.last.eq(final),
            self.o.p.beyond.eq(index > words),
            self.i_command.ready.eq(~active),
        ]
        target = Signal.like(self.o.p)
        m.d.comb += [self.o.p[field].eq(target[field]) for field in ("chunk", "bank", "address")]
        with m.If(self.o.valid & self.o.ready):
            # A pair takes turns: the next word of the half that had its turn waits in ``other``.
            m.d.sync += [second.eq(~second & paired), other.eq(target.address + 1),
                         target.address.eq(Mux(paired, other, target.address + 1))]
            with m.If(second | ~paired):
                m.d.sync += index.eq(index + 1)
            with m.If(self.end if self.until_end else final):
                m.d.sync += active.eq(0)
        with m.If(self.i_command.valid & ~active):
            base = Signal(16)
            m.d.comb += base.eq(self.i_command.p.base + start)
            m.d.sync += [active.eq(1), second.eq(0), index.eq(1), words.eq(self.i_command.p.words),
                         paired.eq(self.i_command.p.paired), target.chunk.eq(chunk), target.bank.eq(bank),
                         target.address.eq(base), other.eq(base + self.i_command.p.offset)]
        return m


class VectorMemory(wiring.Component):
    """Scratch memory of the elementwise units and target of the ternary engine.

    ::

        i_sums --> collector: words of `sharing` tokens, one per cycle --+
                                                                        v
        i -------> register -----------------------------------------> mux --> banks of chunk 0 --> select --+
                                                                   \\-> mux --> banks of chunk 1 --> select --+--> o

    A token in flight has a *slot*: ``chunk * token_lanes + lane``. Each chunk has banks of its own, and a bank holds the
    vectors of ``sharing`` token lanes one after another (``memory/layout.py``). With a read and a write port per bank, all
    three streams run at full rate while the result and the elementwise writes belong to different chunks.

    Parameters
    ----------
    config : AcceleratorConfig
        ``vector_memory`` int32 elements per slot, ``vector_lanes`` per word, ``token_lanes`` slots in each of ``chunks``.

    Members
    -------
    i_read, i_write_access : In(stream of access_layout)
        ``token``: slot; ``base``: first word; ``words``: number of words (1 or more), of each half when ``paired``, and then
        the words ``base + i`` and ``base + offset + i`` (modulo 2**16) take turns. Every word of an access must lie within the
        ``vector_memory / vector_lanes`` words of its slot: others belong to another token of the bank.
    o : Out(stream of vector_word)
        The words of the read accesses, ``last`` on the final word of each.
    i : In(stream of vector_word)
        Words to write. A write access ends with the word that carries ``last``; an unpaired packet longer than ``words`` is
        cut to it. A packet shorter than ``words`` leaves the remaining words as they are.
    i_sums_access : In(stream of {chunk, base, split: 16})
        Announces one matrix result for the slots of ``chunk``: ``base`` is its first word, ``split`` the row groups of the
        first of its two vectors.
    i_sums : In(stream of {sums: token_lanes * table_rows x signed(sum_bits), last})
        One row group of all token lanes (token-major). A result is whole vector words: the row groups of a last word that is
        not complete are lost.
    magnitude_bits : Out, token_slots x {first: 6, second: 6}
        Bit lengths of the largest magnitudes before and from ``split`` in the latest result of each chunk; 0 before the
        first. Not valid from the announcement of a result for the chunk until ``sums_done``.
    write_busy, sums_busy : Out(1)
        An announced write (result) has not been written completely.
    sums_done : Out(1)
        Pulse in the last cycle of ``sums_busy``: a read that is accepted now sees the whole result.

    Attributes: ``latency``, from a read command to its first word: 5 cycles. ``interval``: one word per
    cycle and one cycle more per access. ``done``: cycles from the last row group of a result to ``sums_done``; the next
    result can be announced one cycle later.

    A read that is accepted together with a word on ``i``, or later, sees that word. Writes on ``i`` wait while a result for
    their chunk is announced. Otherwise reads, writes and results do not slow each other, but for a read of a word whose address
    has the lowest bits of the one that is being written in its bank, which waits a cycle, rarely more: so the memory needs no bypass.
    """

    latency = 5
    interval = 1

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        self.done = VectorLayout(config).done
        lanes = config.vector_lanes
        super().__init__({
            "i_read": In(stream.Signature(access_layout(config))),
            "o": Out(stream.Signature(vector_word(lanes))),
            "i_write_access": In(stream.Signature(access_layout(config))),
            "i": In(stream.Signature(vector_word(lanes))),
            "i_sums_access": In(stream.Signature(result_access_layout(config))),
            "i_sums": In(stream.Signature(sums_word(config))),
            "magnitude_bits": Out(magnitude_layout(config)),
            "write_busy": Out(1),
            "sums_busy": Out(1),
            "sums_done": Out(1),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "VectorMemory":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        config, layout = self.config, VectorLayout(self.config)
        m.submodules.results = results = ResultCollector(config)
        wiring.connect(m, wiring.flipped(self.i_sums_access), results.i_access)
        wiring.connect(m, wiring.flipped(self.i_sums), results.i_sums)
        m.d.comb += [self.magnitude_bits.eq(results.magnitude_bits), self.sums_busy.eq(results.busy),
                     self.sums_done.eq(results.done)]

        # Writes of the elementwise units: a register in front of the banks.
        m.submodules.write = write = _Address(config, until_end=True)
        wiring.connect(m, wiring.flipped(self.i_write_access), write.i_command)
        blocked = Signal()
        m.d.comb += [
            blocked.eq(results.busy & (results.chunk == write.o.p.chunk)),
            self.i.ready.eq(write.o.valid & ~blocked),
            write.o.ready.eq(self.i.valid & ~blocked),
            write.end.eq(self.i.p.last),
            self.write_busy.eq(write.o.valid | self.i_write_access.valid),
        ]
        element, element_address = Signal.like(self.i.p.x), Signal(16)
        m.d.sync += [element.eq(self.i.p.x), element_address.eq(write.o.p.address)]

        # The banks, each with one write port for both kinds of words.
        m.submodules.read = read = _Address(config, until_end=False)
        wiring.connect(m, wiring.flipped(self.i_read), read.i_command)
        ports, written = [], []
        for chunk in range(config.chunks):
            address = Signal(16, name=f"write_address_{chunk}")
            m.d.comb += address.eq(Mux(results.into[chunk], results.address, element_address))
            ports.append([])
            low = slice(COMPARED_BITS)
            written.append(Mux(results.into[chunk], results.address[low], element_address[low]) == read.o.p.address[low])
            for bank in range(layout.banks):
                m.submodules[f"bank_{chunk}_{bank}"] = words = memory.Memory(
                    shape=data.ArrayLayout(signed(32), config.vector_lanes), depth=layout.depth(bank), init=[])
                read_port, write_port = words.read_port(), words.write_port()
                hit = Signal(name=f"hit_{chunk}_{bank}")
                m.d.sync += hit.eq(self.i.valid & self.i.ready & ~write.o.p.beyond & (write.o.p.bank == bank)
                                   & (write.o.p.chunk == chunk))
                turns = results.turn[:len(layout.lanes(bank))]
                m.d.comb += [
                    write_port.addr.eq(address), write_port.data.eq(element), write_port.en.eq(hit),
                ]
                with m.If(results.into[chunk]):
                    m.d.comb += [write_port.en.eq(turns.any()),
                                 *(write_port.data[i].eq(value) for i, value in enumerate(results.words[bank]))]
                ports[chunk].append((read_port, write_port))

        # Reads: address, memory output, selection of the bank, then of the chunk.
        m.submodules.fetched = fetched = CreditQueue(self.o.p.shape(), 2 + ROUND_TRIP)
        connect(m, fetched.o, wiring.flipped(self.o))
        colliding = []
        for chunk, same_word in zip(ports, written, strict=True):
            colliding.append([])
            for read_port, write_port in chunk:
                collides = write_port.en & same_word
                # Saying that no word is read while it is written spares the bypass that Yosys would add.
                m.d.comb += [read_port.addr.eq(read.o.p.address), read_port.en.eq(~collides)]
                colliding[-1].append(collides)
        waits = Array([Array(chunk)[read.o.p.bank] for chunk in colliding])[read.o.p.chunk]
        m.d.comb += [read.o.ready.eq(fetched.credit & ~waits), fetched.spend.eq(read.o.valid & read.o.ready)]
        at_memory = Signal(data.StructLayout({"valid": 1, "last": 1, "chunk": read.o.p.chunk.shape(),
                                              "bank": read.o.p.bank.shape()}))
        selected = [Array([port.data for port, _ in chunk])[at_memory.bank] for chunk in ports]
        at_chunk = Signal(data.StructLayout({"valid": 1, "last": 1, "chunk": read.o.p.chunk.shape()}))
        of_chunk = [Signal.like(self.o.p.x, name=f"of_chunk_{chunk}", reset_less=True) for chunk in range(config.chunks)]
        m.d.sync += [
            at_memory.valid.eq(fetched.spend), at_memory.last.eq(read.o.p.last),
            at_memory.chunk.eq(read.o.p.chunk), at_memory.bank.eq(read.o.p.bank),
            at_chunk.valid.eq(at_memory.valid), at_chunk.last.eq(at_memory.last), at_chunk.chunk.eq(at_memory.chunk),
            *(word.eq(bank) for word, bank in zip(of_chunk, selected, strict=True)),
        ]
        m.d.comb += [fetched.i.valid.eq(at_chunk.valid), fetched.i.p.last.eq(at_chunk.last),
                     fetched.i.p.x.eq(Array(of_chunk)[at_chunk.chunk])]
        return m
