"""Which parameters an accelerator can have, together and each alone: refused, never repaired."""

from typing import TYPE_CHECKING

from .checks import check_int, check_name
from .kv_records import KV_STORAGES

if TYPE_CHECKING:
    from .config import AcceleratorConfig

__all__ = ["CACHES", "ONE_CHUNK", "UNIFIED_BITS", "check_rules"]

CACHES = ("contiguous", "window", "paged", "evict")
"""Controllers of the KV cache that an accelerator can have."""

ONE_CHUNK = ("paged", "evict")
"""Those with which one chunk of tokens is in flight at a time."""

ACCUMULATOR_BITS = 57
"""Widest sums of attention: what models in 64 bits hold with their shifts."""

UNIFIED_BITS = 23
"""Probability bits that a unified maximum leaves: it is as exact as a running maximum with so many."""


def check_rules(config: "AcceleratorConfig") -> None:
    """Refuse a configuration that breaks a rule: the first one that it breaks.

    Raises ``TypeError`` or ``ValueError``.
    """
    check_name(config.name)
    check_int("bus_bits", config.bus_bits, 32, 512, power_of_two=True)
    check_int("vector_lanes", config.vector_lanes, 2, 64, power_of_two=True)
    if config.bus_bits % (16 * config.vector_lanes):
        raise ValueError(f"16 * vector_lanes must divide bus_bits, not {16 * config.vector_lanes} "
                         f"and {config.bus_bits}")
    check_int("memory_ports", config.memory_ports, 1, 8, power_of_two=True)
    if config.bus_bits < 32 * config.memory_ports:
        raise ValueError(f"bus_bits must be at least 32 * memory_ports, not {config.bus_bits} and {config.memory_ports} ports")
    check_int("token_lanes", config.token_lanes, 1, 64)
    check_int("chunks", config.chunks, 1, 2)
    check_int("group_size", config.group_size, 1, 5)
    check_int("tables", config.tables, 1, 256)
    check_int("table_rows", config.table_rows, 1, config.vector_lanes, power_of_two=True)
    check_int("buffer_tokens", config.buffer_tokens, 1, config.vector_lanes)
    if config.vector_lanes % config.buffer_tokens or config.tile_activations % config.buffer_tokens:
        raise ValueError(f"buffer_tokens must divide vector_lanes {config.vector_lanes} and group_size * tables "
                         f"{config.tile_activations}, not {config.buffer_tokens}")
    check_int("multiplier_bits", config.multiplier_bits, 18, 27, multiple_of=9)
    check_int("query_lanes", config.query_lanes, 1, 64)
    check_int("row_cycles", config.row_cycles, 0, 64)
    if config.row_cycles == 1 or (config.row_cycles and config.cache == "evict"):
        raise ValueError(f"row_cycles must be 0 or at least 2, the fewest beats of a K/V record, and with cache = 'evict' 0, not "
                         f"{config.row_cycles} with {config.cache!r}")
    for name, least in (("kv_bits", 8), ("head_bits", 4), ("head_activation_bits", 8)):
        check_int(name, getattr(config, name), least, 16, power_of_two=True)
    check_int("embedding_bits", config.embedding_bits, 16, 32, power_of_two=True)
    check_int("logit_frac_bits", config.logit_frac_bits, 8, 16)
    check_int("probability_bits", config.probability_bits, 12, 26)
    check_int("exp_segments", config.exp_segments, 8, 256, power_of_two=True)
    if config.exp_segments >= 1 << config.logit_frac_bits:
        raise ValueError(f"exp_segments must be below 2**logit_frac_bits, not {config.exp_segments}")
    check_int("max_vector", config.max_vector, max(config.tile_activations, config.vector_lanes), 1 << 17,
              multiple_of=config.vector_lanes)
    check_int("max_block_rows", config.max_block_rows, 8 * config.table_rows, 1 << 16,
              multiple_of=config.table_rows)
    check_int("vector_memory", config.vector_memory, 4 * config.vector_lanes, min(1 << 18, config.vector_lanes << 16),
              multiple_of=config.vector_lanes)
    check_int("max_head_dim", config.max_head_dim, 2 * config.vector_lanes, 1 << 10,
              multiple_of=2 * config.vector_lanes)
    check_int("max_context", config.max_context, 2, (1 << 20) - 1)
    if config.max_context * config.max_record_beats >= 1 << 24:
        raise ValueError(f"max_context times the beats of the largest K/V record must be below 2**24, not "
                         f"{config.max_context} times {config.max_record_beats}")
    if config.accumulator_bits > ACCUMULATOR_BITS:
        raise ValueError(f"probability_bits + kv_bits + bit_length(max_context) must be at most {ACCUMULATOR_BITS}, not "
                         f"{config.accumulator_bits}")
    check_int("max_vocab", config.max_vocab, 2, 1 << 20)
    check_int("prefetch_beats", config.prefetch_beats, 16, 1 << 16, power_of_two=True)
    check_int("data_beats", config.data_beats, 16, 1 << 16, power_of_two=True)
    check_int("top_k", config.top_k, 1, 64)
    check_int("max_heads", config.max_heads, 1, 128, power_of_two=True)
    if config.cache not in CACHES:
        raise ValueError(f"cache must be one of {', '.join(CACHES)}, not {config.cache!r}")
    check_int("sequences", config.sequences, 2, 64)
    check_int("block_size", config.block_size, 1, 1024, power_of_two=True)
    if config.cache == "paged" and not (config.chunks == 1 and config.block_size <= config.max_context < 1 << 18):
        raise ValueError(f"with cache = 'paged', chunks must be 1, and max_context at least block_size and below 2**18, not "
                         f"{config.chunks}, {config.max_context} and {config.block_size}")
    check_int("cache_heads", config.cache_heads, 2, 256)
    check_int("swap_slots", config.swap_slots, 0, 1 << 16)
    if config.swap_slots and (config.swap_slots < 2 or config.cache != "paged"):
        raise ValueError(f"swap_slots must be 0 or at least 2, and 0 unless cache is 'paged', not {config.swap_slots} with "
                         f"{config.cache!r}")
    if config.cache == "evict" and (config.chunks, config.kv_bits, config.max_context >= 8) != (1, 8, True):
        raise ValueError(f"with cache = 'evict', chunks must be 1, kv_bits 8 and max_context at least 8, not "
                         f"{config.chunks}, {config.kv_bits} and {config.max_context}")
    if config.kv_storage not in KV_STORAGES:
        alone = ": attention takes integers; fp16 records are for units alone (cache/fp16.py)" if config.kv_storage == "fp16" else ""
        raise ValueError(f"kv_storage must be one of {', '.join(KV_STORAGES)}, not {config.kv_storage!r}{alone}")
    if config.kv_storage == "int4" and config.kv_bits != 8:
        raise ValueError(f"with kv_storage = 'int4', kv_bits must be 8, not {config.kv_bits}")
    if not isinstance(config.attention_modes, bool):
        raise TypeError(f"attention_modes must be True or False, not {config.attention_modes!r}")
    if config.attention_modes and (config.cache != "window" or config.probability_bits < UNIFIED_BITS):
        raise ValueError(f"with attention_modes, cache must be 'window' and probability_bits at least {UNIFIED_BITS}, "
                         f"not {config.cache!r} and {config.probability_bits}")
    if not isinstance(config.selective_recompute, bool):
        raise TypeError(f"selective_recompute must be True or False, not {config.selective_recompute!r}")
    if config.selective_recompute and config.cache != "contiguous":
        raise ValueError(f"with selective_recompute, cache must be 'contiguous', not {config.cache!r}")
    if not isinstance(config.block_retrieval, bool):
        raise TypeError(f"block_retrieval must be True or False, not {config.block_retrieval!r}")
    if config.block_retrieval and (config.cache != "contiguous" or config.selective_recompute
                                   or config.block_size > config.max_context):
        raise ValueError(f"with block_retrieval, cache must be 'contiguous', selective_recompute False and block_size at most "
                         f"max_context, not {config.cache!r}, {config.selective_recompute}, {config.block_size} and "
                         f"{config.max_context}")
    if config.lane_bits < config.bus_bits:
        raise ValueError(f"the lookup lanes must keep up with the bus: index_bits * tables * table_rows must be "
                         f"at least bus_bits, not {config.lane_bits} and {config.bus_bits}")
