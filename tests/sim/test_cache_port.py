"""What addresses cost on the port, with an ideal memory: cycles per appended record beyond its beats, idle cycles in a read."""

import functools

import pytest
from llmrtl.accelerators.cache.contiguous import ContiguousCache
from llmrtl.accelerators.cache.paged import PagedCache
from llmrtl.accelerators.cache.paged_formats import SequenceCommand
from llmrtl.accelerators.cache.window import WindowCache
from llmrtl.accelerators.presets import preset
from llmrtl.rtl_gen.emit import emit
from llmrtl.sim.traces.player import Offer, Set, Settle, play
from llmrtl.sim.traces.port import CacheOnPort

TINY = preset("tiny")
HEADS, LAYERS, TOKENS = 4, 4, 12
CACHES = {"contiguous": lambda: ContiguousCache(TINY, pipelined=True), "contiguous_serial": lambda: ContiguousCache(TINY),
          "window": lambda: WindowCache(TINY), "paged": lambda: PagedCache(TINY)}


@functools.cache
def emitted(name):
    return emit(CacheOnPort(TINY, CACHES[name]()), f"{name}_on_port", TINY)


class Session:
    """Steps for one controller."""

    def __init__(self, name: str, beats: int):
        self.name, self.stride = name, TINY.max_context * 4 * beats * TINY.bus_bytes
        self.steps = [Set("record_beats", beats), Set("head_stride", self.stride),
                      *([Set("capacity", TINY.max_context)] if "contiguous" in name else []),
                      *([Set("sinks", 4), Set("recent", 64)] if name == "window" else [])]

    def request(self, write: int, position: int, count: int, head: int = 0, layer: int = 0) -> None:
        payload = {"write": write, "base": layer * HEADS * self.stride, "head": head, "position": position, "count": count}
        self.steps.append(Offer("i_request", payload | ({"sequence": 0} if self.name == "paged" else {})))

    def extend(self, count: int, sequence: int = 0) -> None:
        if self.name == "paged":
            self.steps.append(Offer("i_command", {"command": SequenceCommand.EXTEND, "sequence": sequence, "other": 0, "count": count}))

    def length(self, length: int) -> None:
        """Of a text: nothing may be under way."""
        if self.name == "window":
            self.steps += [Settle(40), Set("length", length)]

    def beats(self, stream: str) -> list[int]:
        """Cycles of the beats."""
        return [event.cycle for event in play(emitted(self.name), self.steps, seed=0) if event.what == "left" and event.name == stream]


def appended(name: str, beats: int, heads: int = HEADS, layers: int = LAYERS) -> list[float]:
    """Cycles that a record takes beyond its beats: the mean over the records of all heads and layers of each token, from the first beat
    of its first record to the first beat of the next token; of the window, whose length may only change when nothing is under way,
    to its own last beat."""
    session = Session(name, beats)
    for token in range(TOKENS):
        session.length(token + 1)
        session.extend(1)
        for record in range(heads * layers):
            session.request(1, token, 1, record % heads, record // heads)
    session.steps.append(Settle(40))
    cycles, each = session.beats("o_out"), heads * layers * beats
    assert len(cycles) == TOKENS * each
    if name == "window":
        return [(cycles[k + each - 1] - cycles[k] + 1 - each) / (heads * layers) for k in range(0, len(cycles), each)]
    return [(cycles[k + each] - cycles[k] - each) / (heads * layers) for k in range(0, len(cycles) - each, each)]


@pytest.mark.parametrize("beats", [2, 3, 5, 17])
@pytest.mark.parametrize("name", ["contiguous", "window", "paged"])
def test_an_append_costs_two_cycles_more_than_its_beats_at_most(name, beats):
    lost = appended(name, beats)
    print(f"{name}, records of {beats} beats: {max(lost):.2f} cycles lost per record")
    assert max(lost) <= 2


@pytest.mark.parametrize(("records", "beats"), [(16, 2), (8, 3), (2, 9), (1, 17)])
def test_making_room_hides_behind_the_records_of_a_token(records, beats):
    """A paged cache is asked for room before each token: about 16 cycles, of which two for each record, and the beats, hide all."""
    assert max(appended("paged", beats, records, 1)) <= 2


@pytest.mark.parametrize(("beats", "fits"), [(7, False), (8, True), (17, True)])
def test_without_multipliers_records_must_be_longer(beats, fits):
    """A request each ``interval`` cycles."""
    lost = max(appended("contiguous_serial", beats))
    assert (lost <= 2) == fits and lost == max(0, ContiguousCache(TINY).interval - beats)


def gaps(cycles: list[int]) -> int:
    return cycles[-1] - cycles[0] + 1 - len(cycles)


@pytest.mark.parametrize("beats", [2, 5, 17])
def test_no_cycle_is_lost_between_blocks(beats):
    """Blocks of 16 rows, no two of them behind each other; four heads in a row."""
    session = Session("paged", beats)
    for _ in range(6):
        session.extend(16)
        session.extend(16, sequence=1)
    for head in range(HEADS):
        session.request(0, 0, 96, head)
    session.steps.append(Settle(60))
    cycles = session.beats("o_in")
    assert len(cycles) == HEADS * 96 * beats and gaps(cycles) == 0


@pytest.mark.parametrize("length", [64 + 4 + 17, 64 + 4 + 63, 64 + 4 + 64, 64 + 4 + 65])
@pytest.mark.parametrize("beats", [2, 17])
def test_no_cycle_is_lost_around_the_ring(beats, length):
    """Sinks, ring to its end, ring from its begin: of two heads, in two requests each as the accelerator asks."""
    session = Session("window", beats)
    session.length(length)
    for head in range(2):
        session.request(0, 0, 4, head)
        session.request(0, length - 64, 64, head)
    session.steps.append(Settle(60))
    cycles = session.beats("o_in")
    assert len(cycles) == 2 * 68 * beats
    first = 4 * beats  # the slot of the oldest position is a remainder: found once, while the sinks are read
    assert gaps(cycles[first:]) == 0 and gaps(cycles) <= max(0, 32 - first)
