"""KV cache with a budget of rows per head: evicts by score, merges what goes into the most similar row."""

from enum import IntEnum

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import POSITION_BITS, AcceleratorConfig, check_int
from ..memory.bursts import ADDRESS_BITS, BURST_COMMAND
from ..streams import StreamBuffer, connect, word_layout
from .contiguous import ContiguousCache, request_layout
from .evict_scores import DECAY, EMPHASIS, EvictScores, ScoreCommand, attention_weight_bits, attention_weight_layout, evict_slots
from .record_merge import RecordMerge
from .similar import THRESHOLD_BITS, SimilarKey

__all__ = ["EvictCache", "Outcome", "append_layout", "evict_request"]


class Outcome(IntEnum):
    """What an append did."""

    ADDED = 0
    """The budget was not reached: ``slot`` is a new row."""
    MERGED = 1
    """The token took ``slot``; what was there, ``tokens`` tokens, went into row ``target``."""
    DROPPED = 2
    """The token took ``slot``; what was there, ``tokens`` tokens, is gone (EMS's class 0)."""
    REFUSED = 3
    """Nothing has changed."""


class Phase(IntEnum):
    """What a burst is for."""

    READ = 0
    CANDIDATE = 1
    ROWS = 2
    TARGET = 3
    MERGED = 4
    TOKEN = 5


def evict_request(config: AcceleratorConfig, slots: int) -> data.StructLayout:
    """As ``request_layout``, with ``position`` up to that of a text; ``scores``: the weights of an attention over the head's rows come;
    ``budget``: of the head, with the first token of a text."""
    return data.StructLayout({**request_layout(config, slots).members, "position": POSITION_BITS, "scores": 1,
                              "budget": range(slots + 1)})


def append_layout(slots: int) -> data.StructLayout:
    """``{head, outcome: Outcome, slot, target, tokens, error}``; ``error``: a write had an error response."""
    return data.StructLayout({"head": 8, "outcome": 2, "slot": range(slots), "target": range(slots), "tokens": POSITION_BITS,
                              "error": 1})


class EvictCache(wiring.Component):
    """Keeps at most a budget of rows of each K/V head (EMS, arXiv:2412.08521; specification: ``sim/golden/evict.py``).

    Attention does not care for the order of rows, so those of a head are always rows 0 .. min(tokens, budget) - 1, laid out as
    ``ContiguousCache`` has them. A token that comes when the budget is reached takes the row with the smallest score; that
    *candidate* is merged into the row with the most similar key, or dropped::

        write --> rows < budget ----------------------------------------------------------> token to the next row
              '-> EvictScores: candidate --> o_fetch candidate, all rows --> SimilarKey -.-> token to the candidate's row
                                                   i_data '-> RecordMerge                |        ^
                                                                  ^-- o_fetch target  <--'--> merged record to the target's row
        scores -> i_weights -> EvictScores
        read ---> o_read

    Parameters
    ----------
    config : AcceleratorConfig
        ``bus_bits``, ``kv_bits`` (8), ``max_head_dim``, ``max_context``, ``vector_lanes``, ``query_lanes`` matter.
    heads : int
        K/V heads of all layers that have a base in common, 2 to 256; ``max_heads`` by default.
    slots : int
        Largest budget, a power of two, 4 to 4096, below ``max_context``; by default a quarter of ``max_context``.
    decay, emphasis : int
        See ``EvictScores``.

    Members
    -------
    i_request : In(stream of evict_request)
        One after another; a request is taken when the one before is through. ``scores``: a packet of ``i_weights`` counts for the
        rows of ``head``. Else ``write``: the token at ``position``, which is the number of tokens so far or 0, which begins a text;
        ``count`` is 1. Else rows ``position`` to ``position + count - 1`` of those there are.
    i_weights : In(stream of {weight, last})
        Attention weights of rows 0, 1, ..., with 16 fraction bits, as ``AttentionWeights`` gives them.
    o_read : Out(stream of BURST_COMMAND)
        The rows of a read; what they hold goes to whoever asked.
    o_fetch : Out(stream of BURST_COMMAND); i_data : In(stream of word_layout)
        What the cache reads for itself: a reader serves one command after another, a packet each.
    i_record : In(stream of word_layout)
        The record of each token that is appended, as ``RecordPacker`` gives it.
    o_write : Out(stream of BURST_COMMAND); o_data : Out(stream of word_layout); i_written : In(stream of {error})
        Of a writer: commands, their words, one answer for each.
    o_append : Out(stream of append_layout)
        One for each write request, when everything has been written. ``target`` counts with MERGED, ``slot`` does not with REFUSED,
        ``tokens`` is 0 with ADDED and REFUSED.
    sinks, recent : In(20)
        First positions, and last ones before a new token, that are never the candidate.
    threshold : In(13)
        Cosine from which on two keys are similar, 12 fraction bits; above 1 nothing is merged.
    record_beats, head_stride : In
        See ``ContiguousCache``.
    beats, words : In(16)
        See ``RecordMerge``. All plain inputs stand still while a text is under way.
    error : Out(1), clear : In(1)
        Sticky: a read beyond the rows there are (nothing is issued), a write out of order, of a ``count`` that is not 1, or of a text
        whose budget is not above ``sinks + recent`` or beyond ``slots`` (REFUSED, its record is taken and gone), or any request for a
        head beyond ``heads``. ``clear`` clears it.

    What the heads hold is not cleared by a reset; a text begins with position 0. Latency (a dictionary): ``read``, ``append`` (below
    the budget) cycles from the request to the command. Interval: that of memory; an append below the budget takes its beats, and 22
    cycles if ``ContiguousCache`` takes 10 and memory answers at once; one at the budget reads ``budget + 1`` rows, or ``budget + 2`` if
    it merges.
    """

    interval = None

    def __init__(self, config: AcceleratorConfig, heads: int | None = None, slots: int | None = None, decay: int = DECAY,
                 emphasis: int = EMPHASIS):
        heads = config.max_heads if heads is None else heads
        slots = evict_slots(config) if slots is None else slots
        check_int("slots", slots, 4, min(4096, config.max_context - 1), power_of_two=True)
        self.config, self.heads, self.slots = config, heads, slots
        self._scores = EvictScores(heads, slots, attention_weight_bits(config), decay, emphasis)
        self._rows = ContiguousCache(config, slots)
        self.latency = {"read": 4 + self._rows.latency, "append": 5 + self._rows.latency}
        written, words = data.StructLayout({"error": 1}), word_layout(config.bus_bits)
        super().__init__({
            "i_request": In(stream.Signature(evict_request(config, slots))),
            "i_weights": In(stream.Signature(attention_weight_layout(config))),
            "o_read": Out(stream.Signature(BURST_COMMAND)),
            "o_fetch": Out(stream.Signature(BURST_COMMAND)),
            "o_write": Out(stream.Signature(BURST_COMMAND)),
            "i_data": In(stream.Signature(words)), "i_record": In(stream.Signature(words)), "o_data": Out(stream.Signature(words)),
            "i_written": In(stream.Signature(written)),
            "o_append": Out(stream.Signature(append_layout(slots))),
            "sinks": In(POSITION_BITS), "recent": In(POSITION_BITS), "threshold": In(THRESHOLD_BITS),
            "record_beats": In(range(config.max_record_beats + 1)), "head_stride": In(ADDRESS_BITS), "beats": In(16), "words": In(16),
            "error": Out(1), "clear": In(1),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "EvictCache":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        config, slots = self.config, range(self.slots)
        m.submodules.scores = scores = self._scores
        m.submodules.rows = rows = self._rows
        m.submodules.similar = similar = SimilarKey(config, self.slots)
        m.submodules.merge = merge = RecordMerge(config)
        m.submodules.written = written = StreamBuffer(self.o_data.p.shape())
        connect(m, written.o, wiring.flipped(self.o_data))
        head_state = data.StructLayout({"length": POSITION_BITS, "budget": range(self.slots + 1)})
        m.submodules.states = states = memory.Memory(shape=head_state, depth=self.heads, init=[])
        state_read, state_write = states.read_port(), states.write_port()

        request, state = Signal.like(self.i_request.p), Signal(head_state)
        phase, first, count = Signal(Phase), Signal.like(self.i_request.p.count), Signal.like(self.i_request.p.count)
        slot, target, tokens, outcome = Signal(slots), Signal(slots), Signal(POSITION_BITS), Signal(Outcome)
        m.d.comb += [
            scores.sinks.eq(self.sinks), similar.threshold.eq(self.threshold),
            *(each.eq(port) for part in (similar, merge) for each, port in ((part.beats, self.beats), (part.words, self.words))),
            state_read.addr.eq(self.i_request.p.head[:len(state_read.addr)]), state_write.addr.eq(request.head[:len(state_write.addr)]),
            state_write.data.length.eq(state.length + 1), state_write.data.budget.eq(state.budget),
            scores.i_command.p.head.eq(request.head), scores.i_command.p.source.eq(slot), scores.i_command.p.rows.eq(state.budget),
            scores.i_weights.p.eq(self.i_weights.p), similar.i_command.p.rows.eq(state.budget), similar.i_command.p.skip.eq(slot),
            merge.i_command.p.kept.eq(scores.o.p.tokens), merge.i_command.p.candidate.eq(tokens),
            *(self.o_append.p[name].eq(value) for name, value in (
                ("head", request.head), ("outcome", outcome), ("slot", slot), ("target", target), ("tokens", tokens))),
        ]
        owed = Signal(2)  # answers to writes
        issued, arrived = self._memory(m, rows, similar, merge, request.base, request.head, phase, first, count, owed)

        # What a request must keep to.
        there, end, recent_begin = Signal.like(state.budget), Signal(POSITION_BITS + 1), Signal(POSITION_BITS)
        least = Signal(POSITION_BITS + 1)
        known, in_order, single, sound, full, begins = (Signal(name=name) for name in (
            "known", "in_order", "single", "sound", "full", "begins"))
        m.d.sync += least.eq(self.sinks + self.recent)

        def burst(purpose: Phase, row, many=1) -> None:
            m.d.sync += [phase.eq(purpose), first.eq(row), count.eq(many)]
            m.next = "ADDRESS"

        def ask(command: ScoreCommand, row=0, position=0) -> Value:
            """Gives the scores a command; whether they take it."""
            m.d.comb += [scores.i_command.valid.eq(1), scores.i_command.p.command.eq(command), scores.i_command.p.slot.eq(row),
                         scores.i_command.p.position.eq(position)]
            return scores.i_command.ready

        def words(source, following: str) -> None:
            """A packet leaves for the writer."""
            m.d.comb += [written.i.p.eq(source.p), written.i.valid.eq(source.valid), source.ready.eq(written.i.ready)]
            with m.If(source.valid & source.ready & source.p.last):
                m.next = following

        with m.If(self.clear):
            m.d.sync += self.error.eq(0)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.i_request.ready.eq(1)
                m.d.sync += [request.eq(self.i_request.p), tokens.eq(0), outcome.eq(Outcome.ADDED)]
                with m.If(self.i_request.valid):
                    m.next = "LOAD"
            with m.State("LOAD"):
                m.d.sync += [state.eq(state_read.data), begins.eq(request.write & (request.position == 0)),
                             end.eq(request.position + request.count), known.eq(request.head < self.heads),
                             single.eq(request.count == 1)]
                m.next = "CHECK"
            with m.State("CHECK"):
                m.d.sync += [
                    there.eq(Mux(state.length < state.budget, state.length, state.budget)),
                    in_order.eq(begins | (request.position == state.length)), full.eq(~begins & (state.length >= state.budget)),
                    sound.eq(~begins | ((request.budget > least) & (request.budget <= self.slots))),
                    recent_begin.eq(state.length - self.recent),
                ]
                with m.If(begins):
                    m.d.sync += [state.length.eq(0), state.budget.eq(request.budget)]
                m.next = "DECIDE"
            with m.State("DECIDE"):
                m.d.sync += slot.eq(state.length)
                with m.If(request.scores):
                    m.next = "UPDATE"
                    with m.If(~known):
                        m.d.sync += self.error.eq(1)
                        m.next = "SKIP_WEIGHTS"
                with m.Elif(~request.write):
                    burst(Phase.READ, request.position, request.count)
                    with m.If(~known | (end > there)):
                        m.d.sync += self.error.eq(1)
                        m.next = "IDLE"
                with m.Elif(~(known & in_order & single & sound)):
                    m.d.sync += [self.error.eq(1), outcome.eq(Outcome.REFUSED)]
                    m.next = "SKIP_RECORD"
                with m.Elif(full):
                    m.next = "VICTIM"
                with m.Else():
                    m.next = "PLACE"

            with m.State("UPDATE"):
                with m.If(ask(ScoreCommand.UPDATE)):
                    m.next = "WEIGHTS"
            with m.State("WEIGHTS"):
                m.d.comb += [scores.i_weights.valid.eq(self.i_weights.valid), self.i_weights.ready.eq(scores.i_weights.ready)]
                with m.If(self.i_weights.valid & self.i_weights.ready & self.i_weights.p.last):
                    m.next = "IDLE"
            with m.State("SKIP_WEIGHTS"):
                m.d.comb += self.i_weights.ready.eq(1)
                with m.If(self.i_weights.valid & self.i_weights.p.last):
                    m.next = "IDLE"
            with m.State("SKIP_RECORD"):
                m.d.comb += self.i_record.ready.eq(1)
                with m.If(self.i_record.valid & self.i_record.p.last):
                    m.next = "APPENDED"

            with m.State("VICTIM"):
                with m.If(ask(ScoreCommand.VICTIM, position=recent_begin)):
                    m.next = "CANDIDATE"
            with m.State("CANDIDATE"):
                m.d.comb += scores.o.ready.eq(1)
                m.d.sync += [slot.eq(scores.o.p.slot), tokens.eq(scores.o.p.tokens)]
                with m.If(scores.o.valid):
                    m.next = "SEARCH"
            with m.State("SEARCH"):
                m.d.comb += similar.i_command.valid.eq(1)
                with m.If(similar.i_command.ready):
                    burst(Phase.CANDIDATE, slot)
            with m.State("SIMILAR"):
                m.d.comb += similar.o.ready.eq(arrived)
                m.d.sync += target.eq(similar.o.p.slot)
                with m.If(similar.o.valid & arrived):
                    m.d.sync += outcome.eq(Mux(similar.o.p.similar, Outcome.MERGED, Outcome.DROPPED))
                    m.next = "DROP"
                    with m.If(similar.o.p.similar):
                        m.next = "MERGE"
            with m.State("DROP"):
                m.d.comb += merge.i_command.valid.eq(1)
                with m.If(merge.i_command.ready):
                    m.next = "PLACE"
            with m.State("MERGE"):
                with m.If(ask(ScoreCommand.MERGE, row=target)):
                    m.next = "TOKENS"
            with m.State("TOKENS"):
                m.d.comb += [merge.i_command.valid.eq(scores.o.valid), merge.i_command.p.merges.eq(1),
                             scores.o.ready.eq(merge.i_command.ready)]
                with m.If(scores.o.valid & scores.o.ready):
                    burst(Phase.TARGET, target)
            with m.State("PLACE"):
                with m.If(ask(ScoreCommand.PLACE, row=slot, position=state.length)):
                    m.d.comb += state_write.en.eq(1)
                    burst(Phase.TOKEN, slot)

            with m.State("ADDRESS"):
                m.d.comb += rows.i_request.valid.eq(1)
                with m.If(rows.i_request.ready):
                    m.next = "ISSUE"
            with m.State("ISSUE"):
                with m.If(issued):
                    with m.Switch(phase):
                        with m.Case(Phase.READ):
                            m.next = "IDLE"
                        with m.Case(Phase.CANDIDATE):
                            burst(Phase.ROWS, 0, state.budget)
                        with m.Case(Phase.ROWS):
                            m.next = "SIMILAR"
                        with m.Case(Phase.TARGET):
                            burst(Phase.MERGED, target)
                        with m.Case(Phase.MERGED):
                            m.next = "MERGED_WORDS"
                        with m.Case(Phase.TOKEN):
                            m.next = "TOKEN_WORDS"
            with m.State("MERGED_WORDS"):
                words(merge.o, "PLACE")
            with m.State("TOKEN_WORDS"):
                words(self.i_record, "WRITTEN")
            with m.State("WRITTEN"):
                with m.If(owed == 0):
                    m.next = "APPENDED"
            with m.State("APPENDED"):
                m.d.comb += self.o_append.valid.eq(1)
                with m.If(self.o_append.ready):
                    m.d.sync += self.o_append.p.error.eq(0)
                    m.next = "IDLE"
        return m

    def _memory(self, m: Module, rows: ContiguousCache, similar: SimilarKey, merge: RecordMerge, base, head, phase: Signal,
                first: Signal, count: Signal, owed: Signal) -> tuple[Value, Value]:
        """Commands for memory, and what comes for the cache itself: the candidate's record, all rows, the target's record. Returns
        whether a command goes, and whether the rows have come; ``owed`` counts writes that have no answer yet."""
        is_read, answers = Signal(), Signal(2)
        m.d.comb += [
            rows.capacity.eq(self.slots), rows.record_beats.eq(self.record_beats), rows.head_stride.eq(self.head_stride),
            rows.i_request.p.write.eq((phase == Phase.MERGED) | (phase == Phase.TOKEN)),
            rows.i_request.p.base.eq(base), rows.i_request.p.head.eq(head),
            rows.i_request.p.position.eq(first), rows.i_request.p.count.eq(count),
            is_read.eq(phase == Phase.READ),
            self.o_read.p.eq(rows.o_read.p), self.o_read.valid.eq(rows.o_read.valid & is_read),
            self.o_fetch.p.eq(rows.o_read.p), self.o_fetch.valid.eq(rows.o_read.valid & ~is_read),
            rows.o_read.ready.eq(Mux(is_read, self.o_read.ready, self.o_fetch.ready)),
        ]
        connect(m, rows.o_write, wiring.flipped(self.o_write))
        reads, writes = rows.o_read.valid & rows.o_read.ready, rows.o_write.valid & rows.o_write.ready
        m.d.comb += [similar.i.p.eq(self.i_data.p.data), merge.i.p.eq(self.i_data.p.data)]
        with m.Switch(answers):
            with m.Case(0):
                m.d.comb += [similar.i.valid.eq(self.i_data.valid & merge.i.ready),
                             merge.i.valid.eq(self.i_data.valid & similar.i.ready),
                             self.i_data.ready.eq(similar.i.ready & merge.i.ready)]
            with m.Case(1):
                m.d.comb += [similar.i.valid.eq(self.i_data.valid), self.i_data.ready.eq(similar.i.ready)]
            with m.Case(2):
                m.d.comb += [merge.i.valid.eq(self.i_data.valid), self.i_data.ready.eq(merge.i.ready)]
        with m.If(self.i_data.valid & self.i_data.ready & self.i_data.p.last):
            m.d.sync += answers.eq(answers + 1)
        with m.If(self.i_request.ready):
            m.d.sync += answers.eq(0)

        m.d.comb += self.i_written.ready.eq(1)
        m.d.sync += owed.eq(owed + writes - self.i_written.valid)
        with m.If(self.i_written.valid & self.i_written.p.error):
            m.d.sync += self.o_append.p.error.eq(1)
        return reads | writes, answers[1]
