"""Co-processing scheduler: splits the experts of a layer between xPU and Logic-PIM by their tokens."""

from itertools import pairwise

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..integers import ceil_div
from .config import ExpertConfig

__all__ = ["CoprocessScheduler"]

TIME_BITS = 24
"""Width of the time of an expert, in any unit."""

GRAY, EXTRA, SPACES = 6, 2, 4
WINDOW = GRAY + EXTRA


class CoprocessScheduler(wiring.Component):
    """Decides which experts run on Logic-PIM: the published rule, then all assignments of the experts around its border
    (Duplex, arXiv:2409.01141, section 6; ``sim/golden/coprocess.py`` has the exact rule)::

        i -> sorted by tokens -> split after split: best border -> 8 experts around it: all 256 assignments -> o
        '--> tables -> time of each '------------------------------- four a cycle, by Gray code

    Parameters
    ----------
    config : ExpertConfig
        ``experts``, ``max_tokens``.

    Members
    -------
    i_table : In(stream of {xpu: 24, pim: 24, last})
        Times of an expert with 0, 1, 2 ... tokens (0 for none), at most ``max_tokens + 1`` of them; later ones are dropped. Taken
        between decisions, before counts, which wait for ``last``; the item behind it is entry 0 again.
    i : In(stream of {count, spaces: 1})
        Tokens of expert 0, 1, 2 ... With ``spaces`` on the first of them the experts of a memory space stay together: a quarter of
        them, one behind the other.
    o : Out(stream of {mask, xpu, pim, error})
        Bit e of ``mask``: expert e goes to Logic-PIM (without tokens it does not matter). ``xpu``, ``pim``: sums of the times on both
        sides. ``error``: a count is beyond the tables; all else is 0.

    Latency: ``latency`` cycles from the last count; the next decision's first count is taken when the result has left. Of 64 experts a
    decision takes less than 256 cycles from its first count on.
    """

    def __init__(self, config: ExpertConfig):
        self.config = config
        self.latency = config.experts + (1 << GRAY) + WINDOW + 25
        self.interval = None
        self.load_bits = TIME_BITS + (config.experts - 1).bit_length()
        super().__init__({
            "i_table": In(stream.Signature(data.StructLayout({"xpu": TIME_BITS, "pim": TIME_BITS, "last": 1}))),
            "i": In(stream.Signature(data.StructLayout({"count": range(config.max_tokens + 1), "spaces": 1}))),
            "o": Out(stream.Signature(data.StructLayout({
                "mask": config.experts, "xpu": self.load_bits, "pim": self.load_bits, "error": 1}))),
        })

    @classmethod
    def for_config(cls, config: ExpertConfig) -> "CoprocessScheduler":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        experts, load = self.config.experts, self.load_bits
        numbers, places = range(experts), range(experts + 1)
        loads = data.StructLayout({"xpu": load, "pim": load})
        table, times, loaded, complete = self._table(m)

        # Experts by tokens: a new one goes behind all with as few.
        key = data.StructLayout({"count": self.i.p.count.shape(), "expert": numbers})
        cells = [Signal(key, name=f"cell_{k}") for k in numbers]
        taken, number, zeros, spaces = Signal(), Signal(numbers), Signal(places), Signal()
        m.d.comb += taken.eq(self.i.valid & self.i.ready)
        beyond = [(number <= k) | (cell.count > self.i.p.count) for k, cell in enumerate(cells[:-1])] + [Const(1)]
        new = Signal(key)
        m.d.comb += [new.count.eq(self.i.p.count), new.expert.eq(number)]
        with m.If(taken & (number == 0)):
            m.d.sync += spaces.eq(self.i.p.spaces)
        with m.If(taken):
            m.d.sync += [number.eq(Mux(number == experts - 1, 0, number + 1)), zeros.eq(zeros + (self.i.p.count == 0))]
            for k, cell in enumerate(cells):
                with m.If(beyond[k]):
                    before = new if k == 0 else Mux(beyond[k - 1], cells[k - 1].as_value(), new.as_value())
                    m.d.sync += cell.eq(before)

        # An expert of the order is read in two steps: its cell, then the tables.
        place, picked, later = Signal(places), Signal(key), Signal(key)
        m.d.sync += [picked.eq(Array(cells)[place[:len(number)]]), later.eq(picked)]
        counting = Signal()
        m.d.comb += table.eq(Mux(counting, self.i.p.count, picked.count))

        # What is known of the best assignment so far.
        now, best, makespan = Signal(loads), Signal(loads), Signal(load)
        moved, at, error = Signal(places), Signal(places), Signal()
        on, chosen = Signal(WINDOW), Signal(WINDOW)
        mask = Signal(experts)
        members = [Signal(data.StructLayout({"xpu": load, "pim": load, "expert": numbers}), name=f"member_{k}") for k in range(WINDOW)]

        # Counts: the sum of all times, and those of each space.
        added, space, within = Signal(), Signal(range(SPACES)), Signal(range(ceil_div(experts, SPACES)))
        m.d.sync += added.eq(taken)
        with m.If(added):
            m.d.sync += [now.xpu.eq(now.xpu + times.xpu), within.eq(within + 1)]
            with m.If(within == ceil_div(experts, SPACES) - 1):
                m.d.sync += [within.eq(0), space.eq(space + 1)]
            with m.If(spaces):
                for k, member in enumerate(members[:SPACES]):
                    with m.If(space == k):
                        m.d.sync += [member.xpu.eq(member.xpu + times.xpu), member.pim.eq(member.pim + times.pim)]

        # Splits: two registers to the times, then loads, makespan, comparison.
        scanning, scanned = Signal(), Signal(4)
        m.d.sync += scanned.eq(Cat(scanning, scanned))
        split, most = Signal(loads), Signal(load)
        with m.If(scanned[1]):
            m.d.sync += [now.xpu.eq(now.xpu - times.xpu), now.pim.eq(now.pim + times.pim)]
        m.d.sync += [split.eq(now), most.eq(larger(now))]
        with m.If(scanned[3]):
            m.d.sync += at.eq(at + 1)
            with m.If(most < makespan):
                m.d.sync += [makespan.eq(most), best.eq(split), moved.eq(at + 1)]

        begin, running, done = Signal(), Signal(), Signal()
        self._search(m, members, on, now, best, makespan, chosen, begin, running, done)
        filling, filled, window_place = Signal(), Signal(2), Signal(places)
        m.d.sync += filled.eq(Cat(filling, filled))
        with m.If(filled[1]):  # the first of them goes through to the front
            for member, source in zip(members, [*members[1:], None], strict=True):
                m.d.sync += (member.eq(source) if source is not None else
                             [member.xpu.eq(times.xpu), member.pim.eq(times.pim), member.expert.eq(later.expert)])
            m.d.sync += [on.eq(Cat(on[1:], window_place < moved)), window_place.eq(window_place + 1)]
        step = Signal(range(max(experts, 1 << GRAY) + 8))
        low = Signal(places)
        result = self.o.p

        def after(count: int, state: str) -> None:
            m.d.sync += step.eq(step + 1)
            with m.If(step == count - 1):
                m.d.sync += step.eq(0)
                m.next = state

        with m.FSM():
            with m.State("COUNTS"):
                m.d.comb += [self.i_table.ready.eq(number == 0), counting.eq(1),
                             self.i.ready.eq((number != 0) | (complete & ~self.i_table.valid))]
                with m.If(taken):
                    m.d.sync += error.eq(error | (self.i.p.count >= loaded))
                    with m.If(number == experts - 1):
                        m.next = "ADDED"
            with m.State("ADDED"):
                after(2, "BEGIN")
            with m.State("BEGIN"):
                m.d.sync += [makespan.eq(now.xpu), best.eq(now), moved.eq(0), at.eq(0), place.eq(0), on.eq(0), chosen.eq(0)]
                m.next = "SPLITS"
                with m.If(spaces):
                    m.next = "SEARCH_BEGIN"
            with m.State("SPLITS"):
                m.d.comb += scanning.eq(1)
                m.d.sync += place.eq(place + 1)
                after(experts, "SPLIT")
            with m.State("SPLIT"):
                after(4, "LOW")
            with m.State("LOW"):
                m.d.sync += low.eq(Mux(moved < zeros + WINDOW // 2, zeros, moved - WINDOW // 2))
                m.next = "FIRST"
            with m.State("FIRST"):
                first = Mux(low > experts - WINDOW, experts - WINDOW, low)
                m.d.sync += [place.eq(first), window_place.eq(first)]
                m.next = "FILL"
            with m.State("FILL"):
                m.d.comb += filling.eq(1)
                m.d.sync += [place.eq(place + 1), now.eq(best)]
                after(WINDOW, "FILLED")
            with m.State("FILLED"):
                after(2, "SEARCH_BEGIN")
            with m.State("SEARCH_BEGIN"):
                m.d.comb += begin.eq(1)
                m.d.sync += [place.eq(0), at.eq(experts), chosen.eq(on)]
                m.next = "SEARCH"
            with m.State("SEARCH"):
                # Beside it, the mask of the rule: a register behind the place.
                m.d.comb += running.eq(1)
                m.d.sync += [place.eq(place + 1), at.eq(place)]
                with m.If(at < experts):
                    m.d.sync += mask.bit_select(picked.expert, 1).eq((at < moved) & ~spaces)
                with m.If(done):
                    m.next = "APPLY"
            with m.State("APPLY"):
                with m.If(~spaces):
                    m.d.sync += [mask.bit_select(members[0].expert, 1).eq(chosen[0]), chosen.eq(Cat(chosen[1:], 0)),
                                 *(member.eq(following) for member, following in pairwise(members))]
                after(WINDOW, "GIVE")
            with m.State("GIVE"):
                m.d.comb += self.o.valid.eq(1)
                with m.If(self.o.ready):
                    m.d.sync += [now.eq(0), zeros.eq(0), error.eq(0), space.eq(0), within.eq(0), *(member.eq(0) for member in members)]
                    m.next = "COUNTS"
        by_space = Cat(chosen[e // ceil_div(experts, SPACES)] for e in numbers)
        m.d.comb += [
            result.error.eq(error), result.mask.eq(Mux(error, 0, Mux(spaces, by_space, mask))),
            result.xpu.eq(Mux(error, 0, best.xpu)), result.pim.eq(Mux(error, 0, best.pim)),
        ]
        return m

    def _table(self, m: Module) -> tuple[Signal, data.View, Signal, Value]:
        """Address, the times there a register later, how many entries there are, and that there are some and no more are to come."""
        depth = self.config.max_tokens + 1
        entry = data.StructLayout({"xpu": TIME_BITS, "pim": TIME_BITS})
        m.submodules.times = times = memory.Memory(shape=entry, depth=depth, init=[])
        read, write = times.read_port(), times.write_port()
        loaded, index = Signal(range(depth + 1)), Signal(range(depth + 1))
        m.d.comb += [write.addr.eq(index), write.data.xpu.eq(self.i_table.p.xpu), write.data.pim.eq(self.i_table.p.pim),
                     write.en.eq(self.i_table.valid & self.i_table.ready & (index != depth))]
        with m.If(self.i_table.valid & self.i_table.ready):
            m.d.sync += [index.eq(index + write.en), loaded.eq(index + write.en)]
            with m.If(self.i_table.p.last):
                m.d.sync += index.eq(0)
        return read.addr, read.data, loaded, (index == 0) & (loaded != 0)

    def _search(self, m: Module, members, on, now, best, makespan, chosen, begin: Signal, running: Signal, done: Signal) -> None:
        """All assignments of the members, from ``now`` and ``on``: loads, four ways, makespans, the best way, comparison."""
        load, flips = self.load_bits, 1 << GRAY
        loads = data.StructLayout({"xpu": load, "pim": load})

        def flipped(k: int, name: str) -> Value:
            """What ``on[k]`` changing adds to a load."""
            time = members[k][name]
            return Mux(on[k] == (name == "xpu"), time, -time)
        step, active = Signal(range(flips + 1), name="tries"), Signal(3)
        m.d.comb += done.eq((step == flips) & ~active.any() & running)
        others = [[Const(0, load), *(Signal(load, name=f"{name}_{way}") for way in range(1, 1 << EXTRA))] for name in ("xpu", "pim")]
        for ways, name in zip(others, ("xpu", "pim"), strict=True):
            first, second = flipped(GRAY, name), flipped(GRAY + 1, name)
            m.d.sync += [ways[1].eq(first), ways[2].eq(second), ways[3].eq(first + second)]
        m.d.sync += active.eq(Cat(running & (step != flips) & ~begin, active))
        with m.If(begin):
            m.d.sync += step.eq(0)
        with m.If(running & (step != flips)):
            # ``step`` is what was tried; the bit of the next one's lowest 1 flips.
            m.d.sync += step.eq(step + 1)
            for bit in range(GRAY):
                with m.If((step + 1)[:bit + 1] == 1 << bit):
                    m.d.sync += [on[bit].eq(~on[bit]), *(now[name].eq(now[name] + flipped(bit, name)) for name in ("xpu", "pim"))]
        tried = [Signal(loads, name=f"tried_{way}") for way in range(1 << EXTRA)]
        ranked = data.StructLayout({"most": load, "xpu": load, "pim": load})
        compared = [Signal(ranked, name=f"compared_{way}") for way in range(1 << EXTRA)]
        on_tried, on_compared, on_least = Signal(WINDOW), Signal(WINDOW), Signal(WINDOW)
        least = Signal(ranked)
        m.d.sync += [on_tried.eq(on), on_compared.eq(on_tried)]
        for way, (here, there) in enumerate(zip(tried, compared, strict=True)):
            m.d.sync += [here.xpu.eq(now.xpu + others[0][way]), here.pim.eq(now.pim + others[1][way]),
                         there.most.eq(larger(here)), there.xpu.eq(here.xpu), there.pim.eq(here.pim)]
        pairs = []
        for first in (0, 2):
            one, other = compared[first], compared[first + 1]
            better = other.most < one.most
            pairs.append((Mux(better, other.as_value(), one.as_value()), Cat(better, Const(first >> 1, 1))))
        upper = pairs[1][0][:load] < pairs[0][0][:load]
        m.d.sync += [least.eq(Mux(upper, pairs[1][0], pairs[0][0])),
                     on_least.eq(on_compared ^ (Mux(upper, pairs[1][1], pairs[0][1]) << GRAY))]
        with m.If(active[2] & (least.most < makespan)):
            m.d.sync += [makespan.eq(least.most), best.xpu.eq(least.xpu), best.pim.eq(least.pim), chosen.eq(on_least)]


def larger(loads: data.View) -> Value:
    """The makespan."""
    return Mux(loads.xpu > loads.pim, loads.xpu, loads.pim)
