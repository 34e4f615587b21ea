"""That each registered unit keeps the rules of streams: as it is, with its smallest preset, or smaller."""

from collections.abc import Callable
from dataclasses import replace

from ...accelerators.cache.evict_scores import EvictScores
from ...accelerators.cache.similar import SimilarKey
from ...accelerators.presets import preset
from ...rtl_gen.registry import AT, UNITS, build
from .contract import StreamContract
from .evict import evict_streams

__all__ = ["BOUNDED", "FEWER", "INDUCTIVE", "SMALLER", "UNPROVED", "unit_contract"]

INDUCTIVE = (
    "burst_writer", "write_arbiter", "sdram_controller", "pow2_negative", "attention_scores", "attention_lane_table",
    "attention_row_splitter", "attention_softmax", "attention_mix", "attention_finish", "attention_merge", "fp16_packer",
    "fp16_splitter", "attention_part_packer", "attention_parting", "attention_reduce", "window_cache", "value_deviation", "top_share",
    "recompute_list", "block_scores", "block_retrieval", "record_merge", "attention_weights", "normalizer",
    "step_scale", "norm_quantize", "rope", "residual_add", "glu", "align", "embedding", "head", "sampler", "ternary_feeder",
    "ternary_table", "ternary_lanes", "ternary_direct", "ternary_accumulators", "expert_gemm", "expert_rounder", "expert_memory",
    "expert_streamer", "uart_receiver", "ternary_engine", "expert_activation", "expert_combine", "expert_router",
    "expert_selector", "expert_decoder", "expert_sequencer", "expert_softmax", "expert_unit", "attention",
    "attention_split",
    *(f"{unit} at tiny_short" for unit in ("attention_scores", "attention_lane_table", "attention_softmax", "attention_mix")),
)
"""Units proved by induction of two steps: the rule follows from the registers before the port, whatever stands in all others."""

BOUNDED = {"attention_joining": 10, "divider": 18, "square_root": 30, "scalar_unit": 10, "expert_coprocess": 92, "paged_cache": 18}
"""Units proved for so many cycles after reset: it takes states that cannot be reached to break the rule."""

_SIMILAR = replace(preset("tiny"), max_head_dim=4, max_context=8)
SMALLER: dict[str, tuple[Callable[[], StreamContract], int]] = {
    "executor": (lambda: unit_contract("executor", still=("magnitudes", "top_exponents", "inverse_temperature")), 15),
    "expert_queues": (lambda: unit_contract("expert_queues", still=("spaces",)), 22),
    "attention_part_unpacker": (lambda: unit_contract("attention_part_unpacker", still=("words",)), 10),
    "similar_key": (lambda: StreamContract(SimilarKey(_SIMILAR, 2), still=("beats", "words", "threshold")), 20),
    "evict_scores": (lambda: StreamContract(EvictScores(2, 4, 16)), 10),
    "evict_cache": (evict_streams, 26),
}
"""Proved likewise, of fewer places, or with plain inputs that stand still; of `evict_cache`, what searches and what merges says
nothing."""

_VECTORS = replace(preset("tiny"), chunks=2, token_lanes=3, vector_memory=8)
FEWER: dict[str, Callable[[], StreamContract]] = {
    "vector_memory": lambda: StreamContract(build("vector_memory", _VECTORS)),
}
"""Proved by induction of two steps, of fewer places: four words in each slot, of two chunks of two banks."""

UNPROVED = {
    **dict.fromkeys(("expert_core", "expert_attention", "expert_device"), "a whole of units that are proved"),
    **dict.fromkeys(("token_list", "block_means", "expert_dispatch", "host_link"),
                    "nothing comes out in the cycles that the solver can follow"),
}
"""Units whose streams no proof covers, and why: the protocol checker of their benches does."""


def unit_contract(name: str, **options) -> StreamContract:
    """Of a registered unit, with the smallest of its presets, or of ``UNIT at PRESET``."""
    name, _, chosen = name.partition(AT)
    unit = UNITS[name]
    return StreamContract(build(unit, unit.config(chosen or unit.presets[0])), **options)
