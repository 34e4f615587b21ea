"""The control of the area comparison: the work of table builder and lookup lanes by direct selection of activations."""

from amaranth.hdl import Cat, Module, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In

from ..config import AcceleratorConfig
from .code import entries
from .lanes import lane_ports
from .tree import SignedTree, delayed, tree_levels, tree_sum_bits

__all__ = ["DirectLanes"]


class DirectLanes(wiring.Component):
    """Ternary products without tables: every trit selects ``+x``, ``-x`` or 0, and a tree adds all of them.

    It takes the activations that ``TableBuilder`` takes and the lane words that ``LookupLanes`` takes, and does as many
    multiplications per cycle, so the area of the two beside that of this unit is what the tables save. It is built
    with the same care: a term is a register that is cleared where the trit is 0, which takes no LUT, and the signs are
    left to the adders (``tree.py``). No part of the engine::

        i_activations --> shift register --> tile registers --> term registers, cleared by 0 --> adder tree --> o.sums
                          (next tile)        (this tile)                  ^                          ^
        i --> decode --> trit registers --> not 0? -----------------------+  signs, carries ---------+ -------> o.carry

    Parameters
    ----------
    config : AcceleratorConfig
        ``group_size``, ``tables``, ``table_rows`` and ``token_lanes`` matter here.

    Members
    -------
    i_activations : In(stream): ``{x: token_lanes x signed(8)}``
        One activation of every token lane, in the order of the columns; -127..127. The next K tile is taken while this
        one is used.
    i : In(stream): ``{indices: lane_bits, last}``
        Lane words as for ``LookupLanes``; ``last`` on the last word of a K tile. Waits for the activations of its K tile.
        A code word that ``code.encode`` never gives acts as some legal one.
    o : Out(stream, always ready): ``{sums: (token_lanes * table_rows) x signed, carry: table_rows}``
        As of ``LookupLanes``.

    Attributes: ``latency`` from a word to its sums: a trit register, a term register and one stage per adder-tree
    level. ``interval`` 1: a word per cycle, also across tiles that have more words than activations.
    """

    interval = 1

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        self.latency = 2 + tree_levels(config.tile_activations)
        super().__init__({
            "i_activations": In(stream.Signature(data.StructLayout({"x": data.ArrayLayout(signed(8), config.token_lanes)}))),
            **lane_ports(config, tree_sum_bits(config.tile_activations, 127)),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "DirectLanes":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        config = self.config
        columns, tokens, rows = config.tile_activations, config.token_lanes, config.table_rows
        tile = data.ArrayLayout(data.ArrayLayout(signed(8), columns), tokens)

        # Activations: a tile is used from the cycle after it was copied; its successor is loaded meanwhile.
        waiting, present = Signal(tile), Signal(tile)
        column, loaded, active, copies = Signal(range(columns)), Signal(), Signal(), Signal()
        enters, read, swaps = Signal(), Signal(), Signal()
        m.d.comb += [
            self.i_activations.ready.eq(~loaded),
            enters.eq(self.i_activations.valid & ~loaded),
            self.i.ready.eq(active),
            read.eq(self.i.valid & active),
            swaps.eq(loaded & (~active | (read & self.i.p.last))),
        ]
        m.d.sync += copies.eq(swaps)
        with m.If(enters):
            m.d.sync += column.eq(column + 1)
            with m.If(column == columns - 1):
                m.d.sync += [column.eq(0), loaded.eq(1)]
            for token in range(tokens):
                m.d.sync += waiting[token].as_value().eq(Cat(waiting[token].as_value()[8:], self.i_activations.p.x[token]))
        with m.If(swaps):
            m.d.sync += [active.eq(1), loaded.eq(0)]
        with m.Elif(read & self.i.p.last):
            m.d.sync += active.eq(0)
        with m.If(copies):
            m.d.sync += present.eq(waiting)

        for row in range(rows):
            trits = [trit for table in range(config.tables) for trit in self._trits(m, row, table)]
            tree = SignedTree(m, [negative for _, negative in trits], f"row_{row}")
            m.d.comb += self.o.p.carry[row].eq(tree.carry)
            for token in range(tokens):
                terms = []
                for position, (something, _) in enumerate(trits):
                    term = Signal(signed(8), name=f"term_{row}_{token}_{position}")
                    m.d.sync += term.eq(present[token][position])
                    with m.If(~something):
                        m.d.sync += term.eq(0)
                    terms.append(term)
                m.d.comb += self.o.p.sums[token * rows + row].eq(tree.sum(terms, 127, f"row_{row}_token_{token}"))
        valid = read
        for stage in range(self.latency):
            valid = delayed(m, valid, f"valid_{stage}")
        m.d.comb += self.o.valid.eq(valid)
        return m

    def _trits(self, m, row, table):
        """Registered ``(is not 0, is -1)`` of the trits of one group."""
        config = self.config
        index = self.i.p.indices.word_select(row * config.tables + table, config.index_bits)
        trits = [(Signal(name=f"something_{row}_{table}_{n}"), Signal(name=f"negative_{row}_{table}_{n}"))
                 for n in range(config.group_size)]
        with m.Switch(index[:-1]):
            for entry, group in enumerate(entries(config.group_size)):
                with m.Case(entry):
                    for (something, negative), trit in zip(trits, group, strict=True):
                        m.d.sync += [something.eq(trit != 0), negative.eq(index[-1] ^ (trit < 0))]
        return trits
