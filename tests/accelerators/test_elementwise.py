"""Elementwise units: parameters beyond the presets, saturation counts, the command of the next vector."""

from dataclasses import replace

import numpy as np
import pytest
from amaranth.sim import Simulator
from llmrtl.accelerators.elementwise.embedding import Embedding
from llmrtl.accelerators.elementwise.residual import ResidualAdd
from llmrtl.accelerators.presets import preset
from llmrtl.rtl_gen.registry import emit_unit
from llmrtl.sim.bench.numerics import scalar_fields
from llmrtl.sim.bench.runner import run_bench
from llmrtl.sim.golden.elementwise import embed, residual_add
from llmrtl.sim.golden.numerics import Scalar

TINY = preset("tiny")
LANES = TINY.vector_lanes


@pytest.mark.parametrize(("unit", "bench", "change"), [
    ("embedding", "elementwise:EmbeddingBench", {"embedding_bits": 32}),
    ("rope", "elementwise:RopeBench", {"max_vector": 1 << 17}),
    ("residual_add", "elementwise:ResidualAddBench", {"max_vector": 1 << 17}),
    ("glu", "elementwise:GluBench", {"max_vector": 1 << 17}),
    ("glu", "elementwise:GluBench", {"max_vector": 48}),
    ("norm_quantize", "norm_quantize:NormQuantizeBench", {"vector_lanes": 8, "bus_bits": 128, "tables": 32, "multiplier_bits": 27}),
    ("residual_add", "elementwise:ResidualAddBench", {"max_vector": 1 << 17, "multiplier_bits": 27}),
    ("head", "head:HeadMatvecBench", {"head_bits": 4}),
], ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value)))
def test_other_parameters(tmp_path, unit, bench, change):
    config = replace(TINY, name="other", **change)
    report = run_bench(emit_unit(unit, config), f"llmrtl.sim.bench.{bench}", seed=1, folder=tmp_path / "run",
                       cases=["back_to_back", "boundary", "stress", "latency"])
    assert report.ok, str(report)


def words_of(component, command, items, count):
    """(x, saturated) of ``count`` words of a unit with one command and output stalls."""
    found = []

    async def feed(ctx):
        await ctx.tick()  # the command is there by then
        for item in items:
            ctx.set(component.i.payload, item)
            ctx.set(component.i.valid, 1)
            while not ctx.get(component.i.ready):
                await ctx.tick()
            await ctx.tick()
        ctx.set(component.i.valid, 0)

    async def watch(ctx):
        ctx.set(component.i_command.payload, command)
        ctx.set(component.i_command.valid, 1)
        for cycle in range(40 * len(items)):
            ready = int(cycle % 3 == 0)
            ctx.set(component.o.ready, ready)
            if not ctx.get(component.o.valid):
                assert ctx.get(component.saturated) == 0
            elif ready:
                found.append((list(ctx.get(component.o.p.x)), ctx.get(component.saturated)))
            await ctx.tick()
            if len(found) == count:
                return

    simulator = Simulator(component)
    simulator.add_clock(1e-8)
    simulator.add_testbench(feed)
    simulator.add_testbench(watch)
    simulator.run()
    return found


def test_residual_counts_what_it_clamps():
    rng = np.random.default_rng(1)
    sums, residual = rng.integers(-60000, 60001, (20, LANES)), rng.integers(-(1 << 31), 1 << 31, (20, LANES))
    scale = Scalar(3 << 22, -8)
    items = [{"x": [int(v) for v in row], "last": int(last)}
             for k in range(20) for row, last in ((sums[k], 0), (residual[k], k == 19))]
    expected = [residual_add(*pair, scale) for pair in zip(sums, residual, strict=True)]
    assert {count for _, count in expected} == {0, 1, 2}
    found = words_of(ResidualAdd(TINY), {"scale": scalar_fields(scale)}, items, 20)
    assert found == [(list(x), count) for x, count in expected]


def test_embedding_counts_what_it_clamps():
    row = np.random.default_rng(2).integers(-(1 << 15), 1 << 15, (20, LANES))
    items = [{"data": [int(v) for v in word], "last": int(k == 19)} for k, word in enumerate(row)]
    expected = [embed(word, 17) for word in row]
    assert {count for _, count in expected} == {0, 1, 2}
    found = words_of(Embedding(TINY), {"shift": 17}, items, 20)
    assert found == [(list(x), count) for x, count in expected]
