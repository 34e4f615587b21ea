"""The accelerator with K/V records of 4-bit elements: every token against the golden model, with each controller of the cache; half
of the traffic; the records that it leaves in memory."""

import random
from dataclasses import replace

import pytest
from llmrtl.accelerators.presets import preset, with_cache
from llmrtl.rtl_gen.checkpoint import Checkpoint
from llmrtl.rtl_gen.compile import compile_model
from llmrtl.rtl_gen.generate import emitted_accelerator, generate
from llmrtl.rtl_gen.lint import lint
from llmrtl.rtl_gen.scheduler import Request
from llmrtl.rtl_gen.serve import mismatches, serve
from llmrtl.sim.native.build import build_driver
from llmrtl.sim.native.run import simulate
from llmrtl.sim.native.session import Session

from .checkpoints import SMALL_BITNET, SMALL_LLAMA, write_checkpoint
from .tokens import said, steps

TINY = preset("tiny_int4")
# K of a head of 16 leaves the header room in a word of 128 bits, one of 24 does not.
WIDE = replace(TINY, name="wide_int4", bus_bits=128, vector_lanes=4, tables=32, chunks=2, token_lanes=3)
MODELS = {
    "bitnet": (SMALL_BITNET, "autobitlinear"),
    "llama": (SMALL_LLAMA, "bitlinear"),
    **{f"head_{size}": (replace(SMALL_BITNET, hidden_size=2 * size, heads=2, kv_heads=1, head_dim=size), "autobitlinear")
       for size in (12, 16, 24)},
}


def built(folder, name, config, **options):
    shape, linear_class = MODELS[name]
    write_checkpoint(folder / "model", shape, seed=7, linear_class=linear_class)
    image = compile_model(Checkpoint.open(folder / "model"), config, fraction_bits=20, **options)
    image.save(folder / "image")
    return image, folder / "image.bin"


@pytest.fixture(scope="module")
def emitted():
    return emitted_accelerator(TINY)


@pytest.mark.bench
def test_lint(emitted):
    assert lint(emitted) == []


def check(program, image, file, lengths):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for length in lengths:
        prompt = [rng.randrange(48) for _ in range(length)]
        run = simulate(program, image, file, prompt, 6, latency=rng.randrange(1, 80), stall=rng.choice((0, 40)), seed=seed % 1000 + 1)
        assert run.error is None and said(run) == steps(image, prompt, 6)
        records = (length + 5) * image.model.layers * image.model.kv_heads
        assert run.registers["WRITE_BEATS"] == records * image.kv_record_beats


@pytest.mark.parametrize("name", ["bitnet", *(pytest.param(each, marks=pytest.mark.bench) for each in ("head_12", "llama"))])
def test_tokens(emitted, name, tmp_path):
    """Of a head of 12 the second word of a vector is half full."""
    check(build_driver(emitted), *built(tmp_path, name, TINY), (1, 5, 17))


@pytest.mark.bench
@pytest.mark.parametrize("name", ["head_16", "head_24"])
def test_tokens_of_a_wide_bus(name, tmp_path):
    """With the header in K's tail or in front, chunks in flight."""
    check(build_driver(emitted_accelerator(WIDE)), *built(tmp_path, name, WIDE), (1, 6, 21))


@pytest.mark.bench
def test_a_window(tmp_path):
    config = with_cache(TINY, "window")
    check(build_driver(emitted_accelerator(config)), *built(tmp_path, "bitnet", config, window=(2, 9), context=200), (1, 12, 40))


@pytest.mark.bench
def test_a_paged_cache(tmp_path):
    config = replace(preset("tiny_paged"), name="paged_int4", kv_storage="int4", sequences=3, block_size=4, max_context=32)
    image, file = built(tmp_path, "bitnet", config)
    prefix = [5, 6, 7, 8, 9, 10, 11, 12]
    requests = [Request(str(k), [*prefix, k, k + 1], 5, 0) for k in range(4)]
    with Session(build_driver(emitted_accelerator(config), fast=False), image, file, latency=10, stall=0, seed=1) as session:
        served = serve(session, image, requests)
    assert mismatches(image, served, None) == {}
    assert any(request.shared for request in served.requests)


def test_a_filled_cache(emitted, tmp_path):
    """Attention reads records as the golden model writes them."""
    image, file = built(tmp_path, "head_12", TINY)
    outcome = generate(image, file, emitted, [1, 2], 3, fill_context=30)
    assert outcome.golden_match and len(outcome.run.tokens) == 3


def test_half_the_traffic_and_other_numbers(tmp_path):
    """The same model in 8 bits: twice the words but for the header; other logits."""
    narrow, _ = built(tmp_path / "int4", "head_24", TINY)
    full, _ = built(tmp_path / "int8", "head_24", preset("tiny"))
    assert (narrow.kv_record_beats, full.kv_record_beats) == (2 + 2 * 3, 2 + 2 * 6)
    prompt = [3, 1, 4, 1, 5]
    assert [value for _, value in steps(narrow, prompt, 4)] != [value for _, value in steps(full, prompt, 4)]
