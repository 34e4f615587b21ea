"""Configurations: every rule refuses with its message, JSON round trip, derived widths, presets."""

import json
import re
from dataclasses import asdict, fields, replace

import pytest
from llmrtl.accelerators.checks import check_int
from llmrtl.accelerators.config import AcceleratorConfig
from llmrtl.accelerators.integers import bits_for_magnitude, ceil_div
from llmrtl.accelerators.model_shape import ModelShape
from llmrtl.accelerators.presets import PRESETS, preset, with_cache
from llmrtl.rtl_gen.registry import UNITS

TINY = preset("tiny")
MODEL = ModelShape(hidden_size=192, intermediate_size=512, layers=4, heads=6, kv_heads=2, head_dim=32, vocab_size=1024,
                   max_context=256, rope_theta=10000.0, rms_norm_eps=1e-5, activation="relu2", sub_norms=True, tied=True)


@pytest.mark.parametrize(("change", "message"), [
    ({"name": "../tiny"}, "name must be made of letters, digits, '_', '-', '.' and start with one of the first two, "
                          "not '../tiny'"),
    ({"bus_bits": 16}, "bus_bits must be in 32..512, not 16"),
    ({"bus_bits": 1024}, "bus_bits must be in 32..512, not 1024"),
    ({"bus_bits": 96}, "bus_bits must be a power of two, not 96"),
    ({"vector_lanes": 1}, "vector_lanes must be in 2..64, not 1"),
    ({"vector_lanes": 6}, "vector_lanes must be a power of two, not 6"),
    ({"vector_lanes": 4}, "16 * vector_lanes must divide bus_bits, not 64 and 32"),
    ({"token_lanes": 0}, "token_lanes must be in 1..64, not 0"),
    ({"group_size": 6}, "group_size must be in 1..5, not 6"),
    ({"tables": 257}, "tables must be in 1..256, not 257"),
    ({"max_vector": 529}, "max_vector must be a multiple of 2, not 529"),
    ({"memory_ports": 3}, "memory_ports must be a power of two, not 3"),
    ({"memory_ports": 2}, "bus_bits must be at least 32 * memory_ports, not 32 and 2 ports"),
    ({"chunks": 3}, "chunks must be in 1..2, not 3"),
    ({"data_beats": 8}, "data_beats must be in 16..65536, not 8"),
    ({"table_rows": 4}, "table_rows must be in 1..2, not 4"),
    ({"query_lanes": 65}, "query_lanes must be in 1..64, not 65"),
    ({"kv_bits": 4}, "kv_bits must be in 8..16, not 4"),
    ({"head_bits": 12}, "head_bits must be a power of two, not 12"),
    ({"head_activation_bits": 32}, "head_activation_bits must be in 8..16, not 32"),
    ({"embedding_bits": 8}, "embedding_bits must be in 16..32, not 8"),
    ({"logit_frac_bits": 7}, "logit_frac_bits must be in 8..16, not 7"),
    ({"probability_bits": 27}, "probability_bits must be in 12..26, not 27"),
    ({"exp_segments": 24}, "exp_segments must be a power of two, not 24"),
    ({"exp_segments": 256, "logit_frac_bits": 8}, "exp_segments must be below 2**logit_frac_bits, not 256"),
    ({"max_vector": 23}, "max_vector must be in 24..131072, not 23"),
    ({"max_block_rows": 7}, "max_block_rows must be in 8..65536, not 7"),
    ({"max_block_rows": 255, "table_rows": 2}, "max_block_rows must be a multiple of 2, not 255"),
    ({"vector_memory": 6}, "vector_memory must be in 8..131072, not 6"),
    ({"vector_memory": 1 << 18}, "vector_memory must be in 8..131072, not 262144"),
    ({"vector_memory": 4095}, "vector_memory must be a multiple of 2, not 4095"),
    ({"max_head_dim": 2}, "max_head_dim must be in 4..1024, not 2"),
    ({"max_head_dim": 66}, "max_head_dim must be a multiple of 4, not 66"),
    ({"max_context": 1}, "max_context must be in 2..1048575, not 1"),
    ({"max_context": 1 << 20}, "max_context must be in 2..1048575, not 1048576"),
    ({"max_context": 493448}, "max_context times the beats of the largest K/V record must be below 2**24, not 493448 times 34"),
    ({"max_vocab": 1}, "max_vocab must be in 2..1048576, not 1"),
    ({"prefetch_beats": 8}, "prefetch_beats must be in 16..65536, not 8"),
    ({"prefetch_beats": 100}, "prefetch_beats must be a power of two, not 100"),
    ({"top_k": 65}, "top_k must be in 1..64, not 65"),
    ({"max_heads": 12}, "max_heads must be a power of two, not 12"),
    ({"max_heads": 256}, "max_heads must be in 1..128, not 256"),
    ({"tables": 6}, "the lookup lanes must keep up with the bus: index_bits * tables * table_rows must be at least bus_bits, "
                    "not 30 and 32"),
])
def test_refused_configurations(change, message):
    with pytest.raises(ValueError) as caught:
        replace(TINY, **change)
    assert str(caught.value) == message


def test_every_number_must_be_an_integer():
    for field in fields(AcceleratorConfig):
        if field.type is int:
            for value in (2.0, "2", None, True):
                with pytest.raises(TypeError) as caught:
                    replace(TINY, **{field.name: value})
                assert str(caught.value) == f"{field.name} must be an integer, not {value!r}"


@pytest.mark.parametrize(("change", "message"), [
    ({"hidden_size": 3}, "hidden_size must be in 4..65536, not 3"),
    ({"intermediate_size": 1 << 18}, "intermediate_size must be in 4..131072, not 262144"),
    ({"layers": 0}, "layers must be in 1..1024, not 0"),
    ({"heads": 0}, "heads must be in 1..1024, not 0"),
    ({"kv_heads": 7}, "kv_heads must be in 1..6, not 7"),
    ({"kv_heads": 4}, "heads must be a multiple of kv_heads, not 6 and 4"),
    ({"head_dim": 31}, "head_dim must be a multiple of 2, not 31"),
    ({"vocab_size": 1}, "vocab_size must be in 2..1048576, not 1"),
    ({"max_context": 0}, "max_context must be in 1..1048576, not 0"),
    ({"rope_theta": 0.0}, "rope_theta must be positive and finite, not 0.0"),
    ({"rope_theta": float("inf")}, "rope_theta must be positive and finite, not inf"),
    ({"rms_norm_eps": 1.0}, "rms_norm_eps must be in [0, 1), not 1.0"),
    ({"rms_norm_eps": -1e-9}, "rms_norm_eps must be in [0, 1), not -1e-09"),
    ({"activation": "gelu"}, "activation must be 'relu2' or 'silu', not 'gelu'"),
])
def test_refused_models(change, message):
    with pytest.raises(ValueError) as caught:
        replace(MODEL, **change)
    assert str(caught.value) == message


def test_nan_is_refused():
    for name in ("rope_theta", "rms_norm_eps"):
        with pytest.raises(ValueError, match=f"{name} must be"):
            replace(MODEL, **{name: float("nan")})


@pytest.mark.parametrize("each", [TINY, MODEL, *PRESETS.values()])
def test_json_round_trip(each):
    assert type(each).from_json(json.loads(json.dumps(each.to_json()))) == each
    # Left out at their default, so that the hashes of older configurations stay.
    later = {"cache": "contiguous", "sequences": 4, "block_size": 16, "kv_storage": "int", "attention_modes": False,
             "cache_heads": 16, "swap_slots": 0, "selective_recompute": False, "block_retrieval": False,
             "row_cycles": 0}
    assert each.to_json().items() == asdict(each).items() - later.items()
    with pytest.raises(ValueError, match=f"^{type(each).__name__} has no parameter 'bus_width'$"):
        type(each).from_json({**each.to_json(), "bus_width": 64})


def test_from_json_checks_too():
    with pytest.raises(ValueError, match="bus_bits must be a power of two"):
        AcceleratorConfig.from_json({**TINY.to_json(), "bus_bits": 40})


def test_cache_is_one_that_there_is():
    for value in ("ring", "", 2, None):
        with pytest.raises(ValueError, match=f"cache must be one of contiguous, window, paged, evict, not {value!r}"):
            replace(TINY, cache=value)
    for options in ({"chunks": 2}, {"block_size": 1024}):
        with pytest.raises(ValueError, match="with cache = 'paged', chunks must be 1, and max_context at least block_size"):
            replace(TINY, cache="paged", **options)
    for options in ({"chunks": 2}, {"kv_bits": 16}, {"max_context": 7}):
        with pytest.raises(ValueError, match="with cache = 'evict', chunks must be 1, kv_bits 8 and max_context"):
            replace(TINY, cache="evict", **options)
    pair = preset("kv260")
    assert [with_cache(pair, cache).chunks for cache in ("contiguous", "window", "paged", "evict")] == [2, 2, 1, 1]
    with pytest.raises(ValueError, match=r"cache_heads must be in 2\.\.256, not 1"):
        replace(TINY, cache_heads=1)


@pytest.mark.parametrize(("cache", "slots"), [("paged", 1), ("contiguous", 16), ("window", 16)])
def test_swapping_needs_a_paged_cache(cache, slots):
    with pytest.raises(ValueError, match="swap_slots must be 0 or at least 2, and 0 unless cache is 'paged', not"):
        replace(TINY, cache=cache, swap_slots=slots)


def test_storage_is_one_that_there_is():
    for value in ("int8", "", 4, None):
        with pytest.raises(ValueError, match=f"^kv_storage must be one of int, int4, not {value!r}$"):
            replace(TINY, kv_storage=value)
    with pytest.raises(ValueError, match=r"^kv_storage must be one of int, int4, not 'fp16': attention takes integers; fp16 records "
                                         r"are for units alone \(cache/fp16\.py\)$"):
        replace(TINY, kv_storage="fp16")
    with pytest.raises(ValueError, match=r"^with kv_storage = 'int4', kv_bits must be 8, not 16$"):
        replace(TINY, kv_storage="int4", kv_bits=16)


def test_attention_modes_need_a_window_and_fraction_bits():
    modes = replace(preset("tiny_modes"))
    assert modes.attention_runs and (modes.unified_window, modes.accumulator_bits) == (3, 26 + 8 + 10)
    for options in ({"cache": "contiguous"}, {"cache": "paged"}, {"cache": "evict"}, {"probability_bits": 22}):
        with pytest.raises(ValueError, match="with attention_modes, cache must be 'window' and probability_bits at least"):
            replace(modes, **options)
    with pytest.raises(TypeError, match="attention_modes must be True or False, not 1"):
        replace(modes, attention_modes=1)


def test_selective_recompute_needs_a_contiguous_cache():
    assert preset("tiny_recompute") == replace(preset("tiny"), name="tiny_recompute", selective_recompute=True)
    for cache in ("window", "paged", "evict"):
        with pytest.raises(ValueError, match=f"^with selective_recompute, cache must be 'contiguous', not '{cache}'$"):
            replace(preset("tiny_recompute"), cache=cache, max_context=256)
    with pytest.raises(TypeError, match=r"^selective_recompute must be True or False, not 1$"):
        replace(TINY, selective_recompute=1)


def test_block_retrieval_needs_a_contiguous_cache():
    ours = preset("tiny_retrieval")
    assert ours == replace(preset("tiny"), name="tiny_retrieval", block_retrieval=True, block_size=8, max_context=256)
    assert ours.attention_runs
    for options in ({"cache": "window"}, {"cache": "paged"}, {"cache": "evict"}, {"selective_recompute": True}, {"block_size": 512}):
        with pytest.raises(ValueError, match=r"^with block_retrieval, cache must be 'contiguous', selective_recompute False and "
                                             r"block_size at most max_context, not "):
            replace(ours, **options)
    with pytest.raises(ValueError, match="with attention_modes, cache must be 'window' and probability_bits at least"):
        replace(ours, attention_modes=True, probability_bits=24)
    with pytest.raises(TypeError, match=r"^block_retrieval must be True or False, not 1$"):
        replace(TINY, block_retrieval=1)


@pytest.mark.parametrize(("lanes", "cycles", "ways", "least"), [
    (4, 0, 1, 3), (4, 4, 1, 3), (4, 64, 1, 3), (4, 3, 2, 3), (4, 2, 2, 2), (1, 2, 1, 2), (5, 2, 3, 2), (7, 4, 2, 3), (7, 3, 4, 3),
    (12, 5, 3, 3), (64, 2, 32, 2)])
def test_lanes_side_by_side(lanes, cycles, ways, least):
    """So many that all take at most ``row_cycles`` cycles, and that they divide the half of lanes that the value mix serves at once."""
    config = replace(TINY, query_lanes=lanes, row_cycles=cycles)
    assert (config.softmax_ways, config.least_row_cycles) == (ways, least)
    assert config.mix_lanes % ways == 0 and (cycles == 0 or ceil_div(lanes, ways) <= cycles)


def test_row_cycles_are_beats():
    for value, cache in ((1, "contiguous"), (2, "evict"), (4, "evict")):
        with pytest.raises(ValueError, match=f"^row_cycles must be 0 or at least 2, the fewest beats of a K/V record, and with cache = "
                                             f"'evict' 0, not {value} with '{cache}'$"):
            replace(TINY, row_cycles=value, cache=cache, max_context=256)
    for value in (-1, 65):
        with pytest.raises(ValueError, match=rf"^row_cycles must be in 0\.\.64, not {value}$"):
            replace(TINY, row_cycles=value)


def test_sums_of_attention_have_at_most_57_bits():
    widest = replace(TINY, kv_bits=16, probability_bits=24, max_context=(1 << 17) - 1)
    assert widest.accumulator_bits == 57
    with pytest.raises(ValueError, match=r"probability_bits \+ kv_bits \+ bit_length\(max_context\) must be at most 57, not 58"):
        replace(widest, max_context=1 << 17)


def test_frozen_and_hashable():
    with pytest.raises(AttributeError):
        TINY.bus_bits = 64
    assert len({TINY, replace(TINY), replace(TINY, token_lanes=1)}) == 2


def test_derived_widths_of_tiny():
    assert (TINY.bus_bytes, TINY.tile_activations, TINY.table_entries, TINY.index_bits, TINY.lane_bits) == (4, 24, 14, 5, 40)
    assert TINY.sum_bits == bits_for_magnitude(127 * 528) == 18
    assert (TINY.kv_lanes, TINY.max_record_beats) == (4, 2 + 2 * 16)
    int4 = preset("tiny_int4")
    assert (TINY.kv_beat_bits, int4.kv_lanes, int4.kv_beat_bits, int4.max_record_beats) == (32, 8, 64, 2 + 2 * 8)


@pytest.mark.parametrize("group_size", range(1, 6))
def test_index_holds_every_trit_group(group_size):
    config = replace(TINY, group_size=group_size, tables=32, max_vector=1024)
    assert 2 * config.table_entries - 1 == 3 ** group_size
    assert 1 << config.index_bits - 1 >= config.table_entries > 1 << config.index_bits - 2


def test_sums_fit():
    for config in PRESETS.values():
        largest = 127 * config.max_vector
        assert -(1 << config.sum_bits - 1) <= -largest and largest < 1 << config.sum_bits - 1


def test_logits_fit_48_bits():
    for bits in ((8, 8), (16, 8), (8, 16), (16, 16)):
        config = replace(preset("edge"), head_bits=bits[0], head_activation_bits=bits[1], max_vector=1 << 17)
        worst = config.head_sum_magnitude * 0xFFFF >> config.head_shift
        assert worst < 1 << 47
        assert config.head_shift == 0 or 2 * worst + 1 >= 1 << 47, "more bits are dropped than needed"


def test_model_parameters():
    assert MODEL.group == 3
    assert MODEL.ternary_parameters == 4 * (192 * 32 * 16 + 3 * 192 * 512)
    gains = 4 * (2 * 192 + 6 * 32 + 512) + 192
    assert MODEL.parameters == MODEL.ternary_parameters + gains + 1024 * 192
    assert replace(MODEL, tied=False).parameters == MODEL.parameters + 1024 * 192
    assert replace(MODEL, sub_norms=False).parameters == MODEL.parameters - 4 * (6 * 32 + 512)


def test_presets():
    assert {"tiny", "edge"} <= PRESETS.keys()
    for name, config in PRESETS.items():
        assert config.name == name and preset(name) is config
    with pytest.raises(ValueError) as caught:
        preset("huge")
    assert str(caught.value) == f"preset must be one of {', '.join(sorted(PRESETS))}, not 'huge'"


def test_a_preset_with_other_parameters(tmp_path):
    file = tmp_path / "mine.json"
    file.write_text('{"preset": "kv260", "row_cycles": 2}')
    assert preset(str(file)) == replace(preset("kv260"), name="mine", row_cycles=2)
    file.write_text('{"preset": "kv260", "name": "ours", "chunks": 1}')
    assert preset(str(file)) == replace(preset("kv260"), name="ours", chunks=1)
    file.write_text(json.dumps(asdict(TINY) | {"name": "whole"}))
    assert preset(str(file)) == replace(TINY, name="whole")
    assert UNITS["attention"].config(str(file)) == preset(str(file))
    with pytest.raises(ValueError, match=r"preset must be one of duplex, .*, not '.*mine\.json'"):
        UNITS["expert_gemm"].config(str(file))


@pytest.mark.parametrize(("text", "message"), [
    ("{", "Expecting property name"),
    ("[1]", "must hold a JSON object, not list$"),
    ('{"preset": "tinny"}', "preset must be one of edge, .*, not 'tinny'; did you mean 'tiny'"),
    ('{"preset": 3}', "preset must be the name of one, not 3$"),
    ('{"preset": "mine.json"}', "preset must be the name of one, not 'mine.json'$"),
    ('{"preset": "tiny", "name": "edge"}', "name must not be that of a preset, not 'edge'$"),
    ('{"preset": "tiny", "rows": 2}', "AcceleratorConfig has no parameter 'rows'$"),
    ('{"preset": "tiny", "row_cycles": 1}', "row_cycles must be 0 or at least 2"),
    ('{"preset": "tiny", "row_cycles": "2"}', "row_cycles must be an integer, not '2'$"),
    ('{"bus_bits": 64, "vector_lanes": 2}', "AcceleratorConfig needs token_lanes, tables, "),
])
def test_bad_files_of_configurations(tmp_path, text, message):
    file = tmp_path / "mine.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=f"^{re.escape(str(file))}: not a configuration: {message}"):
        preset(str(file))


def test_helpers():
    assert [ceil_div(a, 4) for a in (0, 1, 4, 5)] == [0, 1, 1, 2]
    assert [bits_for_magnitude(a) for a in (0, 1, 127, 128)] == [1, 2, 8, 9]
    check_int("x", 6, 1, 6, multiple_of=3)
    with pytest.raises(ValueError, match=r"^x must be a multiple of 4, not 6$"):
        check_int("x", 6, 1, 6, multiple_of=4)
