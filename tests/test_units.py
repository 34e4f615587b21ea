"""Every registered unit, in every preset it names: emitted, linted, put through the menu. Those of tiny run with `make test`;
those of larger presets, and large units in Icarus, take long and run with `make bench`."""

import pytest
from llmrtl.rtl_gen.lint import lint
from llmrtl.rtl_gen.registry import UNITS, emit_unit
from llmrtl.sim.bench.runner import run_unit
from llmrtl.sim.bench.simulators import icarus_missing

EACH = [(unit, name) for unit in UNITS.values() for name in unit.presets]


LARGE = {"attention", "attention_split", "batch_front_end", "executor", "front_end"}
SLOW_IN_ICARUS = {(unit.name, name) for unit, name in EACH if unit.name in LARGE or name in ("tiny_window", "tiny_modes")}


def each(cases, slow=frozenset()):
    return pytest.mark.parametrize(("unit", "name"), [
        pytest.param(unit, name, id=f"{unit.name}-{name}",
                     marks=() if name.startswith("tiny") and (unit.name, name) not in slow else pytest.mark.bench)
        for unit, name in cases])


@each(EACH)
def test_lint(unit, name):
    assert lint(emit_unit(unit, unit.config(name))) == []


@each(EACH)
def test_verilator(unit, name):
    report = run_unit(unit, unit.config(name), "verilator")
    assert report.ok, str(report)


# Icarus interprets: units as wide as a 512-bit word take too long.
IN_ICARUS = [case for case in EACH if case[0].icarus and getattr(case[0].config(case[1]), "bus_bits", 0) < 512]


@each(IN_ICARUS, SLOW_IN_ICARUS)
@pytest.mark.skipif(icarus_missing() is not None, reason=str(icarus_missing()))
def test_icarus(unit, name):
    report = run_unit(unit, unit.config(name), "icarus")
    assert report.ok, str(report)
