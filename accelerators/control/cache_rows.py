"""The controller of the KV cache in the front end, and which rows it is asked for."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring

from ..cache.contiguous import ContiguousCache
from ..cache.paged import PagedCache
from ..cache.swap import SwapController
from ..cache.window import WindowCache
from ..config import TOKEN_BITS
from .comparison import Comparison
from .retrieval import BlockLists

__all__ = ["CacheRows"]

CONTROLLERS = {"contiguous": ContiguousCache, "window": WindowCache, "paged": PagedCache, "evict": ContiguousCache}


class CacheRows:
    """The part of the front end that knows the cache.

    Parameters
    ----------
    m : Module
        That of the front end: the controller is put into it.
    frontend : FrontEnd
        Its ports matter.
    op : View
        The instruction at hand.
    position, count : Signal
        Position of the chunk's first token, and its tokens.

    Members
    -------
    cache
        The controller. Its requests are set here but for their handshake, and for what a window and paged caches ask for.
    capacity
        Rows of the cache.
    head, first, tile_end
        K/V head at hand; the first token of the tile at hand, and the one behind it.
    compares, lists
        See ``Comparison`` and ``BlockLists``; ``None`` where there are none.
    room
        With a budget of rows: tokens that may be appended at a time, two registers late.
    """

    def __init__(self, m: Module, frontend: wiring.Component, op: data.View, position: Signal, count: Signal):
        config, lanes = frontend.config, frontend.config.token_lanes
        self.capacity = capacity = Signal(range(config.max_context + 1))
        m.d.sync += capacity.eq(Mux(frontend.kv_capacity > config.max_context, config.max_context, frontend.kv_capacity))
        # Which members it has depends on the configuration.
        self.cache: Any = SwapController(config, slots=config.swap_slots) if config.swap_slots else CONTROLLERS[config.cache](config)
        cache: Any = self.cache
        m.submodules.cache = cache
        if config.swap_slots:
            wiring.connect(m, cache.o_move, wiring.flipped(frontend.o_move))
            wiring.connect(m, wiring.flipped(frontend.i_moved), cache.i_moved)
            m.d.comb += [getattr(frontend, name).eq(getattr(cache, name)) for name in ("rows_out", "rows_in", "clean_blocks")]
        self.head = head = Signal(8)
        self.first = Signal(range(lanes + 1))
        self.tile_end = tile_end = Signal(range(lanes + 1))
        evict = config.cache == "evict"
        if config.cache == "window":
            m.d.sync += cache.recent.eq(capacity - frontend.kv_sinks)
            m.d.comb += [cache.sinks.eq(frontend.kv_sinks), cache.length.eq(position + count),
                         cache.clear.eq(frontend.start & ~frontend.busy)]
        elif config.cache != "paged":
            m.d.comb += cache.capacity.eq(capacity)
        m.d.comb += [
            cache.record_beats.eq(frontend.kv_record_beats), cache.head_stride.eq(frontend.kv_head_stride),
            cache.i_request.p.write.eq(0), cache.i_request.p.base.eq(op.address),
            cache.i_request.p.head.eq(op.other + head if evict else head),
        ]
        if config.cache == "contiguous":
            m.d.comb += [cache.i_request.p.position.eq(0), cache.i_request.p.count.eq(position + tile_end)]
        self.compares = Comparison(m, config, op, position + count) if config.selective_recompute else None
        if self.compares is not None:
            self.compares.request(cache, position + tile_end)
        self.lists = BlockLists(m, config, op, position, count) if config.block_retrieval else None
        if self.lists is not None:
            self.lists.request(cache)
        if evict:
            there, left = Signal.like(capacity), Signal(TOKEN_BITS + 1)
            m.d.sync += there.eq(Mux(position + tile_end < capacity, position + tile_end, capacity))
            m.d.comb += [cache.i_request.p.position.eq(0), cache.i_request.p.count.eq(there), left.eq(capacity - frontend.position)]
            self.room = room = Signal(range(lanes + 1))
            m.d.sync += room.eq(Mux(frontend.position + 1 >= capacity, 1, Mux(left < lanes, left, lanes)))
