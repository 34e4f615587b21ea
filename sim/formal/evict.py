"""What a KV cache with a budget of rows promises of appends that do not reach it."""

from dataclasses import replace
from unittest.mock import patch

from amaranth.hdl import Array, Assert, Assume, Module, Mux, ResetSignal, Signal

from ...accelerators.cache.evict_cache import EvictCache
from ...accelerators.cache.evict_formats import Outcome
from ...accelerators.presets import preset
from .contract import StreamContract

__all__ = ["EvictContract", "evict_streams"]

_SMALL = replace(preset("tiny_evict"), max_context=8)
_NARROW = {"sinks": 2, "recent": 2,
           **dict.fromkeys(("threshold", "record_beats", "head_stride", "beats", "words", "i_data__payload"), 0)}


def _without_merging(component: type[EvictCache]) -> type[EvictCache]:
    """What searches for a similar row, and what merges, takes all that comes and says nothing."""
    names = component.elaborate.__globals__

    def takes(self, platform):
        m = Module()
        m.d.comb += [self.i_command.ready.eq(1), self.i.ready.eq(1)]
        return m
    empty = {"elaborate": takes}
    left_out = patch.dict(names, {name: type(name, (names[name],), empty) for name in ("SimilarKey", "RecordMerge")})
    return type("Appending", (component,), {"elaborate": left_out(component.elaborate)})


def evict_streams() -> StreamContract:
    """The rules of streams, with all that searches and merges."""
    return StreamContract(EvictCache(_SMALL, heads=2, slots=4))


class EvictContract(StreamContract):
    """Reads and writes come, no write at the budget of its head, with records of one or two beats; nobody stalls, records are there,
    and the writer answers in the cycle behind a record. Each request is taken within ``taken`` cycles of its offer. A write has the
    outcome ``about`` (``ADDED`` or ``REFUSED``) if and only if it must, and is then answered within ``within`` cycles of being taken,
    others before it or not. ``sinks`` and ``recent`` stand still. What searches and what merges is left out: neither has a part in
    that."""

    def __init__(self, about: Outcome, *, within: int, taken: int, component: type[EvictCache] = EvictCache):
        if about not in (Outcome.ADDED, Outcome.REFUSED):
            raise ValueError(f"about must be ADDED or REFUSED, not {about!r}")
        super().__init__(_without_merging(component)(_SMALL, heads=2, slots=4), narrow=_NARROW, still=("sinks", "recent"))
        self.about, self.within, self.taken = about, within, taken

    def elaborate(self, platform):
        m = super().elaborate(platform)
        cache, offered, request = self.component, self.component.i_request, self.component.i_request.p
        answer, record = cache.o_append, cache.i_record

        # Of each head, and what must become of the request that is offered.
        lengths, budgets = (Array([Signal(range(cache.slots + 1), name=f"{name}_{head}") for head in range(cache.heads)])
                            for name in ("length", "budget"))
        begins, refused = request.position == 0, Signal()
        length, budget = Mux(begins, 0, lengths[request.head]), Mux(begins, request.budget, budgets[request.head])
        takes = offered.valid & offered.ready & request.write
        m.d.comb += [
            refused.eq((request.head >= cache.heads) | (request.position != length) | (request.count != 1)
                       | (begins & ((budget <= cache.sinks + cache.recent) | (budget > cache.slots)))),
            Assume(~offered.valid | (~request.scores & ~(request.write & ~refused & (length >= budget)))),
            Assume(request.position[len(length):] == 0),
            Assume(~ResetSignal()),  # it would not clear the memory of the heads
        ]
        with m.If(takes & ~refused):
            m.d.sync += [lengths[request.head].eq(length + 1), budgets[request.head].eq(budget)]

        # Records come and are written.
        second, written = Signal(), Signal(4)
        m.d.sync += [second.eq(Mux(record.ready, ~record.p.last, second)),
                     written.eq(written + (cache.o_data.valid & cache.o_data.p.last) - (cache.i_written.valid & cache.i_written.ready))]
        m.d.comb += [
            *(Assume(port.ready) for port in (cache.o_read, cache.o_write, cache.o_data, answer)),
            Assume(record.valid), Assume(~second | record.p.last), Assume(cache.i_written.valid == (written != 0)),
        ]

        # A write, any one, is followed.
        follows, followed, inside, before, expected = Signal(), Signal(), Signal(4), Signal(4), Signal()
        self.ports.append(follows)
        comes = followed & answer.valid & (before == 0)
        m.d.sync += inside.eq(inside + takes - answer.valid)
        with m.If(followed):
            m.d.sync += [before.eq(before - answer.valid), followed.eq(~comes)]
        with m.Elif(takes & follows):
            m.d.sync += [before.eq(inside - answer.valid), followed.eq(1),
                         expected.eq(refused if self.about == Outcome.REFUSED else ~refused)]
        m.d.comb += [Assert(~answer.valid | (inside != 0)), Assert(~comes | ((answer.p.outcome == self.about) == expected))]
        self._due(m, "answer", followed & expected, comes, self.within)
        self._due(m, "request", offered.valid & ~offered.ready, offered.ready, self.taken)
        return m
