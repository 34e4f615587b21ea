"""Router: the experts of a token and their weights, from its logits."""

from dataclasses import replace

from amaranth.hdl import Array, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..numerics.chords import CHORD_STAGES, LOG2E, LOG2E_BITS, POWER_BITS, RECIPROCAL_BITS, U_BITS, power, reciprocal
from ..numerics.pipelined import magnitude, unsigned_product
from ..pipeline import Pipeline
from ..streams import ROUND_TRIP, CreditQueue, connect
from .config import ExpertConfig
from .errors import ERROR_BITS, ExpertError
from .gemm import elements, exact_product
from .rounding import ROUND_STAGES, round_magnitude

__all__ = ["Router"]

SUM_BITS, FRACTION_BITS, WHOLE_BITS = 24, 19, 6
AT_POWER = 11 + CHORD_STAGES
AT_SCALE = AT_POWER + 3 + CHORD_STAGES
ITEMS, SCALES = 32, 6


class Router(wiring.Component):
    """Top-k gate with a softmax over the selected experts (Duplex, arXiv:2409.01141, section 2; ``sim/golden/router.py`` has the exact
    rule)::

        i -> list of the top_k largest (an insertion per cycle) -> exp(x - largest) -.-> queue of powers ----.
                                                                                     '-> sum -> 1 / sum ------* -> round -> o

    Of equal logits the one of the lower expert is taken, and comes first; +0 equals -0. Weights are normalized over the selected ones,
    and within 0.53 (bf16: 0.51) units in the last place of the exact softmax where that is above ``exp(-60)``; so their sum is within
    0.53 * 2**-10 (0.51 * 2**-7) of 1.

    Parameters
    ----------
    config : ExpertConfig
        ``experts``, ``top_k``, ``element``.

    Members
    -------
    i : In(stream of {logit, last})
        Bits of ``result_format``, of expert 0, 1, 2 ...; ``last`` on the token's last one. ``top_k`` to ``experts`` of them.
    o : Out(stream of {expert, weight, cause, last})
        Largest first; ``last`` on the token's last one. A token that is refused gives one item: expert 0, weight NaN, and the
        ``cause`` (``ExpertError``): ``LOGIT`` (one is infinite, NaN, or in bf16 2**16 or more) or ``LOGIT_COUNT``; else it is 0.

    Latency: ``latency`` cycles from a token's last logit to its first expert. Interval: 1 cycle per logit; a token takes at least
    ``top_k + 1`` cycles.
    """

    interval = 1

    def __init__(self, config: ExpertConfig):
        self.config = config
        self.latency = config.top_k + AT_SCALE + ROUND_STAGES + 4 + 2 * CreditQueue.latency
        bits = config.result_format.storage_bits
        super().__init__({
            "i": In(stream.Signature(data.StructLayout({"logit": bits, "last": 1}))),
            "o": Out(stream.Signature(data.StructLayout({
                "expert": range(config.experts), "weight": bits, "cause": ERROR_BITS, "last": 1}))),
        })

    @classmethod
    def for_config(cls, config: ExpertConfig) -> "Router":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        form, numbers = self.config.result_format, range(self.config.experts)
        pipeline = Pipeline(m)
        register = pipeline.register
        listed = data.StructLayout({"key": signed(form.storage_bits), "expert": numbers})
        item = data.StructLayout({"mantissa": POWER_BITS + 1, "whole": WHOLE_BITS + 2, "expert": numbers, "cause": ERROR_BITS,
                                  "last": 1})
        m.submodules.items = items = CreditQueue(item, ITEMS)
        m.submodules.scales = scales = CreditQueue(data.StructLayout({"reciprocal": RECIPROCAL_BITS, "n": 2}), SCALES)

        # The selected ones of a token, one after another.
        cells, cause, complete = self._select(m, listed)
        active, place, refused = Signal(), Signal(range(max(self.config.top_k, 2))), Signal(ERROR_BITS)
        held = [Signal(listed, name=f"held_{k}") for k in range(self.config.top_k)]
        moves, last, goes = Signal(), Signal(), Signal()
        m.d.comb += [moves.eq(complete & ~active), self.i.ready.eq(~complete | moves),
                     last.eq((place == self.config.top_k - 1) | (refused != 0)),
                     goes.eq(active & items.credit & (scales.credit | ~last)),
                     items.spend.eq(goes), scales.spend.eq(goes & last)]
        with m.If(moves):
            m.d.sync += [active.eq(1), place.eq(0), refused.eq(cause), *(to.eq(cell) for to, cell in zip(held, cells, strict=True))]
        with m.If(goes):
            m.d.sync += [place.eq(place + 1), active.eq(~last)]
        chosen = Signal(listed)
        m.d.comb += chosen.eq(Array(held)[place])
        stored = Signal(form.storage_bits)
        m.d.comb += stored.eq(magnitude(chosen.key)[:form.storage_bits - 1] | (chosen.key[-1] << form.storage_bits - 1))

        # exp(x - largest).
        first = register(place == 0, 5)
        d = self._difference(m, pipeline, stored, first & register(goes, 5, reset=True))  # 7 registers
        product, _ = unsigned_product(pipeline, d, Const(LOG2E))  # 10
        whole, mantissa = power(m, pipeline, product[LOG2E_BITS:])  # 11, AT_POWER
        whole = register(whole, CHORD_STAGES)
        valid, last_power = register(goes, AT_POWER, reset=True), register(last, AT_POWER)
        expert = Mux(refused != 0, 0, chosen.expert)
        m.d.comb += [
            items.i.valid.eq(valid), items.i.p.mantissa.eq(mantissa), items.i.p.whole.eq(whole), items.i.p.last.eq(last_power),
            items.i.p.cause.eq(register(refused, AT_POWER)), items.i.p.expert.eq(register(expert, AT_POWER)),
        ]

        # Their sum, as 2**n * (1 + t).
        far = Mux(whole > SUM_BITS, SUM_BITS + 1, whole)[:SUM_BITS.bit_length()]
        p, summed = register((mantissa << SUM_BITS - POWER_BITS) >> far), Signal(SUM_BITS + 4)
        adds, begins = register(valid, reset=True), register(first, AT_POWER - 4)
        with m.If(adds):
            m.d.sync += summed.eq(p + Mux(begins, 0, summed))
        n = Signal(2)
        for k in range(1, 4):
            with m.If(summed[SUM_BITS + k]):
                m.d.comb += n.eq(k)
        t = register((summed << ~n)[SUM_BITS + 3 - FRACTION_BITS:SUM_BITS + 3])
        m.d.comb += [scales.i.valid.eq(register(valid & last_power, AT_SCALE - AT_POWER, reset=True)),
                     scales.i.p.n.eq(register(n, 1 + CHORD_STAGES)), scales.i.p.reciprocal.eq(reciprocal(m, pipeline, t))]
        self._weigh(m, pipeline, items.o, scales.o)
        return m

    def _select(self, m: Module, listed: data.StructLayout) -> tuple[list, Value, Signal]:
        """The list of the largest logits, why the token is refused, and that both are complete."""
        config, form = self.config, self.config.result_format
        logit, number, beyond, bad = self.i.p.logit, Signal(range(config.experts)), Signal(), Signal()
        cells = [Signal(listed, name=f"cell_{k}") for k in range(config.top_k)]
        cause, complete, taken, new = Signal(ERROR_BITS), Signal(), Signal(), Signal(listed)
        size, special = logit[:-1], logit[form.fraction_bits:-1] > form.bits + form.bias + form.low - 1
        m.d.comb += [taken.eq(self.i.valid & self.i.ready), new.key.eq(Mux(logit[-1], -size, size)), new.expert.eq(number)]
        with m.If(self.i.ready):
            m.d.sync += complete.eq(taken & self.i.p.last)
        with m.If(taken):
            beats = [(~beyond & (number <= k if k < config.experts - 1 else 1)) | (new.key > cell.key) for k, cell in enumerate(cells)]
            for k, cell in enumerate(cells):
                with m.If(beats[k]):
                    m.d.sync += cell.eq(new if k == 0 else Mux(beats[k - 1], cells[k - 1].as_value(), new.as_value()))
            m.d.sync += [number.eq(number + 1), bad.eq(bad | special), beyond.eq(beyond | (number == config.experts - 1))]
            with m.If(self.i.p.last):
                m.d.sync += [number.eq(0), bad.eq(0), beyond.eq(0), cause.eq(ExpertError.NONE)]
                with m.If(bad | special):
                    m.d.sync += cause.eq(ExpertError.LOGIT)
                with m.Elif(beyond | (number < config.top_k - 1 if config.top_k > 1 else 0)):
                    m.d.sync += cause.eq(ExpertError.LOGIT_COUNT)
        return cells, cause, complete

    def _difference(self, m: Module, pipeline: Pipeline, stored: Value, first: Value) -> Value:
        """To the first one, in ``U_BITS`` fraction bits, at most ``2**WHOLE_BITS``: 7 registers later; ``first``: 5 registers later."""
        config = replace(self.config, element="fp16") if self.config.element == "int8" else self.config
        form = config.format
        (parts,) = elements(pipeline, stored, form)
        exact, _ = exact_product(pipeline, parts, (Const(1), Const(0), Const(0), Const(0)), config)
        x, top = exact[:form.bits + 1].as_signed(), Signal(signed(form.bits + 1), reset_less=True)
        with m.If(first):
            m.d.sync += top.eq(x)
        difference = pipeline.register((Mux(first, x, top) - x)[-form.low - U_BITS:form.bits + 1])
        bits = U_BITS + WHOLE_BITS
        return pipeline.register(Mux(difference[bits:].any(), -1, difference[:bits])[:bits])

    def _weigh(self, m: Module, pipeline: Pipeline, item, scale) -> None:
        """Powers times the reciprocal of their sum."""
        register, form, stages = pipeline.register, self.config.result_format, 3 + ROUND_STAGES
        m.submodules.results = results = CreditQueue(self.o.p.shape(), stages + ROUND_TRIP)
        connect(m, results.o, wiring.flipped(self.o))
        goes = Signal()
        m.d.comb += [goes.eq(item.valid & scale.valid & results.credit), results.spend.eq(goes), item.ready.eq(goes),
                     scale.ready.eq(goes & item.p.last)]
        product, _ = unsigned_product(pipeline, item.p.mantissa, scale.p.reciprocal)
        unit = register(-(item.p.whole + scale.p.n + (POWER_BITS + RECIPROCAL_BITS)), 3)
        special = register(item.p.cause != 0, 3)
        later = register(item.p, stages)
        m.d.comb += [results.i.valid.eq(register(goes, stages, reset=True)), results.i.p.expert.eq(later.expert),
                     results.i.p.cause.eq(later.cause), results.i.p.last.eq(later.last),
                     results.i.p.weight.eq(round_magnitude(pipeline, product, Const(0, 1), special, unit, form))]
