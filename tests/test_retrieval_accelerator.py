"""Block retrieval by programs of an accelerator: lists, tokens and reads against the golden model."""

import random
from dataclasses import replace

import numpy as np
import pytest
from llmrtl.accelerators.control.errors import ErrorCause
from llmrtl.accelerators.control.isa import INSTRUCTION_BYTES, Opcode, opcodes
from llmrtl.accelerators.presets import PRESETS, preset
from llmrtl.rtl_gen.checkpoint import Checkpoint
from llmrtl.rtl_gen.compile import compile_model
from llmrtl.rtl_gen.generate import emitted_accelerator
from llmrtl.rtl_gen.image import Image
from llmrtl.rtl_gen.lint import lint
from llmrtl.rtl_gen.retrieval import layer_steps, with_retrieval
from llmrtl.rtl_gen.split import program_of, with_program
from llmrtl.sim.golden.machine import Machine
from llmrtl.sim.golden.numerics import Scalar
from llmrtl.sim.native.build import build_driver
from llmrtl.sim.native.session import Session

from .checkpoints import SMALL_BITNET, write_checkpoint

CONFIG = preset("tiny_retrieval")
PAIRED = replace(CONFIG, name="retrieval_paired", token_lanes=4, chunks=2, query_lanes=5, bus_bits=64, vector_lanes=4, tables=16,
                 block_size=4, row_cycles=2)
OTHERS = (PAIRED, replace(CONFIG, name="retrieval_int4", kv_storage="int4", block_size=16),
          replace(CONFIG, name="retrieval_wide", kv_bits=16, block_size=4))
SHAPE = replace(SMALL_BITNET, layers=2, max_context=256)
COUNT = 5


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write_checkpoint(folder, SHAPE, seed=7, linear_class="autobitlinear")
    return Checkpoint.open(folder)


@pytest.fixture(scope="module", params=[CONFIG, *(pytest.param(each, marks=pytest.mark.bench) for each in OTHERS)],
                ids=lambda config: config.name)
def image(checkpoint, request):
    return compile_model(checkpoint, request.param, fraction_bits=20, context=150)


def seeded():
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    return random.Random(seed)


def prompt_of(rng, length):
    return [rng.randrange(SHAPE.vocab_size) for _ in range(length)]


def generated(image, prompt):
    return [(step.token, step.value) for step in Machine(image).generate(prompt, COUNT)]


class Watched(Machine):
    """Notes each list with what it was made of, in real numbers."""

    def __init__(self, image):
        super().__init__(image)
        self.seen = []

    def _retrieve(self, op):
        super()._retrieve(op)
        size, scored = self.config.block_size, max(0, self.position + 1 - op.other) // self.config.block_size
        q, scales = self._quantized_heads(op.source, op.count * op.group, op.words, Scalar(*op.scalar_a))
        queries = q.reshape(-1, q.shape[-1]) * np.array([float(scale) for scale in scales])[:, None]
        means = queries.reshape(len(self.tokens), op.count, op.group, -1).mean(axis=(0, 2))  # of the tokens and of a group's heads
        cache = next(cache for address, cache in self._caches.items() if 0 <= op.address - address < self.image.kv_head_stride)
        scores, errors, largest = np.zeros(scored), np.zeros(scored), (1 << self.config.stored_kv_bits - 1) - 1
        for head in range(op.count):
            keys, key_scales, _, _ = cache.rows(head, scored * size)
            real = keys * (key_scales[:, :1] * 2.0 ** key_scales[:, 1:])
            mean = real.reshape(scored, size, real.shape[1]).mean(axis=1)
            scores += mean @ means[head]
            errors += np.abs(mean).max(axis=1, initial=0) / largest / 2 * np.abs(means[head]).sum()
        self.seen.append((self.listed, scores, errors, op.rows))


def test_lists_are_those_of_float64(image):
    """Mean keys and scores by float64 from the stored rows. A record's mean is off by half a step of its largest element, which bounds
    what its score is off: only blocks whose scores are that near change places. (Steps of the grid: a tenth more.)"""
    rng = seeded()
    machine = Watched(with_retrieval(image, 4, 10))
    list(machine.generate(prompt_of(rng, 90), COUNT))
    lists = [each for each in machine.seen if len(each[1]) > each[3]]
    assert len(lists) >= 8
    for listed, scores, errors, count in lists:
        left = np.delete(np.arange(len(scores)), listed)
        assert len(listed) == count
        assert (scores[left][:, None] - scores[listed] <= 1.1 * (errors[left][:, None] + errors[listed])).all()
    if image.config.stored_kv_bits >= 8:  # a list of other blocks would not be near: most are equal
        assert sum(listed == sorted(np.argsort(-scores)[:count].tolist()) for listed, scores, _, count in lists) > 0.8 * len(lists)


def test_all_blocks_are_full_attention(image):
    rng = seeded()
    prompt = prompt_of(rng, 70)
    every = with_retrieval(image, -(-image.kv_capacity // image.config.block_size), 1)
    assert generated(every, prompt) == generated(image, prompt)
    some = with_retrieval(image, 2, 8)
    assert generated(some, prompt) != generated(image, prompt)
    short = prompt_of(rng, 8 + 2 * image.config.block_size - COUNT)  # no more blocks than are listed
    assert generated(some, short) == generated(image, short)


def test_saved_and_loaded(image, tmp_path):
    some = with_retrieval(image, 2, 8)
    some.save(tmp_path / "image")
    loaded = Image.load(tmp_path / "image")
    assert loaded.retrieval == some.retrieval
    assert (some.retrieval.blocks, some.retrieval.local, some.retrieval.records) == (2, 8, -(-150 // image.config.block_size))
    assert some.kv_address + SHAPE.layers * SHAPE.kv_heads * some.kv_head_stride == some.memory_bytes
    assert [op.opcode for op in program_of(loaded) if op.opcode in (Opcode.RETRIEVE, Opcode.ATTEND, Opcode.MEANS)] == [
        Opcode.RETRIEVE, Opcode.ATTEND, Opcode.MEANS] * SHAPE.layers


def test_refused(image):
    with pytest.raises(ValueError, match="preset 'tiny' has no block retrieval"):
        with_retrieval(replace(image, config=preset("tiny")), 1, 1)
    with pytest.raises(ValueError, match=r"blocks must be in 1\.\.\d+, not 0"):
        with_retrieval(image, 0, 1)
    with pytest.raises(ValueError, match=r"local must be in 1\.\.150, not 151"):
        with_retrieval(image, 1, 151)
    with pytest.raises(ValueError, match="there must be steps of 2 layers, not of 1"):
        with_retrieval(image, 1, 1, layer_steps(image)[:1])
    with pytest.raises(ValueError, match="the image has block retrieval already"):
        with_retrieval(with_retrieval(image, 1, 1), 1, 1)


def test_operations_of_accelerators_that_have_it():
    ours = {Opcode.MEANS, Opcode.RETRIEVE}
    assert all((ours <= set(opcodes(config))) == config.block_retrieval == bool(ours & set(opcodes(config)))
               for config in PRESETS.values())


@pytest.mark.bench
def test_lint():
    assert lint(emitted_accelerator(CONFIG)) == []


@pytest.fixture(scope="module")
def program(image):
    return build_driver(emitted_accelerator(image.config), fast=False)


def run(program, image, folder, prompt, rng, **options):
    image.save(folder / "image")
    with Session(program, image, (folder / "image").with_suffix(".bin"), latency=rng.randrange(1, 60), stall=rng.choice((0, 30)),
                 seed=rng.randrange(1, 1000), cycle_limit=6_000_000) as session:
        return session.prompt(prompt, count=COUNT, **options)


@pytest.mark.bench
def test_tokens(program, image, tmp_path):
    """Any number of blocks and of latest positions, prompts of any length: the tokens and logits of the golden model."""
    rng = seeded()
    size = image.config.block_size
    for blocks, local, length in ((2, 8, 90), (1, 1, 61), (5, 20, 120), (3, size, 4 * size + 1), (2, 30, 12),
                                  (rng.randint(1, 6), rng.randint(1, 40), rng.randint(1, 140))):
        some, prompt = with_retrieval(image, blocks, local), prompt_of(rng, length)
        machine = Machine(some)
        wanted = [(step.token, step.value) for step in machine.generate(prompt, COUNT)]
        found = run(program, some, tmp_path, prompt, rng)
        assert found.error is None
        assert [(token.token, token.value) for token in found.tokens] == wanted, (blocks, local, length)
        assert found.registers["MEANS_SATURATED"] == machine.means_saturated


@pytest.mark.bench
def test_saturated_means(program, image, tmp_path):
    """With steps too fine a register says so, and the tokens are still those of the golden model."""
    rng = seeded()
    steps = [replace(each, means=each.means - 9) for each in layer_steps(image)]
    some, prompt = with_retrieval(image, 2, 4, steps), prompt_of(rng, 60)
    machine = Machine(some)
    wanted = [(step.token, step.value) for step in machine.generate(prompt, COUNT)]
    found = run(program, some, tmp_path, prompt, rng)
    assert [(token.token, token.value) for token in found.tokens] == wanted
    assert machine.means_saturated and found.registers["MEANS_SATURATED"] == 1


@pytest.mark.bench
def test_operations_that_cannot_be(program, image, tmp_path):
    """An illegal instruction, at its place: no blocks, no latest positions, a list that is not there or that was for another matrix."""
    rng = seeded()
    some = with_retrieval(image, 2, 4)
    operations = program_of(some)
    place = next(k for k, op in enumerate(operations) if op.opcode is Opcode.RETRIEVE)
    linear = next(op for op in operations if op.opcode is Opcode.LINEAR)
    programs = [(place, [*operations[:place], replace(operations[place], **change), *operations[place + 1:]])
                for change in ({"rows": 0}, {"other": 0})]
    programs.append((place, [*operations[:place], *operations[place + 1:]]))
    programs.append((place + 2, [*operations[:place + 1], linear, *operations[place + 1:]]))
    for where, changed in programs:
        # Addresses of the cache stay where they are: nothing is read there.
        found = run(program, with_program(some, changed), tmp_path, prompt_of(rng, 3), rng)
        assert (found.cause, found.registers["ERROR_INFO"]) == (ErrorCause.ILLEGAL_INSTRUCTION, INSTRUCTION_BYTES * where)


def read_beats(image, length, blocks=None, local=None):
    """Beats of a run: of rows that attention sees, of means that are scored, of blocks that are completed, and of the descriptors of
    the operations for them."""
    config, size, beats = image.config, image.config.block_size, 0
    tiles = config.query_lanes // (SHAPE.heads // SHAPE.kv_heads)
    chunks = [(start, min(config.token_lanes, length - start)) for start in range(0, length, config.token_lanes)]
    chunks += [(length + k, 1) for k in range(COUNT - 1)]
    for position, tokens in chunks:
        ends = [min(first + tiles, tokens) for first in range(0, tokens, tiles)]
        rows, means, completed = sum(position + end for end in ends), 0, 0
        if blocks is not None:
            scored = max(0, position + 1 - local) // size
            if scored > blocks:
                rows = sum((blocks - scored) * size + position + end for end in ends)
                means = scored * len(ends)
            completed = ((position + tokens) // size - position // size) * size
            beats += 2 * SHAPE.layers * INSTRUCTION_BYTES // config.bus_bytes
        beats += SHAPE.layers * SHAPE.kv_heads * image.kv_record_beats * (rows + means + completed)
    return beats


@pytest.mark.bench
def test_reads(program, image, tmp_path):
    """The rows of listed blocks, of the latest positions and of means are read, and no others: beats of whole runs, counted."""
    rng = seeded()
    for blocks, local, length in ((2, 8, 110), (1, 1, 63)):
        some, prompt = with_retrieval(image, blocks, local), prompt_of(rng, length)
        full, less = (run(program, each, tmp_path, prompt, rng).registers["READ_BEATS"] for each in (image, some))
        assert full - less == read_beats(image, length) - read_beats(some, length, blocks, local) > 0
