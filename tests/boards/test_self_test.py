"""The ternary engine that tests itself: what it says on the serial line."""

import pytest
from amaranth.sim import Simulator
from llmrtl.boards.self_test import SelfTest, report

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
