"""Paged KV cache: a block table for each sequence, shared prefixes, copy on write."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig, block_count, ceil_div, check_int
from ..memory.bursts import ADDRESS_BITS, BURST_COMMAND
from .addresses import RowAddresses
from .blocks import BlockPool, PoolCommand
from .contiguous import give, read_layout, request_layout

__all__ = ["PagedCache", "SequenceCommand", "SequenceError", "block_layout", "copy_layout", "lookup_layout", "paged_request",
           "sequence_command", "sequence_result"]


class SequenceCommand(IntEnum):
    """What is asked for a sequence."""

    EXTEND = 0
    """Room for ``count`` positions more at its end."""
    FORK = 1
    """It begins with the first ``count`` positions of ``other``, and shares their blocks."""
    FREE = 2
    """It has no positions any more."""
    COMPARE = 3
    """Whether its first ``count`` positions, whole blocks, lie in the same blocks as those of ``other``."""
    SHRINK = 4
    """Only its first ``count`` positions are left; blocks behind them are given back. Of a cache with ``lookups``."""


class SequenceError(IntEnum):
    """Why a command was refused. Nothing has changed then, but that after NO_BLOCK the sequence keeps the blocks it got, for when it
    is extended again; FREE gives them back."""

    NONE = 0
    NO_BLOCK = 1
    """EXTEND: the pool has no block left."""
    TOO_LONG = 2
    """EXTEND: more positions than a sequence can have; FORK: more than ``other`` has; COMPARE: more than one of the two has; SHRINK:
    more than it has."""
    NOT_EMPTY = 3
    """FORK: the sequence has positions or blocks."""
    SHARED_TOO_OFTEN = 4
    """FORK: a block would have more than 255 owners."""
    UNKNOWN = 5
    """There is no such sequence, or no such command."""
    DIFFERENT = 6
    """COMPARE: a block is not the same."""


def _positions(config: AcceleratorConfig):
    return range(config.max_context + 1)


def sequence_command(config: AcceleratorConfig, sequences: int) -> data.StructLayout:
    """``{command: SequenceCommand, sequence, other, count}``."""
    return data.StructLayout({"command": 3, "sequence": range(sequences), "other": range(sequences), "count": _positions(config)})


def sequence_result(config: AcceleratorConfig) -> data.StructLayout:
    """``{error: SequenceError, length}``: positions of the sequence after the command."""
    return data.StructLayout({"error": 3, "length": _positions(config)})


def copy_layout(blocks: int, block_size: int) -> data.StructLayout:
    """``{source, target, rows}``: the first ``rows`` rows of block ``source`` are to be copied to block ``target``, of every
    head of every layer."""
    return data.StructLayout({"source": range(blocks), "target": range(blocks), "rows": range(block_size + 1)})


def paged_request(config: AcceleratorConfig, sequences: int) -> data.StructLayout:
    """``request_layout`` of a ``sequence``."""
    return data.StructLayout({**request_layout(config).members, "sequence": range(sequences)})


def lookup_layout(config: AcceleratorConfig, sequences: int, block_size: int) -> data.StructLayout:
    """``{sequence, index}``: block ``index`` of a sequence, one that it has."""
    return data.StructLayout({"sequence": range(sequences), "index": range(ceil_div(config.max_context, block_size))})


def block_layout(blocks: int) -> data.StructLayout:
    """``{block, shared}``: its number; others have it too."""
    return data.StructLayout({"block": range(blocks), "shared": 1})


class PagedCache(wiring.Component):
    """Turns rows of a K/V head of a sequence into burst commands, one for each run of blocks that lie one behind the other.

    A block holds ``block_size`` positions, of every head of every layer (vLLM, arXiv:2309.06180): block b has rows ``b *
    block_size`` and on of each head's region, which ``ContiguousCache`` addresses. Sequences that begin with the same tokens share
    blocks (BatchLLM, arXiv:2412.03594): FORK counts one owner more. Before a sequence is extended within a block that others have
    too, it gets a copy of it: the first divergent append copies, all others write in place::

        i_command -> tables and lengths -> BlockPool -> o_copy (source, target) -> o_done
        i_request -> tables -> runs of blocks -> RowAddresses -> o_read, o_write

    Parameters
    ----------
    config : AcceleratorConfig
        As for ``ContiguousCache``.
    sequences : int
        2 to 256; those of the configuration by default.
    block_size : int
        Positions of a block, a power of two up to 1024 and to ``max_context``; that of the configuration by default.
    blocks : int
        Blocks of the pool, 2 to 2**16; ``block_count`` by default.
    lookups : bool
        Has ``i_look``, ``o_look`` and the command SHRINK, for ``SwapController``.

    Members
    -------
    i_command : In(stream of sequence_command); o_done : Out(stream of sequence_result)
        One result for each command. Commands and requests that are offered together take turns in no stated order.
    o_copy : Out(stream of copy_layout)
        Before ``o_done`` of an EXTEND that had to copy. Who takes it copies before rows of the sequence are read or written.
    i_request : In(stream of paged_request); o_read : Out(stream of read_layout), o_write : Out(stream of BURST_COMMAND)
        Commands in the order of the rows, for requests within the sequence; a request of no rows gives none.
    i_look : In(stream of lookup_layout); o_look : Out(stream of block_layout)
        With ``lookups``: one answer for each, after 5 cycles; they give way to commands and requests.
    record_beats, head_stride, clear : In
        See ``ContiguousCache``.
    error : Out(1)
        Sticky: a request went beyond the length of its sequence (one that is not there has none), or would have written to a shared
        block. Nothing was issued for it, or the rows before that block.
    free : Out(range(blocks + 1))
        Free blocks.

    Latency (a dictionary): ``read`` and ``write`` cycles from a request of one block to its command, 2 and 5 more for each block
    that follows in the same run, 4 and 7 for each run behind the first; ``again`` if it is for the rows of the request before it,
    which were one run, and no command came between: those of the next head, or of the next layer. For commands see ``CYCLES``.
    Interval: ``interval`` cycles between such requests, two less than the latency without ``RowAddresses`` between others.
    """

    interval = 3

    CYCLES = {"extend": 3, "extend_block": 4, "own_tail": 4, "copy": 7, "fork": 2, "fork_block": 4, "free": 3, "free_block": 5,
              "compare": 3, "compare_block": 2}
    """Of commands, from ``i_command`` to ``o_done`` when nobody stalls: of one that does nothing, and what comes for each block; for
    an EXTEND within a block, to see whether others have it too; and for the copy then."""

    def __init__(self, config: AcceleratorConfig, *, sequences: int | None = None, block_size: int | None = None,
                 blocks: int | None = None, lookups: bool = False):
        sequences = config.sequences if sequences is None else sequences
        block_size = config.block_size if block_size is None else block_size
        check_int("sequences", sequences, 2, 256)
        check_int("block_size", block_size, 1, min(1024, config.max_context), power_of_two=True)
        blocks = block_count(config, block_size, sequences) if blocks is None else blocks
        self.config, self.sequences, self.block_size, self.blocks, self.lookups = config, sequences, block_size, blocks, lookups
        self._pool, self._rows = BlockPool(blocks), RowAddresses(
            config, blocks * block_size, {name: read_layout(config).members[name] for name in ("position", "count", "last")})
        self.latency = {"again": 2 + self._rows.latency, "read": 4 + self._rows.latency, "write": 7 + self._rows.latency,
                        **self.CYCLES}
        super().__init__({
            "i_command": In(stream.Signature(sequence_command(config, sequences))),
            "o_done": Out(stream.Signature(sequence_result(config))),
            "o_copy": Out(stream.Signature(copy_layout(blocks, block_size))),
            "i_request": In(stream.Signature(paged_request(config, sequences))),
            "o_read": Out(stream.Signature(read_layout(config))),
            "o_write": Out(stream.Signature(BURST_COMMAND)),
            "record_beats": In(range(config.max_record_beats + 1)),
            "head_stride": In(ADDRESS_BITS),
            "error": Out(1),
            "clear": In(1),
            "free": Out(range(blocks + 1)),
        } | ({
            "i_look": In(stream.Signature(lookup_layout(config, sequences, block_size))),
            "o_look": Out(stream.Signature(block_layout(blocks))),
        } if lookups else {}))

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "PagedCache":
        """Sequences and blocks of the configuration."""
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        config, offset_bits = self.config, self.block_size.bit_length() - 1
        m.submodules.pool = pool = self._pool
        m.submodules.rows = rows = self._rows
        give(m, rows, self.o_read, self.o_write)
        m.d.comb += [rows.record_beats.eq(self.record_beats), rows.head_stride.eq(self.head_stride), self.free.eq(pool.free)]
        with m.If(self.clear):
            m.d.sync += self.error.eq(0)

        # Length and blocks of each sequence; after reset all are empty. Its blocks, in order.
        index_bits = (ceil_div(config.max_context, self.block_size) - 1).bit_length()
        kept = data.StructLayout({"length": _positions(config), "held": range(ceil_div(config.max_context, self.block_size) + 1)})
        m.submodules.sequences = sequences = memory.Memory(shape=kept, depth=self.sequences, init=[])
        m.submodules.tables = tables = memory.Memory(shape=range(self.blocks), depth=self.sequences << index_bits, init=[])
        mine, theirs, keep = sequences.read_port(domain="comb"), sequences.read_port(domain="comb"), sequences.write_port()
        entry, enter = tables.read_port(), tables.write_port()
        used = Signal(self.sequences)
        again, same = Signal(), Signal()  # the request before this one was one run; its rows are asked for again

        command, request = Signal.like(self.i_command.p), Signal.like(self.i_request.p)
        sequence = Signal(range(self.sequences))
        state, source_length = Signal(kept), Signal(_positions(config))
        index, reads_other = Signal(range(1 << index_bits)), Signal()
        needed, total = Signal.like(state.held), Signal(len(state.length) + 1)
        block, copied_from = Signal(range(self.blocks)), Signal(range(self.blocks))
        answer = self.o_done.p

        def blocks_of(count):
            return (count + self.block_size - 1) >> offset_bits

        stays, least = Const(0), Const(0)  # positions and blocks that DROP leaves
        if self.lookups:
            stays, least = Signal.like(state.length, name="stays"), Signal.like(state.held, name="least")
            shrinks = command.command == SequenceCommand.SHRINK
            m.d.comb += [stays.eq(Mux(shrinks, command.count, 0)), least.eq(Mux(shrinks, blocks_of(command.count), 0))]
        m.d.comb += [
            mine.addr.eq(Mux(self.i_command.valid, self.i_command.p.sequence, self.i_request.p.sequence)),
            theirs.addr.eq(self.i_command.p.other),
            entry.addr.eq(index | Mux(reads_other, command.other, sequence) << index_bits),
            enter.addr.eq(index | sequence << index_bits), enter.data.eq(pool.o.p.block),
            keep.addr.eq(sequence), keep.data.eq(state),
            self.o_copy.p.source.eq(copied_from), self.o_copy.p.target.eq(block),
            self.o_copy.p.rows.eq(state.length[:offset_bits]),
            answer.length.eq(state.length),
        ]

        @contextmanager
        def ask(name: str, what: PoolCommand, about, refused: str) -> Iterator[Value]:
            """States that send a command to the pool, and what happens when it was done: while the given signal is high."""
            with m.State(name):
                m.d.comb += [pool.i.valid.eq(1), pool.i.p.command.eq(what), pool.i.p.block.eq(about)]
                with m.If(pool.i.ready):
                    m.next = name + "_ANSWER"
            with m.State(name + "_ANSWER"):
                m.d.comb += pool.o.ready.eq(1)
                m.d.sync += block.eq(pool.o.p.block)
                with m.If(pool.o.valid & pool.o.p.refused):
                    m.next = refused
                yield pool.o.valid & ~pool.o.p.refused

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [self.i_command.ready.eq(1), self.i_request.ready.eq(~self.i_command.valid)]
                m.d.sync += [
                    command.eq(self.i_command.p), sequence.eq(mine.addr), reads_other.eq(0),
                    state.eq(Mux(used.bit_select(mine.addr, 1), mine.data.as_value(), 0)),
                    source_length.eq(Mux(used.bit_select(theirs.addr, 1), theirs.data.length, 0)),
                ]
                m.d.sync += same.eq(again & Cat(self.i_request.p[name] == request[name]
                                                for name in ("sequence", "position", "count")).all())
                with m.If(self.i_command.valid):
                    m.d.sync += again.eq(0)
                    m.next = "DECIDE"
                with m.Elif(self.i_request.valid):
                    m.d.sync += request.eq(self.i_request.p)
                    m.next = "CHECK"
                if self.lookups:
                    with m.Elif(self.i_look.valid):
                        m.d.comb += self.i_look.ready.eq(1)
                        m.d.sync += [sequence.eq(self.i_look.p.sequence), index.eq(self.i_look.p.index)]
                        m.next = "LOOKUP_READ"
            with m.State("DECIDE"):
                m.d.comb += total.eq(state.length + command.count)
                m.d.sync += [answer.error.eq(SequenceError.NONE), used.bit_select(sequence, 1).eq(1)]
                m.next = "ANSWER"
                with m.Switch(command.command):
                    with m.Case(SequenceCommand.EXTEND):
                        m.d.sync += [index.eq(state.length >> offset_bits), needed.eq(blocks_of(total))]
                        with m.If(total > config.max_context):
                            m.d.sync += answer.error.eq(SequenceError.TOO_LONG)
                        with m.Elif(state.length[:offset_bits].any() & (command.count != 0)):
                            m.next = "TAIL_READ"
                        with m.Else():
                            m.next = "GROW"
                    with m.Case(SequenceCommand.FORK):
                        m.d.sync += [index.eq(0), needed.eq(blocks_of(command.count)), reads_other.eq(1)]
                        with m.If(command.count > source_length):
                            m.d.sync += answer.error.eq(SequenceError.TOO_LONG)
                        with m.Elif((state.length != 0) | (state.held != 0)):
                            m.d.sync += answer.error.eq(SequenceError.NOT_EMPTY)
                        with m.Elif(command.count != 0):
                            m.next = "SHARE_READ"
                    with m.Case(SequenceCommand.FREE):
                        m.next = "DROP"
                    with m.Case(SequenceCommand.COMPARE):
                        m.d.sync += [index.eq(0), needed.eq(blocks_of(command.count)), reads_other.eq(1)]
                        with m.If((command.count > source_length) | (command.count > state.length)):
                            m.d.sync += answer.error.eq(SequenceError.TOO_LONG)
                        with m.Elif(command.count != 0):
                            m.next = "COMPARE_READ"
                    if self.lookups:
                        with m.Case(SequenceCommand.SHRINK):
                            m.next = "DROP"
                            with m.If(command.count > state.length):
                                m.d.sync += answer.error.eq(SequenceError.TOO_LONG)
                                m.next = "ANSWER"
                    with m.Default():
                        m.d.sync += answer.error.eq(SequenceError.UNKNOWN)
                pair = (command.command == SequenceCommand.FORK) | (command.command == SequenceCommand.COMPARE)
                with m.If((sequence >= self.sequences)
                          | (pair & (command.other >= self.sequences))):
                    m.d.sync += answer.error.eq(SequenceError.UNKNOWN)
                    m.next = "ANSWER"

            # EXTEND: an own block at the end, then blocks behind it.
            with m.State("TAIL_READ"):
                m.next = "TAIL"
            with ask("TAIL", PoolCommand.COUNT, entry.data, "TAIL") as known:
                with m.If(known):
                    m.d.sync += copied_from.eq(pool.o.p.block)
                    m.next = "GROW"
                    with m.If(pool.o.p.count > 1):
                        m.next = "OWN"
            with ask("OWN", PoolCommand.ALLOCATE, 0, "NO_BLOCK") as given:
                with m.If(given):
                    m.d.comb += enter.en.eq(1)
                    m.next = "COPY"
            with m.State("COPY"):
                m.d.comb += self.o_copy.valid.eq(1)
                with m.If(self.o_copy.ready):
                    m.next = "LEAVE"
            with ask("LEAVE", PoolCommand.RELEASE, copied_from, "LEAVE") as left:
                with m.If(left):
                    m.next = "GROW"
            with m.State("GROW"):
                m.d.sync += index.eq(state.held)
                m.next = "TAKE"
                with m.If(state.held >= needed):
                    m.d.sync += state.length.eq(state.length + command.count)
                    m.next = "ANSWER"
            with ask("TAKE", PoolCommand.ALLOCATE, 0, "NO_BLOCK") as given:
                with m.If(given):
                    m.d.comb += enter.en.eq(1)
                    m.d.sync += state.held.eq(state.held + 1)
                    m.next = "GROW"
            with m.State("NO_BLOCK"):
                m.d.sync += answer.error.eq(SequenceError.NO_BLOCK)
                m.next = "ANSWER"

            # FORK.
            with m.State("SHARE_READ"):
                m.next = "SHARE"
            with ask("SHARE", PoolCommand.SHARE, entry.data, "SHARED_TOO_OFTEN") as shared:
                with m.If(shared):
                    m.d.comb += enter.en.eq(1)
                    m.d.sync += [index.eq(index + 1), state.held.eq(state.held + 1)]
                    m.next = "SHARE_READ"
                    with m.If(state.held + 1 == needed):
                        m.d.sync += state.length.eq(command.count)
                        m.next = "ANSWER"
            with m.State("SHARED_TOO_OFTEN"):
                m.d.sync += answer.error.eq(SequenceError.SHARED_TOO_OFTEN)
                m.next = "DROP"

            # COMPARE: the tables' words come a cycle late, those of both sequences in turn.
            with m.State("COMPARE_READ"):
                m.d.sync += reads_other.eq(0)
                m.next = "COMPARE_OTHER"
            with m.State("COMPARE_OTHER"):
                m.d.sync += [block.eq(entry.data), reads_other.eq(1), index.eq(index + 1)]
                m.next = "COMPARE_MINE"
            with m.State("COMPARE_MINE"):
                m.d.sync += reads_other.eq(0)
                m.next = "COMPARE_OTHER"
                with m.If(index == needed[:len(index)]):  # it may have gone round
                    m.next = "ANSWER"
                with m.If(block != entry.data):
                    m.d.sync += answer.error.eq(SequenceError.DIFFERENT)
                    m.next = "ANSWER"

            # FREE, and what a FORK had when it failed; SHRINK.
            with m.State("DROP"):
                m.d.sync += [reads_other.eq(0), index.eq(state.held - 1), state.length.eq(stays)]
                m.next = "DROP_READ"
                with m.If(state.held == least):
                    m.next = "ANSWER"
            with m.State("DROP_READ"):
                m.next = "GIVE_BACK"
            with ask("GIVE_BACK", PoolCommand.RELEASE, entry.data, "GIVE_BACK") as gone:
                with m.If(gone):
                    m.d.sync += state.held.eq(state.held - 1)
                    m.next = "DROP"
            with m.State("ANSWER"):
                m.d.comb += [keep.en.eq(1), self.o_done.valid.eq(1)]
                with m.If(self.o_done.ready):
                    m.next = "IDLE"
            if self.lookups:
                with m.State("LOOKUP_READ"):
                    m.next = "LOOKUP"
                with ask("LOOKUP", PoolCommand.COUNT, entry.data, "LOOKUP") as known:
                    with m.If(known):
                        m.d.sync += self.o_look.p.shared.eq(pool.o.p.count > 1)
                        m.next = "LOOKUP_TELL"
                with m.State("LOOKUP_TELL"):
                    m.d.comb += self.o_look.valid.eq(1)
                    with m.If(self.o_look.ready):
                        m.next = "IDLE"
                m.d.comb += self.o_look.p.block.eq(block)
            self._requests(m, request, state.length, index, entry.data, again, same, ask)
        return m

    def _requests(self, m: Module, request, length, index, entry, again, same, ask) -> None:
        """States that walk over the blocks of a request, and send a run of them as soon as the next block is elsewhere."""
        config, offset_bits, rows = self.config, self.block_size.bit_length() - 1, self._rows
        at, left = Signal(_positions(config)), Signal(_positions(config))  # the part that is still to come
        here, offset = Signal(range(self.block_size + 1)), Signal(range(max(self.block_size, 2)))
        run, start, empty = Signal.like(rows.i.p.passed), Signal(range(self.blocks * self.block_size)), Signal()
        follows, last_block, owned = Signal(), Signal(range(self.blocks)), Signal()
        room = self.block_size - offset
        m.d.comb += [
            offset.eq(at[:offset_bits]), here.eq(Mux(left < room, left, room)), follows.eq(empty | (entry == last_block + 1)),
            *(rows.i.p[name].eq(request[name]) for name in ("write", "base", "head")),
            rows.i.p.position.eq(start), rows.i.p.count.eq(run.count), rows.i.p.passed.eq(run),
        ]
        with m.State("CHECK"):
            m.d.sync += [at.eq(request.position), left.eq(request.count), index.eq(request.position >> offset_bits), empty.eq(1),
                         again.eq(1), owned.eq(request.write)]
            m.next = "LOOK"
            with m.If(same & (owned | ~request.write)):
                m.d.sync += [left.eq(0), empty.eq(0), owned.eq(owned)]
                m.next = "SEND"
            with m.Elif(request.position + request.count > length):
                m.d.sync += [self.error.eq(1), again.eq(0)]
                m.next = "IDLE"
            with m.Elif(request.count == 0):
                m.d.sync += again.eq(0)
                m.next = "IDLE"
        with m.State("LOOK"):
            m.next = "ROWS"
            with m.If(request.write):
                m.next = "OWNERS"
        with ask("OWNERS", PoolCommand.COUNT, entry, "OWNERS") as known:
            with m.If(known):
                m.next = "ROWS"
                with m.If(self._pool.o.p.count > 1):
                    m.d.sync += [self.error.eq(1), again.eq(0), left.eq(0)]
                    m.next = "SEND"
        with m.State("ROWS"):
            m.next = "SEND"
            with m.If(follows):
                m.d.sync += [run.count.eq(here + Mux(empty, 0, run.count)), empty.eq(0), run.last.eq(left == here),
                             at.eq(at + here), left.eq(left - here), index.eq(index + 1), last_block.eq(entry)]
                with m.If(empty):
                    m.d.sync += [start.eq(entry << offset_bits | offset), run.position.eq(at)]
                with m.If(left != here):
                    m.next = "LOOK"
        with m.State("SEND"):
            m.d.comb += rows.i.valid.eq(~empty)
            with m.If(rows.i.ready | empty):
                m.d.sync += empty.eq(1)
                m.next = "ROWS"
                with m.If(left == 0):
                    m.next = "IDLE"
                with m.Else():
                    m.d.sync += again.eq(0)
