"""Decode attention on the emitted expert unit: small units with make test, and how much of what memory can give a long context gets."""

from dataclasses import replace

import pytest
from llmrtl.accelerators.experts.config import EXPERT_PRESETS, SLOTS, HbmTiming
from llmrtl.rtl_gen.registry import UNITS
from llmrtl.sim.bench.runner import run_unit
from llmrtl.sim.bench.simulators import icarus_missing
from llmrtl.sim.golden.experts import place, stretches
from llmrtl.sim.timing.experts import AttentionShape, BundleReads, unit_cycles

SMALL = replace(EXPERT_PRESETS["tiny_duplex_attention"], name="small_attention", word_bytes=8, token_lanes=2, max_tokens=8,
                max_hidden=32, max_intermediate=64)
DUPLEX = replace(EXPERT_PRESETS["duplex"], name="duplex_attention", attention=True)
QUIET = HbmTiming(refi=1 << 29)
"""Without refreshes."""
STREAM = replace(UNITS["expert_attention_unit"], bench="llmrtl.sim.bench.expert_attention:AttentionStreamBench")
needs_icarus = pytest.mark.skipif(icarus_missing() is not None, reason=str(icarus_missing()))


def shared(config, shape):
    """Cycles of an attention alone by the cycle model, and those in which memory could have given its words."""
    places, = place(config, [list(shape.sizes(config))])
    cycles, = unit_cycles(config, [(places, config.token_lanes, shape)])
    memory, last = BundleReads(config), 0.0
    per_read = config.timing.ccd // SLOTS
    for at in places:
        for k, (bundle, _) in enumerate(stretches(config, at)):
            _, last = memory.stretch(bundle, -(-min(at.words - k * config.row_words, config.row_words) // per_read), 0)
    return cycles, last / SLOTS


@needs_icarus
def test_small_unit():
    report = run_unit(UNITS["expert_attention"], replace(SMALL, element="int8"), "icarus", cases=("back_to_back", "latency"))
    assert report.ok, str(report)


@pytest.mark.bench
@needs_icarus
@pytest.mark.parametrize("element", ["fp16", "bf16", "int8"])
def test_whole_menu(element):
    report = run_unit(UNITS["expert_attention"], replace(SMALL, element=element), "icarus")
    assert report.ok, str(report)


@pytest.mark.bench
@needs_icarus
def test_long_context_uses_the_memory():
    """Measured, with rows of 64 words as published: memory alone would need 93 % of the cycles at least."""
    config = replace(SMALL, max_intermediate=1024, columns=32)
    report = run_unit(UNITS["expert_attention_unit"], config, "icarus", cases=("latency",))
    assert report.ok, str(report)
    shape = AttentionShape(8, 256, 1024)
    _, needed = shared(config, shape)
    assert needed / report.figures["cycles"] > 0.93


@pytest.mark.parametrize(("head_words", "share"), [(8, 0.93), (2, 0.8), (1, 0.66)])
def test_softmax_takes_a_cycle_per_position(head_words, share):
    """A head alone, 16384 positions at full size, by the model: what memory needs, of the whole. 128 elements of fp16 are two words."""
    cycles, needed = shared(DUPLEX, AttentionShape(head_words, 256, 16384))
    assert share < needed / cycles < 2 * head_words / (2 * head_words + 1) + 0.03


@pytest.mark.bench
@needs_icarus
@pytest.mark.parametrize(("element", "head_words", "timing", "share"), [
    ("int8", 1, QUIET, 95), ("fp16", 2, QUIET, 95), ("bf16", 8, QUIET, 95), ("fp16", 1, HbmTiming(), 83)])
def test_a_stream_of_heads_keeps_memory_busy(element, head_words, timing, share):
    """Measured, 256 positions, every head bit by bit; the last one with refreshes, which leave 87 %."""
    config = replace(SMALL, element=element, max_intermediate=256, columns=32, timing=timing)
    config = replace(config, name="stream", max_hidden=head_words * config.lanes)
    report = run_unit(STREAM, config, "icarus", cases=("latency",))
    assert report.ok, str(report)
    assert report.figures["percent with a word"] >= share


def stream_share(config, head_words, lengths):
    """By the model: of the cycles from the first to the last but one response, words of K and V."""
    shapes = [AttentionShape(head_words, -(-positions // config.lanes), positions) for positions in lengths]
    places = place(config, [list(shape.sizes(config)) for shape in shapes])
    finished = unit_cycles(config, [(own, config.token_lanes, shape) for own, shape in zip(places, shapes, strict=True)])
    return sum(sum(shape.sizes(config)) for shape in shapes[1:-1]) / (finished[-2] - finished[0])


@pytest.mark.parametrize(("element", "positions"), [("fp16", 512), ("fp16", 4096), ("int8", 1024), ("int8", 4096)])
@pytest.mark.parametrize("head_words", [1, 2, 8])
def test_a_stream_at_full_size(element, positions, head_words):
    assert stream_share(replace(DUPLEX, element=element, timing=QUIET), head_words, [positions] * 12) > 0.98


@pytest.mark.parametrize("head_words", [1, 2, 8])
def test_what_short_rows_of_v_take(head_words):
    """Four words, eight results."""
    assert 0.65 < stream_share(replace(DUPLEX, timing=QUIET), head_words, [256] * 12) < 0.67


@pytest.mark.parametrize(("head_words", "share"), [(1, 0.75), (2, 0.9)])
def test_a_long_head_hides_behind_its_neighbours_words(head_words, share):
    assert abs(stream_share(replace(DUPLEX, timing=QUIET), head_words, [4096, 512] * 8) - share) < 0.01
