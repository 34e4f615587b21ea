"""Many 64-bit performance counters in one memory."""

from amaranth.hdl import Module, Mux, Signal, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ..config import check_int

__all__ = ["Counters"]

WIDTH = 64


class Counters(wiring.Component):
    """``count`` counters of 64 bits, each of which may count in every cycle.

    A few bits per counter collect its events; one adder goes round and moves them into a memory, one counter
    per cycle. So a counter costs some 7 bits of logic instead of 64. The total of a counter can be read when
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
        Number and total of one counter: its events up to two cycles ago, back to the last ``clear``.

    Latency: a counter comes by every ``count`` cycles. Interval: 1 cycle per event.
    """

    interval = 1

    def __init__(self, count: int):
        check_int("count", count, 4, 256)
        self.count = self.latency = count
        self.totals = Memory(shape=unsigned(WIDTH), depth=count, init=[])
        super().__init__({
            "events": In(count), "clear": In(1),
            "index": Out(range(count)), "value": Out(WIDTH),
        })

    def elaborate(self, platform):
        m = Module()
        count = self.count
        m.submodules.totals = self.totals
        read, write = self.totals.read_port(), self.totals.write_port()

        # address -> memory -> total -> sum: three cycles, so that block memory has time to give its data.
        address, fetched = Signal(range(count), init=2), Signal(range(count), init=1)
        total = Signal(WIDTH)
        m.d.sync += [
            address.eq(Mux(address == count - 1, 0, address + 1)),
            fetched.eq(address),
            self.index.eq(fetched),
            total.eq(read.data),
        ]
        pending = [Signal(range(count + 1), name=f"pending_{i}") for i in range(count)]
        collected = Signal.like(pending[0])  # goes with total
        stale = Signal(range(count + 1), init=count)  # totals still to be replaced since reset or clear
        m.d.comb += [
            read.addr.eq(address),
            write.addr.eq(self.index),
            write.en.eq(1),
            write.data.eq(self.value),
        ]
        with m.Switch(fetched):
            for i in range(count):
                with m.Case(i):
                    m.d.sync += collected.eq(pending[i])
        m.d.comb += self.value.eq(Mux(stale == 0, total, 0) + collected)
        with m.If(stale != 0):
            m.d.sync += stale.eq(stale - 1)
        for i in range(count):
            m.d.sync += pending[i].eq(Mux(fetched == i, 0, pending[i]) + self.events[i])
        with m.If(self.clear):
            m.d.sync += [stale.eq(count), collected.eq(0), *(bits.eq(0) for bits in pending)]
        return m
