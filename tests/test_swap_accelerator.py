"""The accelerator whose sequences leave the KV cache for a second region of memory and come back: random traffic, every token against
the golden model's run of its request alone."""

import random
from dataclasses import replace

import pytest
from llmrtl.accelerators.cache.swap_formats import SwapError
from llmrtl.accelerators.control.entries import SWAP_IN, SWAP_OUT, Entry, EntryKind, refusal
from llmrtl.accelerators.control.errors import ErrorCause
from llmrtl.accelerators.presets import preset
from llmrtl.rtl_gen.checkpoint import Checkpoint
from llmrtl.rtl_gen.compile import compile_model
from llmrtl.rtl_gen.generate import emitted_accelerator
from llmrtl.rtl_gen.lint import lint
from llmrtl.rtl_gen.scheduler import Request
from llmrtl.rtl_gen.serve import mismatches, serve, summarize_service
from llmrtl.sim.golden.machine import Machine
from llmrtl.sim.native.build import build_driver
from llmrtl.sim.native.session import Session

from .checkpoints import SMALL_BITNET, write_checkpoint

CONFIG = preset("tiny_swap")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write_checkpoint(folder, replace(SMALL_BITNET, max_context=128), seed=7, linear_class="autobitlinear")
    return Checkpoint.open(folder)


@pytest.fixture(scope="module")
def model(checkpoint, tmp_path_factory):
    stem = tmp_path_factory.mktemp("image") / "image"
    image = compile_model(checkpoint, CONFIG, fraction_bits=20)
    image.save(stem)
    return image, stem.with_suffix(".bin")


@pytest.fixture(scope="module")
def program():
    return build_driver(emitted_accelerator(CONFIG))


def test_regions_lie_behind_each_other(model):
    """The cache, then as much memory as the slots take; nothing else is behind them."""
    image, _ = model
    heads, row = image.model.layers * image.model.kv_heads, image.kv_record_beats * CONFIG.bus_bytes
    assert image.kv_swap_address - image.kv_address == heads * CONFIG.blocks * CONFIG.block_size * row
    assert image.memory_bytes - image.kv_swap_address == heads * CONFIG.swap_slots * CONFIG.block_size * row


@pytest.mark.bench
def test_lint():
    assert lint(emitted_accelerator(CONFIG)) == []


@pytest.mark.bench
@pytest.mark.parametrize("number", range(3))
def test_random_traffic(program, model, number):
    """More than the cache holds; what the host thinks was moved, the accelerator has moved."""
    image, file = model
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    prefix = [rng.randrange(48) for _ in range(rng.randint(10, 40))]
    requests = []
    for k in range(6):
        prompt = (prefix if rng.random() < 0.5 else []) + [rng.randrange(48) for _ in range(rng.randint(20, 40))]
        count = rng.randint(1, 128 - len(prompt)) if k < 4 else 6
        requests.append(Request(str(k), prompt, min(count, 129 - len(prompt)), rng.choice((0, 0, rng.randint(0, 12)))))
    with Session(program, image, file, latency=rng.randrange(1, 60), stall=rng.choice((0, 30)), seed=seed % 1000 + 1) as session:
        served = serve(session, image, requests)
    assert mismatches(image, served, None) == {} and served.free_blocks == CONFIG.blocks
    assert all(len(request.generated) == request.count for request in requests)


@pytest.mark.bench
def test_nothing_is_computed_twice(program, model):
    """Four requests of 96 positions in a cache of 256: two at a time have room."""
    image, file = model
    requests = [Request(str(k), [(7 * j + k) % 48 for j in range(40)], 57) for k in range(4)]
    with Session(program, image, file) as session:
        served = serve(session, image, requests)
    summary = summarize_service(image, served, mismatches(image, served, None), "")
    assert summary["golden_match"] and sum(request.swapped for request in requests) > 0
    assert [request.preempted for request in requests] == [0] * 4 and summary["tokens_through_the_model"] == 4 * 96
    assert summary["kv_swap"]["rows_out"] and summary["kv_swap"]["rows_in"]


@pytest.mark.bench
def test_refused_swaps_harm_nobody(program, model):
    """What is not there cannot leave, what is here cannot come back; who is out has no room for a token."""
    image, file = model

    def tokens(sequence, ids, sample=True):
        return [Entry(EntryKind.TOKENS, sequence, len(ids), sample=sample).encode(), *ids]

    def swap(sequence, way):
        return Entry(EntryKind.FREE, sequence, other=way).encode()

    prompts = {0: [1, 2, 3], 1: [4, 5]}
    got: dict = {0: [], 1: []}
    with Session(program, image, file) as session:
        def step(words, sampled):
            """Refused entries; tokens of those ``sampled`` are kept."""
            run = session.step(words)
            assert run.error is None
            refused = [refusal(token.token) for token in run.tokens]
            new = [(token.token, token.value) for token, no in zip(run.tokens, refused, strict=True) if no is None]
            for name, token in zip(sampled, new, strict=True):
                got[name].append(token)
            return [each for each in refused if each is not None]

        def feed(sequence):
            return Entry(EntryKind.TOKENS, sequence, 1, sample=True, feed=True).encode()

        assert step([swap(2, SWAP_OUT), swap(0, SWAP_IN), *tokens(0, prompts[0])], [0]) == [
            (2, SwapError.NOTHING), (0, SwapError.NOTHING)]
        assert step([swap(0, SWAP_OUT), swap(0, SWAP_OUT), *tokens(1, prompts[1]), *tokens(0, [9])], [1]) == [
            (0, SwapError.NOTHING), (0, SwapError.SWAPPED)]
        assert step([feed(1)], [1]) == []
        assert step([swap(1, SWAP_OUT), swap(0, SWAP_IN), feed(0)], [0]) == []
        assert step([swap(1, SWAP_IN), feed(1), feed(0)], [1, 0]) == []
    assert got == {name: [(step.token, step.value) for step in Machine(image).generate(ids, 3)] for name, ids in prompts.items()}


@pytest.mark.bench
def test_groups_are_refused(program, model):
    """A list with a group is none where the cache swaps."""
    image, file = model
    with Session(program, image, file) as session:
        run = session.step([Entry(EntryKind.GROUP, 0, 16, 2).encode(), Entry(EntryKind.TOKENS, 0, 1).encode(), 1])
        assert run.cause is ErrorCause.ILLEGAL_BATCH
