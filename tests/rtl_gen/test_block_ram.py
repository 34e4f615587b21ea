"""Output registers of block RAMs: what is moved into them and what is not, and that the netlist still does the same."""

import json

import pytest
from llmrtl.accelerators.presets import preset
from llmrtl.rtl_gen.block_ram import use_output_registers
from llmrtl.rtl_gen.emit import Emitted
from llmrtl.rtl_gen.registry import UNITS, emit_unit
from llmrtl.rtl_gen.yosys import synthesize
from llmrtl.rtl_gen.yowasp import run_yosys
from llmrtl.sim.bench.runner import run_bench

CLOCK, ENABLE, OTHER = 2, 3, 4


def register(data, q, **changes):
    """A flip-flop as Yosys makes it; ``changes``: parameters, or connections if they are lists."""
    cell = {"type": "TRELLIS_FF", "attributes": {},
            "parameters": {"CEMUX": "1 ", "CLKMUX": "CLK", "GSR": "DISABLED", "LSRMUX": "LSR", "REGSET": "RESET"},
            "connections": {"CLK": [CLOCK], "DI": [data], "LSR": ["0"], "Q": [q]}}
    for name, value in changes.items():
        cell["connections" if isinstance(value, list) else "parameters"][name] = value
    cell["port_directions"] = {pin: "output" if pin == "Q" else "input" for pin in cell["connections"]}
    return cell


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


def _bus(name, width):
    return "{" + ", ".join(f"{name}{bit}" for bit in reversed(range(width))) + "}"


def block_ram_model():
    """Verilog of a DP16KD that is written on side A and read on side B: nine bits at a time, 9, 18 or 36 per word.

    A word that is read while it is written comes out inverted: the device promises nothing.
    """
    inputs = [f"{pin}{side}" for side in "AB" for pin in ("CLK", "CE", "OCE", "WE", "RST")]
    inputs += [f"{bus}{side}{bit}" for side in "AB" for bus, width in (("AD", 14), ("DI", 18), ("CS", 3)) for bit in range(width)]
    outputs = [f"DO{side}{bit}" for side in "AB" for bit in range(18)]
    texts = {"GSR": "AUTO", "RESETMODE": "SYNC", "ASYNC_RESET_RELEASE": "SYNC", "WRITEMODE_A": "NORMAL", "WRITEMODE_B": "NORMAL",
             **{f"{name}_{side}": value for side in "AB" for name, value in (("REGMODE", "NOREG"), ("CSDECODE", "0b000"))},
             "CLKAMUX": "CLKA", "CLKBMUX": "CLKB"}
    parameters = [f'parameter {name} = "{value}";' for name, value in texts.items()]
    parameters += [f"parameter [319:0] INITVAL_{row:02X} = 320'b0;" for row in range(64)]
    return f"""
module DP16KD(input {', '.join(inputs)}, output {', '.join(outputs)});
  {' '.join(parameters)}
  parameter DATA_WIDTH_A = 18;
  parameter DATA_WIDTH_B = 18;
  localparam WRITTEN = DATA_WIDTH_A / 9;
  localparam READ = DATA_WIDTH_B / 9;
  reg [8:0] memory [0:2047];
  wire [13:0] ada = {_bus('ADA', 14)}, adb = {_bus('ADB', 14)};
  wire [35:0] data = {{{_bus('DIB', 18)}, {_bus('DIA', 18)}}};
  wire [10:0] written = ada[13:3] & ~(WRITTEN - 1), read = adb[13:3] & ~(READ - 1);
  wire writes = CEA & WEA;
  integer k;
  always @(posedge CLKA)
    for (k = 0; k < WRITTEN; k = k + 1)
      if (writes & (WRITTEN == 1 | ada[k])) memory[written + k] <= data[9 * k +: 9];
  reg [35:0] latch = 0, register = 0;
  always @(posedge CLKB) begin
    if (CEB)
      for (k = 0; k < READ; k = k + 1)
        latch[9 * k +: 9] <= memory[read + k] ^ {{9{{writes & (((read + k) & ~(WRITTEN - 1)) == written)}}}};
    if (OCEB) register <= latch;
  end
  wire [35:0] seen = READ == 4 ? {{REGMODE_B == "OUTREG" ? register[35:18] : latch[35:18],
                                 REGMODE_A == "OUTREG" ? register[17:0] : latch[17:0]}}
                              : {{REGMODE_B == "OUTREG" ? register[17:0] : latch[17:0], 18'b0}};
  assign {{{_bus('DOB', 18)}, {_bus('DOA', 18)}}} = seen;
endmodule
"""


def gates(unit, config, folder):
    """What nextpnr gets of a unit, as Verilog that a simulator can read; and the parameters of its block RAMs."""
    emitted = emit_unit(unit, config)
    module = json.loads(synthesize(emitted, "ecp5").netlist())["modules"][unit.name]
    memories = [cell["parameters"] for cell in module["cells"].values() if cell["type"] == "DP16KD"]
    for parameters in memories:
        assert not any("1" in value for name, value in parameters.items() if name.startswith("INITVAL"))
    (folder / "netlist.json").write_text(json.dumps({"modules": {unit.name: module}}))
    (folder / "ram.v").write_text(block_ram_model())
    run_yosys("read_json netlist.json\nread_verilog -overwrite +/ecp5/cells_sim.v\nread_verilog -overwrite ram.v\n"
              f"hierarchy -top {unit.name}\nproc\nflatten\nmemory_collect\nopt_clean\nwrite_verilog -noattr gates.v\n", folder)
    return Emitted(unit.name, (folder / "gates.v").read_text(), emitted.sidecar), memories


@pytest.mark.parametrize("name", ["ternary_accumulators", "ternary_feeder"])
def test_units_of_gates_pass_the_menu(name, tmp_path):
    """With registers in their memories: of 36 bits in the accumulators, with an enable in the feeder."""
    unit = UNITS[name]
    emitted, memories = gates(unit, preset("tiny"), tmp_path)
    assert memories and all(parameters["REGMODE_B"] == "OUTREG" for parameters in memories)
    report = run_bench(emitted, unit.bench, folder=tmp_path / "run")
    assert report.ok, str(report)
