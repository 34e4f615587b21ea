"""Many 64-bit performance counters in one memory."""

from functools import reduce
from operator import or_

from amaranth.hdl import Module, Mux, Signal, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ..checks import check_int
from ..config import AcceleratorConfig
from .regmap import register_map

__all__ = ["Counters"]

WIDTH = 64
GROUP = 8
"""Counters whose events one register takes from."""


class Counters(wiring.Component):
    """``count`` counters of 64 bits, each of which may count in every cycle.

    A few bits per counter collect its events; one adder goes round and moves them into a memory, one counter
    per cycle. So a counter costs some 8 bits of logic instead of 64. The total of a counter can be read when
    the adder comes by: it is on ``value`` while ``index`` is its number.

    Parameters
    ----------
    count : int
        4 to 256.

    Members
    -------
    events : In(count)
        Counter ``i`` counts the cycles with bit ``i`` high.
    clear : In(1)
        All counters are 0, events of the same cycle included.
    index : Out(range(count)), value : Out(64)
        Number and total of one counter: its events up to ``DELAY`` cycles ago, back to the last ``clear``.

    Latency: a counter comes by every ``count`` cycles. Interval: 1 cycle per event.
    """

    interval = 1

    DELAY = 4
    """Cycles from an event to ``value``, if the counter's turn comes next."""

    def __init__(self, count: int):
        check_int("count", count, 4, 256)
        self.count = self.latency = count
        self.totals = Memory(shape=unsigned(WIDTH), depth=count, init=[])
        super().__init__({
            "events": In(count), "clear": In(1),
            "index": Out(range(count)), "value": Out(WIDTH),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "Counters":
        """Those of the register block."""
        return cls(max(register_map(config).counters.values()) + 1)

    def elaborate(self, platform):
        m = Module()
        count = self.count
        m.submodules.totals = self.totals
        read, write = self.totals.read_port(), self.totals.write_port()

        # A counter's turn, three cycles: memory and events, total and events, sum. ``turn`` has one bit for each counter.
        address, turn = Signal(range(count), init=3), Signal(count, init=1 << 3)
        fetched, totalled = Signal(range(count), init=2), Signal(range(count), init=1)
        m.d.sync += [
            address.eq(Mux(turn[-1], 0, address + 1)), turn.eq(turn.rotate_left(1)),
            fetched.eq(address), totalled.eq(fetched), self.index.eq(totalled),
        ]
        pending = [Signal(range(count + 1), name=f"pending_{i}") for i in range(count)]
        taken = [Mux(turn[i], bits, 0) for i, bits in enumerate(pending)]
        grouped = [Signal.like(pending[0], name=f"grouped_{k}") for k in range(0, count, GROUP)]
        total, collected = Signal(WIDTH), Signal.like(pending[0])
        # Since reset or a clear, every total is replaced once.
        stale, fresh = Signal(range(count), init=count - 1), Signal()
        m.d.comb += [read.addr.eq(address), write.addr.eq(self.index), write.en.eq(1), write.data.eq(self.value)]
        m.d.sync += [
            *(bits.eq(Mux(turn[i], 0, bits) + self.events[i]) for i, bits in enumerate(pending)),
            *(group.eq(reduce(or_, taken[GROUP * k:GROUP * (k + 1)])) for k, group in enumerate(grouped)),
            collected.eq(reduce(or_, grouped)), total.eq(Mux(fresh, read.data, 0)),
            self.value.eq(total + collected),
            stale.eq(stale - 1), fresh.eq(fresh | (stale == 0)),
        ]
        with m.If(self.clear):
            m.d.sync += [stale.eq(count - 1), fresh.eq(0), *(bits.eq(0) for bits in (*pending, *grouped, collected, total)),
                         self.value.eq(0)]
        return m
