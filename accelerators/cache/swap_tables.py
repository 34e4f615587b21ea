"""What the states of a swap controller share: what it knows of the sequences, the one in hand, and the swap."""

from collections.abc import Iterator
from contextlib import contextmanager

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, memory, wiring

from ..integers import ceil_div
from .paged import PagedCache
from .swap_moves import FreeSlots, MoveRuns

__all__ = ["SwapTables"]


class SwapTables:
    """Which blocks of each sequence have a slot in region 1, what the states of a ``SwapController`` have in hand, and its swap.

    Parameters
    ----------
    m : Module
        That of the controller: memories and registers are put into it.
    controller : SwapController
        Its ports and sizes matter.
    cache : PagedCache
        A submodule of ``m``.

    Members
    -------
    mine, its, keep
        Ports of the memory of sequences: the length of one that is out, else 0, and how many of its entries are ``known``, that is,
        mean anything: of one that is in, of full blocks only. Read is that of the command that is offered, and of the request that is
        looked at, written the one in hand.
    entry, enter
        Ports of the memory of entries: of block ``index`` of the sequence in hand, whether a slot has a copy of it, and which. A
        cycle late.
    used
        A bit for each sequence: its state was written since reset. All others are in and have no entry that is known.
    command, error, length
        The latest command and its answer.
    out
        A bit for each sequence: it is out, if only in part.
    handed
        The cache was given a command at once, and owes the answer.
    request, request_end, pending
        The latest request, the position behind its rows, and whether it is still here.
    looked, checked, waits, plain
        The request that is looked at: the one pending, or offered. If it was ``checked``, in the cycle before: it has to wait for the
        swap; or it can pass at once, as it is about a sequence that is in and writes no block of which a slot may have a copy.
    sequence, state, index, end
        The sequence in hand, its state in the memory, and those of its blocks that are still to come: from ``index`` up to ``end``.
    size
        Positions that it has in the cache.
    swap
        Of the sequence that is swapped: blocks ``index`` to ``end`` are still to be looked at, those before ``first`` stay; all rows
        end at ``limit``. ``known`` as in the memory; ``missing`` is how many slots, or blocks, it needs; ``length`` is that of the
        sequence.
    active, checking, leaves, failed, arrived
        There is a swap; its blocks are only counted yet; it is a SWAP_OUT; a move failed; positions that were moved.
    more, ends
        Blocks are still to be looked at. In this cycle the swap ends: what is about its sequence is looked at behind it.
    block, shared, slot, copied
        The one that is looked at, whether others have it, and its slot, which has its rows (``copied``) or will have them.
    runs, slots
        See ``MoveRuns`` and ``FreeSlots``.
    """

    def __init__(self, m: Module, controller: wiring.Component, cache: PagedCache):
        each = ceil_div(controller.config.max_context, controller.block_size)  # blocks of a sequence
        positions, counts, index_bits = range(controller.config.max_context + 1), range(each + 1), (each - 1).bit_length()
        kept = data.StructLayout({"length": positions, "known": counts})
        m.submodules.states = states = memory.Memory(shape=kept, depth=controller.sequences, init=[])
        m.submodules.entries = entries = memory.Memory(shape=data.StructLayout({"copied": 1, "slot": range(controller.slots)}),
                                                       depth=controller.sequences << index_bits, init=[])
        self.controller, self.cache = controller, cache
        self.offset_bits, self.index_bits = controller.block_size.bit_length() - 1, index_bits
        self.mine, self.its, self.keep = states.read_port(domain="comb"), states.read_port(domain="comb"), states.write_port()
        self.entry, self.enter = entries.read_port(), entries.write_port()

        self.used = Signal(controller.sequences)
        self.command, self.error, self.length = Signal.like(controller.i_command.p), Signal(4), Signal(positions)
        asked = controller.i_request.p
        self.request, self.request_end = Signal.like(asked), Signal(len(asked.position) + 1)
        self.pending, self.checked, self.plain, self.waits = Signal(), Signal(), Signal(), Signal()
        self.looked, self.handed, self.out = Signal.like(asked), Signal(), Signal(controller.sequences)
        self.sequence, self.state = Signal(range(controller.sequences)), Signal(kept)
        self.index, self.end = Signal(counts), Signal(counts)
        self.size = Signal(positions)
        self.swap = Signal(data.StructLayout({"sequence": range(controller.sequences), "first": counts, "index": counts, "end": counts,
                                              "known": counts, "missing": counts, "limit": positions, "length": positions}))
        self.active, self.checking, self.leaves, self.failed = Signal(), Signal(), Signal(), Signal()
        self.arrived, self.more, self.ends = Signal(positions), Signal(), Signal()
        self.block, self.shared, self.slot, self.copied = (
            Signal(range(controller.blocks)), Signal(), Signal(range(controller.slots)), Signal())

        m.d.comb += [self.more.eq(self.swap.index != self.swap.end), self.looked.eq(Mux(self.pending, self.request, asked))]
        self.runs = MoveRuns(m, controller, self.active & ~self.checking & ~self.more, self.leaves, self.arrived, self.failed)
        self.slots = FreeSlots(m, controller, self.active & self.leaves & ~self.checking & self.more, self.entry.data.slot)

    def blocks_of(self, count: Value) -> Value:
        """Blocks that ``count`` positions need."""
        return (count + self.controller.block_size - 1) >> self.offset_bits

    def state_of(self, port) -> data.View:
        """What the memory has of the sequence that a port reads; all is 0 where nothing was written."""
        return data.View(port.data.shape(), Mux(self.used.bit_select(port.addr, 1), port.data.as_value(), 0))

    def check(self, m: Module) -> None:
        """In a state: whether the latest request, or if none is pending the one that is offered, has to wait, or can pass. What is
        about the sequence that is swapped is only checked when it is pending."""
        looked, swap, state = self.looked, self.swap, self.state_of(self.its)
        swapped = self.active & (looked.sequence == swap.sequence)
        writes = looked.write & (looked.count != 0) & (looked.position >> self.offset_bits < state.known)
        waits = swapped & (self.leaves | looked.write | (self.request_end > self.arrived)) | self.checking & writes
        m.d.sync += [self.checked.eq(~swapped | (self.pending & ~self.ends)), self.waits.eq(waits),
                     self.plain.eq(~waits & ~writes & ~self.out.bit_select(looked.sequence, 1)
                                   & (looked.sequence < self.controller.sequences))]

    @contextmanager
    def tell(self, m: Module, name: str, what, count) -> Iterator[Value]:
        """States that send a command to the cache, and what happens when it was done: while the given signal is high."""
        cache, told = self.cache, self.cache.i_command
        with m.State(name):
            m.d.comb += [told.valid.eq(1), told.p.command.eq(what), told.p.sequence.eq(self.sequence),
                         told.p.other.eq(self.command.other), told.p.count.eq(count)]
            with m.If(told.ready):
                m.next = name + "_DONE"
        with m.State(name + "_DONE"):
            m.d.comb += cache.o_done.ready.eq(1)
            yield cache.o_done.valid

    def give_up(self, m: Module, name: str, then: str) -> None:
        """States that give back the slots of blocks ``index`` to ``end`` of a sequence."""
        with m.State(name):
            m.next = name + "_SLOT"
            with m.If(self.index >= self.end):
                m.next = then
        with m.State(name + "_SLOT"):
            m.d.comb += [self.slots.give.eq(self.entry.data.copied), self.enter.en.eq(1)]
            m.d.sync += self.index.eq(self.index + 1)
            m.next = name
