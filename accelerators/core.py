"""The core: front end, executor and all units, wired together; memory is seen as streams of bursts."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .attention.engine import Attention
from .attention.exponents import HeadExponents
from .cache.append import RecordPacker
from .cache.contiguous import ContiguousCache
from .cache.evict_cache import EvictCache
from .cache.mover import RowMover
from .cache.window import WindowCache
from .config import AcceleratorConfig, ceil_div
from .control.batch_frontend import BatchFrontEnd
from .control.errors import ErrorCause
from .control.executor import Executor
from .control.frontend import BURST, FrontEnd, settings, token_layout
from .control.isa import Flag, Opcode
from .control.operation import operation_layout
from .control.rows import rows_layout
from .elementwise.align import Align
from .elementwise.embedding import Embedding
from .elementwise.glu import Glu
from .elementwise.head import HeadMatvec
from .elementwise.norm_quantize import NormQuantize
from .elementwise.residual import ResidualAdd
from .elementwise.rope import Rope
from .elementwise.sampler import Sampler
from .memory.replay import ReplayBuffer
from .memory.vector import VectorMemory
from .numerics import SCALAR
from .reset import ResetChain
from .streams import Gearbox, Queue, word_layout
from .streams.route import buffer_before, buffered, merge, pass_fields, scatter, steer, steer_data
from .ternary.engine import TernaryEngine

__all__ = ["Core", "observe_layout"]

COMMANDS = 4
"""Commands that wait in front of a unit."""

OPERATIONS = 16
"""Operations, and matrices, that the front end may be ahead of the executor."""

ROWS_AHEAD = 64
"""Runs of K/V rows that it may be ahead."""


def observe_layout(config: AcceleratorConfig) -> data.StructLayout:
    """One word of an operation's result: operation tag and signed 32-bit elements.

    Vector words (EMBED, ROPE, ATTEND, RESIDUAL, GLU) and quantized words (NORM, APPEND) have ``vector_lanes`` elements in the
    order of the vectors; LINEAR words hold the row groups of all token lanes (token-major); HEAD words hold a logit,
    low and high half.
    """
    elements = max(config.vector_lanes, config.token_lanes * config.table_rows, 2)
    return data.StructLayout({"elements": data.ArrayLayout(signed(32), elements), "tag": 16, "valid": 1})


class Core(wiring.Component):
    """Everything between the memory and the register block.

    Members
    -------
    start : In(1); others of ``frontend.settings`` : In
        See ``FrontEnd``.
    greedy : In(1); top_k : In(8); inverse_temperature : In(SCALAR); seed : In(32); reseed : In(1)
        See ``Sampler``.
    o_program, o_data, o_weights : Out(stream of {address, beats}); i_program, i_data, i_weights : In(stream of {data, last})
        Reads of the program, of all other data, and of matrices (ternary and LM head).
    o_record : Out(stream of {address, beats}); o_record_data : Out(stream of bus word); i_record_done : In(stream of {error})
        Writes of K/V records.
    o_token : Out(stream of token_layout)
    kv_address : In(32); kv_heads : In(16); kv_free_blocks : Out(20)
        With a paged cache: byte address of its first record, K/V heads of all layers; blocks that nobody has.
    kv_swap_address, kv_swap_stride : In(32); kv_rows_out, kv_rows_in, kv_clean_blocks : Out(32)
        With ``swap_slots``: the second region, as ``kv_address`` and ``kv_head_stride``; see ``SwapController``.
    attention_missed, attention_passed : Out(32)
        With attention modes: see ``Attention``.
    busy, done : Out(1); error : Out(8); error_info : Out(32); position, generated : Out(20); tag : Out(16)
    saturations : Out(range(vector_lanes + 1))
        Elements clamped in this cycle.
    events : Out, one {busy, starved, stalled} per unit of ``UNIT_NAMES``
        Two registers behind the operation under way; ``busy`` lasts until the last of them.
    progress : Out(1)
        Something moved two cycles ago; the watchdog counts the cycles without.
    observe, observe_sums : Out(observe_layout)
        The result of the operation under way, and of the matrix under way, word by word: what the golden model traces. For
        simulation; costs nothing when it is not connected.

    Latency and interval follow from the program; see ``sim/timing`` for the model.
    """

    latency = None
    interval = None

    PARTS = (("frontend",), ("executor",), ("memory",), ("engine",), ("norm_quantize", "align", "head_exponents", "gains"),
             ("rope", "rotary_table"), ("residual",), ("glu",), ("embedding",), ("attention",), ("packer", "cache", "mover"), ("head",),
             ("sampler",))
    """Submodules by the register that resets them."""

    RESETS = len(PARTS)
    """Cycles after reset until every part is out of it; ``start`` must not come earlier."""

    UNITS = ("engine", "norm_quantize", "rope", "residual", "glu", "attention", "head", "sampler", "embedding", "cache")

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        word = stream.Signature(word_layout(config.bus_bits))
        burst = stream.Signature(BURST)
        super().__init__({
            "start": In(1), **{name: In(width) for name, width in settings(config).items()},
            "greedy": In(1), "top_k": In(8), "inverse_temperature": In(SCALAR), "seed": In(32), "reseed": In(1),
            "o_program": Out(burst), "i_program": In(word), "o_data": Out(burst), "i_data": In(word),
            "o_weights": Out(burst), "i_weights": In(word),
            "o_record": Out(burst), "o_record_data": Out(word),
            "i_record_done": In(stream.Signature(data.StructLayout({"error": 1}))),
            "o_token": Out(stream.Signature(token_layout())),
            "busy": Out(1), "done": Out(1), "error": Out(8), "error_info": Out(32),
            "position": Out(20), "generated": Out(20), "tag": Out(16),
            **({"kv_free_blocks": Out(20), "kv_address": In(32), "kv_heads": In(16)} if config.cache == "paged" else {}),
            **({"kv_swap_address": In(32), "kv_swap_stride": In(32), "kv_rows_out": Out(32), "kv_rows_in": Out(32),
                "kv_clean_blocks": Out(32)} if config.swap_slots else {}),
            **({"attention_missed": Out(32), "attention_passed": Out(32)} if config.attention_modes else {}),
            "saturations": Out(range(config.vector_lanes + 1)),
            "events": Out(data.ArrayLayout(data.StructLayout({"busy": 1, "starved": 1, "stalled": 1}), len(self.UNITS))),
            "progress": Out(1),
            "observe": Out(observe_layout(config)), "observe_sums": Out(observe_layout(config)),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "Core":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        config = self.config
        lanes = config.vector_lanes
        queue_depth = max(8, 2 * config.query_lanes)
        resets = ResetChain(m)
        frontend = BatchFrontEnd(config) if config.cache == "paged" else FrontEnd(config)
        executor, vectors = Executor(config), VectorMemory(config)
        engine, norm, attention, head = TernaryEngine(config), NormQuantize(config), Attention(config), HeadMatvec(config)
        rope, residual, glu, embedding = Rope(config), ResidualAdd(config), Glu(config), Embedding(config)
        align, exponents = Align(config), HeadExponents(config.token_lanes, config.max_heads)
        window, paged, evict = (config.cache == kind for kind in ("window", "paged", "evict"))
        packer, sampler = RecordPacker(config), Sampler(config)
        # Addresses of records; those of several sequences come from the front end, and it may have rows copied.
        cache = (None if paged else WindowCache(config) if window else EvictCache(config, config.cache_heads) if evict else
                 ContiguousCache(config))
        mover = RowMover(config, config.swap_rows) if paged else None
        vector_words = ceil_div(config.max_vector, lanes)
        gains = ReplayBuffer(data.ArrayLayout(signed(16), lanes), vector_words)
        table_word = data.StructLayout({"cos": data.ArrayLayout(signed(16), lanes),
                                        "sin": data.ArrayLayout(signed(16), lanes)})
        table = ReplayBuffer(table_word, ceil_div(config.max_head_dim, 2 * lanes))
        parts = {"frontend": frontend, "executor": executor, "memory": vectors, "engine": engine, "norm_quantize": norm,
                 "align": align, "head_exponents": exponents, "gains": gains, "rope": rope, "rotary_table": table,
                 "residual": residual, "glu": glu, "embedding": embedding, "attention": attention, "packer": packer,
                 **({"mover": mover} if paged else {"cache": cache}), "head": head, "sampler": sampler}
        for names in self.PARTS:
            resets.add(**{name: parts.pop(name) for name in names if name in parts})
        assert not parts
        m.submodules.operations = operations = Queue(operation_layout(config), OPERATIONS)
        m.submodules.matrices = matrices = Queue(data.StructLayout({"head": 1}), OPERATIONS)
        m.submodules.reads = reads = Queue(executor.o_read.p.shape(), COMMANDS)
        m.submodules.writes = writes = Queue(executor.o_write.p.shape(), queue_depth)
        m.submodules.short_words = short_words = Gearbox(config.bus_bits, 16 * lanes)
        m.submodules.table_words = table_words = Gearbox(config.bus_bits, 32 * lanes)
        m.submodules.lane_words = lane_words = Gearbox(config.bus_bits, config.lane_bits)
        runs = config.attention_runs
        bounds = dict.fromkeys(("start", "limit") if runs else ("limit",), range(config.max_context + 1))
        m.submodules.limits = limits = Queue(data.StructLayout(bounds), queue_depth)
        m.submodules.owners = owners = Queue(data.StructLayout({"token": range(max(config.token_lanes, 2)), "head": 8}),
                                             2 * queue_depth)

        op, linear = {opcode: Signal(name=f"runs_{opcode.name.lower()}") for opcode in Opcode}, Signal()
        # A register late: ``op`` holds for the last event of an operation, and a word needs longer from a command than that.
        # ``started`` and ``attends`` are pulses.
        started, attends = Signal(), Signal()
        m.d.sync += [linear.eq(executor.linear), started.eq(executor.operation_start),
                     attends.eq(executor.operation_start & (executor.next_opcode == Opcode.ATTEND)),
                     *(signal.eq(executor.opcode == opcode) for opcode, signal in op.items())]
        to_head = Signal()
        m.d.comb += to_head.eq((executor.flags & Flag.TO_HEAD).any())

        # Control.
        m.d.comb += [frontend.start.eq(self.start), *(getattr(frontend, name).eq(getattr(self, name)) for name in settings(config))]
        for name in ("o_program", "o_token") if paged or evict else ("o_program", "o_data", "o_token"):
            wiring.connect(m, getattr(frontend, name), wiring.flipped(getattr(self, name)))
        wiring.connect(m, wiring.flipped(self.i_program), frontend.i_program)
        wiring.connect(m, frontend.o_operation, operations.i)
        wiring.connect(m, operations.o, executor.i_operation)
        # An operation ends one cycle after its last item; ``events`` are counted three cycles after that.
        running = Signal(3)
        m.d.sync += [running.eq(Cat(self.start | frontend.busy, running)),
                     self.busy.eq(self.start | frontend.busy | running.any())]
        m.d.comb += [
            frontend.append_done.eq(executor.append_done),
            self.done.eq(frontend.done), self.tag.eq(executor.tag),
            self.position.eq(frontend.position), self.generated.eq(frontend.generated),
            executor.inverse_temperature.eq(self.inverse_temperature),
            executor.magnitudes.eq(vectors.magnitude_bits), executor.top_exponents.eq(exponents.top),
        ]

        # Matrices go to the LM head whenever they come, to the engine as many as it was told of: one with too few beats
        # starves it, so that the watchdog names it, instead of going on with the next one's.
        ahead, matrix_ended = frontend.o_weights, Signal()
        m.d.comb += [
            self.o_weights.p.address.eq(ahead.p.address), self.o_weights.p.beats.eq(ahead.p.beats),
            self.o_weights.valid.eq(ahead.valid & matrices.i.ready), ahead.ready.eq(self.o_weights.ready & matrices.i.ready),
            matrices.i.p.head.eq(ahead.p.head), matrices.i.valid.eq(ahead.valid & self.o_weights.ready),
            matrices.o.ready.eq(matrix_ended),
        ]
        announced = Signal(range(OPERATIONS))
        to_engine, to_rows = Signal(), Signal()
        m.d.sync += [
            matrix_ended.eq(self.i_weights.valid & self.i_weights.ready & self.i_weights.p.last),
            announced.eq(announced + (executor.o_engine.valid & executor.o_engine.ready) - (matrix_ended & ~matrices.o.p.head)),
        ]
        m.d.comb += [to_engine.eq(matrices.o.valid & ~matrices.o.p.head & announced.any() & ~matrix_ended),
                     to_rows.eq(matrices.o.valid & matrices.o.p.head & ~matrix_ended)]
        steer(m, self.i_weights, [(buffer_before(m, lane_words.i, "lane_beats"), to_engine)])
        steer_data(m, self.i_weights, buffer_before(m, head.i_weights, "head_beats"), to_rows)

        # Before a sequence writes to a block that others have too, its rows are copied, while nothing else is read or written.
        i_data, copying = self.i_data, None
        if paged:
            i_data, copying = stream.Signature(i_data.p.shape()).create(path=("fetched_data",)), Signal()
            (self._copies_and_moves if config.swap_slots else self._copy_on_write)(m, frontend, mover, copying)
            merge(m, [(frontend.o_data, ~copying), (mover.o_read, copying)], self.o_data)
            steer(m, self.i_data, [(i_data, ~copying), (mover.i_data, copying)])
        # While tokens are appended, the cache reads for itself; what the front end reads next waits for them.
        if evict:
            i_data, appends = stream.Signature(i_data.p.shape()).create(path=("fetched_data",)), op[Opcode.APPEND]
            merge(m, [(frontend.o_data, ~appends), (cache.o_fetch, appends)], self.o_data)
            steer(m, self.i_data, [(i_data, ~appends), (cache.i_data, appends)])

        # Other memory data: open to the operation that runs, for as many packets as it announced.
        # All conditions are registers, so the gate is closed for two cycles at the end of a packet, until they know.
        announced_to, packet_ended, closed = Signal(3), Signal(), Signal()
        m.d.sync += [
            announced_to.eq(Mux(executor.data_packets.any(),
                                Cat(op[Opcode.EMBED] | op[Opcode.NORM], op[Opcode.ROPE], op[Opcode.ATTEND]), 0)),
            packet_ended.eq(i_data.valid & i_data.ready & i_data.p.last),
            closed.eq(packet_ended),
        ]
        to_short, to_table, to_attention = (announced_to[k] & ~packet_ended & ~closed for k in range(3))
        steer(m, i_data, [(buffer_before(m, short_words.i, "short_beats"), to_short),
                               (buffer_before(m, table_words.i, "table_beats"), to_table)])
        steer_data(m, i_data, buffer_before(m, attention.i_rows, "rows_ahead"), to_attention)
        m.d.comb += executor.packet_taken.eq(packet_ended)
        # A gearbox passes the ``ready`` of its sink on to the memory's queues within the cycle: so that comes from a register.
        short_ahead, table_ahead, lanes_ahead = (
            buffered(m, words.o, f"{name}_ahead")
            for name, words in (("short", short_words), ("table", table_words), ("lanes", lane_words)))
        m.d.comb += [
            embedding.i.valid.eq(short_ahead.o.valid & op[Opcode.EMBED]), embedding.i.p.data.eq(short_ahead.o.p.data),
            embedding.i.p.last.eq(short_ahead.o.p.last),
            gains.i.valid.eq(short_ahead.o.valid & op[Opcode.NORM]), gains.i.p.data.eq(short_ahead.o.p.data),
            gains.i.p.last.eq(short_ahead.o.p.last),
            short_ahead.o.ready.eq(Mux(op[Opcode.EMBED], embedding.i.ready, gains.i.ready & op[Opcode.NORM])),
            table.i.valid.eq(table_ahead.o.valid), table.i.p.data.eq(table_ahead.o.p.data),
            table.i.p.last.eq(table_ahead.o.p.last), table_ahead.o.ready.eq(table.i.ready),
            engine.i_weights.valid.eq(lanes_ahead.o.valid), engine.i_weights.payload.eq(lanes_ahead.o.p.data),
            lanes_ahead.o.ready.eq(engine.i_weights.ready),
        ]

        # Commands. Units may keep a command until its packet has passed, so each has a queue.
        for name, sink in (("o_gains", gains.i_command), ("o_table", table.i_command), ("o_norm", norm.i_command),
                           ("o_embedding", embedding.i_command), ("o_residual", residual.i_command),
                           ("o_glu", glu.i_command), ("o_engine", engine.i_command),
                           ("o_attention", attention.i_command), ("o_head", head.i_command),
                           ("o_sums", vectors.i_sums_access)):
            source = getattr(executor, name)
            m.submodules[f"commands_{name[2:]}"] = commands = Queue(source.p.shape(), COMMANDS)
            wiring.connect(m, source, commands.i)
            pass_fields(m, commands.o, sink)
        for name, sink, others in (("o_sampler", sampler.i_command, {"greedy": self.greedy, "k": self.top_k}),
                                   *([] if paged or evict else [("o_request", cache.i_request, {"write": 1, "count": 1})])):
            source = getattr(executor, name)
            command = buffered(m, source, f"command_{name[2:]}")
            pass_fields(m, command.o, sink, **others)
        if evict:  # weights of a layer may still come when the next one appends
            m.submodules.requests = requests = Queue(executor.o_request.p.shape(), COMMANDS)
            wiring.connect(m, executor.o_request, requests.i)
            pass_fields(m, requests.o, cache.i_request, write=~requests.o.p.scores, count=1,
                        budget=self.kv_capacity[:len(cache.i_request.p.budget)])
            wiring.connect(m, buffered(m, attention.o_weights, "row_weights").o, cache.i_weights)
        for name, queue in (("o_read", reads), ("o_write", writes)):
            # Many states of the executor make these.
            wiring.connect(m, buffered(m, getattr(executor, name), f"command_{name[2:]}").o, queue.i)
        wiring.connect(m, reads.o, vectors.i_read)
        wiring.connect(m, writes.o, vectors.i_write_access)
        lane = executor.o_lane
        m.d.comb += [
            limits.i.p.limit.eq(lane.p.limit), limits.i.valid.eq(lane.valid & owners.i.ready),
            owners.i.p.token.eq(lane.p.token), owners.i.p.head.eq(lane.p.head),
            owners.i.valid.eq(lane.valid & limits.i.ready & lane.p.ends if runs else lane.valid & limits.i.ready),
            lane.ready.eq(limits.i.ready & owners.i.ready),
        ]
        if runs:
            m.submodules.rows = rows = Queue(rows_layout(config), ROWS_AHEAD)
            wiring.connect(m, frontend.o_rows, rows.i)
            wiring.connect(m, rows.o, executor.i_rows)
            m.d.comb += [limits.i.p.start.eq(lane.p.start), attention.i_lane.p.start.eq(limits.o.p.start),
                         *([executor.window.eq(self.kv_window)] if window else [])]

        # Vectors from memory to the elementwise units, which may be far away on the device.
        quantizes = op[Opcode.NORM] | op[Opcode.APPEND] | op[Opcode.ATTEND]
        fetched = scatter(m, vectors.o, "fetched", {"rope": op[Opcode.ROPE], "residual": op[Opcode.RESIDUAL],
                                                    "glu": op[Opcode.GLU], "align": quantizes})
        for name, unit in (("rope", rope), ("residual", residual), ("glu", glu)):
            wiring.connect(m, fetched[name], unit.i)
        aligned, words = Signal(), fetched["align"]
        m.d.comb += [
            aligned.eq(op[Opcode.NORM] & (executor.flags & Flag.ALIGN).any()),
            align.i.valid.eq(words.valid), align.i.p.x.eq(words.p.x), align.i.p.last.eq(words.p.last),
            words.ready.eq(align.i.ready),
            align.i.p.shift.eq(Mux(aligned, exponents.shift, 0)),
            exponents.words.eq(executor.group), exponents.restart.eq(started),
            exponents.clear.eq(attends),
            exponents.word_taken.eq(align.i.valid & align.i.ready), exponents.vector_end.eq(align.i.p.last),
        ]
        wiring.connect(m, table.o, rope.i_table)

        # Norm + quantization: gains or ones beside the vector.
        gained = Signal()
        gain, scaled = buffered(m, gains.o, "gain"), buffer_before(m, norm.i, "scaled")
        m.d.comb += [
            gained.eq(op[Opcode.NORM] & (executor.flags & Flag.GAIN).any()),
            scaled.valid.eq(align.o.valid & (gain.o.valid | ~gained)), scaled.p.x.eq(align.o.p.x),
            scaled.p.last.eq(align.o.p.last), align.o.ready.eq(scaled.ready & (gain.o.valid | ~gained)),
            gain.o.ready.eq(gained & scaled.ready & align.o.valid),
            *(scaled.p.gain[i].eq(Mux(gained, gain.o.p[i], 1)) for i in range(lanes)),
        ]
        quantized = buffered(m, norm.o, "quantized").o
        token = Signal(range(config.token_lanes + 1))
        with m.If(started):
            m.d.sync += token.eq(0)
        with m.Elif(quantized.valid & quantized.ready & quantized.p.last):
            m.d.sync += token.eq(token + 1)
        activations = buffer_before(m, engine.i_activations, "activations")
        targets = ((activations, op[Opcode.NORM] & ~to_head),
                   (buffer_before(m, head.i_activations, "head_activations"), op[Opcode.NORM] & to_head),
                   (buffer_before(m, packer.i, "records"), op[Opcode.APPEND]),
                   (buffer_before(m, attention.i_query, "queries"), op[Opcode.ATTEND]))
        for sink, condition in targets:
            m.d.comb += [sink.valid.eq(quantized.valid & condition), sink.p.last.eq(quantized.p.last),
                         *(sink.p.q[i].eq(quantized.p.q[i]) for i in range(lanes))]
            with m.If(condition):
                m.d.comb += quantized.ready.eq(sink.ready)
        m.d.comb += [activations.p.token.eq(token),
                     executor.vector_quantized.eq(quantized.valid & quantized.ready & quantized.p.last)]

        scale = norm.o_scale
        m.d.comb += [
            executor.i_scale.valid.eq(scale.valid & op[Opcode.NORM]), executor.i_scale.payload.eq(scale.p.scale),
            packer.i_scale.valid.eq(scale.valid & op[Opcode.APPEND]), packer.i_scale.p.scale.eq(scale.p.scale),
            attention.i_lane.valid.eq(scale.valid & op[Opcode.ATTEND] & limits.o.valid),
            attention.i_lane.p.scale.eq(scale.p.scale), attention.i_lane.p.limit.eq(limits.o.p.limit),
            limits.o.ready.eq(scale.valid & op[Opcode.ATTEND] & attention.i_lane.ready),
            executor.scale_stored.eq(executor.i_scale.valid & executor.i_scale.ready),
        ]
        with m.If(op[Opcode.NORM]):
            m.d.comb += scale.ready.eq(executor.i_scale.ready)
        with m.Elif(op[Opcode.APPEND]):
            m.d.comb += scale.ready.eq(packer.i_scale.ready)
        with m.Elif(op[Opcode.ATTEND]):
            m.d.comb += scale.ready.eq(attention.i_lane.ready & limits.o.valid)

        # Results back to vector memory.
        merge(m, [(embedding.o, op[Opcode.EMBED]), (rope.o, op[Opcode.ROPE]), (residual.o, op[Opcode.RESIDUAL]),
                  (glu.o, op[Opcode.GLU]), (attention.o, op[Opcode.ATTEND])], buffer_before(m, vectors.i, "results"))
        pass_fields(m, engine.o_sums, vectors.i_sums)
        m.d.comb += [
            executor.vector_written.eq(vectors.i.valid & vectors.i.ready & vectors.i.p.last),
            executor.sums_written.eq(vectors.sums_done),
            exponents.i.valid.eq(attention.o_exponent.valid & owners.o.valid),
            exponents.i.p.exponent.eq(attention.o_exponent.p.exponent),
            exponents.i.p.token.eq(owners.o.p.token), exponents.i.p.head.eq(owners.o.p.head),
            attention.o_exponent.ready.eq(exponents.i.ready & owners.o.valid),
            owners.o.ready.eq(exponents.i.ready & attention.o_exponent.valid),
            executor.exponent_stored.eq(exponents.i.valid & exponents.i.ready),
        ]

        if config.attention_modes:
            m.d.comb += [self.attention_missed.eq(attention.missed), self.attention_passed.eq(attention.passed)]

        # K/V records to memory.
        if paged:
            m.submodules.record_commands = records = Queue(self.o_record.p.shape(), max(8, config.token_lanes * config.max_heads))
            wiring.connect(m, frontend.o_record, records.i)
            merge(m, [(records.o, ~copying), (mover.o_write, copying)], self.o_record)
            m.d.comb += [self.kv_free_blocks.eq(frontend.kv_free_blocks),
                         frontend.program_done.eq(executor.operation_start & (executor.next_opcode == Opcode.END))]
            merge(m, [(buffered(m, packer.o, "record_data").o, ~copying), (mover.o_data, copying)], self.o_record_data)
        elif evict:
            pass_fields(m, cache.o_write, self.o_record)
            wiring.connect(m, cache.o_data, wiring.flipped(self.o_record_data))
            wiring.connect(m, buffered(m, packer.o, "record_data").o, cache.i_record)
            m.d.comb += [
                cache.i_written.valid.eq(self.i_record_done.valid), cache.i_written.p.eq(self.i_record_done.p),
                cache.sinks.eq(self.kv_sinks), cache.recent.eq(self.kv_window), cache.threshold.eq(self.kv_threshold),
                cache.beats.eq(executor.beats), cache.words.eq(executor.words), cache.clear.eq(self.start),
                cache.o_append.ready.eq(1), executor.budget.eq(self.kv_capacity),
                # The front end reads, what it reads it has checked.
                cache.o_read.ready.eq(1),
            ]
        else:
            pass_fields(m, cache.o_write, self.o_record)
            m.d.comb += cache.o_read.ready.eq(1)
            wiring.connect(m, buffered(m, packer.o, "record_data").o, wiring.flipped(self.o_record_data))
        if window:
            # The front end lets no sinks and window come here that the slots do not hold; no position is written late.
            slots, length = Signal.like(cache.recent), Signal.like(cache.length)
            m.d.sync += [slots.eq(Mux(self.kv_capacity > config.max_context, config.max_context, self.kv_capacity)),
                         cache.recent.eq(slots - self.kv_sinks)]
            with m.If(cache.i_request.valid & cache.i_request.ready):
                m.d.sync += length.eq(cache.i_request.p.position + 1)
            m.d.comb += [cache.sinks.eq(self.kv_sinks), cache.length.eq(length), cache.clear.eq(self.start)]
        elif not paged and not evict:
            # The front end lets no position beyond kv_capacity or max_context come here.
            m.d.comb += cache.capacity.eq(config.max_context)
        m.d.comb += [
            *([] if paged else [cache.record_beats.eq(self.kv_record_beats), cache.head_stride.eq(self.kv_head_stride)]),
            self.i_record_done.ready.eq(1),
            executor.record_written.eq(self.i_record_done.valid & ~copying if paged else cache.o_append.valid if evict else
                                       self.i_record_done.valid),
        ]

        # Logits to tokens.
        wiring.connect(m, head.o, sampler.i)
        m.d.comb += [
            sampler.seed.eq(self.seed), sampler.reseed.eq(self.reseed),
            frontend.i_token.valid.eq(sampler.o.valid), frontend.i_token.p.token.eq(sampler.o.p.token),
            frontend.i_token.p.value.eq(sampler.o.p.value), sampler.o.ready.eq(frontend.i_token.ready),
            executor.token_sampled.eq(sampler.o.valid & sampler.o.ready),
        ]

        # Errors and what is counted.
        if window or evict:
            m.d.comb += [self.error.eq(Mux(cache.error & (frontend.error == 0), ErrorCause.CACHE_FULL, frontend.error)),
                         self.error_info.eq(Mux(frontend.error == 0, frontend.position, frontend.error_info))]
        else:
            m.d.comb += [self.error.eq(frontend.error), self.error_info.eq(frontend.error_info)]
        clamped = [(unit.saturated, unit.o.valid & unit.o.ready) for unit in (residual, embedding)]
        m.d.comb += self.saturations.eq(sum((Mux(taken, count, 0) for count, taken in clamped), start=0))
        watched = {
            "engine": (linear, engine.i_weights, engine.o_sums),
            "norm_quantize": (quantizes, norm.i, quantized), "rope": (op[Opcode.ROPE], rope.i, rope.o),
            "residual": (op[Opcode.RESIDUAL], residual.i, residual.o), "glu": (op[Opcode.GLU], glu.i, glu.o),
            "attention": (op[Opcode.ATTEND], attention.i_rows, attention.o), "head": (op[Opcode.HEAD], head.i_weights, head.o),
            "sampler": (op[Opcode.HEAD], sampler.i, sampler.o), "embedding": (op[Opcode.EMBED], embedding.i, embedding.o),
            "cache": (op[Opcode.APPEND], packer.i, self.o_record_data),
        }
        for i, name in enumerate(self.UNITS):
            running, source, sink = watched[name]
            m.d.sync += [self.events[i].busy.eq(running), self.events[i].starved.eq(running & source.ready & ~source.valid),
                         self.events[i].stalled.eq(running & sink.valid & ~sink.ready)]
        moving = [self.i_data, self.i_weights, self.i_program, self.o_record_data, quantized, vectors.i, engine.o_sums,
                  attention.o_exponent, head.o, self.o_token, operations.o]
        word = self.observe.elements
        m.d.comb += [
            self.observe_sums.tag.eq(executor.linear_tag),
            self.observe_sums.valid.eq(vectors.i_sums.valid & vectors.i_sums.ready),
            *(self.observe_sums.elements[i].eq(value) for i, value in enumerate(vectors.i_sums.p.sums)),
            self.observe.tag.eq(executor.tag),
        ]
        with m.If(op[Opcode.NORM] | op[Opcode.APPEND]):
            m.d.comb += [self.observe.valid.eq(quantized.valid & quantized.ready),
                         *(word[i].eq(quantized.p.q[i]) for i in range(lanes))]
        with m.Elif(op[Opcode.HEAD]):
            value = head.o.p.value.as_unsigned()
            m.d.comb += [self.observe.valid.eq(head.o.valid & head.o.ready), word[0].eq(value[:32].as_signed()),
                         word[1].eq(head.o.p.value >> 32)]
        with m.Else():
            m.d.comb += [self.observe.valid.eq(vectors.i.valid & vectors.i.ready),
                         *(word[i].eq(vectors.i.p.x[i]) for i in range(lanes))]
        moved = Signal(len(moving) + 1)
        m.d.sync += [moved.eq(Cat(self.start, *(port.valid & port.ready for port in moving))), self.progress.eq(moved.any())]
        return m

    def _copies_and_moves(self, m: Module, frontend: FrontEnd, mover: RowMover, copying: Signal) -> None:
        """Copies as with ``_copy_on_write``, and moves between both regions, answered by ``i_moved``: never at the same time, as the
        front end goes through a batch entry by entry."""
        block, copy, move = self.config.block_size.bit_length() - 1, frontend.o_copy, frontend.o_move
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
            mover.i_written.valid.eq(self.i_record_done.valid & copying), mover.i_written.p.error.eq(self.i_record_done.p.error),
            mover.base[0].eq(self.kv_address), mover.head_stride[0].eq(self.kv_head_stride), mover.heads.eq(self.kv_heads),
            mover.base[1].eq(self.kv_swap_address), mover.head_stride[1].eq(self.kv_swap_stride),
            mover.record_beats.eq(self.kv_record_beats), self.kv_rows_out.eq(frontend.rows_out), self.kv_rows_in.eq(frontend.rows_in),
            self.kv_clean_blocks.eq(frontend.clean_blocks),
        ]

    def _copy_on_write(self, m: Module, frontend: FrontEnd, mover: RowMover, copying: Signal) -> None:
        """A copy that the front end asks for: taken from it when the rows are in memory."""
        copy = frontend.o_copy
        block = self.config.block_size.bit_length() - 1
        command, done = mover.i_command, mover.o_done
        with m.If(command.valid & command.ready):
            m.d.sync += copying.eq(1)
        with m.If(done.valid):
            m.d.sync += copying.eq(0)
        m.d.comb += [
            command.valid.eq(copy.valid & ~copying), command.p.source.eq(copy.p.source << block),
            command.p.target.eq(copy.p.target << block), command.p.rows.eq(copy.p.rows),
            done.ready.eq(1), copy.ready.eq(done.valid),
            mover.i_written.valid.eq(self.i_record_done.valid & copying), mover.i_written.p.error.eq(self.i_record_done.p.error),
            mover.base[0].eq(self.kv_address), mover.head_stride[0].eq(self.kv_head_stride), mover.heads.eq(self.kv_heads),
            mover.record_beats.eq(self.kv_record_beats),
        ]
