"""Sinks and a window, in golden: attention over runs of rows, and the whole machine against StreamingLLM in floating point."""

from dataclasses import replace

import numpy as np
import pytest
from llmrtl.accelerators.presets import preset, with_cache
from llmrtl.rtl_gen.checkpoint import Checkpoint
from llmrtl.rtl_gen.compile import CompileError, compile_model
from llmrtl.rtl_gen.formats import high_precision
from llmrtl.rtl_gen.image import Image, Window
from llmrtl.sim.golden.attention import NO_VALUE_EXPONENT, Rows, attend, attend_runs, finish, query_scale, scaled_down
from llmrtl.sim.golden.lanes import LaneState
from llmrtl.sim.golden.machine import Machine
from llmrtl.sim.reference import Reference

from ..checkpoints import SMALL_BITNET, SMALL_LLAMA, write_checkpoint
from .test_attention import EDGE, random_operation
from .test_machine import assert_chunks_do_not_matter

CONFIG = preset("tiny_window")


def row_by_row(runs, config):
    """``attend_runs`` as the hardware does it."""
    x = np.zeros_like(runs[0].q)
    exponents = np.full(len(x), NO_VALUE_EXPONENT)
    for lane in range(len(x)):
        state, acc = LaneState(config), np.zeros(x.shape[1], np.int64)
        for run in runs:
            scale = query_scale(run.scales[lane])
            for row in range(int(run.starts[lane]), min(int(run.limits[lane]), len(run.k))):
                w, shift = state.step(int(run.k[row] @ run.q[lane]), scale, run.k_scales[row], run.v_scales[row])
                acc = scaled_down(acc, shift) + w * run.v[row]
        if state.top is not None:
            x[lane], exponents[lane] = finish(acc, state.total, state.top, config)
    return x, exponents


@pytest.mark.parametrize("seed", range(40))
def test_runs_row_by_row(seed):
    rng = np.random.default_rng(seed)
    config = replace(EDGE, kv_bits=int(rng.choice([8, 16])), max_context=8192)
    operations = [random_operation(rng, config) for _ in range(rng.integers(1, 4))]
    lanes = min(len(operation[0]) for operation in operations)
    runs = [Rows(q[:lanes], scales[:lanes], rng.integers(0, len(k) + 1, lanes) * (rng.random(lanes) < 0.5), limits[:lanes], k, k_scales,
                 v, v_scales) for q, scales, limits, k, k_scales, v, v_scales in operations]
    for got, want in zip(attend_runs(runs, config), row_by_row(runs, config), strict=True):
        np.testing.assert_array_equal(got, want)


def test_one_run_is_attend():
    q, scales, limits, k, k_scales, v, v_scales = random_operation(np.random.default_rng(5), EDGE)
    run = Rows(q, scales, np.zeros_like(limits), limits, k, k_scales, v, v_scales)
    for got, want in zip(attend_runs([run], EDGE), attend(q, scales, limits, k, k_scales, v, v_scales, EDGE), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.fixture(scope="module", params=[(SMALL_BITNET, "autobitlinear"), (SMALL_LLAMA, "bitlinear")], ids=["bitnet", "llama"])
def checkpoint(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    shape, linear_class = request.param
    write_checkpoint(folder, shape, seed=3, linear_class=linear_class)
    return Checkpoint.open(folder)


def prompt_of(checkpoint, length):
    return np.random.default_rng(length).integers(0, checkpoint.model.vocab_size, length).tolist()


def test_chunks_do_not_matter(checkpoint):
    image = compile_model(checkpoint, CONFIG, fraction_bits=20, window=(2, 7), context=40)
    assert_chunks_do_not_matter(image, prompt_of(checkpoint, 25))


def test_a_wide_window_is_full_attention(checkpoint):
    prompt = prompt_of(checkpoint, 25)
    expected = Machine(compile_model(checkpoint, preset("tiny"), fraction_bits=20)).chunk(prompt)[-1]
    for window in ((0, 25), (0, 60), (4, 21), (25, 1)):
        assert np.array_equal(Machine(compile_model(checkpoint, CONFIG, fraction_bits=20, window=window)).chunk(prompt)[-1], expected)


@pytest.mark.parametrize("window", [(4, 8), (0, 5), (1, 1)], ids=str)
def test_as_published(checkpoint, window):
    """Logits follow StreamingLLM with positions in the cache as closely as full attention follows full attention, far beyond
    the cache; a window without its own queries for the sinks does not."""
    prompt = prompt_of(checkpoint, 60)

    def error(machine, reference):
        return float(np.median(np.abs(machine.logits(prompt) - reference.forward(prompt))))
    fine = high_precision(preset("tiny"))
    full = error(Machine(compile_model(checkpoint, fine, fraction_bits=20)), Reference(checkpoint, np.float64))
    image = compile_model(checkpoint, with_cache(fine, "window"), fraction_bits=20, window=window)
    seen = error(Machine(image), Reference(checkpoint, np.float64, window))
    print(f"median error of logits: {full:.2e} full, {seen:.2e} window")
    assert seen < 2 * full + 1e-6
    assert error(Machine(image), Reference(checkpoint, np.float64)) > 20 * seen
    if window[0]:
        far = Machine(image)
        far.program = [replace(op, rows=0) if op.opcode.name == "ROPE" else op for op in far.program]
        assert error(far, Reference(checkpoint, np.float64, window)) > 5 * seen


def test_rules(checkpoint, tmp_path):
    def compiled(config=CONFIG, **options):
        return compile_model(checkpoint, config, fraction_bits=20, **options)
    with pytest.raises(CompileError, match="sinks and window go with a cache of kind 'window'; that of 'tiny' is 'contiguous'"):
        compiled(preset("tiny"), window=(4, 8))
    with pytest.raises(CompileError, match="the KV cache of preset 'tiny_window' keeps a window: give one"):
        compiled()
    for window in ((-1, 8), (4, 0), (4, 124), (128, 1)):
        with pytest.raises(CompileError, match=rf"must together be at most 127 .*not {window[0]} \+ {window[1]}"):
            compiled(window=window)
    with pytest.raises(CompileError, match=r"context must be in 1\.\.1048575, not 1048576"):
        compiled(window=(4, 8), context=1 << 20)
    image = compiled(window=(4, 8), context=300)
    assert (image.kv_capacity, image.positions, image.window) == (4 + 8 + CONFIG.token_lanes - 1, 300, Window(4, 8, 300))
    image.save(tmp_path / "image")
    assert Image.load(tmp_path / "image").window == image.window
    with pytest.raises(ValueError, match="a cache of sinks and a window, or of a budget of rows, is not filled"):
        Machine(image).fill_cache(5)
    with pytest.raises(OverflowError, match="the KV cache holds 300 positions; 301 needed"):
        Machine(image).chunk([1] * 301)
