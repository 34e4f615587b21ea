"""How far the values of tokens have moved: the tokens that CacheBlend computes again are those that moved most."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..attention.formats import max_beats
from ..attention.rows import RowSplitter
from ..config import AcceleratorConfig
from ..pipeline import Pipeline
from ..streams import ROUND_TRIP, CreditQueue, connect
from .grid import FACTOR_BITS, GRID_LATENCY, SCORE_BITS, SUMS_LATENCY, grid_factor, head_sums

__all__ = ["ValueDeviation", "deviation_command", "deviation_score"]

SQUARE_BITS = 34


def deviation_command(config: AcceleratorConfig) -> data.StructLayout:
    """One K/V head of a list of tokens: rows, beats of V per row, V-words per head (all at least 1), exponent of a step; whether
    it is the list's first head and its last one."""
    return data.StructLayout({"rows": range(config.max_context + 1), "beats": 16, "words": 16, "exponent": signed(16), "first": 1,
                              "last": 1})


def deviation_score() -> data.StructLayout:
    """Score of a token; ``last`` on the last one of a list."""
    return data.StructLayout({"score": SCORE_BITS, "last": 1})


class ValueDeviation(wiring.Component):
    """Per token, the sum over heads and elements of ``(V_new - V_old)**2`` (CacheBlend, arXiv:2405.16444, section 4.3).

    The rows of both caches go side by side: two streams, so that each is one long burst of a reader, and new rows may come from the
    ``RecordPacker`` as they are made. Keys are skipped. Rows have scales of their own, so elements are compared in steps of
    ``2**exponent``, the same for a whole list::

        i_old -> RowSplitter - values -> x factor -.                                         sum over heads, per row
        i_new -> RowSplitter - values -> x factor - - -> round -> square -> sum of a row -> + <--> memory ---> o
                      '-- headers -> factor                                                       (last head)

        factor = floor(scale * 2**(kv_bits - exponent)), at most 2**17 - 1
        step   = floor((V_new * factor_new - V_old * factor_old) / 2**kv_bits + 1/2)                    18 bits
        score  = sum of step**2, at most 2**48 - 1

    A step is off by less than 3/2. Elements should be below ``2**16`` steps, which all are whose scale is below
    ``2**(exponent + 17 - kv_bits)``; larger scales saturate. No list of up to 2**14 elements per token reaches the largest score.

    Parameters
    ----------
    config : AcceleratorConfig
        ``bus_bits``, ``kv_bits``, ``vector_lanes``, ``max_head_dim`` and ``max_context`` matter. Multipliers: 3 per element of a
        beat.

    Members
    -------
    i_command : In(stream of deviation_command)
        One per head; the heads of a list have the same rows.
    i_old, i_new : In(stream of bus_bits)
        Row records of the head, see ``RowSplitter``: the same tokens in the same order.
    o : Out(stream of deviation_score)
        A list's tokens in order, once its last head streams.
    saturated : Out(1)
        Sticky: a scale was too large for the exponent; the element counts as if its scale were the largest one.
    clear : In(1)
        Clears ``saturated``.

    Latency: ``latency`` cycles from the last beat of a row of the last head to its score. Interval: 1 cycle per beat of each
    stream, and an idle one between heads. A later head with more rows than the first one adds to what the memory held.
    """

    interval = 1

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        # Registers: factor, product, difference, rounding, square, tree, sum of a row, sum over heads.
        self._depth = GRID_LATENCY + 5 + (config.kv_lanes - 1).bit_length() + SUMS_LATENCY
        self.latency = self._depth + CreditQueue.latency
        super().__init__({
            "i_command": In(stream.Signature(deviation_command(config))),
            "i_old": In(stream.Signature(config.bus_bits)),
            "i_new": In(stream.Signature(config.bus_bits)),
            "o": Out(stream.Signature(deviation_score())),
            "saturated": Out(1),
            "clear": In(1),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "ValueDeviation":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        config, kv_bits = self.config, self.config.kv_bits
        m.submodules.old = old = RowSplitter(config)
        m.submodules.new = new = RowSplitter(config)
        m.submodules.scores = scores = CreditQueue(deviation_score(), self._depth + ROUND_TRIP)
        connect(m, wiring.flipped(self.i_old), old.i)
        connect(m, wiring.flipped(self.i_new), new.i)
        connect(m, scores.o, wiring.flipped(self.o))

        # Both splitters are idle when no head is under way: values are taken from both at once.
        command, active, row, beat = Signal(deviation_command(config)), Signal(), Signal(range(config.max_context)), Signal(16)
        takes, accepted = Signal(), Signal()
        begins_row, ends_row, ends = beat == 0, beat == command.beats - 1, row == command.rows - 1
        m.d.comb += [
            self.i_command.ready.eq(~active),
            takes.eq(active & old.o_values.valid & new.o_values.valid & (scores.credit | ~command.last)),
            accepted.eq(takes),
            scores.spend.eq(accepted & ends_row & command.last),
        ]
        for splitter in (old, new):
            m.d.comb += [
                splitter.i_command.valid.eq(self.i_command.valid & ~active),
                splitter.i_command.p.rows.eq(self.i_command.p.rows), splitter.i_command.p.beats.eq(self.i_command.p.beats),
                splitter.i_command.p.words.eq(self.i_command.p.words),
                splitter.o_keys.ready.eq(1), splitter.o_values.ready.eq(takes), splitter.o_header.ready.eq(accepted & begins_row),
            ]
        with m.If(self.i_command.valid & ~active):
            m.d.sync += [command.eq(self.i_command.p), active.eq(1), row.eq(0), beat.eq(0)]
        with m.If(accepted):
            m.d.sync += beat.eq(beat + 1)
            with m.If(ends_row):
                m.d.sync += [beat.eq(0), row.eq(row + 1), active.eq(~ends)]

        # Differences of a beat, in steps; the headers stand still while the first beat of a row is taken.
        pipeline = Pipeline(m)
        register = pipeline.register
        layout = data.ArrayLayout(signed(kv_bits), config.kv_lanes)
        products, saturated = [], []
        for splitter in (old, new):
            factor, large = grid_factor(pipeline, splitter.o_header.p.value, command.exponent, kv_bits, accepted & begins_row)
            values = data.View(layout, register(splitter.o_values.p, GRID_LATENCY))
            products.append([register(value * factor) for value in values])
            saturated.append(large)
        squares = []
        for before, after in zip(*products, strict=True):
            step = register(((register(after - before) >> (kv_bits - 1)) + 1)[1:FACTOR_BITS + 2].as_signed())
            squares.append(register((step * step)[:SQUARE_BITS]))
        total, levels = pipeline.add(squares)
        with m.If(self.clear):
            m.d.sync += self.saturated.eq(0)
        with m.If(saturated[0] | saturated[1]):
            m.d.sync += self.saturated.eq(1)

        # Sum of a row, then over the heads.
        depth = GRID_LATENCY + 4 + levels
        row_sum = Signal((config.kv_lanes * max_beats(config) << SQUARE_BITS).bit_length(), reset_less=True)
        valid, begins_row = register(accepted, depth, reset=True), register(begins_row, depth)
        with m.If(valid):
            m.d.sync += row_sum.eq(Mux(begins_row, 0, row_sum) + total)
        row_valid, last = register(accepted & ends_row, depth + 1, reset=True), register(ends, depth + 1)
        first_head, last_head = register(command.first, depth + 1), register(command.last, depth + 1)
        m.d.comb += [
            scores.i.p.score.eq(head_sums(m, pipeline, config.max_context, SCORE_BITS, row_sum, valid=row_valid, first=first_head,
                                          last=last)),
            scores.i.p.last.eq(register(last, SUMS_LATENCY)),
            scores.i.valid.eq(register(row_valid & last_head, SUMS_LATENCY, reset=True)),
        ]
        return m
