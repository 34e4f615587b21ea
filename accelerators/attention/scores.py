"""Scores: dot products of the stored queries with a stream of keys."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig
from ..integers import ceil_div
from ..pipeline import Pipeline
from ..streams import ROUND_TRIP, CreditQueue
from .formats import beat_numbers, command_layout, dot_bits, dot_layout, max_beats, query_layout, ways_of

__all__ = ["Scores"]


class Scores(wiring.Component):
    """Dot products of up to L queries with each key, one beat of the key per cycle::

        i_query -> query memory (2 banks, all lanes side by side)
                        |
        i_keys -------> x -> adder tree per lane -> sum over beats -> o

    The queries of the next operation go into the other bank while the keys of this one stream. Lanes leave one after the other, or
    groups of ``softmax_ways`` side by side.

    Parameters
    ----------
    config : AcceleratorConfig
        ``query_lanes`` (L), ``row_cycles``, ``bus_bits``, ``kv_bits``, ``vector_lanes``, ``max_head_dim`` and ``max_context``
        matter. Multipliers: ``query_lanes * kv_lanes``.

    Members
    -------
    i_command : In(stream of command_layout)
        Taken when a bank is free; ``words`` is not used.
    i_query : In(stream of query_layout)
        Lane after lane, ``last`` on the last word of each. The tail of a last beat that is not full keeps old
        elements: keys are zero there.
    i_keys : In(stream of kv_beat_bits)
        Beats of K, row after row, element 0 in the lowest bits; signed ``kv_bits`` each.
    o : Out(stream of dot_layout)
        Lanes 0 .. lanes - 1 of each row; in a group that has less than ``softmax_ways`` of them the others do not matter.

    Latency: 6 + log2(kv_lanes) cycles from the last beat of a row to lane 0. Interval: 1 cycle per
    beat, and one idle cycle between operations, but a row takes at least a cycle for each lane (or group of them); the attribute is
    the most between two beats of the largest head with all lanes in use.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        self._depth = 3 + (config.kv_lanes - 1).bit_length()  # registers from the last beat of a row to its dot products
        self.latency = self._depth + CreditQueue.latency + 1
        self.interval = max(1, ceil_div(config.query_lanes, config.softmax_ways) - max_beats(config) + 1)
        super().__init__({
            "i_command": In(stream.Signature(command_layout(config))),
            "i_query": In(stream.Signature(query_layout(config))),
            "i_keys": In(stream.Signature(config.kv_beat_bits)),
            "o": Out(stream.Signature(dot_layout(config))),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "Scores":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        config = self.config
        loaded = Signal(command_layout(config))  # the next operation, once its queries are in their bank
        loaded_valid, loaded_bank, take = Signal(), Signal(), Signal()
        queries = self._load(m, loaded, loaded_valid, loaded_bank, take)

        ways = config.softmax_ways
        groups = range(ceil_div(config.query_lanes, ways) + 1)
        dots = Signal(data.ArrayLayout(signed(dot_bits(config)), config.query_lanes), reset_less=True)
        m.submodules.rows = rows = CreditQueue(
            data.StructLayout({"dots": dots.shape(), "lanes": groups}), self._depth + ROUND_TRIP)

        command = Signal(command_layout(config))
        active, bank, beat = Signal(), Signal(), Signal(beat_numbers(config))
        rows_done = Signal(range(config.max_context))
        accepted, last_row = Signal(), Signal()
        last_beat = Signal.like(beat)
        ends_row = beat == last_beat
        ends = accepted & ends_row & last_row
        m.d.comb += [
            self.i_keys.ready.eq(rows.credit & active),
            rows.spend.eq(accepted & ends_row),
            accepted.eq(self.i_keys.valid & self.i_keys.ready),
            take.eq(loaded_valid & ~active),
        ]
        with m.If(accepted):
            m.d.sync += beat.eq(beat + 1)
            with m.If(ends_row):
                m.d.sync += [beat.eq(0), rows_done.eq(rows_done + 1), last_row.eq(rows_done + 2 == command.rows)]
        with m.If(ends):
            m.d.sync += [active.eq(0), rows_done.eq(0)]
        with m.If(take):
            m.d.sync += [command.eq(loaded), bank.eq(loaded_bank), active.eq(1), last_row.eq(loaded.rows == 1),
                         last_beat.eq(loaded.beats - 1)]

        count = command.lanes  # what leaves of a row: lanes, or groups of them
        if ways > 1:
            count = Signal(groups)
            with m.If(take):
                m.d.sync += count.eq(Array(ceil_div(number, ways) for number in range(config.query_lanes + 1))[loaded.lanes])

        # Products, one register per level of the trees, sums over the beats of a row.
        pipeline = Pipeline(m)
        register = pipeline.register
        key_layout = data.ArrayLayout(signed(config.kv_bits), config.kv_lanes)
        key = register(data.View(key_layout, self.i_keys.p))
        first, valid = register(beat == 0, 2), register(accepted, 2, reset=True)
        ends_row, lanes = register(ends_row, 2), register(count, 2)
        totals = []
        for port in queries:
            m.d.comb += port.addr.eq(Cat(beat, bank))
            total, depth = pipeline.add([register(q * k) for q, k in zip(port.data, key, strict=True)])
            totals.append(total)
        first, valid = register(first, depth), register(valid, depth, reset=True)
        ends_row, lanes = register(ends_row, depth), register(lanes, depth)
        with m.If(valid):
            m.d.sync += [dot.eq(Mux(first, 0, dot) + total) for dot, total in zip(dots, totals, strict=True)]
        m.d.comb += [rows.i.valid.eq(register(valid & ends_row, reset=True)), rows.i.p.dots.eq(dots),
                     rows.i.p.lanes.eq(register(lanes))]

        # One lane, or group of them, after the other.
        waiting = Signal.like(dots)
        items = ways_of(config, self.o.p)
        remaining, lanes = Signal(groups), rows.o.p.lanes
        m.d.comb += [item.dot.eq(waiting[way]) for way, item in enumerate(items)]
        m.d.comb += rows.o.ready.eq(~self.o.valid | (self.o.ready & items[0].last))
        with m.If(rows.o.valid & rows.o.ready):
            m.d.sync += [waiting.eq(rows.o.p.dots), remaining.eq(lanes), self.o.valid.eq(1)]
            for item in items:
                m.d.sync += item.last.eq(lanes == 1)
        with m.Elif(self.o.valid & self.o.ready):
            m.d.sync += [remaining.eq(remaining - 1), self.o.valid.eq(remaining != 1)]
            for item in items:
                m.d.sync += item.last.eq(remaining == 2)
            m.d.sync += [waiting[k].eq(waiting[k + ways]) for k in range(config.query_lanes - ways)]
        return m

    def _load(self, m: Module, loaded: data.View, loaded_valid: Signal, loaded_bank: Signal,
              take: Signal) -> list[memory.ReadPort]:
        """Fills one bank of the query memory per operation; a read port per lane."""
        config = self.config
        parts = config.kv_lanes // config.vector_lanes
        key_layout = data.ArrayLayout(signed(config.kv_bits), config.kv_lanes)
        loading = Signal()
        part, beat = Signal(range(max(parts, 2))), Signal(beat_numbers(config))
        lane = Signal(range(max(config.query_lanes, 2)))
        accepted = self.i_query.valid & self.i_query.ready
        m.d.comb += [self.i_command.ready.eq(~loading & ~loaded_valid), self.i_query.ready.eq(loading)]
        with m.If(take):
            m.d.sync += loaded_valid.eq(0)
        with m.If(self.i_command.valid & self.i_command.ready):
            m.d.sync += [loaded.eq(self.i_command.p), loaded_bank.eq(~loaded_bank), loading.eq(1)]
        with m.If(accepted):
            m.d.sync += part.eq(part + 1)
            with m.If(part == parts - 1):
                m.d.sync += [part.eq(0), beat.eq(beat + 1)]
            with m.If(self.i_query.p.last):
                m.d.sync += [part.eq(0), beat.eq(0), lane.eq(lane + 1)]
                with m.If(lane == loaded.lanes - 1):
                    m.d.sync += [lane.eq(0), loading.eq(0), loaded_valid.eq(1)]
        ports = []
        for k in range(config.query_lanes):
            m.submodules[f"queries_{k}"] = queries = memory.Memory(
                shape=key_layout, depth=2 << len(beat), init=[])
            write = queries.write_port(granularity=config.vector_lanes)
            m.d.comb += [
                write.addr.eq(Cat(beat, loaded_bank)),
                Cat(write.data).eq(Cat(self.i_query.p.q).replicate(parts)),
                write.en.eq(Mux(accepted & (lane == k), 1 << part, 0)),
            ]
            ports.append(queries.read_port())
        return ports
