"""The bench must find what is wrong: components broken on purpose make the menu fail, and say why."""

import dataclasses
import functools
import sys
from pathlib import Path

import pytest
from llmrtl.accelerators.presets import preset
from llmrtl.rtl_gen.emit import emit
from llmrtl.sim.bench.runner import run_bench
from llmrtl.sim.bench.simulators import icarus_missing

sys.path.insert(0, str(Path(__file__).parent))  # the simulator finds the benches by module name
from mutants import Reader, Stage

needs_icarus = pytest.mark.skipif(icarus_missing() is not None, reason=str(icarus_missing()))


@pytest.fixture
def run(tmp_path):
    return functools.partial(run_in, tmp_path / "run")


def run_in(folder, component, name, bench="StageBench", simulator="icarus", change=None, **options):
    emitted = emit(component, name, preset("tiny"))
    if change:
        assert change[0] in emitted.verilog
        emitted = dataclasses.replace(emitted, verilog=emitted.verilog.replace(*change))
    return run_bench(emitted, f"mutants:{bench}", simulator, seed=3, folder=folder, **options)


@needs_icarus
@pytest.mark.parametrize(("fault", "case", "message"), [
    ("drops a beat", "back_to_back", "wrong value on o: item 13 of 50"),
    ("unstable payload", "back_pressure", "o__payload changed while stalled"),
    ("drops valid", "back_pressure", "o__valid was dropped before o__ready"),
    ("waits for ready", "sink_stalled_from_start", "valid waits for ready: with o stalled from the start"),
    ("wrong value", "back_to_back", "wrong value on o: item 0 of 50 is -127, expected -128"),
    ("missing last output", "back_to_back", "nothing moved for 100 cycles; o has given 49 of 50 items"),
    ("extra output", "back_to_back", "extra output on o: item 50"),
    ("stops", "back_to_back", "i waits for ready with 30 items left; o has given 20 of 50 items"),
])
def test_fault_is_found(run, fault, case, message):
    report = run(Stage(fault), "stage")
    assert not report.ok
    assert message in report.failed[case]
    assert message in str(report)


@needs_icarus
def test_fault_after_reset_is_found(run):
    report = run(Stage("survives reset"), "stage", "FirstItemBench")
    assert "back_to_back" in report.passed
    assert "wrong value on o: item 0 of 50 is 6, expected 7" in report.failed["reset_mid_stream"]


@needs_icarus
def test_wrong_latency_is_found(run):
    stage = Stage("none")
    stage.latency = 0
    report = run(stage, "stage", cases=["latency"])
    assert report.failed == {"latency": "latency is 1 cycles, but the component promises 0"}


@needs_icarus
def test_missing_promise_is_found(run):
    stage = Stage("none")
    stage.latency = stage.interval = None
    report = run(stage, "stage", cases=["latency"])
    assert "the component promises neither latency nor interval" in report.failed["latency"]


@needs_icarus
def test_x_on_a_handshake_is_found(run):
    report = run(Stage("none"), "stage", change=("o__valid <= ", "o__valid <= 1'bx & "))
    assert "is X after reset" in report.failed["back_to_back"]


@pytest.mark.parametrize("simulator", ["verilator", pytest.param("icarus", marks=needs_icarus)])
def test_assertion_is_found(run, simulator):
    report = run(Stage("assertion"), "stage", simulator=simulator)
    assert not report.ok
    assert any("thirty items are too many" in problem for problem in report.problems)
    assert "thirty items are too many" in str(report)


@pytest.mark.parametrize("simulator", ["verilator", pytest.param("icarus", marks=needs_icarus)])
def test_sound_unit_passes(run, simulator):
    report = run(Stage("none"), "stage", simulator=simulator)
    assert report.ok, str(report)
    assert report.figures == {"latency": 1, "interval": 1}
    assert len(report.passed) == 8


@needs_icarus
def test_plain_ports_and_answers(run):
    report = run(Reader(), "reader", "ReaderBench")
    assert report.ok, str(report)


@needs_icarus
def test_unknown_case(run):
    report = run(Stage("none"), "stage", cases=["nonsense"])
    assert not report.ok
    assert "no case ran" in str(report)
