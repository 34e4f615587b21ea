"""The swap of a swap controller, a block at a time: states of its machine, from ``LOOK`` to ``END``."""

from amaranth.hdl import Module, Mux

from .swap_formats import SwapError
from .swap_tables import SwapTables

__all__ = ["STEPS", "count_block", "finish", "look", "place_block"]

STEPS = ("LOOK", "LOOKED", "CHECK", "PLACE", "FINISH", "DROPPED", "DROPPED_SLOT", "RELEASE", "RELEASED", "END")
"""States in which commands and requests about other sequences go on."""


def look(m: Module, tables: SwapTables) -> None:
    """Where the next block is, and its slot."""
    cache, entry, slots = tables.cache, tables.entry, tables.slots
    with m.State("LOOK"):
        m.d.comb += cache.i_look.valid.eq(1)
        with m.If(cache.i_look.ready):
            m.next = "LOOKED"
    with m.State("LOOKED"):
        known = entry.data.copied & (tables.index < tables.swap.known)
        m.d.comb += cache.o_look.ready.eq(1)
        m.d.sync += [tables.block.eq(cache.o_look.p.block), tables.shared.eq(cache.o_look.p.shared), tables.copied.eq(known),
                     tables.slot.eq(Mux(known, entry.data.slot, slots.pointer))]
        with m.If(cache.o_look.valid):
            m.next = "PLACE"
            with m.If(tables.checking):
                m.next = "CHECK"


def count_block(m: Module, tables: SwapTables) -> None:
    """A block of SWAP_OUT is counted, before any is moved; behind the last one it is known whether they can leave."""
    swap, index, error, active = tables.swap, tables.index, tables.error, tables.active
    with m.State("CHECK"):
        m.d.comb += tables.enter.en.eq(index >= swap.known)
        m.d.sync += swap.index.eq(index + 1)
        with m.If(tables.shared):
            m.d.sync += swap.first.eq(index + 1)
        with m.Elif(~tables.copied):
            m.d.sync += swap.missing.eq(swap.missing + 1)
        m.next = "IDLE"
    with m.State("CHECKED"):
        m.d.sync += [tables.checking.eq(0), swap.index.eq(swap.first)]
        m.next = "ANSWER"
        with m.If(swap.first == swap.end):
            m.d.sync += [error.eq(SwapError.NOTHING), active.eq(0)]
        with m.Elif(swap.missing > tables.controller.room):
            m.d.sync += [error.eq(SwapError.NO_ROOM), active.eq(0)]
        with m.Elif(swap.known < swap.end):
            m.d.sync += swap.known.eq(swap.end)


def place_block(m: Module, tables: SwapTables) -> None:
    """A block comes into the run, or the run has to be sent before; a clean one that leaves does not move."""
    controller, swap, index, leaves, enter = tables.controller, tables.swap, tables.index, tables.leaves, tables.enter
    block, slot, slots, run = tables.block, tables.slot, tables.slots, tables.runs.run
    with m.State("PLACE"):
        last = swap.limit[:tables.offset_bits]
        here = Mux((index + 1 == tables.end) & last.any(), last, controller.block_size)
        clean, follows = leaves & tables.copied, (block == run.next_block) & (slot == run.next_slot)
        m.next = "IDLE"
        with m.If(clean):
            m.d.sync += controller.clean_blocks.eq(controller.clean_blocks + 1)
        with m.Elif((run.rows != 0) & ~follows):
            m.d.sync += tables.runs.flush.eq(1)
        with m.Else():
            m.d.sync += [run.rows.eq(run.rows + here), run.end.eq((index << tables.offset_bits) + here),
                         run.next_block.eq(block + 1), run.next_slot.eq(slot + 1)]
            with m.If(run.rows == 0):
                m.d.sync += [run.block.eq(block), run.slot.eq(slot)]
            m.d.comb += [slots.take.eq(leaves), enter.en.eq(leaves), enter.data.copied.eq(1)]
        with m.If(clean | (run.rows == 0) | follows):
            m.d.sync += swap.index.eq(index + 1)
            with m.If(leaves):
                m.d.sync += slots.pointer.eq(Mux(slot == controller.slots - 1, 0, slot + 1))


def finish(m: Module, tables: SwapTables) -> None:
    """All was moved: what left is dropped from the cache, or from the slots, if a move failed; what came back keeps the slots of its
    full blocks, as the next append goes into one that is not; and the swap is told of."""
    cache, controller, swap, leaves, failed, keep = (
        tables.cache, tables.controller, tables.swap, tables.leaves, tables.failed, tables.keep)
    full = swap.limit >> tables.offset_bits
    with m.State("FINISH"):
        m.d.sync += tables.index.eq(Mux(leaves, swap.first, full))
        m.next = "DROPPED"
        with m.If(leaves ^ failed):
            m.next = "RELEASE"
    tables.give_up(m, "DROPPED", "END")
    with m.State("RELEASE"):
        m.d.comb += [cache.i_look.valid.eq(1), cache.i_look.p.release.eq(1)]
        with m.If(cache.i_look.ready):
            m.next = "RELEASED"
    with m.State("RELEASED"):
        m.d.comb += cache.o_look.ready.eq(1)
        with m.If(cache.o_look.valid):
            m.next = "RELEASE"
            with m.If(cache.o_look.p.index <= swap.first):
                m.next = "END"
    with m.State("END"):
        m.d.comb += [keep.en.eq(~failed), keep.data.known.eq(Mux(leaves, swap.known, full)),
                     keep.data.length.eq(Mux(leaves, swap.length, 0)), tables.ends.eq(1)]
        m.d.sync += [tables.active.eq(0), controller.o_swapped.valid.eq(1), controller.o_swapped.p.sequence.eq(tables.sequence),
                     controller.o_swapped.p.error.eq(failed)]
        m.next = "IDLE"
