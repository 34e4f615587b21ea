"""All units: name -> component and bench. Tests, benches and synthesis iterate over ``UNITS``.

Every component class has a class method ``for_config(config)``. Add a unit with one line below.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from amaranth.lib import wiring

from ..accelerators.checks import Configuration
from ..accelerators.experts.config import EXPERT_PRESETS
from ..accelerators.memory.sdram_chips import SDRAM_PRESETS
from ..accelerators.names import unknown_name
from ..accelerators.presets import PRESETS, preset
from .emit import Emitted, emit
from .loading import load

__all__ = ["AT", "UNITS", "Unit", "build", "by_name", "emit_unit", "unit"]

AT = " at "
"""Between a unit's name and that of a preset."""


@dataclass(frozen=True)
class Unit:
    """One unit that is emitted, linted, benched and synthesized alone.

    Parameters
    ----------
    name : str
        Verilog module name.
    component, bench : str
        ``module:Class`` of the Amaranth component and of its ``UnitBench``.
    presets : tuple of str
        Configurations to test.
    icarus : bool
        Also run the menu in Icarus, which knows X (slow: for small units).
    configs : mapping
        All configurations that the unit's component takes, by name.
    measured : str
        The one whose figures are in docs/RESULTS.md.
    also_measured : tuple of str
        More of them, as rows ``NAME at PRESET``: what an option of the unit takes, beside a preset of the same size without it.
    synthesized : bool
        Measured on FPGAs too: not wholes of the expert unit, which stands on a logic die. Their parts are.
    """

    name: str
    component: str
    bench: str
    presets: tuple[str, ...] = ("tiny", "edge")
    icarus: bool = True
    configs: Mapping[str, Any] = field(default_factory=lambda: PRESETS, repr=False)
    measured: str = "edge"
    synthesized: bool = True
    also_measured: tuple[str, ...] = ()

    def config(self, name: str | None = None) -> Any:
        """The configuration called ``name`` (or in a file, see ``preset``), or the measured one; ``ValueError`` for one that the unit
        does not know."""
        name = self.measured if name is None else name
        if self.configs is PRESETS:
            return preset(name)
        if name not in self.configs:
            raise unknown_name("preset", name, self.configs)
        return self.configs[name]


def _expert(name: str, component: str, bench: str, presets: tuple[str, ...] = ("tiny_duplex", "duplex"), icarus: bool = True,
            measured: str = "tiny_duplex", synthesized: bool = True) -> Unit:
    """A part of the expert unit, with presets of its own."""
    return Unit(name, _A + "experts." + component, _B + bench, presets, icarus, EXPERT_PRESETS, measured, synthesized)


def by_name(entries: Iterable[Unit]) -> dict[str, Unit]:
    """The units under their names; ``ValueError`` for a name that stands twice."""
    units: dict[str, Unit] = {}
    for entry in entries:
        if entry.name in units:
            raise ValueError(f"unit {entry.name!r} is registered twice")
        units[entry.name] = entry
    return units


_A = "llmrtl.accelerators."
_B = "llmrtl.sim.bench."
_ALL = ("tiny", "edge", "kv260")
_ELEMENTS = ("tiny_duplex", "tiny_duplex_bf16", "tiny_duplex_int8")
_ATTENTION = ("tiny_duplex_attention", "tiny_duplex_attention_bf16", "tiny_duplex_attention_int8")
_POLICIES = ("tiny_duplex", "tiny_duplex_limits")
_RUNS = ("tiny", "edge", "kv260", "tiny_window")
_MODES = (*_RUNS, "tiny_modes")

UNITS: dict[str, Unit] = by_name((
    Unit("stream_buffer", _A + "streams:StreamBuffer", _B + "streams:StreamBufferBench"),
    Unit("queue", _A + "streams:Queue", _B + "streams:QueueBench"),
    Unit("credit_queue", _A + "streams:CreditQueue", _B + "streams:CreditQueueBench", ("tiny",)),
    Unit("relay", _A + "streams:Relay", _B + "streams:RelayBench"),
    Unit("fork", _A + "streams:Fork", _B + "streams:ForkBench"),
    Unit("join", _A + "streams:Join", _B + "streams:JoinBench"),
    Unit("gearbox", _A + "streams:Gearbox", _B + "streams:GearboxBench"),
    Unit("upsizer", _A + "streams:Upsizer", _B + "streams:UpsizerBench"),
    Unit("downsizer", _A + "streams:Downsizer", _B + "streams:DownsizerBench"),
    Unit("burst_splitter", _A + "memory.bursts:BurstSplitter", _B + "memory:BurstSplitterBench"),
    Unit("burst_reader", _A + "memory.reader:BurstReader", _B + "memory:BurstReaderBench"),
    Unit("burst_writer", _A + "memory.writer:BurstWriter", _B + "memory:BurstWriterBench"),
    Unit("read_arbiter", _A + "memory.arbiter:ReadArbiter", _B + "memory:ReadArbiterBench"),
    Unit("write_arbiter", _A + "memory.arbiter:WriteArbiter", _B + "write_arbiter:WriteArbiterBench"),
    Unit("sdram_controller", _A + "memory.sdram:SdramController", _B + "sdram:SdramControllerBench",
         ("tiny_sdram", "edge_sdram", "wide_sdram"), configs=SDRAM_PRESETS, measured="ulx3s_sdram"),
    Unit("port_stripe", _A + "memory.stripe:PortStripe", _B + "stripe:PortStripeBench", ("tiny", "edge", "kv260")),
    Unit("vector_memory", _A + "memory.vector:VectorMemory", _B + "vector:VectorMemoryBench",
         presets=("tiny", "edge", "kv260")),
    Unit("result_collector", _A + "memory.results:ResultCollector", _B + "vector:ResultCollectorBench", _ALL),
    Unit("head_exponents", _A + "attention.exponents:HeadExponents", _B + "exponents:HeadExponentsBench"),
    Unit("replay_buffer", _A + "memory.replay:ReplayBuffer", _B + "vector:ReplayBufferBench"),
    Unit("executor", _A + "control.executor:Executor", _B + "executor:ExecutorBench",
         (*_MODES, "tiny_paged", "tiny_evict", "tiny_recompute", "tiny_retrieval")),
    Unit("front_end", _A + "control.frontend:FrontEnd", _B + "frontend:FrontEndBench",
         (*_MODES, "tiny_evict", "tiny_recompute", "tiny_retrieval")),
    Unit("batch_front_end", _A + "control.batch_frontend:BatchFrontEnd", _B + "batch:BatchFrontEndBench",
         ("tiny_paged", "tiny_swap")),
    Unit("pow2_negative", _A + "exp:Pow2Negative", _B + "attention:Pow2NegativeBench"),
    Unit("attention_scores", _A + "attention.scores:Scores", _B + "attention:ScoresBench", (*_ALL, "tiny_short")),
    Unit("attention_lane_table", _A + "attention.lanes:LaneTable", _B + "attention:LaneTableBench", (*_MODES, "tiny_short")),
    Unit("attention_row_splitter", _A + "attention.rows:RowSplitter", _B + "attention:RowSplitterBench", (*_ALL, "tiny_int4")),
    Unit("attention_softmax", _A + "attention.softmax:Softmax", _B + "attention:SoftmaxBench", (*_MODES, "tiny_evict", "tiny_short"),
         also_measured=("tiny_short",)),
    Unit("attention_mix", _A + "attention.mix:Mix", _B + "attention:MixBench", (*_RUNS, "tiny_short"), also_measured=("tiny_short",)),
    Unit("attention_finish", _A + "attention.finish:Finish", _B + "attention:FinishBench", (*_ALL, "tiny_modes")),
    Unit("attention_merge", _A + "attention.merge:PartialMerge", _B + "merge:PartialMergeBench", ("tiny", "edge", "tiny_modes")),
    Unit("attention", _A + "attention.engine:Attention", _B + "attention:AttentionBench",
         (*_MODES, "tiny_int4", "tiny_evict", "tiny_short"),
         also_measured=("tiny", "tiny_window", "tiny_modes", "tiny_evict", "tiny_short")),
    Unit("record_packer", _A + "cache.append:RecordPacker", _B + "cache:RecordPackerBench", (*_ALL, "tiny_int4")),
    Unit("fp16_packer", _A + "cache.fp16:Fp16Packer", _B + "fp16:Fp16PackerBench", ("tiny",)),
    Unit("fp16_splitter", _A + "cache.fp16:Fp16Splitter", _B + "fp16:Fp16SplitterBench", ("tiny",)),
    Unit("attention_joining", _A + "attention.joining:Joining", _B + "attention:JoiningBench", ("tiny_modes",),
         measured="tiny_modes"),
    Unit("attention_part_packer", _A + "attention.part_memory:PartPacker", _B + "part_memory:PartPackerBench", _ALL),
    Unit("attention_part_unpacker", _A + "attention.part_memory:PartUnpacker", _B + "part_memory:PartUnpackerBench", _ALL),
    Unit("attention_parting", _A + "attention.parting:Parting", _B + "attention:PartingBench", ("tiny_modes",),
         measured="tiny_modes"),
    Unit("attention_reduce", _A + "attention.reduce:PartialReduce", _B + "merge:PartialReduceBench", ("edge", "tiny_modes")),
    Unit("attention_split", _A + "attention.split:SplitAttention", _B + "attention_split:SplitAttentionBench", ("tiny_modes",),
         measured="tiny_modes"),
    Unit("contiguous_cache", _A + "cache.contiguous:ContiguousCache", _B + "cache:ContiguousCacheBench", _ALL),
    Unit("row_addresses", _A + "cache.addresses:RowAddresses", _B + "cache:RowAddressesBench", _ALL),
    Unit("window_cache", _A + "cache.window:WindowCache", _B + "cache:WindowCacheBench"),
    Unit("row_mover", _A + "cache.mover:RowMover", _B + "mover:RowMoverBench", ("tiny",)),
    Unit("top_select", _A + "cache.select:TopSelect", _B + "select:TopSelectBench", ("tiny",)),
    Unit("value_deviation", _A + "cache.deviation:ValueDeviation", _B + "deviation:ValueDeviationBench", _ALL),
    Unit("top_share", _A + "cache.recompute:TopShare", _B + "deviation:TopShareBench", ("tiny",)),
    Unit("recompute_list", _A + "cache.recompute:RecomputeList", _B + "deviation:RecomputeListBench"),
    Unit("token_list", _A + "cache.token_list:TokenList", _B + "token_list:TokenListBench"),
    Unit("block_means", _A + "cache.means:BlockMeans", _B + "retrieval:BlockMeansBench", _ALL),
    Unit("block_scores", _A + "cache.retrieval:BlockScores", _B + "retrieval:BlockScoresBench", (*_ALL, "tiny_window")),
    Unit("block_retrieval", _A + "cache.retrieval:BlockRetrieval", _B + "retrieval:BlockRetrievalBench"),
    Unit("evict_scores", _A + "cache.evict_scores:EvictScores", _B + "evict_scores:EvictScoresBench"),
    Unit("similar_key", _A + "cache.similar:SimilarKey", _B + "evict:SimilarKeyBench", ("tiny", "edge", "tiny_int4")),
    Unit("record_merge", _A + "cache.record_merge:RecordMerge", _B + "evict:RecordMergeBench", ("tiny", "edge", "tiny_int4")),
    Unit("evict_cache", _A + "cache.evict_cache:EvictCache", _B + "evict_cache:EvictCacheBench"),
    Unit("attention_weights", _A + "attention.weights:AttentionWeights", _B + "evict_scores:AttentionWeightsBench"),
    Unit("block_pool", _A + "cache.blocks:BlockPool", _B + "paged:BlockPoolBench", ("tiny",)),
    Unit("paged_cache", _A + "cache.paged:PagedCache", _B + "paged:PagedCacheBench"),
    Unit("swap_controller", _A + "cache.swap:SwapController", _B + "swap:SwapControllerBench"),
    Unit("divider", _A + "numerics:Divider", _B + "numerics:DividerBench"),
    Unit("square_root", _A + "numerics:SquareRoot", _B + "numerics:SquareRootBench"),
    Unit("normalizer", _A + "numerics:Normalizer", _B + "numerics:NormalizerBench"),
    Unit("scalar_unit", _A + "numerics:ScalarUnit", _B + "numerics:ScalarUnitBench"),
    Unit("step_scale", _A + "elementwise.step_scale:StepScale", _B + "norm_quantize:StepScaleBench"),
    Unit("norm_quantize", _A + "elementwise.norm_quantize:NormQuantize",
         _B + "norm_quantize:NormQuantizeBench"),
    Unit("rope", _A + "elementwise.rope:Rope", _B + "elementwise:RopeBench"),
    Unit("residual_add", _A + "elementwise.residual:ResidualAdd", _B + "elementwise:ResidualAddBench"),
    Unit("glu", _A + "elementwise.glu:Glu", _B + "elementwise:GluBench"),
    Unit("align", _A + "elementwise.align:Align", _B + "elementwise:AlignBench"),
    Unit("embedding", _A + "elementwise.embedding:Embedding", _B + "elementwise:EmbeddingBench"),
    Unit("head", _A + "elementwise.head:HeadMatvec", _B + "head:HeadMatvecBench"),
    Unit("sampler", _A + "elementwise.sampler:Sampler", _B + "sampler:SamplerBench"),
    Unit("ternary_feeder", _A + "ternary.feeder:ActivationFeeder", _B + "ternary_parts:ActivationFeederBench"),
    Unit("ternary_table", _A + "ternary.table:TableBuilder", _B + "ternary_parts:TableBuilderBench"),
    Unit("ternary_lanes", _A + "ternary.lanes:LookupLanes", _B + "ternary_parts:LookupLanesBench"),
    Unit("ternary_direct", _A + "ternary.direct:DirectLanes", _B + "ternary_parts:DirectLanesBench"),
    Unit("ternary_accumulators", _A + "ternary.accumulators:Accumulators",
         _B + "ternary_parts:AccumulatorsBench"),
    Unit("ternary_engine", _A + "ternary.engine:TernaryEngine", _B + "ternary:TernaryEngineBench"),
    _expert("expert_core", "core:ExpertCore", "expert_core:ExpertCoreBench", _ELEMENTS, synthesized=False),
    _expert("expert_unit", "unit:ExpertUnit", "expert_core:ExpertUnitBench", ("tiny_duplex",), synthesized=False),
    _expert("expert_attention", "core:ExpertCore", "expert_attention:AttentionCoreBench", _ATTENTION, measured=_ATTENTION[0],
            synthesized=False),
    _expert("expert_attention_unit", "unit:ExpertUnit", "expert_attention:AttentionUnitBench", _ATTENTION[:1], measured=_ATTENTION[0],
            synthesized=False),
    _expert("expert_device", "device:ExpertDevice", "expert_device:ExpertDeviceBench", (*_ELEMENTS, *_ATTENTION[:1]), icarus=False,
            synthesized=False),
    _expert("expert_gemm", "gemm:Gemm", "expert_gemm:GemmBench", _ELEMENTS),
    _expert("expert_coprocess", "coprocess:CoprocessScheduler", "expert_coprocess:CoprocessSchedulerBench", measured="duplex"),
    _expert("expert_rounder", "rounding:SumRounder", "expert_gemm:SumRounderBench", _ELEMENTS),
    _expert("expert_memory", "bundle_controller:BundleController", "expert_memory:BundleControllerBench", _POLICIES),
    _expert("expert_streamer", "streamer:WeightStreamer", "expert_memory:WeightStreamerBench", _POLICIES),
    Unit("uart_receiver", _A + "link:UartReceiver", _B + "uart:UartReceiverBench", ("tiny",)),
    Unit("uart_transmitter", _A + "link:UartTransmitter", _B + "uart:UartTransmitterBench", ("tiny",)),
    _expert("expert_activation", "activation:GatedActivation", "expert_elementwise:GatedActivationBench", _ELEMENTS),
    _expert("expert_combine", "combine:Combine", "expert_elementwise:CombineBench", _ELEMENTS),
    _expert("expert_router", "router:Router", "expert_routing:RouterBench", (*_ELEMENTS, "duplex"), measured="duplex"),
    _expert("expert_queues", "queues:ExpertQueues", "expert_routing:ExpertQueuesBench", measured="duplex"),
    _expert("expert_dispatch", "dispatch:ExpertDispatch", "expert_dispatch:ExpertDispatchBench", measured="duplex"),
    _expert("expert_selector", "selector:OpSelector", "expert_routing:OpSelectorBench", ("tiny_duplex", "tiny_duplex_int8")),
    _expert("expert_decoder", "decoder:InstructionDecoder", "expert_decoder:InstructionDecoderBench",
            ("tiny_duplex", "tiny_duplex_attention_int8", "duplex"), measured="duplex"),
    _expert("expert_sequencer", "sequencer:ExpertSequencer", "expert_sequencer:ExpertSequencerBench",
            ("tiny_duplex", "tiny_duplex_attention_int8", "duplex")),
    _expert("expert_softmax", "softmax:GroupSoftmax", "expert_softmax:GroupSoftmaxBench", _ELEMENTS),
    Unit("host_link", _A + "link:HostLink", _B + "link:HostLinkBench", ("edge",)),
    Unit("counters", _A + "control.counters:Counters", _B + "registers:CountersBench", ("tiny",)),
    Unit("registers", _A + "control.registers:RegisterBlock", _B + "registers:RegisterBlockBench", ("tiny", "edge", "kv260")),
))


def unit(name: str, also: Collection[str] = ()) -> Unit:
    """The unit called ``name``; ``ValueError`` with the known names otherwise, and with those that the caller takes ``also``."""
    try:
        return UNITS[name]
    except KeyError:
        raise unknown_name("unit", name, (*UNITS, *also)) from None


def build(unit_or_name: Unit | str, config: Configuration) -> wiring.Component:
    """The component of a unit for ``config``."""
    entry = unit(unit_or_name) if isinstance(unit_or_name, str) else unit_or_name
    return load(entry.component).for_config(config)


def emit_unit(unit_or_name: Unit | str, config: Configuration) -> Emitted:
    """Verilog and sidecar of a unit for ``config``."""
    entry = unit(unit_or_name) if isinstance(unit_or_name, str) else unit_or_name
    return emit(build(entry, config), entry.name, config)
