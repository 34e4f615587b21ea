"""What becomes of the candidates of an evict + merge KV cache, while the rows of the next head are read."""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, wiring

from ..config import POSITION_BITS
from ..memory.bursts import ADDRESS_BITS
from ..streams import StreamBuffer
from .addresses import HEAD_BITS
from .evict_bursts import EvictBursts
from .evict_formats import Burst, Outcome
from .evict_scores import EvictScores, ScoreCommand
from .record_merge import RecordMerge
from .similar import SimilarKey

__all__ = ["EvictDecisions"]


class EvictDecisions:
    """Ends the searches that an ``EvictCache`` has begun, two at most, in order: the first one while the second one's rows come.

    ::

        searches --> SIMILAR --> DROP ----------------------------------------------------------------.--> PLACE: token to its row
                        '-----> MERGE --> TOKENS (both go to RecordMerge) --> MERGED: the target's row -'
        i_data --> candidate: SimilarKey and RecordMerge; rows: SimilarKey; target: RecordMerge

    Parameters
    ----------
    m : Module
        That of the cache.
    cache : EvictCache
        Its ports and sizes matter.
    similar, merge, scores : SimilarKey, RecordMerge, EvictScores
    bursts : EvictBursts

    Members
    -------
    i : stream
        A search, in the cycle in which its candidate is asked for.
    busy : Signal
        There is a search.
    ended : Signal
        The state of its head was written a cycle ago.
    asks, commands : Signal
        ``bursts.asks`` and ``scores.i_command`` are not free for others: this goes first.
    """

    def __init__(self, m: Module, cache: wiring.Component, similar: SimilarKey, merge: RecordMerge, scores: EvictScores,
                 bursts: EvictBursts):
        slots = range(cache.slots)
        search = data.StructLayout({"base": ADDRESS_BITS, "head": HEAD_BITS, "slot": slots, "tokens": POSITION_BITS,
                                    "length": POSITION_BITS, "budget": range(cache.slots + 1)})
        m.submodules.searches = searches = StreamBuffer(search)
        self.similar, self.merge, self.scores, self.bursts = similar, merge, scores, bursts
        self.i, self.first, self.last = searches.i, searches.o, Signal(HEAD_BITS)
        self.busy, self.ended, self.asks, self.commands = self.first.valid, Signal(), Signal(), Signal()
        self.come = Signal(range(3))  # searches all of whose rows have come
        m.d.sync += self.ended.eq(self.first.valid & self.first.ready)
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += self.last.eq(self.i.p.head)
        self._fetched(m, cache.i_data)

    def concern(self, head: Signal) -> Value:
        """One of the searches is that of ``head``."""
        return self.busy & ((self.first.p.head == head) | (self.last == head))

    def _fetched(self, m: Module, words) -> None:
        """What comes for the cache itself, to who wants it."""
        similar, merge, kind, records = self.similar, self.merge, self.bursts.kinds, self.bursts.records
        m.d.comb += [
            similar.i.p.eq(words.p.data), merge.i.p.eq(words.p.data), kind.ready.eq(words.valid & words.ready & words.p.last),
            merge.i_kind.valid.eq(records.valid), merge.i_kind.p.kept.eq(records.p), records.ready.eq(merge.i_kind.ready),
        ]
        comes, both = kind.valid & words.valid, kind.p == Burst.CANDIDATE
        m.d.comb += [
            similar.i.valid.eq(comes & ((kind.p == Burst.ROWS) | (both & merge.i.ready))),
            merge.i.valid.eq(comes & ((kind.p == Burst.TARGET) | (both & similar.i.ready))),
            words.ready.eq(kind.valid & (similar.i.ready | (kind.p == Burst.TARGET)) & (merge.i.ready | (kind.p == Burst.ROWS))),
        ]
        m.d.sync += self.come.eq(self.come + (kind.ready & (kind.p == Burst.ROWS)) - (self.first.valid & self.first.ready))

    def _ask(self, m: Module, row: Value, what: Burst, condition: Value | int = 1, *, write: int = 0) -> Value:
        """In a state: a burst of row ``row``, if ``condition``; whether it is asked for."""
        search, asks = self.first.p, self.bursts.asks
        with m.If(condition):
            m.d.comb += [
                self.asks.eq(1), asks.valid.eq(1), asks.p.base.eq(search.base), asks.p.head.eq(search.head), asks.p.position.eq(row),
                asks.p.count.eq(1), asks.p.write.eq(write), asks.p.passed.what.eq(what),
            ]
        return asks.ready & condition

    def _score(self, m: Module, command: ScoreCommand, row: Value, condition: Value | int = 1) -> Value:
        """In a state: gives the scores a command, if ``condition``; whether they take it."""
        search, commands = self.first.p, self.scores.i_command
        with m.If(condition):
            m.d.comb += [
                self.commands.eq(1), commands.valid.eq(1), commands.p.command.eq(command), commands.p.head.eq(search.head),
                commands.p.slot.eq(row), commands.p.source.eq(search.slot), commands.p.position.eq(search.length),
            ]
        return commands.ready & condition

    def decide(self, m: Module, state_write) -> None:
        """The states; call it when those of requests are there: where both drive a signal, this wins. ``state_write``: memory port of
        what the cache knows of each head."""
        search, appends = self.first.p, self.bursts.appends
        similar, merge, scores = self.similar, self.merge, self.scores
        target, merges = Signal.like(search.slot), Signal()
        m.d.comb += [merge.i_command.p.kept.eq(scores.o.p.tokens), merge.i_command.p.candidate.eq(search.tokens)]
        with m.FSM(name="decisions"):
            with m.State("SIMILAR"):
                found = similar.o.p.similar
                asked = self._ask(m, similar.o.p.slot, Burst.TARGET, similar.o.valid & found)
                m.d.comb += similar.o.ready.eq(asked | ~found)
                m.d.sync += [target.eq(similar.o.p.slot), merges.eq(found)]
                with m.If(similar.o.valid & similar.o.ready):
                    m.next = "DROP"
                    with m.If(found):
                        m.next = "MERGE"
            with m.State("DROP"):
                m.d.comb += merge.i_command.valid.eq(1)
                with m.If(merge.i_command.ready):
                    m.next = "PLACE"
            with m.State("MERGE"):
                with m.If(self._score(m, ScoreCommand.MERGE, target)):
                    m.next = "TOKENS"
            with m.State("TOKENS"):
                m.d.comb += [merge.i_command.valid.eq(scores.o.valid), merge.i_command.p.merges.eq(1),
                             scores.o.ready.eq(merge.i_command.ready)]
                with m.If(scores.o.valid & scores.o.ready):
                    m.next = "MERGED"
            with m.State("MERGED"):
                with m.If(self._ask(m, target, Burst.TARGET, write=1)):
                    m.next = "PLACE"
            with m.State("PLACE"):
                # What is found is known before the last beats of V: but nothing is due any more when an append is answered.
                placed = self.bursts.asks.ready & appends.ready & scores.i_command.ready & (self.come != 0)
                m.d.comb += self.first.ready.eq(placed)
                self._ask(m, search.slot, Burst.TOKEN, placed, write=1)
                self._score(m, ScoreCommand.PLACE, search.slot, placed)
                with m.If(placed):
                    m.d.comb += [
                        appends.valid.eq(1), appends.p.target.eq(target),
                        *(appends.p[name].eq(search[name]) for name in ("head", "slot", "tokens")),
                        appends.p.outcome.eq(Mux(merges, Outcome.MERGED, Outcome.DROPPED)),
                        state_write.addr.eq(search.head[:len(state_write.addr)]), state_write.en.eq(1), state_write.data.known.eq(0),
                        state_write.data.length.eq(search.length + 1), state_write.data.budget.eq(search.budget),
                    ]
                    m.next = "SIMILAR"
