"""Contracts of the proofs on long random runs, far deeper than a solver comes."""

import random
from dataclasses import replace

import pytest
from amaranth.hdl import Signal, Value
from amaranth.sim import Simulator
from llmrtl.accelerators.cache import window
from llmrtl.accelerators.presets import preset
from llmrtl.sim.formal import contract, controllers
from llmrtl.sim.formal import paged as sim_paged
from llmrtl.sim.formal.controllers import AddressContract, WindowContract
from llmrtl.sim.formal.paged import PagedContract

from .mutants import mutant

SMALL = replace(preset("tiny"), max_context=4)


@pytest.fixture
def checks(monkeypatch):
    """Signals in place of assertions and assumptions: the simulator looks at them before everything has settled."""
    made: list[Signal] = []

    def kind(name: str):
        def check(condition):
            made.append(Signal(init=1, name=f"{name}_{len(made)}"))
            return made[-1].eq(Value.cast(condition).bool())
        return check

    for module in (contract, controllers, sim_paged):
        monkeypatch.setattr(module, "Assert", kind("assertion"))
        monkeypatch.setattr(module, "Assume", kind("assumption"))
    return made


def run(contract, checks, cycles: int, payloads, plain=lambda ctx, rng, ports: None) -> None:
    """Inputs that keep the rules of streams, for so many cycles; ``plain`` sets others, cycle by cycle."""
    seed = random.getrandbits(30)
    print(f"seed {seed}")
    rng = random.Random(seed)
    simulator = Simulator(contract)
    simulator.add_clock(1e-8)

    async def drive(ctx):
        ports = {port.name: port for port in contract.ports}
        offered = dict.fromkeys(contract.sources, False)
        pace = 0.5
        for cycle in range(cycles):
            if cycle % 64 == 0:
                pace = rng.choice((0.1, 0.5, 0.9, 1))
            for name, port in ports.items():
                if name.endswith("__ready") or name == "takes":
                    ctx.set(port, int(rng.random() < pace))
            plain(ctx, rng, ports)
            for name in contract.sources:
                if not offered[name] and rng.random() < pace:
                    offered[name] = True
                    ctx.set(ports[f"{name}__payload"], payloads(rng, name))
                ctx.set(ports[f"{name}__valid"], int(offered[name]))
            taken = [name for name, source in contract.sources.items() if offered[name] and ctx.get(Value.cast(source.ready))]
            for each in checks:
                assert ctx.get(each), f"{each.name} fails in cycle {cycle}"
            await ctx.tick()
            for name in taken:
                offered[name] = False

    simulator.add_testbench(drive)
    simulator.run()


def paged_payload(rng: random.Random, name: str) -> int:
    if name == "i_command":  # command, sequence, other, count
        return rng.choice((0, 0, 1, 2, 2, 3, 4)) | rng.getrandbits(2) << 3 | rng.choice((0, 1, 1, 2, 3, 4)) << 5
    position = rng.randint(0, 4)  # write, base, head, position, count, sequence
    count = rng.randint(0, 4 - position)
    return rng.getrandbits(1) | rng.getrandbits(40) << 1 | position << 41 | count << 44 | rng.getrandbits(1) << 47


@pytest.mark.parametrize("blocks", [2, 3])
def test_paged_cache(checks, blocks):
    run(PagedContract(SMALL, blocks=blocks), checks, 3000, paged_payload)


def test_contiguous_cache(checks):
    run(AddressContract(SMALL), checks, 3000, lambda rng, name: rng.getrandbits(47))


def window_run(checks, cycles: int, **options) -> None:
    """Texts of one to seven positions, which change while no request is under way, with two sinks and a ring of two."""
    contract = WindowContract(replace(preset("tiny"), max_context=8), answered=11, **options)
    was_ready = False

    def payload(rng: random.Random, name: str) -> int:
        position = rng.randint(0, 7)
        request = {"write": rng.getrandbits(1), "base": 0, "head": 0, "position": position, "count": rng.randint(0, 7 - position)}
        return contract.component.i_request.p.shape().const(request).as_value().value

    def plain(ctx, rng: random.Random, ports) -> None:
        nonlocal was_ready
        ctx.set(ports["sinks"], 2)
        ctx.set(ports["recent"], 2)
        if was_ready and rng.random() < 0.3:
            ctx.set(ports["length"], rng.randint(1, 7))
        was_ready = ctx.get(contract.component.i_request.ready)

    run(contract, checks, cycles, payload, plain)


def test_window_cache(checks):
    window_run(checks, 3000)


@pytest.mark.parametrize("old, new", [
    ("lap.eq(lap + self.recent)", "lap.eq(lap + 1)"),
    ("(to_lap + self.recent > 0)", "1"),
    ("(to_lap <= self.recent)", "1"),
    ("with m.If(step == POSITION_BITS - 1):", "with m.If(0):"),
    ("beyond.eq(end > self.length)", "beyond.eq(0)"),
    ("(first < oldest)", "(first + 1 < oldest)"),
])
def test_a_fault_of_the_window_is_found(checks, old, new):
    changed = mutant(window, old, new).WindowCache
    with pytest.raises(AssertionError, match=r"^assertion_[0-9]+ fails"):
        window_run(checks, 3000, component=changed)
