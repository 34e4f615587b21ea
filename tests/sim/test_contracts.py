"""Contracts of the proofs on long random runs, far deeper than a solver comes."""

import random
from dataclasses import replace

import pytest
from amaranth.hdl import Signal, Value
from amaranth.sim import Simulator
from llmrtl.accelerators.presets import preset
from llmrtl.sim.formal import contract, controllers
from llmrtl.sim.formal import paged as sim_paged
from llmrtl.sim.formal.controllers import AddressContract
from llmrtl.sim.formal.paged import PagedContract

SMALL = replace(preset("tiny"), max_context=4)


@pytest.fixture
def checks(monkeypatch):
    """Signals in place of assertions: the simulator looks at an assertion before everything has settled."""
    made: list[Signal] = []

    def check(condition):
        made.append(Signal(init=1))
        return made[-1].eq(Value.cast(condition).bool())

    for module in (contract, controllers, sim_paged):
        monkeypatch.setattr(module, "Assert", check)
    return made


def run(contract, checks, cycles: int, payloads) -> None:
    """Inputs that keep the rules of streams, for so many cycles."""
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
            for name in contract.sources:
                if not offered[name] and rng.random() < pace:
                    offered[name] = True
                    ctx.set(ports[f"{name}__payload"], payloads(rng, name))
                ctx.set(ports[f"{name}__valid"], int(offered[name]))
            taken = [name for name, source in contract.sources.items() if offered[name] and ctx.get(Value.cast(source.ready))]
            for number, each in enumerate(checks):
                assert ctx.get(each), f"assertion {number} fails in cycle {cycle}"
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


@pytest.mark.parametrize("pipelined", [False, True])
def test_contiguous_cache(checks, pipelined):
    run(AddressContract(SMALL, pipelined=pipelined), checks, 3000, lambda rng, name: rng.getrandbits(47))
