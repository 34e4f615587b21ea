"""The core: front end, executor and all units, wired together; memory is seen as streams of bursts."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .config import AcceleratorConfig
from .control.frontend_ports import BURST, settings, token_layout
from .control.isa import Opcode
from .numerics import SCALAR
from .paths.commands import give_commands
from .paths.memory import read_data, read_matrices
from .paths.parts import OPERATIONS, RESET_GROUPS, Parts, Running
from .paths.records import write_records
from .paths.vectors import fetch_vectors, quantize, store_results
from .paths.watch import observe_layout, watch
from .streams import word_layout
from .streams.route import buffered

__all__ = ["OPERATIONS", "Core", "observe_layout"]


class Core(wiring.Component):
    """Everything between the memory and the register block: the wires between its parts are in ``paths``.

    Members
    -------
    start : In(1); others of ``frontend_ports.settings`` : In
        See ``FrontEnd``.
    greedy : In(1); top_k : In(8); inverse_temperature : In(SCALAR); seed : In(32); reseed : In(1)
        See ``Sampler``.
    o_program, o_data, o_weights : Out(stream of {address, beats}); i_program, i_data, i_weights : In(stream of {data, last})
        Reads of the program, of all other data, and of matrices (ternary and LM head).
    o_record : Out(stream of {address, beats}); o_record_data : Out(stream of bus word); i_record_done : In(stream of {error})
        Writes of K/V records, and of partial results.
    o_token : Out(stream of token_layout)
    kv_address : In(32); kv_heads : In(16); kv_free_blocks : Out(20)
        With a paged cache: byte address of its first record, K/V heads of all layers; blocks that nobody has.
    kv_swap_address, kv_swap_stride : In(32); kv_rows_out, kv_rows_in, kv_clean_blocks : Out(32)
        With ``swap_slots``: the second region, as ``kv_address`` and ``kv_head_stride``; see ``SwapController``.
    attention_missed, attention_passed : Out(32)
        With attention modes: see ``Attention``.
    deviation_saturated : Out(1)
        With selective recompute: see ``ValueDeviation``; of the run.
    means_saturated : Out(1)
        With block retrieval: see ``BlockMeans``; of the run.
    o_parts : Out(stream of {address, beats}); i_parts : In(stream of {data, last})
        Where programs may split an attention: reads of partial results, a packet per lane.
    busy, done : Out(1); error : Out(8); error_info : Out(32); position, generated : Out(20); tag : Out(16)
    saturations : Out(range(vector_lanes + 1))
        Elements clamped in this cycle.
    events : Out, one {busy, starved, stalled} per unit of ``UNIT_NAMES``
        Two registers behind the operation under way; ``busy`` lasts until the last of them.
    progress : Out(1)
        Something moved two cycles ago; the watchdog counts the cycles without.
    attends : Out(1)
        Attention runs.
    observe, observe_sums : Out(observe_layout)
        The result of the operation under way, and of the matrix under way, word by word: what the golden model traces. For
        simulation; costs nothing when it is not connected.

    Latency and interval follow from the program; see ``sim/timing`` for the model.
    """

    latency = None
    interval = None

    RESETS = len(RESET_GROUPS)
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
            **({"deviation_saturated": Out(1)} if config.selective_recompute else {}),
            **({"means_saturated": Out(1)} if config.block_retrieval else {}),
            **({"o_parts": Out(burst), "i_parts": In(word)} if config.attention_modes else {}),
            "saturations": Out(range(config.vector_lanes + 1)),
            "events": Out(data.ArrayLayout(data.StructLayout({"busy": 1, "starved": 1, "stalled": 1}), len(self.UNITS))),
            "progress": Out(1), "attends": Out(1),
            "observe": Out(observe_layout(config)), "observe_sums": Out(observe_layout(config)),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "Core":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        parts = Parts(m, self.config)
        running = Running(m, parts.executor)
        self._control(m, parts)
        read_matrices(m, self, parts)
        copying = read_data(m, self, parts, running)
        give_commands(m, self, parts)
        fetch_vectors(m, parts, running)
        quantized = quantize(m, parts, running)
        store_results(m, self, parts, running)
        write_records(m, self, parts, running, copying)
        self._sample(m, parts)
        if self.config.attention_modes:
            self._tell_fallbacks(m, parts)
        watch(m, self, parts, running, quantized)
        m.d.comb += self.attends.eq(running.op[Opcode.ATTEND])
        return m

    def _control(self, m: Module, parts: Parts) -> None:
        """Programs and settings to the front end, its operations to the executor."""
        frontend, executor, operations = parts.frontend, parts.executor, parts.operations
        m.d.comb += [frontend.start.eq(self.start),
                     *(getattr(frontend, name).eq(getattr(self, name)) for name in settings(self.config))]
        for name in ("o_program", "o_token") if parts.paged or parts.evict else ("o_program", "o_data", "o_token"):
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
            executor.magnitudes.eq(parts.vectors.magnitude_bits), executor.top_exponents.eq(parts.exponents.top),
        ]

    def _tell_fallbacks(self, m: Module, parts: Parts) -> None:
        """At the end of an ATTEND the front end is told whether a lane was above its unified maximum."""
        frontend, executor, passed = parts.frontend, parts.executor, Signal()
        m.d.sync += passed.eq(passed | parts.attention.passes)
        with m.If(executor.operation_start):
            m.d.sync += passed.eq(0)
        m.d.comb += [frontend.attended.eq(executor.attended), frontend.passed.eq(passed)]

    def _sample(self, m: Module, parts: Parts) -> None:
        """Logits to tokens; rows to a list of tokens, or of blocks."""
        frontend, executor, sampler = parts.frontend, parts.executor, parts.sampler
        wiring.connect(m, parts.head.o, sampler.i)
        m.d.comb += [
            sampler.seed.eq(self.seed), sampler.reseed.eq(self.reseed),
            frontend.i_token.valid.eq(sampler.o.valid), frontend.i_token.p.token.eq(sampler.o.p.token),
            frontend.i_token.p.value.eq(sampler.o.p.value), sampler.o.ready.eq(frontend.i_token.ready),
            executor.token_sampled.eq(sampler.o.valid & sampler.o.ready),
        ]
        for lists, port, sums, saturated in ((parts.tokens, "i_list", parts.tokens, "deviation_saturated"),
                                             (parts.retrieval, "i_blocks", parts.means, "means_saturated")):
            if lists is not None:  # one of them at most
                listed = buffered(m, lists.o, "listed").o
                wiring.connect(m, listed, getattr(frontend, port))
                m.d.comb += [
                    executor.token_sampled.eq((sampler.o.valid & sampler.o.ready) | (listed.valid & listed.ready & listed.p.last)),
                    sums.clear.eq(self.start), getattr(self, saturated).eq(sums.saturated),
                ]
