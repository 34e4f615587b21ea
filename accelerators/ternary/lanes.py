"""Lookup lanes: double-buffered tables in distributed memory, and one pipelined adder tree per row and token."""

from amaranth.hdl import Cat, Module, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig
from .table import table_write
from .timing import TernaryTiming, entry_bits
from .tree import SignedTree, delayed, tree_sum_bits

__all__ = ["LookupLanes", "lane_ports", "partial_sum_bits"]


def partial_sum_bits(config: AcceleratorConfig) -> int:
    """Bits of the sum of one lane word's lookups, before the last carry."""
    return tree_sum_bits(config.tables, 127 * config.group_size)


def lane_ports(config: AcceleratorConfig, sum_bits: int) -> dict[str, wiring.Member]:
    """``i`` and ``o`` of lanes: words of trit groups in, a sum of ``sum_bits`` per token and row and a carry per row out."""
    sums = data.ArrayLayout(signed(sum_bits), config.token_lanes * config.table_rows)
    return {
        "i": In(stream.Signature(data.StructLayout({"indices": config.lane_bits, "last": 1}))),
        "o": Out(stream.Signature(data.StructLayout({"sums": sums, "carry": config.table_rows}), always_ready=True)),
    }


class LookupLanes(wiring.Component):
    """Table lookups and adder trees (TeLLMe, section 3.2: TLMM).

    Every row has a lookup per table and cycle, ``table_rows x tables`` in all, and every lookup serves all token
    lanes: their tables lie side by side in one memory. A memory holds two tables, of the K tile that is read and
    of the next one, so building overlaps reading. An index with its sign set means the negative of its entry, which
    costs no adder (``tree.py``): the +1 that completes the last negation leaves as ``carry``, for the accumulator's adder::

        i_tables --> table memories --> lookup register --> adder tree --> o.sums
        i --> index register --^  signs --> sign registers ---^ carries -> o.carry

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

    Attributes: ``latency`` from a word to its sums: an index register, a lookup register and one stage per adder-tree
    level. ``interval`` 1: a word per cycle, also across tiles.
    """

    interval = 1

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        self.timing = TernaryTiming(config)
        self.latency = self.timing.lookup
        super().__init__({
            "i_tables": In(stream.Signature(table_write(config))),
            **lane_ports(config, partial_sum_bits(config)),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "LookupLanes":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        config = self.config
        rows, tables, tokens = config.table_rows, config.tables, config.token_lanes

        # Banks are written and read alternately: if any is full, it is the one to read; if any is free, the one to write. How
        # many are full is counted in ones, so both answers are registers.
        any_full, all_full, write_bank, read_bank = Signal(), Signal(), Signal(), Signal()
        written, read, fills, frees = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            self.i_tables.ready.eq(~all_full),
            written.eq(self.i_tables.valid & self.i_tables.ready),
            fills.eq(written & self.i_tables.p.last),
            self.i.ready.eq(any_full),
            read.eq(self.i.valid & self.i.ready),
            frees.eq(read & self.i.p.last),
        ]
        m.d.sync += [write_bank.eq(write_bank ^ fills), read_bank.eq(read_bank ^ frees)]
        with m.If(fills & ~frees):
            m.d.sync += [any_full.eq(1), all_full.eq(any_full)]
        with m.Elif(frees & ~fills):
            m.d.sync += [any_full.eq(all_full), all_full.eq(0)]

        # An entry is written a cycle after it was taken: before any word that may read it, which has to be registered too.
        entry = delayed(m, Cat(self.i_tables.p.entry, write_bank), "entry")
        sums = Signal.like(self.i_tables.p.sums)
        m.d.sync += sums.eq(self.i_tables.p.sums)
        writes = [delayed(m, written & (self.i_tables.p.slice == slice_), f"writes_{slice_}")
                  for slice_ in range(self.timing.slices)]

        indices, bank, valid = Signal(config.lane_bits), Signal(), Signal()
        m.d.sync += [valid.eq(read), bank.eq(read_bank), indices.eq(self.i.p.indices)]

        lookups = [self._table(m, table, writes, entry, sums, Cat(indices, bank)) for table in range(tables)]
        for row in range(rows):
            signs = [indices.word_select(row * tables + table, config.index_bits)[-1] for table in range(tables)]
            tree = SignedTree(m, signs, f"row_{row}")
            m.d.comb += self.o.p.carry[row].eq(tree.carry)
            for token in range(tokens):
                entries = [lookups[table][row][token] for table in range(tables)]
                m.d.comb += self.o.p.sums[token * rows + row].eq(
                    tree.sum(entries, 127 * config.group_size, f"row_{row}_token_{token}"))
        for stage in range(self.latency - 1):
            valid = delayed(m, valid, f"valid_{stage}")
        m.d.comb += self.o.valid.eq(valid)
        return m

    def _table(self, m, table, writes, entry, sums, word):
        """Memory of one table; per row the registered entries of all tokens. ``word``: a lane word, and the bank on top."""
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
            write.en.eq(writes[slice_]),
            write.addr.eq(entry),
            write.data.eq(Cat(sums[token][builder] for token in range(config.token_lanes))),
        ]
        found = []
        for row in range(config.table_rows):
            index = word.word_select(row * config.tables + table, config.index_bits)
            read = memory.read_port(domain="comb")
            entries = Signal(data.ArrayLayout(signed(width), config.token_lanes), name=f"entries_{row}_{table}")
            m.d.comb += read.addr.eq(Cat(index[:-1], word[-1]))
            m.d.sync += entries.eq(read.data)
            found.append(entries)
        return found
