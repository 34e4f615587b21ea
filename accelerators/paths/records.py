"""K/V records to memory, and rows that are copied or moved."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring

from ..cache.mover import RowMover
from ..control.frontend import FrontEnd
from ..control.isa import Opcode
from ..streams import Queue
from ..streams.route import buffered, merge, pass_fields
from .parts import Parts, Running

__all__ = ["move_parts", "move_rows", "write_records"]


def write_records(m: Module, core: wiring.Component, parts: Parts, running: Running, copying) -> None:
    """Records from the packer, to addresses from the cache."""
    config, window, paged, evict = core.config, parts.window, parts.paged, parts.evict
    frontend, executor, packer, cache, mover = parts.frontend, parts.executor, parts.packer, parts.cache, parts.mover
    if paged:
        m.submodules.record_commands = records = Queue(core.o_record.p.shape(), max(8, config.token_lanes * config.max_heads))
        wiring.connect(m, frontend.o_record, records.i)
        merge(m, [(records.o, ~copying), (mover.o_write, copying)], core.o_record)
        m.d.comb += [core.kv_free_blocks.eq(frontend.kv_free_blocks),
                     frontend.program_done.eq(executor.operation_start & (executor.next_opcode == Opcode.END))]
        merge(m, [(buffered(m, packer.o, "record_data").o, ~copying), (mover.o_data, copying)], core.o_record_data)
    elif evict:
        pass_fields(m, cache.o_write, core.o_record)
        wiring.connect(m, cache.o_data, wiring.flipped(core.o_record_data))
        wiring.connect(m, buffered(m, packer.o, "record_data").o, cache.i_record)
        m.d.comb += [
            cache.i_written.valid.eq(core.i_record_done.valid), cache.i_written.p.eq(core.i_record_done.p),
            cache.sinks.eq(core.kv_sinks), cache.recent.eq(core.kv_window), cache.threshold.eq(core.kv_threshold),
            cache.beats.eq(executor.beats), cache.words.eq(executor.words), cache.clear.eq(core.start),
            cache.o_append.ready.eq(1), executor.budget.eq(core.kv_capacity),
            # The front end reads, what it reads it has checked.
            cache.o_read.ready.eq(1),
        ]
    elif config.attention_modes:
        m.d.comb += cache.o_read.ready.eq(1)
        move_parts(m, core, parts, running)
    elif config.block_retrieval:
        pass_fields(m, cache.o_write, core.o_record)
        m.d.comb += cache.o_read.ready.eq(1)
        means = running.op[Opcode.MEANS]
        merge(m, [(buffered(m, packer.o, "record_data").o, ~means), (buffered(m, parts.means.o, "means_data").o, means)],
              core.o_record_data)
    else:
        pass_fields(m, cache.o_write, core.o_record)
        m.d.comb += cache.o_read.ready.eq(1)
        wiring.connect(m, buffered(m, packer.o, "record_data").o, wiring.flipped(core.o_record_data))
    if window:
        # The front end lets no sinks and window come here that the slots do not hold; no position is written late.
        slots, length = Signal.like(cache.recent), Signal.like(cache.length)
        m.d.sync += [slots.eq(Mux(core.kv_capacity > config.max_context, config.max_context, core.kv_capacity)),
                     cache.recent.eq(slots - core.kv_sinks)]
        with m.If(cache.i_request.valid & cache.i_request.ready):
            m.d.sync += length.eq(cache.i_request.p.position + 1)
        m.d.comb += [cache.sinks.eq(core.kv_sinks), cache.length.eq(length), cache.clear.eq(core.start)]
    elif not paged and not evict:
        # The front end lets no position beyond kv_capacity or max_context come here.
        m.d.comb += cache.capacity.eq(config.max_context)
    m.d.comb += [
        *([] if paged else [cache.record_beats.eq(core.kv_record_beats), cache.head_stride.eq(core.kv_head_stride)]),
        core.i_record_done.ready.eq(cache.i_written.ready if evict else 1),
        executor.record_written.eq(core.i_record_done.valid & ~copying if paged else cache.o_append.valid if evict else
                                   core.i_record_done.valid),
    ]


def move_parts(m: Module, core: wiring.Component, parts: Parts, running: Running) -> None:
    """Where programs may split an attention: what is written, records of APPEND or parts of ATTEND, and parts that are read."""
    executor, attention, packer, unpacker = parts.executor, parts.attention, parts.part_packer, parts.part_unpacker
    lanes, attends = max(3, core.config.query_lanes), running.op[Opcode.ATTEND]
    # A lane's commands wait until the lanes of its operation are complete and its rows are through.
    for name in ("o_given", "o_part"):
        m.submodules[f"commands_{name[2:]}"] = commands = Queue(getattr(executor, name).p.shape(), lanes)
        wiring.connect(m, getattr(executor, name), commands.i)
        if name == "o_given":
            wiring.connect(m, commands.o, wiring.flipped(core.o_parts))
        else:
            merge(m, [(parts.cache.o_write, ~attends), (commands.o, attends)], core.o_record)
    wiring.connect(m, attention.o_part, packer.i_part)
    wiring.connect(m, attention.o_sums, packer.i_sums)
    merge(m, [(buffered(m, parts.packer.o, "record_data").o, ~attends), (packer.o, attends)], core.o_record_data)
    wiring.connect(m, wiring.flipped(core.i_parts), unpacker.i)
    wiring.connect(m, unpacker.o_part, attention.i_part)
    wiring.connect(m, unpacker.o_sums, attention.i_sums)
    m.d.comb += unpacker.words.eq(executor.words)


def move_rows(m: Module, core: wiring.Component, frontend: FrontEnd, mover: RowMover, copying: Signal) -> None:
    """What the front end asks ``mover`` for: copies, and with ``swap_slots`` moves. ``copying``: under way."""
    (_copies_and_moves if core.config.swap_slots else _copy_on_write)(m, core, frontend, mover, copying)


def _copies_and_moves(m: Module, core: wiring.Component, frontend: FrontEnd, mover: RowMover, copying: Signal) -> None:
    """Copies as with ``_copy_on_write``, and moves between both regions, answered by ``i_moved``: never at the same time, as the
    front end goes through a batch entry by entry."""
    block, copy, move = core.config.block_size.bit_length() - 1, frontend.o_copy, frontend.o_move
    command, done, moves = mover.i_command, mover.o_done, Signal()
    with m.If(command.valid & command.ready):
        m.d.sync += [copying.eq(1), moves.eq(~copy.valid)]
    with m.If(done.valid & done.ready):
        m.d.sync += copying.eq(0)
    m.d.comb += [command.valid.eq((copy.valid | move.valid) & ~copying), command.p.eq(move.p),
                 move.ready.eq(command.ready & ~copying & ~copy.valid),
                 frontend.i_moved.valid.eq(done.valid & moves), frontend.i_moved.p.error.eq(done.p.error),
                 done.ready.eq(~moves | frontend.i_moved.ready), copy.ready.eq(done.valid & ~moves)]
    with m.If(copy.valid):
        m.d.comb += [command.p.from_region.eq(0), command.p.to_region.eq(0), command.p.source.eq(copy.p.source << block),
                     command.p.target.eq(copy.p.target << block), command.p.rows.eq(copy.p.rows)]
    m.d.comb += [
        mover.i_written.valid.eq(core.i_record_done.valid & copying), mover.i_written.p.error.eq(core.i_record_done.p.error),
        mover.base[0].eq(core.kv_address), mover.head_stride[0].eq(core.kv_head_stride), mover.heads.eq(core.kv_heads),
        mover.base[1].eq(core.kv_swap_address), mover.head_stride[1].eq(core.kv_swap_stride),
        mover.record_beats.eq(core.kv_record_beats), core.kv_rows_out.eq(frontend.rows_out), core.kv_rows_in.eq(frontend.rows_in),
        core.kv_clean_blocks.eq(frontend.clean_blocks),
    ]


def _copy_on_write(m: Module, core: wiring.Component, frontend: FrontEnd, mover: RowMover, copying: Signal) -> None:
    """A copy that the front end asks for: taken from it when the rows are in memory."""
    copy = frontend.o_copy
    block = core.config.block_size.bit_length() - 1
    command, done = mover.i_command, mover.o_done
    with m.If(command.valid & command.ready):
        m.d.sync += copying.eq(1)
    with m.If(done.valid):
        m.d.sync += copying.eq(0)
    m.d.comb += [
        command.valid.eq(copy.valid & ~copying), command.p.source.eq(copy.p.source << block),
        command.p.target.eq(copy.p.target << block), command.p.rows.eq(copy.p.rows),
        done.ready.eq(1), copy.ready.eq(done.valid),
        mover.i_written.valid.eq(core.i_record_done.valid & copying), mover.i_written.p.error.eq(core.i_record_done.p.error),
        mover.base[0].eq(core.kv_address), mover.head_stride[0].eq(core.kv_head_stride), mover.heads.eq(core.kv_heads),
        mover.record_beats.eq(core.kv_record_beats),
    ]
