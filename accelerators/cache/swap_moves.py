"""What a swap needs of the two regions of memory: runs of blocks that are moved at once, and free slots."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, memory, wiring

__all__ = ["FreeSlots", "MoveRuns"]


class MoveRuns:
    """Sends a run of blocks when ``flush`` is set, or when all are in it, and notes when it was moved; one at a time.

    Parameters
    ----------
    m : Module
        That of the controller.
    controller : SwapController
        Its ports ``o_move`` and ``i_moved``, counters and sizes matter.
    complete : Value
        All blocks of the swap are in the run, or were sent.
    leaves : Value
        The sequence leaves the cache; else it comes back.
    arrived, failed : Signal
        Set: the positions that were moved, unless a move failed.

    Members
    -------
    run
        First block and slot, ``rows`` (0: there is no run), position behind the last row, and the block and slot that would follow.
    flush, busy
        The run is to be sent; one is being moved.
    """

    def __init__(self, m: Module, controller: wiring.Component, complete, leaves, arrived: Signal, failed: Signal):
        positions = range(controller.config.max_context + 1)
        blocks, slots, block_size = controller.blocks, controller.slots, controller.block_size
        self.run = run = Signal(data.StructLayout({"block": range(blocks), "slot": range(slots), "rows": positions, "end": positions,
                                                   "next_block": range(blocks + 1), "next_slot": range(slots + 1)}))
        self.flush, self.busy = flush, busy = Signal(), Signal()
        sent_end = Signal(positions)
        source, target = Mux(leaves, run.block, run.slot), Mux(leaves, run.slot, run.block)
        o_move, move, i_moved = controller.o_move, controller.o_move.p, controller.i_moved
        m.d.comb += [
            o_move.valid.eq(flush & ~busy), move.from_region.eq(~leaves), move.to_region.eq(leaves), move.rows.eq(run.rows),
            move.source.eq(source * block_size), move.target.eq(target * block_size), i_moved.ready.eq(busy),
        ]
        with m.If(complete & (run.rows != 0)):
            m.d.sync += flush.eq(1)
        with m.If(o_move.valid & o_move.ready):
            m.d.sync += [busy.eq(1), sent_end.eq(run.end), run.rows.eq(0), flush.eq(0), controller.moves.eq(controller.moves + 1)]
            with m.If(leaves):
                m.d.sync += controller.rows_out.eq(controller.rows_out + run.rows)
            with m.Else():
                m.d.sync += controller.rows_in.eq(controller.rows_in + run.rows)
        with m.If(busy & i_moved.valid):
            m.d.sync += busy.eq(0)
            with m.If(i_moved.p.error):
                m.d.sync += failed.eq(1)
            with m.Elif(~failed):
                m.d.sync += arrived.eq(sent_end)


class FreeSlots:
    """Which slots are free. Those that nobody ever had are counted, so that nothing has to be initialized.

    Parameters
    ----------
    m : Module
        That of the controller.
    controller : SwapController
        Its ``slots`` and the port ``room`` matter.
    searches : Value
        ``pointer`` goes to the next free slot.
    given : Value
        The slot that ``give`` gives back: not the one at ``pointer``.

    Members
    -------
    pointer, at_free
        A slot, and whether it is free.
    take, give
        To be driven: the slot at ``pointer`` is taken, ``given`` is free again.
    given
        As given.
    """

    def __init__(self, m: Module, controller: wiring.Component, searches, given):
        slots, room = controller.slots, controller.room
        m.submodules.taken = taken = memory.Memory(shape=1, depth=slots, init=[])
        here, change = taken.read_port(domain="comb"), taken.write_port()
        pointer, fresh = Signal(range(slots)), Signal(range(slots + 1))
        at_free, take, give = Signal(), Signal(), Signal()
        self.pointer, self.at_free, self.take, self.give, self.given = pointer, at_free, take, give, given
        m.d.comb += [
            here.addr.eq(pointer), at_free.eq((pointer >= fresh) | ~here.data),
            change.en.eq(take | give), change.addr.eq(Mux(take, pointer, given)), change.data.eq(take),
        ]
        with m.If(searches & ~at_free):
            m.d.sync += pointer.eq(Mux(pointer == slots - 1, 0, pointer + 1))
        with m.If(take):
            m.d.sync += room.eq(room - 1)
            with m.If(pointer == fresh):
                m.d.sync += fresh.eq(fresh + 1)
        with m.If(give):
            m.d.sync += room.eq(room + 1)
