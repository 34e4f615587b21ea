"""The machine with one flip-flop per state."""

import pytest
from amaranth.hdl import Module, Signal
from amaranth.sim import Simulator
from llmrtl.accelerators.control.steps import Steps


def test_goes_drives_and_sets():
    m = Module()
    start, busy, count, level = Signal(), Signal(), Signal(4, init=9), Signal(3)
    with Steps(m, "IDLE") as steps:
        with steps.state("IDLE"), m.If(start):
            steps.set(count, 2)
            steps.go("COUNT")
        with steps.state("COUNT"):
            steps.drive(busy, 1)
            steps.drive(level, 5)
            steps.set(count, count - 1)
            with m.If(count == 0):
                steps.go("LAST")
        with steps.state("LAST"):
            steps.drive(level, 2)
            steps.go("IDLE")
        idle = steps.ongoing("IDLE")

    async def bench(ctx):
        seen = []
        for cycle in range(9):
            ctx.set(start, cycle == 1)
            seen.append(tuple(ctx.get(signal) for signal in (idle, busy, level, count)))
            await ctx.tick()
        assert seen == [(1, 0, 0, 9), (1, 0, 0, 9), (0, 1, 5, 2), (0, 1, 5, 1), (0, 1, 5, 0), (0, 0, 2, 15), (1, 0, 0, 15),
                        (1, 0, 0, 15), (1, 0, 0, 15)]

    simulator = Simulator(m)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()


def test_refuses_a_state_that_is_not_defined():
    with pytest.raises(ValueError, match="states THERE are gone to, but not defined"), Steps(Module(), "HERE") as steps, \
            steps.state("HERE"):
        steps.go("THERE")


def test_refuses_a_state_that_is_defined_twice():
    with pytest.raises(ValueError, match="state 'HERE' is defined twice"), Steps(Module(), "HERE") as steps:
        for _ in range(2):
            with steps.state("HERE"):
                steps.go("HERE")


def test_refuses_part_of_a_signal():
    with pytest.raises(TypeError, match="only whole signals are driven and set"), Steps(Module(), "HERE") as steps, \
            steps.state("HERE"):
        steps.drive(Signal(4)[1:], 1)
