"""What addresses cost on the port, with an ideal memory: cycles per appended record beyond its beats, idle cycles in a read."""

import functools

import pytest
from llmrtl.accelerators.cache.contiguous import ContiguousCache
from llmrtl.accelerators.cache.paged import PagedCache
from llmrtl.accelerators.cache.paged_formats import SequenceCommand
from llmrtl.accelerators.cache.swap import SwapController
from llmrtl.accelerators.presets import preset
from llmrtl.rtl_gen.emit import emit
from llmrtl.sim.traces.player import Offer, Set, Settle, play
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

    def request(self, write: int, position: int, count: int, head: int = 0, layer: int = 0) -> None:
        payload = {"write": write, "base": layer * HEADS * self.stride, "head": head, "position": position, "count": count}
        if self.kind in ("paged", "swap"):
            payload["sequence"] = 0
        elif self.kind == "window":
            payload["length"] = self.length
        elif self.kind == "evict":
            payload |= {"head": layer * HEADS + head, "scores": 0, "budget": TOKENS}
        self.steps.append(Offer("i_request", payload))

    def extend(self, count: int, sequence: int = 0) -> None:
        self.length += count
        if self.kind in ("paged", "swap"):
            self.steps.append(Offer("i_command", {"command": SequenceCommand.EXTEND, "sequence": sequence, "other": 0, "count": count}))

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


RECORDS = [(1, 1), (2, 1), (4, 1), (1, 3), (4, 4)]
"""Heads and layers."""


@caches("contiguous", "window", "paged_1", "paged_2", "paged_4", "paged_16")
@pytest.mark.parametrize("beats", [2, 3, 5, 17])
def test_an_append_costs_two_cycles_more_than_its_beats_at_most(name, beats):
    """Room for each token of a paged cache included, if it needs a block or not; and a window's first position in the ring."""
    for heads, layers in RECORDS:
        records = heads * layers
        needed = max(records * beats, {"contiguous": records, "window": 2 * records + 1}.get(name, max(4, 2 * records + 1)))
        assert lost(name, beats, heads, layers) == needed / records - beats <= 2


@caches("evict", "swap")
@pytest.mark.parametrize("beats", [2, 8, 17])
def test_what_an_append_costs_where_it_is_more(name, beats):
    """Exactly. What precedes a token's first record is included."""
    for heads, layers in RECORDS:
        records = heads * layers
        needed = {"evict": records * (beats + 22), "swap": max(records * beats, 4 * records + 7)}[name]
        cycles = appended(name, beats, heads, layers)
        print(f"{name}, {records} records of {beats} beats: {needed / records - beats:.2f} cycles lost per record")
        assert set(cycles) == {needed}


@caches("contiguous_int4", "paged_int4")
def test_records_of_4_bits(name):
    """Those of this configuration, and the shortest ones."""
    for beats in (2, INT4.max_record_beats):
        assert lost(name, beats) <= 2


@caches("paged_1", "paged_2", "paged_4", "paged_16")
@pytest.mark.parametrize(("heads", "layers"), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_room_for_a_chunk_of_tokens(name, heads, layers):
    """Each block but the first takes 3 cycles more, and in it the first record of each token and layer 1 more."""
    size = int(name.split("_")[1])
    for chunk in (1, 2, 4, 8, 16):
        records, behind = chunk * heads * layers, max(chunk - size, 0)
        needed = max(2 * records + 1 + 3 * behind // size + behind * layers, 4)
        assert set(appended(name, 2, heads, layers, chunk=chunk, chunks=4)) == {needed}
        assert size < 4 or needed / records <= 4


def gaps(cycles: list[int]) -> int:
    return cycles[-1] - cycles[0] + 1 - len(cycles)


@caches("paged_1", "paged_2", "paged_4", "paged_16")
@pytest.mark.parametrize("beats", [2, 3, 5, 17])
def test_no_cycle_is_lost_between_blocks(name, beats):
    """Of which no two lie behind each other; four heads in a row."""
    session, size = Session(name, beats), int(name.split("_")[1])
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
