"""Lookup lanes: double-buffered tables in distributed memory, and one pipelined adder tree per row and token."""

from amaranth.hdl import Cat, Module, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig
from .table import table_write
from .timing import TernaryTiming, entry_bits

__all__ = ["LookupLanes", "partial_sum_bits"]


def _width(low: int, high: int) -> int:
    """Bits of a two's-complement number that holds ``low .. high``."""
    return max(high.bit_length(), (-low - 1).bit_length()) + 1


def _leaf_range(config: AcceleratorConfig) -> tuple[int, int]:
    """A table entry or its one's complement."""
    magnitude = 127 * config.group_size
    return -magnitude - 1, magnitude


def partial_sum_bits(config: AcceleratorConfig) -> int:
    """Bits of the sum of one lane word's lookups before the last carry: leaves and ``tables - 1`` carries."""
    low, high = _leaf_range(config)
    return _width(low * config.tables, high * config.tables + config.tables - 1)


class LookupLanes(wiring.Component):
    """Table lookups and adder trees (TeLLMe, section 3.2: TLMM).

    Every row has a lookup per table and cycle, ``table_rows x tables`` in all, and every lookup serves all token
    lanes: their tables lie side by side in one memory. A memory holds two tables, of the K tile that is read and
    of the next one, so building overlaps reading. An index with its sign set means the negative of its entry: the
    lookup is complemented bit by bit, and the missing +1 of each of the T lookups is the carry input of one of the
    T - 1 adders of the tree; the last one leaves as ``carry``, for the accumulator's adder. So negation costs no adder::

        i_tables --> table memories -->(complement)--> + --> register --> + ... --> o
        i --> index register --^  signs -------------- carry -------- carry

    Parameters
    ----------
    config : AcceleratorConfig
        ``group_size``, ``tables``, ``table_rows`` and ``token_lanes`` matter here.

    Members
    -------
    i_tables : In(stream): as ``TableBuilder.o``
        Tables of K tile after K tile. Waits while both banks are full.
    i : In(stream): ``{indices: lane_bits, last}``
        Lane words: an index per row and table, row-major, lowest bits first. ``last`` on the last word of a K tile: its
        tables are free from the next cycle on. Waits for the tables of its K tile to be complete. A code word
        that ``code.encode`` never gives reads undefined (but driven) entries.
    o : Out(stream, always ready): ``{sums: (token_lanes * table_rows) x signed, carry: table_rows}``
        Token-major. The product of row ``r`` and token ``p`` is ``sums[p * table_rows + r] + carry[r]``.

    Attributes: ``latency`` from a word to its sums: an index register and one stage per adder-tree level (the lookup is
    in the first). ``interval`` 1: a word per cycle, also across tiles.
    """

    interval = 1

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        self.timing = TernaryTiming(config)
        self.latency = self.timing.levels + 1
        sums = data.ArrayLayout(signed(partial_sum_bits(config)), config.token_lanes * config.table_rows)
        super().__init__({
            "i_tables": In(stream.Signature(table_write(config))),
            "i": In(stream.Signature(data.StructLayout({"indices": config.lane_bits, "last": 1}))),
            "o": Out(stream.Signature(data.StructLayout({"sums": sums, "carry": config.table_rows}),
                                      always_ready=True)),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "LookupLanes":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        config = self.config
        rows, tables, tokens = config.table_rows, config.tables, config.token_lanes

        # Banks are written and read alternately: if any is full, it is the one to read; if any is free, the one to write.
        filled, write_bank, read_bank = Signal(2), Signal(), Signal()
        written, read = Signal(), Signal()
        m.d.comb += [
            self.i_tables.ready.eq(~filled.all()),
            written.eq(self.i_tables.valid & self.i_tables.ready),
            self.i.ready.eq(filled.any()),
            read.eq(self.i.valid & self.i.ready),
        ]
        with m.If(written & self.i_tables.p.last):
            m.d.sync += [filled.bit_select(write_bank, 1).eq(1), write_bank.eq(~write_bank)]
        with m.If(read & self.i.p.last):
            m.d.sync += [filled.bit_select(read_bank, 1).eq(0), read_bank.eq(~read_bank)]

        indices, bank, valid = Signal(config.lane_bits), Signal(), Signal()
        m.d.sync += [valid.eq(read), bank.eq(read_bank), indices.eq(self.i.p.indices)]

        lookups = [self._table(m, table, written, write_bank, indices, bank) for table in range(tables)]
        carries = []
        for row in range(rows):
            signs = [lookups[table][row][1] for table in range(tables)]
            delayed = self._delayed_signs(m, signs, row)
            carries.append(delayed[-1][0])
            for token in range(tokens):
                leaves = [lookups[table][row][0][token] for table in range(tables)]
                total = self._tree(m, leaves, delayed, f"row_{row}_token_{token}")
                m.d.comb += self.o.p.sums[token * rows + row].eq(total)
        m.d.comb += self.o.p.carry.eq(Cat(carries))
        for level in range(self.timing.levels):
            stage = Signal(name=f"valid_{level}")
            m.d.sync += stage.eq(valid)
            valid = stage
        m.d.comb += self.o.valid.eq(valid)
        return m

    def _table(self, m, table, written, write_bank, indices, bank):
        """Memory of one table; per row ``(complemented entries of all tokens, sign)``."""
        config, timing = self.config, self.timing
        width = entry_bits(config)
        slice_ = table // timing.builders
        builder = table % timing.builders
        if slice_ == timing.slices - 1:
            builder = table - (config.tables - timing.builders)
        m.submodules[f"table_{table}"] = memory = Memory(
            shape=width * config.token_lanes, depth=1 << config.index_bits, init=[])
        write = memory.write_port()
        m.d.comb += [
            write.en.eq(written & (self.i_tables.p.slice == slice_)),
            write.addr.eq(Cat(self.i_tables.p.entry, write_bank)),
            write.data.eq(Cat(self.i_tables.p.sums[token][builder] for token in range(config.token_lanes))),
        ]
        found = []
        for row in range(config.table_rows):
            index = indices.word_select(row * config.tables + table, config.index_bits)
            read = memory.read_port(domain="comb")
            m.d.comb += read.addr.eq(Cat(index[:-1], bank))
            found.append(([(read.data.word_select(token, width) ^ index[-1].replicate(width)).as_signed()
                           for token in range(config.token_lanes)], index[-1]))
        return found

    def _delayed_signs(self, m, signs, row):
        """Signs still to be added, per level: each adder of a level takes one from the front."""
        stages = [signs]
        nodes = len(signs)
        for level in range(self.timing.levels):
            taken = nodes // 2
            nodes -= taken
            left = []
            for position, sign in enumerate(stages[-1][taken:]):
                register = Signal(name=f"sign_{row}_{level}_{position}")
                m.d.sync += register.eq(sign)
                left.append(register)
            stages.append(left)
        return stages

    def _tree(self, m, leaves, signs, name):
        """Registered adder tree; a level's adders take their carries from the front of ``signs[level]``."""
        low, high = _leaf_range(self.config)
        nodes = [(leaf, low, high) for leaf in leaves]
        for level in range(self.timing.levels):
            sums = []
            for position in range(0, len(nodes), 2):
                (a, low, high), *rest = nodes[position:position + 2]
                value = a
                if rest:
                    ((b, low_b, high_b),) = rest
                    carry = signs[level][position // 2]
                    low, high = low + low_b, high + high_b + 1
                    value = (Cat(carry, a).as_signed() + Cat(carry, b).as_signed())[1:].as_signed()
                register = Signal(signed(_width(low, high)), name=f"{name}_{level}_{position // 2}")
                m.d.sync += register.eq(value)
                sums.append((register, low, high))
            nodes = sums
        return nodes[0][0]
