"""Ternary matrix times int8 vectors by table lookup."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig
from ..streams import Queue, StreamBuffer, connect
from .accumulators import Accumulators, sums_layout
from .feeder import ActivationFeeder, activation_word, command_layout, tile_layout
from .lanes import LookupLanes
from .table import TableBuilder
from .timing import HAZARD, TernaryTiming

__all__ = ["TernaryEngine"]


class TernaryEngine(wiring.Component):
    """Ternary matrix times vectors by table lookup (TeLLMe, section 3.2: TLMM), a row group per cycle.

    K tiles of ``group_size * tables`` activations are turned into half tables (``code.py``); every word of weights looks
    up ``table_rows x tables`` sums in them for all token lanes, and the row sums are added up in memory over the K
    tiles. Tables of the next K tile are built while those of this one are read, so the lanes never wait for a table
    that is hidden behind a sweep of at least ``build`` row groups::

        i_activations --> feeder --> table builder --+
        i_command ------>   |                        v
                            +--> sweeps --> +--> lookup lanes --> accumulators --> queue --> o_sums
        i_weights ------------------------> +

    Parameters
    ----------
    config : AcceleratorConfig
        ``group_size``, ``tables``, ``table_rows``, ``token_lanes``, ``chunks``, ``vector_lanes``, ``max_vector``,
        ``max_block_rows`` and ``vector_memory`` (bound of ``rows``) matter here.

    Members
    -------
    i_activations : In(stream): ``{token, q: vector_lanes x signed(8), last}``
        Fills the next buffer of ``token`` from element 0; ``last`` completes it. Activations are -127..127. What a vector
        lacks of its last K tile is undefined, so the trits there must be 0, as ``golden.ternary.pack`` makes them.
    i_command : In(stream): ``{tiles, block_rows, rows, tokens}``
        One matrix: K tiles, row groups of a full block (at most ``max_block_rows / table_rows``), row groups in all, tokens.
        It uses up one vector of each token: a command waits until its vectors are in, vectors wait at ``i_activations``
        until their token has a free buffer: with one chunk until the previous command is fed, with two until the one
        before that is. So both may be sent ahead, in any order relative to each other. A command with a zero field is
        dropped; one with more tiles or block rows than there is memory for gives wrong sums.
    i_weights : In(stream): ``lane_bits``
        Lane words in the order block, K tile, row group; in a word row-major (row, table), lowest bits first. A
        code word that the packer never gives adds an undefined (but driven) table entry.
    o_sums : Out(stream): ``{sums: (token_lanes * table_rows) x signed(sum_bits), last}``
        One word per row group in row order, token-major; ``last`` on the final one. Lanes of tokens beyond ``tokens`` are
        undefined (but driven).

    Attributes
    ----------
    latency : int
        From a word of the last K tile to its sums: ``ceil(log2 tables) + 8`` cycles.
    interval : int
        1: a lane word per cycle, also from K tile to K tile, from block to block and from matrix to matrix. The only
        bubbles (``timing.py`` has the exact model, and the bench measures it):

        - a sweep of ``n < build`` row groups takes ``build = slices * entries`` cycles, for its successor's tables;
        - the first word of a matrix is taken ``start`` cycles after its command (and vectors) at the earliest; that
          is hidden when the last sweep of the matrix before has at least ``reload`` row groups;
        - when weights come late, both banks of tables may be ready: then two sweeps of fewer than 4 row groups are 3
          cycles apart, for the accumulators;
        - while sums are not taken, words of last K tiles stop when ``result_slots`` row groups wait; other words pass.
    """

    interval = 1

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        self.timing = TernaryTiming(config)
        self.latency = self.timing.latency
        super().__init__({
            "i_activations": In(stream.Signature(activation_word(config))),
            "i_command": In(stream.Signature(command_layout(config))),
            "i_weights": In(stream.Signature(config.lane_bits)),
            "o_sums": Out(stream.Signature(sums_layout(config))),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "TernaryEngine":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        config, timing = self.config, self.timing
        m.submodules.feeder = feeder = ActivationFeeder(config)
        m.submodules.builder = builder = TableBuilder(config)
        m.submodules.lanes = lanes = LookupLanes(config)
        m.submodules.accumulators = accumulators = Accumulators(config)
        m.submodules.tiles = tiles = StreamBuffer(tile_layout(config))
        m.submodules.results = results = Queue(sums_layout(config), timing.result_slots)
        connect(m, wiring.flipped(self.i_activations), feeder.i_activations)
        connect(m, wiring.flipped(self.i_command), feeder.i_command)
        connect(m, feeder.o, builder.i)
        connect(m, feeder.o_tiles, tiles.i)
        connect(m, builder.o, lanes.i_tables)
        connect(m, results.o, wiring.flipped(self.o_sums))

        # One sweep over the row groups of a block, counted down. A word is taken when its tables are complete, the
        # accumulators of its sweep are written, and its sums (if the sweep emits any) have a slot: so the pipeline
        # itself never stalls.
        sweep, active, ends, short = Signal(tile_layout(config)), Signal(), Signal(), Signal()
        slots, has_slot = Signal(range(timing.result_slots + 1), init=timing.result_slots), Signal()
        settling = Signal(HAZARD - 1)
        may_take, taken, uses_slot, frees_slot = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            may_take.eq(active & ~settling[0] & (~sweep.emit | has_slot)),
            lanes.i.valid.eq(self.i_weights.valid & may_take),
            lanes.i.p.indices.eq(self.i_weights.p),
            lanes.i.p.last.eq(ends),
            self.i_weights.ready.eq(lanes.i.ready & may_take),
            taken.eq(lanes.i.valid & lanes.i.ready),
            tiles.o.ready.eq(~active | (taken & ends)),
            uses_slot.eq(taken & sweep.emit),
            frees_slot.eq(results.o.valid & results.o.ready),
        ]
        m.d.sync += [
            settling.eq(settling >> 1),
            # One cycle late, so one slot is kept back.
            has_slot.eq(slots > 1),
        ]
        with m.If(taken):
            m.d.sync += [sweep.last_row.eq(sweep.last_row - 1), ends.eq(sweep.last_row == 1)]
            with m.If(ends & short):
                m.d.sync += settling.eq(-1)
        with m.If(tiles.o.ready):
            m.d.sync += [
                active.eq(tiles.o.valid), sweep.eq(tiles.o.p),
                ends.eq(tiles.o.p.last_row == 0), short.eq(tiles.o.p.last_row < HAZARD - 1),
            ]
        with m.If(uses_slot & ~frees_slot):
            m.d.sync += slots.eq(slots - 1)
        with m.Elif(frees_slot & ~uses_slot):
            m.d.sync += slots.eq(slots + 1)

        # What belongs to a word travels beside it.
        beside = Signal(data.StructLayout({"row": len(sweep.last_row), "first": 1, "emit": 1, "last": 1}))
        m.d.comb += beside.eq(Cat(sweep.last_row, sweep.first, sweep.emit, sweep.last & ends))
        for stage in range(lanes.latency):
            register = Signal.like(beside, name=f"beside_{stage}")
            m.d.sync += register.eq(beside)
            beside = register
        m.d.comb += [
            accumulators.i.valid.eq(lanes.o.valid),
            accumulators.i.p.sums.eq(lanes.o.p.sums),
            accumulators.i.p.carry.eq(lanes.o.p.carry),
            *(accumulators.i.p[name].eq(beside[name]) for name in ("row", "first", "emit", "last")),
            results.i.valid.eq(accumulators.o.valid),
            results.i.p.eq(accumulators.o.p),
        ]
        return m
