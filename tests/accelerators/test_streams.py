"""Stream plumbing: strict connection, refused parameters, sizes beyond the presets."""

import dataclasses
import random

import pytest
from amaranth.hdl import Module, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.sim import Simulator
from llmrtl.accelerators.presets import preset
from llmrtl.accelerators.streams import ROUND_TRIP, CreditQueue, Downsizer, Fork, Gearbox, Join, Queue, Relay, Upsizer, connect
from llmrtl.rtl_gen.emit import emit
from llmrtl.rtl_gen.lint import lint
from llmrtl.sim.bench.runner import run_bench
from llmrtl.sim.bench.simulators import icarus_missing


def module():
    """A module that is never elaborated, without the warning about it."""
    m = Module()
    m._MustUse__silence = True
    return m


def source(shape, name="o_weights"):
    return stream.Signature(shape).create(path=(name,))


def sink(shape, name="i_lanes"):
    return stream.Signature(shape).flip().create(path=(name,))


def word(element=None, length=4, **more):
    return data.StructLayout({"x": data.ArrayLayout(element or signed(8), length), "last": 1, **more})


def test_connect_same_shape():
    m = module()
    connect(m, source(signed(8)), sink(signed(8)))
    connect(m, source(word()), sink(word()))
    connect(m, source(range(5)), sink(unsigned(3)))
    connect(m, wiring.flipped(sink(word())), sink(word()))


@pytest.mark.parametrize(("left", "right", "message"), [
    (signed(8), unsigned(8), "payload is signed(8) in the source and unsigned(8) in the sink"),
    (word(), word(unsigned(8)), "payload.x[0] is signed(8) in the source and unsigned(8) in the sink"),
    (word(), word(length=2, y=16), "only one side has payload fields y"),
    (word(length=4), word(length=2), "payload.x has 4 elements in the source and 2 in the sink"),
    (data.StructLayout({"a": 8, "b": 8}), data.StructLayout({"b": 8, "a": 8}),
     "payload.a is at bit 0 in the source and 8 in the sink"),
    (data.StructLayout({"a": 8}), 8,
     "payload is StructLayout({'a': 8}) in the source and unsigned(8) in the sink"),
])
def test_connect_refuses_shapes(left, right, message):
    with pytest.raises(ValueError) as caught:
        connect(module(), source(left), sink(right))
    assert str(caught.value) == f"cannot connect o_weights to i_lanes: {message}"


def test_connect_refuses_directions():
    with pytest.raises(ValueError, match="cannot connect i_lanes to o_weights: the source is an input"):
        connect(module(), sink(8), source(8))
    with pytest.raises(ValueError, match="cannot connect o_weights to o_sums: payload are both outputs"):
        connect(module(), source(8), source(8, "o_sums"))
    with pytest.raises(TypeError, match="sink must be an interface object, not 3"):
        connect(module(), source(8), 3)


@pytest.mark.parametrize(("build", "message"), [
    (lambda: Queue(8, 2), r"depth must be in 3..1048576, not 2"),
    (lambda: Queue(8, 2.0), r"depth must be an integer, not 2.0"),
    (lambda: Queue(0, 8), r"shape must have at least one bit, not 0"),
    (lambda: Relay(8, 29), r"stages must be in 1..26, not 29"),
    (lambda: CreditQueue(8, 2), r"depth must be in 3..1024, not 2"),
    (lambda: Fork(8, 1), r"count must be in 2..16, not 1"),
    (lambda: Join({"x": 8}), r"shapes must have at least two fields, not \['x'\]"),
    (lambda: Join([8, 8]), r"shapes must be a mapping of field names to shapes, not \[8, 8\]"),
    (lambda: Gearbox(0, 8), r"in_bits must be in 1..65536, not 0"),
    (lambda: Gearbox(8, "8"), r"out_bits must be an integer, not '8'"),
    (lambda: Downsizer(24, 16), r"in_bits must be a multiple of out_bits, not 24 and 16"),
    (lambda: Upsizer(16, 24), r"out_bits must be a multiple of in_bits, not 24 and 16"),
])
def test_refused_parameters(build, message):
    with pytest.raises((TypeError, ValueError), match=message):
        build()


PATIENCE = 200


def transfer(component, items, seed, offer, take):
    """Put ``items`` through and return what comes out, as plain integers, and the cycles it took."""
    rng = random.Random(seed)
    simulator = Simulator(component)
    simulator.add_clock(1e-8)
    given = []
    cycles = 0

    async def drive(ctx):
        for item in items:
            while rng.random() >= offer:
                await ctx.tick()
            ctx.set(component.i.payload, item)
            ctx.set(component.i.valid, 1)
            await ctx.tick().until(component.i.ready)
            ctx.set(component.i.valid, 0)

    async def collect(ctx):
        nonlocal cycles
        idle = 0
        while idle < PATIENCE:
            ctx.set(component.o.ready, rng.random() < take)
            *_, valid, ready, payload = await ctx.tick().sample(
                component.o.valid, component.o.ready, component.o.payload)
            cycles += 1
            idle = 0 if valid else idle + 1
            if valid and ready:
                given.append((payload.data, payload.last) if hasattr(payload, "data") else payload)

    simulator.add_testbench(drive)
    simulator.add_testbench(collect)
    simulator.run()
    return given, cycles - PATIENCE


PACES = [(1, 1), (0.5, 1), (1, 0.5), (0.6, 0.6)]


@pytest.mark.parametrize("depth", [3, 4, 5, 32, 33, 64, 100])
@pytest.mark.parametrize(("offer", "take"), PACES)
def test_queue(depth, offer, take):
    rng = random.Random(depth)
    items = [rng.randrange(-2048, 2048) for _ in range(250)]
    given, cycles = transfer(Queue(signed(12), depth), items, 1, offer, take)
    assert given == items
    if offer == take == 1:
        assert cycles == len(items) + (2 if depth <= 32 else 3)


@pytest.mark.parametrize("stages", [1, 2, 5, 26])
@pytest.mark.parametrize(("offer", "take"), PACES)
def test_relay(stages, offer, take):
    rng = random.Random(stages)
    items = [rng.randrange(-2048, 2048) for _ in range(250)]
    given, cycles = transfer(Relay(signed(12), stages), items, 1, offer, take)
    assert given == items
    if offer == take == 1:
        assert cycles == len(items) + stages + 2


def test_relay_takes_what_it_has_places_for():
    relay = Relay(8, 3)
    simulator = Simulator(relay)
    simulator.add_clock(1e-8)
    taken = 0

    async def fill(ctx):
        nonlocal taken
        ctx.set(relay.i.valid, 1)
        for _ in range(50):
            taken += ctx.get(relay.i.ready)
            await ctx.tick()

    simulator.add_testbench(fill)
    simulator.run()
    assert taken == 3 + ROUND_TRIP + 2


def test_queue_level_and_capacity():
    queue = Queue(8, 40)
    simulator = Simulator(queue)
    simulator.add_clock(1e-8)

    async def fill(ctx):
        ctx.set(queue.i.valid, 1)
        for count in range(40):
            assert ctx.get(queue.level) == count and ctx.get(queue.i.ready)
            await ctx.tick()
        assert ctx.get(queue.level) == 40 and not ctx.get(queue.i.ready)
        ctx.set(queue.i.valid, 0)
        ctx.set(queue.o.ready, 1)
        for count in reversed(range(40)):
            assert ctx.get(queue.o.valid)
            await ctx.tick()
            assert ctx.get(queue.level) == count

    simulator.add_testbench(fill)
    simulator.run()


def matrix(in_bits, out_bits, words, rng):
    values = [rng.getrandbits(out_bits) for _ in range(words)]
    bits = sum(value << k * out_bits for k, value in enumerate(values))
    count = -(-words * out_bits // in_bits)
    return values, [{"data": bits >> k * in_bits & (1 << in_bits) - 1, "last": k == count - 1}
                    for k in range(count)]


@pytest.mark.parametrize(("in_bits", "out_bits"), [
    (64, 80), (32, 40), (64, 64), (8, 24), (64, 160), (7, 9), (64, 70), (3, 100), (80, 64), (64, 16),
    (64, 40), (9, 7), (1, 2), (2, 1)])
@pytest.mark.parametrize(("offer", "take"), PACES)
def test_gearbox(in_bits, out_bits, offer, take):
    rng = random.Random(in_bits)
    items, expected = [], []
    for words in (1, 2, 3, 1, 17, 40):
        values, packed = matrix(in_bits, out_bits, words, rng)
        whole = len(packed) * in_bits // out_bits  # more than the words where the tail holds some padding
        assert whole == words or in_bits > out_bits
        values += [0] * (whole - words)
        items += packed
        expected += [(value, k == whole - 1) for k, value in enumerate(values)]
    gearbox = Gearbox(in_bits, out_bits)
    given, cycles = transfer(gearbox, items, 2, offer, take)
    assert given == expected
    if offer == take == 1:
        assert cycles == (len(items) if in_bits <= out_bits else len(expected)) + gearbox.latency


@pytest.mark.skipif(icarus_missing() is not None, reason=str(icarus_missing()))
@pytest.mark.parametrize("changes", [
    {"bus_bits": 512, "vector_lanes": 32, "tables": 128}, {"table_rows": 2}, {"group_size": 4},
    {"group_size": 1, "tables": 32}])
def test_gearbox_of_other_configurations(changes, tmp_path):
    config = dataclasses.replace(preset("edge"), **{"max_vector": 4096, **changes})
    emitted = emit(Gearbox.for_config(config), "gearbox", config)
    report = run_bench(emitted, "llmrtl.sim.bench.streams:GearboxBench", "icarus", seed=1, folder=tmp_path)
    assert report.ok, str(report)


@pytest.mark.parametrize("component", [
    lambda: Gearbox(32, 32), lambda: Gearbox(64, 16), lambda: Gearbox(16, 64), lambda: Gearbox(512, 640),
    lambda: Downsizer(32, 32), lambda: Downsizer(48, 16), lambda: Upsizer(32, 32), lambda: Upsizer(16, 48),
    lambda: Queue(signed(5), 3), lambda: Queue(1, 40), lambda: Relay(1, 26), lambda: Fork(4, 3),
    lambda: Join({"a": 1, "b": signed(2)}),
])
def test_lint_of_other_sizes(component):
    assert lint(emit(component(), "unit", None)) == []
