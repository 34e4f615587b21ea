"""The accelerator with a KV cache of sinks and a ring: texts much longer than the cache, every token against the golden model."""

import random
from dataclasses import replace

import pytest
from llmrtl.accelerators.control.errors import ErrorCause
from llmrtl.accelerators.presets import preset, with_cache
from llmrtl.rtl_gen.checkpoint import Checkpoint
from llmrtl.rtl_gen.compile import compile_model
from llmrtl.rtl_gen.generate import emitted_accelerator
from llmrtl.rtl_gen.lint import lint
from llmrtl.sim.native.build import build_driver
from llmrtl.sim.native.run import simulate

from .checkpoints import SMALL_BITNET, SMALL_LLAMA, write_checkpoint
from .tokens import said, steps

TINY = preset("tiny_window")
PAIRED = with_cache(replace(preset("tiny"), name="paired", token_lanes=4, chunks=2, query_lanes=5, bus_bits=64, vector_lanes=4,
                            tables=16), "window")
MODELS = {"bitnet": (SMALL_BITNET, "autobitlinear"), "llama": (SMALL_LLAMA, "bitlinear")}


@pytest.fixture(scope="module", params=[TINY, pytest.param(PAIRED, marks=pytest.mark.bench)], ids=lambda config: config.name)
def config(request):
    return request.param


@pytest.fixture(scope="module")
def emitted(config):
    return emitted_accelerator(config)


@pytest.fixture(scope="module")
def program(emitted):
    return build_driver(emitted)


@pytest.fixture(scope="module", params=["bitnet", pytest.param("llama", marks=pytest.mark.bench)])
def checkpoint(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    shape, linear_class = MODELS[request.param]
    write_checkpoint(folder, shape, seed=7, linear_class=linear_class)
    return Checkpoint.open(folder)


def compiled(checkpoint, config, folder, window):
    image = compile_model(checkpoint, config, fraction_bits=20, window=window, context=200)
    image.save(folder / "image")
    return image, folder / "image.bin"


@pytest.mark.bench
def test_lint(emitted):
    assert lint(emitted) == []


@pytest.mark.parametrize("window", [(4, 8), (0, 5), (1, 1), (2, 13)], ids=str)
def test_far_beyond_the_cache(program, checkpoint, config, tmp_path, window):
    """Prompts shorter and longer than the cache, then tokens until the ring has gone around several times."""
    image, file = compiled(checkpoint, config, tmp_path, window)
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for length in (1, sum(window) + 1, 40):
        prompt = [rng.randrange(48) for _ in range(length)]
        run = simulate(program, image, file, prompt, 30, latency=rng.randrange(1, 60), stall=rng.choice((0, 30)), seed=seed % 1000 + 1)
        assert run.error is None and said(run) == steps(image, prompt, 30)
        records = (length + 29) * checkpoint.model.layers * checkpoint.model.kv_heads
        assert run.registers["WRITE_BEATS"] == records * image.kv_record_beats  # a key never moves


def test_a_text_after_another(program, checkpoint, config, tmp_path):
    """Slots of a longer text before are nobody's when the next one begins."""
    image, file = compiled(checkpoint, config, tmp_path, (0, 5))
    run = simulate(program, image, file, [1, 2, 3], 30, again=True)
    assert run.before.error is None and run.error is None
    assert said(run.before) == said(run) == steps(image, [1, 2, 3], 30)


def test_more_slots_than_the_accelerator_knows(program, checkpoint, config, tmp_path):
    """No more than ``max_context`` of them count, for writes as for reads."""
    image, file = compiled(checkpoint, config, tmp_path, (2, config.max_context - config.token_lanes - 1))
    assert image.kv_capacity == config.max_context
    prompt = [1, 2, 3] * 60
    run = simulate(program, image, file, prompt, 8, registers={"KV_CAPACITY": config.max_context + 70})
    assert run.error is None and said(run) == steps(image, prompt, 8)


def test_ends_of_the_text(program, checkpoint, config, tmp_path):
    """The last position of the rotary table can be used; the one behind it is an error."""
    image, file = compiled(checkpoint, config, tmp_path, (2, 5))
    prompt = [3] * (image.positions - 2)
    run = simulate(program, image, file, prompt, 9)
    assert run.cause is ErrorCause.CONTEXT_FULL and run.registers["ERROR_INFO"] == image.positions
    assert said(run) == steps(image, prompt, 3)


@pytest.mark.parametrize(("registers", "cause"), [
    ({"KV_WINDOW": 0}, ErrorCause.CACHE_FULL), ({"KV_SINKS": 100}, ErrorCause.CACHE_FULL),
    ({"KV_POSITIONS": 2}, ErrorCause.PROMPT_TOO_LONG), ({"KV_CAPACITY": 7}, ErrorCause.CACHE_FULL)], ids=str)
def test_bad_registers(program, checkpoint, config, tmp_path, registers, cause):
    """A cause code, and the next run is right. With slots for sinks and window alone a chunk would overwrite what it needs."""
    image, file = compiled(checkpoint, config, tmp_path, (2, 5))
    prompt = [1, 2, 3] * 4
    run = simulate(program, image, file, prompt, 3, registers=registers, again=True, cycle_limit=2_000_000)
    assert run.before.cause is cause
    assert run.error is None and said(run) == steps(image, prompt, 3)
