"""The expert unit without its memory: experts, one after another, on the tokens that come with each."""

from amaranth.hdl import Module, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..streams import CreditQueue, Queue, connect
from .attention import AttentionPath
from .config import ExpertConfig
from .errors import ERROR_BITS, ExpertError
from .gemm import Gemm
from .lanes import TokenGather, token_layout
from .operation import Operation, expert_layout, row_layout
from .results import ResultPath
from .streamer import run_layout, weight_layout

__all__ = ["COUNTERS", "ExpertCore"]

COUNTERS = data.StructLayout(dict.fromkeys(("cycles", "words", "starved", "waiting", "held"), 40))
"""Cycles in which there was an expert; in which a word went through all lanes; in which none did since there was none, since DOWN
waited for activations, since results were not taken."""

IN_FLIGHT = 4
"""Experts whose response has not been taken."""

ROWS = 16
"""Rows of weights whose results have not come: more than the GEMM module holds."""


class ExpertCore(wiring.Component):
    """Logic-PIM expert unit (Duplex, arXiv:2409.01141, section 5) between a weight streamer and the buffers::

        i ---------> checks -> Operation --> o_run, i_words (WeightStreamer)
        i_tokens ---> TokenGather -> x lanes   |
        i_x -> input buffer --'                v
                               h lanes ----> Gemm -> ResultPath -> output buffer -> o_read
                                  '--------------------'

    The tokens of an expert are gathered while the one before it is in DOWN; with ``config.attention`` as soon as its GATE_UP or SCORES
    is through.

    With ``config.attention`` an item may also be the decode attention of a K/V head: its tokens are the group's query heads, one per
    lane, ``scores`` of K meet them instead of gate and up, and V transposed instead of down::

        x lanes, K -> Gemm -> AttentionPath -> h lanes, V -> Gemm -> ResultPath -> output buffer
                                    '-> weights ---------------------^

    Parameters
    ----------
    config : ExpertConfig
        ``max_intermediate`` is of the unit's share, and the most positions of a context.

    Members
    -------
    i : In(stream of expert_layout)
        An expert with tokens; in ascending order of experts, if outputs are to be those of the golden model.
    i_tokens : In(stream of {token, weight, last})
        Its tokens, ascending, and their weights (bits of ``result_format``): one list for each ``i``. The weights of an attention do
        not matter: the softmax gives them.
    i_x : In(stream of {token, word, value}, always_ready=True)
        Into the input buffer; not while an expert of the layer is under way.
    o_run : Out(stream of run_layout)
    i_words : In(stream of weight_layout)
    o : Out(stream of ExpertError)
        One for each ``i``, in their order: its results are in the output buffer. With ``DIMENSIONS`` (0, too large; of an attention
        also more positions than a row of V has, or more tokens than lanes) or ``ORDER`` nothing was computed and its list is gone;
        the layer has to begin again, with ``first``. With ``config.attention`` only if that was ``first``: all others are unharmed.
    i_read : In(stream of {token, element})
    o_read : Out(stream of bits of result_format)
        Outputs; 0 for tokens without an expert in this layer. Stable from the response to the layer's last expert on.
    counters : Out(COUNTERS)
        Since reset.

    Latency: ``latency`` cycles from the last word of GATE_UP to the first of DOWN, for which it waits; ``finish`` cycles from the last
    word of DOWN to the response. From the last word of SCORES to the first of MIX ``softmax`` cycles and one per position, in which the
    SCORES of the next attention come, if its list is there in time (``Operation``). Interval: 1 cycle per word and tile of tokens; but
    ``token_lanes`` cycles at least per row of weights, but for those of K, and tile.
    """

    interval = 1

    def __init__(self, config: ExpertConfig):
        self.config = config
        self._gather, self._gemm, self._results = TokenGather(config), Gemm(config), ResultPath(config)
        results = Operation.latency + self._gemm.latency + config.token_lanes - 1
        self.latency, self.finish = results + self._results.latency + 2, results + self._results.finish + CreditQueue.latency
        if config.attention:
            self._attention = AttentionPath(config)
            self.softmax = Operation.latency + self._gemm.score_latency + self._attention.finish + 2
        gather, path = self._gather.signature.members, self._results.signature.members
        super().__init__({
            "i": In(stream.Signature(expert_layout(config))),
            "i_tokens": In(stream.Signature(token_layout(config))),
            "i_x": gather["i_x"],
            "o_run": Out(stream.Signature(run_layout(config))),
            "i_words": In(stream.Signature(weight_layout(config))),
            "o": Out(stream.Signature(ERROR_BITS)),
            "i_read": path["i_read"], "o_read": path["o_read"],
            "counters": Out(COUNTERS),
        })

    @classmethod
    def for_config(cls, config: ExpertConfig) -> "ExpertCore":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        config, expert = self.config, self.i.p
        m.submodules.gather = gather = self._gather
        m.submodules.operation = operation = Operation(config)
        m.submodules.gemm = gemm = self._gemm
        m.submodules.results = results = self._results
        m.submodules.rows = rows = Queue(row_layout(config), ROWS)
        if config.attention:
            m.submodules.attention = attention = self._attention
            connect(m, gemm.o_scores, attention.i)
            connect(m, attention.o, operation.i_p)
            m.d.comb += [attention.begun.eq(operation.begun), attention.scale.eq(operation.softmax_scale),
                         operation.heard.eq(gemm.o_scores.valid & gemm.o_scores.p.last), operation.passed.eq(attention.passed),
                         results.scored.eq(attention.scored), results.weights.eq(attention.weights)]
            if operation.integers:
                m.d.comb += gemm.score_scale.eq(operation.score_scale)
        m.submodules.responses = responses = CreditQueue(ERROR_BITS, IN_FLIGHT)
        for source, sink in ((gather.o, operation.i_x), (results.o_h, operation.i_h), (operation.o_row, rows.i),
                             (rows.o, results.i_row), (operation.o, gemm.i), (gemm.o, results.i)):
            connect(m, source, sink)
        for inner, outer in ((gather.i_x, self.i_x), (operation.i_words, self.i_words), (results.i_read, self.i_read)):
            connect(m, wiring.flipped(outer), inner)
        for inner, outer in ((operation.o_run, self.o_run), (results.o_read, self.o_read), (responses.o, self.o)):
            connect(m, inner, wiring.flipped(outer))
        token = gather.o_token
        m.d.comb += [
            results.seen.eq(gather.seen), operation.complete.eq(results.complete), results.begun.eq(operation.begun),
            results.i_token.valid.eq(token.valid), results.i_token.p.bank.eq(operation.bank),
            *(results.i_token.p[name].eq(token.p[name]) for name in ("position", "token", "weight", "fresh")),
            operation.i.p.eq(expert), operation.i_tokens.p.tokens.eq(gather.o_done.p.tokens),
            gather.i.p.words.eq(expert.hidden_words), gather.i.p.first.eq(expert.first),
        ]
        if operation.integers:
            m.d.comb += [gemm.scale.eq(operation.scale), results.h_scale.eq(operation.h_scale), operation.done.eq(results.done)]
        self._count(m, operation, self._accept(m, gather, operation, results, responses))
        return m

    def _accept(self, m: Module, gather, operation, results, responses) -> Value:
        """One expert after the other: checked, its tokens gathered, then handed over. Gives whether there is one."""
        expert, under_way, free = self.i.p, Signal(range(IN_FLIGHT + 1)), Signal(init=1)
        legal = ((expert.hidden_words != 0) & (expert.hidden_words <= operation.hidden_words)
                 & (expert.slice_words != 0) & (expert.slice_words <= operation.slice_words))
        if self.config.attention:
            positions, low = expert.positions, (self.config.lanes - 1).bit_length()
            legal &= ~expert.attention | ((positions != 0) & (positions <= expert.slice_words << low))
        cause, started, refused = Signal(ERROR_BITS), Signal(), Signal()
        m.d.comb += [
            started.eq(operation.i.valid & operation.i.ready), self.i.ready.eq(started | refused),
            responses.spend.eq(self.i.ready), responses.i.valid.eq(results.done | refused),
            responses.i.p.eq(cause),
        ]
        m.d.sync += under_way.eq(under_way + started - results.done)
        with m.If(operation.freed if self.config.attention else operation.begun):
            m.d.sync += free.eq(1)
        with m.FSM(name="accept"):
            with m.State("NEXT"):
                with m.If(self.i.valid & responses.credit & ~legal):
                    m.next = "DROP"
                with m.Elif(self.i.valid & responses.credit & free):
                    m.d.comb += gather.i.valid.eq(1)
                    m.d.sync += free.eq(0)
                    m.next = "GATHER"
            with m.State("GATHER"):
                m.d.comb += [self.i_tokens.ready.eq(gather.i_tokens.ready), gather.i_tokens.valid.eq(self.i_tokens.valid),
                             gather.i_tokens.p.eq(self.i_tokens.p)]
                with m.If(gather.o_done.valid & gather.o_done.p.error):
                    m.d.comb += gather.o_done.ready.eq(1)
                    m.d.sync += free.eq(1)
                    m.next = "ORDER"
                    if self.config.attention:
                        m.d.comb += gather.undo.eq(1)
                if self.config.attention:
                    with m.Elif(gather.o_done.valid & expert.attention & (gather.o_done.p.tokens > self.config.token_lanes)):
                        m.d.comb += [gather.o_done.ready.eq(1), gather.undo.eq(1)]
                        m.d.sync += free.eq(1)
                        m.next = "DIMENSIONS"
                with m.Elif(gather.o_done.valid):
                    m.d.comb += [operation.i.valid.eq(1), operation.i_tokens.valid.eq(1), gather.o_done.ready.eq(started)]
                    with m.If(started):
                        m.next = "NEXT"
            with m.State("DROP"):
                m.d.comb += self.i_tokens.ready.eq(1)
                with m.If(self.i_tokens.valid & self.i_tokens.p.last):
                    m.next = "DIMENSIONS"
            for name in ("DIMENSIONS", "ORDER"):
                with m.State(name):  # behind the responses to all before it
                    with m.If(under_way == 0):
                        m.d.comb += [refused.eq(1), cause.eq(ExpertError[name])]
                        m.next = "NEXT"
        return self.i.valid | (under_way != 0)

    def _count(self, m: Module, operation, busy: Value) -> None:
        count = self.counters
        m.d.sync += [
            count.cycles.eq(count.cycles + busy), count.words.eq(count.words + (self.i_words.valid & self.i_words.ready)),
            *(count[name].eq(count[name] + getattr(operation, name)) for name in ("starved", "waiting", "held")),
        ]
