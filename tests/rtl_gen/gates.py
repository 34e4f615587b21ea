"""The netlist of a unit as Verilog: expressions for LUTs, carries and flip-flops, models of the ECP5's memories and multipliers."""

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from llmrtl.rtl_gen.emit import Emitted
from llmrtl.rtl_gen.yosys import synthesize

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


def bus(name, width):
    return "{" + ", ".join(f"{name}{bit}" for bit in reversed(range(width))) + "}"


def block_ram_model():
    """Verilog of a DP16KD that is written on side A and read on side B: words of 9, 18 or 36 bits, or of 1, 2 or 4 on both sides.

    A word that is read while it is written comes out inverted: the device promises nothing. Of a row of initial contents each 20
    bits hold two times nine.
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
  wire [13:0] ada = {bus('ADA', 14)}, adb = {bus('ADB', 14)};
  wire [35:0] data = {{{bus('DIB', 18)}, {bus('DIA', 18)}}};
  wire [10:0] written = ada[13:3] & ~(WRITTEN - 1), read = adb[13:3] & ~(READ - 1);
  wire writes = CEA & WEA;
  integer k;
  task fill(input integer row, input [319:0] values);
    for (k = 0; k < 16; k = k + 1) begin
      memory[32 * row + 2 * k] = values[20 * k +: 9];
      memory[32 * row + 2 * k + 1] = values[20 * k + 9 +: 9];
    end
  endtask
  initial begin
    {' '.join(f'fill({row}, INITVAL_{row:02X});' for row in range(64))}
  end
  reg [35:0] latch = 0, register = 0;
  always @(posedge CLKB) if (OCEB) register <= latch;
  generate
    if (READ != 0) begin
      always @(posedge CLKA)
        for (k = 0; k < WRITTEN; k = k + 1)
          if (writes & (WRITTEN == 1 | ada[k])) memory[written + k] <= data[9 * k +: 9];
      always @(posedge CLKB)
        if (CEB)
          for (k = 0; k < READ; k = k + 1)
            latch[9 * k +: 9] <= memory[read + k] ^ {{9{{writes & (((read + k) & ~(WRITTEN - 1)) == written)
                                                      & (WRITTEN == 1 | ada[(read + k) & (WRITTEN - 1)])}}}};
    end else begin
      wire [2:0] written_bit = ada[2:0] & ~(DATA_WIDTH_A - 1), read_bit = adb[2:0] & ~(DATA_WIDTH_B - 1);
      always @(posedge CLKA) if (writes) memory[ada[13:3]][written_bit +: DATA_WIDTH_A] <= data[DATA_WIDTH_A - 1:0];
      always @(posedge CLKB)
        if (CEB)
          latch[DATA_WIDTH_B - 1:0] <= memory[adb[13:3]][read_bit +: DATA_WIDTH_B]
                                       ^ {{DATA_WIDTH_B{{writes & ada[13:3] == adb[13:3] & written_bit == read_bit}}}};
    end
  endgenerate
  wire [35:0] seen = READ == 4 ? {{REGMODE_B == "OUTREG" ? register[35:18] : latch[35:18],
                                 REGMODE_A == "OUTREG" ? register[17:0] : latch[17:0]}}
                              : {{REGMODE_B == "OUTREG" ? register[17:0] : latch[17:0], 18'b0}};
  assign {{{bus('DOB', 18)}, {bus('DOA', 18)}}} = seen;
endmodule
"""


def multiplier_model():
    """Verilog of a MULT18X18D: registers of the operands and of the product, where they have a clock."""
    inputs = [f"{side}{bit}" for side in "ABC" for bit in range(18)]
    inputs += ["SIGNEDA", "SIGNEDB", "SOURCEA", "SOURCEB", "CLK0", "CE0", "CE1", "CE2", "CE3"]
    return f"""
module MULT18X18D(input {', '.join(inputs)}, output {', '.join(f"P{bit}" for bit in range(36))});
  parameter GSR = "ENABLED";
  {' '.join(f'parameter REG_{name}_CLK = "NONE"; parameter REG_{name}_CE = "CE0";' for name in ("INPUTA", "INPUTB", "OUTPUT"))}
  wire [17:0] ai = {bus('A', 18)}, bi = {bus('B', 18)};
  reg [17:0] ar = 0, br = 0;
  reg [35:0] pr = 0;
  wire [17:0] a = REG_INPUTA_CLK == "CLK0" ? ar : ai, b = REG_INPUTB_CLK == "CLK0" ? br : bi;
  wire signed [18:0] as = {{SIGNEDA & a[17], a}}, bs = {{SIGNEDB & b[17], b}};
  wire [35:0] product = as * bs;
  always @(posedge CLK0) begin
    if (REG_INPUTA_CE == "CE0" ? CE0 : REG_INPUTA_CE == "CE1" ? CE1 : REG_INPUTA_CE == "CE2" ? CE2 : CE3) ar <= ai;
    if (REG_INPUTB_CE == "CE0" ? CE0 : REG_INPUTB_CE == "CE1" ? CE1 : REG_INPUTB_CE == "CE2" ? CE2 : CE3) br <= bi;
    if (CE0) pr <= product;
  end
  assign {bus('P', 36)} = REG_OUTPUT_CLK == "CLK0" ? pr : product;
endmodule
"""



LUT_RAM_MODEL = """
module TRELLIS_DPR16X4(input [3:0] DI, WAD, RAD, input WRE, WCK, output [3:0] DO);
  parameter WCKMUX = "WCK", WREMUX = "WRE";
  parameter [63:0] INITVAL = 64'b0;
  reg [3:0] memory [0:15];
  integer row;
  initial for (row = 0; row < 16; row = row + 1) memory[row] = INITVAL[4 * row +: 4];
  always @(posedge WCK) if (WRE) memory[WAD] <= DI;
  assign DO = memory[RAD];
endmodule
"""


def number(text):
    """Value of a parameter of bits."""
    return int(text.replace("x", "0"), 2)


def function(table, inputs):
    """Expression of a truth table; ``inputs``: lowest bit of its index first. Unknown inputs that do not matter do no harm."""
    if not inputs or table in (0, (1 << (1 << len(inputs))) - 1):
        return "1'b1" if table & 1 else "1'b0"
    *others, selector = inputs
    half = 1 << len(others)
    low, high = table & (1 << half) - 1, table >> half
    ones = (1 << half) - 1
    if low == high:
        return function(low, others)
    when_low, when_high = function(low, others), function(high, others)
    if {low, high} == {0, ones}:
        return selector if high else f"~{selector}"
    if low == 0 or high == 0:
        return f"(~{selector} & {when_low})" if low else f"({selector} & {when_high})"
    if low == ones or high == ones:
        return f"(~{selector} | {when_high})" if low == ones else f"({selector} | {when_low})"
    return f"({selector} ^ {when_low})" if low == high ^ ones else f"({selector} ? {when_high} : {when_low})"


class Nets:
    """What a net is called: bits of registers of up to 32 flip-flops that are alike, ``n`` and its number, or a constant (what is
    undefined is 0)."""

    def __init__(self, module):
        self.names = {"0": "1'b0", "1": "1'b1", "x": "1'b0"}
        alike = defaultdict(list)
        for _, cell in sorted(module["cells"].items()):
            if cell["type"] == "TRELLIS_FF":
                parameters, pins = cell["parameters"], cell["connections"]
                assert parameters.get("SRMODE", "LSR_OVER_CE") == "LSR_OVER_CE" and parameters["CLKMUX"] == "CLK" and "M" not in pins
                key = [(parameters.get(f"{pin}MUX"), pins.get(pin)) for pin in ("CLK", "LSR", "CE")]
                alike[str(key)].append(cell)
        self.registers = [group[first:first + 32] for group in alike.values() for first in range(0, len(group), 32)]
        for number, group in enumerate(self.registers):
            self.names |= {cell["connections"]["Q"][0]: f"r{number}[{bit}]" for bit, cell in enumerate(group)}

    def __getitem__(self, bit):
        return self.names.get(bit, f"n{bit}")

    def bus(self, bits):
        return "{" + ", ".join(self[bit] for bit in reversed(bits)) + "}"

    def flip_flops(self):
        """Declaration and statement of each register."""
        for number, group in enumerate(self.registers):
            pins, parameters = group[0]["connections"], group[0]["parameters"]
            value = f"{len(group)}'b" + "".join("01"[cell["parameters"]["REGSET"] == "SET"] for cell in reversed(group))
            modes = {pin: parameters.get(f"{pin}MUX", pin).strip() for pin in ("LSR", "CE")}
            reset, enable = (f"1'b{mode}" if mode in ("0", "1") else "~" * (mode == "INV") + self[pins[pin][0]]
                             for pin, mode in modes.items())
            data = self.bus([cell["connections"]["DI"][0] for cell in group])
            loaded = f"if ({reset}) r{number} <= {value};\nelse if ({enable}) r{number} <= {data};"
            yield f"reg [{len(group) - 1}:0] r{number} = {value};", f"always @(posedge {self[pins['CLK'][0]]}) {loaded}"

    def carry(self, name, cell):
        """Statements of a CCU2C: two LUTs, each with a sum and a carry."""
        pins, parameters = cell["connections"], cell["parameters"]
        carried = self[pins["CIN"][0]]
        for half in "01":
            inputs = [self[pins[f"{letter}{half}"][0]] for letter in "ABCD"]
            table = number(parameters[f"INIT{half}"])
            both, injected = f"{name}_{half}", parameters[f"INJECT1_{half}"] == "YES"
            generated = function(0 if injected else table & 15, inputs[:2])
            yield f"wire {both} = {function(table, inputs)}, {both}_carry = {both} ? {carried} : {generated};"
            for bit in pins.get(f"S{half}", []):
                yield f"assign {self[bit]} = {both}" + (";" if injected else f" ^ {carried};")
            carried = f"{both}_carry"
        for bit in pins.get("COUT", []):
            yield f"assign {self[bit]} = {carried};"

    def instance(self, name, cell):
        """A cell that has a model."""
        def value(text):
            return f"{len(text)}'b{text.replace('x', '0')}" if re.fullmatch("[01x]+", text) else f'"{text.strip()}"'
        parameters = ", ".join(f".{key}({value(text)})" for key, text in cell.get("parameters", {}).items())
        pins = ", ".join(f".{pin}({self.bus(bits)})" for pin, bits in cell["connections"].items())
        return f"{cell['type']}{f' #({parameters})' * bool(parameters)} {name} ({pins});"


FAULT = """
  integer file, found, fault = 0;
  initial begin
    file = $fopen("fault", "r");
    if (file != 0) found = $fscanf(file, "%d", fault);
  end
"""


def netlist_verilog(name: str, module: dict[str, Any], faults: Sequence[str] = ()) -> str:
    """Verilog of a module of a JSON netlist. ``faults``: LUTs; the output of number N is inverted if the simulation begins in a folder
    with a file ``fault`` that says N (from 1 on)."""
    nets = Nets(module)
    statements = [FAULT] * bool(faults)
    for serial, (full_name, cell) in enumerate(module["cells"].items()):
        pins, kind, label = cell["connections"], cell["type"], f"cell_{serial}"
        if kind == "LUT4":
            table = function(number(cell["parameters"]["INIT"]), [nets[pins[pin][0]] for pin in "ABCD"])
            inverted = f" ^ (fault == {faults.index(full_name) + 1})" if full_name in faults else ""
            statements.append(f"assign {nets[pins['Z'][0]]} = {table}{inverted};")
        elif kind in ("PFUMX", "L6MUX21"):
            selector, high, low = (nets[pins[pin][0]] for pin in (("C0", "ALUT", "BLUT") if kind == "PFUMX" else ("SD", "D1", "D0")))
            statements.append(f"assign {nets[pins['Z'][0]]} = {selector} ? {high} : {low};")
        elif kind == "CCU2C":
            statements += nets.carry(label, cell)
        elif kind in ("DP16KD", "MULT18X18D", "TRELLIS_DPR16X4"):
            statements.append(nets.instance(label, cell))
        elif kind not in ("TRELLIS_FF", "$scopeinfo"):
            raise ValueError(f"there is no model of {kind}")
    declared = []
    for port, found in module["ports"].items():
        declared.append(f"{found['direction']} [{len(found['bits']) - 1}:0] {port}")
        ends = (nets.bus(found["bits"]), port) if found["direction"] == "input" else (port, nets.bus(found["bits"]))
        statements.append("assign {} = {};".format(*ends))
    used = {bit for cell in module["cells"].values() for bits in cell["connections"].values() for bit in bits}
    used |= {bit for port in module["ports"].values() for bit in port["bits"]}
    wires = [f"wire {nets[bit]};" for bit in sorted(used - nets.names.keys())]
    registers = [*nets.flip_flops()]
    wires += [register for register, _ in registers]
    statements = [clocked for _, clocked in registers] + statements
    return "\n".join([f"module {name}({', '.join(declared)});", *wires, *statements, "endmodule", ""])


def gates(emitted: Emitted, faults: int = 0) -> tuple[Emitted, list[dict[str, Any]]]:
    """What nextpnr gets of an emitted unit, as Verilog that a simulator can read; and its cells. ``faults``: so many LUTs, from all
    over the core of an accelerator, can be broken (``netlist_verilog``)."""
    module = json.loads(synthesize(emitted, "ecp5").netlist())["modules"][emitted.name]
    tables = [name for name, cell in module["cells"].items() if cell["type"] == "LUT4" and name.startswith("core.")]
    broken = [tables[(2 * number + 1) * len(tables) // (2 * faults)] for number in range(faults)]
    models = block_ram_model() + multiplier_model() + LUT_RAM_MODEL
    verilog = models + netlist_verilog(emitted.name, module, broken)
    return Emitted(emitted.name, verilog, emitted.sidecar), list(module["cells"].values())
