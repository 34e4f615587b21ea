"""The native driver: several memory ports, the DRAM model, read traces, a K/V cache that is there before the run."""

import csv
import random
import subprocess
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from llmrtl.accelerators.control.errors import ErrorCause
from llmrtl.accelerators.presets import preset
from llmrtl.rtl_gen.checkpoint import Checkpoint
from llmrtl.rtl_gen.compile import compile_model
from llmrtl.rtl_gen.generate import emitted_accelerator, generate, summarize
from llmrtl.sim.golden.machine import Machine
from llmrtl.sim.native import build
from llmrtl.sim.native.build import SOURCES, BuildError, build_driver
from llmrtl.sim.native.run import BANK_STRIDE, MEMORY_MODELS, Channel, port_bases, simulate

from ..checkpoints import SMALL_BITNET, write_checkpoint

CONFIGS = {1: preset("tiny"), 2: replace(preset("tiny"), name="tiny_2_ports", bus_bits=64, memory_ports=2, tables=16)}
PROMPT = [1, 2, 3, 4, 5]
emitted = cache(emitted_accelerator)


@pytest.fixture(scope="module", params=CONFIGS, ids=lambda ports: f"{ports}_ports")
def built(request, tmp_path_factory):
    """(driver, image, its file)"""
    config = CONFIGS[request.param]
    return build_driver(emitted(config)), *compiled(tmp_path_factory.mktemp("model"), config)


def compiled(folder, config):
    """(image, its file)"""
    write_checkpoint(folder / "checkpoint", SMALL_BITNET, seed=7)
    image = compile_model(Checkpoint.open(folder / "checkpoint"), config, fraction_bits=20)
    image.save(folder / "image")
    return image, folder / "image.bin"


@pytest.fixture
def wave(tmp_path):
    """Path of a waveform file, which is large and not kept."""
    yield tmp_path / "run.vcd"
    (tmp_path / "run.vcd").unlink(missing_ok=True)


def expected(image, prompt=PROMPT, count=4):
    return [(step.token, step.value) for step in Machine(image).generate(prompt, count)]


def check(built, count=4, **options):
    run = simulate(*built, PROMPT, count, **options)
    assert run.error is None
    assert [(token.token, token.value) for token in run.tokens] == expected(built[1], count=count)
    return run


@pytest.mark.parametrize("memory_model", MEMORY_MODELS)
def test_ports_share_the_words(built, memory_model):
    _, image, _ = built
    run = check(built, memory_model=memory_model)
    assert len(run.port_beats) == image.config.memory_ports and len(set(run.port_beats)) == 1
    read, written = run.port_beats[0]
    assert read == run.registers["READ_BEATS"] >= run.tokens[-1].read_beats > 1000
    assert written == run.registers["WRITE_BEATS"] > 0
    assert run.cycles >= run.registers["CYCLES"]
    assert (run.dram is not None) == (memory_model != "ideal")


@pytest.mark.parametrize("memory_model", MEMORY_MODELS)
def test_hesitating_memory(built, memory_model):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(2):
        check(built, memory_model=memory_model, latency=rng.randrange(1, 120), stall=rng.randrange(0, 80),
              seed=rng.randrange(1, 1 << 30), token_stall=rng.randrange(0, 2000))


def test_no_token_is_lost(built):
    """The accelerator is done before the last token is taken."""
    check(built, token_stall=20_000)


def test_dram_counts(built):
    _, image, _ = built
    run = check(built, memory_model="ddr4", latency=1, clock_mhz=100)
    statistics, ports = run.dram.statistics, image.config.memory_ports
    accesses = statistics["read_bursts"] + statistics["write_bursts"]
    assert accesses == statistics["row_hits"] + statistics["row_misses"] + statistics["row_conflicts"]
    assert 64 * statistics["read_bursts"] >= run.port_beats[0][0] * image.config.port_bits // 8 * ports
    assert abs(statistics["refreshes"] - run.cycles * 12 / run.dram.timing["tREFI"][0]) <= 1
    cycles = [check(built, memory_model="ddr4", latency=1, clock_mhz=mhz).registers["CYCLES"] for mhz in (50, 300, 1000)]
    assert cycles[0] < cycles[1] < cycles[2]  # the same nanoseconds are more cycles of a faster clock


@pytest.mark.parametrize("memory_model", MEMORY_MODELS)
def test_read_errors(built, memory_model):
    program, image, file = built
    section = next(section for section in image.sections if section.name == "lm_head")
    run = simulate(program, image, file, PROMPT, 4, again=True, cycle_limit=400_000, error_begin=section.address,
                   error_end=section.address + section.bytes, memory_model=memory_model)
    assert run.before.cause is ErrorCause.BUS_READ_ERROR
    assert section.address <= run.before.registers["ERROR_INFO"] < section.address + section.bytes
    assert run.error is None and [(token.token, token.value) for token in run.tokens] == expected(image)


@pytest.mark.parametrize("cycle", [300, 7000])
@pytest.mark.parametrize("memory_model", MEMORY_MODELS)
def test_reset_in_mid_generation(built, cycle, memory_model):
    check(built, reset_at=cycle, memory_model=memory_model)


def test_read_trace(built, tmp_path):
    _, image, _ = built
    run = check(built, read_trace=tmp_path / "trace.csv", memory_model="ddr4")
    bases = port_bases(image.config, image.memory_bytes, "ddr4")
    with open(tmp_path / "trace.csv", newline="") as file:
        bursts = [{name: int(value) for name, value in row.items()} for row in csv.DictReader(file)]
    width = image.config.port_bits // 8
    for port, base in enumerate(bases):
        mine = [burst for burst in bursts if burst["port"] == port]
        assert sum(burst["bytes"] for burst in mine) == run.port_beats[port][0] * width
        assert all(0 <= burst["address"] - base < image.memory_bytes // len(bases) for burst in mine)
        cycles = [burst["cycle"] for burst in mine]
        assert cycles == sorted(cycles) and cycles[-1] <= run.cycles
    first = image.program_address // len(bases)
    assert min(burst["cycle"] for burst in bursts if burst["address"] == bases[0] + first) < 100


def test_cache_from_before(built, tmp_path):
    """Records of 20 positions are copied into memory; the run goes on behind them."""
    program, image, file = built
    machine = Machine(image)
    machine.fill_cache(20)
    address = machine.write_cache(tmp_path / "cache.bin")
    options = {"start_position": 20, "preload": [(address, tmp_path / "cache.bin")]}
    run = simulate(program, image, file, PROMPT, 4, **options)
    assert run.error is None
    assert [(token.token, token.value) for token in run.tokens] == [(step.token, step.value) for step in machine.generate(PROMPT, 4)]
    assert [(token.token, token.value) for token in run.tokens] != expected(image)


def test_preload_beyond_memory(built, tmp_path):
    program, image, file = built
    (tmp_path / "data").write_bytes(bytes(100))
    with pytest.raises(RuntimeError, match="status 2"):
        simulate(program, image, file, PROMPT, 1, preload=[(image.memory_bytes - 99, tmp_path / "data")])


def test_summary(built):
    _, image, file = built
    outcome = generate(image, file, emitted(image.config), PROMPT, 4, memory_model="ddr4", clock_mhz=200.0)
    summary = summarize(outcome, image, emitted(image.config), PROMPT, memory_model="ddr4", clock_mhz=200.0)
    memory = summary["memory"]
    assert memory["bound_gb_s"] == pytest.approx(image.config.bus_bytes * 0.2)  # far below the device
    assert memory["share_of_bound"]["run"] == pytest.approx(memory["achieved_gb_s"]["run"] / memory["bound_gb_s"], abs=1e-3)
    assert memory["dram_statistics"]["refreshes"] > 0 and memory["dram_timing"]["tRFC"] == {"clocks": 420, "ns": 350.0}
    assert summary["port_beats"] == [{"read": read, "written": written} for read, written in outcome.run.port_beats]
    assert all(0 < share <= 1 for share in summary["port_utilization"])


def test_wrong_memory_model(built):
    with pytest.raises(ValueError, match="memory_model must be one of ideal, ddr4, not 'dream'"):
        simulate(*built, PROMPT, 1, memory_model="dream")


def test_port_bases():
    config = preset("kv260")
    assert port_bases(config, 5 << 20) == [0, 2 << 20, 4 << 20, 6 << 20]
    assert port_bases(config, 5 << 20, "ddr4") == [port * ((2 << 20) + BANK_STRIDE) for port in range(4)]
    with pytest.raises(ValueError, match="memory must be at most 4 GiB"):
        port_bases(config, 5 << 30)


def test_watchdog_sees_all_ports(built):
    program, image, file = built
    for channel, text in ((Channel.READ_DATA, "the program reader waits for memory"), (Channel.WRITE_DATA, "write data is not taken")):
        run = simulate(program, image, file, PROMPT, 4, again=True, watchdog=2000, cycle_limit=400_000, stop_channels=channel)
        assert text in run.before.error
        assert run.error is None and [(token.token, token.value) for token in run.tokens] == expected(image)


def test_refused_register(built):
    """Named with its value; the run does not begin, and the next one is right."""
    program, image, file = built
    run = simulate(program, image, file, PROMPT, 4, registers={"PROMPT_LENGTH": 1 << 21}, again=True)
    assert run.before.error == "register PROMPT_LENGTH refuses 2097152" and not run.before.tokens
    assert run.error is None and [(token.token, token.value) for token in run.tokens] == expected(image)


def test_wrong_error_response(built):
    with pytest.raises(RuntimeError, match="status 2"):
        simulate(*built, PROMPT, 1, error_response=1)


@pytest.fixture(scope="module")
def broken_master(tmp_path_factory):
    program = tmp_path_factory.mktemp("master") / "broken_master"
    source = Path(__file__).with_name("broken_master.cpp")
    subprocess.run(["g++", "-std=c++20", "-O1", f"-I{SOURCES}", str(source), "-o", str(program)], check=True)
    return program


@pytest.mark.parametrize("channel", ["ar", "aw", "w"])
@pytest.mark.parametrize(("cycles", "says"), [
    (["1 0 64", "1 0 64", "1 1 64", "0 1 0", "1 1 128", "1 0 0"], ""),
    (["1 0 64", "0 1 64"], "{}VALID fell before {}READY"),
    (["1 0 64", "1 1 128"], "{} changed before {}READY"),
    (["1 0 64", "reset", "0 0 0", "1 1 128"], ""),
], ids=["sound", "withdrawn", "changed", "reset"])
def test_offers_stand_until_taken(broken_master, channel, cycles, says):
    said = subprocess.run([broken_master, *(each if each == "reset" else f"{channel} {each}" for each in cycles)],
                          check=True, capture_output=True, text=True).stdout
    assert said == says.format(*2 * [channel.upper()])


@pytest.mark.bench
def test_waves(wave, tmp_path):
    """VCD needs no library."""
    image, file = compiled(tmp_path, CONFIGS[1])
    outcome = generate(image, file, emitted(CONFIGS[1]), PROMPT, 1, wave=wave)
    assert outcome.golden_match
    header, changes = wave.read_text().split("$enddefinitions $end")
    assert all(f" {name} " in header for name in ("aclk", "m_axi_gmem_rdata", "m_axis_tokens_tdata"))
    assert f"\n#{10 * outcome.run.tokens[0].cycle}\n" in changes


def test_fst_waves(monkeypatch, tmp_path):
    """What is missing is said before anything is built."""
    monkeypatch.setattr(build, "FST_HEADERS", ("lz4.h", "no_such_header.h"))
    message = r"(?s)FST waveforms need the headers of lz4 and zlib .* ends in \.vcd needs neither:.*\.h: No such file"
    with pytest.raises(BuildError, match=message):
        build_driver(emitted(CONFIGS[1]), wave=tmp_path / "run.fst")
