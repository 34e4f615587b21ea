"""Long random traces of the cache controllers against models that know nothing of their insides; and that faults are found."""

import random
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
from llmrtl.accelerators.cache import (
    addresses,
    blocks,
    contiguous,
    evict_bursts,
    evict_cache,
    evict_decisions,
    evict_scores,
    merge_numbers,
    merge_words,
    paged,
    paged_commands,
    paged_requests,
    paged_tables,
    record_merge,
    similar,
    swap,
    swap_commands,
    swap_moves,
    swap_tables,
    swap_walk,
    window,
)
from llmrtl.accelerators.cache.evict_formats import Outcome
from llmrtl.accelerators.presets import preset
from llmrtl.rtl_gen.emit import emit
from llmrtl.sim.traces.evict import EvictTrace
from llmrtl.sim.traces.paged import PagedTrace
from llmrtl.sim.traces.player import Offer, PlayError, Settle, Surroundings, play
from llmrtl.sim.traces.records import Trace, Wrong
from llmrtl.sim.traces.swap import SwapTrace
from llmrtl.sim.traces.texts import ContiguousTrace, WindowTrace

from .mutants import Stage, mutant, put_in

TINY = preset("tiny")
SHORT, LONG = 4000, 100_000


def contiguous_trace(seed: int, operations: int, *, module: ModuleType = contiguous) -> Trace:
    return ContiguousTrace(emit(module.ContiguousCache(TINY), "traced_contiguous_cache", TINY), seed, operations)


def window_trace(seed: int, operations: int, *, module: ModuleType = window) -> Trace:
    return WindowTrace(emit(module.WindowCache(TINY), "traced_window_cache", TINY), seed, operations)


def paged_trace(seed: int, operations: int, **options) -> Trace:
    return PagedTrace(TINY, seed, operations, **options)


def swap_trace(seed: int, operations: int, **options) -> Trace:
    return SwapTrace(TINY, seed, operations, **options)


def evict_trace(seed: int, operations: int, *, max_head_dim: int = TINY.max_head_dim, kv_storage: str = "int", **options) -> Trace:
    return EvictTrace(replace(TINY, max_head_dim=max_head_dim, kv_storage=kv_storage), seed, operations, **options)


TRACES: dict[str, tuple[Callable[..., Trace], dict[str, Any]]] = {
    "contiguous": (contiguous_trace, {}),
    "window": (window_trace, {}),
    "paged": (paged_trace, {}),
    "paged_small_blocks": (paged_trace, {"sequences": 8, "block_size": 1, "blocks": 64}),
    "paged_256_sequences": (paged_trace, {"sequences": 256, "blocks": 64}),
    "swap": (swap_trace, {}),
    "swap_small_blocks": (swap_trace, {"sequences": 7, "block_size": 4, "blocks": 50, "slots": 37}),
    "evict": (evict_trace, {"max_head_dim": 8}),
    "evict_long_records": (evict_trace, {"heads": 4, "slots": 32}),
    "evict_int4": (evict_trace, {"max_head_dim": 16, "kv_storage": "int4"}),
}
KINDS = {"contiguous": {"read", "written", "refused"}, "window": {"read", "written", "refused"},
         "paged": {"read", "written", "refused", "copied", "stopped at a shared block", "NONE", "NO_BLOCK", "TOO_LONG", "NOT_EMPTY",
                   "UNKNOWN"},
         "swap": {"read", "written", "refused", "copied", "stopped at a shared block", "NONE", "NO_BLOCK", "TOO_LONG", "NOT_EMPTY",
                  "UNKNOWN", "SWAPPED", "clean blocks",
                  *(f"out {each}" for each in ("NONE", "NOTHING", "NO_ROOM", "failed")),
                  *(f"in {each}" for each in ("NONE", "NOTHING", "NO_BLOCK", "failed"))},
         "evict": {"read", "weights", "refused", "ADDED", "MERGED", "DROPPED", "failed writes"}}
RARE = {"NOT_EMPTY", "TOO_LONG", "out failed", "in failed"}
"""What a short trace may lack."""


def run(make, seed: int, operations: int, options) -> Trace:
    print(f"seed {seed}")
    trace = make(seed, operations, **options)
    pace = random.Random(seed)
    trace.check(trace.play(source=pace.choice((256, 150, 150)), sink=pace.choice((256, 200, 60))))
    return trace


@pytest.mark.parametrize("name", ["contiguous", "window", "paged", "swap", "evict"])
def test_short_trace(name):
    make, options = TRACES[name]
    trace = run(make, random.getrandbits(30), SHORT, options)
    assert trace.operations >= SHORT and trace.seen.keys() >= KINDS[name] - RARE, trace.seen


@pytest.mark.bench
@pytest.mark.parametrize("name", TRACES)
def test_long_trace(name):
    make, options = TRACES[name]
    for seed in (1, random.getrandbits(30)):
        trace = run(make, seed, LONG, options)
        print(f"{trace.operations} operations, {trace.cycles} cycles, {dict(trace.seen)}")
        assert trace.operations >= LONG and trace.seen.keys() >= KINDS[name.split("_")[0]] - (
            {"UNKNOWN"} if options.get("sequences") == 256 else set()) - ({"copied"} if options.get("block_size") == 1 else set())
        if options.get("sequences") == 256:
            assert trace.seen["SHARED_TOO_OFTEN"]


# Faults of the hardware: a line of a controller, changed.

MUTANTS = {
    "a row too far is allowed": (contiguous, "request.p.position + request.p.count <= self.capacity",
                               "request.p.position <= self.capacity"),
    "a refused request is issued": (contiguous, "request.valid & sent)", "request.valid)"),
    "writes are reads": (contiguous, "command.valid & wanted", "command.valid & ~wanted"),
    "a read waits for the port of writes": (contiguous, "Mux(command.p.write, o_write.ready, o_read.ready)",
                                            "Mux(command.p.write, o_read.ready, o_write.ready)"),
    "the ring is one slot longer": (window, "Mux(doubled >= self.recent, doubled - self.recent, doubled)",
                                    "Mux(doubled > self.recent, doubled - self.recent, doubled)"),
    "around the end into the sinks": (window, "at_sinks.eq(0), in_lap.eq(0)]", "at_sinks.eq(1), in_lap.eq(0)]"),
    "what is gone is read": (window, "(first < oldest)", "(first + 1 < oldest)"),
    "a lap too short": (window, "m.d.sync += lap.eq(lap + self.recent)", "m.d.sync += lap.eq(lap + self.recent - 1)"),
    "the ring of a text before": (window, "m.d.sync += [lap.eq(self.sinks), again.eq(0)]", "m.d.sync += again.eq(0)"),
    "an old length is forgotten late": (window, "with m.If(same & (self.length == same_length)):", "with m.If(same):"),
    "as many rows as the request before": (window, "(offered.position == run.position) & (offered.count == run.count)",
                                           "(offered.position == run.position)"),
    "what is only offered is taken for the rows found": (paged_requests, "with m.If(cache.i_request.valid & cache.i_request.ready):\n",
                                                         "with m.If(cache.i_request.ready):\n        m.d.sync += request.eq(offered)\n"
                                                         "    with m.If(cache.i_request.valid & cache.i_request.ready):\n"),
    "a block with an owner is free": (blocks, "(command.command == PoolCommand.RELEASE) & (held == 1)",
                                      "(command.command == PoolCommand.RELEASE) & (held <= 2)"),
    "a block is lost": (blocks, "m.d.sync += [stacked.eq(stacked + 1), self.free.eq(self.free + 1)]",
                        "m.d.sync += [stacked.eq(stacked + (stacked != 5)), self.free.eq(self.free + 1)]"),
    "the last block is never given": (blocks, '"free": Out(range(blocks + 1), init=blocks)',
                                      '"free": Out(range(blocks + 1), init=blocks - 1)'),
    "a stale top of the stack": (blocks, "pop.addr.eq(stacked - 1)", "pop.addr.eq(stacked)"),
    "a shared block is written": (paged_requests, "beyond | (request.write & ~none & tables.denied)", "beyond"),
    "a block that two are left with is one's own": (blocks, "held > 2", "held > 3"),
    "a block that one is left with is shared": (blocks, "held > 2", "held > 1"),
    "no copy of a tail that others have": (paged_commands, "m.If(tables.inside & tables.shared)", "m.If(0)"),
    "a copy of every tail": (paged_commands, "m.If(tables.inside & tables.shared)", "m.If(tables.inside)"),
    "the source of a copy keeps its owner": (paged_commands, "tables.leaves.eq(1)", "tables.leaves.eq(0)"),
    "the source of a copy in its place": (paged_commands, "m.d.comb += enter.en.eq(1)\n            m.d.sync += [tail",
                                          "m.d.sync += [tail"),
    "a row beyond the length is read": (paged_requests, "end > tables.asked.length", "end > tables.asked.length + 1"),
    "a fork shares a block too few": (
        paged_commands, "reads_other.eq(1)]\n                with m.If(command.count > tables.source.length)",
        "reads_other.eq(1),\n                needed.eq(command.count >> tables.offset_bits)]\n"
        "                with m.If(command.count > tables.source.length)"),
    "free forgets a block": (paged_commands, "index.eq(state.held - 1), state.length.eq(0)",
                              "index.eq(0), state.length.eq(0)"),
    "rows of another sequence": (paged_commands, "tables.again.eq(0)", "tables.again.eq(tables.again)"),
    "the last block of an older command": (paged_commands, "tables.tail.valid.eq(0)", "tables.tail.valid.eq(tables.tail.valid)"),
    "another block of the sequence is the last one": (paged_requests, "& (tables.index_of(request.position) == tail.index)", ""),
    "a request overtakes a command": (paged_requests, "behind.eq(Mux(tables.awaits, cache.i_command.valid, ~tables.returns))",
                                      "behind.eq(0)"),
    "an unknown sequence grows": (paged_commands, "with m.If((tables.sequence >= cache.sequences)",
                                  "with m.If((tables.sequence > cache.sequences)"),
    "any two blocks are joined": (paged_requests, "joins.eq(empty | (lookup.data == next_block))",
                                  "joins.eq(empty | (lookup.data >= next_block))"),
    "the next block of an EXTEND in the place of the one before": (
        paged_commands, 'm.d.sync += tables.index.eq(state.held)\n        m.next = "NO_BLOCK"', 'm.next = "NO_BLOCK"'),
    "rows that were refused in place of others": (paged_requests, "cache.error.eq(1), again.eq(0), empty.eq(0)]",
                                                   "cache.error.eq(1), again.eq(0)]"),
    "no rows in place of others": (paged_requests, "m.d.sync += [again.eq(0), empty.eq(0)]", "m.d.sync += again.eq(0)"),
    "a written block is clean": (swap, "with m.Elif(request.write & (request.count != 0) & (first < state.known)):",
                                 "with m.Elif(request.write & (request.count != 0) & (first < state.known) & (state.known > 2)):"),
    "a written block passes at once": (swap_tables, "(looked.position >> self.offset_bits < state.known)",
                                       "(looked.position >> self.offset_bits < state.known - 1)"),
    "what lies behind a written block is forgotten": (swap, "keep.en.eq(tables.end == state.known)", "keep.en.eq(1)"),
    "an answer overtakes another": (swap, "begins.eq(takes & ~at_once & ~tables.handed)", "begins.eq(takes & ~at_once)"),
    "rows are read before they came": (swap_tables, "(self.request_end > self.arrived)", "(looked.position > self.arrived)"),
    "rows of a block that leaves are read": (swap_tables, "(self.leaves | looked.write |", "(looked.write |"),
    "what stays of a sequence that is out is read": (
        swap_tables, "~self.out.bit_select(looked.sequence, 1)", "~(self.out.bit_select(looked.sequence, 1) & (state.length > 64))"),
    "a block that left keeps its owner": (paged_tables, "m.d.comb += pool.valid.eq(1)", "m.d.comb += pool.valid.eq(0)"),
    "what left is still there": (paged_tables, "self.keep.en.eq(1), self.keep.addr.eq(look.sequence)", "self.keep.en.eq(0)"),
    "the block before the last one is given back": (paged_tables, "look.index.eq(its.held - 1)",
                                                    "look.index.eq(its.held - 1 - (its.held > 1))"),
    "a block is given back while a command reads": (paged_tables, "m.If(self.awaits & ~(look.release", "m.If(~(look.release"),
    "a request that waited for a swap comes behind a command": (swap_tables, "(self.pending & ~self.ends)", "self.pending"),

    "two copies in a slot": (swap_moves, "change.data.eq(take)", "change.data.eq(take & (pointer != 3))"),
    "a slot is lost": (swap_tables, "give.eq(self.entry.data.copied)", "give.eq(self.entry.data.copied & (self.entry.data.slot != 5))"),
    "a clean block is written": (swap_walk, "clean, follows = leaves & tables.copied,",
                                 "clean, follows = leaves & tables.copied & (index != 1),"),
    "blocks that do not follow are one move": (swap_walk, "(block == run.next_block) & (slot == run.next_slot)",
                                               "(block == run.next_block)"),
    "blocks that follow are two moves": (swap_walk, "(block == run.next_block) & (slot == run.next_slot)",
                                         "(block == run.next_block) & (slot == run.next_slot) & slot[0]"),
    "a shared block leaves": (swap_walk, "with m.If(tables.shared):", "with m.If(tables.shared & (index != 1)):"),
    "what did not get out is clean": (swap_walk, 'm.next = "DROPPED"\n',
                                      'm.next = "DROPPED"\n'
                                      '        with m.If(leaves & (swap.missing <= 1)):\n            m.next = "END"\n'),
    "a last block that is not full keeps its slot": (swap_walk, "full = swap.limit >> tables.offset_bits", "full = swap.end"),
    "the slot of a last block that is not full is lost": (swap_walk, "m.d.sync += tables.index.eq(Mux(leaves, swap.first, full))",
                                                          "m.d.sync += tables.index.eq(Mux(leaves, swap.first, swap.end))"),
    "what comes back loses the slot of a full block": (swap_walk, "full = swap.limit >> tables.offset_bits",
                                                       "full = (swap.limit - (swap.limit != 0)) >> tables.offset_bits"),
    "more leave than there are slots": (swap_walk, "with m.Elif(swap.missing > tables.controller.room):",
                                        "with m.Elif(swap.missing > tables.controller.room + 1):"),
    "more come back than there are blocks": (swap_commands, "with m.If(cache.free < swap.missing):",
                                             "with m.If(cache.free + 1 < swap.missing):"),
    "MARK spares a block": (swap_commands, "m.d.sync += index.eq(command.count >> tables.offset_bits)",
                            "m.d.sync += index.eq((command.count >> tables.offset_bits) + 1)"),
    "a recent row goes": (evict_cache, "recent_begin.eq(state.length - self.recent)",
                          "recent_begin.eq(state.length - self.recent + 1)"),
    "a budget as long as what stays": (evict_cache, "(request.budget > least)", "(request.budget >= least)"),
    "a row is merged into itself": (evict_cache, "search_commands.i.p.skip.eq(slot)", "search_commands.i.p.skip.eq(slot | 8)"),
    "tokens of the kept row are not counted": (evict_decisions, "merge.i_command.p.kept.eq(scores.o.p.tokens)",
                                               "merge.i_command.p.kept.eq(1)"),
    "a write is not waited for": (evict_bursts, "append.valid & (append.head == head)",
                                  "append.valid & (append.head == head) & head[0]"),
    "the last one of two searches is forgotten": (evict_decisions, "((self.first.p.head == head) | (self.last == head))",
                                                  "(self.first.p.head == head)"),
    "the first one of two searches is forgotten": (evict_decisions, "((self.first.p.head == head) | (self.last == head))",
                                                   "(self.last == head)"),
    "a head is looked up while its search ends": (evict_cache, "~decisions.ended & ", ""),
    "a token overtakes one that is decided": (evict_cache, "appends.ready & ~decisions.busy", "appends.ready"),
    "the scores lose a new row": (evict_decisions, "appends.ready & scores.i_command.ready", "appends.ready"),
    "a refused token overtakes one that is decided": (evict_cache, "bursts.idle & ~decisions.busy", "bursts.idle"),
    "a candidate has the scales of the next one": (record_merge, "get.addr.eq(first)", "get.addr.eq(into)"),
    "a candidate has the elements of the next one": (record_merge, "words.banks[0].eq(candidate)", "words.banks[0].eq(candidate + 1)"),
    "a record kept is filled while it is merged": (record_merge, "kept_bank.eq(~kept_bank)", "kept_bank.eq(0)"),
    "a value has the factors of its key": (merge_words, "register(part, 2), register(value, 2)", "register(part, 2), Const(0, 1)"),
    "a value has the multiplier of its key": (merge_words, "Mux(register(value, 2), *", "Mux(Const(0, 1), *"),
    "a total is that of the next merge": (merge_numbers, "self._inverse.eq(inverse), made", "made"),
    "one of two writes is enough": (evict_bursts, "(half | (append.p.outcome != Outcome.MERGED))", "answer.valid"),
    "an append leaves known which row goes": (evict_decisions, "state_write.data.known.eq(0)", "state_write.data.known.eq(1)"),
    "weights of some rows are enough": (evict_scores, "with m.If(~covers):", "with m.If(0):"),
    "of equal scores the last one": (evict_scores, "(score < result.score)", "(score <= result.score)"),
    "a merged row forgets its tokens": (evict_scores, "becomes.tokens.eq(base.tokens + Mux(adds, entry.tokens, 0))",
                                        "becomes.tokens.eq(base.tokens + adds)"),
    "local scores decay late": (evict_scores, "entry.local_score >> self.decay,", "entry.local_score >> self.decay + 1,"),
    "of equal cosines the last one": (similar, "(score > best)", "(score >= best)"),
    "a threshold that is reached is not": (similar, "(best >= limit)", "(best > limit)"),
    "a candidate's own row is not left out": (similar, "register(row != skip, delay + 1)", "1"),
    "opposite keys count": (similar, "~dots[-1] & dots.any()", "dots.any()"),
    "a norm is that of all rows": (similar, "norms.eq(Mux(first, 0, norms) + norm)", "norms.eq(norms + norm)"),
    "the best row of the search before counts": (similar, "found.eq(0), ", ""),
    "a smaller exponent is taken": (merge_numbers, "(theirs[1] > mine[1])", "(theirs[1] < mine[1])"),
    "a carry is lost": (addresses, "address.eq(base + products[0] + products[1])", "address.eq((base ^ products[0]) + products[1])"),
}
FAST = ("a shared block is written",)
PACES = {"a read waits for the port of writes": {"source": 150, "sink": 100}, "a write is not waited for": {"source": 256, "sink": 30}}
"""At which shares of cycles, of 256, items are offered and taken, for faults that only a stalled port shows."""
HOLDERS = {**dict.fromkeys((swap, swap_commands, swap_tables, swap_walk), swap), swap_moves: swap_tables,
           **dict.fromkeys((evict_cache, evict_bursts, evict_decisions, evict_scores, record_merge, similar), evict_cache),
           merge_numbers: record_merge, merge_words: record_merge}
"""Of which module others have what a mutant changes, if not of ``paged``."""


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in FAST else pytest.mark.bench) for name in MUTANTS])
def test_faults_of_the_hardware_are_found(name, monkeypatch):
    module, old, new = MUTANTS[name]
    changed = mutant(module, old, new)
    if module is contiguous:
        trace = contiguous_trace(3, 3000, module=changed)
    elif module is window:
        trace = window_trace(3, 20_000, module=changed)
    else:
        holder = HOLDERS.get(module, paged)
        put_in(holder, changed, monkeypatch)
        if holder in (swap, swap_tables) or module is paged_tables:
            trace = swap_trace(3, 20_000, component=swap.SwapController)
        elif holder in (evict_cache, record_merge):
            trace = evict_trace(3, 20_000, max_head_dim=8, component=evict_cache.EvictCache)
        else:
            trace = paged_trace(3, 20_000, component=paged.PagedCache)
    with pytest.raises((Wrong, PlayError)) as found:
        trace.check(trace.play(**PACES.get(name, {"source": 150})))
    print(found.value)


CHANGED = {
    "paged": {"o_read": ("address", "beats", "last", "position", "error"), "o_write": ("address", "beats", "error"),
              "o_done": ("error", "length"), "o_copy": ("source", "target", "rows"), "error": (), "free": ()},
    "swap": {"o_read": ("address", "position", "error"), "o_write": ("address", "beats", "error"), "o_done": ("error", "length"),
             "o_move": ("from_region", "to_region", "source", "target", "rows"), "o_swapped": ("sequence", "error"),
             **dict.fromkeys(("free", "room", "rows_out", "rows_in", "moves", "clean_blocks", "error"), ())},
    "evict": {"o_read": ("address", "beats"), "o_fetch": ("address", "beats"), "o_write": ("address", "beats"), "o_data": ("last",),
              "o_append": ("head", "outcome", "tokens", "error"), "error": ()},
}


@pytest.mark.parametrize("name", CHANGED)
def test_faults_in_what_comes_out_are_found(name):
    """One event of a good run, changed, dropped or doubled."""
    make, options = TRACES[name]
    trace = make(5, 400, **options)
    events = trace.play()
    trace.check(events)
    rng = random.Random(5)

    def wrong(broken) -> None:
        with pytest.raises(Wrong):
            trace.check(broken)

    def changed(port: str, change: Callable[[Any], Any], matters: Callable[[Any], bool] = lambda payload: True) -> None:
        where = rng.choice([k for k, event in enumerate(events) if event.name == port and matters(event.payload)])
        wrong([*events[:where], replace(events[where], payload=change(events[where].payload)), *events[where + 1:]])

    def field(port: str, key: str, change: Callable[[int], int], **options) -> None:
        changed(port, lambda payload: {**payload, key: change(payload[key])}, **options)

    def meant(port: str, key: str) -> Callable[[Any], bool]:
        """The answer to a request that is refused has no address, nor a position."""
        return lambda payload: port not in ("o_read", "o_write") or key in ("error", "beats") or not payload.get("error")

    for port, keys in CHANGED[name].items():
        for key in keys:
            field(port, key, lambda value: value ^ 1, matters=meant(port, key))
        if not keys:
            changed(port, lambda level: level + 1)
        else:
            where = rng.choice([k for k, event in enumerate(events) if event.name == port])
            wrong([*events[:where], *events[where + 1:]])
            wrong([*events[:where], events[where], *events[where:]])
    if isinstance(trace, PagedTrace):
        block = trace.size * trace.places[0, 0].record
        field("o_write", "address", lambda address: address + block, matters=meant("o_write", "address"))
    else:
        field("o_data", "data", lambda word: word ^ 1 << 31)
        field("o_append", "slot", lambda slot: slot ^ 1, matters=lambda payload: payload["outcome"] != Outcome.REFUSED)
        field("o_append", "target", lambda slot: slot ^ 1, matters=lambda payload: payload["outcome"] == Outcome.MERGED)
    if isinstance(trace, SwapTrace):
        field("o_move", "rows", lambda rows: rows - trace.size, matters=lambda payload: payload["rows"] > trace.size)
        for port, slots in (("o_move", "target"), ("o_move", "source")):
            field(port, slots, lambda row: row + trace.size)


def test_surroundings_must_be_streams():
    for surroundings, name in ((Surroundings(answers={"o": ("i_answer", 9)}), "input streams of stage, not i_answer"),
                               (Surroundings(fetch=("o_fetch", "i")), "output streams of stage, not o_fetch")):
        with pytest.raises(ValueError, match=f"surroundings must name {name}"):
            play(emit(Stage("none"), "stage", TINY), [Settle(1)], seed=1, surroundings=surroundings)


@pytest.mark.parametrize(("fault", "message"), [
    ("unstable payload", "payload changed while stalled"),
    *(pytest.param(*case, marks=pytest.mark.bench) for case in (("drops valid", "valid was dropped"), ("stops", "nothing moves"),
                                                                ("none", None)))])
def test_the_player_finds_broken_streams(fault, message):
    steps = [*(Offer("i", k) for k in range(40)), Settle(16)]
    if message:
        with pytest.raises(PlayError, match=message):
            play(emit(Stage(fault), "stage", TINY), steps, seed=1, source=200, sink=100)
    else:
        events = play(emit(Stage(fault), "stage", TINY), steps, seed=1, source=200, sink=100)
        assert [event.payload for event in events if event.what == "left"] == [k + 1 for k in range(40)]
