"""One attention in parts: the engine takes one part after another, the parts are merged and divided."""

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig
from ..streams import connect
from .engine import Attention, longest_row_cycles
from .finish import Finish
from .formats import EXPONENT, command_layout, lane_layout, query_layout, result_layout
from .reduce import PartialReduce, reduce_layout

__all__ = ["SplitAttention"]


class SplitAttention(wiring.Component):
    """Attention whose rows come in parts, one pass of the engine after another (split-K; what each device of a ring does,
    TokenRing, arXiv:2412.20501)::

        i_command, i_query, i_lane, i_rows --> Attention -- o_part, o_sums --> PartialReduce --> Finish --> o, o_exponent

    A part is a partial operation of the engine: it may have runs and a unified maximum, and where in the context its rows lie does
    not matter. Parts of other engines enter ``PartialReduce`` in the same way.

    Parameters
    ----------
    config : AcceleratorConfig
        As for ``Attention``, with ``attention_modes``.

    Members
    -------
    i_command, i_query, i_lane, i_rows : In
        Those of ``Attention``; operations must be ``partial``.
    i_reduce : In(stream of {lanes, parts})
        One per attention: its lanes and how many parts it has.
    o : Out(stream of result_layout)
    o_exponent : Out(stream of {exponent: signed(16)})
        As of ``Attention``.

    Latency: results follow the last part. Interval: that of ``Attention``, per row; parts are merged while rows of the next one stream.
    """

    latency = None

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        self.interval = longest_row_cycles(config)
        super().__init__({
            "i_command": In(stream.Signature(command_layout(config))),
            "i_query": In(stream.Signature(query_layout(config))),
            "i_lane": In(stream.Signature(lane_layout(config))),
            "i_rows": In(stream.Signature(config.bus_bits)),
            "i_reduce": In(stream.Signature(reduce_layout(config))),
            "o": Out(stream.Signature(result_layout(config))),
            "o_exponent": Out(stream.Signature(EXPONENT)),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "SplitAttention":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.attention = attention = Attention(config)
        m.submodules.reduce = reduce = PartialReduce(config)
        m.submodules.finish = finish = Finish(config)
        for source, sink in (
                (wiring.flipped(self.i_command), attention.i_command), (wiring.flipped(self.i_query), attention.i_query),
                (wiring.flipped(self.i_lane), attention.i_lane), (wiring.flipped(self.i_rows), attention.i_rows),
                (wiring.flipped(self.i_reduce), reduce.i_command), (attention.o_part, reduce.i_part),
                (attention.o_sums, reduce.i_sums), (reduce.o_sums, finish.i),
                (finish.o, wiring.flipped(self.o)), (finish.o_exponent, wiring.flipped(self.o_exponent))):
            connect(m, source, sink)
        total = finish.i_total
        m.d.comb += [
            *(total.p[name].eq(reduce.o_part.p[name]) for name in total.p.shape().members),
            total.valid.eq(reduce.o_part.valid), reduce.o_part.ready.eq(total.ready),
        ]
        return m
