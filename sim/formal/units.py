"""That each registered unit keeps the rules of streams: as it is, with its smallest preset, or smaller."""

from collections.abc import Callable
from dataclasses import replace

from amaranth.lib import wiring

from ...accelerators.cache.evict_scores import EvictScores
from ...accelerators.presets import preset
from ...rtl_gen.registry import AT, UNITS, build
from .contract import StreamContract
from .evict import evict_streams
from .invariants import DeviceContract, HostLinkContract, TokenListContract

__all__ = ["BOUNDED", "FEWER", "INDUCTIVE", "KNOWN", "MORE_STEPS", "SMALLER", "UNPROVED", "unit_contract"]

INDUCTIVE = (
    "burst_writer", "write_arbiter", "sdram_controller", "pow2_negative", "attention_scores", "attention_lane_table",
    "attention_row_splitter", "attention_softmax", "attention_mix", "attention_finish", "attention_merge", "fp16_packer",
    "fp16_splitter", "attention_part_packer", "attention_parting", "attention_reduce", "window_cache", "paged_cache", "value_deviation",
    "top_share", "recompute_list", "block_means", "block_scores", "block_retrieval", "record_merge", "attention_weights", "normalizer",
    "step_scale", "norm_quantize", "rope", "residual_add", "glu", "align", "embedding", "head", "sampler", "ternary_feeder",
    "ternary_table", "ternary_lanes", "ternary_direct", "ternary_accumulators", "expert_gemm", "expert_rounder", "expert_memory",
    "expert_streamer", "uart_receiver", "ternary_engine", "expert_activation", "expert_combine", "expert_router",
    "expert_selector", "expert_decoder", "expert_sequencer", "expert_softmax", "expert_unit", "attention",
    "attention_split",
    *(f"{unit} at tiny_short" for unit in ("attention_scores", "attention_lane_table", "attention_softmax", "attention_mix")),
)
"""Units proved by induction of two steps: the rule follows from the registers before the port, whatever stands in all others."""

MORE_STEPS = {"registers": 3, "expert_coprocess": 5, "expert_dispatch": 5, "similar_key": 5}
"""Units proved by induction of so many steps: the pipelines before the port run empty in them."""

BOUNDED = {"attention_joining": 10, "divider": 18, "square_root": 30, "scalar_unit": 10}
"""Units proved for so many cycles after reset: it takes states that cannot be reached to break the rule."""

SMALLER: dict[str, tuple[Callable[[], StreamContract], int]] = {
    "executor": (lambda: unit_contract("executor", still=("magnitudes", "top_exponents", "inverse_temperature")), 15),
    "evict_scores": (lambda: StreamContract(EvictScores(2, 4, 16)), 10),
}
"""Proved likewise, of fewer places, or with plain inputs that stand still."""

_VECTORS = replace(preset("tiny"), chunks=2, token_lanes=3, vector_memory=8)
FEWER: dict[str, Callable[[], StreamContract]] = {
    "vector_memory": lambda: StreamContract(build("vector_memory", _VECTORS)),
    "evict_cache": evict_streams,
    "expert_queues": lambda: unit_contract("expert_queues", still=("spaces",)),
    "attention_part_unpacker": lambda: unit_contract("attention_part_unpacker", still=("words",)),
}
"""Proved by induction of two steps, of fewer places (four words in each slot, of two chunks of two banks; four rows of two heads), or
with plain inputs that stand still."""

KNOWN: dict[str, Callable[[], StreamContract]] = {
    "token_list": lambda: TokenListContract(_built("token_list")),
    "host_link": lambda: HostLinkContract(_built("host_link")),
    "expert_device": lambda: DeviceContract(_built("expert_device")),
}
"""Proved by induction of two steps, by contracts that also say, and prove, what is so in all states that can be reached, or take parts
for any that keep the rules."""

UNPROVED = dict.fromkeys(("expert_core", "expert_attention"), "a whole of units that are proved")
"""Units whose streams no proof covers, and why: the protocol checker of their benches does."""


def _built(name: str) -> wiring.Component:
    """A registered unit, with the smallest of its presets, or ``UNIT at PRESET``."""
    name, _, chosen = name.partition(AT)
    unit = UNITS[name]
    return build(unit, unit.config(chosen or unit.presets[0]))


def unit_contract(name: str, **options) -> StreamContract:
    """Of a registered unit, with the smallest of its presets, or of ``UNIT at PRESET``."""
    return StreamContract(_built(name), **options)
