"""What the front end does for DEVIATE: reads of reused and of new rows in turns, and the list instead of a sampled token."""

from amaranth.hdl import Cat, Module, Mux, Signal, ValueLike
from amaranth.lib import data

from ..cache.contiguous import ContiguousCache
from ..cache.recompute import SHARES
from ..cache.token_list import compared_rows
from ..config import AcceleratorConfig
from .errors import ErrorCause
from .isa import Flag, Opcode
from .rows import RowReads

__all__ = ["Comparison"]


class Comparison:
    """The part of the front end that knows lists of tokens.

    Parameters
    ----------
    m : Module
    config : AcceleratorConfig
    op : View
        The instruction at hand.
    length : Value
        Positions up to the chunk's last token.

    Members
    -------
    lists : Signal
        The program has a DEVIATE, so its run ends with a list.
    refused : Signal
        In the state after the instruction was decoded: it is one of what a run gives (a list or a token) too many, or a DEVIATE whose
        fields are out of their ranges or that is not for the last chunk alone. (A sound one that is skipped is refused too: ask whether
        it is.)
    """

    def __init__(self, m: Module, config: AcceleratorConfig, op: data.View, length: ValueLike):
        self.m, self.config, self.op, self.length = m, config, op, length
        self.lists, self.refused, self._gives = Signal(name="lists"), Signal(name="list_refused"), Signal(name="gives")
        rows = range(config.max_context + 1)
        self._done, self._amount, self._first, self._left = (Signal(rows, name=f"compared_{name}")
                                                             for name in ("done", "amount", "first", "left"))
        self._is_new = Signal(name="compares_new")
        self._deviates = deviates = op.opcode == Opcode.DEVIATE
        outside = ((op.count == 0) | (op.words == 0) | (op.beats == 0) | (op.tiles > SHARES) | (op.rows == 0) | (op.rows > length)
                   | ~(op.flags & Flag.LAST_CHUNK).any())
        m.d.comb += self.refused.eq((deviates & outside) | (((op.opcode == Opcode.HEAD) | deviates) & self._gives))

    def begin(self) -> None:
        """In the state before a chunk's first instruction."""
        self.m.d.sync += [self.lists.eq(0), self._gives.eq(0)]

    def pushed(self) -> None:
        """In a state: the instruction goes to the executor."""
        self.m.d.sync += [self.lists.eq(self.lists | self._deviates),
                          self._gives.eq(self._gives | self._deviates | (self.op.opcode == Opcode.HEAD))]

    def request(self, cache: ContiguousCache, rows: ValueLike) -> None:
        """What the controller is asked for: by DEVIATE some rows of either kind, by ATTEND the first ``rows``."""
        request, op, is_new = cache.i_request.p, self.op, self._is_new
        self.m.d.comb += [
            request.base.eq(Mux(self._deviates & ~is_new, Cat(op.source, op.destination), op.address)),
            request.position.eq(Mux(self._deviates, Mux(is_new, self._first + self._done, self._done), 0)),
            request.count.eq(Mux(self._deviates, self._amount, rows)),
        ]

    def states(self, x: RowReads, cache: ContiguousCache) -> None:
        """COMPARE, to the next instruction; LIST, to the end of the run."""
        m, op, most = self.m, self.op, compared_rows(self.config)
        done, amount, first, left, is_new = self._done, self._amount, self._first, self._left, self._is_new
        # Two registers late: two states lie between a change and its use.
        m.d.sync += [left.eq(op.rows - done), amount.eq(Mux(left > most, most, left))]
        with m.State("COMPARE"):
            m.d.sync += first.eq(self.length - op.rows)
            m.next = "COMPARE_ROWS"
        with m.State("COMPARE_ROWS"):
            m.next = "COMPARE_REQUEST"
        with m.State("COMPARE_REQUEST"):
            m.d.comb += cache.i_request.valid.eq(1)
            with m.If(cache.i_request.ready):
                m.next = "COMPARE_COMMAND"
        with m.State("COMPARE_COMMAND"):
            taken = cache.o_read.valid & x.reads.ready
            m.d.comb += [x.reads.valid.eq(cache.o_read.valid), cache.o_read.ready.eq(x.reads.ready), x.reads.p.fenced.eq(1),
                         x.reads.p.address.eq(cache.o_read.p.address), x.reads.p.beats.eq(cache.o_read.p.beats)]
            x.fail(ErrorCause.CACHE_FULL, cache.error & ~taken, x.length)
            with m.If(taken):
                m.d.sync += is_new.eq(~is_new)
                m.next = "COMPARE_REQUEST"
                with m.If(is_new):
                    m.d.sync += done.eq(done + amount)
                    m.next = "COMPARE"
                    with m.If(left == amount):
                        m.d.sync += [done.eq(0), x.head.eq(x.head + 1)]
                        with m.If(x.head + 1 == op.count):
                            m.next = "DECODE"

        frontend = x.frontend
        listed = frontend.i_list
        with m.State("LIST"):
            m.d.comb += [
                frontend.o_token.valid.eq(listed.valid & ~listed.p.none), listed.ready.eq(frontend.o_token.ready | listed.p.none),
                frontend.o_token.p.token.eq(listed.p.index), frontend.o_token.p.value.eq(first + listed.p.index),
                frontend.o_token.p.last.eq(listed.p.last),
            ]
            with m.If(listed.valid & listed.ready):
                m.d.sync += frontend.generated.eq(frontend.generated + ~listed.p.none)
                with m.If(listed.p.last):
                    m.d.sync += frontend.done.eq(1)
                    m.next = "IDLE"
