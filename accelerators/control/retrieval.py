"""What the front end does for MEANS and RETRIEVE: reads of rows and of their means, the list of blocks, and the rows that an ATTEND
reads of it."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, ValueLike, signed
from amaranth.lib import data, memory, wiring

from ..cache.contiguous import ContiguousCache
from ..cache.retrieval import block_rows
from ..config import POSITION_BITS, AcceleratorConfig
from ..streams import StreamBuffer
from .isa import Opcode
from .rows import RowReads, read_rows, rows_layout

__all__ = ["BlockLists", "list_layout", "scored_blocks"]


def list_layout(config: AcceleratorConfig) -> data.StructLayout:
    """Number of a block of a list, in rising order; ``last`` on the last one."""
    return data.StructLayout({"index": range(block_rows(config)), "last": 1})


def scored_blocks(m: Module, config: AcceleratorConfig, position: ValueLike, latest: ValueLike) -> Signal:
    """Blocks before the ``latest`` positions of the token at ``position``; a register late."""
    before, found = Signal(signed(POSITION_BITS + 1)), Signal(range(block_rows(config) + 1), name="scored_blocks")
    m.d.sync += before.eq(position + 1 - latest)
    m.d.comb += found.eq(Mux(before < 0, 0, before >> config.block_size.bit_length() - 1))
    return found


class BlockLists:
    """The part of the front end that knows blocks.

    The list of a RETRIEVE is kept as runs of blocks that follow each other: each of them is a read, and so are the positions behind the
    blocks that were scored. The front end waits for the list; what it has queued before is done meanwhile.

    Parameters
    ----------
    m : Module
    config : AcceleratorConfig
    op : View
        The instruction at hand.
    position, count : Value
        Position of the chunk, its tokens.

    Members
    -------
    refused : Value
        In the state after the instruction was decoded: a RETRIEVE with fields out of their ranges, or an ATTEND that sees a list where
        there is none.
    """

    def __init__(self, m: Module, config: AcceleratorConfig, op: data.View, position: ValueLike, count: ValueLike):
        self.m, self.config, self.op = m, config, op
        self._shift = config.block_size.bit_length() - 1
        blocks, rows = range(block_rows(config) + 1), range(config.max_context + 1)
        self._listed, self._sees = Signal(name="blocks_listed"), Signal(name="sees_list")
        # Blocks before the positions that an ATTEND sees beside the list; runs of the list, the one at hand.
        self._before, self._runs, self._run = (Signal(blocks, name=f"list_{name}") for name in ("before", "runs", "run"))
        self._first, self._rows = (Signal(rows, name=f"completed_{name}") for name in ("first", "rows"))
        m.submodules.list_runs = runs = Module()
        runs.submodules.memory = self._memory = memory.Memory(shape=data.StructLayout({"block": blocks, "blocks": blocks}),
                                                              depth=block_rows(config), init=[])
        self._position, self._count = Signal(rows, name="asked_position"), Signal(rows, name="asked_count")
        whole = (position + count)[self._shift:] - position[self._shift:]
        self._scored = scored_blocks(m, config, position, op.other)
        m.d.sync += [self._first.eq(Cat(Const(0, self._shift), position[self._shift:])), self._rows.eq(whole << self._shift),
                     self._sees.eq(op.other != 0)]
        self.refused = (((op.opcode == Opcode.RETRIEVE) & ((op.rows == 0) | (op.other == 0)))
                        | ((op.opcode == Opcode.ATTEND) & (op.other != 0) & ~self._listed))

    def request(self, cache: ContiguousCache) -> None:
        """What the controller is asked for."""
        self.m.d.comb += [cache.i_request.p.position.eq(self._position), cache.i_request.p.count.eq(self._count)]

    def _ask(self, position: ValueLike, count: ValueLike) -> list:
        return [self._position.eq(position), self._count.eq(count)]

    def issued(self) -> None:
        """In the state after the instruction was decoded: whether there is something to do is known a state later."""
        with self.m.If((self.op.opcode == Opcode.MEANS) | (self.op.opcode == Opcode.RETRIEVE)):
            self.m.next = "BLOCKS"

    def pushed(self) -> None:
        """In a state: the instruction goes to the executor. A list is for what follows before the next matrix."""
        with self.m.If((self.op.opcode == Opcode.LINEAR) | (self.op.opcode == Opcode.END)):
            self.m.d.sync += self._listed.eq(0)

    def states(self, x: RowReads, cache: ContiguousCache, push_append: Signal) -> None:
        """BLOCKS; MEANS and SCORES, the reads of both operations; LIST_BLOCKS, and the rows of ATTEND. ``push_append``: what is read
        from now on waits for the MEANS."""
        m, op = self.m, self.op
        with m.State("BLOCKS"):
            m.next = "DECODE"
            with m.If(op.opcode == Opcode.MEANS):
                with m.If(self._rows != 0):
                    m.next = "PUSH"
            with m.Else():
                m.d.sync += [self._listed.eq(1), self._before.eq(0), self._runs.eq(0)]
                with m.If(self._scored > op.rows):
                    m.d.sync += self._before.eq(self._scored)
                    m.next = "PUSH"

        def next_means() -> None:
            m.d.sync += x.head.eq(x.head + 1)
            m.next = "MEANS"
            with m.If(x.head + 1 == x.heads):
                m.d.comb += push_append.eq(1)
                m.next = "DECODE"

        def next_tile() -> None:
            m.d.sync += x.first.eq(x.tile_end)
            m.next = "SCORES"
            with m.If(x.tile_end == x.count):
                m.d.sync += [x.first.eq(0), x.head.eq(x.head + 1)]
                with m.If(x.head + 1 == x.heads):
                    m.next = "LIST_BLOCKS"
        read_rows(x, cache, "MEANS", next_means, asks=self._ask(self._first, self._rows))
        read_rows(x, cache, "SCORES", next_tile, asks=self._ask(0, self._before))
        self._list(x)
        self._listed_rows(x, cache)

    def _list(self, x: RowReads) -> None:
        """Blocks that follow each other become one run."""
        m, listed, write = self.m, x.frontend.i_blocks, self._memory.write_port()
        run, joins = Signal(write.data.shape()), Signal()
        m.d.comb += [
            joins.eq((self._runs != 0) & (listed.p.index == run.block + run.blocks)), write.addr.eq(self._runs - joins),
            write.data.block.eq(Mux(joins, run.block, listed.p.index)), write.data.blocks.eq(Mux(joins, run.blocks + 1, 1)),
        ]
        with m.State("LIST_BLOCKS"):
            m.d.comb += [listed.ready.eq(1), write.en.eq(listed.valid)]
            with m.If(listed.valid):
                m.d.sync += [run.eq(write.data), self._runs.eq(self._runs + ~joins)]
                with m.If(listed.p.last):
                    m.next = "DECODE"

    def _listed_rows(self, x: RowReads, cache: ContiguousCache) -> None:
        """Run after run of the list, then all behind it up to the tile's last token, or all positions up to there. Every run is a read,
        and an item of ``o_rows``."""
        m, shift, run, read = self.m, self._shift, self._run, self._memory.read_port()
        position, rows, last = Signal.like(x.position), Signal(range(self.config.max_context + 1)), Signal()
        m.submodules.rows = items = StreamBuffer(rows_layout(self.config))
        wiring.connect(m, items.o, wiring.flipped(x.frontend.o_rows))
        m.d.comb += [
            read.addr.eq(run), items.i.p.position.eq(position), items.i.p.rows.eq(rows), items.i.p.tokens.eq(x.tile_end - x.first),
            items.i.p.begins.eq(run == 0), items.i.p.ends.eq(last),
        ]
        with m.State("TILE"):
            m.next = "ROWS"
        with m.State("ROWS"):
            m.d.sync += run.eq(0)
            m.next = "RUN"
        with m.State("RUN"):  # the memory answers
            m.next = "RUN_ROWS"
        with m.State("RUN_ROWS"):
            begin = Mux(self._sees, self._before << shift, 0)
            m.d.sync += [last.eq(1), position.eq(begin), rows.eq(x.position + x.tile_end - begin)]
            with m.If(self._sees & (run != self._runs)):
                m.d.sync += [last.eq(0), position.eq(read.data.block << shift), rows.eq(read.data.blocks << shift)]
            m.next = "RUN_READ"

        def next_run() -> None:
            m.d.sync += run.eq(run + 1)
            m.next = "RUN"
            with m.If(last):
                x.next_tile()
        read_rows(x, cache, "RUN_READ", next_run, items=items.i, asks=self._ask(position, rows))
