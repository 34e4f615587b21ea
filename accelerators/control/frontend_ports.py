"""Ports of the front end."""

from amaranth.lib import data, stream
from amaranth.lib.wiring import In, Member, Out

from ..cache.mover import move_layout
from ..cache.paged_formats import copy_layout
from ..cache.similar import THRESHOLD_BITS
from ..cache.token_list import token_list_item
from ..config import POSITION_BITS, TOKEN_BITS, AcceleratorConfig
from .operation import operation_layout
from .retrieval import list_layout
from .rows import rows_layout

__all__ = ["BURST", "WEIGHTS", "ports", "settings", "token_layout"]

BURST = data.StructLayout({"address": 32, "beats": 24})
WEIGHTS = data.StructLayout({"address": 32, "beats": 24, "head": 1})
"""A matrix to read: for the ternary engine, or for the LM head."""


def token_layout() -> data.StructLayout:
    """A generated token, the largest logit (integer units), and whether it is the final one. Of a list of tokens, number and position.
    """
    return data.StructLayout({"token": 32, "value": 64, "last": 1})


def settings(config: AcceleratorConfig) -> dict[str, int]:
    """Inputs that come from registers of the same names: name -> width."""
    widths = {
        "stop": 1, "program_address": 32, "prompt_address": 32, "prompt_length": TOKEN_BITS, "start_position": TOKEN_BITS,
        "max_new_tokens": TOKEN_BITS, "eos_token": TOKEN_BITS, "ignore_eos": 1, "kv_capacity": TOKEN_BITS, "kv_record_beats": 16,
        "kv_head_stride": 32,
    }
    if config.cache in ("window", "evict"):
        widths |= dict.fromkeys(("kv_sinks", "kv_window", "kv_positions"), POSITION_BITS)
    return widths | ({"kv_threshold": THRESHOLD_BITS} if config.cache == "evict" else {})


def ports(config: AcceleratorConfig) -> dict[str, Member]:
    """Members of a ``FrontEnd``, which says what they are."""
    bits = config.bus_bits
    runs: dict = {"o_rows": Out(stream.Signature(rows_layout(config)))} if config.attention_runs else {}
    if config.cache == "paged":
        runs |= {"o_record": Out(stream.Signature(BURST)), "program_done": In(1),
                 "kv_free_blocks": Out(range(config.blocks + 1)),
                 "o_copy": Out(stream.Signature(copy_layout(config.blocks, config.block_size)))}
    if config.swap_slots:
        runs |= {"o_move": Out(stream.Signature(move_layout(config.swap_rows))),
                 "i_moved": In(stream.Signature(data.StructLayout({"error": 1}))),
                 **{name: Out(32) for name in ("rows_out", "rows_in", "clean_blocks")}}
    return {
        "start": In(1), **{name: In(width) for name, width in settings(config).items()}, **runs,
        "o_program": Out(stream.Signature(BURST)),
        "i_program": In(stream.Signature(data.StructLayout({"data": bits, "last": 1}))),
        "o_weights": Out(stream.Signature(WEIGHTS)),
        "o_data": Out(stream.Signature(BURST)),
        "o_operation": Out(stream.Signature(operation_layout(config))),
        "append_done": In(1), **({"attended": In(1), "passed": In(1)} if config.attention_modes else {}),
        "i_token": In(stream.Signature(data.StructLayout({"token": 32, "value": 64}))),
        **({"i_list": In(stream.Signature(token_list_item(config)))} if config.selective_recompute else {}),
        **({"i_blocks": In(stream.Signature(list_layout(config)))} if config.block_retrieval else {}),
        "o_token": Out(stream.Signature(token_layout())),
        "busy": Out(1), "done": Out(1),
        "error": Out(8), "error_info": Out(32),
        "position": Out(TOKEN_BITS), "generated": Out(TOKEN_BITS),
    }
