"""The cycle model: against RTL on many configurations, and its parts alone."""

from dataclasses import replace
from itertools import pairwise

import pytest
from llmrtl.accelerators.control.isa import Opcode
from llmrtl.accelerators.presets import PRESETS, preset
from llmrtl.rtl_gen.compile import plan
from llmrtl.rtl_gen.estimate import EXACT_GROUPS, CycleModel
from llmrtl.rtl_gen.random_checkpoint import SHAPES
from llmrtl.rtl_gen.report import Book
from llmrtl.rtl_gen.timing_cases import CASES, TOPIC, compare, run_comparisons
from llmrtl.sim.timing import Memory
from llmrtl.sim.timing.kernel import Kernel, Signal
from llmrtl.sim.timing.memory import Port, split

from ..checkpoints import SMALL_BITNET

TOLERANCE = 0.02
QUICK = ("tiny-gqa",)
TINY = preset("tiny")


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.bench) for name in CASES])
def test_model_is_within_two_percent_of_rtl(name):
    """Prefill, and cycles per decoded token; the beats read are the same ones."""
    comparison = compare(CASES[name])
    assert comparison is not None
    print(comparison.prefill, comparison.decode, comparison.errors)
    prefill, decode = comparison.errors
    assert abs(prefill) <= TOLERANCE and abs(decode) <= TOLERANCE
    rtl, model = comparison.read_beats
    assert rtl == model


def test_cases_differ():
    """As many comparisons as promised, of configurations that differ in what matters, random ones among them."""
    configs = {replace(case.config, name="any") for case in CASES.values()}
    assert len(CASES) >= 12 and len(configs) >= 8 and sum(name.startswith("random") for name in CASES) >= 3
    for parameter in ("bus_bits", "memory_ports", "vector_lanes", "token_lanes", "chunks", "tables", "table_rows", "group_size",
                      "query_lanes", "prefetch_beats", "data_beats", "kv_bits", "kv_storage"):
        assert len({getattr(config, parameter) for config in configs}) > 1, parameter
    assert {case.model.activation for case in CASES.values()} == {"relu2", "silu"}
    assert {case.model.sub_norms for case in CASES.values()} == {True, False}


def test_comparisons_that_were_not_made_say_so(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMRTL_BUILD", str(tmp_path))
    monkeypatch.setattr("llmrtl.rtl_gen.timing_cases.CASES", {"tiny-gqa": CASES["tiny-gqa"]})
    book = Book(tmp_path / "bench")
    assert run_comparisons(book, print, execute=False) == []
    assert [figure.note for figure in book.topics[TOPIC].values()] == ["`make bench` has not been run"] * 6
    assert (tmp_path / "bench" / "timing.json").is_file()


def model(config=TINY, shape=SMALL_BITNET, memory=Memory(), context=None):
    return CycleModel(plan(shape, config, context), memory)


def decode_cycles(cycles, position):
    first, second = cycles.run(1, 2, position).tokens
    return second - first


def test_operations_come_in_the_order_of_the_program():
    cycles = model()
    spans = cycles.run(1, 1).spans
    assert [span.operation.instruction.opcode for span in spans] == [op.opcode for op in cycles.planned.program
                                                                     if op.opcode is not Opcode.END]
    assert all(before.end < after.begin for before, after in pairwise(spans)
               if before.operation.instruction.opcode is not Opcode.LINEAR)


def test_beats_are_those_of_the_program():
    cycles = model()
    run = cycles.run(TINY.token_lanes, 1)
    program = cycles.planned.program
    assert run.beats["weights"] == sum(op.beats for op in program if op.opcode is Opcode.LINEAR)
    assert run.beats["head"] == sum(op.beats for op in program if op.opcode is Opcode.HEAD)
    record = cycles.planned.kv_record_beats * SMALL_BITNET.layers * SMALL_BITNET.kv_heads
    assert run.beats["written"] == TINY.token_lanes * record
    assert run.beats["cache"] == TINY.token_lanes * record  # both tokens of the tile see both rows, read once
    assert run.read_beats == [sum(run.beats.values()) - run.beats["written"]]


def test_slower_memory_is_slower():
    cycles = [decode_cycles(model(memory=memory), 20) for memory in (Memory(5), Memory(20), Memory(200), Memory(200, 0.5))]
    assert cycles == sorted(cycles) and len(set(cycles)) == 4


def test_large_models_are_bound_by_the_port():
    """At half the efficiency, a token of a large model takes twice as long; with all, no cycle less than its beats."""
    config, shape = preset("kv260"), replace(SHAPES["bitnet-0.73b"], layers=2)
    full, half = (model(config, shape, Memory(40, efficiency), context=256) for efficiency in (1, 0.5))
    run = full.run(1, 2, 254)
    cycles, beats = run.tokens[1] - run.tokens[0], run.read_beats[1] - run.read_beats[0]
    assert beats <= cycles < 1.1 * beats
    assert decode_cycles(half, 254) == pytest.approx(2 * beats, rel=0.05)


def test_longer_contexts_take_longer():
    cycles = [decode_cycles(model(), position) for position in (1, 10, 30, 60)]
    assert cycles == sorted(cycles) and cycles[0] < cycles[-1]


def test_two_chunks_overlap():
    """Two chunks in flight beat one on a prompt of the same chunks."""
    one = replace(TINY, name="one", token_lanes=4)
    two = replace(one, name="two", chunks=2)
    shape = replace(SHAPES["tiny"], hidden_size=128, intermediate_size=512, heads=8)
    assert model(two, shape).run(16, 1).tokens[0] < 0.85 * model(one, shape).run(16, 1).tokens[0]


@pytest.mark.parametrize("name", [name for name, config in PRESETS.items() if config.cache == "contiguous"])
@pytest.mark.parametrize("rest", [0, 1])
def test_long_prompts_are_interpolated(name, rest):
    config = preset(name)
    shape = replace(SHAPES["tiny"], max_context=1024, **({} if name != "kv260" else {"head_dim": 32}))
    groups = 3 * EXACT_GROUPS if name == "kv260" else min(config.max_context // config.token_slots - 1, 40)
    length = groups * config.token_slots + rest
    cycles = model(config, shape)
    assert length // config.token_slots > EXACT_GROUPS
    assert cycles.prefill(length) == pytest.approx(cycles.run(length, 1).tokens[0], rel=0.005)


@pytest.mark.parametrize("latency, efficiency, message", [
    (0, 1.0, "latency must be at least 1 cycle, not 0"), (20, 0.0, "efficiency must be above 0 and at most 1, not 0.0"),
    (20, 1.5, "efficiency must be above 0 and at most 1, not 1.5"), (20, float("nan"), "efficiency must be above 0")])
def test_bad_memory(latency, efficiency, message):
    with pytest.raises(ValueError, match=message):
        Memory(latency, efficiency)


def test_bursts_end_at_multiples():
    assert list(split(0x30, 10, 8, 8)) == [2, 8]
    assert list(split(0x40, 17, 8, 8)) == [8, 8, 1]
    assert list(split(0x48, 3, 8, 8)) == [3]


def test_port_keeps_the_order():
    port = Port(TINY, Memory(latency=10))
    first, second = port.ask(5, 8), port.ask(5, 4)
    assert first == 5 + port.latency and second == first + 8
    assert port.ask(100, 1) == 100 + port.latency


def test_processes_wake_in_order():
    kernel = Kernel()
    signal, said = Signal(kernel), []

    def waits(name):
        yield signal
        said.append((name, kernel.now))

    def fires():
        yield 7
        signal.fire()
        yield 3  # past: at once
        said.append(("fired", kernel.now))

    for process in (waits("a"), waits("b"), fires()):
        kernel.resume(process, 0)
    kernel.run()
    assert said == [("a", 7), ("b", 7), ("fired", 7)]
