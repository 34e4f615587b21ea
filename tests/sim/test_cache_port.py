"""What addresses cost on the port, with an ideal memory: cycles per appended record beyond its beats, idle cycles in a read."""

import functools
import itertools

import pytest
from llmrtl.accelerators.cache.contiguous import ContiguousCache
from llmrtl.accelerators.cache.evict_formats import Outcome
from llmrtl.accelerators.cache.paged import PagedCache
from llmrtl.accelerators.cache.paged_formats import SequenceCommand
from llmrtl.accelerators.cache.record_merge import RecordMerge
from llmrtl.accelerators.cache.similar import SimilarKey
from llmrtl.accelerators.cache.swap import SwapController
from llmrtl.accelerators.cache.swap_formats import SwapCommand
from llmrtl.accelerators.presets import preset
from llmrtl.rtl_gen.emit import emit
from llmrtl.sim.traces.player import Offer, Set, Settle, Surroundings, play
from llmrtl.sim.traces.port import CacheOnPort, EvictOnPort, WindowOfText

TINY, INT4 = preset("tiny"), preset("tiny_int4")
HEADS, LAYERS, TOKENS = 4, 4, 12
SINKS, RECENT = 4, 64
CACHES = {
    "contiguous": lambda: CacheOnPort(TINY, ContiguousCache(TINY)),
    "contiguous_int4": lambda: CacheOnPort(INT4, ContiguousCache(INT4)),
    "window": lambda: CacheOnPort(TINY, WindowOfText(TINY)),
    "evict": lambda: EvictOnPort(TINY),
    "swap": lambda: CacheOnPort(TINY, SwapController(TINY)),
    "paged_int4": lambda: CacheOnPort(INT4, PagedCache(INT4)),
    **{f"paged_{size}": lambda size=size: CacheOnPort(TINY, PagedCache(TINY, block_size=size)) for size in (1, 2, 4, 16)},
}
FAST = ("contiguous", "window", "paged_1", "paged_16")


def caches(*names: str):
    """Those that take long to build are for ``make bench``."""
    return pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in FAST else pytest.mark.bench) for name in names])


@functools.cache
def emitted(name):
    return emit(CACHES[name](), f"{name}_on_port", TINY)


class Session:
    """Steps for one controller."""

    def __init__(self, name: str, beats: int):
        self.name, self.kind, self.stride, self.length = name, name.split("_")[0], TINY.max_context * 4 * beats * TINY.bus_bytes, 0
        plain = {"contiguous": {"capacity": TINY.max_context}, "window": {"sinks": SINKS, "recent": RECENT}}.get(self.kind, {})
        self.steps = [Set(port, value) for port, value in {"record_beats": beats, "head_stride": self.stride, **plain}.items()]

    def request(self, write: int, position: int, count: int, head: int = 0, layer: int = 0, sequence: int = 0) -> None:
        payload = {"write": write, "base": layer * HEADS * self.stride, "head": head, "position": position, "count": count}
        if self.kind in ("paged", "swap"):
            payload["sequence"] = sequence
        elif self.kind == "window":
            payload["length"] = self.length
        elif self.kind == "evict":
            payload |= {"head": layer * HEADS + head, "scores": 0, "budget": TOKENS}
        self.steps.append(Offer("i_request", payload))

    def extend(self, count: int, sequence: int = 0) -> None:
        self.length += count
        if self.kind in ("paged", "swap"):
            self.command(SequenceCommand.EXTEND, sequence, count=count)

    def command(self, command: SequenceCommand | SwapCommand, sequence: int, other: int = 0, count: int = 0) -> None:
        self.steps.append(Offer("i_command", {"command": command, "sequence": sequence, "other": other, "count": count}))

    def beats(self, stream: str) -> list[int]:
        """Cycles of the beats."""
        self.steps.append(Settle(60))
        return [event.cycle for event in play(emitted(self.name), self.steps, seed=0) if event.what == "left" and event.name == stream]


def appended(name: str, beats: int, heads: int = HEADS, layers: int = LAYERS, *, chunk: int = 1, chunks: int = TOKENS) -> list[int]:
    """Cycles of each chunk of tokens, from the first beat of its first record to that of the next chunk: room is made for all tokens,
    then the records come layer after layer, token after token, head after head, each offered when the one before was taken."""
    session = Session(name, beats)
    for _ in range(chunks):
        session.extend(chunk)
        for layer in range(layers):
            for token in range(session.length - chunk, session.length):
                for head in range(heads):
                    session.request(1, token, 1, head, layer)
    cycles, each = session.beats("o_out"), chunk * heads * layers * beats
    assert len(cycles) == chunks * each
    return [cycles[k + each] - cycles[k] for k in range(0, len(cycles) - each, each)]


def lost(name: str, beats: int, heads: int = HEADS, layers: int = LAYERS) -> float:
    """Cycles that a record takes beyond its beats: the mean over the records of a token, of the token that takes longest."""
    cycles = max(appended(name, beats, heads, layers)) / (heads * layers) - beats
    print(f"{name}, {heads} * {layers} records of {beats} beats: {cycles:.2f} cycles lost per record")
    return cycles


def block_size(name: str) -> int:
    return TINY.block_size if name == "swap" else int(name.split("_")[1])


RECORDS = [(1, 1), (2, 1), (4, 1), (1, 3), (4, 4)]
"""Heads and layers."""


@caches("contiguous", "window", "swap", "evict", "paged_1", "paged_2", "paged_4", "paged_16")
@pytest.mark.parametrize("beats", [2, 3, 5, 17])
def test_an_append_costs_two_cycles_more_than_its_beats_at_most(name, beats):
    """Room for each token of a paged cache included, if it needs a block or not; and a window's first position in the ring. Below the
    budget of an evict + merge cache."""
    for heads, layers in RECORDS:
        records = heads * layers
        addresses = {"contiguous": records, "window": 2 * records + 1, "evict": 4 * records}.get(name, max(4, 2 * records + 1))
        assert lost(name, beats, heads, layers) == max(records * beats, addresses) / records - beats <= 2


ALIKE = 0x01010101
"""Of a key whose bytes are all 1."""


class Replaced:
    """What is measured of appends at the budget, of as many heads, one after another.

    Memory holds ``word`` everywhere, a record has ``keys`` beats of K. ``scored``: there are weights between two tokens of a head,
    smallest for row 0; else all rows are equal. So row 0 goes, and all others are compared with it.

    Members
    -------
    answers : list of int
        Cycles from the answer to each of the last token's appends to that of the next one.
    idle : int
        Cycles without a beat between the first and the last one that the last token's appends read.
    """

    def __init__(self, budget: int, heads: int, word: int, threshold: int, *, scored: bool = True, keys: int = 16):
        beats, tokens = 2 * keys + 2, budget + 2
        plain = {"record_beats": beats, "head_stride": budget * beats * TINY.bus_bytes, "beats": keys,
                 "words": keys * TINY.kv_lanes // TINY.vector_lanes, "threshold": threshold, "word": word}
        steps = [Set(port, value) for port, value in plain.items()]
        each = {"base": 0, "count": 1, "budget": budget}
        for position in range(tokens):
            rows = min(position + 1, budget)
            requests = [Offer("i_request", {**each, "write": write, "scores": 1 - write, "head": head, "position": position * write})
                        for write in (1, 0) for head in range(heads)]
            steps += requests[:heads]
            for request in requests[heads:] if scored else ():
                steps.append(request)
                steps += [Offer("i_weights", {"weight": min(row, 1), "last": int(row == rows - 1)}) for row in range(rows)]
        left = [event for event in play(emitted("evict"), [*steps, Settle(999)], seed=0) if event.what == "left"]
        answers = [event for event in left if event.name == "o_append"][-heads - 1:]
        merges = bool(word) and threshold <= 4096
        outcome = Outcome.MERGED if merges else Outcome.DROPPED
        assert {(event.payload["outcome"], event.payload["slot"]) for event in answers} == {(outcome, 0)}
        self.answers = [b.cycle - a.cycle for a, b in itertools.pairwise(answers)][heads != 1:]
        read = [event.cycle for event in left if event.name == "o_in"][-heads * (budget + 1 + merges) * beats:]
        self.idle = gaps(read)


def decided(keys: int) -> int:
    """Cycles from the last beat of the rows to what is found; -1 if it is found before those."""
    return max(-1, SimilarKey(TINY).latency - keys)


SIMILAR = ((0, 0), (ALIKE, 4097), (ALIKE, 4096))
"""Words of memory and threshold: no row counts, all do but none reaches the threshold, all are the same as the candidate."""


@pytest.mark.bench
@pytest.mark.parametrize("budget", [8, 16, 32])
@pytest.mark.parametrize("keys", [1, 2, 4, 8, 16])
def test_an_append_at_the_budget_costs_a_cycle_more_than_its_beats(budget, keys):
    """One more than what is read, of any append behind which there is another one, to another head, of any record: whether it is known
    which row goes or not. Where less is read than a merge takes, that bounds it. Only the last one that is merged has to wait for what
    is decided."""
    beats, heads, words = 2 * keys + 2, 6, keys * TINY.kv_lanes // TINY.vector_lanes
    for (word, threshold), scored in itertools.product(SIMILAR, (True, False)):
        merges = bool(word) and threshold <= 4096
        found = Replaced(budget, heads, word, threshold, scored=scored, keys=keys)
        print(f"{budget} rows of {beats} beats, words {word:#x}, threshold {threshold}: {found.answers} cycles, {found.idle} idle")
        read = (budget + 1 + merges) * beats + 1
        least = RecordMerge(TINY).between(words) if merges else 0
        assert set(found.answers[:-1]) == {max(read, least)}
        assert read < least or found.idle <= (heads + decided(keys) + 13 if merges else heads - 1)


@pytest.mark.bench
@pytest.mark.parametrize("keys", [1, 2, 4])
def test_rows_that_take_longer_to_merge_than_to_come(keys):
    """So few that each append waits for the merge before it."""
    answers, beats = Replaced(4, 6, ALIKE, 4096, keys=keys).answers, 2 * keys + 2
    assert set(answers[:-1]) == {RecordMerge(TINY).between(keys * TINY.kv_lanes // TINY.vector_lanes)} and 6 * beats + 1 < answers[0]


@pytest.mark.bench
def test_two_searches_are_under_way_at_most():
    """So two appends that are dropped take what one of them reads and what it takes to decide, if that is more than what both read."""
    for budget, keys in ((4, 1), (4, 2), (5, 1), (5, 2), (8, 1)):
        answers, read = Replaced(budget, 6, ALIKE, 4097, keys=keys).answers, (budget + 1) * (2 * keys + 2)
        assert {a + b for a, b in itertools.pairwise(answers)} == {max(2 * (read + 1), read + decided(keys) + 15)}


@pytest.mark.bench
@pytest.mark.parametrize("budget", [8, 16, 32])
@pytest.mark.parametrize("keys", [1, 2, 4, 8, 16])
def test_what_another_append_to_the_same_head_costs_at_the_budget(budget, keys):
    """As ``EvictCache`` says, exactly."""
    beats, words = 2 * keys + 2, keys * TINY.kv_lanes // TINY.vector_lanes
    for word, threshold in SIMILAR:
        needed = (budget + 1) * beats + 25 + decided(keys) + max(beats + 1, budget)
        if bool(word) and threshold <= 4096:
            needed = (budget + 2) * beats + 47 + decided(keys) + max(beats, 20) + RecordMerge(TINY).passes(words)
        assert set(Replaced(budget, 1, word, threshold, scored=False, keys=keys).answers) == {needed}


@caches("contiguous_int4", "paged_int4")
def test_records_of_4_bits(name):
    """Those of this configuration, and the shortest ones."""
    for beats in (2, INT4.max_record_beats):
        assert lost(name, beats) <= 2


@caches("swap", "paged_1", "paged_2", "paged_4", "paged_16")
@pytest.mark.parametrize(("heads", "layers"), [(1, 1), (2, 1), (1, 2), (2, 2), (1, 4), (4, 1)])
def test_room_for_a_chunk_of_tokens(name, heads, layers):
    """Each block but the first takes 2 cycles more, 1 less in all if the first was there: no record of 2 beats costs more than 2 beyond
    them."""
    size = block_size(name)
    for chunk in (1, 2, 3, 4, 5, 8, 16, 32):
        records, needed = chunk * heads * layers, []
        for start in range(chunk, 4 * chunk, chunk):
            behind = (start + chunk - 1) // size - start // size
            needed.append(max(2 * records + 1 + 2 * behind - (behind != 0 and start % size != 0), 4))
        assert appended(name, 2, heads, layers, chunk=chunk, chunks=4) == needed
        assert max(needed) / records - 2 <= 2


@caches("swap", "paged_1", "paged_2", "paged_4", "paged_16")
@pytest.mark.parametrize("beats", [2, 3, 17])
def test_the_first_append_of_a_fork(name, beats):
    """Whether others still have its last block is known at once; a copy of it takes 2 cycles more, but for that of the rows. Of a
    token, and of as many that they need two blocks more."""
    size, copy = block_size(name), PagedCache.CYCLES["copy"]
    for (heads, layers), length, left, chunk in itertools.product(RECORDS, (3 * size, 3 * size - 1), (False, True), (1, size + 2)):
        records = heads * layers
        session = Session(name, beats)
        session.extend(length)
        for sequence in (1, 2):
            session.command(SequenceCommand.FORK, sequence, 0, length)
        for sequence in (0, 2) if left else ():
            session.command(SequenceCommand.FREE, sequence)
        session.extend(size, sequence=3)
        for sequence, positions in ((3, range(1)), *((1, range(length + k * chunk, length + (k + 1) * chunk)) for k in range(2))):
            if sequence == 1:
                session.extend(chunk, sequence)
            for layer, position, head in itertools.product(range(layers), positions, range(heads)):
                session.request(1, position, 1, head, layer, sequence)
        cycles, each = session.beats("o_out"), records * beats
        assert len(cycles) == (1 + 2 * chunk) * each
        within, behind = length % size != 0, (length + chunk - 1) // size - length // size
        room = max(4, 2 * records + 1) + 2 * behind - (behind != 0 and within) + copy * (within and not left)
        assert cycles[each] - cycles[0] == max(each, room), (heads, layers, length, left, chunk)
        if chunk == 1:
            assert cycles[2 * each] - cycles[each] == max(each, 4, 2 * records + 1)


@pytest.mark.bench
@pytest.mark.parametrize("length", [1, 15, 16, 17, 20, 30, 32, 79])
def test_the_first_append_after_a_swap_costs_nothing_more(length):
    """The sequence has been out and is back: its full blocks have slots with the same rows, and the one that the append goes to has
    none. Every cycle is as if there had been no swap; the second time too, when only the last block was copied."""
    written, size = {}, TINY.block_size
    for swaps in range(3):
        session, beats = Session("swap", 3), 3
        session.extend(length)
        session.steps.append(Settle(60))
        for command in (SwapCommand.SWAP_OUT, SwapCommand.SWAP_IN) * swaps:
            session.command(command, 0)
            session.steps.append(Settle(999))
        begin = len(session.steps)
        for _ in range(3):
            session.extend(1)
            for head in range(HEADS):
                session.request(1, session.length - 1, 1, head)
        events = play(emitted("swap"), [*session.steps, Settle(60)], seed=0, surroundings=Surroundings({"o_move": ("i_moved", 256)}))
        moved = [event.payload["rows"] for event in events if event.what == "left" and event.name == "o_move"]
        assert sum(moved) == (swaps > 0) * 2 * length + (swaps > 1) * (length + length % size)
        room = next(event.cycle for event in events if event.what == "taken" and event.step >= begin)
        written[swaps] = [event.cycle - room for event in events if event.what == "left" and event.name == "o_out"]
        assert len(written[swaps]) == 3 * HEADS * beats
    assert written[0] == written[1] == written[2]


@pytest.mark.bench
@pytest.mark.parametrize("beats", [2, 3, 5, 17])
@pytest.mark.parametrize("command", [SwapCommand.SWAP_OUT, SwapCommand.SWAP_IN])
def test_an_append_costs_nothing_more_while_others_are_swapped(command, beats):
    """Another sequence leaves, or comes back, in as many moves as it has blocks: behind the command's answer every cycle is as if it
    did not."""
    length, tokens, size = 64, 60, TINY.block_size
    for heads, layers in RECORDS:
        session = Session("swap", beats)
        for _ in range(length // size):
            for sequence in (0, 1):
                session.extend(size, sequence)
        session.length = length
        commands = [SwapCommand.SWAP_OUT, SwapCommand.SWAP_IN][:1 + (command == SwapCommand.SWAP_IN)]
        for each in commands:
            session.steps.append(Settle(999))
            session.command(each, 1)
        for _ in range(tokens):
            session.extend(1)
            for layer in range(layers):
                for head in range(heads):
                    session.request(1, session.length - 1, 1, head, layer)
        events = [event for event in play(emitted("swap"), [*session.steps, Settle(999)], seed=0,
                                          surroundings=Surroundings({"o_move": ("i_moved", 32)})) if event.what == "left"]
        cycles, each, records = [event.cycle for event in events if event.name == "o_out"], heads * layers * beats, heads * layers
        moves = [event for event in events if event.name == "o_move"]
        assert {event.payload["rows"] for event in moves} == {size} and len(moves) == len(commands) * length // size
        swapped = [event.cycle for event in events if event.name == "o_swapped"]
        assert all(cycles[0] < cycle < cycles[-1] for cycle in (moves[-1].cycle, swapped[-1]))
        taken = {cycles[k + each] - cycles[k] for k in range(0, len(cycles) - each, each)}
        print(f"{command.name}, {heads} * {layers} records of {beats} beats: {sorted(taken)} cycles")
        assert max(taken) == max(records * beats, 4, 2 * records + 1)


def gaps(cycles: list[int]) -> int:
    return cycles[-1] - cycles[0] + 1 - len(cycles)


@caches("swap", "paged_1", "paged_2", "paged_4", "paged_16")
@pytest.mark.parametrize("beats", [2, 3, 5, 17])
def test_no_cycle_is_lost_between_blocks(name, beats):
    """Of which no two lie behind each other; four heads in a row."""
    session, size = Session(name, beats), block_size(name)
    for _ in range(96 // size):
        session.extend(size)
        session.extend(size, sequence=1)
    for head in range(HEADS):
        session.request(0, 0, 96, head)
    cycles = session.beats("o_in")
    assert len(cycles) == HEADS * 96 * beats and gaps(cycles) == 0


@pytest.mark.parametrize("length", [64 + 4 + 17, 64 + 4 + 63, 64 + 4 + 64, 64 + 4 + 65])
@pytest.mark.parametrize("beats", [2, 17])
def test_no_cycle_is_lost_around_the_ring(beats, length):
    """Sinks, ring to its end, ring from its begin: of two heads, in two requests each as the accelerator asks."""
    session = Session("window", beats)
    session.extend(length)
    for head in range(2):
        session.request(0, 0, SINKS, head)
        session.request(0, length - RECENT, RECENT, head)
    cycles = session.beats("o_in")
    assert len(cycles) == 2 * (SINKS + RECENT) * beats
    first = SINKS * beats  # where the slot of the oldest position is a remainder, it is found once, while the sinks are read
    assert gaps(cycles[first:]) == 0 and gaps(cycles) <= max(0, 32 - first)
