"""Decode attention on the emitted expert unit: small units with make test, and how much of what memory can give a long context gets."""

from dataclasses import replace

import pytest
from llmrtl.accelerators.experts.config import EXPERT_PRESETS, SLOTS
from llmrtl.rtl_gen.registry import UNITS
from llmrtl.sim.bench.runner import run_unit
from llmrtl.sim.bench.simulators import icarus_missing
from llmrtl.sim.golden.experts import place, stretches
from llmrtl.sim.timing.experts import AttentionShape, BundleReads, unit_cycles

SMALL = replace(EXPERT_PRESETS["tiny_duplex_attention"], name="small_attention", word_bytes=8, token_lanes=2, max_tokens=8,
                max_hidden=32, max_intermediate=64)
DUPLEX = replace(EXPERT_PRESETS["duplex"], name="duplex_attention", attention=True)
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
    """By the model, 16384 positions at full size: what memory needs, of the whole. In fp16 a head of 128 has two words."""
    cycles, needed = shared(DUPLEX, AttentionShape(head_words, 256, 16384))
    assert share < needed / cycles < 2 * head_words / (2 * head_words + 1) + 0.03
