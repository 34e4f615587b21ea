"""Paged KV cache whose sequences can leave it for a second region of memory, and come back."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..checks import check_int
from ..config import AcceleratorConfig
from ..streams import connect
from .mover import move_layout
from .paged import PagedCache
from .swap_commands import begin_swap, decide, hand_on
from .swap_formats import SwapCommand, swap_command, swap_result, swapped_layout
from .swap_tables import SwapTables
from .swap_walk import STEPS, count_block, finish, look, place_block

__all__ = ["SwapController"]

COUNTER_BITS = 32


class SwapController(wiring.Component):
    """``PagedCache`` with SWAP_OUT and SWAP_IN (FastSwitch, arXiv:2411.18424): block groups, dirty blocks, reads that wait.

    Region 0 of memory is the cache, region 1 has ``slots`` blocks more. A block of a sequence is clean while a slot has the same rows,
    else dirty: it gets its slot when it leaves and keeps it when it comes back, until it is written. A last block that is not full
    gives up its slot as soon as the sequence is back: the next append goes there, and need not wait for that then; others can have the
    slot meanwhile. So of a sequence that is in only full blocks are clean. Dirty blocks are copied, clean ones only given back. Blocks
    that lie one behind the other in both regions are one move, of the rows that there are::

        i_command --> commands --> PagedCache --> o_copy, o_done
                         | swap: a block at a time, beside the others
                         '-> runs of blocks --> o_move (RowMover) --> i_moved --> o_swapped
        i_request --> waits while its rows move --> copies of written blocks given up --> PagedCache --> o_read, o_write

    Slots: a block takes the first free one behind the slot of the block before it (of the sequence; for its first one, behind the
    slot used last), going around.

    Shared blocks: a block that other sequences have too stays, and stays this sequence's: it is a prefix, which nobody can
    write. So SWAP_OUT moves what follows it, and SWAP_IN finds it again.

    Parameters
    ----------
    config : AcceleratorConfig
    sequences, block_size, blocks : int
        See ``PagedCache``.
    slots : int
        Blocks of region 1, 2 to 2**16; as many as the pool has by default.

    Members
    -------
    i_command : In(stream of swap_command); o_done : Out(stream of swap_result)
        One result for each command, in order. That of a swap comes when it has begun, or is refused. Until it has ended, another
        swap and commands about its sequence wait, and what comes behind them; all others go on.
    o_swapped : Out(stream of swapped_layout)
        One for each swap that was not refused, when it has ended.
    o_move : Out(stream of move_layout(rows)); i_moved : In(stream of {error})
        To and from a ``RowMover(config, controller.rows)``; one move at a time. What was written to the cache has to be in memory when
        SWAP_OUT is given, what was read from it has to be there.
    i_request : In(stream of paged_request); o_read, o_write, o_copy : Out
        See ``PagedCache``. Commands in the order of the requests. One for rows that are still to come, or for a sequence that
        leaves, waits, and those behind it; of a sequence that comes back, rows can be read move by move, from the first on, and writes
        wait for its end, as it stays in its slots if a move fails. A write that gives back slots waits while the blocks of a SWAP_OUT
        before it are counted. All others wait for no swap if they pass at once (see below), else for one block of it at most, or at its
        end for those that are given back.
    record_beats, head_stride, clear : In; free : Out
        See ``PagedCache``.
    error : Out(1)
        Sticky: a request was refused, as in ``PagedCache``, or because it was about a sequence that is out.
    room : Out(range(slots + 1))
        Free slots.
    rows_out, rows_in, moves, clean_blocks : Out(32)
        Since reset, modulo 2**32: rows moved each way, moves, blocks that left and were clean.

    Latency (a dictionary): ``read`` and ``write`` cycles from a request of one block to its command; ``swap_out``, ``swap_in`` from a
    command about one block to its move, ``out_block``, ``in_block`` more for each block behind it in the same run. Interval: that
    of ``PagedCache`` for requests that pass at once, those about sequences that are in: reads, and writes of blocks behind the last one
    that may have a slot, among them all appends. Other writes, of rows in full blocks, take 4 cycles more, and 2 for each block that
    may have a slot; if the last such one was among them, further writes there pass. EXTEND and FORK pass at once too. So an append
    takes at most two cycles more than its beats, as with ``PagedCache``, whatever was swapped before, or is while it is made.
    """

    SAME = ("o_copy", "i_request", "o_read", "o_write", "record_beats", "head_stride", "error", "clear", "free")
    """Members that are those of ``PagedCache``."""

    CYCLES = {"swap_out": 26, "out_block": 14, "swap_in": 22, "in_block": 9}

    def __init__(self, config: AcceleratorConfig, *, sequences: int | None = None, block_size: int | None = None,
                 blocks: int | None = None, slots: int | None = None):
        self._cache = cache = PagedCache(config, sequences=sequences, block_size=block_size, blocks=blocks, lookups=True)
        slots = cache.blocks if slots is None else slots
        check_int("slots", slots, 2, 1 << 16)
        self.config, self.slots = config, slots
        self.sequences, self.block_size, self.blocks = cache.sequences, cache.block_size, cache.blocks
        self.rows = max(cache.blocks, slots) * cache.block_size
        self.latency = {"read": cache.latency["read"] + 1, "write": cache.latency["write"] + 1, **self.CYCLES}
        super().__init__({
            "i_command": In(stream.Signature(swap_command(config, self.sequences))),
            "o_done": Out(stream.Signature(swap_result(config))),
            "o_swapped": Out(stream.Signature(swapped_layout(self.sequences))),
            "o_move": Out(stream.Signature(move_layout(self.rows))),
            "i_moved": In(stream.Signature(data.StructLayout({"error": 1}))),
            **{name: cache.signature.members[name] for name in self.SAME},
            "room": Out(range(slots + 1), init=slots),
            **{name: Out(COUNTER_BITS) for name in ("rows_out", "rows_in", "moves", "clean_blocks")},
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "SwapController":
        """Sequences and blocks of the configuration, a slot for each block."""
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        m.submodules.cache = cache = self._cache
        for name in ("o_copy", "o_read", "o_write"):
            connect(m, getattr(cache, name), wiring.flipped(getattr(self, name)))
        m.d.comb += [cache.record_beats.eq(self.record_beats), cache.head_stride.eq(self.head_stride), cache.clear.eq(self.clear),
                     self.free.eq(cache.free), self.error.eq(cache.error)]

        self._tables = tables = SwapTables(m, self, cache)
        goes, takes, at_once, about_swap, asks = Signal(), Signal(), Signal(), Signal(), Signal()
        steps, swap_turn, moves_on, passes, leaves, examined, begins, passes_on = (Signal() for _ in range(8))
        offered, asked, request, swap, active, checking, told = (
            self.i_request.p, self.i_command.p, tables.request, tables.swap, tables.active, tables.checking, cache.i_command)
        m.d.comb += [
            goes.eq(tables.pending & ~(tables.checked & tables.waits)),
            about_swap.eq((asked.command >= SwapCommand.SWAP_OUT) | (asked.sequence == swap.sequence)
                          | ((asked.command == SwapCommand.FORK) & (asked.other == swap.sequence))),
            asks.eq(self.i_command.valid & ~checking & ~(active & about_swap)), takes.eq(asks & ~goes),
            at_once.eq((asked.sequence < self.sequences) & ~tables.out.bit_select(asked.sequence, 1) & (
                (asked.command == SwapCommand.EXTEND) | ((asked.command == SwapCommand.FORK) & (asked.other < self.sequences)))),
            tables.mine.addr.eq(asked.sequence), tables.its.addr.eq(tables.looked.sequence), tables.keep.addr.eq(tables.sequence),
            tables.entry.addr.eq(tables.index | tables.sequence << tables.index_bits), tables.enter.addr.eq(tables.entry.addr),
            tables.enter.data.slot.eq(tables.slot),
            cache.i_request.p.eq(request), cache.i_look.p.sequence.eq(tables.sequence), cache.i_look.p.index.eq(tables.index),
            self.o_done.p.error.eq(tables.error), self.o_done.p.length.eq(tables.length),
        ]
        m.d.sync += [tables.checked.eq(0), steps.eq(0)]
        with m.If(self.o_swapped.ready):
            m.d.sync += self.o_swapped.valid.eq(0)
        with m.If(tables.handed):
            m.d.comb += [self.o_done.valid.eq(cache.o_done.valid), cache.o_done.ready.eq(self.o_done.ready),
                         self.o_done.p.error.eq(cache.o_done.p.error), self.o_done.p.length.eq(cache.o_done.p.length)]
            with m.If(cache.o_done.valid & self.o_done.ready):
                m.d.sync += tables.handed.eq(0)

        with m.FSM() as states:
            m.d.comb += passes_on.eq(Cat(states.ongoing(name) for name in ("IDLE", *STEPS)).any())
            with m.State("IDLE"):
                m.d.comb += [examined.eq(goes & tables.checked & ~tables.plain), begins.eq(takes & ~at_once & ~tables.handed),
                             moves_on.eq(steps & (swap_turn | ~(examined | begins)))]
                m.d.sync += [steps.eq(active & ~tables.runs.flush & Mux(
                    tables.more, checking | ~tables.leaves | tables.slots.at_free | (self.room == 0),
                    checking | ((tables.runs.run.rows == 0) & ~tables.runs.busy & ~self.o_swapped.valid)))]
                with m.If(moves_on):
                    m.d.sync += [tables.sequence.eq(swap.sequence), tables.index.eq(swap.index), tables.end.eq(swap.end),
                                 swap_turn.eq(0)]
                    m.next = "LOOK"
                    with m.If(~tables.more):
                        m.next = "FINISH"
                        with m.If(checking):
                            m.next = "CHECKED"
                with m.Elif(examined):
                    m.d.sync += [tables.sequence.eq(request.sequence), tables.state.eq(tables.state_of(tables.its)), swap_turn.eq(1)]
                    m.next = "REQUEST"
                with m.Elif(begins):
                    m.d.comb += self.i_command.ready.eq(1)
                    m.d.sync += [tables.command.eq(asked), tables.sequence.eq(asked.sequence),
                                 tables.state.eq(tables.state_of(tables.mine)), swap_turn.eq(1)]
                    m.next = "DECIDE"
            self._pass_request(m, tables)
            for command in (decide, hand_on, begin_swap):
                command(m, tables)
            with m.State("ANSWER"):
                m.d.comb += self.o_done.valid.eq(1)
                with m.If(self.o_done.ready):
                    m.next = "IDLE"
            for step in (look, count_block, place_block, finish):
                step(m, tables)
        with m.If(passes_on):
            m.d.comb += [passes.eq(tables.pending & tables.checked & tables.plain), leaves.eq(passes & cache.i_request.ready),
                         cache.i_request.valid.eq(passes), self.i_request.ready.eq((~tables.pending | leaves) & ~asks),
                         told.p.command.eq(asked.command[:2]),
                         *(told.p[name].eq(asked[name]) for name in ("sequence", "other", "count"))]
            tables.check(m)
            with m.If(leaves):
                m.d.sync += [tables.pending.eq(0), tables.checked.eq(0)]
            with m.If(self.i_request.valid & self.i_request.ready):
                m.d.sync += [request.eq(offered), tables.pending.eq(1), tables.request_end.eq(offered.position + offered.count)]
            with m.If(takes & at_once):
                m.d.comb += [told.valid.eq(1), self.i_command.ready.eq(told.ready)]
                with m.If(told.ready):
                    m.d.sync += tables.handed.eq(1)
        with m.If(tables.keep.en):
            m.d.sync += [tables.used.bit_select(tables.sequence, 1).eq(1),
                         tables.out.bit_select(tables.sequence, 1).eq(tables.keep.data.length != 0)]
        return m

    def _pass_request(self, m: Module, tables: SwapTables) -> None:
        """States of a request that need not wait, but does not pass at once: copies of what it writes are given up, and the cache gets
        it. The cache refuses rows that no sequence can have."""
        request, state, sequence, cache, end = tables.request, tables.state, tables.sequence, tables.cache, tables.request_end
        first, keep = request.position >> tables.offset_bits, tables.keep
        with m.State("REQUEST"):
            m.d.sync += [tables.index.eq(first),
                         tables.end.eq(Mux(tables.blocks_of(end) < state.known, tables.blocks_of(end), state.known))]
            m.next = "PASS"
            with m.If((state.length != 0) & ~(tables.active & (sequence == tables.swap.sequence)) | (sequence >= self.sequences)):
                m.d.sync += [request.position.eq(self.config.max_context), request.count.eq(self.config.max_context)]
            with m.Elif(request.write & (request.count != 0) & (first < state.known)):
                m.next = "WRITTEN"
        tables.give_up(m, "WRITTEN", "WROTE")
        with m.State("WROTE"):  # what no entry is known of is written at once
            m.d.comb += [keep.en.eq(tables.end == state.known), keep.data.known.eq(first), keep.data.length.eq(state.length)]
            m.next = "PASS"
        with m.State("PASS"):
            m.d.comb += cache.i_request.valid.eq(1)
            with m.If(cache.i_request.ready):
                m.d.sync += tables.pending.eq(0)
                m.next = "IDLE"
