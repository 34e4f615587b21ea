"""K/V records of fp16 elements: through every controller of the cache and a memory, bit for bit."""

import random
from dataclasses import replace

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.sim import Simulator
from llmrtl.accelerators.cache.contiguous import ContiguousCache
from llmrtl.accelerators.cache.fp16 import Fp16Packer, Fp16Splitter
from llmrtl.accelerators.cache.paged import PagedCache
from llmrtl.accelerators.cache.paged_formats import SequenceCommand
from llmrtl.accelerators.cache.window import WindowCache
from llmrtl.accelerators.kv_records import fp16_record_beats
from llmrtl.accelerators.presets import preset
from llmrtl.rtl_gen.emit import emit
from llmrtl.rtl_gen.lint import lint
from llmrtl.sim.bench.fp16 import CORNERS
from llmrtl.sim.bench.runner import run_bench
from llmrtl.sim.golden.cache import pack_fp16, unpack_fp16

# The controller counts words of records of any format; those of 16-bit integers are the longest.
CONFIG = replace(preset("tiny"), bus_bits=64, tables=16, kv_bits=16, max_context=32, block_size=4)
HEAD_DIM, POSITIONS, HEADS = 6, 21, 2
SINKS, RECENT = 3, 8


class Bench:
    """A controller between packer and splitter; memory is a dictionary of words by byte address."""

    def __init__(self, kind):
        self.kind, self.beats, self.memory = kind, fp16_record_beats(HEAD_DIM, CONFIG.bus_bits), {}
        self.cache = {"contiguous": ContiguousCache, "window": WindowCache, "paged": PagedCache}[kind](CONFIG)
        self.packer, self.splitter = Fp16Packer.for_config(CONFIG), Fp16Splitter.for_config(CONFIG)

    def simulate(self, testbench):
        m = Module()
        m.submodules += [self.cache, self.packer, self.splitter]
        simulator = Simulator(m)
        simulator.add_clock(1e-8)
        simulator.add_testbench(testbench)
        simulator.run()

    async def give(self, ctx, port, payload):
        ctx.set(port.payload, payload)
        ctx.set(port.valid, 1)
        await ctx.tick().until(port.ready)
        ctx.set(port.valid, 0)

    async def take(self, ctx, port):
        """What ``port`` offers, taken in the cycle in which it is there."""
        ctx.set(port.ready, 1)
        payload, = await ctx.tick().sample(port.payload).until(port.valid)
        ctx.set(port.ready, 0)
        return payload

    async def start(self, ctx):
        cache = self.cache
        ctx.set(cache.record_beats, self.beats)
        ctx.set(cache.head_stride, 4096)
        if self.kind == "contiguous":
            ctx.set(cache.capacity, POSITIONS)
        elif self.kind == "window":
            ctx.set(cache.sinks, SINKS)
            ctx.set(cache.recent, RECENT)

    async def extend(self, ctx, position):
        if self.kind == "window":
            ctx.set(self.cache.length, position + 1)
        elif self.kind == "paged":
            # Two sequences grow in turn, so that their blocks lie between each other.
            for sequence in range(2):
                await self.give(ctx, self.cache.i_command,
                                {"command": SequenceCommand.EXTEND, "sequence": sequence, "other": 0, "count": 1})
                assert (await self.take(ctx, self.cache.o_done))["error"] == 0

    async def request(self, ctx, write, head, position, count):
        payload = {"write": write, "base": 0x10000, "head": head, "position": position, "count": count}
        if self.kind == "paged":
            payload["sequence"] = 1
        await self.give(ctx, self.cache.i_request, payload)

    async def commands(self, ctx, port, rows):
        """(address, beats) of commands until ``rows`` records are covered."""
        left = rows * self.beats
        while left:
            command = await self.take(ctx, port)
            yield command["address"], command["beats"]
            left -= command["beats"]

    async def write(self, ctx, head, position, key, value):
        await self.request(ctx, 1, head, position, 1)
        async for address, count in self.commands(ctx, self.cache.o_write, 1):
            words, lanes = [], CONFIG.vector_lanes
            items = [{"x": list(vector[at:at + lanes]), "last": at + lanes == HEAD_DIM} for vector in (key, value)
                     for at in range(0, HEAD_DIM, lanes)]
            port, output = self.packer.i, self.packer.o
            ctx.set(output.ready, 1)
            while not words or not words[-1][1]:
                if items:
                    ctx.set(port.payload, items[0])
                ctx.set(port.valid, bool(items))
                taken, valid, word = ctx.get(port.ready) and bool(items), ctx.get(output.valid), ctx.get(output.payload)
                await ctx.tick()
                items = items[1:] if taken else items
                words += [(word["data"], word["last"])] if valid else []
            assert len(words) == count and not items
            for k, (word, _) in enumerate(words):
                self.memory[address + k * CONFIG.bus_bytes] = word

    async def read(self, ctx, head, position, count):
        """``count`` keys and values."""
        await self.request(ctx, 0, head, position, count)
        words = []
        async for address, beats in self.commands(ctx, self.cache.o_read, count):
            words += [self.memory[address + k * CONFIG.bus_bytes] for k in range(beats)]
        splitter = self.splitter
        await self.give(ctx, splitter.i_command, {"rows": count, "beats": self.beats // 2})
        got = {"o_keys": [], "o_values": []}
        for name in got:
            ctx.set(getattr(splitter, name).ready, 1)
        for word in words:
            ctx.set(splitter.i.payload, word)
            ctx.set(splitter.i.valid, 1)
            for name, seen in got.items():
                if ctx.get(getattr(splitter, name).valid):
                    seen.append(ctx.get(getattr(splitter, name).payload)["data"])
            assert ctx.get(splitter.i.ready)
            await ctx.tick()
        ctx.set(splitter.i.valid, 0)
        half = self.beats // 2
        return [unpack_fp16(got["o_keys"][at:at + half] + got["o_values"][at:at + half], HEAD_DIM, CONFIG.bus_bits)
                for at in range(0, count * half, half)]


@pytest.mark.parametrize("kind", ["contiguous", "window", "paged"])
def test_round_trip_through_a_cache(kind):
    """Corners and any other pattern: what was packed, written where the controller says and read so comes back."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng, bench, written = random.Random(seed), Bench(kind), {}
    corners = iter(CORNERS * 50)

    async def testbench(ctx):
        await bench.start(ctx)
        for position in range(POSITIONS):
            await bench.extend(ctx, position)
            for head in range(HEADS):
                vectors = np.array([[next(corners) if rng.random() < 0.7 else rng.getrandbits(16) for _ in range(HEAD_DIM)]
                                    for _ in range(2)], np.uint16)
                await bench.write(ctx, head, position, *(vector.tolist() for vector in vectors))
                written[head, position] = vectors
        spans = [(0, POSITIONS)] if kind != "window" else [(0, SINKS), (POSITIONS - RECENT, RECENT)]
        for head in range(HEADS):
            for first, count in spans:
                for k, vectors in enumerate(await bench.read(ctx, head, first, count)):
                    assert np.array_equal(np.stack(vectors), written[head, first + k]), (head, first + k)
        assert not ctx.get(bench.cache.error)

    bench.simulate(testbench)
    patterns = np.concatenate([vectors.reshape(-1) for vectors in written.values()])
    assert set(CORNERS) <= set(patterns.tolist())
    assert len(bench.memory) == bench.beats * HEADS * (SINKS + RECENT if kind == "window" else POSITIONS)


def test_numbers_pass_as_they_are():
    """As NumPy's float16: NaN with their payloads, both zeros, subnormals."""
    key, value = np.array(CORNERS, np.uint16), np.array(CORNERS[::-1], np.uint16)
    assert np.isnan(key.view(np.float16)).sum() == 6 and np.isinf(key.view(np.float16)).sum() == 2
    for bus_bits in (32, 64, 512):
        beats = pack_fp16(key, value, bus_bits)
        assert len(beats) == fp16_record_beats(len(CORNERS), bus_bits) == 2 * -(-len(CORNERS) * 16 // bus_bits)
        got = unpack_fp16(beats, len(CORNERS), bus_bits)
        assert got[0].tobytes() == key.tobytes() and got[1].tobytes() == value.tobytes()


def test_refusals():
    with pytest.raises(ValueError, match=r"16 \* vector_lanes must divide bus_bits, not 64 and 32"):
        Fp16Packer(32, 4)
    with pytest.raises(ValueError, match=r"bus_bits must be in 32\.\.512, not 16"):
        Fp16Splitter(16, 4)
    with pytest.raises(ValueError, match=r"rows must be in 1\.\.1048576, not 0"):
        Fp16Splitter(32, 0)
    with pytest.raises(ValueError, match="key and value must be of the same length, not 1 and 2"):
        pack_fp16(np.zeros(1, np.uint16), np.zeros(2, np.uint16), 32)
    with pytest.raises(ValueError, match="beats must be the 2 of a record, not 3"):
        unpack_fp16([0] * 3, 2, 32)


@pytest.mark.parametrize(("component", "bench"), [(Fp16Packer, "Fp16PackerBench"), (Fp16Splitter, "Fp16SplitterBench")])
def test_a_wide_bus(component, bench, tmp_path):
    config = replace(preset("edge"), bus_bits=512, vector_lanes=32, tables=128)
    emitted = emit(component.for_config(config), "unit", config)
    assert lint(emitted) == []
    report = run_bench(emitted, f"llmrtl.sim.bench.fp16:{bench}", "verilator", seed=5, folder=tmp_path)
    assert report.ok, str(report)
