"""Registers of multipliers: what is moved into them and what is not, and that the netlist still does the same."""

import json

import pytest
from llmrtl.accelerators.presets import preset
from llmrtl.rtl_gen.multiplier import use_multiplier_registers
from llmrtl.rtl_gen.registry import UNITS, emit_unit
from llmrtl.sim.bench.runner import run_bench

from .gates import CLOCK, ENABLE, OTHER, gates, register


def multiplier(a=(), b=(), product=()):
    """A multiplier as Yosys makes it, with nets at its lowest pins; the other operand bits are 0."""
    pins = {f"{side}{bit}": [nets[bit]] if bit < len(nets) else ["0"] for side, nets in (("A", a), ("B", b)) for bit in range(18)}
    pins |= {f"P{bit}": [net] for bit, net in enumerate(product)}
    return {"type": "MULT18X18D", "attributes": {}, "parameters": {}, "connections": pins,
            "port_directions": {pin: "output" if pin[0] == "P" else "input" for pin in pins}}


def lut(net, *inputs):
    return {"type": "LUT4", "port_directions": {**dict.fromkeys("ABCD"[:len(inputs)], "input"), "Z": "output"},
            "connections": {**{pin: [bit] for pin, bit in zip("ABCD", inputs, strict=False)}, "Z": [net]}}


def module(outputs=(), inputs=(), **cells):
    return {"cells": cells, "ports": {"o": {"direction": "output", "bits": list(outputs)},
                                      "i": {"direction": "input", "bits": list(inputs)}},
            "netnames": {"inner": {"bits": [10, 11]}, "outer": {"bits": [20, 21]}}}


def pins(cell, *names):
    return [cell["connections"][name] for name in names]


def test_product():
    """Its operands have no registers. Bit 2 of the product is used by nobody."""
    netlist = module([20, 21], [30, 31], product=multiplier([30], [31], [10, 11, 12]), one=register(10, 20), two=register(11, 21))
    assert use_multiplier_registers(netlist) == 2
    assert list(netlist["cells"]) == ["product"]
    cell = netlist["cells"]["product"]
    assert cell["parameters"] == {"REG_OUTPUT_CLK": "CLK0", "REG_OUTPUT_CE": "CE0", "GSR": "DISABLED"}
    assert pins(cell, "P0", "P1", "P2", "CLK0", "CE0") == [[20], [21], [12], [CLOCK], ["1"]]
    assert cell["port_directions"]["CLK0"] == cell["port_directions"]["CE0"] == "input"
    assert netlist["netnames"] == {"inner": {"bits": ["x", "x"]}, "outer": {"bits": [20, 21]}}


@pytest.mark.parametrize("change", [
    {"CEMUX": "CE", "CE": [ENABLE]}, {"CEMUX": "INV", "CE": [ENABLE]}, {"LSR": [OTHER]}, {"LSR": ["1"]}, {"LSRMUX": "INV"},
    {"REGSET": "SET"}, {"CLKMUX": "INV"}, {"CLK": [OTHER]}, {"GSR": "ENABLED"}, {"DI": [], "M": [11]},
], ids=str)
def test_all_registers_of_a_product_or_none(change):
    """The second register is not like the first, which could be moved. The bitstream has no enable for a product's register."""
    netlist = module([20, 21], [30, 31], product=multiplier([30], [31], [10, 11]),
                     one=register(10, 20), two=register(11, 21, **change))
    before = json.dumps(netlist)
    assert use_multiplier_registers(netlist) == 0
    assert json.dumps(netlist) == before


@pytest.mark.parametrize("netlist", [
    module([20], product=multiplier([30], [31], [10]), one=register(10, 20), two=register(10, 21)),
    module([20], product=multiplier([30], [31], [10]), one=register(10, 20), lut=lut(21, 10)),
    module([20, 10], product=multiplier([30], [31], [10]), one=register(10, 20)),
    module([20], product=multiplier([30], [31], [10]), one={**register(10, 20), "attributes": {"keep": "1"}}),
    module([20], product=multiplier([30], [31], []), one=register(10, 20)),
], ids=["register", "LUT", "output", "kept", "unused"])
def test_products_that_something_else_sees(netlist):
    assert use_multiplier_registers(netlist) == 0


def test_operands():
    """Each with an enable of its own; the register of the product stays then."""
    netlist = module([22], [30, 31], product=multiplier([20], [21], [10]), one=register(30, 20),
                     two=register(31, 21, CEMUX="CE", CE=[ENABLE]), three=register(10, 22))
    assert use_multiplier_registers(netlist) == 2
    assert list(netlist["cells"]) == ["product", "three"]
    cell = netlist["cells"]["product"]
    assert cell["parameters"] == {"REG_INPUTA_CLK": "CLK0", "REG_INPUTA_CE": "CE0", "REG_INPUTB_CLK": "CLK0",
                                  "REG_INPUTB_CE": "CE1", "GSR": "DISABLED"}
    assert pins(cell, "A0", "B0", "P0", "CLK0", "CE0", "CE1") == [[30], [31], [10], [CLOCK], ["1"], [ENABLE]]
    assert netlist["netnames"]["outer"]["bits"] == ["x", "x"]


def test_operands_with_one_enable():
    enable = {"CEMUX": "CE", "CE": [ENABLE]}
    netlist = module([10], [30, 31], product=multiplier([20], [21], [10]), one=register(30, 20, **enable),
                     two=register(31, 21, **enable))
    assert use_multiplier_registers(netlist) == 2
    cell = netlist["cells"]["product"]
    assert cell["parameters"]["REG_INPUTA_CE"] == cell["parameters"]["REG_INPUTB_CE"] == "CE1"
    assert cell["connections"]["CE1"] == [ENABLE]


def test_a_number_of_an_enable_belongs_to_one_net_of_the_design():
    """Four nets enable operands; the one of fewest multipliers has no number, so these registers stay."""
    cells, outputs, inputs = {}, [], []
    for k, net in enumerate([61, 62, 62, 63, 63, 64, 64]):
        operands = {"CEMUX": "CE", "CE": [net]}
        a, b = 100 + 10 * k, 101 + 10 * k
        cells |= {f"product_{k}": multiplier([a + 2], [b + 2], [a + 4]), f"a_{k}": register(a, a + 2, **operands),
                  f"b_{k}": register(b, b + 2, **operands)}
        outputs, inputs = [*outputs, a + 4], [*inputs, a, b]
    netlist = module(outputs, inputs, **cells)
    assert use_multiplier_registers(netlist) == 12
    used = [(cell["connections"].get(f"CE{number}"), number) for cell in netlist["cells"].values() for number in range(4)
            if cell["type"] == "MULT18X18D" and f"CE{number}" in cell["connections"]]
    assert sorted(used) == [([62], 1)] * 2 + [([63], 2)] * 2 + [([64], 3)] * 2


def test_an_operand_that_something_else_reads_keeps_its_register():
    netlist = module([10, 20], [30, 31], product=multiplier([20], [21], [10]), one=register(30, 20), two=register(31, 21))
    assert use_multiplier_registers(netlist) == 1
    assert list(netlist["cells"]) == ["product", "one"]
    assert netlist["netnames"]["outer"]["bits"] == [20, "x"]


@pytest.mark.parametrize("change", [
    {"CEMUX": "INV", "CE": [ENABLE]}, {"LSR": [OTHER]}, {"REGSET": "SET"}, {"CLK": [OTHER]}, {"CEMUX": "CE", "CE": [ENABLE]},
], ids=str)
def test_all_registers_of_both_operands_or_none(change):
    """The second register of an operand is not like its first."""
    netlist = module([10], [30, 31, 32], product=multiplier([20, 21], [22], [10]), one=register(30, 20),
                     two=register(31, 21, **change), three=register(32, 22))
    before = json.dumps(netlist)
    assert use_multiplier_registers(netlist) == 0
    assert json.dumps(netlist) == before


@pytest.mark.parametrize(("levels", "moved"), [(3, 2), (4, 0)])
def test_registers_behind_much_logic_stay(levels, moved):
    cells = {f"lut_{level}": lut(41 + level, 40 + level, OTHER) for level in range(levels)}
    netlist = module([10], [40, OTHER, 31], product=multiplier([20], [21], [10]), one=register(40 + levels, 20),
                     two=register(31, 21), **cells)
    assert use_multiplier_registers(netlist) == moved


def test_a_product_that_becomes_an_operand_keeps_its_register_between():
    netlist = module([13], [30, 31, 32], first=multiplier([30], [31], [10]), between=register(10, 20), other=register(32, 22),
                     second=multiplier([20], [22], [12]), last=register(12, 13))
    assert use_multiplier_registers(netlist) == 2
    assert list(netlist["cells"]) == ["first", "other", "second"]
    assert pins(netlist["cells"]["second"], "A0", "B0", "P0") == [[20], [22], [13]]
    assert netlist["cells"]["first"]["connections"]["P0"] == [20]


@pytest.mark.parametrize("operands", [([20, "1"], [21]), ([20, 33], [21])], ids=["constant", "input"])
def test_operands_with_a_bit_that_has_no_register(operands):
    netlist = module([10], [30, 31, 33], product=multiplier(*operands, [10]), one=register(30, 20), two=register(31, 21))
    assert use_multiplier_registers(netlist) == 0


def test_a_register_of_two_multipliers_goes_into_both():
    netlist = module([10, 11], [30, 31], first=multiplier([20], [21], [10]), second=multiplier([20, 20], [21], [11]),
                     one=register(30, 20), two=register(31, 21))
    assert use_multiplier_registers(netlist) == 2
    assert pins(netlist["cells"]["second"], "A0", "A1", "B0") == [[30], [30], [31]]


@pytest.mark.parametrize("kind", ["CCU2C", "DP16KD"])
def test_registers_behind_carries_and_memories_stay(kind):
    source = {"type": kind, "port_directions": {"Z": "output"}, "connections": {"Z": [30]}}
    netlist = module([10], [31], product=multiplier([20], [21], [10]), one=register(30, 20), two=register(31, 21), source=source)
    assert use_multiplier_registers(netlist) == 0


@pytest.mark.parametrize(("name", "registers"), [
    pytest.param("head", "REG_OUTPUT", marks=pytest.mark.bench), ("rope", "REG_INPUTA")])
def test_units_of_gates_pass_the_menu(name, registers, tmp_path):
    """Products of the LM head, operands of rotations."""
    unit = UNITS[name]
    emitted, cells = gates(emit_unit(name, preset("tiny")))
    multipliers = [cell["parameters"] for cell in cells if cell["type"] == "MULT18X18D"]
    assert multipliers and all(parameters[f"{registers}_CLK"] == "CLK0" for parameters in multipliers)
    report = run_bench(emitted, unit.bench, folder=tmp_path / "run")
    assert report.ok, str(report)
