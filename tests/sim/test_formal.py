"""Proofs of streams and controllers, and that a proof can fail."""

from dataclasses import replace
from pathlib import Path

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator
from llmrtl.accelerators.cache import (
    addresses,
    append,
    evict_cache,
    paged,
    paged_commands,
    paged_requests,
    paged_tables,
    select,
    similar,
    swap,
    swap_moves,
    swap_tables,
    swap_walk,
)
from llmrtl.accelerators.cache.evict_formats import Outcome
from llmrtl.accelerators.cache.swap_formats import SwapCommand
from llmrtl.accelerators.experts import softmax
from llmrtl.accelerators.memory import vector
from llmrtl.accelerators.presets import preset
from llmrtl.accelerators.streams import StreamBuffer
from llmrtl.rtl_gen.loading import load
from llmrtl.rtl_gen.registry import UNITS, build
from llmrtl.sim.formal.cases import BEGUN, CASES
from llmrtl.sim.formal.contract import StreamContract
from llmrtl.sim.formal.controllers import SelectContract
from llmrtl.sim.formal.evict import EvictContract
from llmrtl.sim.formal.paged import LookupContract, PagedContract
from llmrtl.sim.formal.prove import missing_tools, prove
from llmrtl.sim.formal.responses import RecordContract, RowContract
from llmrtl.sim.formal.swap import SlotContract, SwapAnswerContract
from llmrtl.sim.formal.table import contracts_text, table, units_text

from .mutants import mutant, put_in
from .unstable import UNSTABLE

TIGHT = (
    *((name, "answered") for name in ("block_pool_owners", "burst_reader_answers", "burst_writer_answers", "write_arbiter_answers",
                                      "port_stripe_answers", "row_mover_answers", "window_cache", "record_packer_answers")),
    *((name, "within") for name in ("row_addresses_answers", "record_packer_answers", "top_select_answers", "paged_cache_answers",
                                    "evict_cache_adds", "evict_cache_refuses")),
    ("evict_cache_refuses", "taken"), ("paged_lookups_full", "within"), ("paged_lookups_full", "given"),
)
"""Proofs whose bound is the smallest that holds."""

REACHED = (("swap_controller_answers", "command"), ("swap_controller_answers", "request"), ("swap_controller_leaves", "swap"),
           ("swap_controller_returns", "swap"))
"""Of ``SwapBounds``, which leave room for changes: half of it does not hold."""


NOT_ALL = ("window_cache", "paged_", "evict_", "swap_controller_")
"""Bounded proofs that do not come to every stream: what gives some is left out, or nobody stalls."""


def folder(*names: str) -> str:
    """Of a proof of its own: tests run side by side."""
    return "_".join(names).replace(" ", "_")


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
            contract = case.contract()
            bounds = [*(getattr(contract, each, None) for each in ("answered", "within", "taken", "given")),
                      *vars(getattr(contract, "bounds", object)).values()]
            assert all(bound < case.depth for bound in bounds if isinstance(bound, int)), name


@pytest.mark.formal
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.method == "bounded" and not name.startswith(NOT_ALL)])
def test_a_bounded_proof_comes_to_every_stream(name):
    case = CASES[name]
    proof = prove(folder("reached", name), case.contract(), method="reached", depth=case.depth)
    assert proof.proved, proof.log


@pytest.mark.formal
def test_a_proof_that_ends_too_early_is_found():
    assert not prove("too_early", CASES["unit_divider"].contract(), method="reached", depth=10).proved


@pytest.mark.parametrize("name", BEGUN)
def test_the_paged_cache_begins_in_so_many_cycles(name):
    blocks, cycles, begins = BEGUN[name]
    cache = paged.PagedCache(replace(preset("tiny"), max_context=4), sequences=2, block_size=PagedContract.BLOCK_SIZE, blocks=blocks)
    simulator = Simulator(cache)
    simulator.add_clock(1e-8)
    taken = 0

    async def play(ctx):
        nonlocal taken
        ctx.set(cache.o_done.ready, 1)
        ctx.set(cache.o_copy.ready, 1)
        for command in begins:
            ctx.set(cache.i_command.p, dict(zip(("command", "sequence", "other", "count"), command, strict=True)))
            ctx.set(cache.i_command.valid, 1)
            while not ctx.get(cache.i_command.ready):
                await ctx.tick()
                taken += 1
            await ctx.tick()
            taken += 1
            ctx.set(cache.i_command.valid, 0)
        while not ctx.get(cache.o_done.valid):
            await ctx.tick()
            taken += 1
        assert ctx.get(cache.o_done.p.error) == 0

    simulator.add_testbench(play)
    simulator.run()
    assert taken + 1 == cycles


@pytest.mark.formal
@pytest.mark.parametrize("name, bound", TIGHT)
def test_no_lower_bound_holds(name, bound):
    case = CASES[name]
    contract = case.contract()
    setattr(contract, bound, getattr(contract, bound) - 1)
    proof = prove(folder("lower", name, bound), contract, method=case.method, depth=case.depth)
    assert not proof.proved and "Assert failed" in proof.log


@pytest.mark.formal
@pytest.mark.parametrize("name, bound", REACHED)
def test_a_bound_is_reached_by_half(name, bound):
    case = CASES[name]
    contract = case.contract()
    contract.bounds = replace(contract.bounds, **{bound: getattr(contract.bounds, bound) // 2})
    proof = prove(folder("half", name, bound), contract, method=case.method, depth=case.depth)
    assert not proof.proved and "Assert failed" in proof.log


def test_every_unit_with_streams_is_proved():
    proved = {type(case.contract().component) for case in CASES.values()}
    for unit in UNITS.values():
        if not any(issubclass(kind, load(unit.component)) for kind in proved):
            with pytest.raises(ValueError, match="there is nothing to prove"):
                StreamContract(build(unit, unit.config(unit.presets[0]))).elaborate(None)


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
    "a copy keeps its source": (paged_commands, "tables.leaves.eq(1)", "tables.leaves.eq(0)",
                                [(0, 0, 0, 3), (1, 1, 0, 3), (0, 1, 0, 1)], 40),
    "a shared block is written": (paged_requests, "beyond | (request.write & ~none & tables.denied)", "beyond",
                                  [(0, 0, 0, 3), (1, 1, 0, 3)], 34),
}


_HELD, _FORKED = [(0, 0, 0, 3)], [(0, 0, 0, 3), (1, 1, 0, 3)]
LOOKUP_FAULTS = {  # likewise, of its lookups
    "a block that is given back stays in the table": (
        paged_tables, "self.keep.data.held.eq(look.index)", "self.keep.data.held.eq(look.index + 1)", _HELD, 20),
    "its positions stay": (paged_tables, "self.keep.data.length.eq(look.index << self.offset_bits)",
                           "self.keep.data.length.eq(its.length)", _HELD, 20),
    "the block of another sequence": (
        paged_tables, "self.entry.addr.eq(look.index | look.sequence << self.index_bits)",
        "self.entry.addr.eq(look.index | self.sequence << self.index_bits)", [(0, 0, 0, 1), (0, 1, 0, 1)], 22),
    "the word of a command": (paged_tables, "m.If(self.awaits & ~(look.release", "m.If(~(look.release", _HELD, 20),
    "whether another block is shared": (paged_tables, "o_look.p.shared.eq(self.shared)", "o_look.p.shared.eq(self.denied)",
                                        [(0, 0, 0, 3), (1, 1, 0, 1)], 24),
    "not the last block": (paged_tables, 'm.next = "LAST"', 'm.next = "FIND"', _HELD, 20),
    "nothing is given back": (paged_tables, 'm.next = "GIVE"', 'm.next = "TELL"', _HELD, 20),
    "given back before the pool takes it": (paged_tables, "with m.If(pool.ready):\n", "with m.If(1):\n", _FORKED, 30),
    "in the place of a copied block": (paged_tables, "(self.returns & ~self.leaves)", "self.returns", _FORKED, 30),
    "given back under a request": (paged_tables, "requested.eq((self.serving &", "requested.eq((0 &", _HELD, 20),
    "a request that comes does not see it": (paged_tables, "| (offered.valid &", "| (0 &", _HELD, 20),
    "rows are given again": (paged_tables, "m.d.sync += self.again.eq(0)", "pass", _HELD, 22),
    "a tail is not forgotten": (paged_tables, "m.d.sync += self.tail.valid.eq(0)", "pass", [(0, 0, 0, 1)], 20),
    "given back with commands only": (paged_tables, " | (self.awaits & ~self.cache.i_command.valid)", "", _HELD, 20),
}


@pytest.mark.formal
@pytest.mark.parametrize("name", [*FAULTS, *LOOKUP_FAULTS])
def test_a_fault_of_the_paged_cache_is_found(name, monkeypatch):
    module, old, new, begins, depth = (FAULTS | LOOKUP_FAULTS)[name]
    put_in(paged, mutant(module, old, new), monkeypatch)
    kind = LookupContract if name in LOOKUP_FAULTS else PagedContract
    contract = kind(replace(preset("tiny"), max_context=4), blocks=3, begins=begins, component=paged.PagedCache)
    proof = prove(folder("fault", name), contract, method="bounded", depth=depth)
    assert not proof.proved and "Assert failed" in proof.log


SHORT_RECORDS = replace(preset("tiny"), max_head_dim=4)
NO_ANSWER = {  # what never comes, with a changed line: the module, its line, a contract of what the module has then, cycles
    "rows have too few places": (
        addresses, "m.submodules.commands = commands = CreditQueue(self.o.p.shape(), STAGES + ROUND_TRIP)",
        "m.submodules.commands = commands = CreditQueue(self.o.p.shape(), 3)",
        lambda unit: RowContract(within=7, answered=4, component=unit.RowAddresses), 14),
    "rows come three cycles late": (
        addresses, "commands.i.valid.eq(pipeline.register(commands.spend, STAGES, reset=True))",
        "commands.i.valid.eq(pipeline.register(commands.spend, STAGES + 3, reset=True))",
        lambda unit: RowContract(within=7, component=unit.RowAddresses), 15),
    "a record does not end": (
        append, "in_data.eq((in_data | queue.o.valid) & ~ends)", "in_data.eq(in_data | queue.o.valid)",
        lambda unit: RecordContract(SHORT_RECORDS, within=5, answered=10, component=unit.RecordPacker), 16),
    "scales wait for ever": (
        append, "beat.eq(0), scales.eq(0), in_data.eq(1)]", "beat.eq(0), in_data.eq(1)]",
        lambda unit: RecordContract(SHORT_RECORDS, within=5, answered=10, component=unit.RecordPacker), 16),
    "a selection does not begin": (
        select, "with m.If(bit[0]):", "with m.If(~bit[0]):",
        lambda unit: SelectContract(2, 1, within=13, component=unit.TopSelect), 18),
    "a selection does not end": (
        select, "with m.If(moves & done & ~self.o.valid):", "with m.If(moves & done & self.o.valid):",
        lambda unit: SelectContract(2, 1, within=13, answered=16, component=unit.TopSelect), 24),
    "a request is not passed on": (
        swap, "passes.eq(tables.pending & tables.checked & tables.plain)", "passes.eq(active & tables.checked & tables.plain)",
        lambda unit: SwapAnswerContract(component=unit.SwapController), 34),
    "a refused append waits for ever": (
        evict_cache, "with m.If(bursts.idle & ~decisions.busy):", "with m.If(~bursts.idle & ~decisions.busy):",
        lambda unit: EvictContract(Outcome.REFUSED, within=17, taken=15, component=unit.EvictCache), 23),
}


@pytest.mark.formal
@pytest.mark.parametrize("name", NO_ANSWER)
def test_what_does_not_come_is_found(name):
    module, old, new, contract, depth = NO_ANSWER[name]
    proof = prove(folder("no answer", name), contract(mutant(module, old, new)), method="bounded", depth=depth)
    assert not proof.proved and "Assert failed" in proof.log


@pytest.mark.formal
def test_a_move_that_does_not_end_is_found(monkeypatch):
    old = "with m.If(busy & i_moved.valid):\n            m.d.sync += busy.eq(0)"
    put_in(swap_tables, mutant(swap_moves, old, old.replace("busy.eq(0)", "busy.eq(1)")), monkeypatch)
    proof = prove("no_move", SwapAnswerContract(about=SwapCommand.SWAP_OUT), method="bounded", depth=54)
    assert not proof.proved and "Assert failed" in proof.log


@pytest.mark.formal
def test_a_slot_that_is_given_back_and_not_counted_is_found(monkeypatch):
    old = "m.d.sync += room.eq(room + 1)"
    put_in(swap_tables, mutant(swap_moves, old, old.replace(" + 1", "")), monkeypatch)
    proof = prove("slot_fault", SlotContract(40), method="bounded", depth=40)
    assert not proof.proved and "Assert failed" in proof.log


@pytest.mark.formal
def test_a_slot_that_a_last_block_keeps_is_found(monkeypatch):
    put_in(swap, mutant(swap_walk, "full = swap.limit >> tables.offset_bits", "full = swap.end"), monkeypatch)
    case = CASES["swap_controller_last_block"]
    proof = prove("kept_slot", case.contract(), method=case.method, depth=case.depth)
    assert not proof.proved and "Assert failed" in proof.log


UNIT_FAULTS = {  # streams without the queue that takes what a pipeline has on its way: the unit, its module, stream and queue
    "words": ("vector_memory", vector, "o", "fetched"),
    "powers": ("expert_softmax", softmax, "o", "results"),
    "weights": ("expert_softmax", softmax, "o_weight", "weights"),
    "what is found": ("similar_key", similar, "o", "results"),
}


@pytest.mark.formal
@pytest.mark.parametrize("name", UNIT_FAULTS)
def test_a_stream_without_its_queue_is_found(name, monkeypatch):
    unit, module, output, queue = UNIT_FAULTS[name]
    put_in(module, mutant(module, f"connect(m, {queue}.o, wiring.flipped(self.{output}))",
                          f"m.d.comb += [self.{output}.valid.eq({queue}.i.valid), self.{output}.p.eq({queue}.i.p)]"), monkeypatch)
    case = CASES[f"unit_{unit}"]
    proof = prove(folder("unit fault", name), case.contract(), method=case.method, depth=case.depth)
    assert not proof.proved and "Assert failed" in proof.log


@pytest.mark.formal
@pytest.mark.parametrize("name", UNSTABLE)
def test_what_does_not_stay_is_found(name, monkeypatch):
    unit, place, module, old, new = UNSTABLE[name]
    put_in(place, mutant(module, old, new), monkeypatch)
    case = CASES[f"unit_{unit}"]
    proof = prove(folder("unstable", name), case.contract(), method=case.method, depth=case.depth)
    assert not proof.proved and "Assert failed" in proof.log


def test_the_table_in_the_docs():
    text = (Path(__file__).parents[2] / "docs" / "verification.md").read_text()
    for part in (table(), contracts_text(), units_text()):
        assert part in text, "docs/verification.md: put in what `python -m llmrtl.sim.formal.table` prints"


def test_no_append_at_the_budget_is_followed():
    with pytest.raises(ValueError, match=r"about must be ADDED or REFUSED, not <Outcome\.MERGED: 1>"):
        EvictContract(Outcome.MERGED, within=15, taken=15)


def test_refuses_another_method():
    with pytest.raises(ValueError, match="method must be one of induction, bounded, reached, not 'hope'"):
        prove("none", StreamContract(StreamBuffer(1)), method="hope", depth=3)
