"""A stage with faults on demand, a reader with a memory behind it, and their benches; modules with a changed line."""

import importlib.util
import inspect
import random
import sys
from types import ModuleType

import pytest
from amaranth.hdl import Assert, Module, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from llmrtl.sim.bench import UnitBench

FAULTS = ("none", "drops a beat", "unstable payload", "drops valid", "waits for ready", "wrong value",
          "missing last output", "extra output", "assertion", "survives reset", "stops")


class Stage(wiring.Component):
    """One register that adds one to an int8; ``fault`` breaks it."""

    latency = 1
    interval = 1

    def __init__(self, fault: str):
        self.fault = fault
        super().__init__({"i": In(stream.Signature(signed(8))), "o": Out(stream.Signature(signed(8)))})

    def elaborate(self, platform):
        m = Module()
        fault = self.fault
        valid, number, taken = Signal(), Signal(8), Signal(8, reset_less=fault == "survives reset")
        result, item = Signal(signed(8)), Signal(signed(8))
        free = ~valid | (self.o.valid & self.o.ready)
        m.d.comb += [self.i.ready.eq(free), self.o.valid.eq(valid), item.eq(self.i.payload),
                     result.eq(item + 1), self.o.payload.eq(number)]
        offered = self.i.valid & (taken != 20) if fault == "stops" else self.i.valid
        with m.If(free):
            m.d.sync += valid.eq(offered)
            with m.If(offered):
                m.d.sync += [number.eq(result), taken.eq(taken + 1)]
        if fault == "drops a beat":
            with m.If(free & (taken == 13)):
                m.d.sync += valid.eq(0)
        elif fault == "unstable payload":
            with m.If(valid & ~self.o.ready):
                m.d.sync += number.eq(number ^ 64)
        elif fault == "drops valid":
            with m.If(valid & ~self.o.ready & taken[2]):
                m.d.sync += valid.eq(0)
        elif fault == "waits for ready":
            m.d.comb += self.o.valid.eq(valid & self.o.ready)
        elif fault == "wrong value":
            m.d.comb += result.eq(item + 1 + (item == 127))
        elif fault == "missing last output":
            with m.If(free & (taken == 49)):
                m.d.sync += valid.eq(0)
        elif fault == "extra output":
            with m.If(free & ~self.i.valid & (taken == 50)):
                m.d.sync += [valid.eq(1), taken.eq(51)]
        elif fault == "assertion":
            m.d.sync += Assert(~(self.i.valid & (taken == 30)), "thirty items are too many")
        elif fault == "survives reset":
            with m.If(taken == 50):
                m.d.sync += taken.eq(0)
            m.d.comb += result.eq(item + 1 + ((taken == 0) & (item == 5)))
        elif fault == "stops":
            with m.If(taken == 20):
                m.d.comb += self.i.ready.eq(0)
        return m


class StageBench(UnitBench):
    patience = 100

    def stimulus(self, rng: random.Random, case: str):
        return {"i": [127, *(rng.randint(-128, 127) for _ in range(49))]}

    def expected(self, stimulus):
        return {"o": [(item + 1 + 128) % 256 - 128 for item in stimulus["i"]]}


class FirstItemBench(StageBench):
    """The first item must be treated as the first one, after any reset."""

    def stimulus(self, rng: random.Random, case: str):
        return {"i": [5] * 50}

    def expected(self, stimulus):
        return {"o": [7, *([6] * 49)]}


class Reader(wiring.Component):
    """Reads a word for each request: ``i`` -> ``o_address``, ``i_data`` -> ``o``.

    ``done`` counts down; at -30 it waits for ``enable``.
    """

    latency = 0

    def __init__(self):
        pair = data.StructLayout({"tag": 3, "words": data.ArrayLayout(signed(6), 2)})
        super().__init__({
            "i": In(stream.Signature(12)), "o_address": Out(stream.Signature(12)),
            "i_data": In(stream.Signature(pair)), "o": Out(stream.Signature(pair)),
            "offset": In(4), "done": Out(signed(8)), "enable": In(1), "waiting": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.d.comb += [
            self.o_address.payload.eq(self.i.payload + self.offset), self.o_address.valid.eq(self.i.valid),
            self.i.ready.eq(self.o_address.ready),
            self.o.payload.eq(self.i_data.payload), self.o.valid.eq(self.i_data.valid & ~self.waiting),
            self.i_data.ready.eq(self.o.ready & ~self.waiting),
        ]
        with m.If(self.done == -30):
            m.d.sync += self.waiting.eq(1)
        with m.If(self.enable):
            m.d.sync += self.waiting.eq(0)
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += self.done.eq(self.done - 1)
        return m


def word(address: int) -> dict:
    return {"tag": address % 8, "words": [address % 64 - 32, 31 - address % 64]}


class ReaderBench(UnitBench):
    offset = 9

    def stimulus(self, rng: random.Random, case: str):
        return {"i": [rng.randrange(4000) for _ in range(60)]}

    def constants(self):
        return {"offset": self.offset}

    def react(self, stream, payload):
        return {"i_data": [word(payload)]} if stream == "o_address" else {}

    def expected(self, stimulus):
        addresses = [address + self.offset for address in stimulus["i"]]
        return {"o_address": addresses, "o": [{**word(a), "tag": None} for a in addresses]}

    def control(self, cycle, level):
        return {"enable": level("waiting")}

    def levels(self, stimulus):
        return {"done": -60, "waiting": 0}


def mutant(module: ModuleType, old: str, new: str) -> ModuleType:
    """``module`` with ``new`` in place of ``old``, which it has once."""
    source = inspect.getsource(module)
    assert source.count(old) == 1, f"{module.__name__} has {source.count(old)} of {old!r}"
    spec = importlib.util.spec_from_loader(module.__name__ + "_mutant", loader=None)
    assert spec
    changed = importlib.util.module_from_spec(spec)
    changed.__package__ = module.__package__
    sys.modules[spec.name] = changed  # for what looks up its own module
    exec(compile(source.replace(old, new), spec.name, "exec"), changed.__dict__)
    del sys.modules[spec.name]
    return changed


def put_in(module: ModuleType, changed: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``module`` has of a mutant's names becomes the mutant's, until the test is over."""
    for name in set(changed.__all__) & vars(module).keys():
        monkeypatch.setattr(module, name, getattr(changed, name))
