"""The tokens of a reused cache that are to be computed again."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig
from ..streams import connect
from .deviation import ValueDeviation
from .grid import SCORE_BITS
from .select import TopSelect

__all__ = ["SHARES", "RecomputeList", "TopShare", "share_layout"]

SHARES = 256
"""A share is counted in 1 / 256."""


def share_layout() -> data.StructLayout:
    """Share of a list, 0 to 256: none to all."""
    return data.StructLayout({"share": range(SHARES + 1)})


class TopShare(wiring.Component):
    """Numbers of the scores in the top share of a list, in rising order: ``TopSelect`` with ``count = ceil(n * share / 256)``.

    n is the length of the list. So a share of 0 takes none, 256 takes all, and any other one at least one; 15 % are 38 / 256. Of equal
    scores the earlier ones are taken.

    Parameters
    ----------
    depth, bits : int
        See ``TopSelect``.

    Members
    -------
    i : In(stream of {score: bits, last})
        See ``TopSelect``.
    i_share : In(stream of share_layout)
        One per list; above 256 means all.
    o : Out(stream of {index, last})
        With a share of 0 nothing comes.

    Latency: that of ``TopSelect`` and 1 cycle more, from the share of a list that is there. Interval: 1 cycle per score.
    """

    interval = 1

    def __init__(self, depth: int, bits: int):
        self._select = TopSelect(depth, bits)
        self.depth, self.latency = depth, self._select.latency + 1
        super().__init__({
            "i": In(stream.Signature(self._select.i.p.shape())),
            "i_share": In(stream.Signature(share_layout())),
            "o": Out(stream.Signature(self._select.o.p.shape())),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "TopShare":
        """Of the tokens of a context, by their deviation."""
        return cls(config.max_context, SCORE_BITS)

    def elaborate(self, platform):
        m = Module()
        m.submodules.select = select = self._select
        connect(m, select.o, wiring.flipped(self.o))
        length, product, all_of_it = Signal(range(self.depth + 1)), Signal(range(self.depth * SHARES + SHARES)), Signal()
        m.d.comb += [
            select.i.p.eq(self.i.p),
            select.i_command.p.count.eq(Mux(all_of_it, length, (product >> (SHARES.bit_length() - 1))[:len(length)])),
        ]
        with m.FSM():
            with m.State("LIST"):
                m.d.comb += [select.i.valid.eq(self.i.valid), self.i.ready.eq(select.i.ready)]
                with m.If(self.i.valid & self.i.ready):
                    m.d.sync += length.eq(length + (length != self.depth))
                    with m.If(self.i.p.last):
                        m.next = "SHARE"
            with m.State("SHARE"):
                m.d.comb += self.i_share.ready.eq(1)
                m.d.sync += [product.eq(length * self.i_share.p.share + (SHARES - 1)), all_of_it.eq(self.i_share.p.share >= SHARES)]
                with m.If(self.i_share.valid):
                    m.next = "SELECT"
            with m.State("SELECT"):
                m.d.comb += select.i_command.valid.eq(1)
                with m.If(select.i_command.ready):
                    m.d.sync += length.eq(0)
                    m.next = "LIST"
        return m


class RecomputeList(wiring.Component):
    """Selective recompute (CacheBlend, arXiv:2405.16444): the share of the tokens whose values deviate most, in rising order.

    ::

        i_old, i_new -> ValueDeviation -> TopShare -> o

    While a list is selected, the heads of the next one stream, up to its last head.

    Parameters
    ----------
    config : AcceleratorConfig
        See ``ValueDeviation``.

    Members
    -------
    i_command, i_old, i_new, saturated, clear
        See ``ValueDeviation``.
    i_share, o
        See ``TopShare``: a share of 0 reuses all rows (nothing comes), 256 is the full prefill.

    Latency: ``latency`` cycles from the last beat of a list of ``max_context`` tokens to the last index of all of them, if the share is
    there. Interval: 1 cycle per beat of each stream, and an idle one between heads.
    """

    interval = 1

    def __init__(self, config: AcceleratorConfig):
        self._deviation, self._share = ValueDeviation(config), TopShare.for_config(config)
        self.latency = self._deviation.latency + 1 + self._share.latency
        deviation, share = self._deviation.signature.members, self._share.signature.members
        super().__init__({
            **{name: deviation[name] for name in ("i_command", "i_old", "i_new")},
            **{name: share[name] for name in ("i_share", "o")},
            **{name: deviation[name] for name in ("saturated", "clear")},
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "RecomputeList":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        m.submodules.deviation = deviation = self._deviation
        m.submodules.share = share = self._share
        for source, sink in ((self.i_command, deviation.i_command), (self.i_old, deviation.i_old), (self.i_new, deviation.i_new),
                             (self.i_share, share.i_share)):
            connect(m, wiring.flipped(source), sink)
        connect(m, deviation.o, share.i)
        connect(m, share.o, wiring.flipped(self.o))
        m.d.comb += [self.saturated.eq(deviation.saturated), deviation.clear.eq(self.clear)]
        return m
