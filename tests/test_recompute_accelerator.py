"""Selective recompute by programs of an accelerator: a text reused behind another prefix, every list and token against the golden
model."""

import random
from dataclasses import replace

import pytest
from llmrtl.accelerators.control.errors import ErrorCause
from llmrtl.accelerators.control.isa import Flag, Opcode, encode_program, opcodes
from llmrtl.accelerators.presets import PRESETS, preset
from llmrtl.rtl_gen.checkpoint import Checkpoint
from llmrtl.rtl_gen.compile import compile_model
from llmrtl.rtl_gen.generate import emitted_accelerator
from llmrtl.rtl_gen.lint import lint
from llmrtl.rtl_gen.recompute import Reuse, blend, golden_blend, pieces
from llmrtl.sim.golden.machine import Machine
from llmrtl.sim.golden.select import grid_exponent
from llmrtl.sim.native.build import build_driver
from llmrtl.sim.native.session import Session

from .checkpoints import SMALL_BITNET, write_checkpoint

CONFIG = preset("tiny_recompute")
PAIRED = replace(CONFIG, name="recompute_paired", token_lanes=4, chunks=2, query_lanes=5, bus_bits=64, vector_lanes=4, tables=16)
SHAPE = replace(SMALL_BITNET, layers=3, max_context=128)
START, TOKENS, QUESTION, COUNT = 11, 21, [7, 8, 9], 4
SHARES = (0, 1, 38, 256)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write_checkpoint(folder, SHAPE, seed=7, linear_class="autobitlinear")
    return Checkpoint.open(folder)


@pytest.fixture(scope="module", params=[CONFIG, pytest.param(PAIRED, marks=pytest.mark.bench)], ids=lambda config: config.name)
def model(checkpoint, tmp_path_factory, request):
    stem = tmp_path_factory.mktemp("image") / "image"
    image = compile_model(checkpoint, request.param, fraction_bits=20, context=100)
    image.save(stem)
    return image, stem.with_suffix(".bin")


def texts(rng):
    return [rng.randrange(48) for _ in range(START)], [rng.randrange(48) for _ in range(TOKENS)]


def exponent_for(reuse, text):
    """Steps that hold the values of the text alone with a bit to spare."""
    machine = Machine(reuse.image)
    machine.program = reuse.alone()
    machine.chunk(text)
    return grid_exponent(machine._caches[reuse.kept].value_scales[:, :TOKENS], reuse.image.config.kv_bits) + 1


def full_prefill(image, prefix, text):
    return [(step.token, step.value) for step in Machine(image).generate([*prefix, *text, *QUESTION], COUNT)]


def seeded():
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    return random.Random(seed)


def test_golden_model_between_reuse_and_full_prefill(model):
    """All tokens computed again are a full prefill, for any layer; with the first layer nothing deviates, with the last one nothing is
    reused."""
    image = model[0]
    prefix, text = texts(random.Random(3))
    for layer in range(SHAPE.layers):
        reuse = Reuse(image, START, TOKENS, layer)
        exponent = exponent_for(reuse, text)
        blended = {share: golden_blend(reuse, reuse.listing(exponent, share), prefix, text, QUESTION, COUNT) for share in SHARES}
        assert blended[256].values == full_prefill(image, prefix, text)
        assert [len(blended[share].listed) for share in SHARES] == [0, 1, 4, TOKENS]
        if layer == 0:  # its values depend on the tokens alone, so all scores are 0, and the first tokens are taken
            assert blended[38].listed == [0, 1, 2, 3]
        assert (blended[0].values == blended[256].values) == (layer == SHAPE.layers - 1)  # else the prefix is missed


def test_without_a_prefix_reuse_is_exact(model):
    image, text = model[0], texts(seeded())[1]
    reuse = Reuse(image, 0, TOKENS)
    blended = golden_blend(reuse, reuse.listing(exponent_for(reuse, text), 0), [], text, QUESTION, COUNT)
    assert blended.listed == [] and blended.values == full_prefill(image, [], text)


def test_pieces_and_refused_reuse(model):
    assert pieces([]) == [] and pieces([0, 1, 2, 5, 7, 8]) == [range(3), range(5, 6), range(7, 9)]
    image = model[0]
    for options, message in (({"layer": 3}, r"layer must be in 0\.\.2, not 3"), ({"start": 59}, r"start must be in 0\.\.58, not 59"),
                             ({"tokens": 51}, r"tokens must be in 1\.\.50, not 51")):
        with pytest.raises(ValueError, match=message):
            Reuse(**{"image": image, "start": START, "tokens": TOKENS} | options)
    with pytest.raises(ValueError, match=r"share must be in 0\.\.256, not 257"):
        Reuse(image, START, TOKENS).listing(0, 257)
    with pytest.raises(ValueError, match="preset 'tiny' has no selective recompute"):
        Reuse(replace(image, config=preset("tiny")), START, TOKENS)
    machine = Machine(image)
    machine.program = Reuse(image, START, TOKENS).listing(0, 1)
    with pytest.raises(ValueError, match=r"tokens to compare must be in 1\.\.5, not 21"):
        machine.chunk([1, 2, 3, 4, 5])


def test_sessions_for_batches_take_no_programs(model):
    image, file = model
    with pytest.raises(ValueError, match="preload goes with prompts; 'tiny_paged' runs batches"):
        Session(file, replace(image, config=preset("tiny_paged")), file, preload=[(0, file)])


def placed(image, folder, programs):
    """Files with programs behind the image's memory: what ``Session`` preloads."""
    found, address = [], image.memory_bytes
    for number, program in enumerate(programs):
        code = encode_program(program)
        found.append((address, folder / f"program_{number}.bin"))
        found[-1][1].write_bytes(code)
        address += len(code)
    return found


@pytest.mark.bench
def test_lint():
    assert lint(emitted_accelerator(CONFIG)) == []


@pytest.fixture(scope="module")
def program(model):
    return build_driver(emitted_accelerator(model[0].config), fast=False)


@pytest.mark.bench
def test_lists_and_tokens(program, model, tmp_path):
    """The memory stays from run to run, so every list and token depends on all rows before."""
    image, file = model
    rng = seeded()
    prefix, text = texts(rng)
    for layer in (1, 2):
        reuse = Reuse(image, START, TOKENS, layer)
        exponent = exponent_for(reuse, text)
        listings = [reuse.listing(exponent, share) for share in SHARES]
        preload = placed(image, tmp_path, [reuse.alone(), *listings])
        with Session(program, image, file, preload=preload, latency=rng.randrange(1, 60), stall=rng.choice((0, 30)),
                     seed=rng.randrange(1, 1000), cycle_limit=3_000_000) as session:
            for share, listing, (address, _) in zip(SHARES, listings, preload[1:], strict=True):
                found = blend(session, reuse, (preload[0][0], address), prefix, text, QUESTION, COUNT)
                assert found == golden_blend(reuse, listing, prefix, text, QUESTION, COUNT), (layer, share)
        assert found.values == full_prefill(image, prefix, text)


@pytest.mark.bench
def test_what_a_list_says_of_itself(program, model, tmp_path):
    """Positions beside the numbers; whether the steps were too fine."""
    image, file = model
    prefix, text = texts(seeded())
    reuse = Reuse(image, START, TOKENS)
    exponent = exponent_for(reuse, text) + 1
    preload = placed(image, tmp_path, [reuse.alone(), reuse.listing(exponent, 128), reuse.listing(exponent - 12, 0)])
    (alone, _), (half, _), (none, _) = preload
    with Session(program, image, file, preload=preload, cycle_limit=3_000_000) as session:
        session.prompt(prefix)
        session.prompt(text, program_address=alone)
        run = session.prompt(text, start_position=START, program_address=half)
        assert run.error is None and len(run.tokens) == run.registers["TOKENS_GENERATED"] == 11
        assert [token.value - token.token for token in run.tokens] == [START] * 11
        assert run.registers["DEVIATION_SATURATED"] == 0 and run.registers["POSITION"] == START + TOKENS
        run = session.prompt(text, start_position=START, program_address=none)
        assert run.error is None and run.tokens == [] and run.registers["DEVIATION_SATURATED"] == 1
        assert session.prompt(QUESTION, start_position=START + TOKENS).registers["DEVIATION_SATURATED"] == 0


@pytest.mark.bench
def test_lists_that_cannot_be(program, model, tmp_path):
    """An illegal instruction, at its place; the next run after a clear is right."""
    image, file = model
    reuse = Reuse(image, 0, 3)
    listing = reuse.listing(0, 38)
    deviate = listing[-2]
    assert deviate.opcode is Opcode.DEVIATE
    changes = ({"count": 0}, {"words": 0}, {"beats": 0}, {"rows": 0}, {"rows": 4}, {"tiles": 257}, {"flags": Flag(0)})
    programs = [[*listing[:-2], replace(deviate, **change), listing[-1]] for change in changes]
    programs += [[*listing[:-1], deviate, listing[-1]], [*listing[:-1], *reuse.program[-3:]]]
    preload = placed(image, tmp_path, programs)
    for (address, _), operations in zip(preload, programs, strict=True):
        with Session(program, image, file, preload=preload, cycle_limit=3_000_000) as session:
            run = session.prompt([1, 2, 3], program_address=address)
            place = len(listing) - 2 if len(operations) == len(listing) else next(
                k for k in range(len(listing) - 1, len(operations)) if operations[k].opcode in (Opcode.DEVIATE, Opcode.HEAD))
            assert (run.cause, run.registers["ERROR_INFO"]) == (ErrorCause.ILLEGAL_INSTRUCTION, 64 * place)


def test_no_list_without_selective_recompute():
    """To an accelerator without it, DEVIATE is an unknown opcode (the bench of the front end compares)."""
    assert Opcode.DEVIATE in opcodes(CONFIG)
    assert all((Opcode.DEVIATE in opcodes(config)) == config.selective_recompute for config in PRESETS.values())
    assert set(opcodes(preset("tiny"))) == set(Opcode) - {Opcode.DEVIATE, Opcode.MEANS, Opcode.RETRIEVE}
