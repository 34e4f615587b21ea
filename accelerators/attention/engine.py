"""Streaming attention: up to L query lanes against the rows of one K/V head, at the full rate of the port."""

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..cache.evict_scores import attention_weight_layout
from ..config import AcceleratorConfig
from ..integers import ceil_div
from ..streams import Fork, Queue, StreamBuffer, connect
from .finish import Finish
from .formats import (
    EXPONENT,
    HEADER,
    command_layout,
    dot_layout,
    lane_layout,
    max_beats,
    part_streams,
    query_layout,
    result_layout,
)
from .joining import Joining
from .lanes import LaneTable
from .mix import Mix
from .parting import Parting
from .rows import RowSplitter
from .scores import Scores
from .softmax import Softmax
from .weights import AttentionWeights

__all__ = ["Attention", "longest_row_cycles"]

HEADER_QUEUE = 16


def longest_row_cycles(config: AcceleratorConfig) -> int:
    """Cycles of a row of the largest head with all lanes in use."""
    return max(config.max_record_beats, ceil_div(config.query_lanes, config.softmax_ways), config.least_row_cycles)


class Attention(wiring.Component):
    """Attention of several lanes (token, query head) over one K/V head, in one pass over its rows.

    FlashAttention-2's online softmax (arXiv:2307.08691, section 3.1) in integers (after ITA,
    arXiv:2307.03493): base-2 logits, an integer running maximum, so that rescaling is a shift, and one
    division per lane at the end::

        i_query -> Scores -- dots --> LaneTable --> Softmax -- weights --> Mix -- sums --> Finish -> o
                     ^ keys             ^  ^ i_lane    '------ totals ------|---------------^  '--> o_exponent
        i_rows -> RowSplitter -headers -'                                   |
                     '-------------- values --------------------------------'

    Each K/V row is read once for all lanes (grouped-query heads and tokens of a chunk alike); a lane's
    ``limit`` makes it causal. Queries and lanes of the next operation are taken while the rows of this one
    stream, and its rows while the results of this one leave.

    Where ``config.attention_runs`` says so, the rows of an operation come in one or more runs, for each a command, queries and
    lanes; a lane sees rows ``start .. limit - 1`` of each. So a program can give queries another rotation for some rows
    (StreamingLLM), let lanes see their own segments only (packed prompts), and read rows that several sequences share once.

    With ``config.attention_modes`` each operation also says whether its maximum is unified (``Softmax``), whether its lanes are merged
    with parts of the same lanes over other rows, and whether its results are partial: then maximum, sum and weighted sums of each lane
    leave undivided, to be merged by a later operation, or by ``PartialReduce`` and divided by a ``Finish`` behind::

        ... Mix -- sums --> Joining --> Parting --> Finish -> o, o_exponent
               totals --------^ ^         '-------------> o_part, o_sums
        i_part, i_sums ---------'

    With ``cache = "evict"`` the cache is told what part of the attention each row got, summed over the lanes::

        Softmax -- probabilities, maxima --> AttentionWeights -> o_weights

    Parameters
    ----------
    config : AcceleratorConfig
        ``query_lanes`` (L), ``row_cycles``, ``bus_bits``, ``kv_bits``, ``vector_lanes`` (V), ``max_head_dim``,
        ``max_context``, ``logit_frac_bits`` (F), ``probability_bits`` (B), ``exp_segments``.

    Members
    -------
    i_command : In(stream of {lanes, rows, beats: 16, words: 16})
        One per operation: lanes in use, rows, beats of K (= of V) per row, V-words per head; all at least 1
        and within the configuration. Others are not checked. With runs one per run, ``begins`` and ``ends`` on the first and on the
        last of an operation, whose lanes, beats and words are the same. With ``attention_modes`` also ``unified``, ``phi`` (integer
        of a base-2 logit, signed, 13 bits), ``merge`` and ``partial``, the same in all runs.
    i_query : In(stream of {q: V x signed(kv_bits), last})
        ``words`` words per lane, lane after lane, ``last`` on the last word of each.
    i_lane : In(stream of {scale: SCALAR, limit}), with runs also ``start``
        One per lane: real value of one step of q times log2(e) / sqrt(head_dim); rows that the lane sees, of all runs together at
        most ``max_context``.
    i_rows : In(stream of bus_bits)
        Row after row: header (K scale in bits 0..31, V scale in 32..63: 16-bit mantissa, then signed
        exponent), beats of K, beats of V, zero padded. The header is in the top 64 bits of K's last beat if K leaves
        them free, else it takes whole beats. With ``kv_storage = "int4"`` half as many beats of K and V.
    o : Out(stream of {x: V x signed(32), last})
        Results, ``words`` words per lane, lane after lane.
    o_exponent : Out(stream of {exponent: signed(16)})
        One per lane: its result is ``x * 2**exponent``. A lane that saw no row with a V scale: 0 and -1024.
    o_part, o_sums : Out(stream of partial_layout, stream of mixed_layout)
        With ``attention_modes``, of partial operations instead: state of each lane, ``words`` words of weighted sums per lane.
    i_part, i_sums : In(stream of partial_layout, stream of mixed_layout)
        With ``attention_modes``, of merging operations: what each lane is merged with, in the same form. Together with the rows of the
        operation at most ``max_context``.
    missed, passed : Out(32)
        With ``attention_modes``: lanes since reset that left a unified maximum (``Softmax``).
    passes : Out(1)
        With ``attention_modes``: ``passed`` has just grown.
    o_weights : Out(stream of attention_weight_layout)
        With ``cache = "evict"``, a packet per operation: see ``AttentionWeights``; those of ``max_budget`` rows at most. An operation
        waits if the weights of two before it have not left: ``lanes`` times twice its rows, and some 25 cycles per lane.

    Latency: ``latency`` cycles from the last beat of an operation of L lanes and the largest head to the
    first result, if the first lane's probabilities add up to 4 to 8 (the division normalizes their sum).
    Interval: ``interval`` cycles per row of the largest head: every beat is taken as it comes. A shorter row takes
    as many cycles as it has beats, but at least one for each lane, or group of ``softmax_ways`` of them, and at least 3, or 2 if
    ``row_cycles`` is 2. A row that moves a lane's running maximum or top V exponent by s bits takes more passes (``Mix``): none for
    s of 0, 1, 4 and from 32 on, with ``row_cycles`` of all up to 6 but 3; the first rows of an operation mostly do. An operation
    takes ``lanes * beats + 3`` cycles more, which a buffer hides while rows take fewer cycles in ``Mix`` than they have beats, and at
    least about 25 cycles per lane, for its divisions.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        beats = max_beats(config)
        self.interval = longest_row_cycles(config)
        turns, groups = 2 if config.query_lanes > 1 else 1, ceil_div(config.query_lanes, config.softmax_ways)
        zeros = config.max_context.bit_length() - 3
        mixed, divided = 51 + groups + (turns - 1) * beats, 62 - beats + zeros // 4 + zeros % 4
        self.latency = (config.kv_lanes - 1).bit_length() + max(mixed, divided)
        super().__init__({
            "i_command": In(stream.Signature(command_layout(config))),
            "i_query": In(stream.Signature(query_layout(config))),
            "i_lane": In(stream.Signature(lane_layout(config))),
            "i_rows": In(stream.Signature(config.bus_bits)),
            "o": Out(stream.Signature(result_layout(config))),
            "o_exponent": Out(stream.Signature(EXPONENT)),
            **({**part_streams("o", config), **part_streams("i", config), "missed": Out(32), "passed": Out(32), "passes": Out(1)}
               if config.attention_modes else {}),
            **({"o_weights": Out(stream.Signature(attention_weight_layout(config)))} if config.cache == "evict" else {}),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "Attention":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.scores = scores = Scores(config)
        m.submodules.lanes = lanes = LaneTable(config)
        m.submodules.splitter = splitter = RowSplitter(config)
        m.submodules.softmax = softmax = Softmax(config)
        m.submodules.mix = mix = Mix(config)
        m.submodules.finish = finish = Finish(config)

        # Every part takes the command when it comes to the operation.
        m.submodules.commands = commands = Fork(command_layout(config), 4)
        connect(m, wiring.flipped(self.i_command), commands.i)
        for k, part in enumerate((scores, lanes, splitter, mix)):
            m.submodules[f"command_{k}"] = buffer = StreamBuffer(command_layout(config))
            connect(m, commands.o[k], buffer.i)
            connect(m, buffer.o, part.i_command)

        m.submodules.keys = keys = StreamBuffer(config.kv_beat_bits)
        m.submodules.headers = headers = Queue(HEADER, HEADER_QUEUE)
        m.submodules.dots = dots = StreamBuffer(dot_layout(config))
        m.submodules.mixed = mixed = StreamBuffer(mix.o.p.shape())
        m.submodules.logits = logits = StreamBuffer(lanes.o.p.shape())
        ends = [(softmax.o_total, finish.i_total), (mix.o, mixed.i), (mixed.o, finish.i)]
        if config.attention_modes:
            m.submodules.joining = joining = Joining(config)
            m.submodules.parting = parting = Parting(config)
            m.d.comb += [self.missed.eq(softmax.missed), self.passed.eq(softmax.passed), self.passes.eq(softmax.passes)]
            ends = [(softmax.o_total, joining.i_state), (mix.o, mixed.i), (mixed.o, joining.i),
                    (wiring.flipped(self.i_part), joining.i_part), (wiring.flipped(self.i_sums), joining.i_sums),
                    (joining.o_state, parting.i_state), (joining.o, parting.i),
                    (parting.o_total, finish.i_total), (parting.o, finish.i),
                    (parting.o_part, wiring.flipped(self.o_part)), (parting.o_sums, wiring.flipped(self.o_sums))]
        if config.cache == "evict":
            m.submodules.weights = weights = AttentionWeights(config)
            m.submodules.probabilities = probabilities = StreamBuffer(weights.i.p.shape())
            ends += [(softmax.o_probability, probabilities.i), (probabilities.o, weights.i),
                     (weights.o, wiring.flipped(self.o_weights))]
        for source, sink in (
                (wiring.flipped(self.i_query), scores.i_query), (wiring.flipped(self.i_lane), lanes.i_lane),
                (wiring.flipped(self.i_rows), splitter.i), (splitter.o_header, headers.i),
                (splitter.o_keys, keys.i), (splitter.o_values, mix.i_values),
                (keys.o, scores.i_keys), (scores.o, dots.i), (dots.o, lanes.i_dots),
                (headers.o, lanes.i_header), (lanes.o, logits.i), (logits.o, softmax.i),
                (softmax.o_weight, mix.i_weights), *ends,
                (finish.o, wiring.flipped(self.o)),
                (finish.o_exponent, wiring.flipped(self.o_exponent))):
            connect(m, source, sink)
        return m
