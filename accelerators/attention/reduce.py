"""Reduction of partial attention results: those of several passes, engines or devices become one, in any order."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In

from ..config import AcceleratorConfig
from ..streams import Queue, connect
from .formats import part_streams
from .merge import PartialMerge

__all__ = ["MAX_PARTS", "PartialReduce", "reduce_layout"]

MAX_PARTS = 64
"""Most parts of an operation."""


def reduce_layout(config: AcceleratorConfig) -> data.StructLayout:
    """One operation: its lanes, its parts; both at least 1."""
    return data.StructLayout({"lanes": range(config.query_lanes + 1), "parts": range(MAX_PARTS + 1)})


class PartialReduce(wiring.Component):
    """Merges N parts of each lane of an operation: split-K, a ring of devices (TokenRing, arXiv:2412.20501), a shared prefix and the
    suffix of each sequence (Hydragen, arXiv:2402.05099)::

        i_part, i_sums ----------> PartialMerge --- last part --> o_part, o_sums
                  .-- kept (FIFO) --^      '------- others ---.
                  '-------------------------------------------'

    Parts come one after another, all lanes of one before the next; which rows a part has does not matter. The first part is merged
    with nothing, which leaves it as it is. Words of a lane come one after another, so that what is kept needs no addresses.

    Parameters
    ----------
    config : AcceleratorConfig
        ``query_lanes``, ``max_head_dim``, ``vector_lanes`` and the widths matter.

    Members
    -------
    i_command : In(stream of {lanes, parts})
        One per operation; parts 1 to 64.
    i_part : In(stream of partial_layout)
        One per part and lane.
    i_sums : In(stream of mixed_layout)
        Their weighted sums: as many words in every part.
    o_part : Out(stream of partial_layout)
        One per lane. The exponent does not matter if not ``defined``.
    o_sums : Out(stream of mixed_layout)

    All parts together have at most ``max_context`` rows.

    Latency: ``latency`` cycles from a word of the last part to the sum. Interval: as ``PartialMerge``, 1 cycle per word and 3 cycles
    more per lane.
    """

    latency = PartialMerge.latency
    interval = None

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__({
            "i_command": In(stream.Signature(reduce_layout(config))),
            **part_streams("i", config),
            **part_streams("o", config),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "PartialReduce":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        config = self.config
        words = config.max_head_dim // config.vector_lanes
        m.submodules.merge = merge = PartialMerge(config)
        m.submodules.kept_parts = kept_parts = Queue(self.i_part.p.shape(), max(config.query_lanes, 3))
        m.submodules.kept_sums = kept_sums = Queue(self.i_sums.p.shape(), max(config.query_lanes * words, 3))
        m.submodules.commands = commands = Queue(self.i_command.p.shape(), 3)
        connect(m, wiring.flipped(self.i_command), commands.i)

        # States: with which lane of which part, the queues say to those behind whether that is the first or the last part.
        lane, part = Signal(range(config.query_lanes)), Signal(range(MAX_PARTS))
        command, entered = commands.o.p, Signal()
        first, last, last_lane = part == 0, part == command.parts - 1, lane == command.lanes - 1
        ways = []
        for name, flag in (("first_words", first), ("last_state", last), ("last_words", last)):
            m.submodules[name] = way = Queue(1, 3)
            m.d.comb += [way.i.p.eq(flag), way.i.valid.eq(entered)]
            ways.append(way)
        room = ways[0].i.ready & ways[1].i.ready & ways[2].i.ready
        m.d.comb += [
            merge.i_parts.p.a.eq(self.i_part.p), merge.i_parts.p.b.eq(Mux(first, 0, kept_parts.o.p)),
            merge.i_parts.valid.eq(self.i_part.valid & commands.o.valid & room & (first | kept_parts.o.valid)),
            entered.eq(merge.i_parts.valid & merge.i_parts.ready),
            self.i_part.ready.eq(entered), kept_parts.o.ready.eq(entered & ~first),
            commands.o.ready.eq(entered & last & last_lane),
        ]
        with m.If(entered):
            m.d.sync += lane.eq(Mux(last_lane, 0, lane + 1))
            with m.If(last_lane):
                m.d.sync += part.eq(Mux(last, 0, part + 1))

        # Words.
        first_words = ways[0].o
        taken = merge.i.valid & merge.i.ready
        m.d.comb += [
            merge.i.p.a.eq(self.i_sums.p.sums), merge.i.p.b.eq(kept_sums.o.p.sums), merge.i.p.last.eq(self.i_sums.p.last),
            merge.i.valid.eq(self.i_sums.valid & first_words.valid & (first_words.p | kept_sums.o.valid)),
            self.i_sums.ready.eq(taken), kept_sums.o.ready.eq(taken & ~first_words.p),
            first_words.ready.eq(taken & self.i_sums.p.last),
        ]

        # Out, or kept for the next part.
        for way, source, kept, out, ends in ((ways[1].o, merge.o_part, kept_parts.i, self.o_part, 1),
                                             (ways[2].o, merge.o, kept_sums.i, self.o_sums, merge.o.p.last)):
            m.d.comb += [
                kept.p.eq(source.p), out.p.eq(source.p),
                kept.valid.eq(source.valid & way.valid & ~way.p), out.valid.eq(source.valid & way.valid & way.p),
                source.ready.eq(way.valid & Mux(way.p, out.ready, kept.ready)),
                way.ready.eq(source.valid & source.ready & ends),
            ]
        return m
