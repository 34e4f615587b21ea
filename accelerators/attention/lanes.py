"""Lane table: joins dot products with the scales and limits of their lanes and rows."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig
from ..integers import ceil_div
from .formats import (
    HEADER,
    SCALE16,
    command_layout,
    dot_layout,
    lane_layout,
    modes_layout,
    score_layout,
    side_by_side,
    ways_of,
)

__all__ = ["LaneTable"]


class LaneTable(wiring.Component):
    """Completes each dot product: scale of the lane's query, K and V scales of the row, is it visible to the
    lane.

    The lanes of the next operation go into the other bank of the table while the rows of this one stream. ``softmax_ways`` lanes come
    side by side, each with a table of its own.

    Parameters
    ----------
    config : AcceleratorConfig
        ``query_lanes``, ``row_cycles``, ``max_context``, ``max_head_dim`` and ``kv_bits`` matter.

    Members
    -------
    i_command : In(stream of command_layout)
        Taken when a bank is free; all but ``beats`` and ``words`` matter.
    i_lane : In(stream of lane_layout)
        One per lane; the upper 16 bits of the mantissa count.
    i_header : In(stream of HEADER)
        One per row.
    i_dots : In(stream of dot_layout)
        Row after row, lane after lane.
    o : Out(stream of score_layout, of lanes side by side)

    Latency: 1 cycle. Interval: 1 cycle, and one idle cycle between operations. ``i_dots.ready`` depends on ``o.ready``.
    """

    latency = 1
    interval = 1

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__({
            "i_command": In(stream.Signature(command_layout(config))),
            "i_lane": In(stream.Signature(lane_layout(config))),
            "i_header": In(stream.Signature(HEADER)),
            "i_dots": In(stream.Signature(dot_layout(config))),
            "o": Out(stream.Signature(side_by_side(config, score_layout(config)))),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "LaneTable":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        config = self.config
        ways = config.softmax_ways
        lanes = range(max(config.query_lanes, 2))
        groups = range(max(ceil_div(config.query_lanes, ways), 2))
        runs = config.attention_runs
        bounds = ("start", "limit") if runs else ("limit",)
        entry = data.StructLayout({"query": SCALE16, **dict.fromkeys(bounds, range(config.max_context + 1))})

        # Load.
        loading, loaded, take = Signal(), Signal(), Signal()
        pending, pending_bank, load_lane = Signal(command_layout(config)), Signal(), Signal(lanes)
        load_way, load_group = 0, load_lane
        if ways > 1:
            load_way, load_group = Signal(range(ways)), Signal(groups)
        scale = self.i_lane.p.scale
        m.d.comb += [self.i_command.ready.eq(~loading & ~loaded), self.i_lane.ready.eq(loading)]
        reads = []
        for way in range(ways):
            table = memory.Memory(shape=entry, depth=2 << len(load_group), init=[])
            m.submodules[f"table_{way}" if way else "table"] = table
            read, write = table.read_port(domain="comb"), table.write_port()
            taken = self.i_lane.valid & self.i_lane.ready
            m.d.comb += [
                write.addr.eq(Cat(load_group, pending_bank)),
                write.data.query.mantissa.eq(scale.mantissa[8:]),
                write.data.query.exponent.eq(scale.exponent),
                write.data.limit.eq(self.i_lane.p.limit),
                write.en.eq(taken if way == ways - 1 else taken & (load_way <= way)),  # until its lane has come
            ]
            if runs:
                m.d.comb += write.data.start.eq(self.i_lane.p.start)
            reads.append(read)
        with m.If(take):
            m.d.sync += loaded.eq(0)
        with m.If(self.i_command.valid & self.i_command.ready):
            m.d.sync += [pending.eq(self.i_command.p), pending_bank.eq(~pending_bank), loading.eq(1)]
        with m.If(write.en):  # of the last table, which takes them all
            m.d.sync += load_lane.eq(load_lane + 1)
            if ways > 1:
                m.d.sync += load_way.eq(load_way + 1)
                with m.If(load_way == ways - 1):
                    m.d.sync += [load_way.eq(0), load_group.eq(load_group + 1)]
            with m.If(load_lane == pending.lanes - 1):
                m.d.sync += [load_lane.eq(0), loading.eq(0), loaded.eq(1)]
                if ways > 1:
                    m.d.sync += [load_way.eq(0), load_group.eq(0)]

        # Join.
        rows, active, bank = Signal.like(pending.rows), Signal(), Signal()
        row, lane = Signal(range(config.max_context)), Signal(groups)
        accepted, first, final = Signal(), Signal(), Signal()  # first row of an operation, final one of a run
        closes = Signal() if runs else 1
        if ways > 1:
            used, left = Signal.like(pending.lanes), Signal.like(pending.lanes)  # lanes of a row, those from this group on
        modes = {name: Signal(shape, name=name) for name, shape in modes_layout(config).items()}
        dots = ways_of(config, self.i_dots.p)
        last = dots[0].last
        ends = accepted & last & final
        m.d.comb += [
            accepted.eq(active & self.i_header.valid & self.i_dots.valid & (self.o.ready | ~self.o.valid)),
            self.i_dots.ready.eq(accepted),
            self.i_header.ready.eq(accepted & last),
            take.eq(loaded & ~active),
        ]
        for read in reads:
            m.d.comb += read.addr.eq(Cat(lane, bank))
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(accepted):
            m.d.sync += [self.o.valid.eq(1), lane.eq(lane + 1)]
            for way, (item, dot, read) in enumerate(zip(ways_of(config, self.o.p), dots, reads, strict=True)):
                m.d.sync += [
                    item.lane.eq(lane), item.dot.eq(dot.dot), item.last.eq(dot.last), item.query.eq(read.data.query),
                    item.visible.eq((row < read.data.limit) & (row >= read.data.start) if runs else row < read.data.limit),
                    item.key.eq(self.i_header.p.key), item.value.eq(self.i_header.p.value),
                    item.first.eq(first), item.final.eq(final & closes if runs else final),
                    *(item[name].eq(mode) for name, mode in modes.items()),
                ]
                if ways > 1:
                    m.d.sync += item.present.eq(way < left)
                    with m.If(way >= left):
                        m.d.sync += item.visible.eq(0)
            if ways > 1:
                m.d.sync += left.eq(Mux(last, used, left - ways))
            with m.If(last):
                m.d.sync += [lane.eq(0), row.eq(row + 1), first.eq(0), final.eq(row + 2 == rows)]
        with m.If(ends):
            m.d.sync += [row.eq(0), active.eq(0)]
        with m.If(take):
            m.d.sync += [active.eq(1), bank.eq(pending_bank), rows.eq(pending.rows), first.eq(pending.begins if runs else 1),
                         final.eq(pending.rows == 1)]
            if runs:
                m.d.sync += closes.eq(pending.ends)
            if ways > 1:
                m.d.sync += [used.eq(pending.lanes), left.eq(pending.lanes)]
            for name, mode in modes.items():
                m.d.sync += mode.eq(pending[name])
        return m
