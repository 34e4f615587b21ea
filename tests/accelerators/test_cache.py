"""KV cache units: golden round trip, errors, parameters beyond the presets."""

import dataclasses

import numpy as np
import pytest
from amaranth.sim import Simulator
from llmrtl.accelerators.cache.append import RecordPacker
from llmrtl.accelerators.cache.contiguous import ContiguousCache
from llmrtl.accelerators.cache.paged import PagedCache
from llmrtl.accelerators.cache.select import TopSelect
from llmrtl.accelerators.kv_records import fp16_record_beats, header_in_tail, record_beats
from llmrtl.accelerators.presets import preset
from llmrtl.rtl_gen.emit import emit
from llmrtl.rtl_gen.lint import lint
from llmrtl.sim.bench.runner import run_bench
from llmrtl.sim.bench.simulators import icarus_missing
from llmrtl.sim.golden import cache as golden
from llmrtl.sim.golden import window
from llmrtl.sim.golden.numerics import Scalar


@pytest.mark.parametrize("bus_bits", [32, 64, 128, 512])
@pytest.mark.parametrize("kv_bits", [4, 8, 16])
@pytest.mark.parametrize("head_dim", [2, 20, 56, 64, 96])
def test_record_round_trip(bus_bits, kv_bits, head_dim):
    rng = np.random.default_rng(head_dim)
    half = 1 << kv_bits - 1
    key, value = rng.integers(-half, half, (2, head_dim))
    scales = Scalar(0xABCDEF, -40), Scalar(0, 0)
    beats = golden.pack_record(key, value, *scales, kv_bits=kv_bits, bus_bits=bus_bits)
    assert len(beats) == golden.record_beats(head_dim, kv_bits=kv_bits, bus_bits=bus_bits)
    k, v, key_scale, value_scale = golden.unpack_record(beats, head_dim, kv_bits=kv_bits, bus_bits=bus_bits)
    assert np.array_equal(k, key) and np.array_equal(v, value)
    assert (key_scale, value_scale) == ((0xABCD, -32), (0, 0))


def test_header_in_the_tail_of_the_key():
    scales = Scalar(0x800000, -40), Scalar(0xFFFF00, -41)
    header = 0x8000 | 0xFFE0 << 16 | 0xFFFF << 32 | 0xFFDF << 48
    beats = golden.pack_record([1] * 8, [2] * 8, *scales, kv_bits=8, bus_bits=128)
    assert beats == [header << 64 | 0x0101010101010101, 0x0202020202020202]
    beats = golden.pack_record([1] * 10, [2] * 10, *scales, kv_bits=8, bus_bits=128)
    assert beats == [header, 0x01010101010101010101, 0x02020202020202020202]
    beats = golden.pack_record([-1] * 16, [7] * 16, *scales, kv_bits=4, bus_bits=128)
    assert beats == [header << 64 | 0xFFFFFFFFFFFFFFFF, 0x7777777777777777]


@pytest.mark.parametrize("bus_bits", [32, 64, 128, 256, 512])
@pytest.mark.parametrize("kv_bits", [4, 8, 16])
def test_record_beats(bus_bits, kv_bits):
    """No shorter head has a longer record; the count of words that hardware looks at says the same as the rule."""
    formats = {"kv_storage": "int4"} if kv_bits == 4 else {"kv_bits": kv_bits}
    config = dataclasses.replace(preset("edge"), bus_bits=bus_bits, vector_lanes=2, tables=128, **formats)
    parts = config.kv_lanes // config.vector_lanes
    longest = 0
    for head_dim in range(2, 300, 2):
        in_tail = header_in_tail(head_dim, kv_bits=kv_bits, bus_bits=bus_bits)
        assert in_tail == ((head_dim // 2 - 1) % parts < config.header_words)
        beats = record_beats(head_dim, kv_bits=kv_bits, bus_bits=bus_bits)
        assert beats >= longest and fp16_record_beats(head_dim, bus_bits) <= record_beats(head_dim, kv_bits=16, bus_bits=bus_bits)
        longest = beats
    assert record_beats(96, kv_bits=4, bus_bits=512) == 2 and record_beats(128, kv_bits=4, bus_bits=512) == 3
    assert record_beats(96, kv_bits=8, bus_bits=512) == 4 and record_beats(128, kv_bits=8, bus_bits=512) == 5


def test_golden_refuses():
    with pytest.raises(ValueError, match="elements must fit 8 bits, not 128"):
        golden.pack_record([128], [0], Scalar(0, 0), Scalar(0, 0), kv_bits=8, bus_bits=32)
    with pytest.raises(ValueError, match="key and value must be of the same length, not 1 and 2"):
        golden.pack_record([1], [0, 0], Scalar(0, 0), Scalar(0, 0), kv_bits=8, bus_bits=32)
    with pytest.raises(ValueError, match="beats must be the 4 of a record, not 3"):
        golden.unpack_record([0, 0, 0], 4, kv_bits=8, bus_bits=32)


def test_error_is_sticky_until_cleared():
    cache = ContiguousCache(preset("edge"))
    simulator = Simulator(cache)
    simulator.add_clock(1e-8)

    async def request(ctx, position, count):
        ctx.set(cache.i_request.payload, {"write": 0, "base": 0x1000, "head": 0, "position": position,
                                          "count": count})
        ctx.set(cache.i_request.valid, 1)
        await ctx.tick().until(cache.i_request.ready)
        ctx.set(cache.i_request.valid, 0)

    async def run(ctx):
        ctx.set(cache.capacity, 10)
        ctx.set(cache.record_beats, 17)
        ctx.set(cache.o_read.ready, 1)
        await request(ctx, 10, 1)
        await ctx.tick()
        assert ctx.get(cache.error)
        await request(ctx, 9, 1)
        await ctx.tick().until(cache.o_read.valid)
        assert ctx.get(cache.error)
        ctx.set(cache.clear, 1)
        await ctx.tick()
        ctx.set(cache.clear, 0)
        assert not ctx.get(cache.error)
        await ctx.tick().repeat(3)
        assert not ctx.get(cache.error)

    simulator.add_testbench(run)
    simulator.run()


@pytest.mark.skipif(icarus_missing() is not None, reason=str(icarus_missing()))
@pytest.mark.parametrize("change", [
    {"kv_bits": 16}, {"kv_storage": "int4", "bus_bits": 128, "tables": 32}, {"bus_bits": 128, "tables": 32},
    {"bus_bits": 512, "vector_lanes": 32, "tables": 128}, {"max_context": 1 << 17}], ids=str)
@pytest.mark.parametrize(("component", "bench"), [
    (RecordPacker, "RecordPackerBench"), (ContiguousCache, "ContiguousCacheBench")])
def test_other_configurations(component, bench, change, tmp_path):
    config = dataclasses.replace(preset("edge"), **change)
    emitted = emit(component.for_config(config), "unit", config)
    assert lint(emitted) == []
    report = run_bench(emitted, f"llmrtl.sim.bench.cache:{bench}", "icarus", seed=5, folder=tmp_path)
    assert report.ok, str(report)


@pytest.mark.parametrize(("options", "message"), [
    ({"sequences": 1}, r"sequences must be in 2\.\.256, not 1"),
    ({"block_size": 12}, "block_size must be a power of two"),
    ({"block_size": 1024}, r"block_size must be in 1\.\.512, not 1024"),
    ({"blocks": 1}, r"blocks must be in 2\.\.65536, not 1"),
    ({"blocks": 65536, "block_size": 512}, "rows must be in 1"),
])
def test_paged_cache_refuses_what_it_cannot_have(options, message):
    with pytest.raises(ValueError, match=message):
        PagedCache(preset("edge"), **options)


@pytest.mark.parametrize(("sinks", "recent"), [(4, 12), (0, 5), (3, 1)])
def test_window_against_lists(sinks, recent):
    """Ten times the cache: every slot holds what a list of sinks and recent positions has, and nothing is moved."""
    slots, writes = {}, 0
    for position in range(10 * (sinks + recent)):
        length = position + 1
        (run,) = window.window_runs(position, 1, sinks=sinks, recent=recent, length=length)
        slots[run[0]] = position
        writes += 1
        kept = [*range(min(length, sinks)), *range(max(sinks, length - recent), length)]
        assert sorted(slots.values()) == kept and len(slots) == len(kept)
        assert all(window.slot(each, sinks, recent) == place for place, each in slots.items())
        first = max(sinks, length - recent)
        runs = window.window_runs(first, max(0, length - first), sinks=sinks, recent=recent, length=length)
        assert [slots[place] for start, count, _ in runs for place in range(start, start + count)] == kept[min(length, sinks):]
        assert [at + k for _, count, at in runs for k in range(count)] == kept[min(length, sinks):]
        if first > sinks:
            assert window.window_runs(first - 1, 1, sinks=sinks, recent=recent, length=length) is None
        assert window.window_runs(position, 2, sinks=sinks, recent=recent, length=length) is None
    assert writes == 10 * (sinks + recent)


@pytest.mark.parametrize(("depth", "bits", "message"), [
    (1, 8, r"depth must be in 2\.\.65536, not 1"), (8, 49, r"bits must be in 1\.\.48, not 49")])
def test_top_select_refuses_what_it_cannot_have(depth, bits, message):
    with pytest.raises(ValueError, match=message):
        TopSelect(depth, bits)
