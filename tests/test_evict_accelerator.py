"""The accelerator with a KV cache of a budget of rows per head: texts much longer than it, every token against the golden model."""

import random
from dataclasses import replace

import pytest
from llmrtl.accelerators.control.errors import ErrorCause
from llmrtl.accelerators.control.isa import Opcode, decode_program
from llmrtl.accelerators.kv_records import INT4_STEP
from llmrtl.accelerators.presets import preset, with_cache
from llmrtl.rtl_gen.checkpoint import Checkpoint
from llmrtl.rtl_gen.compile import Budget, CompileError, compile_model, plan
from llmrtl.rtl_gen.generate import emitted_accelerator
from llmrtl.rtl_gen.image import Image
from llmrtl.rtl_gen.lint import lint
from llmrtl.sim.golden.machine import Machine
from llmrtl.sim.native.build import build_driver
from llmrtl.sim.native.run import simulate

from .checkpoints import SMALL_BITNET, SMALL_LLAMA, write_checkpoint
from .tokens import said, steps

TINY = preset("tiny_evict")
INT4 = replace(TINY, name="tiny_evict_int4", kv_storage="int4")
MODELS = {"bitnet": (SMALL_BITNET, "autobitlinear"), "llama": (SMALL_LLAMA, "bitlinear")}
BUDGETS = [Budget(16, threshold=0.5), Budget(7, 1, 2, 1.1), Budget(2, 0, 0, 0.0), Budget(32, 30, 1, 0.3)]
"""Many merges; no merge; two rows, all merged that can be; one row that may go."""


@pytest.fixture(scope="module", params=["bitnet", pytest.param("llama", marks=pytest.mark.bench)])
def checkpoint(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    shape, linear_class = MODELS[request.param]
    write_checkpoint(folder, shape, seed=7, linear_class=linear_class)
    return Checkpoint.open(folder)


def compiled(checkpoint, config, folder, budget):
    image = compile_model(checkpoint, config, fraction_bits=20, budget=budget, context=200)
    image.save(folder / "image")
    return image, folder / "image.bin"


# The golden machine alone.

def test_below_the_budget_nothing_differs(checkpoint, tmp_path):
    """As long as nothing goes, the text is that of a cache of all positions."""
    image, _ = compiled(checkpoint, TINY, tmp_path, Budget(20))
    plain = compile_model(checkpoint, preset("tiny"), fraction_bits=20)
    assert steps(image, [1, 2, 3] * 4, 9) == steps(plain, [1, 2, 3] * 4, 9)
    assert steps(image, [1, 2, 3] * 4, 20) != steps(plain, [1, 2, 3] * 4, 20)


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
def test_every_token_is_in_one_row_or_dropped(checkpoint, tmp_path, budget):
    """In every head of every layer; first and last positions are there; rows stand for several tokens only where they may."""
    image, _ = compiled(checkpoint, TINY, tmp_path, budget)
    machine = Machine(image)
    list(machine.generate([1, 2, 3] * 8, 20))
    heads = [head for layer in machine._evicting.values() for head in layer.heads]
    assert len(heads) == checkpoint.model.layers * checkpoint.model.kv_heads
    for head in heads:
        entries = head.scores.entries
        assert len(entries) == len(head.records) == budget.rows and head.length == machine.position == 43
        assert sum(entry.tokens for entry in entries) + head.dropped == 43
        assert {*range(image.eviction.sinks), *range(42 - image.eviction.recent, 43)} <= {entry.position for entry in entries}
        assert all(entry.tokens == 1 for entry in entries) == (budget.threshold > 1)


def test_a_prompt_in_parts_is_the_same_prompt(checkpoint, tmp_path):
    """However the tokens come, beyond the budget they are taken one by one."""
    image, _ = compiled(checkpoint, TINY, tmp_path, Budget(10, threshold=0.5))
    prompt = [1, 2, 3] * 8
    whole = Machine(image)
    expected = whole.chunk(prompt)[-1]
    parts = Machine(image)
    for first in range(0, len(prompt), 5):
        values = parts.chunk(prompt[first:first + 5])[-1]
    assert values.tolist() == expected.tolist()
    assert [row.tolist() for row in Machine(image).chunk(prompt, every=True)][-1] == expected.tolist()


def test_image_and_program(checkpoint, tmp_path):
    """The manifest keeps the rules; heads are numbered over all layers; a prompt is cut where the budget ends."""
    image, _ = compiled(checkpoint, TINY, tmp_path, Budget(7, 1, 2, 0.5))
    loaded = Image.load(tmp_path / "image")
    assert loaded.eviction == image.eviction and (loaded.positions, loaded.kv_capacity) == (200, 7)
    assert (image.eviction.sinks, image.eviction.recent, image.eviction.threshold) == (1, 2, 2048)
    assert image.prompt_chunks(12) == [2, 2, 2, 1, 1, 1, 1, 1, 1] and image.prompt_chunks(3, 6) == [1, 1, 1]
    program = decode_program(image.data[image.program_address:].tobytes())
    caching = [op for op in program if op.opcode in (Opcode.APPEND, Opcode.ATTEND)]
    kv_heads = checkpoint.model.kv_heads
    assert [(op.address, op.other) for op in caching] == [(image.kv_address, layer * kv_heads) for layer in (0, 1) for _ in range(2)]


@pytest.mark.parametrize(("config", "budget", "message"), [
    (TINY, Budget(65), r"budget must be in 1\.\.64 rows on preset 'tiny_evict', not 65"),
    (TINY, Budget(0), r"budget must be in 1\.\.64 rows"),
    (TINY, Budget(8, 4, 4), "sinks and recent positions .* must together be fewer than the budget, not 4 and 4 of 8"),
    (TINY, Budget(8, threshold=1.6), r"threshold must be in 0\.\.1\.5, not 1\.6"),
    (preset("tiny"), Budget(8), "a budget goes with a cache of kind 'evict'; that of 'tiny' is 'contiguous'"),
    (replace(TINY, cache_heads=3), None, "2 layers of 2 KV heads exceed cache_heads 3")], ids=str)
def test_budgets_that_are_refused(config, budget, message):
    with pytest.raises(CompileError, match=message):
        plan(SMALL_BITNET, config, budget=budget)


# The accelerator.

@pytest.fixture(scope="module")
def emitted():
    return emitted_accelerator(TINY)


@pytest.fixture(scope="module")
def program(emitted):
    return build_driver(emitted)


@pytest.mark.bench
def test_lint(emitted):
    assert lint(emitted) == []


@pytest.mark.bench
@pytest.mark.parametrize("budget", BUDGETS, ids=str)
def test_far_beyond_the_budget(program, checkpoint, tmp_path, budget):
    """Prompts shorter and longer than the budget; a memory of any latency that hesitates."""
    image, file = compiled(checkpoint, TINY, tmp_path, budget)
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for length in (1, budget.rows, budget.rows + 1, 45):
        prompt = [rng.randrange(48) for _ in range(length)]
        run = simulate(program, image, file, prompt, 30, latency=rng.randrange(1, 60), stall=rng.choice((0, 30)), seed=seed % 1000 + 1)
        assert run.error is None and said(run) == steps(image, prompt, 30)


def test_rows_of_4_bits(checkpoint, tmp_path):
    """What is merged is what was stored, and is stored in 4 bits again."""
    wide, _ = compiled(checkpoint, TINY, tmp_path, Budget(9))
    image, file = compiled(checkpoint, INT4, tmp_path, Budget(9, 1, 2, 0.5))
    assert image.kv_record_beats < wide.kv_record_beats
    machine = Machine(image)
    expected = [(step.token, step.value) for step in machine.generate([1, 2, 3] * 4, 30)]
    heads = [head for layer in machine._evicting.values() for head in layer.heads]
    assert any(entry.tokens > 1 for head in heads for entry in head.scores.entries)
    assert all(not (part % INT4_STEP).any() for head in heads for record in head.records for part in (record.key, record.value))
    assert said(simulate(build_driver(emitted_accelerator(INT4)), image, file, [1, 2, 3] * 4, 30)) == expected


@pytest.mark.bench
def test_a_preset_of_two_chunks(checkpoint, tmp_path):
    config = with_cache(preset("kv260"), "evict")
    image, file = compiled(checkpoint, config, tmp_path, Budget(9, 1, 2, 0.5))
    run = simulate(build_driver(emitted_accelerator(config)), image, file, [1, 2, 3] * 6, 30)
    assert run.error is None and said(run) == steps(image, [1, 2, 3] * 6, 30)


@pytest.mark.bench
def test_a_text_after_another(program, checkpoint, tmp_path):
    """Rows and scores of the text before are nobody's when the next one begins, nor what was still to come of it."""
    image, file = compiled(checkpoint, TINY, tmp_path, Budget(8, threshold=0.5))
    run = simulate(program, image, file, [1, 2, 3], 30, again=True)
    assert run.before.error is None and run.error is None
    assert said(run.before) == said(run) == steps(image, [1, 2, 3], 30)


@pytest.mark.bench
def test_a_text_that_goes_on(program, checkpoint, tmp_path):
    """From a later position on, with the rows and scores that the run before has left."""
    image, file = compiled(checkpoint, TINY, tmp_path, Budget(8, threshold=0.5))
    machine, prompt = Machine(image), [1, 2, 3] * 4
    first, second = ([(step.token, step.value) for step in machine.generate(prompt, 5)] for _ in range(2))
    run = simulate(program, image, file, prompt, 5, start_position=16, registers={"START_POSITION": 0}, again=True)
    assert said(run.before) == first and said(run) == second and run.registers["POSITION"] == machine.position == 32


@pytest.mark.bench
@pytest.mark.parametrize(("registers", "cause"), [
    ({"KV_SINKS": 8}, ErrorCause.CACHE_FULL), ({"KV_CAPACITY": 4}, ErrorCause.CACHE_FULL), ({"KV_CAPACITY": 65}, ErrorCause.CACHE_FULL),
    ({"KV_POSITIONS": 2}, ErrorCause.PROMPT_TOO_LONG), ({"START_POSITION": 5}, ErrorCause.CACHE_FULL)], ids=str)
def test_bad_registers(program, checkpoint, tmp_path, registers, cause):
    """A cause code, and the next run is right."""
    image, file = compiled(checkpoint, TINY, tmp_path, Budget(8, 2, 2, 0.5))
    prompt = [1, 2, 3] * 4
    run = simulate(program, image, file, prompt, 3, registers=registers, again=True, cycle_limit=2_000_000)
    assert run.before.cause is cause
    assert run.error is None and said(run) == steps(image, prompt, 3)


@pytest.mark.bench
@pytest.mark.parametrize("response", [2, 3])
def test_bus_errors(program, checkpoint, tmp_path, response):
    """The last row of a head cannot be written: the run stops, the next one is right."""
    image, file = compiled(checkpoint, TINY, tmp_path, Budget(8, threshold=0.5))
    begin = image.kv_address + 7 * image.kv_record_beats * TINY.bus_bytes
    run = simulate(program, image, file, [1, 2, 3] * 4, 3, error_begin=begin, error_end=begin + TINY.bus_bytes, again=True,
                   cycle_limit=2_000_000, error_response=response)
    assert run.before.cause is ErrorCause.BUS_WRITE_ERROR
    assert run.error is None and said(run) == steps(image, [1, 2, 3] * 4, 3)
