"""The netlist of a unit as Verilog, with models of the ECP5's block RAMs and multipliers."""

import json

from llmrtl.rtl_gen.emit import Emitted
from llmrtl.rtl_gen.registry import emit_unit
from llmrtl.rtl_gen.yosys import synthesize
from llmrtl.rtl_gen.yowasp import run_yosys

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
  wire [13:0] ada = {bus('ADA', 14)}, adb = {bus('ADB', 14)};
  wire [35:0] data = {{{bus('DIB', 18)}, {bus('DIA', 18)}}};
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
        latch[9 * k +: 9] <= memory[read + k] ^ {{9{{writes & (((read + k) & ~(WRITTEN - 1)) == written)
                                                  & (WRITTEN == 1 | ada[(read + k) & (WRITTEN - 1)])}}}};
    if (OCEB) register <= latch;
  end
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


def gates(unit, config, folder):
    """What nextpnr gets of a unit, as Verilog that a simulator can read; and its cells."""
    emitted = emit_unit(unit, config)
    module = json.loads(synthesize(emitted, "ecp5").netlist())["modules"][unit.name]
    cells = list(module["cells"].values())
    for cell in cells:
        assert not any("1" in value for name, value in cell.get("parameters", {}).items() if name.startswith("INITVAL"))
    (folder / "netlist.json").write_text(json.dumps({"modules": {unit.name: module}}))
    (folder / "blocks.v").write_text(block_ram_model() + multiplier_model())
    run_yosys("read_json netlist.json\nread_verilog -overwrite +/ecp5/cells_sim.v\nread_verilog -overwrite blocks.v\n"
              f"hierarchy -top {unit.name}\nproc\nflatten\nmemory_collect\nopt_clean\nwrite_verilog -noattr gates.v\n", folder)
    return Emitted(unit.name, (folder / "gates.v").read_text(), emitted.sidecar), cells
