"""Where the result of a lane goes: to the division, or out as it is."""

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig
from ..streams import Queue
from .formats import mixed_layout, part_streams, state_layout, total_layout

__all__ = ["Parting"]


class Parting(wiring.Component):
    """Sends the state of each lane and then its weighted sums to ``Finish``, or out as a partial result for ``PartialMerge``::

        i_state --> partial? -- no --> o_total        i (weighted sums) -- no --> o
                       |'------ yes -> o_part           ^ |'------------- yes -> o_sums
                       '--> queue -------- partial? ----'

    States run ahead of sums, by as many lanes as an operation has.

    Parameters
    ----------
    config : AcceleratorConfig
        With ``attention_modes``; ``query_lanes`` and the widths matter.

    Members
    -------
    i_state : In(stream of state_layout)
        One per lane; ``merge`` does not matter.
    i : In(stream of mixed_layout)
        Words of one lane after another; taken behind the state of their lane.
    o_total, o : Out(stream of total_layout, stream of mixed_layout)
        Of lanes whose state is not ``partial``.
    o_part, o_sums : Out(stream of partial_layout, stream of mixed_layout)
        Of those whose state is. The exponent does not matter if not ``defined``, the maximum if the sum is 0.

    Latency: 0 cycles (combinational); words can pass 2 cycles after their state. Interval: 1 cycle.
    """

    latency = 0
    interval = 1

    def __init__(self, config: AcceleratorConfig):
        if not config.attention_modes:
            raise ValueError("config must have attention_modes: without, all results are finished")
        self.config = config
        super().__init__({
            "i_state": In(stream.Signature(state_layout(config))),
            "i": In(stream.Signature(mixed_layout(config))),
            "o_total": Out(stream.Signature(total_layout(config))),
            "o": Out(stream.Signature(mixed_layout(config))),
            **part_streams("o", config),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "Parting":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        m.submodules.ways = ways = Queue(1, max(self.config.query_lanes, 3))
        state, words = self.i_state, self.i
        for target in (self.o_total, self.o_part):
            m.d.comb += [target.p[name].eq(state.p[name]) for name in target.p.shape().members]
        m.d.comb += [
            self.o.p.eq(words.p), self.o_sums.p.eq(words.p),
            self.o_total.valid.eq(state.valid & ways.i.ready & ~state.p.partial),
            self.o_part.valid.eq(state.valid & ways.i.ready & state.p.partial),
            ways.i.p.eq(state.p.partial),
            ways.i.valid.eq((self.o_total.valid & self.o_total.ready) | (self.o_part.valid & self.o_part.ready)),
            state.ready.eq(ways.i.valid),
            self.o.valid.eq(words.valid & ways.o.valid & ~ways.o.p),
            self.o_sums.valid.eq(words.valid & ways.o.valid & ways.o.p),
            words.ready.eq((self.o.valid & self.o.ready) | (self.o_sums.valid & self.o_sums.ready)),
            ways.o.ready.eq(words.ready & words.p.last),
        ]
        return m
