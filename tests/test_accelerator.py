"""The whole accelerator, emitted and simulated: every token against the golden model, errors, recovery."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from llmrtl import models
from llmrtl.accelerators.axi import Response
from llmrtl.accelerators.control.errors import OUTSIDE_STREAMS, ErrorCause
from llmrtl.accelerators.control.isa import Opcode, decode_program, encode_program
from llmrtl.accelerators.kv_records import record_beats
from llmrtl.accelerators.presets import preset
from llmrtl.rtl_gen.calibration import calibrate
from llmrtl.rtl_gen.checkpoint import Checkpoint
from llmrtl.rtl_gen.compile import compile_model
from llmrtl.rtl_gen.generate import compiled_image, emitted_accelerator, generate, locate_mismatch, summarize
from llmrtl.rtl_gen.lint import lint
from llmrtl.sim.golden.machine import Machine
from llmrtl.sim.native.build import build_driver
from llmrtl.sim.native.run import Channel, Sampling, simulate

from .checkpoints import SMALL_BITNET, SMALL_LLAMA, reference_checkpoint, write_checkpoint
from .tokens import said

CONFIG = preset("tiny")
MODELS = {"bitnet": (SMALL_BITNET, "autobitlinear"), "llama": (SMALL_LLAMA, "bitlinear")}


@pytest.fixture(scope="module")
def emitted():
    return emitted_accelerator(CONFIG)


@pytest.fixture(scope="module")
def program(emitted):
    return build_driver(emitted)


@pytest.fixture(scope="module", params=MODELS)
def model(request, tmp_path_factory):
    return build_model(tmp_path_factory.mktemp("model"), request.param)


@pytest.fixture(scope="module")
def bitnet(tmp_path_factory):
    return build_model(tmp_path_factory.mktemp("model"), "bitnet")


def build_model(folder, name, **options):
    shape, linear_class = MODELS[name]
    write_checkpoint(folder / "checkpoint", shape, seed=7, linear_class=linear_class)
    image = compile_model(Checkpoint.open(folder / "checkpoint"), CONFIG, fraction_bits=20, **options)
    image.save(folder / "image")
    return image, folder / "image.bin"


def test_lint(emitted):
    assert lint(emitted) == []


def steps(image, prompt, count, sampling=Sampling(), eos=None):
    machine = Machine(image, seed=sampling.seed, greedy=sampling.greedy, top_k=sampling.top_k,
                      inverse_temperature=float(sampling.inverse_temperature))
    return [(step.token, step.value) for step in machine.generate(prompt, count, eos=eos)]


def check(program, model, prompt, count, sampling=Sampling(), eos=None, **memory):
    image, file = model
    run = simulate(program, image, file, prompt, count, sampling=sampling, eos=eos, **memory)
    assert run.error is None
    assert said(run) == steps(image, prompt, count, sampling, eos)
    assert run.registers["TOKENS_GENERATED"] == len(run.tokens)
    assert run.registers["SATURATIONS"] == 0
    return run


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 17])
def test_prompt_lengths(program, model, length):
    """Below, at and beyond whole chunks of token lanes."""
    check(program, model, [(7 * i + 3) % 48 for i in range(length)], 4)


def test_any_head_dim(program, tmp_path):
    """Halves of 5 elements in words of 2: the compiler pads them (that no number changes: ``test_presets_differ_in_layout_only``)."""
    shape = replace(SMALL_BITNET, hidden_size=40, head_dim=10)
    write_checkpoint(tmp_path / "checkpoint", shape, seed=7)
    image = compile_model(Checkpoint.open(tmp_path / "checkpoint"), CONFIG, fraction_bits=20)
    image.save(tmp_path / "image")
    assert image.kv_record_beats == record_beats(12, kv_bits=8, bus_bits=CONFIG.bus_bits)
    check(program, (image, tmp_path / "image.bin"), [1, 2, 3, 4, 5], 8)


def test_hesitating_memory(program, model):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(3):
        prompt = [rng.randrange(48) for _ in range(rng.randrange(1, 9))]
        check(program, model, prompt, 5, latency=rng.randrange(1, 120), stall=rng.randrange(0, 80),
              seed=rng.randrange(1, 1 << 30), token_stall=rng.randrange(0, 2000))


def test_sampling(program, model):
    sampling = Sampling(greedy=False, top_k=5, temperature=1.5, seed=99)
    run = check(program, model, [1, 2, 3], 16, sampling)
    assert said(run) != steps(model[0], [1, 2, 3], 16)


def test_end_of_text(program, bitnet):
    tokens = [token for token, _ in steps(bitnet[0], [1, 2, 3], 12)]
    eos = tokens[5]
    run = check(program, bitnet, [1, 2, 3], 12, eos=eos)
    assert run.tokens[-1].token == eos and len(run.tokens) == tokens.index(eos) + 1


def test_counters(program, bitnet):
    run = check(program, bitnet, [1, 2, 3, 4, 5], 3)
    registers = run.registers
    assert registers["READ_BEATS"] == run.tokens[-1].read_beats
    assert registers["WRITE_BEATS"] == run.tokens[-1].write_beats
    image = bitnet[0]
    positions = 5 + 3 - 1
    assert registers["WRITE_BEATS"] == positions * SMALL_BITNET.layers * SMALL_BITNET.kv_heads * image.kv_record_beats
    assert registers["POSITION"] == positions
    assert 0 < registers["ENGINE_BUSY"] < registers["CYCLES"]


def test_full_context(program, tmp_path):
    """The last position can be used; the one behind it is a sticky error, and the cache is not overwritten."""
    model = build_model(tmp_path, "bitnet", context=8)
    check(program, model, [1, 2, 3, 4, 5], 4)
    run = simulate(program, *model, [1, 2, 3, 4, 5], 6)
    assert run.cause is ErrorCause.CONTEXT_FULL and run.registers["ERROR_INFO"] == 8
    assert said(run) == steps(model[0], [1, 2, 3, 4, 5], 4)


BAD = {
    "prompt too long": ({"PROMPT_LENGTH": 100}, ErrorCause.PROMPT_TOO_LONG),
    "empty prompt": ({"PROMPT_LENGTH": 0}, ErrorCause.EMPTY_PROMPT),
    "nothing to generate": ({"MAX_NEW_TOKENS": 0}, ErrorCause.EMPTY_PROMPT),
    "no program": ({"PROGRAM_ADDRESS": 0}, ErrorCause.ILLEGAL_INSTRUCTION),
    "program outside memory": ({"PROGRAM_ADDRESS": 0xFFFF_F000}, ErrorCause.BUS_READ_ERROR),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_registers(program, bitnet, case):
    """A cause code, and the next run is right."""
    registers, cause = BAD[case]
    image, file = bitnet
    run = simulate(program, image, file, [1, 2, 3], 3, registers=registers, again=True, cycle_limit=400_000)
    assert run.before.cause is cause
    assert run.error is None and said(run) == steps(image, [1, 2, 3], 3)


def test_token_out_of_range(program, bitnet):
    image, file = bitnet
    run = simulate(program, image, file, [1, SMALL_BITNET.vocab_size], 3, cycle_limit=400_000)
    assert run.cause is ErrorCause.TOKEN_OUT_OF_RANGE and run.registers["ERROR_INFO"] == SMALL_BITNET.vocab_size
    assert "TOKEN_OUT_OF_RANGE" in run.error


def sections(image):
    return {section.name: section for section in image.sections}


@pytest.mark.parametrize("response", [Response.SLVERR, Response.DECERR])
@pytest.mark.parametrize("name", ["layers.0.qkv", "layers.1.ffn_norm", "lm_head", "program", "embedding"])
def test_read_errors(program, bitnet, name, response):
    image, file = bitnet
    section = sections(image)[name]
    run = simulate(program, image, file, [1, 2, 3], 3, again=True, cycle_limit=400_000,
                   error_begin=section.address, error_end=section.address + section.bytes, error_response=response)
    assert run.before.cause is ErrorCause.BUS_READ_ERROR
    assert section.address <= run.before.registers["ERROR_INFO"] < section.address + section.bytes
    assert run.error is None and said(run) == steps(image, [1, 2, 3], 3)


@pytest.mark.parametrize("response", [Response.SLVERR, Response.DECERR])
def test_write_error(program, bitnet, response):
    image, file = bitnet
    begin = image.prompt_address + 64 * CONFIG.bus_bytes
    run = simulate(program, image, file, [1, 2, 3], 3, again=True, cycle_limit=400_000, error_begin=begin,
                   error_end=image.memory_bytes, error_response=response)
    assert run.before.cause is ErrorCause.BUS_WRITE_ERROR and run.before.registers["ERROR_INFO"] >= begin
    assert run.error is None and said(run) == steps(image, [1, 2, 3], 3)


def test_damaged_program(program, bitnet, tmp_path):
    image, _ = bitnet
    data = np.array(image.data)
    data[image.program_address + 5 * 64 + 9] ^= 4
    (tmp_path / "damaged.bin").write_bytes(data.tobytes())
    run = simulate(program, image, tmp_path / "damaged.bin", [1, 2, 3], 3, cycle_limit=400_000)
    assert run.cause is ErrorCause.ILLEGAL_INSTRUCTION and run.registers["ERROR_INFO"] == 5 * 64


def test_watchdog_names_the_stream(program, bitnet, tmp_path):
    """A matrix that is announced with too few beats starves the engine: named, not hung, and the next run is right."""
    image, _ = bitnet
    ops = list(decode_program(image.data[image.program_address:].tobytes()))
    index = next(i for i, op in enumerate(ops) if op.opcode is Opcode.LINEAR)
    ops[index] = replace(ops[index], beats=ops[index].beats - 3)
    data = np.array(image.data)
    program_bytes = np.frombuffer(encode_program(ops), np.uint8)
    data[image.program_address:image.program_address + program_bytes.size] = program_bytes
    (tmp_path / "starved.bin").write_bytes(data.tobytes())
    run = simulate(program, image, tmp_path / "starved.bin", [1, 2, 3], 3, watchdog=2000, cycle_limit=400_000)
    assert run.cause is ErrorCause.WATCHDOG
    assert run.error == f"WATCHDOG: no progress in operation {index}: engine waits for input"


STOPPED = {  # channel that stands still: what the watchdog names
    Channel.TOKENS: "the token output is not taken",
    Channel.READ_ADDRESS: "the program reader waits for memory; a read address is not taken",
    Channel.READ_DATA: "the program reader waits for memory",
    Channel.WRITE_ADDRESS: "a write address is not taken",
    Channel.WRITE_DATA: "write data is not taken",
    Channel.WRITE_RESPONSE: "a write is not answered",
}


def named_outside(run):
    """What the watchdog names besides the units."""
    prefix = f"WATCHDOG: no progress in operation {run.registers['OPERATION']}: "
    assert run.error.startswith(prefix)
    return [named for named in run.error.removeprefix(prefix).split("; ") if named in OUTSIDE_STREAMS.values()]


@pytest.mark.parametrize("channel", STOPPED, ids=lambda channel: channel.name.lower())
def test_watchdog_names_what_stands_still_outside(program, bitnet, channel):
    """From the first cycle on; when it moves again the tokens that could not leave do, and the next run is right."""
    image, file = bitnet
    run = simulate(program, image, file, [1, 2, 3], 5, watchdog=2000, cycle_limit=400_000, again=True, stop_channels=channel)
    assert run.before.cause is ErrorCause.WATCHDOG
    assert named_outside(run.before) == STOPPED[channel].split("; ")
    expected = steps(image, [1, 2, 3], 5)
    assert said(run.before) == expected[:len(run.before.tokens)] and bool(run.before.tokens) == (channel is Channel.TOKENS)
    assert run.error is None and said(run) == expected


@pytest.mark.parametrize("channel", [Channel.READ_DATA, Channel.READ_ADDRESS], ids=lambda channel: channel.name.lower())
def test_watchdog_names_the_readers(program, bitnet, channel):
    """Memory that stops in the midst of a token: what waits for it depends on when, and a reader always does."""
    image, file = bitnet
    sound = simulate(program, image, file, [1, 2, 3], 5)
    begin, end = sound.tokens[1].cycle, sound.tokens[2].cycle
    readers = {f"the {reader} reader waits for memory" for reader in ("program", "data", "weight")}
    seen = set()
    for cycle in range(begin, end, (end - begin) // 10):
        run = simulate(program, image, file, [1, 2, 3], 5, watchdog=2000, cycle_limit=400_000, again=True, stop_channels=channel,
                       stop_at=cycle)
        named = set(named_outside(run.before))
        assert named & readers
        assert named - readers == ({"a read address is not taken"} if channel is Channel.READ_ADDRESS else set())
        assert said(run.before) == said(sound)[:len(run.before.tokens)] and len(run.before.tokens) < 5
        assert run.error is None and said(run) == said(sound)
        seen |= named & readers
    assert seen == readers


def test_mismatch_is_located(emitted, bitnet, tmp_path):
    """One damaged weight byte, unknown to the golden model: step, layer and tensor are named."""
    image, _ = bitnet
    section = sections(image)["layers.1.o"]
    data = np.array(image.data)
    data[section.address] ^= 3
    (tmp_path / "damaged.bin").write_bytes(data.tobytes())
    outcome = generate(image, tmp_path / "damaged.bin", emitted, [1, 2, 3], 3)
    assert not outcome.golden_match and "the golden model" in outcome.mismatch
    located = locate_mismatch(image, tmp_path / "damaged.bin", [1, 2, 3], outcome.run)
    assert located.startswith("chunk 0, layer 1 o (LINEAR), position 0: element")


def test_no_mismatch_is_located(emitted, bitnet):
    """The second run is the first one again, sampler and memory included."""
    image, file = bitnet
    options = dict(sampling=Sampling(greedy=False, top_k=5, temperature=1.5, seed=99), eos=None, fill_context=6, latency=50, stall=30,
                   memory_model="ddr4", clock_mhz=100.0)
    outcome = generate(image, file, emitted, [1, 2, 3], 8, **options)
    assert outcome.golden_match
    assert locate_mismatch(image, file, [1, 2, 3], outcome.run, **options).startswith("no operation differs")


@pytest.mark.parametrize("cycle", [300, 2500, 7000])
def test_reset_in_mid_generation(program, bitnet, cycle):
    image, file = bitnet
    run = simulate(program, image, file, [1, 2, 3], 4, reset_at=cycle)
    assert run.error is None and said(run) == steps(image, [1, 2, 3], 4)


def test_reset_while_a_token_leaves(program, bitnet):
    """The reset is one cycle long: the core's own, a cycle later, lets nothing through."""
    image, file = bitnet
    leaves = simulate(program, image, file, [1, 2, 3], 4).tokens[1].cycle
    for cycle in range(leaves - 5, leaves + 3):
        run = simulate(program, image, file, [1, 2, 3], 4, reset_at=cycle)
        assert run.error is None and said(run) == steps(image, [1, 2, 3], 4), f"reset in cycle {cycle}"


@pytest.mark.parametrize("name", ["bitnet-auto-h128", "llama-bit-h96", "bitnet-auto-h256-mha"])
def test_reference_checkpoints(program, tmp_path, name):
    checkpoint = Checkpoint.open(reference_checkpoint(name))
    image = compile_model(checkpoint, CONFIG, fraction_bits=calibrate(checkpoint))
    image.save(tmp_path / "image")
    prompt = np.load(reference_checkpoint(name) / "expected.npz")["input_ids_2"].reshape(-1).tolist()
    check(program, (image, tmp_path / "image.bin"), prompt, 6)


def test_shipped_model_on_edge():
    """Decoding reads weights in most cycles."""
    checkpoint, config = Checkpoint.open(Path(models.__file__).with_name("stories")), preset("edge")
    image, file = compiled_image(checkpoint, config)
    emitted = emitted_accelerator(config)
    prompt = [1, 20, 300, 40, 5]
    outcome = generate(image, file, emitted, prompt, 4)
    assert outcome.golden_match and len(outcome.run.tokens) == 4
    assert summarize(outcome, image, emitted, prompt)["read_utilization_decode"] >= 0.70


def test_gguf_is_the_same_model(tmp_path):
    folder = reference_checkpoint("bitnet-auto-h256-mha")
    config = replace(CONFIG, name="gguf")
    images = [compile_model(Checkpoint.open(path), config, fraction_bits=20)
              for path in (folder, folder / "gguf" / "model-TQ1_0.gguf", folder / "gguf" / "model-TQ2_0.gguf")]
    assert np.array_equal(images[0].data, images[1].data) and np.array_equal(images[0].data, images[2].data)
