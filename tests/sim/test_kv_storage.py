"""What formats of the KV cache cost: 4-bit elements by their definition, attention against float64, tokens of the shipped model."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from amaranth.hdl import Module, Signal, signed
from amaranth.sim import Simulator
from llmrtl import models
from llmrtl.accelerators.cache.int4 import expanded, rounded
from llmrtl.accelerators.kv_records import INT4_STEP, fp16_record_beats, record_beats
from llmrtl.accelerators.presets import preset
from llmrtl.rtl_gen.calibration import calibrate
from llmrtl.rtl_gen.checkpoint import Checkpoint
from llmrtl.rtl_gen.comparison import kl_divergence
from llmrtl.rtl_gen.compile import compile_model
from llmrtl.sim.attention_error import Case, storage_rmse
from llmrtl.sim.golden.cache import restored, stored
from llmrtl.sim.golden.machine import Machine

INT8 = replace(preset("edge"), name="int8", max_context=8192, probability_bits=20)
INT4 = replace(INT8, name="int4", kv_storage="int4")


def test_bytes_in_the_page():
    """Of docs/kv-storage.md, head_dim 64 and one K/V head."""
    page = (Path(__file__).parents[2] / "docs" / "kv-storage.md").read_text()
    rows = []
    for bus in (32, 128, 512):
        beats = [*(record_beats(64, kv_bits=bits, bus_bits=bus) for bits in (4, 8, 16)), fp16_record_beats(64, bus)]
        rows.append(f"| {bus} bits | {' | '.join(str(count * bus // 8) for count in beats)} |\n")
    assert "| bus | int4 | int8 | int16 | fp16 |\n|---|---|---|---|---|\n" + "".join(rows) in page


def test_rounding():
    """To the nearest, halves away from zero; no element of -127 .. 127 is more than half a step off; both signs alike."""
    q = np.arange(-127, 128)
    elements = stored(q, INT4)
    for each, element in zip(q.tolist(), elements.tolist(), strict=True):
        exact = Fraction(abs(each), INT4_STEP)
        assert abs(element) == min(int(exact + Fraction(1, 2)), 7) and element * each >= 0
    assert np.abs(restored(elements, INT4) - q).max() == INT4_STEP // 2
    assert np.array_equal(elements, -elements[::-1]) and set(elements.tolist()) == set(range(-7, 8))
    assert stored(np.array([-128]), INT4) == -7
    assert stored(q, INT8) is q and restored(q, INT8) is q


def test_no_worse_than_seven_levels_at_once():
    """Root mean square error of vectors of 64 normal elements, rounded to 8 bits and then to 4, or to 7 levels at once."""
    x = np.random.default_rng(0).normal(size=(20000, 64))
    largest = np.abs(x).max(axis=1, keepdims=True)
    twice = restored(stored(np.rint(x / largest * 127), INT4), INT4) * largest / 127
    once = np.rint(x / largest * 7) * largest / 7
    assert np.square(twice - x).mean() < np.square(once - x).mean()


def test_hardware_rounds_alike():
    """All elements there are."""
    m, q, element = Module(), Signal(signed(8)), Signal(signed(4))
    small, large = Signal(signed(4)), Signal(signed(8))
    m.d.comb += [small.eq(rounded(q)), large.eq(expanded(element))]
    simulator = Simulator(m)

    async def testbench(ctx):
        for each in range(-128, 128):
            ctx.set(q, each)
            assert ctx.get(small) == stored(np.array(each), INT4), each
        for each in range(-7, 8):
            ctx.set(element, each)
            assert ctx.get(large) == each * INT4_STEP

    simulator.add_testbench(testbench)
    simulator.run()


@pytest.mark.parametrize("rows", [64, 1024])
@pytest.mark.parametrize(("std", "bounds"), [(1.0, (0.18, 0.014)), (2.0, (0.25, 0.020)), (3.0, (0.26, 0.021))])
def test_error_against_vectors_before_quantization(rows, std, bounds):
    """Relative RMSE, queries in 8 bits: that of 4-bit elements is more than ten times that of 8-bit ones, as their steps are."""
    int4, int8 = (storage_rmse(config, Case(rows, std)) for config in (INT4, INT8))
    print(f"{rows} rows, logits of standard deviation {std}: int4 {int4:.2e}, int8 {int8:.2e}")
    assert int4 <= bounds[0] and int8 <= bounds[1]
    assert int4 > 10 * int8


def test_tokens_of_the_shipped_model():
    """Greedy tokens after the same text: most are those of an 8-bit cache."""
    checkpoint = Checkpoint.open(Path(models.__file__).with_name("stories"))
    fraction_bits, prompt = calibrate(checkpoint), [1, 20, 300, 40, 5]
    edge = preset("edge")
    full, narrow = (compile_model(checkpoint, config, fraction_bits=fraction_bits)
                    for config in (edge, replace(edge, name="edge_int4", kv_storage="int4")))
    assert (full.kv_record_beats, narrow.kv_record_beats) == (1 + 2 * 6, 1 + 2 * 3)
    text = [*prompt, *(step.token for step in Machine(full).generate(prompt, 40))]
    logits = [Machine(image).logits(text)[len(prompt) - 1:] for image in (full, narrow)]
    agreement = float((logits[0].argmax(axis=1) == logits[1].argmax(axis=1)).mean())
    divergence = kl_divergence(*logits)
    print(f"{len(logits[0])} tokens: {agreement:.1%} equal, KL divergence {divergence:.3f}")
    assert agreement >= 0.75 and 0 < divergence <= 0.15
