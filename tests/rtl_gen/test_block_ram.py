"""Output registers of block RAMs: what is moved into them and what is not, and that the netlist still does the same."""

import json

import pytest
from llmrtl.accelerators.presets import preset
from llmrtl.rtl_gen.block_ram import use_output_registers
from llmrtl.rtl_gen.registry import UNITS, emit_unit
from llmrtl.sim.bench.runner import run_bench

from .gates import CLOCK, ENABLE, OTHER, gates, register


def memory(a=(), b=(), width=18, **changes):
    """A block RAM with nets ``a`` and ``b`` at its data pins from 0 on."""
    cell = {"type": "DP16KD", "attributes": {},
            "parameters": {"CLKAMUX": "CLKA", "CLKBMUX": "CLKB", "GSR": "DISABLED", "REGMODE_A": "NOREG", "REGMODE_B": "NOREG",
                           "DATA_WIDTH_A": f"{width:032b}", "DATA_WIDTH_B": f"{width:032b}"},
            "connections": {"CLKA": [CLOCK], "CLKB": [CLOCK], "RSTA": ["0"], "RSTB": ["0"], "OCEA": ["0"], "OCEB": ["1"],
                            **{f"DOA{pin}": [net] for pin, net in enumerate(a)},
                            **{f"DOB{pin}": [net] for pin, net in enumerate(b)}}}
    for name, value in changes.items():
        cell["connections" if isinstance(value, list) else "parameters"][name] = value
    cell["port_directions"] = {pin: "output" if pin.startswith("DO") else "input" for pin in cell["connections"]}
    return cell


def module(outputs=(), **cells):
    return {"cells": cells, "ports": {"o": {"direction": "output", "bits": list(outputs)}},
            "netnames": {"data": {"bits": [10, 11]}, "q": {"bits": [20, 21]}}}


def modes(cell):
    return cell["parameters"]["REGMODE_A"], cell["parameters"]["REGMODE_B"]


def test_registers_go_into_the_port_that_they_are_behind():
    """Pin 2 is used by nobody; the other port stays as it is."""
    netlist = module([20, 21], ram=memory(b=[10, 11, 12]), one=register(10, 20), two=register(11, 21))
    assert use_output_registers(netlist) == 2
    assert list(netlist["cells"]) == ["ram"]
    ram = netlist["cells"]["ram"]
    assert modes(ram) == ("NOREG", "OUTREG")
    assert [ram["connections"][pin] for pin in ("DOB0", "DOB1", "DOB2", "OCEA", "OCEB")] == [[20], [21], [12], ["0"], ["1"]]
    assert netlist["netnames"] == {"data": {"bits": ["x", "x"]}, "q": {"bits": [20, 21]}}


def test_each_port_for_itself():
    netlist = module([20, 11], ram=memory(a=[10], b=[11]), one=register(10, 20))
    assert use_output_registers(netlist) == 1
    assert modes(netlist["cells"]["ram"]) == ("OUTREG", "NOREG")
    assert netlist["cells"]["ram"]["connections"]["OCEA"] == ["1"]


def test_clock_enable():
    enable = {"CEMUX": "CE", "CE": [ENABLE]}
    netlist = module([20, 21], ram=memory(b=[10, 11]), one=register(10, 20, **enable), two=register(11, 21, **enable))
    assert use_output_registers(netlist) == 2
    assert netlist["cells"]["ram"]["connections"]["OCEB"] == [ENABLE]


def test_a_port_of_36_bits_has_the_data_pins_of_both_sides():
    enable = {"CEMUX": "CE", "CE": [ENABLE]}
    netlist = module([20, 21], ram=memory([10], [11], 36), one=register(10, 20, **enable), two=register(11, 21, **enable))
    assert use_output_registers(netlist) == 2
    ram = netlist["cells"]["ram"]
    assert modes(ram) == ("OUTREG", "OUTREG")
    assert ram["connections"]["OCEA"] == ram["connections"]["OCEB"] == [ENABLE]


@pytest.mark.parametrize("change", [
    {"LSR": [OTHER]}, {"LSR": ["1"]}, {"LSRMUX": "INV"}, {"REGSET": "SET"}, {"CLKMUX": "INV"}, {"CLK": [OTHER]},
    {"CEMUX": "INV", "CE": [ENABLE]}, {"CEMUX": "CE", "CE": [ENABLE]}, {"GSR": "ENABLED"}, {"DI": [], "M": [11]},
], ids=str)
def test_all_registers_of_a_port_or_none(change):
    """The second register is not like the first, which could be moved."""
    netlist = module([20, 21], ram=memory(b=[10, 11]), one=register(10, 20), two=register(11, 21, **change))
    before = json.dumps(netlist)
    assert use_output_registers(netlist) == 0
    assert json.dumps(netlist) == before


@pytest.mark.parametrize("change", [
    {"RSTB": [OTHER]}, {"RSTB": ["1"]}, {"CLKBMUX": "INV"}, {"CLKB": [OTHER]}, {"REGMODE_B": "OUTREG"}, {"GSR": "ENABLED"},
], ids=str)
def test_memories_whose_register_would_differ(change):
    netlist = module([20], ram=memory(b=[10], **change), one=register(10, 20))
    assert use_output_registers(netlist) == 0
    assert "one" in netlist["cells"]


def test_both_sides_of_36_bits_need_the_same():
    for change in ({"CLKA": [OTHER]}, {"RSTA": [OTHER]}):
        netlist = module([20], ram=memory(b=[10], width=36, **change), one=register(10, 20))
        assert use_output_registers(netlist) == 0


@pytest.mark.parametrize("netlist", [
    module([20], ram=memory(b=[10]), one=register(10, 20), two=register(10, 21)),
    module([20], ram=memory(b=[10]), one=register(10, 20),
           lut={"type": "LUT4", "port_directions": {"A": "input", "Z": "output"}, "connections": {"A": [10], "Z": [21]}}),
    module([20], ram=memory(b=[10]), one=register(10, 20), two=register(12, 21, CEMUX="CE", CE=[10])),
    module([20, 10], ram=memory(b=[10]), one=register(10, 20)),
    module([20], ram=memory(b=[10]), one={**register(10, 20), "attributes": {"keep": "1"}}),
], ids=["register", "LUT", "enable", "output", "kept"])
def test_data_that_something_else_sees(netlist):
    assert use_output_registers(netlist) == 0


def test_memory_without_readers():
    netlist = module([20], ram=memory(), one=register(10, 20))
    assert use_output_registers(netlist) == 0
    assert modes(netlist["cells"]["ram"]) == ("NOREG", "NOREG")


@pytest.mark.parametrize("name", ["ternary_accumulators", pytest.param("ternary_feeder", marks=pytest.mark.bench)])
def test_units_of_gates_pass_the_menu(name, tmp_path):
    """With registers in their memories: of 36 bits in the accumulators, with an enable in the feeder."""
    unit = UNITS[name]
    emitted, cells = gates(emit_unit(name, preset("tiny")))
    memories = [cell["parameters"] for cell in cells if cell["type"] == "DP16KD"]
    assert memories and all(parameters["REGMODE_B"] == "OUTREG" for parameters in memories)
    report = run_bench(emitted, unit.bench, folder=tmp_path / "run")
    assert report.ok, str(report)
