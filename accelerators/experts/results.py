"""What becomes of the GEMM module's results: gate and up meet, experts are added up in the output buffer."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..pipeline import Pipeline
from ..streams import ROUND_TRIP, CreditQueue, connect
from .activation import GatedActivation
from .combine import Combine
from .config import ExpertConfig
from .gemm import result_tag
from .lanes import lane_write
from .operation import bank_bits, row_layout
from .rounding import SCALE, rounded_layout

__all__ = ["ResultPath", "gemm_result"]

COUNT_BITS = 8
"""Results inside the activation or the combination, at most."""


def gemm_result(config: ExpertConfig) -> data.StructLayout:
    """What ``Gemm`` gives."""
    return rounded_layout(config, result_tag(config).size)


class ResultPath(wiring.Component):
    """From results to the h lanes and to the output buffer (the buffer of temporal results, Duplex, arXiv:2409.01141, section 5)::

        i -+- gate -> pairs, by token -.
           +- up ----------------------+-> GatedActivation -> o_h
           '- down -> token, weight -> output buffer -> Combine -> output buffer <- i_read, o_read
                      (i_token)

    Parameters
    ----------
    config : ExpertConfig

    Members
    -------
    i : In(stream of gemm_result)
    i_row : In(stream of row_layout)
        One for each ``token_lanes`` results: what they are. Those of lanes without a token are dropped.
    i_token : In(stream of {bank, position, token, weight, fresh}, always_ready=True)
        The tokens of an expert, for its DOWN; an expert in each bank. ``fresh``: the token's output is 0 so far.
    o_h : Out(stream of lane_write, always_ready=True)
    i_read : In(stream of {token, element})
    o_read : Out(stream of {value})
        An element of a token's output, 0 for a token that is not ``seen``. Results go first.
    seen : In(max_tokens)
        Tokens with an expert in this layer.
    begun : In(1)
        DOWN begins: ``complete`` falls.
    complete : Out(1)
        All results of GATE_UP have left ``o_h``, or ``scored`` came, and those of the DOWN or MIX before it are in the output buffer.
    done : Out(1)
        In one cycle: all results of a DOWN are in the output buffer.
    h_scale : In
        Of int8 only: of the activation's results.
    scored : In(1)
        With ``config.attention``, in one cycle: what became of the results of SCORES is in the h lanes.
    weights : In(array of bits of result_format)
        With ``config.attention``: of the results of each lane of MIX, instead of those of the tokens.

    Latency: ``latency`` cycles from the result of an up to ``o_h``; ``finish`` cycles from that of a down to ``done``. Interval: 1
    cycle per result.
    """

    interval = 1

    def __init__(self, config: ExpertConfig):
        self.config = config
        bits, token = config.result_format.storage_bits, range(config.max_tokens)
        position = result_tag(config)
        self._hidden = data.StructLayout({**{name: field.shape for name, field in position}, "row": range(config.max_intermediate)})
        self._activation = GatedActivation(config, self._hidden.size)
        self.latency = 1 + CreditQueue.latency + self._activation.latency
        self.finish = 2 + CreditQueue.latency + Combine.latency + 1
        self.integers = not config.format.exponent_bits
        super().__init__({
            "i": In(stream.Signature(gemm_result(config))),
            "i_row": In(stream.Signature(row_layout(config))),
            "i_token": In(stream.Signature(data.StructLayout({
                "bank": bank_bits(config), "position": token, "token": token, "weight": bits, "fresh": 1}), always_ready=True)),
            "o_h": Out(stream.Signature(lane_write(config, config.max_intermediate // config.lanes, config.lanes), always_ready=True)),
            "i_read": In(stream.Signature(data.StructLayout({"token": token, "element": range(config.max_hidden)}))),
            "o_read": Out(stream.Signature(bits)),
            "seen": In(config.max_tokens), "begun": In(1), "complete": Out(1), "done": Out(1),
            **({"h_scale": In(SCALE)} if self.integers else {}),
            **({"scored": In(1), "weights": In(data.ArrayLayout(bits, config.token_lanes))} if config.attention else {}),
        })

    @classmethod
    def for_config(cls, config: ExpertConfig) -> "ResultPath":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        config, row = self.config, self.i_row.p
        bits = config.result_format.storage_bits
        tag = data.View(result_tag(config), self.i.p.tag)
        output = data.StructLayout({"token": range(config.max_tokens), "element": range(config.max_hidden)})
        m.submodules.activation = activation = self._activation
        m.submodules.combine = combine = Combine(config, output.size)
        m.submodules.gated = gated = CreditQueue(activation.i.p.shape(), 1 + ROUND_TRIP)
        m.submodules.partial = partial = CreditQueue(combine.i.p.shape(), 2 + ROUND_TRIP)
        connect(m, gated.o, activation.i)
        connect(m, partial.o, combine.i)
        if self.integers:
            m.d.comb += activation.scale.eq(self.h_scale)
        register = Pipeline(m).register

        # A result, and what its token is.
        lanes = (config.token_lanes - 1).bit_length()
        position = Cat(tag.lane[:lanes], tag.tile)[:(config.max_tokens - 1).bit_length()]
        accepted, present, ends = Signal(), Signal(), Signal()
        m.d.comb += [
            self.i.ready.eq(self.i_row.valid & gated.credit & partial.credit), accepted.eq(self.i.valid & self.i.ready),
            present.eq(accepted & (position < row.tokens)), self.i_row.ready.eq(accepted & (tag.lane == config.token_lanes - 1)),
            ends.eq(self.i_row.ready & row.end),
            gated.spend.eq(present & ~row.down & row.row[0]), partial.spend.eq(present & row.down),
        ]
        value, lane, tile, number = (register(each) for each in (self.i.p.value, tag.lane, tag.tile, row.row))

        # Gate waits for up.
        m.submodules.pairs = pairs = memory.Memory(shape=bits, depth=config.max_tokens, init=[])
        write, read = pairs.write_port(), pairs.read_port()
        place = data.View(self._hidden, activation.o.p.tag)
        written, given = data.View(self._hidden, gated.i.p.tag), self.o_h.p
        low = (config.lanes - 1).bit_length()
        m.d.comb += [
            write.addr.eq(position), write.data.eq(self.i.p.value), write.en.eq(accepted & ~row.down & ~row.row[0]),
            read.addr.eq(position),
            gated.i.valid.eq(register(gated.spend, reset=True)), gated.i.p.gate.eq(read.data), gated.i.p.up.eq(value),
            written.lane.eq(lane), written.tile.eq(tile), written.row.eq(number >> 1),
            activation.o.ready.eq(1), self.o_h.valid.eq(activation.o.valid), given.value.eq(activation.o.p.value),
            given.lane.eq(place.lane), given.tile.eq(place.tile), given.element.eq(place.row[:low]), given.word.eq(place.row[low:]),
        ]

        # Token and weight, then the output so far.
        token = data.StructLayout({"token": output["token"].shape, "weight": bits, "fresh": 1})
        m.submodules.tokens = tokens = memory.Memory(shape=token, depth=config.max_tokens << bank_bits(config), init=[])
        m.submodules.outputs = outputs = memory.Memory(shape=bits * config.lanes, init=[],
                                                       depth=config.max_tokens * config.max_hidden // config.lanes)
        write, chosen = tokens.write_port(), tokens.read_port()
        result, old = outputs.write_port(granularity=bits), outputs.read_port()
        m.submodules.answers = answers = CreditQueue(bits, 2 + ROUND_TRIP)
        connect(m, answers.o, wiring.flipped(self.o_read))
        adding, asked = register(partial.spend, reset=True), self.i_read.valid & self.i_read.ready
        weight = Mux(register(row.attention), self.weights[lane], chosen.data.weight) if config.attention else chosen.data.weight
        element, before = number[:(config.max_hidden - 1).bit_length()], Signal(bits)
        sums, come = data.View(output, partial.i.p.tag), data.View(output, combine.o.p.tag)
        m.d.comb += [
            write.addr.eq(Cat(self.i_token.p.position, self.i_token.p.bank)), write.en.eq(self.i_token.valid),
            write.data.token.eq(self.i_token.p.token), write.data.weight.eq(self.i_token.p.weight),
            write.data.fresh.eq(self.i_token.p.fresh), chosen.addr.eq(Cat(position, row.bank)),
            old.addr.eq(Mux(adding, Cat(chosen.data.token, element[low:]), Cat(self.i_read.p.token, self.i_read.p.element[low:]))),
            before.eq(old.data.word_select(register(Mux(adding, element, self.i_read.p.element)[:low]), bits)),
            partial.i.valid.eq(register(adding, reset=True)), partial.i.p.value.eq(register(value)),
            partial.i.p.weight.eq(register(weight)), partial.i.p.old.eq(Mux(register(chosen.data.fresh), 0, before)),
            sums.token.eq(register(chosen.data.token)), sums.element.eq(register(element)),
            combine.o.ready.eq(1), result.en.eq(Mux(combine.o.valid, 1 << come.element[:low], 0)),
            result.data.eq(combine.o.p.value.replicate(config.lanes)), result.addr.eq(Cat(come.token, come.element[low:])),
            self.i_read.ready.eq(answers.credit & ~adding), answers.spend.eq(asked),
            answers.i.valid.eq(register(asked, reset=True)),
            answers.i.p.eq(Mux(register(self.seen.bit_select(self.i_read.p.token, 1)), before, 0)),
        ]

        # Through with an operation when its last results are.
        gate_up, down, activating, combining = Signal(), Signal(), Signal(COUNT_BITS), Signal(COUNT_BITS)
        m.d.sync += [activating.eq(activating + gated.spend - activation.o.valid),
                     combining.eq(combining + partial.spend - combine.o.valid)]
        m.d.comb += [self.done.eq(down & (combining == 0)), self.complete.eq(gate_up & (activating == 0) & (combining == 0))]
        if config.attention:
            summing = Signal()  # scores do not come behind the results of a DOWN, as those of GATE_UP do
            m.d.comb += self.complete.eq(gate_up & (activating == 0) & ~summing)
            with m.If(self.begun):
                m.d.sync += summing.eq(1)
            with m.Elif(self.done):
                m.d.sync += summing.eq(0)
            with m.If(self.scored):
                m.d.sync += gate_up.eq(1)
        with m.If(self.begun):
            m.d.sync += gate_up.eq(0)
        with m.If(self.done):
            m.d.sync += down.eq(0)
        with m.If(ends & row.down):
            m.d.sync += down.eq(1)
        with m.If(ends & ~row.down):
            m.d.sync += gate_up.eq(1)
        return m
