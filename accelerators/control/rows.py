"""What the front end does for ATTEND: it asks the controller of the KV cache for rows, tile after tile of tokens, head after head, as
states of its main machine. One function per controller."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value, ValueLike
from amaranth.lib import data, wiring

from ..cache.contiguous import ContiguousCache
from ..cache.paged import PagedCache
from ..cache.swap import SwapController
from ..cache.window import WindowCache
from ..config import POSITION_BITS, AcceleratorConfig
from ..streams import StreamBuffer
from .batch import Batch
from .errors import ErrorCause
from .isa import RANGE_UNIT

__all__ = ["RowReads", "contiguous_rows", "evict_rows", "paged_rows", "read_rows", "rows_layout", "window_rows"]


def rows_layout(config: AcceleratorConfig) -> data.StructLayout:
    """A run of rows that attention reads for a tile of ``tokens``: ``rows`` of them, of the positions from ``position`` on; ``sinks``
    if the queries for the sinks belong to it. It ``begins`` and ``ends`` the rows of the tile. Where a tile may have several sequences,
    the tile's tokens ``first_token`` up to the one before ``tokens_end`` may see it, others see nothing of it."""
    tokens = range(config.token_lanes + 1)
    who = {"first_token": tokens, "tokens_end": tokens} if config.cache == "paged" else {}
    return data.StructLayout({"position": POSITION_BITS, "rows": range(config.max_context + 1), "tokens": tokens,
                              "sinks": 1, "begins": 1, "ends": 1, **who})


@dataclass
class RowReads:
    """Signals of the front end that the states use.

    Parameters
    ----------
    m : Module
    frontend : component
        Its inputs ``kv_*``; ``o_rows``, where the controller makes runs.
    heads : Value
        KV heads of the operation at hand.
    reads : stream {address, beats, fenced}
        Where reads go.
    position, count, head, first, tile_end : Signal
        Position of the chunk (where it has one), its tokens; KV head, tile of tokens.
    length : Signal
        Position of the next token: what an error speaks of.
    fail : callable (cause, when, info)
    seen : pair of Values, or None
        Where operations see a range of positions: ``first`` and ``end`` of the operation at hand.
    """

    m: Module
    frontend: wiring.Component
    config: AcceleratorConfig
    heads: ValueLike
    reads: wiring.PureInterface
    position: Signal
    count: Signal
    head: Signal
    first: Signal
    tile_end: Signal
    length: Signal
    fail: Callable[[ErrorCause, ValueLike, ValueLike], None]
    seen: tuple[Value, Value] | None = None

    def next_tile(self) -> None:
        """In a state: go on to the next tile of tokens, of the next head behind the last one, or to the next operation."""
        m = self.m
        m.next = "TILE"
        with m.If(self.tile_end == self.count):
            m.d.sync += [self.first.eq(0), self.head.eq(self.head + 1)]
            with m.If(self.head + 1 == self.heads):
                m.next = "DECODE"
        with m.Else():
            m.d.sync += self.first.eq(self.tile_end)


def contiguous_rows(x: RowReads, cache: ContiguousCache) -> None:
    """All positions up to the tile's last token, in one read."""
    with x.m.State("TILE"):
        x.m.next = "ROWS"
    read_rows(x, cache, "ROWS", x.next_tile)


def evict_rows(x: RowReads, cache: ContiguousCache) -> None:
    """All rows that there are when the tile's last token has been appended, in one read; their number is a register later."""
    with x.m.State("TILE"):
        x.m.next = "TILE_ROWS"
    with x.m.State("TILE_ROWS"):
        x.m.next = "ROWS"
    read_rows(x, cache, "ROWS", x.next_tile)


def read_rows(x: RowReads, cache: ContiguousCache, state: str, then: Callable[[], object], items: wiring.PureInterface | None = None,
              asks: Iterable[Any] = ()) -> None:
    """States that make one read: ``state``, which asks the controller for what ``asks`` says, and one that passes its answer on, beside
    an item where there are ``items``. Then what ``then`` does."""
    m, read, reads = x.m, cache.o_read, x.reads
    with m.State(state):
        m.d.comb += [cache.i_request.valid.eq(1), *asks]
        with m.If(cache.i_request.ready):
            m.next = f"{state}_COMMAND"
    with m.State(f"{state}_COMMAND"):
        valid, ready = (read.valid, reads.ready) if items is None else (read.valid & items.ready, reads.ready & items.ready)
        m.d.comb += [reads.valid.eq(valid), read.ready.eq(ready), reads.p.fenced.eq(1),
                     reads.p.address.eq(read.p.address), reads.p.beats.eq(read.p.beats)]
        if items is not None:
            m.d.comb += items.valid.eq(read.valid & reads.ready)
        x.fail(ErrorCause.CACHE_FULL, cache.error & ~(reads.valid & reads.ready), x.length)
        with m.If(reads.valid & reads.ready):
            then()


def window_rows(x: RowReads, cache: WindowCache) -> None:
    """The sinks, then the latest ``kv_window`` positions of the tile's first token up to its last one. Every run of slots is a read,
    and an item of ``o_rows``. Of a range that has none of them the row of the last token is read, which no lane sees."""
    m, frontend = x.m, x.frontend
    # Two registers late: two states lie between a change and its use.
    end, lowest = Signal(POSITION_BITS + 1), Signal(POSITION_BITS)
    sinks, recent, position = Signal(POSITION_BITS), Signal(POSITION_BITS), Signal(POSITION_BITS)
    begin = x.position + x.first + 1
    beyond, oldest = x.position + x.tile_end, Mux(begin > frontend.kv_window, begin - frontend.kv_window, 0)
    ring = Signal()
    if x.seen is None:
        m.d.comb += [end.eq(beyond), lowest.eq(oldest)]
        m.d.sync += [sinks.eq(Mux(end < frontend.kv_sinks, end, frontend.kv_sinks)),
                     position.eq(Mux(lowest > frontend.kv_sinks, lowest, frontend.kv_sinks))]
        m.d.comb += recent.eq(Mux(end > position, end - position, 0))
        m.d.comb += [cache.i_request.p.position.eq(Mux(ring, position, 0)), cache.i_request.p.count.eq(Mux(ring, recent, sinks))]
    else:
        first, stop = (value * RANGE_UNIT for value in x.seen)
        sink, sinks_end, from_, none = Signal.like(position), Signal.like(position), Signal.like(position), Signal()
        m.d.comb += [lowest.eq(oldest), end.eq(Mux((stop != 0) & (stop < beyond), stop, beyond)),
                     sinks_end.eq(Mux(end < frontend.kv_sinks, end, frontend.kv_sinks)),
                     from_.eq(Mux(lowest > first, lowest, first))]
        m.d.sync += [sink.eq(first), sinks.eq(Mux(sinks_end > first, sinks_end - first, 0)),
                     position.eq(Mux(from_ > frontend.kv_sinks, from_, frontend.kv_sinks))]
        m.d.comb += [recent.eq(Mux(end > position, end - position, 0)), none.eq((sinks == 0) & (recent == 0)),
                     cache.i_request.p.position.eq(Mux(none, beyond - 1, Mux(ring, position, sink))),
                     cache.i_request.p.count.eq(Mux(none, 1, Mux(ring, recent, sinks)))]
    with m.State("TILE"):
        m.next = "TILE_ROWS"
    with m.State("TILE_ROWS"):
        m.next = "ROWS"
    with m.State("ROWS"):
        m.d.sync += ring.eq(sinks == 0)
        m.next = "ROWS_REQUEST"

    def to_ring() -> None:
        m.d.sync += ring.eq(1)
        m.next = "ROWS_REQUEST"
    _runs(x, cache, sinks=~ring, complete=ring | (recent == 0), then=to_ring)


def paged_rows(x: RowReads, cache: PagedCache | SwapController, batch: Batch) -> None:
    """Part after part of the tile: what all its sequences have in common, if it has several, then of each the other positions up to its
    last token. Every run of blocks is a read, and an item of ``o_rows``.

    So a row of a common prefix is read once for a tile (Hydragen, arXiv:2402.05099), before those that one sequence has alone. Lanes
    keep maximum, sum and weighted sums from run to run: there is nothing to merge, and every lane sees its rows in the order of their
    positions, as if its sequence were alone."""
    m = x.m
    common, part, sequence = Signal(), Signal.like(x.first), Signal(range(x.config.sequences))
    part_end = Signal.like(x.tile_end)
    begin, beyond, position, count = (Signal.like(cache.i_request.p.position, name=name)
                                      for name in ("part_begin", "part_beyond", "part_position", "part_count"))
    prefix, last = batch.prefixes[x.first], Signal()
    shared = (prefix != 0) & (x.tile_end > batch.ends[x.first])
    # Two registers late: two states lie between a change of the part and its use.
    m.d.sync += [
        sequence.eq(batch.sequences[part]), part_end.eq(Mux(batch.ends[part] < x.tile_end, batch.ends[part], x.tile_end)),
        begin.eq(Mux(shared & ~common, prefix, 0)), beyond.eq(Mux(common, prefix, batch.positions[part] - part)),
        position.eq(begin), count.eq(beyond + Mux(common, 0, part_end) - begin), last.eq(~common & (part_end == x.tile_end)),
    ]

    def next_part() -> None:
        m.d.sync += common.eq(0)
        with m.If(~common):
            m.d.sync += part.eq(part_end)
        m.next = "PART"

    with m.State("TILE"):
        m.next = "ROWS"
    with m.State("ROWS"):
        m.d.sync += [part.eq(x.first), common.eq(shared)]
        m.next = "PART"
    with m.State("PART"):
        m.next = "PART_ROWS"
    with m.State("PART_ROWS"):
        m.next = "ROWS_REQUEST"
    # For all states that ask for nothing else.
    m.d.comb += [cache.i_request.p.sequence.eq(sequence), cache.i_request.p.position.eq(position), cache.i_request.p.count.eq(count)]
    run = _runs(x, cache, sinks=0, complete=last, then=next_part)
    m.d.comb += [run.first_token.eq(part - x.first), run.tokens_end.eq(Mux(common, x.tile_end, part_end) - x.first)]


def _runs(x: RowReads, cache: WindowCache | PagedCache | SwapController, *, sinks: ValueLike, complete: ValueLike,
          then: Callable[[], object]) -> data.View:
    """States for a request and its runs. When the last one has gone: on to the next tile if that is ``complete``, else what ``then``
    does, which leads to another request. Returns the run at hand."""
    m, read, begun = x.m, cache.o_read, Signal()
    m.submodules.rows = rows = StreamBuffer(rows_layout(x.config))
    wiring.connect(m, rows.o, wiring.flipped(x.frontend.o_rows))
    run = rows.i.p
    m.d.comb += [run.position.eq(read.p.position), run.rows.eq(read.p.count), run.tokens.eq(x.tile_end - x.first), run.sinks.eq(sinks),
                 run.begins.eq(~begun), run.ends.eq(read.p.last & complete)]
    with m.State("ROWS_REQUEST"):
        m.d.comb += cache.i_request.valid.eq(1)
        with m.If(cache.i_request.ready):
            m.next = "ROWS_COMMAND"
    with m.State("ROWS_COMMAND"):
        answers = not isinstance(cache, WindowCache)  # a request that is refused too
        there = read.valid & ~read.p.error if answers else read.valid
        taken = there & x.reads.ready & rows.i.ready
        m.d.comb += [x.reads.valid.eq(there & rows.i.ready), rows.i.valid.eq(there & x.reads.ready),
                     read.ready.eq(taken | read.p.error if answers else taken),
                     x.reads.p.fenced.eq(1), *(x.reads.p[name].eq(read.p[name]) for name in ("address", "beats"))]
        x.fail(ErrorCause.CACHE_FULL, read.valid & read.p.error if answers else cache.error & ~taken, x.length)
        with m.If(taken):
            m.d.sync += begun.eq(~run.ends)
            with m.If(run.ends):
                x.next_tile()
            with m.Elif(read.p.last):
                then()
    return run
