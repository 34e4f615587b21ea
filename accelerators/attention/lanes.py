"""Lane table: joins dot products with the scales and limits of their lanes and rows."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig
from .formats import HEADER, SCALE16, command_layout, dot_layout, lane_layout, modes_layout, score_layout

__all__ = ["LaneTable"]


class LaneTable(wiring.Component):
    """Completes each dot product: scale of the lane's query, K and V scales of the row, is it visible to the
    lane.

    The lanes of the next operation go into the other bank of the table while the rows of this one stream.

    Parameters
    ----------
    config : AcceleratorConfig
        ``query_lanes``, ``max_context``, ``max_head_dim`` and ``kv_bits`` matter.

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
    o : Out(stream of score_layout)

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
            "o": Out(stream.Signature(score_layout(config))),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "LaneTable":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        config = self.config
        lanes = range(max(config.query_lanes, 2))
        runs = config.attention_runs
        bounds = ("start", "limit") if runs else ("limit",)
        entry = data.StructLayout({"query": SCALE16, **dict.fromkeys(bounds, range(config.max_context + 1))})

        # Load.
        loading, loaded, take = Signal(), Signal(), Signal()
        pending, pending_bank, load_lane = Signal(command_layout(config)), Signal(), Signal(lanes)
        m.submodules.table = table = memory.Memory(shape=entry, depth=2 << len(load_lane), init=[])
        read, write = table.read_port(domain="comb"), table.write_port()
        scale = self.i_lane.p.scale
        m.d.comb += [
            self.i_command.ready.eq(~loading & ~loaded),
            self.i_lane.ready.eq(loading),
            write.addr.eq(Cat(load_lane, pending_bank)),
            write.data.query.mantissa.eq(scale.mantissa[8:]),
            write.data.query.exponent.eq(scale.exponent),
            write.data.limit.eq(self.i_lane.p.limit),
            write.en.eq(self.i_lane.valid & self.i_lane.ready),
        ]
        if runs:
            m.d.comb += write.data.start.eq(self.i_lane.p.start)
        with m.If(take):
            m.d.sync += loaded.eq(0)
        with m.If(self.i_command.valid & self.i_command.ready):
            m.d.sync += [pending.eq(self.i_command.p), pending_bank.eq(~pending_bank), loading.eq(1)]
        with m.If(write.en):
            m.d.sync += load_lane.eq(load_lane + 1)
            with m.If(load_lane == pending.lanes - 1):
                m.d.sync += [load_lane.eq(0), loading.eq(0), loaded.eq(1)]

        # Join.
        rows, active, bank = Signal.like(pending.rows), Signal(), Signal()
        row, lane = Signal(range(config.max_context)), Signal(lanes)
        accepted, first, final = Signal(), Signal(), Signal()  # first row of an operation, final one of a run
        closes = Signal() if runs else 1
        modes = {name: Signal(shape, name=name) for name, shape in modes_layout(config).items()}
        ends = accepted & self.i_dots.p.last & final
        item = self.o.p
        m.d.comb += [
            accepted.eq(active & self.i_header.valid & self.i_dots.valid & (self.o.ready | ~self.o.valid)),
            self.i_dots.ready.eq(accepted),
            self.i_header.ready.eq(accepted & self.i_dots.p.last),
            take.eq(loaded & ~active),
            read.addr.eq(Cat(lane, bank)),
        ]
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(accepted):
            m.d.sync += [
                self.o.valid.eq(1), lane.eq(lane + 1), item.lane.eq(lane),
                item.dot.eq(self.i_dots.p.dot), item.last.eq(self.i_dots.p.last),
                item.query.eq(read.data.query),
                item.visible.eq((row < read.data.limit) & (row >= read.data.start) if runs else row < read.data.limit),
                item.key.eq(self.i_header.p.key), item.value.eq(self.i_header.p.value),
                item.first.eq(first), item.final.eq(final & closes if runs else final),
            ]
            for name, mode in modes.items():
                m.d.sync += item[name].eq(mode)
            with m.If(self.i_dots.p.last):
                m.d.sync += [lane.eq(0), row.eq(row + 1), first.eq(0), final.eq(row + 2 == rows)]
        with m.If(ends):
            m.d.sync += [row.eq(0), active.eq(0)]
        with m.If(take):
            m.d.sync += [active.eq(1), bank.eq(pending_bank), rows.eq(pending.rows), first.eq(pending.begins if runs else 1),
                         final.eq(pending.rows == 1)]
            if runs:
                m.d.sync += closes.eq(pending.ends)
            for name, mode in modes.items():
                m.d.sync += mode.eq(pending[name])
        return m
