"""The commands of a swap controller: states of its machine, from ``DECIDE`` to ``ANSWER``."""

from amaranth.hdl import Module, Mux

from .paged_formats import SequenceCommand
from .swap_formats import SwapCommand, SwapError
from .swap_tables import SwapTables

__all__ = ["begin_swap", "decide", "hand_on"]


def decide(m: Module, tables: SwapTables) -> None:
    """Where a command begins, or why it is refused: EXTEND and FORK come here for that alone."""
    command, state, index, sequences = tables.command, tables.state, tables.index, tables.controller.sequences
    error, length = tables.error, tables.length
    with m.State("DECIDE"):
        m.d.sync += [error.eq(SwapError.NONE), length.eq(state.length), index.eq(0), tables.end.eq(state.known)]
        with m.Switch(command.command):
            with m.Case(SwapCommand.FREE):
                m.next = "FREED"
            with m.Case(SwapCommand.MARK):
                m.d.sync += index.eq(command.count >> tables.offset_bits)
                m.next = "MARKED"
            with m.Default():
                m.next = "SIZE"
        with m.If(command.command.matches(SwapCommand.EXTEND, SwapCommand.FORK)
                  | ((command.command == SwapCommand.MARK) & (state.length != 0))):
            m.d.sync += error.eq(SwapError.SWAPPED)
            m.next = "ANSWER"
        with m.If((tables.sequence >= sequences) | (command.command > SwapCommand.SWAP_IN)
                  | ((command.command == SwapCommand.FORK) & (command.other >= sequences))):
            m.d.sync += [error.eq(SwapError.UNKNOWN), length.eq(0)]
            m.next = "ANSWER"


def hand_on(m: Module, tables: SwapTables) -> None:
    """FREE is for the cache too; with it, and MARK, copies of blocks are given up."""
    cache = tables.cache
    tables.give_up(m, "FREED", "FORGET")
    with m.State("FORGET"):
        m.d.comb += tables.keep.en.eq(1)
        m.next = "HAND_ON"
    with tables.tell(m, "HAND_ON", SequenceCommand.FREE, 0) as done:
        with m.If(done):
            m.d.sync += [tables.error.eq(cache.o_done.p.error), tables.length.eq(cache.o_done.p.length)]
            m.next = "ANSWER"
    tables.give_up(m, "MARKED", "SIZE")


def begin_swap(m: Module, tables: SwapTables) -> None:
    """SWAP_OUT and SWAP_IN: how much of the sequence is in the cache, which MARK answers too, and room for what comes back."""
    command, cache, state, swap = tables.command, tables.cache, tables.state, tables.swap
    size, error, active, arrived = tables.size, tables.error, tables.active, tables.arrived
    with tables.tell(m, "SIZE", SequenceCommand.EXTEND, 0) as done:
        with m.If(done):
            m.d.sync += size.eq(cache.o_done.p.length)
            m.next = "SIZED"
    with m.State("SIZED"):
        m.next = "ANSWER"
        with m.If(state.length == 0):
            m.d.sync += tables.length.eq(size)
        with m.If(command.command != SwapCommand.MARK):
            m.d.sync += [swap.sequence.eq(tables.sequence), swap.known.eq(state.known), swap.missing.eq(0), arrived.eq(size),
                         tables.failed.eq(0)]
        with m.If(command.command == SwapCommand.SWAP_OUT):
            m.d.sync += [swap.first.eq(0), swap.index.eq(0), swap.end.eq(tables.blocks_of(size)), swap.limit.eq(size),
                         swap.length.eq(Mux(state.length != 0, state.length, size)),
                         active.eq(1), tables.checking.eq(1), tables.leaves.eq(1)]
            m.next = "IDLE"
        with m.Elif(command.command == SwapCommand.SWAP_IN):
            m.d.sync += [swap.first.eq(size >> tables.offset_bits), swap.index.eq(size >> tables.offset_bits),
                         swap.end.eq(tables.blocks_of(state.length)), swap.limit.eq(state.length), tables.leaves.eq(0)]
            m.next = "MISSING"
            with m.If(state.length == 0):
                m.d.sync += error.eq(SwapError.NOTHING)
                m.next = "ANSWER"
    with m.State("MISSING"):
        m.d.sync += swap.missing.eq(swap.end - swap.index)
        m.next = "ENOUGH"
    with m.State("ENOUGH"):
        m.next = "ALLOCATE"
        with m.If(cache.free < swap.missing):
            m.d.sync += error.eq(SwapError.NO_BLOCK)
            m.next = "ANSWER"
    with tables.tell(m, "ALLOCATE", SequenceCommand.EXTEND, swap.limit - arrived) as done:
        with m.If(done):
            m.d.sync += active.eq(1)
            m.next = "ANSWER"
