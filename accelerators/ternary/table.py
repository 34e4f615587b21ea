"""Builds the half tables of the ternary engine: all sums of a group of activations, one entry per cycle."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig
from .code import steps
from .timing import TernaryTiming, entry_bits

__all__ = ["TableBuilder", "table_write"]


def table_write(config: AcceleratorConfig) -> data.StructLayout:
    """One entry of ``builders`` tables, for every token lane; ``last`` ends the tables of a K tile."""
    timing = TernaryTiming(config)
    sums = data.ArrayLayout(data.ArrayLayout(signed(entry_bits(config)), timing.builders), config.token_lanes)
    return data.StructLayout({"slice": range(timing.slices), "entry": range(config.table_entries),
                              "sums": sums, "last": 1})


class TableBuilder(wiring.Component):
    """Table builder (TeLLMe, section 3.2: TLMM; half tables instead of full ones).

    A K tile has ``tables`` groups of ``group_size`` activations. Its tables are built in *slices* of ``builders``
    tables at a time; a builder is one adder and one register, because every entry is the previous one plus or minus
    one activation (``code.py``). All token lanes are built in step. ``builders`` is as many groups as can be
    loaded, one activation per cycle, in the time that a slice takes, so loading is always hidden::

        i --> shift register --> group registers --> select, negate --> + --+--> o
              (next slice)       (this slice)                           ^   |
                                                                        +---+ previous entry

    Parameters
    ----------
    config : AcceleratorConfig
        ``group_size``, ``tables`` and ``token_lanes`` matter here.

    Members
    -------
    i : In(stream): ``{x: token_lanes x signed(8)}``
        One activation of every token lane, in the order of the columns; -127..127.
    o : Out(stream): ``{slice, entry, sums: token_lanes x builders x signed, last}``
        ``sums[p][b]``: ``entry`` of the table that builder ``b`` builds in ``slice``: table ``slice * builders + b``,
        in the last slice ``tables - builders + b`` (builders below its first table give no table: ignore them).
        Entries in order, slices in order, ``last`` on the last entry of a tile.

    Attributes: ``latency``: from the last activation of the first slice to its entry 0. ``interval``: ``entries``
    cycles per slice, so ``slices * entries`` per tile. No activation is refused by value; -128 is not legal and may wrap.
    """

    interval = None

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        self.timing = TernaryTiming(config)
        self.latency = self.timing.builder_latency
        super().__init__({
            "i": In(stream.Signature(data.StructLayout({"x": data.ArrayLayout(signed(8), config.token_lanes)}))),
            "o": Out(stream.Signature(table_write(config))),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "TableBuilder":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        config, timing = self.config, self.timing
        group, builders = config.group_size, timing.builders
        last_entry = config.table_entries - 1

        # Load: the newest activation enters at the top, so a short last slice ends up in the top builders.
        waiting = Signal(data.ArrayLayout(data.ArrayLayout(signed(8), group * builders), config.token_lanes))
        loaded, take, enters = Signal(), Signal(), Signal()
        element, load_slice = Signal(range(group * builders)), Signal(range(timing.slices))
        last_element, complete = Signal(init=group * builders == 1), Signal()
        before_last = Signal(range(-1, group * builders))
        m.d.comb += [
            self.i.ready.eq(~loaded),
            enters.eq(self.i.valid & self.i.ready),
            complete.eq(enters & last_element),
            before_last.eq(Mux(load_slice == timing.slices - 1, group * (config.tables - builders * (timing.slices - 1)),
                               group * builders) - 2),
        ]
        with m.If(enters):
            m.d.sync += [element.eq(element + 1), last_element.eq(element == before_last)]
        with m.If(complete):
            m.d.sync += [element.eq(0), last_element.eq(last_element.init), load_slice.eq(load_slice + 1)]
            with m.If(load_slice == timing.slices - 1):
                m.d.sync += load_slice.eq(0)
        m.d.sync += loaded.eq(complete | (loaded & ~take))
        # Shifted in a cycle later, still before the groups are passed on: so the enable comes from a register.
        newest, shifts = Signal.like(self.i.p.x), Signal()
        m.d.sync += [newest.eq(self.i.p.x), shifts.eq(enters)]
        with m.If(shifts):
            for token in range(config.token_lanes):
                m.d.sync += waiting[token].as_value().eq(Cat(waiting[token].as_value()[8:], newest[token]))

        # Steps: what to add for an entry is decoded one step ahead, into registers.
        groups = Signal.like(waiting)
        running, entry, slice_ = Signal(), Signal(range(config.table_entries)), Signal(range(timing.slices))
        chosen, subtract, at_first, at_last = Signal(range(group)), Signal(), Signal(init=1), Signal()
        advance = Signal()
        m.d.comb += [
            advance.eq(~self.o.valid | self.o.ready),
            take.eq(loaded & advance & (~running | at_last)),
        ]
        with m.If(advance & running):
            m.d.sync += [entry.eq(entry + 1), at_first.eq(at_last), at_last.eq(entry == last_entry - 1)]
            with m.Switch(entry):
                for before, (which, sign) in enumerate(steps(group)):
                    with m.Case(before):
                        m.d.sync += [chosen.eq(which), subtract.eq(sign < 0)]
        with m.If(advance & at_last):
            m.d.sync += [running.eq(0), entry.eq(0), slice_.eq(slice_ + 1)]
            with m.If(slice_ == timing.slices - 1):
                m.d.sync += slice_.eq(0)
        # The groups are not needed for entry 0, so they may come a cycle late, and their enable from a register.
        taken = Signal()
        m.d.sync += taken.eq(take)
        with m.If(take):
            m.d.sync += running.eq(1)
        with m.If(taken):
            m.d.sync += groups.eq(waiting)

        # Sums: entry 0 is the zero sum, by the registers' reset, which is for nothing else. The carry into the lowest bit
        # completes a negation.
        starts, sums = Signal(), Signal.like(self.o.p.sums, reset_less=True)
        m.d.comb += [starts.eq(advance & at_first), self.o.p.sums.eq(sums)]
        with m.If(advance):
            m.d.sync += [
                self.o.valid.eq(running), self.o.p.entry.eq(entry), self.o.p.slice.eq(slice_),
                self.o.p.last.eq(at_last & (slice_ == timing.slices - 1)),
            ]
        for token in range(config.token_lanes):
            for builder in range(builders):
                operands = Array(groups[token][builder * group + i] for i in range(group))
                operand = Signal(signed(8), name=f"operand_{token}_{builder}")
                previous = sums[token][builder]
                total = Cat(subtract, previous).as_signed() + Cat(subtract, operand).as_signed()
                m.d.comb += operand.eq(operands[chosen] ^ subtract.replicate(8).as_signed())
                with m.If(advance):
                    m.d.sync += previous.eq(total[1:])
                with m.If(starts):
                    m.d.sync += previous.eq(0)
        return m
