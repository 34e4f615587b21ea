"""Decode attention beside the activation of experts: scores of a group of query heads become weights of V rows."""

from dataclasses import replace

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .config import ExpertConfig
from .gemm import group_scores
from .lanes import group_write
from .softmax import SCALE_BITS, GroupSoftmax

__all__ = ["AttentionPath"]


class AttentionPath(wiring.Component):
    """The softmax unit (Duplex, arXiv:2409.01141, section 5): a ``GroupSoftmax`` per token lane, all in step::

        i (SCORES) -> softmax of lane 0, 1, ... -> p of a position, all lanes -> o (h lanes, for MIX)
                                                '-> weight of each lane -------> weights (for the combine)

    Positions come as fast as K is read, and leave one per cycle: of what SCORES, softmax and MIX take together, the softmax has a
    part of one cycle per position, whatever the size of the group.

    Parameters
    ----------
    config : ExpertConfig
        ``element``, ``token_lanes``; ``max_intermediate``: positions of the longest context.

    Members
    -------
    i : In(stream of group_scores, always_ready=True)
        Position after position; none from ``last`` to ``begun``.
    scale : In(SCALE_BITS + 1)
        See ``GroupSoftmax``; stands still from the first score to ``scored``.
    o : Out(stream of group_write, always_ready=True)
    scored : Out(1)
        In one cycle: all p have left ``o``, and the weights are there.
    begun : In(1)
        MIX begins: its weights are taken over into ``weights``. All results of the MIX before it have been weighted.
    weights : Out(array of bits of result_format)

    Latency: ``latency`` cycles from the last score to the first p; ``finish`` cycles and one per position to ``scored``. Interval: 1
    cycle per position, of scores and of p.
    """

    interval = 1

    def __init__(self, config: ExpertConfig):
        self.config = config
        single = replace(config, token_lanes=1)
        self._lanes = [GroupSoftmax(single, config.max_intermediate) for _ in range(config.token_lanes)]
        self.latency, self.finish = self._lanes[0].latency, self._lanes[0].finish + 1
        super().__init__({
            "i": In(stream.Signature(group_scores(config), always_ready=True)), "scale": In(SCALE_BITS + 1),
            "o": Out(stream.Signature(group_write(config), always_ready=True)),
            "scored": Out(1), "begun": In(1),
            "weights": Out(data.ArrayLayout(config.result_format.storage_bits, config.token_lanes)),
        })

    @classmethod
    def for_config(cls, config: ExpertConfig) -> "AttentionPath":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        write, position = self.o.p, Signal(range(self.config.max_intermediate))
        low = (self.config.lanes - 1).bit_length()
        first = self._lanes[0]
        come = Signal.like(self.weights)
        for k, lane in enumerate(self._lanes):
            m.submodules[f"lane_{k}"] = lane
            m.d.comb += [lane.i.valid.eq(self.i.valid), lane.i.p.score.eq(self.i.p.values[k]), lane.i.p.last.eq(self.i.p.last),
                         lane.lanes.eq(1), lane.scale.eq(self.scale), lane.o.ready.eq(1), lane.o_weight.ready.eq(1),
                         write.values[k].eq(lane.o.p.p)]
            with m.If(lane.o_weight.valid):
                m.d.sync += come[k].eq(lane.o_weight.p.weight)
        m.d.comb += [self.o.valid.eq(first.o.valid), write.element.eq(position[:low]), write.word.eq(position[low:])]
        with m.If(first.o.valid):
            m.d.sync += position.eq(position + 1)
            with m.If(first.o.p.last):
                m.d.sync += position.eq(0)
        m.d.sync += self.scored.eq(first.o_weight.valid)
        with m.If(self.begun):
            m.d.sync += self.weights.eq(come)
        return m
