"""Every registered unit, in every preset it names: emitted, linted, put through the menu.

`make test` does so in the first preset called tiny: large units in Verilator, the others in Icarus (where it is installed), which needs
no compiler and knows X. `make bench` does so in every preset and in both.
"""

from functools import lru_cache

import pytest
from llmrtl.rtl_gen.lint import lint
from llmrtl.rtl_gen.registry import UNITS, emit_unit
from llmrtl.sim.bench.runner import run_bench
from llmrtl.sim.bench.simulators import icarus_missing

EACH = [(unit, name) for unit in UNITS.values() for name in unit.presets]
# Wholes of the expert unit take up to minutes: their parts are there alone, a small one in tests/sim/test_expert_attention.py.
FIRST = {(unit.name, next((name for name in unit.presets if name.startswith("tiny")), None)) for unit in UNITS.values()
         if unit.name not in ("expert_unit", "expert_device", "expert_attention", "expert_attention_unit")}

# What takes Icarus, which interprets, longer than Verilator and the compiler.
LARGE = {"attention", "attention_split", "attention_weights", "batch_front_end", "block_means", "block_retrieval", "block_scores",
         "evict_cache", "executor", "expert_activation", "expert_core", "expert_decoder", "expert_gemm", "expert_memory",
         "expert_router", "expert_softmax", "expert_streamer", "expert_unit", "front_end", "host_link", "recompute_list", "token_list",
         "record_merge", "sdram_controller", "similar_key", "swap_controller", "value_deviation"}
IN_ICARUS = [case for case in EACH if case[0].icarus and getattr(case[0].config(case[1]), "bus_bits", 0) < 512]
QUICK = {(unit.name, name) for unit, name in IN_ICARUS if unit.name not in LARGE and name != "tiny_modes"} & FIRST


@lru_cache(maxsize=128)  # more than `make test` has
def emitted(unit_name, name):
    return emit_unit(UNITS[unit_name], UNITS[unit_name].config(name))


def each(cases, fast):
    return pytest.mark.parametrize(("unit", "name"), [
        pytest.param(unit, name, id=f"{unit.name}-{name}", marks=() if (unit.name, name) in fast else pytest.mark.bench)
        for unit, name in cases])


@each(EACH, FIRST)
def test_lint(unit, name):
    assert lint(emitted(unit.name, name)) == []


@each(EACH, FIRST if icarus_missing() else FIRST - QUICK)
def test_verilator(unit, name):
    report = run_bench(emitted(unit.name, name), unit.bench, "verilator")
    assert report.ok, str(report)


@each(IN_ICARUS, QUICK)
@pytest.mark.skipif(icarus_missing() is not None, reason=str(icarus_missing()))
def test_icarus(unit, name):
    report = run_bench(emitted(unit.name, name), unit.bench, "icarus")
    assert report.ok, str(report)
