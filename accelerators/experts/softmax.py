"""Softmax of decode attention on the expert unit: scores of a group of query heads become weights of V rows."""

from dataclasses import replace

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..checks import check_int
from ..numerics.chords import CHORD_STAGES, POWER_BITS, RECIPROCAL_BITS, U_BITS, power, reciprocal
from ..numerics.normalizer import leading_zeros
from ..numerics.pipelined import magnitude, unsigned_product
from ..pipeline import Pipeline
from ..streams import ROUND_TRIP, CreditQueue, connect
from .config import ExpertConfig, Format
from .gemm import elements, exact_product
from .rounding import ROUND_STAGES, round_magnitude

__all__ = ["AT_POWER", "P_STAGES", "SCALE_BITS", "WEIGHT_STAGES", "GroupSoftmax", "powers", "sum_reciprocal", "unsummable"]

SCALE_BITS, SUM_BITS, FRACTION_BITS = 25, 32, 19
D_BITS, WHOLE_BITS = 36, 7
AT_POWER = 14 + CHORD_STAGES
P_STAGES = AT_POWER + 1 + ROUND_STAGES
WEIGHT_STAGES = 4 + CHORD_STAGES + ROUND_STAGES


class GroupSoftmax(wiring.Component):
    """Softmax over the positions of a context, for each query head of a K/V head's group (Duplex, arXiv:2409.01141, section 5: decode
    attention with grouped queries runs on Logic-PIM; ``sim/golden/expert_softmax.py`` has the exact rule)::

        FILL: i -> scores, largest of each lane
        PASS: scores -> 2**-((largest - score) * scale) -.-> round -> o
                                                         '-> sum of each lane
        WEIGHTS: sums -> 1 / sum -> round -> o_weight

    The largest of a lane has p = 1, and the mix of V rows with p is multiplied with the lane's weight at the end: each p keeps the
    precision of an element however long the context is.

    Parameters
    ----------
    config : ExpertConfig
        ``element``, ``token_lanes``.
    context : int
        Positions, 2 to 2**16.

    Members
    -------
    i : In(stream of {score, last})
        Bits of ``result_format``: of position 0 lane 0, 1 ... ``lanes - 1``, then of position 1; ``last`` on the very last one.
    lanes : In(range(token_lanes + 1))
        Query heads of the group, 1 or more; stands still.
    scale : In(26)
        log2(e) / sqrt(head_dim) in 25 fraction bits; stands still.
    o : Out(stream of {p, lane, last})
        Elements in the order of the scores; in int8 127 is 1.
    o_weight : Out(stream of {weight, lane, last})
        Bits of ``result_format``, of lane 0, 1 ..., when all p have left the pipeline. NaN, as are the p of the lane (int8: 0), if a
        score is infinite, NaN, or in bf16 2**16 or more; of all lanes if there are more than ``context * token_lanes`` scores, of
        which the later ones are dropped.

    Latency: ``latency`` cycles from the last score to the first p; ``finish``, and one for each score, to the first weight.
    Interval: 1 cycle per score and p; the next scores are taken when all weights are on their way.
    """

    interval = None

    def __init__(self, config: ExpertConfig, context: int):
        check_int("context", context, 2, 1 << 16)
        self.config, self.context = config, context
        self.latency = 1 + P_STAGES + CreditQueue.latency
        self.finish = AT_POWER + 4 + WEIGHT_STAGES + CreditQueue.latency
        lane, bits = range(max(config.token_lanes, 2)), config.result_format.storage_bits
        super().__init__({
            "i": In(stream.Signature(data.StructLayout({"score": bits, "last": 1}))),
            "lanes": In(range(config.token_lanes + 1)), "scale": In(SCALE_BITS + 1),
            "o": Out(stream.Signature(data.StructLayout({"p": config.format.storage_bits, "lane": lane, "last": 1}))),
            "o_weight": Out(stream.Signature(data.StructLayout({"weight": bits, "lane": lane, "last": 1}))),
        })

    @classmethod
    def for_config(cls, config: ExpertConfig) -> "GroupSoftmax":
        """Of the longest K that a descriptor may name."""
        return cls(config, config.max_intermediate)

    def elaborate(self, platform):
        m = Module()
        form, depth = self.config.result_format, self.context * self.config.token_lanes
        m.submodules.scores = scores = memory.Memory(shape=form.storage_bits, depth=depth, init=[])
        write, read = scores.write_port(), scores.read_port()
        m.submodules.results = results = CreditQueue(self.o.p.shape(), P_STAGES + ROUND_TRIP)
        m.submodules.weights = weights = CreditQueue(self.o_weight.p.shape(), WEIGHT_STAGES + ROUND_TRIP)
        connect(m, results.o, wiring.flipped(self.o))
        connect(m, weights.o, wiring.flipped(self.o_weight))
        lanes = range(self.config.token_lanes)
        keys = [Signal(signed(form.storage_bits), name=f"key_{k}") for k in lanes]
        bad = Signal(len(lanes))
        address, count, lane = Signal(range(depth + 1)), Signal(range(depth + 1)), Signal.like(self.o.p.lane)
        first, beyond = Signal(init=1), Signal()
        size, sign = self.i.p.score[:-1], self.i.p.score[-1]
        key, special = Signal(signed(form.storage_bits)), unsummable(self.i.p.score, form)
        passes, weighs, step = Signal(), Signal(), Signal(range(AT_POWER + 4))
        m.d.comb += [key.eq(Mux(sign, -size, size)), write.addr.eq(address), write.data.eq(self.i.p.score), read.addr.eq(address)]

        def advance() -> None:
            """To the next lane, after the last one to the next position."""
            m.d.sync += lane.eq(lane + 1)
            with m.If(lane == self.lanes - 1):
                m.d.sync += [lane.eq(0), first.eq(0)]

        def begin() -> None:
            m.d.sync += [address.eq(0), lane.eq(0), first.eq(1)]

        with m.FSM():
            with m.State("FILL"):
                m.d.comb += [self.i.ready.eq(1), write.en.eq(self.i.valid & (address != depth))]
                m.d.sync += step.eq(0)
                with m.If(self.i.valid):
                    advance()
                    m.d.sync += [address.eq(address + write.en), count.eq(address + write.en), beyond.eq(beyond | ~write.en)]
                    for k in lanes:
                        with m.If(lane == k):
                            m.d.sync += bad[k].eq((bad[k] & ~first) | special)
                            with m.If(write.en & (first | (key > keys[k]))):
                                m.d.sync += keys[k].eq(key)
                    with m.If(self.i.p.last):
                        begin()
                        m.next = "PASS"
            with m.State("PASS"):
                m.d.comb += passes.eq(results.credit & (address != count))
                with m.If(passes):
                    advance()
                    m.d.sync += address.eq(address + 1)
                with m.If(address == count):
                    m.d.sync += [step.eq(step + 1), lane.eq(0)]
                    with m.If(step == AT_POWER + 2):
                        m.next = "WEIGHTS"
            with m.State("WEIGHTS"):
                m.d.comb += weighs.eq(weights.credit)
                with m.If(weighs):
                    m.d.sync += lane.eq(lane + 1)
                    with m.If(lane == self.lanes - 1):
                        begin()
                        m.d.sync += beyond.eq(0)
                        m.next = "FILL"

        pipeline = Pipeline(m)
        undefined = Array([bad[k] | beyond for k in lanes])[lane]
        sums = self._pass(m, pipeline, results, passes, lane, first, address == count - 1, read.data, Array(keys)[lane], undefined)
        self._weigh(m, pipeline, weights, weighs, lane, sums, undefined)
        return m

    def _pass(self, m: Module, pipeline: Pipeline, results, goes, lane, first, last, score, key, undefined) -> list[Signal]:
        """Powers into the queue of results, and their sums; ``score`` comes a register after the rest."""
        register, config = pipeline.register, self.config
        (size, unit), valid, number, sums = powers(m, pipeline, config, self.context, self.scale, goes, first, lane, score, key)
        special = register(undefined, AT_POWER + 1)
        m.d.comb += [
            results.spend.eq(goes), results.i.valid.eq(register(valid, ROUND_STAGES, reset=True)),
            results.i.p.lane.eq(register(number, ROUND_STAGES)), results.i.p.last.eq(register(last, P_STAGES)),
            results.i.p.p.eq(round_magnitude(pipeline, size, Const(0, 1), special, unit, config.format)),
        ]
        return sums

    def _weigh(self, m: Module, pipeline: Pipeline, weights, goes: Value, lane: Value, sums: list[Signal], undefined: Value) -> None:
        """Reciprocals of the sums."""
        register = pipeline.register
        r, unit, special = sum_reciprocal(m, pipeline, Array(sums)[lane], undefined)
        m.d.comb += [
            weights.spend.eq(goes), weights.i.valid.eq(register(goes, WEIGHT_STAGES, reset=True)),
            weights.i.p.lane.eq(register(lane, WEIGHT_STAGES)), weights.i.p.last.eq(register(lane == self.lanes - 1, WEIGHT_STAGES)),
            weights.i.p.weight.eq(round_magnitude(pipeline, r, Const(0, 1), special, unit, self.config.result_format)),
        ]


def unsummable(score: Value, form: Format) -> Value:
    """Whether a score is infinite, NaN, or in bf16 2**16 or more."""
    return score[form.fraction_bits:-1] > form.bits + form.bias + form.low - 1


def powers(m: Module, pipeline: Pipeline, config: ExpertConfig, context: int, scale: Value, goes: Value, first: Value, lane: Value,
           score: Value, key: Value) -> tuple[tuple[Value, Value], Value, Value, list[Signal]]:
    """``2**-((key - score) * scale)`` and the sums of each lane.

    Gives ``AT_POWER + 1`` registers later: magnitude and unit of the power, whether there is one (``goes``), its ``lane``; and the
    sums, which have it a register after that. ``first``: the lane's sum begins anew. ``score`` comes a register after the rest.
    """
    register = pipeline.register
    floats = replace(config, element="fp16") if config.element == "int8" else config
    form = floats.format
    largest = register(Cat(magnitude(key)[:form.storage_bits - 1], key[-1]), 2)
    one = Const(1), Const(0), Const(0), Const(0)
    x, top = (exact_product(pipeline, elements(pipeline, bits, form)[0], one, floats)[0][:form.bits + 1].as_signed()
              for bits in (register(score), largest))  # 7 registers
    d = register((top - x)[-form.low - U_BITS:form.bits + 1])
    d = register(Mux(d[D_BITS:].any(), -1, d)[:D_BITS])
    product, _ = unsigned_product(pipeline, d, scale)  # 12
    u, bits = product[SCALE_BITS:], U_BITS + WHOLE_BITS
    whole, mantissa = power(m, pipeline, register(Mux(u[bits:].any(), -1, u)[:bits]))  # 14, AT_POWER
    whole = register(whole, CHORD_STAGES)

    far = Mux(whole > SUM_BITS, SUM_BITS + 1, whole)[:SUM_BITS.bit_length()]
    p = register((mantissa << SUM_BITS - POWER_BITS) >> far)
    valid, begins, number = register(goes, AT_POWER + 1, reset=True), register(first, AT_POWER + 1), register(lane, AT_POWER + 1)
    sums = [Signal(SUM_BITS + 1 + (context - 1).bit_length(), name=f"sum_{k}") for k in range(config.token_lanes)]
    for k, total in enumerate(sums):
        with m.If(valid & (number == k)):
            m.d.sync += total.eq(p + Mux(begins, 0, total))

    factor = 1 if config.format.exponent_bits else config.format.infinity
    size, unit = register(mantissa * factor), register(-(whole + POWER_BITS))
    return (size, unit), valid, number, sums


def sum_reciprocal(m: Module, pipeline: Pipeline, total: Value, undefined: Value) -> tuple[Value, Value, Value]:
    """Magnitude and unit of ``1 / total``, and ``undefined``, ``WEIGHT_STAGES - ROUND_STAGES`` registers later."""
    register, width = pipeline.register, 64
    total = register(total)
    zeros = register(leading_zeros(Cat(total, Const(0, width - len(total)))))
    coarse = register((register(total) << Cat(Const(0, 4), zeros[4:]))[:width])
    normal = register((coarse << register(zeros[:4]))[:width])  # 4 registers
    r = reciprocal(m, pipeline, normal[width - 1 - FRACTION_BITS:width - 1])
    unit = register(zeros - (width - 1 - SUM_BITS + RECIPROCAL_BITS), 2 + CHORD_STAGES)
    return r, unit, register(undefined, 4 + CHORD_STAGES)
