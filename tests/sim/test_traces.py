"""Long random traces of the cache controllers against models that know nothing of their insides; and that faults are found."""

import random
from dataclasses import replace
from types import ModuleType

import pytest
from llmrtl.accelerators.cache import addresses, blocks, contiguous, paged, paged_commands, paged_requests, window
from llmrtl.accelerators.presets import preset
from llmrtl.rtl_gen.emit import emit
from llmrtl.sim.traces.paged import PagedTrace
from llmrtl.sim.traces.player import Offer, PlayError, Settle, play
from llmrtl.sim.traces.records import Trace, Wrong
from llmrtl.sim.traces.texts import ContiguousTrace, WindowTrace

from .mutants import Stage, mutant, put_in

TINY = preset("tiny")
SHORT, LONG = 4000, 100_000


def contiguous_trace(seed: int, operations: int, *, pipelined: bool = False, module: ModuleType = contiguous) -> Trace:
    cache = module.ContiguousCache(TINY, pipelined=pipelined)
    return ContiguousTrace(emit(cache, "traced_contiguous_cache", TINY), seed, operations)


def window_trace(seed: int, operations: int, *, module: ModuleType = window) -> Trace:
    return WindowTrace(emit(module.WindowCache(TINY), "traced_window_cache", TINY), seed, operations)


def paged_trace(seed: int, operations: int, **options) -> Trace:
    return PagedTrace(TINY, seed, operations, **options)


TRACES = {
    "contiguous": (contiguous_trace, {}),
    "contiguous_pipelined": (contiguous_trace, {"pipelined": True}),
    "window": (window_trace, {}),
    "paged": (paged_trace, {}),
    "paged_small_blocks": (paged_trace, {"sequences": 8, "block_size": 1, "blocks": 64}),
    "paged_256_sequences": (paged_trace, {"sequences": 256, "blocks": 64}),
}
KINDS = {"contiguous": {"read", "written", "refused"}, "window": {"read", "written", "refused"},
         "paged": {"read", "written", "refused", "copied", "stopped at a shared block", "NONE", "NO_BLOCK", "TOO_LONG", "NOT_EMPTY",
                   "UNKNOWN"}}


def run(make, seed: int, operations: int, options) -> Trace:
    print(f"seed {seed}")
    trace = make(seed, operations, **options)
    pace = random.Random(seed)
    trace.check(trace.play(source=pace.choice((256, 150, 150)), sink=pace.choice((256, 200, 60))))
    return trace


@pytest.mark.parametrize("name", ["contiguous", "window", "paged"])
def test_short_trace(name):
    make, options = TRACES[name]
    trace = run(make, random.getrandbits(30), SHORT, options)
    assert trace.operations >= SHORT and trace.seen.keys() >= KINDS[name] - {"NOT_EMPTY", "TOO_LONG"}, trace.seen


@pytest.mark.bench
@pytest.mark.parametrize("name", TRACES)
def test_long_trace(name):
    make, options = TRACES[name]
    for seed in (1, random.getrandbits(30)):
        trace = run(make, seed, LONG, options)
        print(dict(trace.seen))
        assert trace.operations >= LONG and trace.seen.keys() >= KINDS[name.split("_")[0]] - (
            {"UNKNOWN"} if options.get("sequences") == 256 else set()) - ({"copied"} if options.get("block_size") == 1 else set())
        if options.get("sequences") == 256:
            assert trace.seen["SHARED_TOO_OFTEN"]


# Faults of the hardware: a line of a controller, changed.

MUTANTS = {
    "a row too far is allowed": (contiguous, "with m.If(request.p.position + request.p.count > self.capacity):",
                               "with m.If(request.p.position > self.capacity):"),
    "count is taken for position": (contiguous, "position.eq(position >> 1)", "position.eq(count >> 1)"),
    "heads are not told apart": (contiguous, "Mux(head[0], stride, 0)", "Mux(head[1], stride, 0)"),
    "the ring is one slot longer": (window, "Mux(doubled >= self.recent, doubled - self.recent, doubled)",
                                    "Mux(doubled > self.recent, doubled - self.recent, doubled)"),
    "around the end to the first slot": (window, "prepare(self.sinks, self.recent, True)", "prepare(0, self.recent, True)"),
    "what is gone is read": (window, "(first < oldest)", "(first + 1 < oldest)"),
    "the next position in the slot of the last": (window, "m.d.sync += remainder.eq(following)",
                                                  "m.d.sync += remainder.eq(known_remainder)"),
    "an old length is forgotten late": (window, "with m.If(same & (self.length == same_length) & ~self.clear):",
                                        "with m.If(same):"),
    "what is only offered is taken for what was found": (window, "m.d.sync += [end.eq(",
                                                         "m.d.sync += [request.eq(self.i_request.p), end.eq("),
    "what is only offered is taken for the rows found": (paged_requests, "m.d.comb += cache.i_request.ready.eq(1)\n",
                                                         "m.d.comb += cache.i_request.ready.eq(1)\n            "
                                                         "m.d.sync += request.eq(offered)\n"),
    "a block with an owner is free": (blocks, "(command.command == PoolCommand.RELEASE) & (count == 0)",
                                      "(command.command == PoolCommand.RELEASE) & (count <= 1)"),
    "a block is lost": (blocks, "m.d.sync += [stacked.eq(stacked + 1), self.free.eq(self.free + 1)]",
                        "m.d.sync += [stacked.eq(stacked + (stacked != 5)), self.free.eq(self.free + 1)]"),
    "the last block is never given": (blocks, '"free": Out(range(blocks + 1), init=blocks)',
                                      '"free": Out(range(blocks + 1), init=blocks - 1)'),
    "a stale top of the stack": (blocks, "pop.addr.eq(stacked - 1)", "pop.addr.eq(stacked)"),
    "a shared block is written": (paged_requests, "with m.If(tables.pool.o.p.count > 1):", "with m.If(tables.pool.o.p.count > 2):"),
    "no copy of a tail that two have": (paged_commands, "with m.If(pool.o.p.count > 1):", "with m.If(pool.o.p.count > 2):"),
    "the source of a copy keeps its owner": (paged_commands, 'with m.If(cache.o_copy.ready):\n            m.next = "LEAVE"',
                                             'with m.If(cache.o_copy.ready):\n            m.next = "GROW"'),
    "a fork shares a block too few": (
        paged_commands, "reads_other.eq(1)]\n                with m.If(command.count > tables.source.length)",
        "reads_other.eq(1),\n                needed.eq(command.count >> tables.offset_bits)]\n"
        "                with m.If(command.count > tables.source.length)"),
    "the other one of a fork does not know what it shares": (
        paged_commands, "m.d.comb += [tables.keep.en.eq(1), tables.keeps_other.eq(1)]", "m.d.comb += tables.keeps_other.eq(1)"),
    "a fork does not know what it shares": (paged_commands, "m.d.sync += state.shared.eq(tables.needed)",
                                            "m.d.sync += state.shared.eq(0)"),
    "free forgets a block": (paged_commands, "index.eq(state.held - 1), state.length.eq(tables.stays)",
                              "index.eq(0), state.length.eq(tables.stays)"),
    "rows of another sequence": (paged_commands, "tables.again.eq(0)", "tables.again.eq(tables.again)"),
    "the last block of an older command": (paged_commands, "tables.tail.valid.eq(0)", "tables.tail.valid.eq(tables.tail.valid)"),
    "another block of the sequence is the last one": (paged_requests, "& (tables.index_of(request.position) == tail.index)", ""),
    "a request overtakes a command": (paged_requests, "behind.eq(Mux(tables.awaits, cache.i_command.valid, ~tables.returns))",
                                      "behind.eq(0)"),
    "a command overtakes a request": (paged_commands, "m.If(~tables.serving)", "m.If(~tables.serving | 1)"),
    "an unknown sequence grows": (paged_commands, "with m.If((tables.sequence >= cache.sequences)",
                                  "with m.If((tables.sequence > cache.sequences)"),
    "any two blocks are joined": (paged_requests, "joins.eq(empty | (lookup.data == next_block))",
                                  "joins.eq(empty | (lookup.data >= next_block))"),
    "a carry is lost": (addresses, "address.eq(base + products[0] + products[1])", "address.eq((base ^ products[0]) + products[1])"),
}
FAST = ("a shared block is written",)


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in FAST else pytest.mark.bench) for name in MUTANTS])
def test_faults_of_the_hardware_are_found(name, monkeypatch):
    module, old, new = MUTANTS[name]
    changed = mutant(module, old, new)
    if module is contiguous:
        trace = contiguous_trace(3, 3000, module=changed)
    elif module is window:
        trace = window_trace(3, 20_000, module=changed)
    else:
        put_in(paged, changed, monkeypatch)
        trace = paged_trace(3, 20_000, component=paged.PagedCache)
    with pytest.raises((Wrong, PlayError)) as found:
        trace.check(trace.play(source=150))
    print(found.value)


def test_faults_in_what_comes_out_are_found():
    """One event of a good run, changed, dropped or doubled."""
    trace = paged_trace(5, 400)
    events = trace.play()
    trace.check(events)
    places = {name: [k for k, event in enumerate(events) if event.name == name] for name in ("o_read", "o_write", "o_done", "o_copy",
                                                                                             "error", "free")}
    rng = random.Random(5)

    def changed(name: str, **fields) -> None:
        where = rng.choice([k for k in places[name] if name not in ("o_read", "o_write") or not events[k].payload["error"]
                            or fields.keys() <= {"error", "beats"}])  # addresses of a request that is refused mean nothing
        payload = events[where].payload
        payload = {**payload, **{key: change(payload[key]) for key, change in fields.items()}} if fields else payload + 1
        broken = [*events[:where], replace(events[where], payload=payload), *events[where + 1:]]
        with pytest.raises(Wrong):
            trace.check(broken)

    for name, key in (("o_write", "address"), ("o_read", "address"), ("o_read", "beats"), ("o_write", "beats"), ("o_read", "last"),
                      ("o_read", "position"), ("o_read", "error"), ("o_write", "error"), ("o_done", "error"), ("o_done", "length"),
                      ("o_copy", "source"), ("o_copy", "target"), ("o_copy", "rows")):
        changed(name, **{key: lambda value: value ^ 1})
    block = trace.size * trace.places[0, 0].record
    changed("o_write", address=lambda address: address + block)
    changed("error")
    changed("free")
    for name in ("o_read", "o_write", "o_done", "o_copy"):
        where = rng.choice(places[name])
        for broken in ([*events[:where], *events[where + 1:]], [*events[:where], events[where], *events[where:]]):
            with pytest.raises(Wrong):
                trace.check(broken)


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
