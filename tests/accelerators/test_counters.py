"""Performance counters in one memory, against plain integers."""

import random

import pytest
from amaranth.sim import Simulator
from llmrtl.accelerators.control.counters import Counters


def simulate(dut, bench):
    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()


async def totals(ctx, dut):
    """One round: every counter's total."""
    found = {}
    for _ in range(dut.count):
        found[ctx.get(dut.index)] = ctx.get(dut.value)
        await ctx.tick()
    return [found[i] for i in range(dut.count)]


@pytest.mark.parametrize("count", [4, 35])
def test_counts_every_event_since_the_last_clear(count):
    dut = Counters(count)
    rng = random.Random(count)

    async def bench(ctx):
        for _ in range(4):
            model = [0] * count
            for _ in range(rng.randint(1, 200)):
                bits = rng.choice((rng.getrandbits(count), (1 << count) - 1))
                ctx.set(dut.events, bits)
                model = [total + (bits >> i & 1) for i, total in enumerate(model)]
                await ctx.tick()
            ctx.set(dut.events, 0)
            await ctx.tick().repeat(dut.DELAY)
            assert await totals(ctx, dut) == model
            ctx.set(dut.clear, 1)
            ctx.set(dut.events, (1 << count) - 1)  # not counted: same cycle as the clear
            await ctx.tick()
            ctx.set(dut.clear, 0)
            ctx.set(dut.events, 0)
            assert await totals(ctx, dut) == [0] * count

    simulate(dut, bench)


def test_carries_into_the_high_half_and_wraps():
    dut = Counters(8)

    async def bench(ctx):
        await ctx.tick().repeat(16)  # totals are stale after reset
        while ctx.get(dut.index) != 3:
            await ctx.tick()
        ctx.set(dut.totals.data[1], 0xFFFF_FFFF)
        ctx.set(dut.totals.data[2], (1 << 64) - 1)
        await ctx.tick().repeat(4)
        ctx.set(dut.events, 0b0110)
        await ctx.tick().repeat(3)
        ctx.set(dut.events, 0)
        await ctx.tick().repeat(dut.DELAY)
        assert await totals(ctx, dut) == [0, 0x1_0000_0002, 2, 0, 0, 0, 0, 0]

    simulate(dut, bench)


def test_refuses_a_count_out_of_range():
    with pytest.raises(ValueError, match=r"count must be in 4\.\.256, not 3"):
        Counters(3)
