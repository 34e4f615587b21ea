"""Sequencer of the expert unit: what the host asks for meets the token lists of the dispatch, and becomes items of the unit."""

from amaranth.hdl import Const, Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..streams import Queue
from .config import ExpertConfig
from .decoder import operation_layout
from .dispatch import list_layout
from .errors import ERROR_BITS, ExpertError
from .instructions import FIELDS, Kind
from .lanes import token_layout
from .operation import expert_layout

__all__ = ["ExpertSequencer", "answer_layout", "decision_layout"]

ANSWERS = 8
"""Answers that wait for the unit, or to be taken."""


def answer_layout(config: ExpertConfig) -> data.StructLayout:
    """What became of a list of ``expert``, or with ``end`` of a descriptor (then ``expert`` is 0)."""
    return data.StructLayout({"tag": FIELDS["tag"][2], "expert": range(config.experts), "cause": ERROR_BITS, "end": 1})


def decision_layout(config: ExpertConfig) -> data.StructLayout:
    """Bit e of ``pim``: expert e has a list. ``error``: there is no decision, and there are no lists."""
    return data.StructLayout({"pim": config.experts, "error": 1})


class ExpertSequencer(wiring.Component):
    """Executes descriptors in their order, and answers each (Duplex, arXiv:2409.01141, section 5: the host sends addresses and
    dimensions; section 6: the tokens of an expert wait in its queue)::

        i: EXPERT ------> table of experts --.
           LAYER -----------> lists ---------+-> o_item, o_tokens -> unit -> i_done
           ATTENTION -----> query heads -----'                                 |
           refused -----------------------------> answers, in order <----------'
                                                     '-> o

        NEXT -> LAYER: DECISION -> LIST -> CHECK -> GIVE or DROP -> LIST ...
             -> ATTENTION: CHECK -> GIVE

    An EXPERT is written into the table, and counts for the next LAYER; one of the same number takes its place. LAYER waits for the
    dispatch's next decision, gives each list with its expert, in the order of the lists, and empties the table. An item begins before
    the last one is through.

    An expert that has a list, but is not in the table, is refused with ``MISSING``; an expert or an attention of another hidden
    dimension than those to whose outputs its own would be added with ``DIMENSIONS``. Lists of what is refused are dropped, and
    what comes behind is not affected.

    Parameters
    ----------
    config : ExpertConfig

    Members
    -------
    i : In(stream of operation_layout)
        ``begin`` of a LAYER or an ATTENTION: all outputs are 0 before it.
    i_decision : In(stream of decision_layout)
        One for each LAYER.
    i_list : In(stream of list_layout)
        Lists of a decision's experts, in any order.
    o_item : Out(stream of expert_layout)
    o_tokens : Out(stream of token_layout)
        A list for each item.
    i_done : In(stream of ExpertError)
        What became of each item, in their order.
    o : Out(stream of answer_layout)
        For each descriptor, in their order: of a LAYER one for each list, then one with ``end``; of any other one with ``end``.
        ``cause``: why it was refused; of a LAYER ``TABLE`` for a decision that is an error.
    cleared : Out(1)
        There was no item since ``begin``, or reset: all outputs are 0.

    Latency: ``latency`` cycles from a LAYER, of which decision and list are there, to the first item. Interval: ``latency`` and a cycle
    per token, but for the unit; 1 cycle for an EXPERT.
    """

    latency = 4
    interval = None

    def __init__(self, config: ExpertConfig):
        self.config = config
        super().__init__({
            "i": In(stream.Signature(operation_layout(config))),
            "i_decision": In(stream.Signature(decision_layout(config))),
            "i_list": In(stream.Signature(list_layout(config))),
            "o_item": Out(stream.Signature(expert_layout(config))),
            "o_tokens": Out(stream.Signature(token_layout(config))),
            "i_done": In(stream.Signature(ERROR_BITS)),
            "o": Out(stream.Signature(answer_layout(config))),
            "cleared": Out(1, init=1),
        })

    @classmethod
    def for_config(cls, config: ExpertConfig) -> "ExpertSequencer":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        config, asked, item, given = self.config, self.i.p, self.o_item.p, self.i_list.p
        m.submodules.answers = answers = Queue(data.StructLayout({
            **{name: field.shape for name, field in answer_layout(config)}, "run": 1}), ANSWERS)  # run: its cause comes from i_done
        self._answer(m, answers.o)
        answer, room = answers.i.p, answers.i.ready

        # What is known of an expert.
        names = ["gate_up", "down", "hidden_words", "slice_words", *([] if config.format.exponent_bits else ["scales"])]
        entry = data.StructLayout({name: operation_layout(config)[name].shape for name in names})
        m.submodules.table = table = memory.Memory(shape=entry, depth=config.experts, init=[])
        write, read = table.write_port(), table.read_port()
        known, number, expert = Signal(config.experts), Signal.like(given.expert), Signal(entry)
        attention = asked.kind == Kind.ATTENTION if config.attention else Const(0, 1)
        m.d.comb += [write.addr.eq(asked.expert), *(write.data[name].eq(asked[name]) for name in names),
                     read.addr.eq(given.expert), read.en.eq(0), expert.eq(read.data)]
        if config.attention:
            with m.If(attention):
                m.d.comb += [expert[name].eq(asked[name]) for name in names]
            m.d.comb += [item.attention.eq(attention), item.positions.eq(asked.positions), item.softmax_scale.eq(asked.softmax_scale)]

        left, error, first, hidden = Signal(config.experts), Signal(), Signal(), Signal.like(item.hidden_words)
        taken, passed = Signal(), Signal()
        m.d.comb += [*(item[name].eq(expert[name]) for name in names), item.first.eq(first), answer.tag.eq(asked.tag)]
        tokens, last = self._tokens(m, attention)
        with m.FSM():
            with m.State("NEXT"):
                with m.If(self.i.valid & ((asked.cause != 0) | (asked.kind == Kind.EXPERT))):
                    m.d.comb += [answers.i.valid.eq(1), answer.cause.eq(asked.cause), answer.end.eq(1), self.i.ready.eq(room)]
                    with m.If(room & (asked.cause == 0)):
                        m.d.comb += write.en.eq(1)
                        m.d.sync += known.bit_select(asked.expert, 1).eq(1)
                with m.Elif(self.i.valid):
                    m.d.sync += self.cleared.eq(self.cleared | asked.begin)
                    m.next = "DECISION"
                    if config.attention:
                        with m.If(attention):
                            m.next = "CHECK"
            with m.State("DECISION"):
                m.d.comb += self.i_decision.ready.eq(1)
                m.d.sync += [left.eq(self.i_decision.p.pim), error.eq(self.i_decision.p.error)]
                with m.If(self.i_decision.valid):
                    m.next = "LIST"
            with m.State("LIST"):
                m.d.sync += number.eq(given.expert)
                with m.If(~left.any()):
                    m.d.comb += [answers.i.valid.eq(1), answer.cause.eq(Mux(error, ExpertError.TABLE, 0)), answer.end.eq(1),
                                 self.i.ready.eq(room)]
                    with m.If(room):
                        m.d.sync += known.eq(0)
                        m.next = "NEXT"
                with m.Elif(self.i_list.valid):
                    m.d.comb += read.en.eq(1)
                    m.next = "CHECK"
            with m.State("CHECK"):
                m.d.comb += [answers.i.valid.eq(1), answer.expert.eq(Mux(attention, 0, number)), answer.end.eq(attention),
                             answer.run.eq(answer.cause == 0)]
                m.d.sync += left.bit_select(number, 1).eq(0)
                with m.If(~(attention | known.bit_select(number, 1))):
                    m.d.comb += answer.cause.eq(ExpertError.MISSING)
                with m.Elif(~self.cleared & (expert.hidden_words != hidden)):
                    m.d.comb += answer.cause.eq(ExpertError.DIMENSIONS)
                with m.If(room & (answer.cause == 0)):
                    m.d.sync += [first.eq(self.cleared), self.cleared.eq(0), hidden.eq(expert.hidden_words)]
                    m.next = "GIVE"
                with m.Elif(room):
                    m.next = "DROP"
                    if config.attention:
                        with m.If(attention):
                            m.d.comb += self.i.ready.eq(1)
                            m.next = "NEXT"
            with m.State("GIVE"):
                m.d.comb += [self.o_item.valid.eq(~taken), tokens.eq(~passed)]
                m.d.sync += taken.eq(taken | self.o_item.ready)
                with m.If(last & self.o_tokens.valid & self.o_tokens.ready):
                    m.d.sync += passed.eq(1)
                with m.If(taken & passed):
                    m.d.comb += self.i.ready.eq(attention)
                    m.d.sync += [taken.eq(0), passed.eq(0)]
                    m.next = "LIST"
                    if config.attention:
                        with m.If(attention):
                            m.next = "NEXT"
            with m.State("DROP"):
                m.d.comb += self.i_list.ready.eq(1)
                with m.If(self.i_list.valid & given.last):
                    m.next = "LIST"
        return m

    def _answer(self, m: Module, waiting) -> None:
        """What became of an item is known when it is done, of everything else at once."""
        m.d.comb += [
            self.o.valid.eq(waiting.valid & (~waiting.p.run | self.i_done.valid)), waiting.ready.eq(self.o.valid & self.o.ready),
            self.i_done.ready.eq(waiting.ready & waiting.p.run),
            *(self.o.p[name].eq(waiting.p[name]) for name in ("tag", "expert", "end")),
            self.o.p.cause.eq(Mux(waiting.p.run, self.i_done.p, waiting.p.cause)),
        ]

    def _tokens(self, m: Module, attention) -> tuple[Signal, Signal]:
        """``(pass, last)``: while ``pass`` is set tokens of the list, or query heads, go out; ``last`` comes with the last one."""
        config, token, given = self.config, self.o_tokens.p, self.i_list.p
        going, last = Signal(), Signal()
        m.d.comb += [self.o_tokens.valid.eq(going & self.i_list.valid), self.i_list.ready.eq(going & self.o_tokens.ready),
                     token.token.eq(given.token), token.weight.eq(given.weight), token.last.eq(last), last.eq(given.last)]
        if config.attention:
            head = Signal(range(config.token_lanes))
            with m.If(attention):
                m.d.comb += [self.o_tokens.valid.eq(going), self.i_list.ready.eq(0), token.token.eq(self.i.p.query + head),
                             token.weight.eq(0), last.eq(head + 1 == self.i.p.group)]
                with m.If(going & self.o_tokens.ready):
                    m.d.sync += head.eq(Mux(last, 0, head + 1))
        return going, last
