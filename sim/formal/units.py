"""That each registered unit keeps the rules of streams: as it is, with its smallest preset, or smaller."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from amaranth.lib import wiring

from ...accelerators.presets import preset
from ...rtl_gen.registry import AT, UNITS, build
from .contract import StreamContract
from .core import CoreContract
from .evict import evict_streams
from .invariants import DeviceContract, HostLinkContract, TokenListContract
from .joining import JoiningContract
from .machines import DigitContract, ExecutorContract, FrontEndContract, ScalarContract, ScoresContract

__all__ = ["FEWER", "INDUCTIVE", "KNOWN", "MORE_STEPS", "known_contract", "unit_contract"]

INDUCTIVE = (
    "burst_writer", "write_arbiter", "sdram_controller", "pow2_negative", "attention_scores", "attention_lane_table",
    "attention_row_splitter", "attention_softmax", "attention_mix", "attention_finish", "attention_merge", "fp16_packer",
    "fp16_splitter", "attention_part_packer", "attention_parting", "attention_reduce", "window_cache", "paged_cache",
    "value_deviation", "top_share", "recompute_list", "block_means", "block_scores", "block_retrieval", "record_merge",
    "attention_weights", "similar_key", "normalizer", "step_scale", "norm_quantize", "rope", "residual_add", "glu", "align",
    "embedding", "head", "sampler", "ternary_feeder", "ternary_table", "ternary_lanes", "ternary_direct", "ternary_accumulators",
    "expert_gemm", "expert_rounder", "expert_memory", "expert_streamer", "uart_receiver", "ternary_engine", "expert_activation",
    "expert_combine", "expert_router", "expert_selector", "expert_decoder", "expert_sequencer", "expert_softmax", "expert_unit",
    "attention", "attention_split",
    *(f"{unit} at tiny_short" for unit in ("attention_scores", "attention_lane_table", "attention_softmax", "attention_mix")),
)
"""Units proved by induction of two steps: the rule follows from the registers before the port, whatever stands in all others."""

MORE_STEPS = {"registers": 3, "expert_coprocess": 5, "expert_dispatch": 5}
"""Units proved by induction of so many steps: the pipelines before the port run empty in them."""

_VECTORS = replace(preset("tiny"), chunks=2, token_lanes=3, vector_memory=8)
FEWER: dict[str, Callable[[], StreamContract]] = {
    "vector_memory": lambda: StreamContract(build("vector_memory", _VECTORS)),
    "evict_cache": evict_streams,
    "expert_queues": lambda: unit_contract("expert_queues", still=("spaces",)),
    "attention_part_unpacker": lambda: unit_contract("attention_part_unpacker", still=("words",)),
}
"""Proved by induction of two steps, of fewer places (four words in each slot, of two chunks of two banks; four rows of two heads), or
with plain inputs that stand still."""

KNOWN: dict[str, tuple[Callable[[Any], StreamContract], int]] = {
    "token_list": (TokenListContract, 2), "host_link": (HostLinkContract, 2), "expert_device": (DeviceContract, 2),
    "divider": (DigitContract, 2), "square_root": (DigitContract, 2), "scalar_unit": (ScalarContract, 2),
    "attention_joining": (JoiningContract, 2),
    "evict_scores": (ScoresContract, 5), "executor": (ExecutorContract, 2), "front_end": (FrontEndContract, 2),
    "batch_front_end": (FrontEndContract, 2),
    "batch_front_end at tiny_swap": (FrontEndContract, 4),
    **{f"front_end at {name}": (FrontEndContract, 2) for name in UNITS["front_end"].presets[1:]},
    **{f"executor at {name}": (ExecutorContract, 3) for name in UNITS["executor"].presets[1:]},
    "expert_core": (CoreContract, 3), "expert_attention": (CoreContract, 4),
}
"""Proved by induction of so many steps, by contracts that also say, and prove, what is so in all states that can be reached, or take
parts for any that keep the rules."""


def _built(name: str) -> wiring.Component:
    """A registered unit, with the smallest of its presets, or ``UNIT at PRESET``."""
    name, _, chosen = name.partition(AT)
    unit = UNITS[name]
    return build(unit, unit.config(chosen or unit.presets[0]))


def unit_contract(name: str, **options) -> StreamContract:
    """Of a registered unit, with the smallest of its presets, or of ``UNIT at PRESET``."""
    return StreamContract(_built(name), **options)


def known_contract(name: str) -> StreamContract:
    """Of one of ``KNOWN``."""
    return KNOWN[name][0](_built(name))
