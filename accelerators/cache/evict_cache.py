"""KV cache with a budget of rows per head: evicts by score, merges what goes into the most similar row."""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..checks import check_int
from ..config import POSITION_BITS, AcceleratorConfig
from ..memory.bursts import ADDRESS_BITS, BURST_COMMAND
from ..streams import StreamBuffer, connect, word_layout
from .addresses import RowAddresses, check_rows
from .evict_bursts import EvictBursts
from .evict_decisions import EvictDecisions
from .evict_formats import Burst, Outcome, append_layout, evict_request
from .evict_scores import DECAY, EMPHASIS, EvictScores, ScoreCommand, attention_weight_bits, attention_weight_layout, evict_slots
from .record_merge import RecordMerge
from .similar import THRESHOLD_BITS, SimilarKey

__all__ = ["EvictCache"]


class EvictCache(wiring.Component):
    """Keeps at most a budget of rows of each K/V head (EMS, arXiv:2412.08521; specification: ``sim/golden/evict.py``).

    Attention does not care for the order of rows, so those of a head are always rows 0 .. min(tokens, budget) - 1, laid out as
    ``ContiguousCache`` has them. A token that comes when the budget is reached takes the row with the smallest score; that
    *candidate* is merged into the row with the most similar key, or dropped. While that is decided, those of the next head are read::

        write --> rows < budget ----------------------------------------------------------> token to the next row
              '-> EvictScores: candidate --> o_fetch candidate, all rows --> SimilarKey -.-> token to the candidate's row
                                                   i_data '-> RecordMerge                |        ^
                                                                  ^-- o_fetch target  <--'--> merged record to the target's row
        scores -> i_weights -> EvictScores
        read ---> o_read

    Parameters
    ----------
    config : AcceleratorConfig
        ``bus_bits``, ``kv_bits`` (8), ``kv_storage``, ``max_head_dim``, ``max_context``, ``vector_lanes``, ``query_lanes`` matter.
    heads : int
        K/V heads of all layers that have a base in common, 2 to 256; ``max_heads`` by default.
    slots : int
        Largest budget, a power of two, 4 to 4096, below ``max_context``; by default a quarter of ``max_context``.
    decay, emphasis : int
        See ``EvictScores``.

    Members
    -------
    i_request : In(stream of evict_request)
        One after another. ``scores``: a packet of ``i_weights`` counts for the rows of ``head``. Else ``write``: the token at
        ``position``, which is the number of tokens so far or 0, which begins a text; ``count`` is 1. Else rows ``position`` to
        ``position + count - 1`` of those there are.
    i_weights : In(stream of {weight, last})
        Attention weights of rows 0, 1, ..., with 16 fraction bits, as ``AttentionWeights`` gives them.
    o_read : Out(stream of BURST_COMMAND)
        The rows of a read; what they hold goes to whoever asked.
    o_fetch : Out(stream of BURST_COMMAND); i_data : In(stream of word_layout)
        What the cache reads for itself: a reader serves one command after another, a packet each. Candidate and rows of an append, then
        the target's row; or that behind the candidate, or candidate and rows, of the next append, which is another head's.
    i_record : In(stream of word_layout)
        The record of each token that is appended, as ``RecordPacker`` gives it.
    o_write : Out(stream of BURST_COMMAND); o_data : Out(stream of word_layout); i_written : In(stream of {error})
        Of a writer: commands, their words, one answer for each.
    o_append : Out(stream of append_layout)
        One for each write request, when everything has been written, and all that it reads has come. ``target`` counts with MERGED,
        ``slot`` does not with REFUSED, ``tokens`` is 0 with ADDED and REFUSED.
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

    What the heads hold is not cleared by a reset; a text begins with position 0. A read sees what was appended to its head before it,
    as does the search for a similar row: either waits for the answers to those writes.

    Latency (a dictionary): ``read``, ``append`` (below the budget) cycles from the request to the command. Interval: 4 cycles. An
    append takes, with a memory that answers at once (``tests/sim/test_cache_port.py``), cycles to the next one::

        below the budget    max(record_beats, 4)
        dropped             (budget + 1) * record_beats + 1     to the same head: max(record_beats, budget - 1) + 25 + decided more
        merged              (budget + 2) * record_beats + 1     max(record_beats, 20) + 46 + decided + RecordMerge.passes(words) more

    ``decided``: from the last beat of the rows to ``SimilarKey``'s answer, its ``latency`` less the row's beats of V, at least -1.
    What a merged one takes more is the most. Where less is read, it is RecordMerge's interval for each that is merged, and for two of
    any kind what one of them reads and ``decided + 15``.
    Which row goes is known if all rows had weights since the append before (``scores``). Else it is searched for while rows of another
    head come, ``budget + 6`` cycles.
    """

    interval = None

    def __init__(self, config: AcceleratorConfig, heads: int | None = None, slots: int | None = None, decay: int = DECAY,
                 emphasis: int = EMPHASIS):
        heads = config.max_heads if heads is None else heads
        slots = evict_slots(config) if slots is None else slots
        check_int("slots", slots, 4, min(4096, config.max_context - 1), power_of_two=True)
        self.config, self.heads, self.slots = config, heads, slots
        self._scores = EvictScores(heads, slots, attention_weight_bits(config), decay, emphasis)
        check_rows(config, slots)
        self.latency = {"read": 4 + RowAddresses.latency, "append": 4 + RowAddresses.latency}
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
        m.submodules.similar = similar = SimilarKey(config, self.slots)
        m.submodules.merge = merge = RecordMerge(config)
        bursts = EvictBursts(m, self, merge.o)
        # Of each head, and which row goes next with its tokens, if that is known.
        head_state = data.StructLayout({"length": POSITION_BITS, "budget": range(self.slots + 1), "victim": slots,
                                        "tokens": POSITION_BITS, "known": 1})
        m.submodules.states = states = memory.Memory(shape=head_state, depth=self.heads, init=[])
        state_read, state_write = states.read_port(), states.write_port()
        m.submodules.commands = search_commands = StreamBuffer(similar.i_command.p.shape())
        connect(m, search_commands.o, similar.i_command)

        idle, request, state = Signal(), Signal.like(self.i_request.p), Signal(head_state)
        slot, tokens, outcome, appends = Signal(slots), Signal(POSITION_BITS), Signal(Outcome), bursts.appends
        asks, commands = bursts.asks, scores.i_command
        m.d.comb += [
            scores.sinks.eq(self.sinks), similar.threshold.eq(self.threshold),
            *(each.eq(port) for part in (similar, merge) for each, port in ((part.beats, self.beats), (part.words, self.words))),
            state_read.addr.eq(Mux(idle, self.i_request.p.head, request.head)[:len(state_read.addr)]),
            state_write.addr.eq(request.head[:len(state_write.addr)]),
            state_write.data.length.eq(state.length), state_write.data.budget.eq(state.budget),
            state_write.data.victim.eq(scores.o.p.slot), state_write.data.tokens.eq(scores.o.p.tokens),
            commands.p.head.eq(request.head), commands.p.rows.eq(state.budget),
            scores.i_weights.p.eq(self.i_weights.p),
            search_commands.i.p.rows.eq(state.budget), search_commands.i.p.skip.eq(slot),
            asks.p.base.eq(request.base), asks.p.head.eq(request.head),
            *(appends.p[name].eq(value) for name, value in (("head", request.head), ("outcome", outcome), ("slot", slot))),
        ]
        decisions = EvictDecisions(m, self, similar, merge, scores, bursts)
        searches = decisions.i
        m.d.comb += [searches.p[name].eq(value) for name, value in (
            ("base", request.base), ("head", request.head), ("slot", slot), ("tokens", tokens), ("length", state.length),
            ("budget", state.budget))]
        settled = bursts.settled(request.head)

        # What a request must keep to.
        there, end, recent_begin = Signal.like(state.budget), Signal(POSITION_BITS + 1), Signal(POSITION_BITS)
        least = Signal(POSITION_BITS + 1)
        known, in_order, single, sound, full, begins = (Signal(name=name) for name in (
            "known", "in_order", "single", "sound", "full", "begins"))
        m.d.sync += least.eq(self.sinks + self.recent)

        def ask(condition, row, many=1, what: Burst = Burst.TOKEN, *, write: int = 0) -> Value:
            """In a state: a burst of ``many`` rows from ``row`` on, if ``condition``; whether it is asked for."""
            m.d.comb += [asks.valid.eq(condition), asks.p.passed.what.eq(what), asks.p.write.eq(write), asks.p.position.eq(row),
                         asks.p.count.eq(many)]
            return asks.ready & ~decisions.asks & condition

        def score(command: ScoreCommand, condition=1, row=0, position=recent_begin) -> Value:
            """In a state: gives the scores a command, if ``condition``; whether they take it."""
            m.d.comb += [commands.valid.eq(condition), commands.p.command.eq(command), commands.p.slot.eq(row),
                         commands.p.position.eq(position)]
            return commands.ready & ~decisions.commands & condition

        with m.If(self.clear):
            m.d.sync += self.error.eq(0)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [idle.eq(1), self.i_request.ready.eq(1)]
                m.d.sync += [request.eq(self.i_request.p), outcome.eq(Outcome.ADDED)]
                with m.If(self.i_request.valid):
                    m.next = "LOAD"
            with m.State("LOAD"):
                m.d.sync += [state.eq(state_read.data), begins.eq(request.write & (request.position == 0)),
                             end.eq(request.position + request.count), known.eq(request.head < self.heads),
                             single.eq(request.count == 1)]
                with m.If(~decisions.ended & ~Mux(request.scores, decisions.busy, decisions.concern(request.head))):
                    m.next = "CHECK"
            with m.State("CHECK"):
                m.d.sync += [
                    there.eq(Mux(state.length < state.budget, state.length, state.budget)), slot.eq(state.length),
                    in_order.eq(begins | (request.position == state.length)), full.eq(~begins & (state.length >= state.budget)),
                    sound.eq(~begins | ((request.budget > least) & (request.budget <= self.slots))),
                    recent_begin.eq(state.length - self.recent),
                ]
                with m.If(begins):
                    m.d.sync += [state.length.eq(0), state.budget.eq(request.budget), slot.eq(0)]
                m.next = "DECIDE"
            with m.State("DECIDE"):
                with m.If(request.scores):
                    m.next = "UPDATE"
                    with m.If(~known):
                        m.d.sync += self.error.eq(1)
                        m.next = "SKIP_WEIGHTS"
                with m.Elif(~request.write):
                    with m.If(~known | (end > there)):
                        m.d.sync += self.error.eq(1)
                        m.next = "IDLE"
                    with m.Else():
                        with m.If(ask(settled, request.position, request.count)):
                            m.next = "IDLE"
                with m.Elif(~(known & in_order & single & sound)):
                    m.d.sync += [self.error.eq(1), outcome.eq(Outcome.REFUSED)]
                    m.next = "REFUSE"
                with m.Elif(full):
                    m.d.sync += [slot.eq(state.victim), tokens.eq(state.tokens)]
                    m.next = "VICTIM"
                    with m.If(state.known):
                        m.next = "SEARCH"
                with m.Else():
                    placed = asks.ready & commands.ready & appends.ready & ~decisions.busy  # else that goes first
                    score(ScoreCommand.PLACE, placed, slot, state.length)
                    ask(placed, slot, write=1)
                    with m.If(placed):
                        m.d.comb += [appends.valid.eq(1), state_write.en.eq(1), state_write.data.length.eq(state.length + 1)]
                        m.next = "IDLE"

            with m.State("UPDATE"):
                with m.If(score(ScoreCommand.UPDATE)):
                    m.next = "WEIGHTS"
            with m.State("WEIGHTS"):
                m.d.comb += [scores.i_weights.valid.eq(self.i_weights.valid), self.i_weights.ready.eq(scores.i_weights.ready)]
                with m.If(self.i_weights.valid & self.i_weights.ready & self.i_weights.p.last):
                    m.next = "UPDATED"
            with m.State("UPDATED"):
                m.d.comb += [scores.o.ready.eq(1), state_write.en.eq(scores.o.valid), state_write.data.known.eq(scores.o.p.found)]
                with m.If(scores.o.valid):
                    m.next = "IDLE"
            with m.State("SKIP_WEIGHTS"):
                m.d.comb += self.i_weights.ready.eq(1)
                with m.If(self.i_weights.valid & self.i_weights.p.last):
                    m.next = "IDLE"
            with m.State("REFUSE"):  # records come in order
                with m.If(bursts.idle & ~decisions.busy):
                    m.next = "SKIP_RECORD"
            with m.State("SKIP_RECORD"):
                m.d.comb += bursts.skips.eq(1)
                with m.If(self.i_record.valid & self.i_record.p.last):
                    m.next = "REFUSED"
            with m.State("REFUSED"):
                m.d.comb += appends.valid.eq(1)
                with m.If(appends.ready):
                    m.next = "IDLE"

            with m.State("VICTIM"):
                with m.If(score(ScoreCommand.VICTIM)):
                    m.next = "CANDIDATE"
            with m.State("CANDIDATE"):
                m.d.comb += scores.o.ready.eq(1)
                m.d.sync += [slot.eq(scores.o.p.slot), tokens.eq(scores.o.p.tokens)]
                with m.If(scores.o.valid):
                    m.next = "SEARCH"
            with m.State("SEARCH"):
                asked = ask(settled & searches.ready, slot, what=Burst.CANDIDATE)  # so there is room for the command too
                m.d.comb += [search_commands.i.valid.eq(asked), searches.valid.eq(asked)]
                with m.If(asked):
                    m.next = "ROWS"
            with m.State("ROWS"):
                with m.If(ask(1, 0, state.budget, Burst.ROWS)):
                    m.next = "IDLE"
        decisions.decide(m, state_write)
        return m
