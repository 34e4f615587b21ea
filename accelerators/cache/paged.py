"""Paged KV cache: a block table for each sequence, shared prefixes, copy on write."""

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..checks import check_int
from ..config import AcceleratorConfig, block_count
from ..memory.bursts import ADDRESS_BITS
from .addresses import RowAddresses
from .blocks import BlockPool
from .contiguous import give
from .paged_commands import compare, decide, drop, extend, fork
from .paged_formats import (
    block_layout,
    copy_layout,
    lookup_layout,
    paged_read,
    paged_request,
    paged_write,
    sequence_command,
    sequence_result,
)
from .paged_requests import send_runs
from .paged_tables import SequenceTables

__all__ = ["PagedCache"]


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
        Has ``i_look`` and ``o_look``, for ``SwapController``.

    Members
    -------
    i_command : In(stream of sequence_command); o_done : Out(stream of sequence_result)
        One result for each command. A request that is taken in the same cycle as a command, or while one is under way, comes behind
        it; a command waits for the requests that were taken before.
    o_copy : Out(stream of copy_layout)
        Before ``o_done`` of an EXTEND that had to copy. Who takes it copies before rows of the sequence are read or written.
    i_request : In(stream of paged_request); o_read : Out(stream of paged_read), o_write : Out(stream of paged_write)
        Commands in the order of the requests, and of the rows of each; a request of no rows gives none. A request that goes beyond the
        length of its sequence (one that is not there has none) is answered by one with ``error``, a write that comes to a block that
        others have too also, behind the commands for the rows before that block.
    i_look : In(stream of lookup_layout); o_look : Out(stream of block_layout)
        With ``lookups``: one answer for each, after 3 cycles, and what is left of the command that is under way; of a ``release`` 5,
        and what is left of that command and of one more (behind those that give back a block that they copied), and of the requests
        about the same sequence. Commands about that one have to be done; no command and no request takes longer than without.
    record_beats, head_stride, clear : In
        See ``ContiguousCache``.
    error : Out(1)
        Sticky: a request was refused.
    free : Out(range(blocks + 1))
        Free blocks.

    Latency (a dictionary): ``read`` and ``write`` cycles from a request of one block to its command, n more for a run of n blocks from
    2 on. ``again``, of any blocks, if a request is for the rows of the one before it, which were one run, and no command came between:
    those of the next head, or of the next layer; and if it lies in the first block that an EXTEND just before it extended. For commands
    see ``CYCLES``. Interval: ``interval`` cycles between such requests and those of one block, n + 2 between others, of n blocks.

    So an append takes at most two cycles more than its beats: of r records for which room is made by one EXTEND, the addresses take
    ``max(4, 2 * r + 1)`` cycles, and 2 more for each block behind the first, in which there is a record at least (1 less in all if the
    first was there). If it needs a copy on write, ``copy`` more, and the copy, which has the beats of r records at least; nothing more
    if others had the block once and left it. In a read no beat is lost between blocks, of whatever size.
    """

    interval = 2

    CYCLES = {"extend": 3, "extend_block": 2, "copy": 2, "fork": 2, "fork_block": 4, "free": 3, "free_block": 5, "compare": 3,
              "compare_block": 2}
    """Of commands, from ``i_command`` to ``o_done`` when nobody stalls: of one that does nothing (of an EXTEND also if it takes one
    block, at a block's end), and what comes for each block; and for an EXTEND within a block that others have too, without what
    ``o_copy`` waits."""

    def __init__(self, config: AcceleratorConfig, *, sequences: int | None = None, block_size: int | None = None,
                 blocks: int | None = None, lookups: bool = False):
        sequences = config.sequences if sequences is None else sequences
        block_size = config.block_size if block_size is None else block_size
        check_int("sequences", sequences, 2, 256)
        check_int("block_size", block_size, 1, min(1024, config.max_context), power_of_two=True)
        blocks = block_count(config, block_size, sequences) if blocks is None else blocks
        self.config, self.sequences, self.block_size, self.blocks, self.lookups = config, sequences, block_size, blocks, lookups
        self._pool, self._rows = BlockPool(blocks), RowAddresses(
            config, blocks * block_size, {name: paged_read(config).members[name] for name in ("position", "count", "last", "error")})
        self.latency = {**dict.fromkeys(("again", "read", "write"), 2 + self._rows.latency), **self.CYCLES}
        super().__init__({
            "i_command": In(stream.Signature(sequence_command(config, sequences))),
            "o_done": Out(stream.Signature(sequence_result(config))),
            "o_copy": Out(stream.Signature(copy_layout(blocks, block_size))),
            "i_request": In(stream.Signature(paged_request(config, sequences))),
            "o_read": Out(stream.Signature(paged_read(config))),
            "o_write": Out(stream.Signature(paged_write())),
            "record_beats": In(range(config.max_record_beats + 1)),
            "head_stride": In(ADDRESS_BITS),
            "error": Out(1),
            "clear": In(1),
            "free": Out(range(blocks + 1)),
        } | ({
            "i_look": In(stream.Signature(lookup_layout(config, sequences, block_size))),
            "o_look": Out(stream.Signature(block_layout(config, blocks, block_size))),
        } if lookups else {}))

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "PagedCache":
        """Sequences and blocks of the configuration."""
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        m.submodules.pool = pool = self._pool
        m.submodules.rows = rows = self._rows
        give(m, rows, self.o_read, self.o_write)
        m.d.comb += self.o_write.p.error.eq(rows.o.p.passed.error)
        m.d.comb += [rows.record_beats.eq(self.record_beats), rows.head_stride.eq(self.head_stride), self.free.eq(pool.free)]
        with m.If(self.clear):
            m.d.sync += self.error.eq(0)

        tables = SequenceTables(m, self, pool)
        with m.FSM(name="commands"):
            with m.State("IDLE"):
                m.d.comb += [tables.awaits.eq(1), self.i_command.ready.eq(1)]
                m.d.sync += [tables.command.eq(self.i_command.p), tables.sequence.eq(self.i_command.p.sequence),
                             tables.state.eq(tables.mine), tables.source.eq(tables.theirs), tables.reads_other.eq(0),
                             tables.index.eq(tables.index_of(tables.mine.length))]
                with m.If(self.i_command.valid):
                    m.next = "DECIDE"
            for command in (decide, extend, fork, compare, drop):
                command(m, tables)
            with m.State("ANSWER"):
                tables.tell(m)
        send_runs(m, tables, rows)
        return m
