"""The accelerator with a paged KV cache: random traffic, every token against the golden model's run of its request alone; what is
refused harms no other sequence."""

import json
import random
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
from llmrtl.accelerators.control.entries import Entry, EntryKind, refusal
from llmrtl.accelerators.control.errors import ErrorCause
from llmrtl.accelerators.presets import preset
from llmrtl.rtl_gen.checkpoint import Checkpoint
from llmrtl.rtl_gen.cli import main
from llmrtl.rtl_gen.compile import CompileError, compile_model
from llmrtl.rtl_gen.generate import emitted_accelerator
from llmrtl.rtl_gen.lint import lint
from llmrtl.rtl_gen.scheduler import Request
from llmrtl.rtl_gen.serve import load_requests, mismatches, serve, summarize_service
from llmrtl.sim.golden.batch import BatchFrontEnd
from llmrtl.sim.golden.frontend import Settings
from llmrtl.sim.golden.machine import Machine
from llmrtl.sim.native.build import build_driver
from llmrtl.sim.native.run import Sampling
from llmrtl.sim.native.session import Session

from .checkpoints import SMALL_BITNET, SMALL_LLAMA, write_checkpoint
from .tokens import said

# Little room, so that requests give way to each other: 12 blocks. Lanes for two tokens at least, so that groups form.
CONFIG = replace(preset("tiny_paged"), name="small_paged", sequences=3, block_size=4, max_context=32, query_lanes=8)
MODELS = {"bitnet": (SMALL_BITNET, "autobitlinear"), "llama": (SMALL_LLAMA, "bitlinear")}


@pytest.fixture(scope="module")
def program():
    return build_driver(emitted_accelerator(CONFIG), fast=False)


@pytest.fixture(scope="module", params=["bitnet", pytest.param("llama", marks=pytest.mark.bench)])
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    shape, linear_class = MODELS[request.param]
    write_checkpoint(folder / "model", shape, seed=7, linear_class=linear_class)
    image = compile_model(Checkpoint.open(folder / "model"), CONFIG, fraction_bits=20)
    image.save(folder / "image")
    return image, folder / "image.bin"


def tokens(sequence, ids, sample=True):
    return [Entry(EntryKind.TOKENS, sequence, len(ids), sample=sample).encode(), *ids]


def alone(image, prompt, count):
    return [(step.token, step.value) for step in Machine(image).generate(prompt, count)]


class Reads:
    """What the golden front end reads in each step, for ``on_step`` of ``serve``."""

    def __init__(self, image):
        self.image, self.golden, self.steps, self.batches = image, BatchFrontEnd(image.config), [], []

    def __call__(self, number, step):
        image, golden = self.image, self.golden
        before = [len(reads) for reads in (golden.program, golden.data, golden.weights, golden.rows, golden.copies)]
        golden.step(Settings(program_address=image.program_address, prompt_address=image.prompt_address, prompt_length=len(step.words),
                             start_position=0, max_new_tokens=0, eos_token=0, ignore_eos=1, kv_capacity=image.kv_capacity,
                             kv_record_beats=image.kv_record_beats, kv_head_stride=image.kv_head_stride),
                    image.data[image.program_address:].tobytes(), step.words, iter([(request.ids[-1], 0) for request in step.sampled]))
        assert not golden.error
        program, data, weights, rows, copies = (
            reads[begin:] for reads, begin in
            zip((golden.program, golden.data, golden.weights, golden.rows, golden.copies), before, strict=True))
        copied = sum(copy.rows for copy in copies) * image.model.layers * image.model.kv_heads * image.kv_record_beats
        self.steps.append(sum(read.beats for read in (*program, *data)) + sum(beats for _, beats, _ in weights) + copied)
        self.batches.append((golden.batch, rows))
        self.copies = len(golden.copies)


@pytest.mark.bench
def test_lint():
    assert lint(emitted_accelerator(CONFIG)) == []


@pytest.mark.parametrize("round", [0, 1, *(pytest.param(k, marks=pytest.mark.bench) for k in range(2, 8))])
def test_random_traffic(program, model, round):
    image, file = model
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    prefix = [rng.randrange(48) for _ in range(rng.randint(4, 14))]
    requests, budget = [], rng.randint(1, CONFIG.token_lanes)
    for k in range(6):
        prompt = (prefix if rng.random() < 0.7 else []) + [rng.randrange(48) for _ in range(rng.randint(1, 8))]
        count = rng.randint(1, 33 - len(prompt) if k < 2 else 6)
        requests.append(Request(str(k), prompt, count, rng.choice((0, 0, rng.randint(0, 12)))))
    with Session(program, image, file, latency=rng.randrange(1, 60), stall=rng.choice((0, 30)), seed=seed % 1000 + 1) as session:
        reads = Reads(image)
        served = serve(session, image, requests, budget=budget, on_step=reads)
    assert mismatches(image, served, None) == {} and [step.read_beats for step in served.steps] == reads.steps
    assert max(step.tokens for step in served.steps) <= budget
    assert served.free_blocks == 12 and all(len(request.generated) == request.count for request in requests)


def test_sharing(program, model):
    """What other prompts have in common with one is written once, and its tokens go through the model once."""
    image, file = model
    prefix = [(5 * k + 2) % 48 for k in range(13)]
    summaries = []
    for share in (True, False):
        requests = [Request("first", [*prefix, 1], 8), Request("second", [*prefix, 2], 3), Request("third", [*prefix[:9], 3], 3)]
        with Session(program, image, file) as session:
            served = serve(session, image, requests, share=share)
        differ = mismatches(image, served, None)
        summaries.append(summarize_service(image, served, differ, ""))
        assert differ == {} and [request.shared for request in requests] == ([0, 12, 9] if share else [0, 0, 0])
    shared, apart = summaries
    assert apart["tokens_through_the_model"] - shared["tokens_through_the_model"] == 21
    assert shared["kv_bytes_peak"] < shared["kv_bytes_peak_without_sharing"]
    assert apart["kv_bytes_peak"] == apart["kv_bytes_peak_without_sharing"]
    assert shared["cycles"] < apart["cycles"] and shared["golden_match"]
    assert set(shared["requests"]["second"]) >= {"cycles_to_first_token", "cycles_between_tokens"}


def test_rows_of_a_shared_prefix_are_read_once_for_a_group(program, model):
    """Every word that is read is counted, and is what the golden front end reads; tokens and logits are those of each request alone."""
    image, file = model
    layers, heads, tile = image.model.layers, image.model.kv_heads, CONFIG.query_lanes // image.model.group
    prefix = [(7 * k + 3) % 48 for k in range(17)]
    beats, saved = [], []
    for group in (True, False):
        requests = [Request(str(k), [*prefix, k], 8 + k) for k in range(3)]
        reads = Reads(image)
        with Session(program, image, file) as session:
            served = serve(session, image, requests, group=group, on_step=reads)
        assert mismatches(image, served, None) == {} and [request.shared for request in requests] == [0, 16, 17]
        assert [step.read_beats for step in served.steps] == reads.steps
        together = 0
        for step, (batch, rows) in zip(served.steps, reads.batches, strict=True):
            assert sum(run["rows"] for run in rows) == layers * heads * step.rows
            if len(batch) == 3 and [row.prefix for row in batch].count(16) == min(3, tile):  # the three decode
                together += 1
                begins = sum(min(run["rows"], 16 - run["position"]) for run in rows if run["position"] < 16)
                assert begins == layers * heads * 16 * -(-3 // tile)
        assert (together > 5) == group
        entries = sum(any(row.prefix for row in batch) for batch, _ in reads.batches)  # a word more for each group
        beats.append(sum(reads.steps) - entries)
        saved.append(sum(step.rows_apart - step.rows for step in served.steps))
    assert saved[0] >= 16 * 6 * (3 - -(-3 // tile)) and saved[1] == 0
    assert beats[1] - beats[0] == layers * heads * image.kv_record_beats * saved[0]


def test_blocks_that_are_not_whole_are_copied(program, model):
    """Forks of a sequence that goes on as well; each equals the run of its text alone. Nothing but the copies is
    written twice."""
    image, file = model
    prompt = [(3 * k + 1) % 48 for k in range(11)]
    row = image.model.layers * image.model.kv_heads * image.kv_record_beats
    for count in (1, 4, 6, 9):
        texts = [[*prompt, 7], [*prompt[:count], 9], [*prompt[:count], 11]]
        with Session(program, image, file, latency=1 + 9 * (count % 3), stall=20 * (count % 2)) as session:
            for begin in range(0, 11, 4):
                session.step(tokens(0, prompt[begin:begin + 4], False))
            run = session.step([*(Entry(EntryKind.FORK, k, count, 0).encode() for k in (1, 2)),
                                *(word for k, text in enumerate(texts) for word in tokens(k, text[-1:]))])
            copies = [11 % 4] if count > 8 else []  # sequence 0 goes on in its third block
            copies += [count % 4] * (1 if count > 8 else 2) if count % 4 else []
            assert run.registers["WRITE_BEATS"] == row * (3 + sum(copies))
            found = [[each] for each in said(run)]
            for _ in range(3):
                run = session.step([Entry(EntryKind.TOKENS, k, 1, sample=True, feed=True).encode() for k in range(3)])
                for each, token in zip(found, said(run), strict=True):
                    each.append(token)
        assert found == [alone(image, text, 4) for text in texts]


@pytest.mark.parametrize("cuts", [((2, 1, 1),), ((1, 2, 1), (1, 2, 1), (1, 1, 2)), ((4, 0, 0), (0, 3, 1), (1, 0, 3))], ids=str)
def test_packed_prompts(program, model, cuts):
    """Prompts side by side in a chunk, each from its position 0 on: tokens and logits of each alone. Attention executes no pair of a
    tile of tokens and a row that no token of the tile sees."""
    image, file = model
    lengths = [sum(cut[k] for cut in cuts) for k in range(3)]
    prompts = [[(11 * k + 5 * n + 2) % 48 for n in range(length)] for k, length in enumerate(lengths)]
    tile, heads = CONFIG.query_lanes // image.model.group, image.model.layers * image.model.kv_heads
    reads, done, seen, found = Reads(image), [0, 0, 0], 0, {}
    with Session(program, image, file) as session:
        for cut in cuts:
            words, ended = [], []
            for k, count in enumerate(cut):
                if count:
                    ended += [k] if done[k] + count == lengths[k] else []
                    words += tokens(k, prompts[k][done[k]:done[k] + count], done[k] + count == lengths[k])
                    seen += heads * sum(done[k] + min(first + tile, count) for first in range(0, count, tile))
                    done[k] += count
            run = session.step(words)
            found |= dict(zip(ended, said(run), strict=True))
            reads(0, SimpleNamespace(words=words, sampled=[SimpleNamespace(ids=[token]) for token, _ in said(run)]))
            assert run.registers["READ_BEATS"] == reads.steps[-1]
    assert [found[k] for k in range(3)] == [alone(image, prompt, 1)[0] for prompt in prompts]
    executed = sum(run["rows"] for _, rows in reads.batches for run in rows)
    assert seen <= executed <= 1.05 * seen


def test_refused_entries_harm_nobody(program, model):
    """A fork of what is not there, of a sequence that is not empty, more positions than a sequence has, more blocks than there are."""
    image, file = model
    expected = alone(image, [1, 2, 3], 3)
    full = [*range(4)]
    with Session(program, image, file) as session:
        run = session.step([Entry(EntryKind.FORK, 1, 4, 2).encode(), *tokens(0, [1, 2]), *tokens(1, [9], False)])
        assert [refusal(token.token) for token in run.tokens] == [(1, 2), None]
        run = session.step([Entry(EntryKind.FORK, 0, 0, 1).encode(), Entry(EntryKind.FORK, 1, 0, 0).encode(), *tokens(0, [3])])
        assert [refusal(token.token) for token in run.tokens] == [(0, 3), (1, 3), None]
        assert said(run)[-1] == expected[0]
        for _ in range(7):
            assert session.step(tokens(1, full, False)).tokens == []
        run = session.step([*tokens(1, full), Entry(EntryKind.TOKENS, 0, 1, sample=True, feed=True).encode()])
        assert [refusal(token.token) for token in run.tokens] == [(1, 2), None] and said(run)[-1] == expected[1]
        for _ in range(2):
            assert session.step(tokens(2, full, False)).tokens == []
        run = session.step([Entry(EntryKind.TOKENS, 0, 1, sample=True, feed=True).encode(), *tokens(2, full[:3], False)])
        assert [refusal(token.token) for token in run.tokens] == [(2, 1), None] and said(run)[-1] == expected[2]
        assert run.registers["KV_FREE_BLOCKS"] == 0
        run = session.step([Entry(EntryKind.FREE, k).encode() for k in range(3)])
        assert run.tokens == [] and run.registers["KV_FREE_BLOCKS"] == 12


@pytest.mark.parametrize("words", [
    [0], [Entry(EntryKind.TOKENS, 3, 1).encode(), 5], [Entry(EntryKind.TOKENS, 0, 0).encode()], tokens(0, [1] * 5),
    [*tokens(0, [1, 2]), *tokens(1, [1, 2, 3])], [Entry(EntryKind.TOKENS, 0, 2, feed=True).encode()],
    [*tokens(0, [1]), Entry(EntryKind.FORK, 1, 1, 0).encode()], [Entry(EntryKind.FORK, 0, 4, 3).encode()], tokens(0, [1, 2, 3])[:3],
    [Entry(EntryKind.GROUP, 0, 3, 2).encode()], [Entry(EntryKind.GROUP, 0, 4, 1).encode(), *tokens(0, [1])]], ids=str)
def test_batches_that_are_none(program, model, words):
    image, file = model
    with Session(program, image, file, watchdog=4000) as session:
        run = session.step(words)
    assert run.cause is ErrorCause.ILLEGAL_BATCH
    assert run.registers["ERROR_INFO"] in words


def test_sampling(program, model):
    """Random numbers go from token to token, whosever it is."""
    image, file = model
    sampling = Sampling(False, 8, 40.0, 9)
    requests = [Request(str(k), [1, 2, 3, k], 5, k) for k in range(3)]
    with Session(program, image, file, sampling=sampling) as session:
        served = serve(session, image, requests)
    assert mismatches(image, served, None, sampling) == {}
    assert set(mismatches(image, served, None, Sampling(False, 8, 40.0, 10))) and set(mismatches(image, served, None))
    served.order[0], served.order[-1] = served.order[-1], served.order[0]
    assert mismatches(image, served, None, sampling)


def test_a_difference_is_told(program, model):
    image, file = model
    requests = [Request("good", [1, 2], 2), Request("bad", [3], 2)]
    with Session(program, image, file) as session:
        served = serve(session, image, requests)
    served.values["bad"][1] += 1
    assert list(mismatches(image, served, None)) == ["bad"] and mismatches(image, served, None)["bad"].startswith("token 1: ")


def test_context_is_the_presets(tmp_path):
    write_checkpoint(tmp_path, SMALL_BITNET, seed=7)
    with pytest.raises(CompileError, match="context is that of preset 'small_paged': its KV cache has 4 positions per block"):
        compile_model(Checkpoint.open(tmp_path), CONFIG, fraction_bits=20, context=16)


@pytest.mark.parametrize(("text", "message"), [
    ("[", "not JSON"), ("{}", "must be a list of requests"), ("[]", "must be a list of requests"),
    ('[{"prompt_ids": [1], "tokens": 1, "temperature": 1}]', "request 0: no field 'temperature'"),
    ('[{"tokens": 1}]', "request 0: needs 'prompt' or 'prompt_ids', and not both"),
    ('[{"prompt_ids": [1]}]', "request 0: 'tokens' must be a whole number from 1 on, not None"),
    ('[{"prompt_ids": [1], "tokens": 1, "arrival": -1}]', "'arrival' must be a whole number from 0 on, not -1"),
    ('[{"prompt": "a", "tokens": 1}]', "there is no tokenizer.json"),
    ('[{"prompt_ids": [50], "tokens": 1}]', "the prompt must be one or more token ids in 0..49"),
    ('[{"prompt_ids": [], "tokens": 1}]', "the prompt must be one or more token ids in 0..49"),
    ('[{"prompt_ids": [1], "tokens": 1, "name": "x"}, {"prompt_ids": [1], "tokens": 1, "name": "x"}]',
     "request 1: 'name' must be text")])
def test_bad_requests(tmp_path, capsys, text, message):
    write_checkpoint(tmp_path / "model", SMALL_BITNET, seed=7)
    path = tmp_path / "requests.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        load_requests(path, None, 50)
    assert main(["serve-sim", str(path), "--checkpoint", str(tmp_path / "model"), "--preset", "tiny_paged"]) == 2
    assert f"{path}: " in (error := capsys.readouterr().err) and message in error


@pytest.mark.parametrize("budget", [0, 5])
def test_bad_token_budget(tmp_path, capsys, budget):
    write_checkpoint(tmp_path / "model", SMALL_BITNET, seed=7)
    (tmp_path / "requests.json").write_text('[{"prompt_ids": [1], "tokens": 1}]')
    arguments = ["serve-sim", str(tmp_path / "requests.json"), "--checkpoint", str(tmp_path / "model"), "--preset", "tiny_paged",
                 "--token-budget", str(budget)]
    if budget:
        assert main(arguments) == 2
        assert "--token-budget must be in 1..4, the token lanes of preset 'tiny_paged', not 5" in capsys.readouterr().err
    else:
        with pytest.raises(SystemExit):
            main(arguments)
        assert "--token-budget: must be a whole number in 1..1048576, not '0'" in capsys.readouterr().err


@pytest.mark.bench
@pytest.mark.parametrize("name", ["tiny", "kv260"])
def test_serve_sim(tmp_path, capsys, name):
    """The command, with the shipped model's vocabulary of words left out: small random weights; presets of one and of two chunks."""
    write_checkpoint(tmp_path / "model", SMALL_BITNET, seed=7)
    path, summary = tmp_path / "requests.json", tmp_path / "summary.json"
    path.write_text(json.dumps([{"prompt_ids": [*range(20)], "tokens": 3}, {"prompt_ids": [*range(18), 7], "tokens": 2}]))
    assert main(["serve-sim", str(path), "--checkpoint", str(tmp_path / "model"), "--preset", name, "--json", str(summary)]) == 0
    found = json.loads(summary.read_text())
    assert found["golden_match"] and found["requests"]["1"]["shared_positions"] == 18
    assert "golden_match: true" in capsys.readouterr().out
