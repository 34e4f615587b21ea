"""Addresses of K/V rows: a burst command per cycle."""

from collections.abc import Mapping

from amaranth.hdl import Module, ShapeLike, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..checks import check_int
from ..config import AcceleratorConfig
from ..memory.bursts import ADDRESS_BITS, BURST_COMMAND
from ..numerics.pipelined import unsigned_product
from ..pipeline import Pipeline
from ..streams import ROUND_TRIP, CreditQueue, connect

__all__ = ["HEAD_BITS", "RowAddresses", "check_rows", "row_address_layout", "row_command_layout"]

HEAD_BITS = 8
STAGES = 3


def check_rows(config: AcceleratorConfig, rows: int) -> None:
    """Refuse more rows than a burst command can name beats of."""
    check_int("rows", rows, 1, ((1 << BURST_COMMAND["beats"].width) - 1) // config.max_record_beats)


def row_address_layout(rows: int, passed: Mapping[str, ShapeLike]) -> data.StructLayout:
    """``count`` rows from ``position`` on, of K/V head ``head`` of the layer whose rows start at ``base``."""
    each = range(rows + 1)
    return data.StructLayout({"write": 1, "base": ADDRESS_BITS, "head": HEAD_BITS, "position": each, "count": each, **_passed(passed)})


def row_command_layout(passed: Mapping[str, ShapeLike]) -> data.StructLayout:
    """The command, whether it writes, and what came with the rows."""
    return data.StructLayout({"write": 1, **BURST_COMMAND.members, **_passed(passed)})


def _passed(fields: Mapping[str, ShapeLike]) -> dict[str, data.StructLayout]:
    return {"passed": data.StructLayout(dict(fields))} if fields else {}


class RowAddresses(wiring.Component):
    """Turns rows of a K/V head into burst commands, one per cycle: so addresses keep ahead of records of two beats.

    ::

        position * record_beats --+
        head * head_stride -------+--> + base --> queue --> o
        count * record_beats -----------> beats

    Parameters
    ----------
    config : AcceleratorConfig
        Of it: ``bus_bits``, ``kv_bits``, ``max_head_dim``.
    rows : int
        Most rows of a head; with the longest record they must take fewer than 2**24 beats.
    passed : mapping of str to shape-like
        Fields that go through with each command.

    Members
    -------
    i : In(stream of row_address_layout)
        ``base`` is a multiple of the bus word. Nothing is checked.
    o : Out(stream of row_command_layout)
        One for each, in order.
    record_beats : In(...), head_stride : In(32)
        See ``ContiguousCache``; read when rows are taken.

    Latency: 5 cycles. Interval: 1 cycle. Addresses are modulo 2**32.
    """

    latency = STAGES + CreditQueue.latency
    interval = 1

    def __init__(self, config: AcceleratorConfig, rows: int, passed: Mapping[str, ShapeLike] = {}):
        check_rows(config, rows)
        self.config, self.passed = config, passed
        super().__init__({
            "i": In(stream.Signature(row_address_layout(rows, passed))),
            "o": Out(stream.Signature(row_command_layout(passed))),
            "record_beats": In(range(config.max_record_beats + 1)),
            "head_stride": In(ADDRESS_BITS),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "RowAddresses":
        """Of a sequence, each with a number of 8 bits."""
        return cls(config, config.max_context, {"number": 8})

    def elaborate(self, platform):
        m = Module()
        word = (self.config.bus_bits // 8).bit_length() - 1
        rows = self.i.p
        pipeline = Pipeline(m)
        m.submodules.commands = commands = CreditQueue(self.o.p.shape(), STAGES + ROUND_TRIP)
        connect(m, commands.o, wiring.flipped(self.o))
        m.d.comb += [self.i.ready.eq(commands.credit), commands.spend.eq(self.i.valid & self.i.ready)]

        products = []
        for a, b in ((rows.position, self.record_beats), (rows.head, self.head_stride[word:]), (rows.count, self.record_beats)):
            product, latency = unsigned_product(pipeline, a, b)
            products.append(pipeline.register(product, STAGES - 1 - latency))
        base = pipeline.register(rows.base[word:], STAGES - 1)
        address = Signal(ADDRESS_BITS - word)
        m.d.sync += address.eq(base + products[0] + products[1])
        m.d.comb += [
            commands.i.valid.eq(pipeline.register(commands.spend, STAGES, reset=True)),
            commands.i.p.write.eq(pipeline.register(rows.write, STAGES)),
            commands.i.p.address.eq(address << word),
            commands.i.p.beats.eq(pipeline.register(products[2])),
        ]
        if self.passed:
            m.d.comb += commands.i.p.passed.eq(pipeline.register(rows.passed, STAGES))
        return m
