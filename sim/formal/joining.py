"""Rules of streams of what joins parts of an attention, and what of its parts they depend on."""

from typing import Any
from unittest.mock import patch

from amaranth.hdl import Assert, Assume, Module, Mux, Signal, Value

from ...accelerators.attention.joining import Joining
from ...accelerators.attention.merge import PartialMerge
from ...accelerators.streams import Queue
from .contract import StreamContract

__all__ = ["JoiningContract", "MergeContract", "QueueContract"]

MERGE_WORDS = 7
"""Words inside ``PartialMerge``, at most."""


def _goes(port) -> Value:
    return port.valid & port.ready


def _count(m: Module, name: str, comes, goes) -> Signal:
    """Those that came and have not gone."""
    inside = Signal(4, name=name)
    m.d.sync += inside.eq(inside + comes - goes)
    return inside


def _of_queue(m: Module, queue: Queue, depth: int, inside: Value) -> list[Value]:
    """What is so of a queue with so many items ``inside``."""
    before = Signal()
    m.d.sync += before.eq(_goes(queue.i))
    return [queue.i.ready == (inside != depth), ~queue.o.valid | (inside != 0), queue.o.valid | (inside == 0) | before]


class _Words:
    """Words inside a merge: ``all``, those ``behind`` the last one that is marked, and marks (``ends``)."""

    def __init__(self, m: Module, merge: PartialMerge):
        comes, goes, ends = _goes(merge.i), _goes(merge.o), _goes(merge.i) & merge.i.p.last
        self.all, self.ends = _count(m, "words", comes, goes), _count(m, "ends", ends, goes & merge.o.p.last)
        self.behind = behind = Signal.like(self.all)
        m.d.sync += behind.eq(Mux(ends, 0, behind + comes - (goes & (self.all == behind))))
        whole = self.all - behind
        self.promised = [
            ~merge.i.ready | (self.all < MERGE_WORDS), ~merge.o.valid | (self.all != 0),
            ~merge.o.valid | Mux(whole == 0, ~merge.o.p.last, (whole == 1) == (merge.o.p.last & (self.ends == 1))),
            ~merge.o.valid | (whole != self.ends) | (whole == 0) | merge.o.p.last,
        ]


class QueueContract(StreamContract):
    """There is a place unless ``depth`` items are inside, and an item comes two cycles after it went in if none is before it."""

    component: Queue

    def _design(self, platform):
        queue, depth = self.component, self.component.depth
        m = queue.elaborate(platform)
        inside, storage = _count(m, "inside", _goes(queue.i), _goes(queue.o)), m.submodules.storage
        read, write = storage.read_ports[0].addr, storage.write_ports[0].addr
        fetched = inside - queue.o.valid
        known = [queue.level == inside, inside <= depth, read < depth, write < depth, fetched < depth,
                 (read + fetched == write) | (read + fetched == write + depth)]
        m.d.comb += [Assert(each) for each in (*known, *_of_queue(m, queue, depth, inside))]
        return m


class MergeContract(StreamContract):
    """Words come out for those that went in, marked as they are, and 7 are inside at most."""

    component: PartialMerge

    def elaborate(self, platform):
        m = super().elaborate(platform)
        m.d.comb += [Assert(each) for each in _Words(m, self.component).promised]
        return m


class JoiningContract(StreamContract):
    """With any merge that keeps the rules of streams and does as MergeContract says, and any queues that do as QueueContract says and
    give what they were given, in order: while a lane passes, no words are merged."""

    component: Joining

    def _design(self, platform):
        names: dict[str, Any] = type(self.component).elaborate.__globals__
        kind, merge = names["Queue"], names["PartialMerge"]
        queues: list[tuple[Any, int]] = []

        def any_queue(shape, depth):
            queues.append((self._any(kind(shape, depth), f"queue_{len(queues)}"), depth))
            return queues[-1][0]
        with patch.dict(names, Queue=any_queue, PartialMerge=lambda config: self._any(merge(config), "merge")):
            m = self.component.elaborate(platform)
        (ways, most), (partial, states_most) = queues
        enters, leaves = _goes(ways.i), _goes(ways.o)
        passing = _count(m, "passing", enters & ~ways.i.p, leaves & ~ways.o.p)
        merging = _count(m, "merging", enters & ways.i.p, leaves & ways.o.p)
        states, words = _count(m, "states", _goes(partial.i), _goes(partial.o)), _Words(m, m.submodules.merge)
        before = Signal()
        m.d.sync += before.eq(_goes(partial.i))
        inside = next(signal for signal in m._driving if signal.name == "inside")
        promised = [*_of_queue(m, ways, most, passing + merging), *_of_queue(m, partial, states_most, states), *words.promised,
                    ~ways.o.valid | (ways.o.p == (passing == 0))]
        known = [
            inside == merging + words.ends, (passing == 0) | (words.all == 0), passing + merging <= most, states <= states_most,
            words.all <= MERGE_WORDS, words.behind <= words.all, words.ends <= words.all - words.behind,
            (words.ends == 0) == (words.all == words.behind), (words.behind == 0) | (merging != 0), ~before | (merging != 0),
        ]
        m.d.comb += [*(Assume(each) for each in promised), *(Assert(each) for each in known)]
        return m
