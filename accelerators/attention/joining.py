"""What a lane has, and a part of it from elsewhere: merged where the operation says so."""

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig
from ..streams import Queue
from .formats import mixed_layout, part_streams, state_layout
from .merge import PartialMerge

__all__ = ["Joining"]


class Joining(wiring.Component):
    """Merges the lanes of operations with ``merge`` with parts that are given, lane by lane; those of others pass::

        i_state, i -------- merge? -- no ---------------------> o_state, o
                               '------ yes --> PartialMerge ------^
        i_part, i_sums -------------------------^

    Parameters
    ----------
    config : AcceleratorConfig
        With ``attention_modes``; ``query_lanes`` and the widths matter.

    Members
    -------
    i_state : In(stream of state_layout)
        One per lane.
    i : In(stream of mixed_layout)
        Weighted sums of one lane after another, taken behind the state of their lane.
    i_part, i_sums : In(stream of partial_layout, stream of mixed_layout)
        Of each lane with ``merge``, what it is merged with: as many words.
    o_state, o : Out(stream of state_layout, stream of mixed_layout)

    Latency: 0 cycles (combinational) for lanes that pass; words can pass 2 cycles after their state. Of merged ones that of
    ``PartialMerge``. Interval: 1 cycle per word, for merged lanes 3 cycles more per lane. A lane that passes waits until the merged
    ones before it have left.
    """

    latency = 0
    interval = None

    def __init__(self, config: AcceleratorConfig):
        if not config.attention_modes:
            raise ValueError("config must have attention_modes: without, nothing is merged")
        self.config = config
        state, words = state_layout(config), mixed_layout(config)
        super().__init__({
            "i_state": In(stream.Signature(state)), "i": In(stream.Signature(words)),
            **part_streams("i", config),
            "o_state": Out(stream.Signature(state)), "o": Out(stream.Signature(words)),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "Joining":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        m.submodules.merge = merge = PartialMerge(self.config)
        m.submodules.ways = ways = Queue(1, max(self.config.query_lanes, 3))  # of lanes whose words are to come: are they merged
        m.submodules.partial = partial = Queue(1, 3)  # of lanes in ``merge``: how they leave
        state, words, entered, left = self.i_state, self.i, Signal(), Signal()
        inside = Signal(4)  # merged lanes whose last word has not left: ``merge`` holds fewer words than this counts
        m.d.sync += inside.eq(inside + entered - left)

        # States.
        merged = Signal()  # a lane's words may leave before its state does
        m.d.comb += merged.eq((inside != 0) | partial.o.valid)
        passes = state.valid & ways.i.ready & ~state.p.merge & ~merged
        fields = merge.i_parts.p.a.shape().members
        m.d.comb += [
            merge.i_parts.valid.eq(state.valid & state.p.merge & self.i_part.valid & ways.i.ready & partial.i.ready),
            *(merge.i_parts.p.a[name].eq(state.p[name]) for name in fields), merge.i_parts.p.b.eq(self.i_part.p),
            entered.eq(merge.i_parts.valid & merge.i_parts.ready), self.i_part.ready.eq(entered),
            partial.i.p.eq(state.p.partial), partial.i.valid.eq(entered),
            ways.i.p.eq(state.p.merge), ways.i.valid.eq(state.valid & state.ready),
            self.o_state.p.eq(state.p), self.o_state.valid.eq(passes),
            state.ready.eq(entered | (passes & self.o_state.ready)),
        ]
        with m.If(merged):
            m.d.comb += [*(self.o_state.p[name].eq(merge.o_part.p[name]) for name in fields),
                         self.o_state.p.merge.eq(1), self.o_state.p.partial.eq(partial.o.p),
                         self.o_state.valid.eq(merge.o_part.valid & partial.o.valid),
                         merge.o_part.ready.eq(self.o_state.ready & partial.o.valid),
                         partial.o.ready.eq(self.o_state.ready & merge.o_part.valid)]

        # Words.
        merges, direct = ways.o.valid & ways.o.p, ways.o.valid & ~ways.o.p
        m.d.comb += [
            merge.i.p.a.eq(words.p.sums), merge.i.p.b.eq(self.i_sums.p.sums), merge.i.p.last.eq(words.p.last),
            merge.i.valid.eq(merges & words.valid & self.i_sums.valid),
            self.i_sums.ready.eq(merge.i.valid & merge.i.ready),
            words.ready.eq((merge.i.valid & merge.i.ready) | (direct & self.o.ready)),
            ways.o.ready.eq(words.valid & words.ready & words.p.last),
            self.o.p.eq(words.p), self.o.valid.eq(direct & words.valid),
        ]
        with m.If(~direct):
            m.d.comb += [self.o.p.eq(merge.o.p), self.o.valid.eq(merge.o.valid), merge.o.ready.eq(self.o.ready)]
        m.d.comb += left.eq(merge.o.valid & merge.o.ready & merge.o.p.last)
        return m
