"""Of paged caches: what happens at once and must not meet, offered at all distances; and that faults are found."""

from types import ModuleType

import pytest
from llmrtl.accelerators.cache import paged, paged_commands, paged_tables, swap
from llmrtl.accelerators.cache.paged_formats import SequenceCommand
from llmrtl.accelerators.cache.swap_formats import SwapCommand
from llmrtl.accelerators.presets import preset
from llmrtl.rtl_gen.emit import emit
from llmrtl.sim.traces.player import Offer, PlayError, Set, Settle, Step, Surroundings, play

from .mutants import mutant, put_in

TINY = preset("tiny")
BEATS, SEQUENCES, PACES, SEEDS = 2, 8, (256, 160, 90), range(12)

Fault = tuple[ModuleType, str, str] | None


def command(what: int, sequence: int, other: int = 0, count: int = 0) -> Offer:
    return Offer("i_command", {"command": what, "sequence": sequence, "other": other, "count": count})


def write(sequence: int, position: int, count: int) -> Offer:
    return Offer("i_request", {"write": 1, "base": 0, "head": 0, "position": position, "count": count, "sequence": sequence})


def played(component: type, fault: Fault, monkeypatch: pytest.MonkeyPatch, steps: list[Step], sink: int, **options: int):
    """Events of runs at several paces."""
    if fault:
        put_in(paged, mutant(*fault), monkeypatch)
    unit = emit(component(TINY, sequences=SEQUENCES, **options), f"{component.__name__.lower()}_in_order", TINY)
    begin = [Set("record_beats", BEATS), Set("head_stride", 1 << 20)]
    surroundings = Surroundings({"o_move": ("i_moved", 128)} if component is swap.SwapController else {})
    for pace in PACES:
        for seed in SEEDS:
            yield play(unit, [*begin, *steps, Settle(400)], seed=seed, source=pace, sink=sink, surroundings=surroundings)


@pytest.mark.parametrize("fault", [None, (paged_commands, "m.If(~tables.serving)", "m.If(1)")], ids=["good", "bad"])
def test_a_fork_comes_behind_the_write_before_it(fault, monkeypatch):
    """Of many blocks that do not lie in order, slower than the fork: none of them is shared when the write comes to it."""
    size, context, steps = 4, TINY.max_context, list[Step]()
    steps += [command(SequenceCommand.EXTEND, sequence, count=size) for _ in range(context // size) for sequence in (0, 1)]
    for sequence in range(2, SEQUENCES):
        steps += [Settle(200), write(0, 0, context), command(SequenceCommand.FORK, sequence, 0, context),
                  command(SequenceCommand.FREE, sequence)]
    refused = sum(event.payload["error"] for events in played(
        paged.PagedCache, fault, monkeypatch, steps, sink=40, block_size=size, blocks=2 * context // size)
        for event in events if event.what == "left" and event.name == "o_write")
    assert (refused != 0) == (fault is not None)


GIVES = "m.If((self.returns & ~self.leaves) | (self.awaits & ~self.cache.i_command.valid))"


@pytest.mark.parametrize("fault", [None, (paged_tables, GIVES, "m.If(self.returns | self.awaits)"), (paged_tables, GIVES, "m.If(1)")],
                         ids=["good", "while a command comes", "at any time"])
def test_blocks_are_given_out_while_others_are_given_back(fault, monkeypatch):
    """A sequence leaves, and others need a block with each command: no block is given to two, all come back."""
    size, blocks, steps = 16, TINY.max_context // 16, list[Step]()
    steps += [command(SwapCommand.EXTEND, 0, count=TINY.max_context), command(SwapCommand.SWAP_OUT, 0)]
    others = range(1, SEQUENCES)
    for _ in range(blocks):
        steps += [command(SwapCommand.EXTEND, sequence, count=size) for sequence in others]
    steps.append(Settle(400))
    steps += [write(sequence, 0, TINY.max_context) for sequence in others]
    steps += [Settle(400), *(command(SwapCommand.FREE, sequence) for sequence in range(SEQUENCES))]
    good = True
    try:
        for events in played(swap.SwapController, fault, monkeypatch, steps, sink=256, block_size=size, blocks=SEQUENCES * blocks,
                             slots=blocks):
            rows = [row for event in events if event.what == "left" and event.name == "o_write"
                    for row in range(event.payload["address"], event.payload["address"] + event.payload["beats"] * TINY.bus_bytes)]
            free = [event.payload for event in events if event.what == "level" and event.name == "free"][-1]
            good &= len(rows) == len(set(rows)) == len(others) * TINY.max_context * BEATS * TINY.bus_bytes
            good &= free == SEQUENCES * blocks
    except PlayError:
        good = False
    assert good == (fault is None)


@pytest.mark.parametrize("fault", [None, (paged_tables, "(self.returns & ~self.leaves)", "self.returns")], ids=["good", "bad"])
def test_copied_blocks_are_given_back_while_others_are(fault, monkeypatch):
    """A sequence leaves, and others become forks that copy what they share: all blocks come back."""
    blocks, steps = TINY.max_context // 16, list[Step]()
    steps += [command(SwapCommand.EXTEND, 0, count=TINY.max_context), command(SwapCommand.EXTEND, 1, count=8),
              command(SwapCommand.SWAP_OUT, 0)]
    for _ in range(12):
        for sequence in range(2, SEQUENCES):
            steps += [command(SwapCommand.FORK, sequence, 1, 8), command(SwapCommand.EXTEND, sequence, count=1),
                      command(SwapCommand.FREE, sequence)]
    steps += [Settle(400), *(command(SwapCommand.FREE, sequence) for sequence in (0, 1))]
    free = {[event.payload for event in events if event.what == "level" and event.name == "free"][-1]
            for events in played(swap.SwapController, fault, monkeypatch, steps, sink=256, block_size=16, blocks=2 * blocks,
                                 slots=blocks)}
    assert (free == {2 * blocks}) == (fault is None)


@pytest.mark.parametrize("line", [None, "m.d.sync += self.again.eq(0)", "m.d.sync += self.tail.valid.eq(0)"],
                         ids=["good", "again", "tail"])
def test_what_was_given_back_is_not_read(line, monkeypatch):
    """Neither as the rows that were read before, nor as those that the latest EXTEND made room for."""
    read = {"write": 0, "base": 0, "head": 0, "count": 16, "sequence": 0}
    look = {"sequence": 0, "index": 0, "release": 1}
    steps: list[Step] = [
        command(SequenceCommand.EXTEND, 0, count=32), Offer("i_request", {**read, "position": 16}), Settle(40),
        Offer("i_look", look), Settle(40), Offer("i_request", {**read, "position": 16}), Settle(40),
        command(SequenceCommand.EXTEND, 0, count=16), Settle(40), Offer("i_look", look), Settle(40),
        Offer("i_request", {**read, "position": 16}), Settle(40), Offer("i_request", {**read, "position": 0}),
    ]
    fault = line and (paged_tables, line, "pass")
    errors = {tuple(event.payload["error"] for event in events if event.what == "left" and event.name == "o_read")
              for events in played(paged.PagedCache, fault, monkeypatch, steps, sink=256, block_size=16, blocks=4, lookups=True)}
    assert (errors == {(0, 1, 1, 0)}) == (line is None)
