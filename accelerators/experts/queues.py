"""Queues of tokens, one per expert, and their histogram."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from .config import ExpertConfig
from .errors import ERROR_BITS, ExpertError

__all__ = ["EXPERT_BITS", "TOKEN_BITS", "ExpertQueues"]

TOKEN_BITS, EXPERT_BITS = 16, 8
"""Wider than they need to be: what is out of range is refused, not cut off."""


class ExpertQueues(wiring.Component):
    """Collects the tokens of a batch by expert, counts them, and gives those of an expert (Duplex, arXiv:2409.01141, section 6: steps 2
    and 5 of expert co-processing)::

        CLEAR -> FILL (i: behind the others of the expert) -> COUNTS (o_counts) -> READ (i_read -> o) -.
          ^        '-> REFUSE (o_errors)                                             |                 |
          '--------------------------------------------------------------------------'  clear          v
                                                                                    READ <- GIVE <- FETCH

    A queue is a linked list: together the queues never have more than ``max_tokens * top_k`` entries, as a token goes to ``top_k``
    experts, but each may have ``max_tokens``. For 64 experts, 128 tokens, top-2 these are 256 entries of 31 bits with their links;
    places of their own for each queue would be 8192 entries of 23 bits.

    Parameters
    ----------
    config : ExpertConfig
        ``experts``, ``max_tokens``, ``top_k``, ``element``.

    Members
    -------
    i : In(stream of {token: 16, expert: 8, weight, cause, last})
        A batch in any order; ``last`` on its last item. Taken while the queues are filled.
    o_errors : Out(stream of {token, expert, cause})
        An item that is refused, before the next is taken; the queues are as they were. ``cause`` (``ExpertError``): that of the item
        (from the router) if not 0, else ``EXPERT`` or ``TOKEN`` for a number out of range, ``QUEUE_FULL`` for more tokens than
        ``max_tokens`` in one queue or ``max_tokens * top_k`` in all.
    o_counts : Out(stream of {count, spaces})
        Tokens of expert 0, 1, 2 ... when the batch is complete: for ``CoprocessScheduler.i``.
    spaces : In(1)
        For ``o_counts``, on all of its items.
    i_read : In(stream of {expert: 8, clear})
        Gives an expert's queue, as often as it is asked for; or ``clear``: all queues become empty, and the next batch is taken.
    o : Out(stream of {token, weight, tokens, cause, last})
        The tokens in the order of their arrival; ``tokens``: how many they are. For an empty queue one item with ``tokens`` 0 and
        ``last``; the same with the cause ``EXPERT`` if there is no such expert.

    Latency: 1 cycle from the last item to the first count, 2 from a read to the first token. Interval: 1 cycle per item and count,
    2 per token that is read. ``clear`` takes ``experts`` cycles, and reset too.
    """

    latency = 1
    interval = None

    def __init__(self, config: ExpertConfig):
        self.config = config
        self.entries = config.max_tokens * config.top_k
        bits = config.result_format.storage_bits
        count = range(config.max_tokens + 1)
        super().__init__({
            "i": In(stream.Signature(data.StructLayout({
                "token": TOKEN_BITS, "expert": EXPERT_BITS, "weight": bits, "cause": ERROR_BITS, "last": 1}))),
            "o_errors": Out(stream.Signature(data.StructLayout({"token": TOKEN_BITS, "expert": EXPERT_BITS, "cause": ERROR_BITS}))),
            "o_counts": Out(stream.Signature(data.StructLayout({"count": count, "spaces": 1}))),
            "spaces": In(1),
            "i_read": In(stream.Signature(data.StructLayout({"expert": EXPERT_BITS, "clear": 1}))),
            "o": Out(stream.Signature(data.StructLayout({
                "token": range(config.max_tokens), "weight": bits, "tokens": count, "cause": ERROR_BITS, "last": 1}))),
        })

    @classmethod
    def for_config(cls, config: ExpertConfig) -> "ExpertQueues":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        config, numbers = self.config, range(self.config.experts)
        place = range(self.entries)
        queue = data.StructLayout({"count": range(config.max_tokens + 1), "head": place, "tail": place})
        entry = data.StructLayout({"token": range(config.max_tokens), "weight": self.o.p.weight.shape()})
        m.submodules.queues = queues = memory.Memory(shape=queue, depth=config.experts, init=[])
        m.submodules.entries = entries = memory.Memory(shape=entry, depth=self.entries, init=[])
        m.submodules.links = links = memory.Memory(shape=place, depth=self.entries, init=[])
        known, update = queues.read_port(domain="comb"), queues.write_port()
        stored, store = entries.read_port(), entries.write_port()
        linked, link = links.read_port(), links.write_port()
        used, number, ended = Signal(range(self.entries + 1)), Signal(numbers), Signal()
        item, error = self.i.p, self.o_errors.p
        full = (known.data.count == config.max_tokens) | (used == self.entries)
        first, last_number = known.data.count == 0, number == config.experts - 1
        at, left, cause = Signal(place), Signal.like(self.o.p.tokens), Signal(ERROR_BITS)
        m.d.comb += [
            known.addr.eq(number), update.addr.eq(known.addr),
            update.data.count.eq(known.data.count + 1), update.data.tail.eq(used),
            update.data.head.eq(Mux(first, used, known.data.head)),
            store.addr.eq(used), store.data.token.eq(item.token), store.data.weight.eq(item.weight),
            link.addr.eq(known.data.tail), link.data.eq(used),
            stored.addr.eq(at), linked.addr.eq(at), stored.en.eq(0), linked.en.eq(0),
            self.o_counts.p.count.eq(known.data.count), self.o_counts.p.spaces.eq(self.spaces),
            self.o.p.token.eq(Mux(left == 0, 0, stored.data.token)), self.o.p.weight.eq(Mux(left == 0, 0, stored.data.weight)),
            self.o.p.cause.eq(cause), self.o.p.last.eq(left <= 1),
        ]

        with m.FSM():
            with m.State("CLEAR"):
                m.d.comb += [update.en.eq(1), update.data.eq(0)]
                m.d.sync += [number.eq(Mux(last_number, 0, number + 1)), used.eq(0)]
                with m.If(last_number):
                    m.next = "FILL"
            with m.State("FILL"):
                m.d.comb += [self.i.ready.eq(1), known.addr.eq(item.expert[:len(known.addr)])]
                m.d.sync += [error.token.eq(item.token), error.expert.eq(item.expert), error.cause.eq(item.cause), ended.eq(item.last)]
                with m.If(self.i.valid & item.last):
                    m.next = "COUNTS"
                with m.If((item.cause != 0) | (item.expert >= config.experts) | (item.token >= config.max_tokens) | full):
                    with m.If(item.cause == 0):
                        m.d.sync += error.cause.eq(Mux(item.expert >= config.experts, ExpertError.EXPERT, Mux(
                            item.token >= config.max_tokens, ExpertError.TOKEN, ExpertError.QUEUE_FULL)))
                    with m.If(self.i.valid):
                        m.next = "REFUSE"
                with m.Elif(self.i.valid):
                    m.d.comb += [update.en.eq(1), store.en.eq(1), link.en.eq(~first)]
                    m.d.sync += used.eq(used + 1)
            with m.State("REFUSE"):
                m.d.comb += self.o_errors.valid.eq(1)
                with m.If(self.o_errors.ready):
                    m.next = "FILL"
                    with m.If(ended):
                        m.next = "COUNTS"
            with m.State("COUNTS"):
                m.d.comb += self.o_counts.valid.eq(1)
                with m.If(self.o_counts.ready):
                    m.d.sync += number.eq(Mux(last_number, 0, number + 1))
                    with m.If(last_number):
                        m.next = "READ"
            with m.State("READ"):
                m.d.comb += [self.i_read.ready.eq(1), known.addr.eq(self.i_read.p.expert[:len(known.addr)])]
                beyond = self.i_read.p.expert >= config.experts
                m.d.sync += [at.eq(known.data.head), cause.eq(Mux(beyond, ExpertError.EXPERT, 0)),
                             left.eq(Mux(beyond, 0, known.data.count)), self.o.p.tokens.eq(Mux(beyond, 0, known.data.count))]
                with m.If(self.i_read.valid):
                    m.next = "FETCH"
                    with m.If(self.i_read.p.clear):
                        m.next = "CLEAR"
            with m.State("FETCH"):
                m.d.comb += [stored.en.eq(1), linked.en.eq(1)]
                m.next = "GIVE"
            with m.State("GIVE"):
                m.d.comb += self.o.valid.eq(1)
                m.d.sync += at.eq(linked.data)
                with m.If(self.o.ready):
                    m.d.sync += left.eq(left - 1)
                    m.next = "FETCH"
                    with m.If(self.o.p.last):
                        m.next = "READ"
        return m
