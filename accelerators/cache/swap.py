"""Paged KV cache whose sequences can leave it for a second region of memory, and come back."""

from collections.abc import Iterator
from contextlib import contextmanager

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig, ceil_div, check_int
from ..streams import connect
from .mover import move_layout
from .paged import PagedCache, SequenceCommand
from .swap_formats import SwapCommand, SwapError, swap_command, swap_result, swapped_layout

__all__ = ["SwapController"]

COUNTER_BITS = 32


class SwapController(wiring.Component):
    """``PagedCache`` with SWAP_OUT and SWAP_IN (FastSwitch, arXiv:2411.18424): block groups, dirty blocks, reads that wait.

    Region 0 of memory is the cache, region 1 has ``slots`` blocks more. A block of a sequence is clean while a slot has the same rows,
    else dirty: it gets its slot when it leaves and keeps it when it comes back, until it is written. Dirty blocks are copied, clean
    ones only given back. Blocks that lie one behind the other in both regions are one move, of the rows that there are::

        i_command --> commands --> PagedCache --> o_copy, o_done
                         | swap: a block at a time, in turn with the others
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
        leaves, waits, and those behind it; of a sequence that comes back, rows are there move by move, from the first on. All
        others wait for one block of the swap at most, or one command of the cache.
    record_beats, head_stride, clear : In; free : Out
        See ``PagedCache``.
    error : Out(1)
        Sticky: as in ``PagedCache``, or a request was about a sequence that is out.
    room : Out(range(slots + 1))
        Free slots.
    rows_out, rows_in, moves, clean_blocks : Out(32)
        Since reset, modulo 2**32: rows moved each way, moves, blocks that left and were clean.

    Latency (a dictionary): ``read`` and ``write`` cycles from a request of one block to its command; ``swap_out``, ``swap_in`` from a
    command about one block to its move, ``out_block``, ``in_block`` more for each block behind it in the same run. Interval: that
    of ``PagedCache`` and 3 cycles.
    """

    SAME = ("o_copy", "i_request", "o_read", "o_write", "record_beats", "head_stride", "error", "clear", "free")
    """Members that are those of ``PagedCache``."""

    CYCLES = {"swap_out": 27, "out_block": 16, "swap_in": 26, "in_block": 12}

    def __init__(self, config: AcceleratorConfig, *, sequences: int | None = None, block_size: int | None = None,
                 blocks: int | None = None, slots: int | None = None):
        self._cache = cache = PagedCache(config, sequences=sequences, block_size=block_size, blocks=blocks, lookups=True)
        slots = cache.blocks if slots is None else slots
        check_int("slots", slots, 2, 1 << 16)
        self.config, self.slots = config, slots
        self.sequences, self.block_size, self.blocks = cache.sequences, cache.block_size, cache.blocks
        self.rows = max(cache.blocks, slots) * cache.block_size
        self.latency = {"read": cache.latency["read"] + 3, "write": cache.latency["write"] + 3, **self.CYCLES}
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
        refused = Signal()
        m.d.comb += [cache.record_beats.eq(self.record_beats), cache.head_stride.eq(self.head_stride), cache.clear.eq(self.clear),
                     self.free.eq(cache.free), self.error.eq(cache.error | refused)]
        with m.If(self.clear):
            m.d.sync += refused.eq(0)

        offset_bits = self.block_size.bit_length() - 1
        each = ceil_div(self.config.max_context, self.block_size)  # blocks of a sequence
        positions, counts = range(self.config.max_context + 1), range(each + 1)

        def blocks_of(count):
            return (count + self.block_size - 1) >> offset_bits

        # Of each sequence: its length if it is out, else 0; how many of its entries mean anything. An entry: the slot of a block.
        kept = data.StructLayout({"length": positions, "known": counts})
        m.submodules.states = states = memory.Memory(shape=kept, depth=self.sequences, init=[])
        mine, keep = states.read_port(domain="comb"), states.write_port()
        index_bits = (each - 1).bit_length()
        m.submodules.entries = entries = memory.Memory(shape=data.StructLayout({"copied": 1, "slot": range(self.slots)}),
                                                       depth=self.sequences << index_bits, init=[])
        entry, enter = entries.read_port(), entries.write_port()
        used = Signal(self.sequences)

        command, error, length = Signal.like(self.i_command.p), Signal(4), Signal(positions)
        request, request_end, pending = Signal.like(self.i_request.p), Signal(len(self.i_request.p.position) + 1), Signal()
        sequence, index, end = Signal(range(self.sequences)), Signal(counts), Signal(counts)
        state, size = Signal(kept), Signal(positions)

        # The swap: blocks ``index`` to ``end`` are still to be looked at, those before ``first`` stay. All rows end at ``limit``.
        swap = Signal(data.StructLayout({"sequence": range(self.sequences), "first": counts, "index": counts, "end": counts,
                                         "known": counts, "dirty": counts, "limit": positions, "length": positions}))
        active, checking, leaves, failed, arrived = Signal(), Signal(), Signal(), Signal(), Signal(positions)
        more, swap_turn, steps = Signal(), Signal(), Signal()
        block, shared, slot, copied = Signal(range(self.blocks)), Signal(), Signal(range(self.slots)), Signal()
        m.d.comb += more.eq(swap.index != swap.end)
        run, flush, busy = self._moves(m, active & ~checking & ~more, leaves, arrived, failed)
        pointer, at_free, take, give = self._slots(m, active & leaves & ~checking & more, entry.data.slot)

        waits, goes, takes, about_swap = Signal(), Signal(), Signal(), Signal()
        asked = self.i_command.p
        m.d.comb += [
            waits.eq(active & (request.sequence == swap.sequence) & (leaves | (request_end > arrived))),
            goes.eq(pending & ~waits),
            about_swap.eq((asked.command >= SwapCommand.SWAP_OUT) | (asked.sequence == swap.sequence)
                          | ((asked.command == SwapCommand.FORK) & (asked.other == swap.sequence))),
            takes.eq(self.i_command.valid & ~goes & ~checking & ~(active & about_swap)),
            steps.eq(active & ~flush & Mux(more, checking | ~leaves | at_free | (self.room == 0),
                                           checking | ((run.rows == 0) & ~busy & ~self.o_swapped.valid))),
            mine.addr.eq(Mux(goes, request.sequence, asked.sequence)), keep.addr.eq(sequence),
            entry.addr.eq(index | sequence << index_bits), enter.addr.eq(entry.addr), enter.data.slot.eq(slot),
            cache.i_request.p.eq(request), cache.i_look.p.sequence.eq(sequence), cache.i_look.p.index.eq(index),
            self.o_done.p.error.eq(error), self.o_done.p.length.eq(length),
        ]
        with m.If(self.o_swapped.ready):
            m.d.sync += self.o_swapped.valid.eq(0)

        @contextmanager
        def tell(name: str, what, count) -> Iterator[Value]:
            """States that send a command to the cache, and what happens when it was done: while the given signal is high."""
            told = cache.i_command
            with m.State(name):
                m.d.comb += [told.valid.eq(1), told.p.command.eq(what), told.p.sequence.eq(sequence), told.p.other.eq(command.other),
                             told.p.count.eq(count)]
                with m.If(told.ready):
                    m.next = name + "_DONE"
            with m.State(name + "_DONE"):
                m.d.comb += cache.o_done.ready.eq(1)
                yield cache.o_done.valid

        def give_up(name: str, then: str) -> None:
            """States that give back the slots of blocks ``index`` to ``end`` of a sequence."""
            with m.State(name):
                m.next = name + "_SLOT"
                with m.If(index >= end):
                    m.next = then
            with m.State(name + "_SLOT"):
                m.d.comb += [give.eq(entry.data.copied), enter.en.eq(1)]
                m.d.sync += index.eq(index + 1)
                m.next = name

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.i_request.ready.eq(~pending & ~takes)
                m.d.sync += [state.eq(Mux(used.bit_select(mine.addr, 1), mine.data.as_value(), 0)), swap_turn.eq(1)]
                with m.If(self.i_request.valid & self.i_request.ready):
                    m.d.sync += [request.eq(self.i_request.p), pending.eq(1),
                                 request_end.eq(self.i_request.p.position + self.i_request.p.count)]
                with m.If(steps & (swap_turn | ~(goes | takes))):
                    m.d.sync += [sequence.eq(swap.sequence), index.eq(swap.index), end.eq(swap.end), swap_turn.eq(0)]
                    m.next = "LOOK"
                    with m.If(~more):
                        m.next = "FINISH"
                        with m.If(checking):
                            m.next = "CHECKED"
                with m.Elif(goes):
                    m.d.sync += sequence.eq(request.sequence)
                    m.next = "REQUEST"
                with m.Elif(takes):
                    m.d.comb += self.i_command.ready.eq(1)
                    m.d.sync += [command.eq(asked), sequence.eq(asked.sequence)]
                    m.next = "DECIDE"

            # A request that need not wait.
            with m.State("REQUEST"):
                m.d.sync += [index.eq(request.position >> offset_bits),
                             end.eq(Mux(blocks_of(request_end) < state.known, blocks_of(request_end), state.known))]
                m.next = "PASS"
                with m.If((state.length != 0) & ~(active & (sequence == swap.sequence)) | (sequence >= self.sequences)):
                    m.d.sync += [refused.eq(1), pending.eq(0)]
                    m.next = "IDLE"
                with m.Elif(request.write & (request.count != 0) & (state.known != 0)):
                    m.next = "WRITTEN"
            give_up("WRITTEN", "PASS")
            with m.State("PASS"):
                m.d.comb += cache.i_request.valid.eq(1)
                with m.If(cache.i_request.ready):
                    m.d.sync += pending.eq(0)
                    m.next = "IDLE"

            # Commands.
            with m.State("DECIDE"):
                m.d.sync += [error.eq(SwapError.NONE), length.eq(state.length), index.eq(0), end.eq(state.known)]
                with m.Switch(command.command):
                    with m.Case(SwapCommand.EXTEND, SwapCommand.FORK):
                        m.next = "HAND_ON"
                    with m.Case(SwapCommand.FREE):
                        m.next = "FREED"
                    with m.Case(SwapCommand.MARK):
                        m.d.sync += index.eq(command.count >> offset_bits)
                        m.next = "MARKED"
                    with m.Default():
                        m.next = "SIZE"
                with m.If((state.length != 0) & command.command.matches(SwapCommand.EXTEND, SwapCommand.FORK, SwapCommand.MARK)):
                    m.d.sync += error.eq(SwapError.SWAPPED)
                    m.next = "ANSWER"
                with m.If((sequence >= self.sequences) | (command.command > SwapCommand.SWAP_IN)
                          | ((command.command == SwapCommand.FORK) & (command.other >= self.sequences))):
                    m.d.sync += [error.eq(SwapError.UNKNOWN), length.eq(0)]
                    m.next = "ANSWER"
            give_up("FREED", "FORGET")
            with m.State("FORGET"):
                m.d.comb += keep.en.eq(1)
                m.next = "HAND_ON"
            with tell("HAND_ON", command.command[:2], command.count) as done:
                with m.If(done):
                    m.d.sync += [error.eq(cache.o_done.p.error), length.eq(cache.o_done.p.length)]
                    m.next = "ANSWER"
            give_up("MARKED", "SIZE")
            with tell("SIZE", SequenceCommand.EXTEND, 0) as done:
                with m.If(done):
                    m.d.sync += size.eq(cache.o_done.p.length)
                    m.next = "SIZED"
            with m.State("SIZED"):
                m.next = "ANSWER"
                with m.If(state.length == 0):
                    m.d.sync += length.eq(size)
                with m.If(command.command != SwapCommand.MARK):
                    m.d.sync += [swap.sequence.eq(sequence), swap.known.eq(state.known), swap.dirty.eq(0), arrived.eq(size),
                                 failed.eq(0)]
                with m.If(command.command == SwapCommand.SWAP_OUT):
                    m.d.sync += [swap.first.eq(0), swap.index.eq(0), swap.end.eq(blocks_of(size)), swap.limit.eq(size),
                                 swap.length.eq(Mux(state.length != 0, state.length, size)),
                                 active.eq(1), checking.eq(1), leaves.eq(1)]
                    m.next = "IDLE"
                with m.Elif(command.command == SwapCommand.SWAP_IN):
                    m.d.sync += [swap.first.eq(size >> offset_bits), swap.index.eq(size >> offset_bits),
                                 swap.end.eq(blocks_of(state.length)), swap.limit.eq(state.length), leaves.eq(0)]
                    m.next = "ENOUGH"
                    with m.If(state.length == 0):
                        m.d.sync += error.eq(SwapError.NOTHING)
                        m.next = "ANSWER"
            with m.State("ENOUGH"):
                m.next = "ALLOCATE"
                with m.If(cache.free < swap.end - swap.index):
                    m.d.sync += error.eq(SwapError.NO_BLOCK)
                    m.next = "ANSWER"
            with tell("ALLOCATE", SequenceCommand.EXTEND, swap.limit - arrived) as done:
                with m.If(done):
                    m.d.sync += active.eq(1)
                    m.next = "ANSWER"
            with m.State("ANSWER"):
                m.d.comb += self.o_done.valid.eq(1)
                with m.If(self.o_done.ready):
                    m.next = "IDLE"

            # The swap, a block at a time: those of SWAP_OUT are counted first.
            with m.State("LOOK"):
                m.d.comb += cache.i_look.valid.eq(1)
                with m.If(cache.i_look.ready):
                    m.next = "LOOKED"
            with m.State("LOOKED"):
                known = entry.data.copied & (index < swap.known)
                m.d.comb += cache.o_look.ready.eq(1)
                m.d.sync += [block.eq(cache.o_look.p.block), shared.eq(cache.o_look.p.shared), copied.eq(known),
                             slot.eq(Mux(known, entry.data.slot, pointer))]
                with m.If(cache.o_look.valid):
                    m.next = "PLACE"
                    with m.If(checking):
                        m.next = "CHECK"
            with m.State("CHECK"):
                m.d.comb += enter.en.eq(index >= swap.known)
                m.d.sync += swap.index.eq(index + 1)
                with m.If(shared):
                    m.d.sync += swap.first.eq(index + 1)
                with m.Elif(~copied):
                    m.d.sync += swap.dirty.eq(swap.dirty + 1)
                m.next = "IDLE"
            with m.State("CHECKED"):
                m.d.sync += [checking.eq(0), swap.index.eq(swap.first)]
                m.next = "ANSWER"
                with m.If(swap.first == swap.end):
                    m.d.sync += [error.eq(SwapError.NOTHING), active.eq(0)]
                with m.Elif(swap.dirty > self.room):
                    m.d.sync += [error.eq(SwapError.NO_ROOM), active.eq(0)]
                with m.Elif(swap.known < swap.end):
                    m.d.sync += swap.known.eq(swap.end)
            with m.State("PLACE"):
                last = swap.limit[:offset_bits]
                here = Mux((index + 1 == end) & last.any(), last, self.block_size)
                clean, follows = leaves & copied, (block == run.next_block) & (slot == run.next_slot)
                m.next = "IDLE"
                with m.If(clean):
                    m.d.sync += self.clean_blocks.eq(self.clean_blocks + 1)
                with m.Elif((run.rows != 0) & ~follows):
                    m.d.sync += flush.eq(1)
                with m.Else():
                    m.d.sync += [run.rows.eq(run.rows + here), run.end.eq((index << offset_bits) + here),
                                 run.next_block.eq(block + 1), run.next_slot.eq(slot + 1)]
                    with m.If(run.rows == 0):
                        m.d.sync += [run.block.eq(block), run.slot.eq(slot)]
                    m.d.comb += [take.eq(leaves), enter.en.eq(leaves), enter.data.copied.eq(1)]
                with m.If(clean | (run.rows == 0) | follows):
                    m.d.sync += swap.index.eq(index + 1)
                    with m.If(leaves):
                        m.d.sync += pointer.eq(Mux(slot == self.slots - 1, 0, slot + 1))

            # All was moved.
            with m.State("FINISH"):
                m.d.sync += index.eq(swap.first)
                m.next = "END"
                with m.If(leaves ^ failed):
                    m.next = "LEAVE"
                with m.Elif(leaves):
                    m.next = "LOST"
            give_up("LOST", "END")
            with tell("LEAVE", SequenceCommand.SHRINK, swap.first << offset_bits) as done:
                with m.If(done):
                    m.next = "END"
            with m.State("END"):
                m.d.comb += [keep.en.eq(~failed), keep.data.known.eq(swap.known), keep.data.length.eq(Mux(leaves, swap.length, 0))]
                m.d.sync += [active.eq(0), self.o_swapped.valid.eq(1), self.o_swapped.p.sequence.eq(sequence),
                             self.o_swapped.p.error.eq(failed)]
                m.next = "IDLE"
        with m.If(keep.en):
            m.d.sync += used.bit_select(sequence, 1).eq(1)
        return m

    def _moves(self, m: Module, complete, leaves, arrived, failed):
        """Sends a run of blocks when ``flush`` is set, or all are in it, and notes when it was moved; one at a time."""
        positions = range(self.config.max_context + 1)
        run = Signal(data.StructLayout({"block": range(self.blocks), "slot": range(self.slots), "rows": positions, "end": positions,
                                        "next_block": range(self.blocks + 1), "next_slot": range(self.slots + 1)}))
        flush, busy, sent_end = Signal(), Signal(), Signal(positions)
        source, target = Mux(leaves, run.block, run.slot), Mux(leaves, run.slot, run.block)
        move = self.o_move.p
        m.d.comb += [
            self.o_move.valid.eq(flush & ~busy), move.from_region.eq(~leaves), move.to_region.eq(leaves), move.rows.eq(run.rows),
            move.source.eq(source * self.block_size), move.target.eq(target * self.block_size), self.i_moved.ready.eq(busy),
        ]
        with m.If(complete & (run.rows != 0)):
            m.d.sync += flush.eq(1)
        with m.If(self.o_move.valid & self.o_move.ready):
            m.d.sync += [busy.eq(1), sent_end.eq(run.end), run.rows.eq(0), flush.eq(0), self.moves.eq(self.moves + 1)]
            with m.If(leaves):
                m.d.sync += self.rows_out.eq(self.rows_out + run.rows)
            with m.Else():
                m.d.sync += self.rows_in.eq(self.rows_in + run.rows)
        with m.If(busy & self.i_moved.valid):
            m.d.sync += busy.eq(0)
            with m.If(self.i_moved.p.error):
                m.d.sync += failed.eq(1)
            with m.Elif(~failed):
                m.d.sync += arrived.eq(sent_end)
        return run, flush, busy

    def _slots(self, m: Module, searches, given):
        """Which slots are free: ``take`` the one at ``pointer``, which goes to the next free one while ``searches``; ``give`` back
        another one. Those that nobody ever had are counted, so that nothing has to be initialized."""
        m.submodules.taken = taken = memory.Memory(shape=1, depth=self.slots, init=[])
        here, change = taken.read_port(domain="comb"), taken.write_port()
        pointer, fresh = Signal(range(self.slots)), Signal(range(self.slots + 1))
        at_free, take, give = Signal(), Signal(), Signal()
        m.d.comb += [
            here.addr.eq(pointer), at_free.eq((pointer >= fresh) | ~here.data),
            change.en.eq(take | give), change.addr.eq(Mux(take, pointer, given)), change.data.eq(take),
        ]
        with m.If(searches & ~at_free):
            m.d.sync += pointer.eq(Mux(pointer == self.slots - 1, 0, pointer + 1))
        with m.If(take):
            m.d.sync += self.room.eq(self.room - 1)
            with m.If(pointer == fresh):
                m.d.sync += fresh.eq(fresh + 1)
        with m.If(give):
            m.d.sync += self.room.eq(self.room + 1)
        return pointer, at_free, take, give
