"""Accumulators of the ternary engine: partial sums of K tiles are added up in memory, row group by row group."""

from amaranth.hdl import Cat, Module, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig
from .lanes import partial_sum_bits
from .timing import HAZARD

__all__ = ["Accumulators", "sums_layout"]


def sums_layout(config: AcceleratorConfig) -> data.StructLayout:
    """Sums of one row group, token-major; ``last`` on the last row group of a matrix."""
    lanes = config.token_lanes * config.table_rows
    return data.StructLayout({"sums": data.ArrayLayout(signed(config.sum_bits), lanes), "last": 1})


class Accumulators(wiring.Component):
    """Accumulation over K tiles (TeLLMe, section 3.2), a row group of all token lanes per cycle.

    The pipeline is: register, read, register, add, write. The first tile of a block writes without what was read (memory
    needs no clearing), the last tile emits instead of writing.

    Parameters
    ----------
    config : AcceleratorConfig
        ``max_block_rows``, ``table_rows``, ``token_lanes`` and ``max_vector`` (width of the sums) matter here.

    Members
    -------
    i : In(stream, always ready): ``{sums, carry, row, first, emit, last}``
        ``sums`` and ``carry`` as they leave ``LookupLanes``; ``row``: row group within the block; ``first``: first K tile;
        ``emit``: last K tile; ``last``: passed on with an emitted row group. A row group that is read (not ``first``)
        must have been written at least 4 cycles (``timing.HAZARD``) before: else it reads the value before that.
    o : Out(stream, always ready): ``{sums: (token_lanes * table_rows) x signed(sum_bits), last}``

    Attributes: ``latency`` 4 cycles, ``interval`` 1. Sums are exact: ``sum_bits`` holds ``max_vector`` products.
    """

    latency = HAZARD
    interval = 1

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        self.depth = config.max_block_rows // config.table_rows
        lanes = config.token_lanes * config.table_rows
        super().__init__({
            "i": In(stream.Signature(data.StructLayout({
                "sums": data.ArrayLayout(signed(partial_sum_bits(config)), lanes), "carry": config.table_rows,
                "row": range(self.depth), "first": 1, "emit": 1, "last": 1}), always_ready=True)),
            "o": Out(stream.Signature(sums_layout(config), always_ready=True)),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "Accumulators":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        config = self.config
        lanes = config.token_lanes * config.table_rows
        m.submodules.memory = memory = Memory(
            shape=data.ArrayLayout(signed(config.sum_bits), lanes), depth=self.depth, init=[])
        read, write = memory.read_port(), memory.write_port()

        items, valid = [self.i.p], [self.i.valid]
        for stage in range(HAZARD - 1):
            items.append(Signal.like(self.i.p, name=f"item_{stage}"))
            valid.append(Signal(name=f"valid_{stage}"))
            m.d.sync += [items[-1].eq(items[-2]), valid[-1].eq(valid[-2])]
        reading, adding = items[1], items[-1]
        write_apart, write_valid = Signal.like(reading.row), Signal()
        sums = Signal(data.ArrayLayout(signed(config.sum_bits), lanes))
        m.d.comb += [
            # Never both at one row in a legal stream. Saying so spares the bypass that Yosys would add. The row that is written
            # is kept as a difference from the row that is read, because that is quicker to compare.
            read.en.eq(~(write.en & (write_apart == 0))),
            read.addr.eq(reading.row),
            write.en.eq(write_valid),
            write.addr.eq(reading.row ^ write_apart),
            write.data.eq(sums),
            self.o.p.sums.eq(sums),
        ]
        m.d.sync += [
            write_apart.eq(self.i.p.row ^ adding.row),
            write_valid.eq(valid[-1] & ~adding.emit),
            self.o.valid.eq(valid[-1] & adding.emit),
            self.o.p.last.eq(adding.last),
        ]
        for lane in range(lanes):
            # A register without reset, with nothing between it and the memory, can be the block memory's own.
            previous = Signal(signed(config.sum_bits), name=f"previous_{lane}", reset_less=True)
            kept = previous & (~adding.first).replicate(config.sum_bits).as_signed()
            carry = adding.carry[lane % config.table_rows]
            total = Cat(carry, kept).as_signed() + Cat(carry, adding.sums[lane]).as_signed()
            m.d.sync += [previous.eq(read.data[lane]), sums[lane].eq(total[1:])]
        return m
