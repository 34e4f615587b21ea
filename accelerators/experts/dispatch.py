"""Dispatch: router logits of a batch in, token lists of its experts out, each for the processor that the scheduler gives it to."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..streams import connect
from .config import ExpertConfig
from .coprocess import CoprocessScheduler, larger
from .queues import TOKEN_BITS, ExpertQueues
from .router import Router

__all__ = ["ExpertDispatch", "list_layout"]

TOKENS_INSIDE = 64
"""More than are in the router, from a token's last logit to its last expert: its queues have places for fewer."""


def list_layout(config: ExpertConfig) -> data.StructLayout:
    """A token of an expert: ``token_layout`` with the expert's number."""
    return data.StructLayout({"expert": range(config.experts), "token": range(config.max_tokens),
                              "weight": config.result_format.storage_bits, "last": 1})


class ExpertDispatch(wiring.Component):
    """From the router logits of a batch to the token lists of its experts (Duplex, arXiv:2409.01141, section 6: steps 2 to 5 of expert
    co-processing)::

        i -> Router -> tokens numbered -> ExpertQueues --counts--> CoprocessScheduler -> o_decision
                                            |    ^                                          |
                                            |    '--------- reads, then clear <-------------'
                                            '-> o_xpu, then o

    Lists of the xPU come first: it takes them at once and begins, while Logic-PIM takes an expert's list when it comes to it. Within
    a side experts ascend, and within a list tokens: so outputs of Logic-PIM are those of the golden model. Experts without tokens have
    no list.

    Parameters
    ----------
    config : ExpertConfig
        ``experts``, ``top_k``, ``max_tokens``, ``element``.

    Members
    -------
    i : In(stream of {logit, last, end})
        See ``Router``; ``end`` on the last logit of the batch's last token. Tokens are numbered from 0 on.
    i_table : In(stream of {xpu: 24, pim: 24, last})
        See ``CoprocessScheduler``: once, before the first decision, or again between a decision and the next batch's counts.
    spaces : In(1)
        Experts of a memory space stay together; stands still from a batch's ``end`` to its decision.
    o_errors : Out(stream of {token: 16, expert: 8, cause})
        A token that is refused; the others go on. ``cause`` (``ExpertError``): ``LOGIT`` or ``LOGIT_COUNT`` (expert 0), or, for each of
        its experts, ``TOKEN``: the batch has more than ``max_tokens``. Number 65535 stands for all from there on.
    o_decision : Out(stream of {pim, xpu, makespan, error})
        Before the lists. Bit e of ``pim``, ``xpu``: expert e has a list for that side. ``makespan``: by the tables. ``error``: an
        expert has more tokens than the tables; all else is 0, and the batch is gone without lists.
    o, o_xpu : Out(stream of list_layout)
        Lists of Logic-PIM, as ``ExpertCore.i_tokens`` takes them, and of the xPU.

    Latency: ``latency`` cycles from a batch's last logit to its decision (if its last token is not refused, and ``top_k`` is less than
    ``experts``), of these ``decision`` from the first count on: of 64 experts less than 256. 4 more to the first list. Interval: 1
    cycle per logit; ``2 * tokens + 2`` per list; after the lists ``experts + 2`` until the queues take the next batch, whose first
    logits go into the router meanwhile.
    """

    interval = None

    def __init__(self, config: ExpertConfig):
        self.config = config
        self._router, self._queues, self._scheduler = Router(config), ExpertQueues(config), CoprocessScheduler(config)
        self.decision = config.experts - 1 + self._scheduler.latency
        self.latency = self._router.latency + config.top_k - 1 + self._queues.latency + self.decision
        experts = config.experts
        logit = dict(iter(self._router.i.p.shape()))
        super().__init__({
            "i": In(stream.Signature(data.StructLayout({**{name: field.shape for name, field in logit.items()}, "end": 1}))),
            "i_table": self._scheduler.signature.members["i_table"],
            "spaces": In(1),
            "o_errors": self._queues.signature.members["o_errors"],
            "o_decision": Out(stream.Signature(data.StructLayout({
                "pim": experts, "xpu": experts, "makespan": self._scheduler.load_bits, "error": 1}))),
            "o": Out(stream.Signature(list_layout(config))),
            "o_xpu": Out(stream.Signature(list_layout(config))),
        })

    @classmethod
    def for_config(cls, config: ExpertConfig) -> "ExpertDispatch":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        m.submodules.router = router = self._router
        m.submodules.tokens = queues = self._queues
        m.submodules.scheduler = scheduler = self._scheduler
        connect(m, wiring.flipped(self.i_table), scheduler.i_table)
        connect(m, queues.o_errors, wiring.flipped(self.o_errors))
        connect(m, queues.o_counts, scheduler.i)
        m.d.comb += queues.spaces.eq(self.spaces)
        self._number(m, router, queues)

        # Experts with tokens: their counts pass by in ascending order.
        used, count = Signal(self.config.experts), queues.o_counts
        with m.If(count.valid & count.ready):
            m.d.sync += used.eq(Cat(used[1:], count.p.count != 0))
        decided, decision = scheduler.o.p, self.o_decision.p
        m.d.comb += [decision.pim.eq(Mux(decided.error, 0, used & decided.mask)),
                     decision.xpu.eq(Mux(decided.error, 0, used & ~decided.mask)),
                     decision.makespan.eq(larger(decided)), decision.error.eq(decided.error)]
        self._lists(m, queues, scheduler)
        return m

    def _number(self, m: Module, router: Router, queues: ExpertQueues) -> None:
        """Experts of the batch's tokens go into the queues; ``i`` waits from ``end`` until all of them have."""
        token, inside, ended = Signal(TOKEN_BITS), Signal(range(TOKENS_INSIDE)), Signal()
        item, enters, leaves = router.o.p, Signal(), Signal()
        m.d.comb += [
            router.i.valid.eq(self.i.valid & ~ended), self.i.ready.eq(router.i.ready & ~ended),
            router.i.p.logit.eq(self.i.p.logit), router.i.p.last.eq(self.i.p.last),
            enters.eq(self.i.valid & self.i.ready & self.i.p.last),
            queues.i.valid.eq(router.o.valid), router.o.ready.eq(queues.i.ready),
            queues.i.p.token.eq(token), queues.i.p.expert.eq(item.expert), queues.i.p.weight.eq(item.weight),
            queues.i.p.cause.eq(item.cause), queues.i.p.last.eq(item.last & ended & (inside == 1)),
            leaves.eq(router.o.valid & router.o.ready & item.last),
        ]
        m.d.sync += inside.eq(inside + enters - leaves)
        with m.If(enters & self.i.p.end):
            m.d.sync += ended.eq(1)
        with m.If(leaves):
            m.d.sync += token.eq(Mux(token.all(), token, token + 1))
            with m.If(queues.i.p.last):
                m.d.sync += [token.eq(0), ended.eq(0)]

    def _lists(self, m: Module, queues: ExpertQueues, scheduler: CoprocessScheduler) -> None:
        """When a decision has left, the queues of all its experts are read one after the other, then cleared."""
        numbers = range(self.config.experts)
        pim, xpu, number, on_xpu = Signal(self.config.experts), Signal(self.config.experts), Signal(numbers), Signal()
        read, item = queues.i_read, queues.o.p
        waiting = Mux(xpu.any(), xpu, pim)
        for port in (self.o, self.o_xpu):
            m.d.comb += [port.p.expert.eq(number), *(port.p[name].eq(item[name]) for name in ("token", "weight", "last"))]
        with m.FSM():
            with m.State("DECISION"):
                m.d.comb += [self.o_decision.valid.eq(scheduler.o.valid), scheduler.o.ready.eq(self.o_decision.ready)]
                m.d.sync += [pim.eq(self.o_decision.p.pim), xpu.eq(self.o_decision.p.xpu)]
                with m.If(scheduler.o.valid & self.o_decision.ready):
                    m.next = "FIND"
            with m.State("FIND"):
                m.d.sync += on_xpu.eq(xpu.any())
                for k in reversed(numbers):
                    with m.If(waiting[k]):
                        m.d.sync += number.eq(k)
                m.next = "READ"
                with m.If(~waiting.any()):
                    m.next = "CLEAR"
            with m.State("READ"):
                m.d.comb += [read.valid.eq(1), read.p.expert.eq(number)]
                for left, side in ((pim, ~on_xpu), (xpu, on_xpu)):
                    with m.If(side):
                        m.d.sync += left.bit_select(number, 1).eq(0)
                with m.If(read.ready):
                    m.next = "GIVE"
            with m.State("GIVE"):
                m.d.comb += [self.o.valid.eq(queues.o.valid & ~on_xpu), self.o_xpu.valid.eq(queues.o.valid & on_xpu),
                             queues.o.ready.eq(Mux(on_xpu, self.o_xpu.ready, self.o.ready))]
                with m.If(queues.o.valid & queues.o.ready & item.last):
                    m.next = "FIND"
            with m.State("CLEAR"):
                m.d.comb += [read.valid.eq(1), read.p.clear.eq(1)]
                with m.If(read.ready):
                    m.next = "DECISION"
