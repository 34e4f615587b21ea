"""Arithmetic helpers: refusals, and pipelined pieces against Python over all or many operands."""

import random
from functools import partial
from itertools import product

import pytest
from amaranth.hdl import Module, Signal, signed
from amaranth.sim import Simulator
from llmrtl.accelerators.numerics import Divider, Normalizer, SquareRoot
from llmrtl.accelerators.numerics.pipelined import (
    adder_tree,
    left_justify,
    maximum,
    round_shift,
    saturate,
    signed_product,
    unsigned_product,
)
from llmrtl.accelerators.pipeline import Pipeline


@pytest.mark.parametrize(("make", "error", "message"), [
    (lambda: Divider(0, 1, 1), ValueError, r"numerator_bits must be in 1\.\.128, not 0"),
    (lambda: Divider(8, 4.0, 4), TypeError, "denominator_bits must be an integer, not 4.0"),
    (lambda: Divider(8, 4, 9), ValueError, r"quotient_bits must be in 1\.\.8, not 9"),
    (lambda: Divider(9, 4, 4), ValueError,
     r"numerator_bits must be at most denominator_bits \+ quotient_bits, not 9 and 4 \+ 4"),
    (lambda: Divider(8, 4, 4, 3), ValueError, r"bits_per_cycle must be in 1\.\.2, not 3"),
    (lambda: SquareRoot(65), ValueError, r"bits must be in 1\.\.64, not 65"),
    (lambda: Normalizer(1), ValueError, r"width must be in 2\.\.128, not 1"),
    (lambda: unsigned_product(Pipeline(Module()), Signal(37), Signal(4)), ValueError,
     "value must have at most 36 bits, not 37"),
    (lambda: signed_product(Pipeline(Module()), Signal(signed(35)), Signal(signed(19))), ValueError,
     "operands must have at most 35 and 18 bits, not 35 and 19"),
])
def test_refusals(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("bits_per_cycle", [1, 2])
@pytest.mark.parametrize("quotient_bits", [4, 5])
def test_divider_steps(quotient_bits, bits_per_cycle):
    """All legal operands, also when the steps of a cycle do not divide the quotient; and the promised cycles."""
    divider = Divider(7, 3, quotient_bits, bits_per_cycle)
    cases = [(n, d) for d in range(1, 8) for n in range(min(d << quotient_bits, 1 << 7))]
    found = []

    async def bench(ctx):
        ctx.set(divider.o.ready, 1)
        ctx.set(divider.i.valid, 1)
        for numerator, denominator in cases:
            ctx.set(divider.i.p, {"numerator": numerator, "denominator": denominator})
            for cycle in range(divider.interval):
                assert ctx.get(divider.i.ready) == (cycle == 0)
                assert ctx.get(divider.o.valid) == (cycle == divider.latency)
                if cycle == divider.latency:
                    found.append(ctx.get(divider.o.p.quotient))
                await ctx.tick()

    simulator = Simulator(divider)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert found == [n // d for n, d in cases]


def results(build, inputs, cases):
    """Output of ``build(pipeline, *inputs)`` for each tuple of values, fed one per cycle."""
    m = Module()
    output, latency = build(Pipeline(m), *inputs)
    found = []

    async def bench(ctx):
        for values in [*cases, *[cases[-1]] * latency]:
            for signal, value in zip(inputs, values, strict=True):
                ctx.set(signal, value)
            await ctx.delay(1e-9)  # without registers there is nothing to wait for but settling
            found.append(ctx.get(output))
            await ctx.tick()

    m.d.sync += Signal().eq(1)  # a domain, also when nothing else is clocked
    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return found[latency:]


@pytest.mark.parametrize("multiplier_bits", [18, 27])
@pytest.mark.parametrize("widths", [(5, 7), (18, 18), (19, 18), (18, 19), (24, 26), (34, 26), (36, 26), (36, 36), (32, 16)])
def test_unsigned_product(widths, multiplier_bits):
    rng = random.Random(1)
    extremes = [(0, (1 << width) - 1) for width in widths]
    cases = [*product(*extremes), *(tuple(rng.getrandbits(width) for width in widths) for _ in range(100))]
    inputs = [Signal(width) for width in widths]
    assert results(partial(unsigned_product, multiplier_bits=multiplier_bits), inputs, cases) == [a * b for a, b in cases]


@pytest.mark.parametrize("widths", [(5, 7), (18, 18), (19, 16), (35, 18)])
def test_signed_product(widths):
    rng = random.Random(2)
    ranges = [(-(1 << (width - 1)), (1 << (width - 1)) - 1) for width in widths]
    cases = [*product(*ranges), *(tuple(rng.randint(*each) for each in ranges) for _ in range(100))]
    inputs = [Signal(signed(width)) for width in widths]
    assert results(signed_product, inputs, cases) == [a * b for a, b in cases]


@pytest.mark.parametrize("moving", [False, True])
def test_round_shift(moving):
    for shift in range(64):
        cases = [(value, shift) for value in (-128, 127, -1, 0, 1, -3, 3, 64, -64, 5, -5)]
        found = results(lambda p, value, by: (round_shift(p, value, by, moving=moving), 3),
                        [Signal(signed(8)), Signal(6)], cases)
        assert found == [(value + (1 << shift >> 1)) >> shift for value, _ in cases]


@pytest.mark.parametrize(("width", "keep"), [(47, 24), (17, 17), (18, 17)])
def test_left_justify(width, keep):
    rng = random.Random(3)
    cases = [(rng.getrandbits(length), width - length) for length in range(width + 1) for _ in range(3)]
    found = results(lambda p, value, by: (left_justify(p, value, by, keep), 2),
                    [Signal(width), Signal(range(width + 1))], cases)
    assert found == [(value << by) >> (width - keep) for value, by in cases]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 8])
def test_trees(count):
    rng = random.Random(count)
    cases = [tuple(rng.randint(-8, 7) for _ in range(count)) for _ in range(60)]
    inputs = [Signal(signed(4), name=f"value_{k}") for k in range(count)]
    assert results(lambda p, *values: maximum(p, values), inputs, cases) == [max(case) for case in cases]
    assert results(lambda p, *values: (adder_tree(values), 0), inputs, cases) == [sum(case) for case in cases]
    assert len(adder_tree(inputs)) == 4 + (count - 1).bit_length()


def test_saturate():
    cases = [(value,) for value in range(-32, 32)]
    value, clamped = Signal(signed(6)), Signal(signed(6))
    assert results(lambda p, x: (saturate(x, 4)[0], 0), [value], cases) == [
        max(-8, min(7, x)) for x, in cases]
    assert results(lambda p, x: (saturate(x, 4)[1], 0), [clamped], cases) == [
        int(not -8 <= x <= 7) for x, in cases]
