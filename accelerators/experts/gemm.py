"""GEMM module: a word of weights times the activations of up to eight tokens per cycle, with exact accumulators."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..pipeline import Pipeline
from ..streams import ROUND_TRIP, CreditQueue, connect
from .config import ExpertConfig, Format
from .rounding import SCALE, SumRounder, rounded_layout, rounded_sum, sum_stages

__all__ = ["Gemm", "elements", "exact_product", "gemm_word", "group_scores", "result_tag"]

COARSE = 8
"""Products are moved by multiples of this, then by the rest."""


def gemm_word(config: ExpertConfig) -> data.StructLayout:
    """A word of one row of weights, and of the activations of a tile of tokens that it meets.

    ``first``: the tile's sums begin anew; ``last``: with this word they are complete. With ``config.attention``, ``score``: the sums
    are scores, of which these are the last ones if ``end``.
    """
    word = 8 * config.word_bytes
    return data.StructLayout({"weights": word, "x": data.ArrayLayout(word, config.token_lanes), "tile": range(max(config.tiles, 2)),
                              "first": 1, "last": 1, **({"score": 1, "end": 1} if config.attention else {})})


def group_scores(config: ExpertConfig) -> data.StructLayout:
    """Scores of a position, for the query head of each lane."""
    return data.StructLayout({"values": data.ArrayLayout(config.result_format.storage_bits, config.token_lanes), "last": 1})


def result_tag(config: ExpertConfig) -> data.StructLayout:
    """Which token a result belongs to: ``tile * token_lanes + lane``."""
    return data.StructLayout({"lane": range(max(config.token_lanes, 2)), "tile": range(max(config.tiles, 2))})


class Gemm(wiring.Component):
    """Dot products of rows of weights with the activations of a batch of tokens (Duplex, arXiv:2409.01141, section 5: 512
    multiply-accumulates for 64 weights and 8 tokens).

    A tile of ``token_lanes`` tokens shares each word of weights. While a row of memory is in the buffer all tiles pass over it, so
    sums wait in the accumulators of their tile; a row of weights may go on in the next row of memory::

        weights -> integers -.
        x ------> integers ---* -> shift -> shift -> adder tree -> + -> accumulators of the tile (partial sums)
                                                                    '-- last --> queue -> lane after lane -> SumRounder -> o

    Elements are integers in units of ``2**format.low`` (``sim/golden/floats.py``): nothing is rounded before the end, so the order of
    the sum does not matter. bf16 loses what lies below ``2**-32``.

    Parameters
    ----------
    config : ExpertConfig
        ``word_bytes``, ``element``, ``token_lanes``, ``max_tokens``.

    Members
    -------
    i : In(stream of gemm_word)
        Lanes without a token do not matter; their results come too.
    o : Out(stream of {value, tag: result_tag})
        ``token_lanes`` results for each word with ``last``, lane after lane.
    o_scores : Out(stream of group_scores, always_ready=True)
        With ``config.attention``: results of words with ``score``, which do not come in ``o``. Each lane has a rounder for them.
    scale : In
        See ``SumRounder``; int8 only.
    score_scale : In
        With ``config.attention``: the same of scores.

    Latency: ``latency`` cycles from a word with ``last`` to the result of lane 0; ``score_latency`` to its scores. Interval: 1 cycle
    per word; results leave one per cycle, so rows of fewer than ``token_lanes`` words have to wait for them; scores do not.
    """

    interval = 1

    def __init__(self, config: ExpertConfig):
        self.config = config
        self._rounder = SumRounder(config, len(Value.cast(Signal(result_tag(config)))))
        self._stages = 6 + (config.lanes - 1).bit_length()
        self.latency = self._stages + CreditQueue.latency + self._rounder.latency
        self.score_latency = self._stages + sum_stages(config)
        super().__init__({
            "i": In(stream.Signature(gemm_word(config))),
            "o": Out(stream.Signature(rounded_layout(config, self._rounder.tag_bits))),
            **({"scale": In(SCALE)} if self._rounder.integers else {}),
            **({"o_scores": Out(stream.Signature(group_scores(config), always_ready=True))} if config.attention else {}),
            **({"score_scale": In(SCALE)} if config.attention and self._rounder.integers else {}),
        })

    @classmethod
    def for_config(cls, config: ExpertConfig) -> "Gemm":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        config, lanes = self.config, self.config.token_lanes
        m.submodules.rounder = rounder = self._rounder
        connect(m, rounder.o, wiring.flipped(self.o))
        if rounder.integers:
            m.d.comb += rounder.scale.eq(self.scale)
        total = data.StructLayout({"sum": signed(config.sum_bits), "special": 1})
        row = data.StructLayout({"totals": data.ArrayLayout(total, lanes), "tile": self.i.p.tile.shape()})
        m.submodules.rows = rows = CreditQueue(row, ROUND_TRIP + 2)
        pipeline = Pipeline(m)
        register = pipeline.register
        accepted = self.i.valid & self.i.ready
        result = self.i.p.last & ~self.i.p.score if config.attention else self.i.p.last
        m.d.comb += [self.i.ready.eq(rows.credit | ~result), rows.spend.eq(accepted & result)]

        # Weights are taken apart once for all tokens.
        weights = elements(pipeline, self.i.p.weights, config.format)
        products = [[exact_product(pipeline, a, b, config) for a, b in zip(elements(pipeline, x, config.format), weights, strict=True)]
                    for x in self.i.p.x]
        depth = self._stages - 1
        valid, tile = register(accepted, depth, reset=True), register(self.i.p.tile, depth)
        first, last = register(self.i.p.first, depth), register(self.i.p.last, depth)

        # Read, add and write in one cycle: the next word may be for the same tile.
        m.submodules.sums = sums = memory.Memory(shape=row["totals"].shape, depth=max(config.tiles, 2), init=[])
        read, write = sums.read_port(domain="comb"), sums.write_port()
        m.d.comb += [read.addr.eq(tile), write.addr.eq(tile), write.en.eq(valid)]
        for k, lane in enumerate(products):
            tree, _ = pipeline.add([product for product, _ in lane])
            special = register(Cat(special for _, special in lane).any(), self._stages - 4)
            kept = Mux(first, 0, read.data[k].sum)
            m.d.comb += [write.data[k].sum.eq(kept + tree), write.data[k].special.eq((read.data[k].special & ~first) | special)]
        complete = register(valid & last, reset=True)
        m.d.comb += [rows.i.valid.eq(complete), rows.i.p.tile.eq(register(tile)), rows.i.p.totals.eq(totals := register(write.data))]
        if config.attention:
            score, end = (register(each, self._stages) for each in (self.i.p.score, self.i.p.end))
            scale, stages, scores = self.score_scale if rounder.integers else None, sum_stages(config), self.o_scores.p
            m.d.comb += [rows.i.valid.eq(complete & ~score), scores.last.eq(register(end, stages)),
                         self.o_scores.valid.eq(register(complete & score, stages, reset=True))]
            for k, value in enumerate(scores.values):
                m.d.comb += value.eq(rounded_sum(pipeline, totals[k].sum, totals[k].special, config, scale))

        # One lane after the other.
        lane = Signal(range(max(lanes, 2)))
        tag = data.View(result_tag(config), rounder.i.p.tag)
        m.d.comb += [
            rounder.i.valid.eq(rows.o.valid), rounder.i.p.sum.eq(rows.o.p.totals[lane].sum),
            rounder.i.p.special.eq(rows.o.p.totals[lane].special), tag.lane.eq(lane), tag.tile.eq(rows.o.p.tile),
            rows.o.ready.eq(rounder.i.ready & (lane == lanes - 1)),
        ]
        with m.If(rounder.i.valid & rounder.i.ready):
            m.d.sync += lane.eq(Mux(lane == lanes - 1, 0, lane + 1))
        return m


def elements(pipeline: Pipeline, word: Value, form: Format) -> list[tuple[Value, Value, Value, Value]]:
    """``(significand, negative, shift, special)`` of the elements of a word, two registers later."""
    register, parts = pipeline.register, []
    word = register(word)
    for k in range(len(word) // form.storage_bits):
        bits = word.word_select(k, form.storage_bits)
        if not form.exponent_bits:
            parts.append((register(bits.as_signed()), Const(0, 1), Const(0, 1), Const(0, 1)))
            continue
        fraction, exponent = bits[:form.fraction_bits], bits[form.fraction_bits:-1]
        significand = Cat(fraction, exponent.any())
        # As integer: significand << shift.
        shift = Mux(exponent.any(), exponent, 1) - (form.bias + form.fraction_bits + form.low)
        most = form.bits - form.fraction_bits - 1
        special, down = exponent.all() | (shift > most), shift < 0
        significand = Mux(down, Mux(shift <= -len(significand), 0, significand >> (-shift)[:3]), significand)
        parts.append((register(significand), register(bits[-1]), register(Mux(down | special, 0, shift)[:most.bit_length()]),
                      register(special)))
    return parts


def exact_product(pipeline: Pipeline, a, b, config: ExpertConfig) -> tuple[Value, Value]:
    """Exact product of two elements, three registers later, and whether one of them is special, one register later."""
    register, width = pipeline.register, config.product_bits
    product, negative, shift = register(a[0] * b[0]), register(a[1] ^ b[1]), register(a[2] + b[2])
    special = register(a[3] | b[3])
    if not config.format.exponent_bits:
        return register(product, 2)[:width].as_signed(), special
    low = COARSE.bit_length() - 1
    coarse = register((product << Cat(Const(0, low), shift[low:]))[:width - 1])
    negative, shift = register(negative), register(shift[:low])
    moved = (coarse << shift)[:width - 1]
    return register(Mux(negative, -moved, moved)[:width].as_signed()), special
