"""Layouts and widths that the parts of the attention unit share (``docs/attention.md``)."""

from typing import Any

from amaranth.hdl import signed
from amaranth.lib import data, stream
from amaranth.lib.wiring import In, Member, Out

from ..config import AcceleratorConfig
from ..integers import bits_for_magnitude, ceil_div
from ..numerics import SCALAR

__all__ = ["EXPONENT", "HEADER", "SCALE16", "WEIGHT_BITS", "beat_numbers", "command_layout", "dot_bits", "dot_layout",
           "lane_layout", "max_beats", "mixed_layout", "modes_layout", "part_streams", "partial_layout",
           "query_layout", "result_layout", "row_sum_bits", "score_layout", "side_by_side", "state_layout", "total_layout",
           "ways_of", "weight_drops", "weight_layout"]

WEIGHT_BITS = 17
"""Width of the factor that multiplies a V element: an 18-bit signed multiplier takes it."""

SCALE16 = data.StructLayout({"mantissa": 16, "exponent": signed(16)})
"""Scale of a stored K or V vector: mantissa with its top bit set, or 0."""

HEADER = data.StructLayout({"key": SCALE16, "value": SCALE16})
"""Header of a row record: 64 bits."""

EXPONENT = data.StructLayout({"exponent": signed(16)})
"""Exponent of a lane's result."""


def max_beats(config: AcceleratorConfig) -> int:
    """Beats of the longest K (or V) vector."""
    return ceil_div(config.max_head_dim, config.kv_lanes)


def beat_numbers(config: AcceleratorConfig) -> range:
    """Numbers of the beats of a K (or V) vector, for a counter of one bit at least."""
    return range(max(max_beats(config), 2))


def side_by_side(config: AcceleratorConfig, item: data.StructLayout) -> data.Layout:
    """Payload of ``softmax_ways`` items of lanes next to each other; a single one is just that."""
    return item if config.softmax_ways == 1 else data.ArrayLayout(item, config.softmax_ways)


def ways_of(config: AcceleratorConfig, payload: data.View) -> list[Any]:
    """The items in a payload of ``side_by_side``."""
    return [payload] if config.softmax_ways == 1 else [payload[way] for way in range(config.softmax_ways)]


def dot_bits(config: AcceleratorConfig) -> int:
    """Width of the dot product of a query and a key."""
    return bits_for_magnitude(config.max_head_dim << (2 * config.kv_bits - 2))


def row_sum_bits(config: AcceleratorConfig) -> int:
    """Width of a sum of ``max_context`` probabilities."""
    return config.probability_bits + config.max_context.bit_length()


def modes_layout(config: AcceleratorConfig) -> dict[str, Any]:
    """With ``attention_modes``: is the maximum unified, which integer is it, are the lanes merged with parts given, do partial
    results leave."""
    return {"unified": 1, "phi": signed(13), "merge": 1, "partial": 1} if config.attention_modes else {}


def command_layout(config: AcceleratorConfig) -> data.StructLayout:
    """One operation: lanes, rows, beats of K (= of V) per row, V-words per head; all at least 1. With ``attention_runs`` one run
    of rows of an operation, and whether it is the first one and the last one; with ``attention_modes`` how it is done."""
    runs = {"begins": 1, "ends": 1} if config.attention_runs else {}
    return data.StructLayout({"lanes": range(config.query_lanes + 1), "rows": range(config.max_context + 1),
                              "beats": 16, "words": 16, **runs, **modes_layout(config)})


def lane_layout(config: AcceleratorConfig) -> data.StructLayout:
    """Scale of a lane's query times log2(e) / sqrt(head_dim); the lane sees rows ``0 .. limit - 1``, with ``attention_runs``
    rows ``start .. limit - 1`` of the run."""
    rows = range(config.max_context + 1)
    return data.StructLayout({"scale": SCALAR, **({"start": rows} if config.attention_runs else {}), "limit": rows})


def query_layout(config: AcceleratorConfig) -> data.StructLayout:
    return data.StructLayout({"q": data.ArrayLayout(signed(config.kv_bits), config.vector_lanes), "last": 1})


def dot_layout(config: AcceleratorConfig) -> data.Layout:
    """Dot products of a group of lanes, mostly of one lane; ``last`` on the last lane or group of a row."""
    return side_by_side(config, data.StructLayout({"dot": signed(dot_bits(config)), "last": 1}))


def score_layout(config: AcceleratorConfig) -> data.StructLayout:
    """What the softmax needs about one (row, lane): ``first`` on row 0, ``final`` on the last row,
    ``visible`` if the lane sees the row, ``last`` on the last lane of a row; with ``attention_modes`` those of the command. Where lanes
    go side by side, ``lane`` is the number of their group, and those that are not in use are not ``present``: they see nothing."""
    ways = config.softmax_ways
    return data.StructLayout({
        "dot": signed(dot_bits(config)), "lane": range(max(ceil_div(config.query_lanes, ways), 2)), "query": SCALE16,
        "key": SCALE16, "value": SCALE16, "visible": 1, "first": 1, "final": 1, "last": 1, **({"present": 1} if ways > 1 else {}),
        **modes_layout(config)})


def weight_drops(config: AcceleratorConfig) -> tuple[int, ...]:
    """Low bits that weights drop, by range: none up to 16 probability bits, else three ranges."""
    drop = config.probability_bits - WEIGHT_BITS + 1
    return (0, drop // 2 + 1, drop) if drop > 0 else (0,)


def weight_layout(config: AcceleratorConfig) -> data.StructLayout:
    """Weight of one (row, lane): ``factor``, times ``2**weight_drops(config)[coarse]``; ``shift``
    moves the lane's accumulators first, 32 clears them. ``last`` on the last lane of a row."""
    return data.StructLayout({"factor": WEIGHT_BITS, "coarse": max(1, len(weight_drops(config)) - 1), "shift": 6, "last": 1})


def total_layout(config: AcceleratorConfig) -> data.StructLayout:
    """End state of one lane: sum of its probabilities, exponent of its weights; not ``defined``: result 0."""
    return data.StructLayout({"sum": row_sum_bits(config), "exponent": signed(16), "defined": 1})


def partial_layout(config: AcceleratorConfig) -> data.StructLayout:
    """``total_layout`` with the integer ``maximum`` of the logits that the sum refers to; a sum of 0 is a lane that saw no row."""
    return data.StructLayout({**total_layout(config).members, "maximum": signed(16)})


def state_layout(config: AcceleratorConfig) -> data.StructLayout:
    """What the softmax gives of a lane: ``total_layout``, with ``attention_modes`` ``partial_layout``, whether it is to be merged with
    a part given, and whether it is to leave as one."""
    modes = {"merge": 1, "partial": 1}
    return data.StructLayout({**partial_layout(config).members, **modes}) if config.attention_modes else total_layout(config)


def mixed_layout(config: AcceleratorConfig) -> data.StructLayout:
    """Weighted sums of one V-word; ``last`` on the last word of a lane."""
    return data.StructLayout({"sums": data.ArrayLayout(signed(config.accumulator_bits), config.vector_lanes),
                              "last": 1})


def part_streams(side: str, config: AcceleratorConfig) -> dict[str, Member]:
    """Members ``i_part`` and ``i_sums`` (``side`` "i"), or ``o_part`` and ``o_sums`` ("o"): the state of each lane, and behind it its
    weighted sums."""
    flow, layouts = {"i": In, "o": Out}[side], {"part": partial_layout(config), "sums": mixed_layout(config)}
    return {f"{side}_{name}": flow(stream.Signature(layout)) for name, layout in layouts.items()}


def result_layout(config: AcceleratorConfig) -> data.StructLayout:
    """One V-word of a lane's result; ``last`` on the last one."""
    return data.StructLayout({"x": data.ArrayLayout(signed(32), config.vector_lanes), "last": 1})
