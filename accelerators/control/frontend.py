"""Front end: walks the program chunk after chunk, computes every address, and keeps the data reads ahead of the executor."""

from amaranth.hdl import Array, Module, Mux, Signal
from amaranth.lib import data, wiring

from ..cache.paged import PagedCache
from ..cache.swap import SwapController
from ..config import POSITION_BITS, TOKEN_BITS, AcceleratorConfig
from .batch import Batch
from .cache_rows import CacheRows
from .descriptors import Descriptors
from .errors import ErrorCause
from .fallback import Fallback
from .frontend_ports import ports
from .isa import Flag, Opcode, opcodes
from .operation import are_parts_legal, decode_fields, instruction_layout, is_intact
from .reads import data_reads, table_rows
from .rows import RowReads, contiguous_rows, evict_rows, paged_rows, window_rows

__all__ = ["FrontEnd"]


class FrontEnd(wiring.Component):
    """Sequencer of one sequence; ``BatchFrontEnd`` has several.

    Prefill takes the prompt in chunks of up to ``token_lanes`` tokens, then every generated token is a chunk of its own. For
    each chunk it reads the program, queues each instruction, and then issues its data reads in the order in which the
    executor consumes them. With ``chunks = 2`` the prompt is taken in pairs of chunks whose programs alternate after every
    matrix: while the engine multiplies for one, the other units work for the other (what a serving system calls
    microbatches)::

        chunk 0   NORM LINEAR            ROPE APPEND ATTEND NORM LINEAR             RESIDUAL ...
        chunk 1               NORM LINEAR                               ROPE APPEND ...

    It runs ahead of the executor until a queue is full, and waits only for the token of the previous step. Weights have a
    stream of their own, so that they are fetched far ahead of all other data. A read of K/V rows waits in the queue of
    data reads until the appends before it are in memory; the front end does not.

    Members
    -------
    start : In(1)
        Pulse; ignored while ``busy``.
    stop : In(1)
        While high, generation ends after the token under way.
    program_address, prompt_address : In(32)
        Byte addresses, multiples of the bus width. The prompt has one token id per bus word.
    prompt_length, start_position, max_new_tokens, kv_capacity : In(20)
    eos_token : In(20); ignore_eos : In(1)
        Of ``kv_capacity`` no more than the configuration's ``max_context`` counts.
    kv_record_beats : In(16); kv_head_stride : In(32)
        Of the KV cache, bus words and bytes.
    kv_sinks, kv_window, kv_positions : In(20)
        With ``cache = "window"``: a token sees the first ``kv_sinks`` positions and the latest ``kv_window`` ones, itself included;
        ``kv_capacity`` slots hold them and ``token_lanes - 1`` positions more; ``kv_positions`` is the longest text. With
        ``cache = "evict"``: a head has a budget of ``kv_capacity`` rows, ``max_budget`` at most; the first ``kv_sinks`` positions and
        the last ``kv_window`` ones before a token always stay. When the budget is used up, a chunk has one token.
    kv_threshold : In(13)
        With ``cache = "evict"``, for ``EvictCache``.
    o_rows : Out(stream of rows_layout)
        Where attention takes runs: the runs of rows that ``o_data`` reads.
    o_record : Out(stream of {address, beats}), program_done : In(1), kv_free_blocks : Out, o_copy : Out(stream of copy_layout)
        With ``cache = "paged"``: writes of K/V records, in the executor's order; pulse when the executor has come to the end of the
        program; blocks of the pool that nobody has; rows to be copied, before anything of a step is read or written, to be taken when
        they are in memory.
    o_move : Out(stream of move_layout), i_moved : In(stream of {error}); rows_out, rows_in, clean_blocks : Out(32)
        With ``swap_slots``: see ``SwapController``.
    o_program : Out(stream of {address, beats}), i_program : In(stream of {data, last})
        Reads of descriptors and prompt.
    o_weights : Out(stream of {address, beats, head})
        Matrices: LINEAR, and HEAD with ``head`` set.
    o_data : Out(stream of {address, beats})
        All other reads for the executor.
    o_operation : Out(stream of operation_layout)
    append_done : In(1)
        Pulse: the rows of an APPEND, or the records of a MEANS, are in memory.
    attended, passed : In(1)
        With ``attention_modes``: an ATTEND has been done; with it, whether a lane of it was above its unified maximum.
    i_token : In(stream of {token, value}), o_token : Out(stream of token_layout)
        From the sampler; to the outside.
    i_list : In(stream of token_list_item)
        With ``selective_recompute``: the list of a program with DEVIATE, which ends its run instead of a token.
    i_blocks : In(stream of list_layout)
        With ``block_retrieval``: the list of each RETRIEVE that was queued.
    busy, done : Out(1)
        ``done`` is high from the end of a generation to the next start.
    error : Out(ErrorCause), error_info : Out(32)
        0, or the cause that stopped the front end (it stays stopped until reset) and the byte offset in the program, the
        token id or the position that the cause speaks of.
    position, generated : Out(20)

    Latency: 4 cycles from ``start`` to the first command, 5 with a window, 6 with a budget. Interval: 1 + 512 / bus_bits cycles per
    instruction and the memory's latency (1 or more), while the data reads of the previous one are issued; 4 cycles per row of EMBED
    and ROPE, and two more than the latency of ``ContiguousCache`` (8) per query tile and KV head of ATTEND.
    """

    latency = None
    interval = None

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__(ports(config))

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "FrontEnd":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        config = self.config
        lanes, chunks = config.token_lanes, config.chunks

        def each_chunk(shape, name: str) -> Array:
            return Array([Signal(shape, name=f"{name}_{chunk}") for chunk in range(chunks)])

        tokens = Array([Array([Signal(32, name=f"token_{chunk}_{i}") for i in range(lanes)]) for chunk in range(chunks)])
        counts, finals = each_chunk(range(lanes + 1), "count"), each_chunk(1, "final")
        positions = each_chunk(TOKEN_BITS, "position")
        # Chunk that is loaded, whose operation is at hand; always 0 with one in flight.
        loading, chunk, paired = Signal(range(2)), Signal(range(2)), Signal()
        count, position = Signal(range(lanes + 1)), Signal(TOKEN_BITS)
        m.d.comb += [count.eq(counts[chunk]), position.eq(positions[chunk])]
        remaining = Signal(TOKEN_BITS)
        prompt_next = Signal(32)
        op = Signal(instruction_layout(config))

        # A register late: many states can fail.
        failing, failed = (Signal(data.StructLayout({"cause": 8, "info": 32}), name=name) for name in ("failing", "failed"))
        m.d.sync += failed.eq(failing)
        with m.If(failed.cause != 0):
            m.d.sync += [self.error.eq(failed.cause), self.error_info.eq(failed.info)]

        def fail(cause: ErrorCause, when, info) -> None:
            """In a state: fail ``when`` that is so. The info alone decides nothing, so it does not wait for ``when``."""
            m.d.comb += failing.info.eq(info)
            with m.If(when):
                m.d.comb += failing.cause.eq(cause)
                m.next = "ERROR"

        several = config.cache == "paged"
        batch = Batch(config, tokens[0]) if several else None
        collecting_prompt, prompt_command = Signal(), Signal()
        fetch = Descriptors(m, config, self, paired)
        with m.If(prompt_command):
            m.d.comb += [self.o_program.valid.eq(1), self.o_program.p.address.eq(prompt_next),
                         self.o_program.p.beats.eq(self.prompt_length if several else counts[loading])]
        with m.If(collecting_prompt):
            m.d.comb += self.i_program.ready.eq(1)

        rows = CacheRows(m, self, op, position, count)
        cache, capacity, head, first, tile_end, compares, lists = (
            rows.cache, rows.capacity, rows.head, rows.first, rows.tile_end, rows.compares, rows.lists)
        window, evict = config.cache == "window", config.cache == "evict"
        longest = self.kv_positions if window or evict else capacity  # text
        fallback = Fallback(m, self, op) if config.attention_modes else None

        tokens_end = batch.stops[first] if several else count
        m.d.sync += tile_end.eq(Mux(first + op.tiles < tokens_end, first + op.tiles, tokens_end))
        push_append = Signal()
        reads = data_reads(m, config, self, push_append)

        row = Signal(range(lanes + 1))
        place = batch.positions[row] if several else position + row
        if window:  # queries for the sinks stay at the last position of the cache
            place = Mux((op.rows != 0) & (place >= op.rows), op.rows - 1, place)

        m.d.comb += [
            self.o_operation.p.instruction.eq(op), self.o_operation.p.tokens.eq(count),
            *([] if several else [self.o_operation.p.position.eq(position)]), self.o_operation.p.chunk.eq(chunk),
            self.o_weights.p.address.eq(op.address), self.o_weights.p.beats.eq(op.beats),
            self.o_weights.p.head.eq(op.opcode == Opcode.HEAD),
        ]
        result = Signal.like(self.i_token.p)
        skipped, stopping = Signal(), Signal()
        m.d.comb += skipped.eq((op.flags & Flag.LAST_CHUNK).any() & ~finals[chunk] & (op.opcode != Opcode.END))
        ended = Signal()
        m.d.comb += [
            ended.eq((self.generated + 1 == self.max_new_tokens) | stopping
                     | ((result.token == self.eos_token) & ~self.ignore_eos)),
            self.o_token.p.token.eq(result.token), self.o_token.p.value.eq(result.value), self.o_token.p.last.eq(ended),
        ]

        if several:
            m.d.comb += [*(self.o_operation.p.positions[k].eq(batch.positions[k]) for k in range(lanes)),
                         self.o_copy.valid.eq(cache.o_copy.valid), cache.o_copy.ready.eq(self.o_copy.ready),
                         self.o_copy.payload.eq(cache.o_copy.payload),
                         self.o_operation.p.sampled.eq(batch.sampled), self.kv_free_blocks.eq(cache.free),
                         ended.eq((batch.samples & (batch.samples - 1)) == 0)]

        # A register late: a state lies between a change and its use.
        needed, full = Signal(TOKEN_BITS + 1), Signal()
        m.d.sync += [needed.eq(self.position + remaining), full.eq(self.position >= longest)]

        with m.FSM(name="main") as fsm:
            m.d.comb += self.busy.eq(~(fsm.ongoing("IDLE") | fsm.ongoing("ERROR")))
            with m.State("IDLE"):
                with m.If(self.start):
                    m.d.sync += [self.done.eq(0), self.generated.eq(0), self.position.eq(self.start_position),
                                 remaining.eq(self.prompt_length), prompt_next.eq(self.prompt_address)]
                    m.next = "CHECK"
            with m.State("CHECK"):
                m.next = "PROMPT_COMMAND" if several else "CHECK_LENGTH"
                nothing = self.prompt_length == 0
                fail(ErrorCause.EMPTY_PROMPT, nothing if several else nothing | (self.max_new_tokens == 0), self.prompt_length)
            if several:
                self._batch_states(m, batch, cache, prompt_command, collecting_prompt, fail)
            else:
                with m.State("CHECK_LENGTH"):
                    m.next = "CHECK_WINDOW" if window or evict else "CHUNK"
                    fail(ErrorCause.PROMPT_TOO_LONG, needed > longest, needed)
            if window or evict:
                slots, no_room = Signal(POSITION_BITS + 1), Signal()
                none = ((slots > capacity) | (self.kv_window == 0) if window else
                        (slots >= capacity) | (capacity > config.max_budget))
                m.d.sync += [slots.eq(self.kv_sinks + self.kv_window), no_room.eq(none)]
                with m.State("CHECK_WINDOW"):
                    m.next = "CHUNK"
                    fail(ErrorCause.CACHE_FULL, no_room, slots)
            if evict:
                with m.State("CHUNK"):  # ``room`` is a register late
                    m.next = "CHUNK_TOKENS"
            if not several:
                most = rows.room if evict else lanes
                with m.State("CHUNK_TOKENS" if evict else "CHUNK"):
                    m.d.sync += [counts[loading].eq(Mux(remaining > most, most, remaining)),
                                 finals[loading].eq(remaining <= most), row.eq(0)]
                    m.next = "PROMPT_COMMAND"
                    with m.If(remaining == 0):
                        m.d.sync += [counts[0].eq(1), tokens[0][0].eq(result.token)]
                        m.next = "OPERATIONS"
                    fail(ErrorCause.CONTEXT_FULL, (remaining == 0) & full, self.position)
                with m.State("PROMPT_COMMAND"):
                    m.d.comb += prompt_command.eq(1)
                    with m.If(self.o_program.ready):
                        m.d.sync += [prompt_next.eq(prompt_next + (counts[loading] << (config.bus_bytes.bit_length() - 1))),
                                     remaining.eq(remaining - counts[loading])]
                        m.next = "PROMPT"
                with m.State("PROMPT"):
                    m.d.comb += collecting_prompt.eq(1)
                    with m.If(self.i_program.valid):
                        m.d.sync += [tokens[loading][row].eq(self.i_program.p.data[:32]), row.eq(row + 1)]
                        with m.If(self.i_program.p.last):
                            m.next = "OPERATIONS"
                            if chunks == 2:
                                with m.If((remaining != 0) & (loading == 0)):
                                    m.d.sync += loading.eq(1)
                                    m.next = "CHUNK"
            with m.State("OPERATIONS"):
                m.d.comb += fetch.start.eq(1)
                m.d.sync += [paired.eq(loading), loading.eq(0), positions[0].eq(self.position)]
                if chunks == 2:
                    m.d.sync += positions[1].eq(self.position + counts[0])
                if several:
                    m.d.sync += [counts[0].eq(batch.count), finals[0].eq(batch.samples.any())]
                fetch.begins()
                if compares is not None:
                    compares.begin()
                m.next = "DECODE"
            with m.State("DECODE"):
                m.d.sync += [row.eq(0), head.eq(0), first.eq(0), chunk.eq(fetch.fetching)]
                legal = is_intact(fetch.descriptor) & fetch.opcode.matches(*opcodes(config))
                if config.attention_modes:
                    legal &= are_parts_legal(fetch.descriptor)
                with m.If(fetch.held):
                    m.d.sync += decode_fields(op, fetch.descriptor)
                    with m.If(legal):
                        m.d.comb += fetch.take.eq(1)
                        m.next = "ISSUE"
                fail(ErrorCause.ILLEGAL_INSTRUCTION, fetch.held & ~legal, fetch.offset)
            with m.State("ISSUE"):
                m.next = "PUSH"
                with m.If(skipped):
                    m.next = "DECODE"
                if several:
                    fetch.begins_tail((op.flags & Flag.LAST_CHUNK).any())
                if fallback is not None:
                    with m.If(fallback.due & ~skipped):
                        m.next = "FALLBACK"
                    fail(ErrorCause.ILLEGAL_INSTRUCTION, fallback.refused & ~skipped, fetch.offset_taken(chunk))
                if compares is not None:
                    fail(ErrorCause.ILLEGAL_INSTRUCTION, compares.refused & ~skipped, fetch.offset_taken(chunk))
                if lists is not None:
                    with m.If(~skipped):
                        lists.issued()
                    fail(ErrorCause.ILLEGAL_INSTRUCTION, lists.refused & ~skipped, fetch.offset_taken(chunk))
            with m.State("PUSH"):
                # Ahead of its data: they may be more than the prefetch queue holds.
                m.d.comb += self.o_operation.valid.eq(1)
                with m.If(self.o_operation.ready):
                    m.d.comb += push_append.eq(op.opcode == Opcode.APPEND)
                    if fallback is not None:
                        fallback.pushed()
                    if compares is not None:
                        compares.pushed()
                    if lists is not None:
                        lists.pushed()
                    m.next = "DECODE"
                    with m.Switch(op.opcode):
                        with m.Case(Opcode.EMBED, Opcode.ROPE):
                            m.next = "ROW"
                        with m.Case(Opcode.NORM):
                            with m.If((op.flags & Flag.GAIN).any()):
                                m.next = "SINGLE"
                        with m.Case(Opcode.LINEAR, Opcode.HEAD):
                            m.next = "WEIGHTS"
                        with m.Case(Opcode.ATTEND):
                            m.next = "ROWS"
                        if compares is not None:
                            with m.Case(Opcode.DEVIATE):
                                m.next = "COMPARE"
                        if lists is not None:
                            with m.Case(Opcode.MEANS):
                                m.next = "MEANS"
                            with m.Case(Opcode.RETRIEVE):
                                m.next = "SCORES"
                        if several:
                            with m.Case(Opcode.APPEND):
                                m.next = "RECORD"
                            with m.Case(Opcode.END):
                                m.next = "PROGRAM_END"
                                with m.If(finals[0]):
                                    m.next = "TOKEN"
                        else:
                            with m.Case(Opcode.END):
                                with m.If(chunk == paired):
                                    m.d.sync += self.position.eq(position + count)
                                    m.next = "CHUNK"
                                    with m.If(finals[chunk]):
                                        m.next = "TOKEN"
                                    if compares is not None:
                                        with m.If(finals[chunk] & compares.lists):
                                            m.next = "LIST"
            if fallback is not None:
                fallback.states()
            with m.State("WEIGHTS"):
                m.d.comb += self.o_weights.valid.eq(1)
                with m.If(self.o_weights.ready):
                    m.next = "DECODE"
            with m.State("SINGLE"):
                m.d.comb += [reads.valid.eq(1), reads.p.address.eq(op.address), reads.p.beats.eq(op.beats)]
                with m.If(reads.ready):
                    m.next = "DECODE"
            table_rows(m, config, op, tokens[chunk][row], place, row, count, reads, fail)
            seen = (op.first, op.end) if config.attention_modes else None
            row_reads = RowReads(m, self, config, op.count, reads, position, count, head, first, tile_end, self.position, fail, seen)
            if several:
                paged_rows(row_reads, cache, batch)
                self._record_states(m, row_reads, batch, row, cache)
            elif lists is not None:
                lists.states(row_reads, cache, push_append)
            else:
                (window_rows if window else evict_rows if evict else contiguous_rows)(row_reads, cache)
            if compares is not None:
                compares.states(row_reads, cache)
            with m.State("TOKEN"):
                m.d.comb += self.i_token.ready.eq(1)
                with m.If(self.i_token.valid):
                    m.d.sync += [result.eq(self.i_token.p), stopping.eq(self.stop)]
                    m.next = "EMIT"
            with m.State("EMIT"):
                m.d.comb += self.o_token.valid.eq(1)
                with m.If(self.o_token.ready):
                    m.d.sync += self.generated.eq(self.generated + 1)
                    m.next = "AGAIN" if several else "CHUNK"
                    with m.If(ended):
                        m.d.sync += self.done.eq(1)
                        m.next = "IDLE"
                    if several:
                        m.d.sync += [batch.samples.eq(batch.samples & (batch.samples - 1)),
                                     batch.latest[batch.sequences[batch.sampled]].eq(result.token)]
            if several:
                with m.State("AGAIN"):
                    m.d.comb += [fetch.again.eq(1), fetch.start.eq(1)]
                    m.next = "DECODE"
                with m.State("PROGRAM_END"):
                    with m.If(self.program_done):
                        m.next = "DONE"
            with m.State("ERROR"):
                if several:  # what is left of a batch
                    m.d.comb += collecting_prompt.eq(1)
        return m

    # What a front end of several sequences has more (``BatchFrontEnd``).

    def _batch_states(self, m: Module, batch: Batch, cache: PagedCache | SwapController, command: Signal, collects: Signal, fail
                      ) -> None:
        """States that read a batch and prepare its tokens, from PROMPT_COMMAND to OPERATIONS or DONE."""
        raise NotImplementedError

    def _record_states(self, m: Module, x: RowReads, batch: Batch, row: Signal, cache: PagedCache | SwapController) -> None:
        """States that give the writes of APPEND, from RECORD to DECODE."""
        raise NotImplementedError
