"""Decode attention beside the activation of experts: scores of a group of query heads become weights of V rows."""

from dataclasses import replace

from amaranth.hdl import Const, Module, Mux, Signal, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..pipeline import Pipeline
from .config import ExpertConfig
from .gemm import group_scores
from .lanes import group_write
from .rounding import round_magnitude
from .softmax import AT_POWER, P_STAGES, SCALE_BITS, WEIGHT_STAGES, powers, sum_reciprocal, unsummable

__all__ = ["AttentionPath"]

AT_SUM = AT_POWER + 2
"""Registers from a position to the sum that has it."""


class AttentionPath(wiring.Component):
    """The softmax unit (Duplex, arXiv:2409.01141, section 5): the rule of ``GroupSoftmax``, all lanes in step::

        i (SCORES) -> scores, largest of each lane
                        '-> PASS: 2**-((largest - score) * scale) -> p of a position, all lanes -> o (h lanes, for MIX)
                                                                 '-> sums -> weight of each lane -> weights (for the combine)

    Scores come as fast as K is read, and a pass takes one cycle per position, whatever the size of the group. Both go on at a time: the
    scores of the next K/V head come while the pass over those before them is under way, which is ahead of them in the one memory. A
    pass begins when all of its scores are there and the p before them have been taken over (``begun``).

    Parameters
    ----------
    config : ExpertConfig
        ``element``, ``token_lanes``; ``max_intermediate``: positions of the longest context.

    Members
    -------
    i : In(stream of group_scores, always_ready=True)
        Position after position. Those behind ``last`` are the next head's; they come after the pass over those before them has begun.
    scale : In(SCALE_BITS + 1)
        See ``GroupSoftmax``; with the ``last`` score.
    o : Out(stream of group_write, always_ready=True)
        Into the halves of the h lanes in turn.
    passed : Out(1)
        In one cycle: the last position of a pass is on its way, so that ``scored`` comes ``lead`` cycles later.
    scored : Out(1)
        In one cycle: all p have left ``o``, and the weights are there.
    begun : In(1)
        MIX begins: its weights are taken over into ``weights``. All results of the MIX before it have been weighted.
    weights : Out(array of bits of result_format)

    Latency: ``latency`` cycles from the last score to the first p; ``finish`` cycles and one per position to ``scored``. Interval: 1
    cycle per position, of scores and of p.
    """

    interval = 1

    lead = AT_SUM + WEIGHT_STAGES + 1

    def __init__(self, config: ExpertConfig):
        self.config = config
        self.latency, self.finish = 2 + P_STAGES, 1 + self.lead
        super().__init__({
            "i": In(stream.Signature(group_scores(config), always_ready=True)), "scale": In(SCALE_BITS + 1),
            "o": Out(stream.Signature(group_write(config), always_ready=True)),
            "passed": Out(1), "scored": Out(1), "begun": In(1),
            "weights": Out(data.ArrayLayout(config.result_format.storage_bits, config.token_lanes)),
        })

    @classmethod
    def for_config(cls, config: ExpertConfig) -> "AttentionPath":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        config, write = self.config, self.o.p
        m.submodules.scores = scores = memory.Memory(shape=self.i.p.values.shape(), depth=config.max_intermediate, init=[])
        fill, read = scores.write_port(), scores.read_port()
        filled, waiting, free = Signal(range(config.max_intermediate)), Signal(), Signal(init=1)
        position, final, scale = Signal.like(filled), Signal.like(filled), Signal.like(self.scale)
        begins, goes = Signal(), Signal()
        m.d.comb += [fill.addr.eq(filled), fill.data.eq(self.i.p.values), fill.en.eq(self.i.valid), read.addr.eq(position),
                     begins.eq(waiting & free & ~goes), self.passed.eq(goes & (position == final))]
        next_final, next_scale = Signal.like(final), Signal.like(scale)
        with m.If(self.i.valid):
            m.d.sync += filled.eq(filled + 1)
            with m.If(self.i.p.last):
                m.d.sync += [filled.eq(0), waiting.eq(1), next_final.eq(filled), next_scale.eq(self.scale)]
        with m.If(begins):
            m.d.sync += [waiting.eq(0), goes.eq(1), position.eq(0), final.eq(next_final), scale.eq(next_scale)]
        with m.If(goes):
            m.d.sync += position.eq(position + 1)
            with m.If(self.passed):
                m.d.sync += goes.eq(0)
        # One pass, then one MIX.
        with m.If(begins):
            m.d.sync += free.eq(0)
        with m.Elif(self.begun):
            m.d.sync += free.eq(1)

        register = Pipeline(m).register
        come, place, half = Signal.like(self.weights), Signal.like(position), Signal()
        low = (config.lanes - 1).bit_length()
        weighed, end = register(self.passed, AT_SUM + WEIGHT_STAGES, reset=True), register(self.passed, P_STAGES)
        m.d.comb += [self.o.valid.eq(register(goes, P_STAGES, reset=True)), write.half.eq(half),
                     write.element.eq(place[:low]), write.word.eq(place[low:])]
        with m.If(self.o.valid):
            m.d.sync += place.eq(place + 1)
            with m.If(end):
                m.d.sync += [place.eq(0), half.eq(~half)]
        m.d.sync += self.scored.eq(weighed)
        for k in range(config.token_lanes):
            m.submodules[f"lane_{k}"] = lane = AttentionLane(config)
            m.d.comb += [
                lane.valid.eq(self.i.valid), lane.first.eq(filled == 0), lane.score.eq(self.i.p.values[k]), lane.begins.eq(begins),
                lane.goes.eq(goes), lane.fresh.eq(position == 0), lane.again.eq(read.data[k]), lane.scale.eq(scale),
                write.values[k].eq(lane.p),
            ]
            with m.If(weighed):
                m.d.sync += come[k].eq(lane.weight)
        with m.If(self.begun):
            m.d.sync += self.weights.eq(come)
        return m


class AttentionLane(wiring.Component):
    """What a query head has of the softmax unit. Part of ``AttentionPath``.

    Members
    -------
    valid, first, score : In
        A score; of position 0.
    begins : In(1)
        A pass begins: over the scores so far, with the largest of them.
    goes, fresh : In(1)
        The pass has a position; position 0.
    again : In(bits of result_format)
        Its score, a cycle later.
    scale : In(SCALE_BITS + 1)
        Stands still from ``begins`` to the last p.
    p : Out(bits of an element)
        ``P_STAGES`` cycles after ``goes``.
    weight : Out(bits of result_format)
        ``AT_SUM + WEIGHT_STAGES`` cycles after the last position.
    """

    def __init__(self, config: ExpertConfig):
        self.config = config
        bits = config.result_format.storage_bits
        super().__init__({
            "valid": In(1), "first": In(1), "score": In(bits), "begins": In(1), "goes": In(1), "fresh": In(1), "again": In(bits),
            "scale": In(SCALE_BITS + 1), "p": Out(config.format.storage_bits), "weight": Out(bits),
        })

    def elaborate(self, platform):
        m = Module()
        config, form = self.config, self.config.result_format
        size, sign, special = self.score[:-1], self.score[-1], unsummable(self.score, form)
        key, largest, bad = Signal(signed(form.storage_bits)), Signal(signed(form.storage_bits)), Signal()
        top, undefined = Signal.like(largest), Signal()
        m.d.comb += key.eq(Mux(sign, -size, size))
        with m.If(self.valid):
            m.d.sync += bad.eq((bad & ~self.first) | special)
            with m.If(self.first | (key > largest)):
                m.d.sync += largest.eq(key)
        with m.If(self.begins):
            m.d.sync += [top.eq(largest), undefined.eq(bad)]

        pipeline = Pipeline(m)
        single, lane = replace(config, token_lanes=1), Const(0, 1)
        (power, unit), _, _, (total,) = powers(m, pipeline, single, config.max_intermediate, self.scale, self.goes, self.fresh, lane,
                                               self.again, top)
        r, places, _ = sum_reciprocal(m, pipeline, total, undefined)
        m.d.comb += [self.p.eq(round_magnitude(pipeline, power, Const(0, 1), undefined, unit, config.format)),
                     self.weight.eq(round_magnitude(pipeline, r, Const(0, 1), undefined, places, form))]
        return m
