"""Attention beyond the presets: other formats and shapes, the rate of the port, refused parameters."""

from dataclasses import replace

import pytest
from amaranth.sim import Simulator
from llmrtl.accelerators.attention.engine import Attention
from llmrtl.accelerators.exp import Pow2Negative
from llmrtl.accelerators.presets import preset
from llmrtl.rtl_gen.lint import lint
from llmrtl.rtl_gen.registry import emit_unit, unit
from llmrtl.rtl_gen.yosys import synthesize
from llmrtl.sim.bench.attention import AttentionBench
from llmrtl.sim.bench.runner import run_unit

EDGE = preset("edge")

CONFIGS = {config.name: config for config in (
    replace(EDGE, name="kv16", kv_bits=16, max_head_dim=32),
    replace(EDGE, name="fine", probability_bits=20, query_lanes=3, max_context=64),
    replace(preset("tiny"), name="one_lane", query_lanes=1, logit_frac_bits=8, exp_segments=64,
            max_head_dim=16),
    replace(EDGE, name="wide", bus_bits=128, tables=64, query_lanes=6, max_head_dim=24, probability_bits=18,
            max_context=4096),
    replace(preset("kv260"), name="wide_modes", cache="window", attention_modes=True, probability_bits=26),
    replace(EDGE, name="coarse", bus_bits=256, tables=64, query_lanes=2, probability_bits=12, exp_segments=8,
            logit_frac_bits=16),
    replace(preset("tiny_short"), name="short_of_five", query_lanes=5, token_lanes=5),
    replace(preset("tiny_short"), name="groups_of_two", query_lanes=7, row_cycles=4, kv_storage="int4"),
    replace(preset("tiny_short"), name="short_one", query_lanes=1),
    replace(preset("tiny_short"), name="short_runs", cache="window", query_lanes=8),
    replace(preset("tiny_paged"), name="short_paged", row_cycles=3, max_context=512),
    replace(preset("tiny_modes"), name="short_modes", row_cycles=3),
    replace(preset("kv260"), name="wide_short", row_cycles=2, max_head_dim=64),
)}


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.bench) for name in CONFIGS])
def test_other_shapes(name):
    assert lint(emit_unit("attention", CONFIGS[name])) == []
    report = run_unit(unit("attention"), CONFIGS[name], "verilator",
                      cases=["back_to_back", "boundary", "stress", "rate_of_modes", "rate_of_short_rows"])
    assert report.ok, str(report)


@pytest.mark.bench
def test_parts_of_lanes_side_by_side():
    report = run_unit(unit("attention_split"), CONFIGS["short_modes"], "verilator", cases=["back_to_back", "stress"])
    assert report.ok, str(report)


def test_many_lanes_side_by_side():
    """The passes of all are compared in a tree, not in 2**12 cells."""
    config = replace(preset("tiny_short"), name="most", query_lanes=24, max_head_dim=8, max_context=8)
    assert config.softmax_ways == 12
    assert emit_unit("attention_mix", config).verilog.count("\n") < 20_000


@pytest.mark.bench
@pytest.mark.parametrize("name", ["attention_part_packer", "attention_part_unpacker"])
def test_parts_in_bus_words_that_hold_several_words(name):
    """An odd number of words, so that the last bus word of a part is filled up."""
    assert lint(emit_unit(name, CONFIGS["coarse"])) == []
    report = run_unit(unit(name), CONFIGS["coarse"], "verilator", cases=["back_to_back", "boundary", "stress"])
    assert report.ok, str(report)


def cycles_of(config, rows, head_dim, operations, lanes=None):
    """Cycles in which the beats of several operations were taken, operation after operation."""
    bench = AttentionBench(config)
    one = bench.full(rows, head_dim // config.vector_lanes, lanes)
    unit_ = Attention(config)
    simulator = Simulator(unit_)
    simulator.add_clock(1e-8)
    cycles: list[int] = []
    now = 0

    def source(name):
        async def feed(ctx):
            port = getattr(unit_, name)
            ctx.set(port.valid, 1)
            for item in one[name] * operations:
                if isinstance(item, dict) and "q" in item:
                    item = {"q": [int(value) for value in item["q"]], "last": item["last"]}
                ctx.set(port.payload, item)
                ready = 0
                while not ready:
                    _, _, ready = await ctx.tick().sample(port.ready)
                if name == "i_rows":
                    cycles.append(now)
            ctx.set(port.valid, 0)
        return feed

    async def count(ctx):
        nonlocal now
        ctx.set(unit_.o.ready, 1)
        ctx.set(unit_.o_exponent.ready, 1)
        async for _ in ctx.tick():
            now += 1

    simulator.add_process(count)
    for name in one:
        simulator.add_testbench(source(name))
    simulator.run()
    beats = len(one["i_rows"])
    return [cycles[k * beats:(k + 1) * beats] for k in range(operations)]


def test_full_rate_of_the_port():
    """256 rows of head_dim 48, back to back: a beat every cycle, but for one between operations."""
    _, second, third = cycles_of(EDGE, 256, 48, 3)
    for operation in (second, third):
        assert len(operation) == 256 * 13
        assert operation[-1] - operation[0] + 1 <= len(operation) + 2
    assert third[0] - second[-1] <= 2


@pytest.mark.bench
def test_area_of_short_rows():
    """Two ways through the softmax and sums that are forwarded take at most a quarter more lookup tables."""
    short = preset("tiny_short")
    ours, without = (synthesize(emit_unit("attention", config), "ecp5") for config in (short, replace(short, row_cycles=0)))
    print(f"{ours.lut} LUT, {without.lut} without; {ours.dsp} DSP, {without.dsp} without")
    assert without.lut < ours.lut <= 1.25 * without.lut
    assert ours.dsp == without.dsp + 6


@pytest.mark.parametrize(("config", "head_dim", "lanes", "cycles"), [
    (EDGE, 64, 4, 17), (EDGE, 16, 4, 5), (EDGE, 8, 4, 4), (EDGE, 8, 1, 3), (CONFIGS["wide"], 8, 1, 3)])
def test_cycles_per_row(config, head_dim, lanes, cycles):
    """Short rows are held up by the lanes, or by the accumulators: the last has rows of 2 beats."""
    second = cycles_of(config, 64, head_dim, 2, lanes)[1]
    assert second[-1] - second[0] + 1 <= 64 * cycles + 8


@pytest.mark.parametrize(("change", "message"), [
    ({"frac_bits": 7}, "frac_bits must be in 8..16, not 7"),
    ({"probability_bits": 27}, "probability_bits must be in 12..26, not 27"),
    ({"segments": 12}, "segments must be a power of two, not 12"),
    ({"segments": 256, "frac_bits": 8}, r"segments must be below 2\*\*frac_bits, not 256"),
    ({"width": 12}, "width must be in 13..40, not 12"),
])
def test_pow2_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        Pow2Negative(**({"frac_bits": 12, "probability_bits": 16, "segments": 16, "width": 25} | change))
