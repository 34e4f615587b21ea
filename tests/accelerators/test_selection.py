"""Units that choose cache rows: parameters beyond the presets, sticky flags, what they refuse."""

import dataclasses

import pytest
from amaranth.sim import Simulator
from llmrtl.accelerators.cache.deviation import ValueDeviation
from llmrtl.accelerators.cache.means import BlockMeans
from llmrtl.accelerators.cache.recompute import TopShare
from llmrtl.accelerators.cache.retrieval import BlockScores
from llmrtl.accelerators.presets import preset
from llmrtl.rtl_gen.emit import emit
from llmrtl.rtl_gen.lint import lint
from llmrtl.sim.bench.runner import run_bench

WIDE = {"bus_bits": 128, "tables": 32, "max_context": 64, "max_head_dim": 32}
"""Short heads have a record of two beats, with the header behind the key."""

NARROW = {"kv_bits": 16, "max_context": 64, "max_head_dim": 16}


@pytest.mark.parametrize(("component", "bench", "change"), [
    pytest.param(ValueDeviation, "deviation:ValueDeviationBench", WIDE, marks=pytest.mark.bench),
    pytest.param(ValueDeviation, "deviation:ValueDeviationBench", NARROW, marks=pytest.mark.bench),
    pytest.param(BlockMeans, "retrieval:BlockMeansBench", WIDE | {"block_size": 8}, marks=pytest.mark.bench),
    pytest.param(BlockMeans, "retrieval:BlockMeansBench", NARROW, marks=pytest.mark.bench),
    pytest.param(BlockScores, "retrieval:BlockScoresBench", WIDE | {"query_lanes": 1}, marks=pytest.mark.bench),
    pytest.param(BlockScores, "retrieval:BlockScoresBench", NARROW | {"block_size": 4}, marks=pytest.mark.bench),
], ids=str)
def test_other_configurations(component, bench, change, tmp_path):
    config = dataclasses.replace(preset("edge"), **change)
    emitted = emit(component.for_config(config), "unit", config)
    assert lint(emitted) == []
    report = run_bench(emitted, f"llmrtl.sim.bench.{bench}", "verilator", seed=5, folder=tmp_path)
    assert report.ok, str(report)


@pytest.mark.bench
def test_small_blocks_cost_idle_cycles(tmp_path):
    """A block of one row takes NormQuantize longer than the row takes to come: all is right but for the pace."""
    config = dataclasses.replace(preset("tiny"), block_size=1)
    emitted = emit(BlockMeans.for_config(config), "unit", config)
    report = run_bench(emitted, "llmrtl.sim.bench.retrieval:BlockMeansBench", "verilator", seed=5, folder=tmp_path)
    assert set(report.failed) == {"latency"} and not report.problems, str(report)


@pytest.mark.parametrize("component", [ValueDeviation, BlockMeans])
def test_saturated_is_sticky_until_cleared(component):
    unit = component.for_config(preset("tiny"))
    simulator = Simulator(unit)
    simulator.add_clock(1e-8)
    flags = {"first": 1, "last": 1} if component is ValueDeviation else {}
    inputs = [unit.i_old, unit.i_new] if component is ValueDeviation else [unit.i]

    async def send(ctx, exponent):
        """One row of two beats, with both scales 2**0."""
        ctx.set(unit.i_command.payload, {"rows": 1, "beats": 1, "words": 1, "exponent": exponent, **flags})
        ctx.set(unit.i_command.valid, 1)
        await ctx.tick().until(unit.i_command.ready)
        ctx.set(unit.i_command.valid, 0)
        for beat in (0xFFF18000, 0xFFF18000, 0x0101, 0x0101):
            for port in inputs:
                ctx.set(port.payload, beat)
                ctx.set(port.valid, 1)
            waiting = list(inputs)
            while waiting:
                taken = [port for port in waiting if ctx.get(port.ready)]
                await ctx.tick()
                for port in taken:
                    ctx.set(port.valid, 0)
                waiting = [port for port in waiting if port not in taken]
        await ctx.tick().repeat(30)

    async def run(ctx):
        ctx.set(unit.o.ready, 1)
        await send(ctx, -8)
        assert not ctx.get(unit.saturated)
        await send(ctx, -9)
        assert ctx.get(unit.saturated)
        await send(ctx, -8)
        assert ctx.get(unit.saturated)
        ctx.set(unit.clear, 1)
        await ctx.tick()
        ctx.set(unit.clear, 0)
        assert not ctx.get(unit.saturated)

    simulator.add_testbench(run)
    simulator.run_until(1e-5)


@pytest.mark.parametrize(("depth", "bits", "message"), [
    (1, 8, r"depth must be in 2\.\.65536, not 1"), (8, 49, r"bits must be in 1\.\.48, not 49")])
def test_top_share_refuses_what_it_cannot_have(depth, bits, message):
    with pytest.raises(ValueError, match=message):
        TopShare(depth, bits)
