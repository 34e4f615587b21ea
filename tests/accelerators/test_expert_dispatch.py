"""Dispatch in configurations beyond the presets, and the cycles that a decision takes, measured."""

from dataclasses import replace

import pytest
from llmrtl.accelerators.experts.config import EXPERT_PRESETS
from llmrtl.rtl_gen.lint import lint
from llmrtl.rtl_gen.registry import UNITS, emit_unit
from llmrtl.sim.bench.runner import run_unit
from llmrtl.sim.bench.simulators import icarus_missing

TINY = EXPERT_PRESETS["tiny_duplex"]
UNIT = UNITS["expert_dispatch"]

CASES = [replace(TINY, name="one_of_13", experts=13, top_k=1, max_tokens=16),
         replace(TINY, name="bf16_3_of_40", element="bf16", experts=40, top_k=3),
         replace(TINY, name="int8_8_of_9", element="int8", experts=9, top_k=8, max_tokens=8)]
SIMULATOR = "verilator" if icarus_missing() else "icarus"  # which needs no compiler


@pytest.mark.bench
@pytest.mark.parametrize("config", CASES, ids=lambda config: config.name)
def test_beyond_the_presets(config):
    assert lint(emit_unit(UNIT, config)) == []
    report = run_unit(UNIT, config, SIMULATOR)
    assert report.ok, str(report)


@pytest.mark.bench
def test_64_experts_are_decided_within_256_cycles():
    report = run_unit(UNIT, EXPERT_PRESETS["duplex"], SIMULATOR, cases=("latency",))
    assert report.ok, str(report)
    assert report.figures["decision"] <= 256


@pytest.mark.bench
@pytest.mark.parametrize("top_k", [1, 8])
def test_router_of_one_or_all_experts(top_k):
    assert lint(emit_unit(UNITS["expert_router"], replace(TINY, name="router", top_k=top_k))) == []
