"""The list of tokens to compute again as an operation of a program makes it: rows of both caches come from one reader."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig
from ..streams import Queue, connect, word_layout
from .recompute import RecomputeList, share_layout

__all__ = ["TokenList", "compared_rows", "token_list_command", "token_list_item"]

READ_BEATS = 64


def compared_rows(config: AcceleratorConfig) -> int:
    """Most rows of one cache that are read before the same rows of the other: as many of the longest as 64 beats hold, at least 1."""
    return max(1, READ_BEATS // config.max_record_beats)


def token_list_command(config: AcceleratorConfig) -> data.StructLayout:
    """A list of ``rows`` tokens: K/V heads, beats of V per row, V-words per head (all at least 1), share in 1 / 256, exponent of a
    step."""
    return data.StructLayout({"heads": 8, "rows": range(config.max_context + 1), "beats": 16, "words": 16, **share_layout().members,
                              "exponent": signed(16)})


def token_list_item(config: AcceleratorConfig) -> data.StructLayout:
    """Number of a token of a list; ``last`` on the last one. ``none``: the list is empty, this only ends it."""
    return data.StructLayout({"index": range(config.max_context), "last": 1, "none": 1})


class TokenList(wiring.Component):
    """``RecomputeList`` behind one reader: it reads some rows of the old cache, the same rows of the new one, and so on.

    ::

        i --.-> queue (old rows) -.
            '-> queue (new rows) -+-> RecomputeList -> o
        i_command -> command of each head, share -^

    Both queues have room for one read, so the old rows wait in theirs while the new ones come, and the reader never waits.

    Parameters
    ----------
    config : AcceleratorConfig
        See ``ValueDeviation``.

    Members
    -------
    i_command : In(stream of token_list_command)
        One per list.
    i : In(stream of word_layout)
        Rows of each head, see ``RowSplitter``: packets of at most ``compared_rows`` old rows and of the same new ones take turns.
        Taken while a list is made, and not a beat beyond its last score.
    o : Out(stream of token_list_item)
        The list, in rising order; with a share of 0 one item with ``none`` (and ``last``).
    saturated : Out(1), clear : In(1)
        See ``ValueDeviation``.

    Latency: ``latency`` cycles from the last beat of a list of ``max_context`` tokens to the last index of all of them. Interval: 1
    cycle per beat; a list begins when the one before has left.
    """

    interval = 1

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        self._list = RecomputeList(config)
        depth = max(3, compared_rows(config) * config.max_record_beats)
        self._queues = [Queue(config.bus_bits, depth) for _ in range(2)]
        self.latency = self._queues[0].latency + self._list.latency
        super().__init__({
            "i_command": In(stream.Signature(token_list_command(config))),
            "i": In(stream.Signature(word_layout(config.bus_bits))),
            "o": Out(stream.Signature(token_list_item(config))),
            "saturated": Out(1),
            "clear": In(1),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "TokenList":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        m.submodules.list = tokens = self._list
        m.submodules.old, m.submodules.new = old, new = self._queues
        connect(m, old.o, tokens.i_old)
        connect(m, new.o, tokens.i_new)
        command, head = Signal.like(self.i_command.p), Signal(8)
        takes, is_new = Signal(), Signal()
        m.d.comb += [
            self.saturated.eq(tokens.saturated), tokens.clear.eq(self.clear),
            old.i.p.eq(self.i.p.data), new.i.p.eq(self.i.p.data),
            old.i.valid.eq(self.i.valid & takes & ~is_new), new.i.valid.eq(self.i.valid & takes & is_new),
            self.i.ready.eq(takes & Mux(is_new, new.i.ready, old.i.ready)),
            *(tokens.i_command.p[name].eq(command[name]) for name in ("rows", "beats", "words", "exponent")),
            tokens.i_command.p.first.eq(head == 0), tokens.i_command.p.last.eq(head == command.heads - 1),
            tokens.i_share.p.share.eq(command.share),
            self.o.p.index.eq(tokens.o.p.index), self.o.p.last.eq(tokens.o.p.last),
        ]
        with m.If(self.i.valid & self.i.ready & self.i.p.last):
            m.d.sync += is_new.eq(~is_new)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.i_command.ready.eq(1)
                m.d.sync += [command.eq(self.i_command.p), head.eq(0)]
                with m.If(self.i_command.valid):
                    m.next = "HEADS"
            with m.State("HEADS"):
                m.d.comb += [takes.eq(1), tokens.i_command.valid.eq(1)]
                with m.If(tokens.i_command.ready):
                    m.d.sync += head.eq(head + 1)
                    with m.If(tokens.i_command.p.last):
                        m.next = "SHARE"
            with m.State("SHARE"):  # is taken with the last score
                m.d.comb += [takes.eq(1), tokens.i_share.valid.eq(1)]
                with m.If(tokens.i_share.ready):
                    m.next = "LIST"
                    with m.If(command.share == 0):
                        m.next = "NONE"
            with m.State("LIST"):
                m.d.comb += [self.o.valid.eq(tokens.o.valid), tokens.o.ready.eq(self.o.ready)]
                with m.If(tokens.o.valid & self.o.ready & tokens.o.p.last):
                    m.next = "IDLE"
            with m.State("NONE"):
                m.d.comb += [self.o.valid.eq(1), self.o.p.last.eq(1), self.o.p.none.eq(1)]
                with m.If(self.o.ready):
                    m.next = "IDLE"
        return m
