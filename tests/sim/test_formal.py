"""Proofs of streams and controllers, and that a proof can fail."""

from dataclasses import replace
from pathlib import Path

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from llmrtl.accelerators.cache import paged, paged_commands, paged_requests, swap_moves, swap_tables
from llmrtl.accelerators.presets import preset
from llmrtl.accelerators.streams import StreamBuffer
from llmrtl.rtl_gen.loading import load
from llmrtl.rtl_gen.registry import UNITS, build
from llmrtl.sim.formal.cases import CASES
from llmrtl.sim.formal.contract import StreamContract
from llmrtl.sim.formal.paged import PagedContract
from llmrtl.sim.formal.prove import missing_tools, prove
from llmrtl.sim.formal.swap import SlotContract
from llmrtl.sim.formal.table import contracts_text, table, units_text
from llmrtl.sim.formal.units import UNPROVED

from .mutants import mutant, put_in

TIGHT = ("burst_reader_answers", "burst_writer_answers", "write_arbiter_answers", "port_stripe_answers", "row_mover_answers",
         "window_cache")
"""Proofs whose bound is the smallest that holds."""

pytestmark = pytest.mark.skipif(missing_tools() is not None, reason=str(missing_tools()))


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.formal if case.slow else ()) for name, case in CASES.items()])
def test_proof(name):
    case = CASES[name]
    proof = prove(name, case.contract(), method=case.method, depth=case.depth)
    assert proof.proved, proof.log


def test_a_wait_is_long_enough_to_be_seen():
    """A bound that is not below the depth of its proof cannot fail."""
    for name, case in CASES.items():
        if case.method == "bounded" and not name.startswith("unit_"):
            answered = case.contract().answered
            assert answered is None or answered < case.depth, name


@pytest.mark.formal
@pytest.mark.parametrize("name", TIGHT)
def test_no_lower_bound_holds(name):
    case = CASES[name]
    contract = case.contract()
    contract.answered -= 1
    proof = prove("lower", contract, method=case.method, depth=case.depth)
    assert not proof.proved and "Assert failed" in proof.log


def test_every_unit_with_streams_is_proved_or_named():
    proved = {type(case.contract().component) for case in CASES.values()}
    for name, unit in UNITS.items():
        covered = any(issubclass(kind, load(unit.component)) for kind in proved)
        if name in UNPROVED:
            assert not covered, f"{name} has a proof: not one of UNPROVED"
        elif not covered:
            with pytest.raises(ValueError, match="there is nothing to prove"):
                StreamContract(build(unit, unit.config(unit.presets[0]))).elaborate(None)
    assert UNPROVED.keys() <= UNITS.keys()


class Careless(wiring.Component):
    """Offers the input as it is, a register late, whether the last item was taken or not."""

    def __init__(self):
        super().__init__({"i": In(stream.Signature(4)), "o": Out(stream.Signature(4))})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.i.ready.eq(1)
        m.d.sync += [self.o.valid.eq(self.i.valid), self.o.payload.eq(self.i.payload)]
        return m


class Swapping(wiring.Component):
    """A buffer that gives items 1 and 2 with their payloads exchanged for zeros."""

    def __init__(self):
        super().__init__({"i": In(stream.Signature(2)), "o": Out(stream.Signature(2))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.buffer = buffer = StreamBuffer(2)
        wiring.connect(m, wiring.flipped(self.i), buffer.i)
        count = Signal(3)
        m.d.comb += [self.o.valid.eq(buffer.o.valid), buffer.o.ready.eq(self.o.ready), self.o.payload.eq(buffer.o.payload)]
        with m.If(self.o.valid & self.o.ready & (count < 7)):
            m.d.sync += count.eq(count + 1)
        with m.If(count == 1):
            m.d.comb += self.o.payload.eq(0)
        return m


@pytest.mark.parametrize("name, contract", [
    ("careless", lambda: StreamContract(Careless())),
    ("swapping", lambda: StreamContract(Swapping(), order=("i", "o"), items=4)),
    ("patient", lambda: StreamContract(StreamBuffer(1), answered=1)),
])
def test_a_broken_promise_is_found(name, contract):
    proof = prove(name, contract(), method="bounded", depth=8)
    assert not proof.proved and "Assert failed" in proof.log


FAULTS = {  # of the paged cache, behind which commands they can be seen, in how many cycles
    "a copy keeps its source": (paged_commands, 'with m.If(cache.o_copy.ready):\n            m.next = "LEAVE"',
                                'with m.If(cache.o_copy.ready):\n            m.next = "GROW"',
                                [(0, 0, 0, 3), (1, 1, 0, 3), (0, 1, 0, 1)], 40),
    "a shared block is written": (paged_requests, "with m.If(tables.pool.o.p.count > 1):", "with m.If(tables.pool.o.p.count > 2):",
                                  [(0, 0, 0, 3), (1, 1, 0, 3)], 34),
}


@pytest.mark.formal
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_the_paged_cache_is_found(name, monkeypatch):
    module, old, new, begins, depth = FAULTS[name]
    put_in(paged, mutant(module, old, new), monkeypatch)
    proof = prove("fault", PagedContract(replace(preset("tiny"), max_context=4), blocks=3, begins=begins, component=paged.PagedCache),
                  method="bounded", depth=depth)
    assert not proof.proved and "Assert failed" in proof.log


@pytest.mark.formal
def test_a_slot_that_is_given_back_and_not_counted_is_found(monkeypatch):
    old = "m.d.sync += room.eq(room + 1)"
    put_in(swap_tables, mutant(swap_moves, old, old.replace(" + 1", "")), monkeypatch)
    proof = prove("slot_fault", SlotContract(40), method="bounded", depth=40)
    assert not proof.proved and "Assert failed" in proof.log


def test_the_table_in_the_docs():
    text = (Path(__file__).parents[2] / "docs" / "verification.md").read_text()
    for part in (table(), contracts_text(), units_text()):
        assert part in text, "docs/verification.md: put in what `python -m llmrtl.sim.formal.table` prints"


def test_refuses_another_method():
    with pytest.raises(ValueError, match="method must be one of induction, bounded, not 'hope'"):
        prove("none", StreamContract(StreamBuffer(1)), method="hope", depth=3)
