"""Scores of a cache's blocks for a query, and the blocks that fit it best."""

from dataclasses import replace

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..attention.formats import HEADER, command_layout, dot_layout, query_layout
from ..attention.lanes import LaneTable
from ..attention.rows import RowSplitter
from ..attention.scores import Scores
from ..config import AcceleratorConfig
from ..integers import ceil_div
from ..numerics import SCALAR
from ..numerics.pipelined import round_shift, saturate
from ..pipeline import Pipeline
from ..streams import ROUND_TRIP, CreditQueue, Fork, Queue, StreamBuffer, connect
from .grid import SCORE_BITS, SUMS_LATENCY, head_sums
from .select import TopSelect

__all__ = ["BlockRetrieval", "BlockScores", "block_rows", "block_score", "retrieval_command"]

HEADER_QUEUE = 16
TERM_BITS = 32

DEPTH = 9 + SUMS_LATENCY
"""Registers from a dot product to the sum over heads."""


def block_rows(config: AcceleratorConfig) -> int:
    """Most blocks of a list; memories have 2 rows at least."""
    return max(2, ceil_div(config.max_context, config.block_size))


def retrieval_command(config: AcceleratorConfig) -> data.StructLayout:
    """Queries of one K/V head against its mean keys: lanes, rows (blocks), beats of K per row, V-words per head (all at least 1),
    exponent of a step; whether it is the list's first command and its last one."""
    return data.StructLayout({"lanes": range(config.query_lanes + 1), "rows": range(block_rows(config) + 1), "beats": 16, "words": 16,
                              "exponent": signed(16), "first": 1, "last": 1})


def block_score() -> data.StructLayout:
    """Score of a block; ``last`` on the last one of a list."""
    return data.StructLayout({"score": signed(SCORE_BITS), "last": 1})


class BlockScores(wiring.Component):
    """Sum over heads and queries of ``query * mean key``, per block (ReKV, arXiv:2503.00540, section 3.2).

    ReKV compares the mean of the question's queries, its heads side by side, with the mean keys of a block. The dot product of
    vectors side by side is the sum of those of the heads, and that with a mean query is their mean: so the rule here is the plain
    sum over K/V heads, the query heads of each (grouped queries) and the tokens of the question, which orders blocks alike. A factor
    that all queries have in common may be left out of their scales. The table of means is read as attention reads its rows::

        i_query ---------------> Scores - dots -.
        i -> RowSplitter - keys ---^            v
                  '------- headers ---> LaneTable -> x scales -> steps -> sum of lanes -> + <--> memory ---> o (last command)
        i_lane ---------------------------^

        factor = floor(query mantissa * key mantissa / 2**15 + 1/2), of their upper 16 bits                   17 bits
        term   = floor(dot * factor / 2**(exponent - exponents of factor) + 1/2)                  saturated to 32 bits
        score  = sum of the terms of all lanes and commands, saturated to 48 bits, which 2**16 terms never reach

    A term is off by at most 1/2 step and ``2**-14`` of itself. A step finer than the last bit of ``dot * factor`` saturates all
    terms but 0.

    Parameters
    ----------
    config : AcceleratorConfig
        Those of ``Scores``, and ``block_size``: a list has up to ``ceil(max_context / block_size)`` blocks, at least 2.

    Members
    -------
    i_command : In(stream of retrieval_command)
        Any number of commands for a list, for each K/V head one or more; all with the same rows.
    i_query : In(stream of query_layout)
        See ``Scores``.
    i_lane : In(stream of {scale: SCALAR})
        Real value of one step of a lane's query; the upper 16 bits of the mantissa count.
    i : In(stream of bus_bits)
        Records of the mean keys, see ``BlockMeans``; their values are skipped.
    o : Out(stream of block_score)
        A list's blocks in order, once its last command streams.

    Latency: ``latency`` cycles from the last beat of K of a block, with all lanes in use, to its score. Interval: 1 cycle per beat,
    but a record takes at least ``lanes`` cycles; an idle cycle between commands. The queries of the next command are taken while
    the keys of this one stream, so a command takes at least their ``lanes * words`` cycles.
    """

    interval = 1

    def __init__(self, config: AcceleratorConfig):
        self.config = config = replace(config, row_cycles=0)
        self._scores = Scores(config)
        buffers = 2 * StreamBuffer.latency
        self.latency = buffers + self._scores.latency + LaneTable.latency + config.query_lanes - 1 + DEPTH + CreditQueue.latency
        super().__init__({
            "i_command": In(stream.Signature(retrieval_command(config))),
            "i_query": In(stream.Signature(query_layout(config))),
            "i_lane": In(stream.Signature(data.StructLayout({"scale": SCALAR}))),
            "i": In(stream.Signature(config.bus_bits)),
            "o": Out(stream.Signature(block_score())),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "BlockScores":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.scores = scores = self._scores
        m.submodules.lanes = lanes = LaneTable(config)
        m.submodules.splitter = splitter = RowSplitter(config)
        m.submodules.commands = commands = Fork(retrieval_command(config), 4)
        connect(m, wiring.flipped(self.i_command), commands.i)
        for k, part in enumerate((scores, lanes, splitter)):
            m.submodules[f"command_{k}"] = buffer = StreamBuffer(command_layout(config))
            connect(m, buffer.o, part.i_command)
            m.d.comb += [
                buffer.i.valid.eq(commands.o[k].valid), commands.o[k].ready.eq(buffer.i.ready),
                *(buffer.i.p[name].eq(commands.o[k].p[name]) for name in ("lanes", "rows", "beats", "words")),
            ]
            if config.attention_runs:
                m.d.comb += [buffer.i.p.begins.eq(1), buffer.i.p.ends.eq(1)]
        m.submodules.keys = keys = StreamBuffer(config.kv_beat_bits)
        m.submodules.headers = headers = Queue(HEADER, HEADER_QUEUE)
        m.submodules.dots = dots = StreamBuffer(dot_layout(config))
        for source, sink in (
                (wiring.flipped(self.i_query), scores.i_query), (wiring.flipped(self.i), splitter.i), (splitter.o_keys, keys.i),
                (keys.o, scores.i_keys), (splitter.o_header, headers.i), (headers.o, lanes.i_header), (scores.o, dots.i),
                (dots.o, lanes.i_dots)):
            connect(m, source, sink)
        m.d.comb += [
            lanes.i_lane.valid.eq(self.i_lane.valid), self.i_lane.ready.eq(lanes.i_lane.ready),
            lanes.i_lane.p.scale.eq(self.i_lane.p.scale), lanes.i_lane.p.limit.eq(config.max_context),
            splitter.o_values.ready.eq(1),
        ]
        self._sums(m, commands.o[3], lanes.o)
        return m

    def _sums(self, m: Module, commands, items) -> None:
        """Terms of the lanes of a block, their sum, and that over all commands."""
        m.submodules.results = results = CreditQueue(block_score(), DEPTH + ROUND_TRIP)
        connect(m, results.o, wiring.flipped(self.o))
        pipeline = Pipeline(m)
        register = pipeline.register

        # A command is taken a cycle later than it could be: the same block must not come again before the third cycle.
        command, active = Signal(commands.p.shape()), Signal()
        accepted, ended = items.valid & items.ready, Signal()
        ends = accepted & items.p.last & items.p.final
        m.d.comb += [
            commands.ready.eq(~active & ~ended), items.ready.eq(active & results.credit),
            results.spend.eq(accepted & items.p.last & command.last),
        ]
        m.d.sync += ended.eq(ends)
        with m.If(ends):
            m.d.sync += active.eq(0)
        with m.If(commands.valid & commands.ready):
            m.d.sync += [command.eq(commands.p), active.eq(1)]

        item = items.p
        right = register(command.exponent - (item.query.exponent + item.key.exponent + 8 + 15))
        product, dot = register(item.query.mantissa * item.key.mantissa), register(item.dot)
        factor, left = register((product + (1 << 14))[15:]), register(right < 0)
        scaled = pipeline.multiply(register(dot), factor)
        right = register(Mux(right > 63, 63, right)[:6], 3)
        rounded = round_shift(pipeline, scaled, right)
        left, positive, negative = register(left, 5), register(scaled > 0, 3), register(scaled < 0, 3)
        extreme = Cat(positive.replicate(TERM_BITS - 1), negative).as_signed()  # 0 if the product is
        term = register(Mux(left, extreme, saturate(rounded, TERM_BITS)[0]))

        lane_sum = Signal(signed(TERM_BITS + self.config.query_lanes.bit_length()), reset_less=True)
        adds, begins = register(accepted, 8, reset=True), register(item.lane == 0, 8)
        with m.If(adds):
            m.d.sync += lane_sum.eq(Mux(begins, 0, lane_sum) + term)
        valid, last = register(accepted & item.last, 9, reset=True), register(item.final, 9)
        m.d.comb += [
            results.i.p.score.eq(head_sums(m, pipeline, block_rows(self.config), signed(SCORE_BITS), lane_sum, valid=valid,
                                           first=register(command.first, 9), last=last)),
            results.i.p.last.eq(register(last, SUMS_LATENCY)),
            results.i.valid.eq(register(valid & register(command.last, 9), SUMS_LATENCY, reset=True)),
        ]


class BlockRetrieval(wiring.Component):
    """Numbers of the blocks whose mean keys fit a query best, in rising order (ReKV, arXiv:2503.00540).

    ::

        i_query, i_lane, i -> BlockScores -> TopSelect -> o

    Which of the blocks are in memory, and which make room for them, is up to the host.

    Parameters
    ----------
    config : AcceleratorConfig
        See ``BlockScores``.

    Members
    -------
    i_command, i_query, i_lane, i
        See ``BlockScores``.
    i_count : In(stream of {count})
        Blocks to choose from each list; more than it has means all.
    o : Out(stream of {index, last})
        Of equal scores the earlier block. With a count of 0 nothing comes.

    Latency: ``latency`` cycles from the last beat of K of a full list to the last index of all of its blocks, if the count is
    there. Interval: see ``BlockScores``; while a list is selected, the commands of the next one stream, up to its last one.
    """

    interval = 1

    def __init__(self, config: AcceleratorConfig):
        self._scores, self._select = BlockScores(config), TopSelect(block_rows(config), SCORE_BITS)
        self.latency = self._scores.latency + 1 + self._select.latency
        super().__init__({
            "i_command": In(stream.Signature(retrieval_command(config))),
            "i_query": In(stream.Signature(query_layout(config))),
            "i_lane": In(stream.Signature(data.StructLayout({"scale": SCALAR}))),
            "i": In(stream.Signature(config.bus_bits)),
            "i_count": In(stream.Signature(self._select.i_command.p.shape())),
            "o": Out(stream.Signature(self._select.o.p.shape())),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "BlockRetrieval":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        m.submodules.scores = scores = self._scores
        m.submodules.select = select = self._select
        for source, sink in ((self.i_command, scores.i_command), (self.i_query, scores.i_query), (self.i_lane, scores.i_lane),
                             (self.i, scores.i), (self.i_count, select.i_command)):
            connect(m, wiring.flipped(source), sink)
        connect(m, select.o, wiring.flipped(self.o))
        m.d.comb += [
            select.i.valid.eq(scores.o.valid), scores.o.ready.eq(select.i.ready), select.i.p.last.eq(scores.o.p.last),
            select.i.p.score.eq(Cat(scores.o.p.score[:-1], ~scores.o.p.score[-1])),  # the same order, unsigned
        ]
        return m
