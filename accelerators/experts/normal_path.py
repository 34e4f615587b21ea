"""The normal path: reads of single banks for the xPU, the first ready bank first."""

from functools import reduce
from operator import and_, or_
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..checks import check_int
from ..pipeline import Pipeline
from ..streams import StreamBuffer, connect
from .config import SLOTS, ExpertConfig
from .dram_commands import BUNDLE_BANKS, Command, command_pins
from .dram_timers import BankTimers, Timer, decoded, encoded, first_slot

__all__ = ["NormalPath", "normal_request"]

TAG_BITS = 8

GROUPS = 4
"""Bank groups of a rank."""

DEPTH, LOOK_AHEAD = 4, 42
"""Requests that wait at a bank, and at all of them. With 42 streams take as long as in the public simulator, which looks at 32 requests
and has those besides for which it has opened a row. Measured against its interleaved streams of one pseudo channel, at worst: 42 is
1.95 % below, 41 1.57 % below, 40 1.12 % above (`tests/sim/test_dram_streams.py`); none is within 1 % of them all."""


def normal_request(config: ExpertConfig) -> data.StructLayout:
    """A read of one bank; ``bank``: ``group + 4 * bank[0]``."""
    return data.StructLayout({"bundle": range(config.bundles), "bank": range(BUNDLE_BANKS), "row": range(config.rows),
                              "column": range(config.columns), "tag": TAG_BITS})


class NormalPath(wiring.Component):
    """Reads of single banks. Part of ``BundleController``.

    Each bank has a queue of four requests, served in order. Of the banks whose request waits for a read, and of those that wait for an
    activate or a precharge, one each is given a command per cycle: the first ready one behind the last that was read. A row stays open
    until a request for another row is next, the bundle path claims the bundle, or a refresh is due::

        i -> queue of the bank -> row open?  yes: READ
                                             no:  PRECHARGE, ACTIVATE

    Whether a request fits the row before it is found out when it enters; so no rows are compared later. In ``timing``, rcd, ras, rc and
    rp must be at least 5.

    Members
    -------
    i : In(stream of normal_request)
    slots, hold, close, over : In
        See ``BundlePath``.
    one : In(SLOTS)
        Slots in which a bank may be activated (``ActivateWindow``).
    claim, free : In(bundles)
        See ``BundlePath``.
    busy : Out(bundles)
    closed, closable, idle : Out
        For ``Refresh``.
    activated : Out(SLOTS)
        Slot of an activate.
    given : Out(command_pins)
        The commands of the last cycle.
    read : Out(1)
        There is a read among them.
    tag : Out(8)
        Of its request.
    """

    def __init__(self, config: ExpertConfig):
        self.config = config
        for name in ("rcd", "ras", "rc", "rp"):
            check_int(f"timing.{name}", getattr(config.timing, name), 5, 1 << 16)
        super().__init__({
            "i": In(stream.Signature(normal_request(config))), "slots": In(SLOTS), "hold": In(1), "close": In(SLOTS), "over": In(SLOTS),
            "one": In(SLOTS), "claim": In(config.bundles), "free": In(config.bundles), "busy": Out(config.bundles), "closed": Out(1),
            "closable": Out(SLOTS), "idle": Out(SLOTS), "given": Out(command_pins(config)), "activated": Out(SLOTS), "read": Out(1),
            "tag": Out(TAG_BITS),
        })

    def elaborate(self, platform):
        m = Module()
        config, timing = self.config, self.config.timing
        ranks = config.bundles // 2
        # Neighbours in this order are in different ranks, then in different groups.
        banks = [(upper + 2 * rank, group + GROUPS * lower)
                 for upper in range(2) for lower in range(2) for group in range(GROUPS) for rank in range(ranks)]
        count = len(banks)
        m.submodules.incoming = incoming = StreamBuffer(self.i.p.shape())
        connect(m, wiring.flipped(self.i), incoming.i)
        item = incoming.o.p
        number = Cat(item.bundle[1:], item.bank, item.bundle[0])

        # Queues of the banks; bit k of a vector is bank k.
        entry = data.StructLayout({"row": item.row.shape(), "column": item.column.shape(), "tag": TAG_BITS})
        m.submodules.entries = entries = memory.Memory(shape=entry, depth=count * DEPTH, init=[])
        m.submodules.rows = rows = memory.Memory(shape=item.row.shape(), depth=count, init=[])
        more_than = [Signal(count, name=f"more_than_{k}") for k in range(DEPTH)]  # requests at the bank
        sames = [Signal(count, name=f"same_{k}") for k in range(DEPTH)]  # by place: it has the row of the request before it
        heads, tails = ([Signal(count, name=f"{name}_{bit}") for bit in range((DEPTH - 1).bit_length())] for name in ("head", "tail"))
        opened, fits, total = Signal(count), Signal(count), Signal(range(LOOK_AHEAD + 1))
        some, enters, same = more_than[0], Signal(), Signal()
        latest, remember, write = rows.read_port(domain="comb"), rows.write_port(), entries.write_port()
        tail = Cat(bit.bit_select(number, 1) for bit in tails)
        m.d.comb += [
            incoming.o.ready.eq(~more_than[-1].bit_select(number, 1) & (total != LOOK_AHEAD)),
            enters.eq(incoming.o.valid & incoming.o.ready), latest.addr.eq(number), same.eq(latest.data == item.row),
            remember.addr.eq(number), remember.data.eq(item.row), remember.en.eq(enters), write.addr.eq(Cat(tail, number)),
            write.en.eq(enters), write.data.row.eq(item.row), write.data.column.eq(item.column), write.data.tag.eq(item.tag),
        ]

        # A bank is picked in a cycle and has its command in the next one or later: timers of picks are a cycle shorter.
        row, read = Picked(m, "row", count), Picked(m, "read", count)
        activates = Signal()  # what the row command is
        begins, ends = row.taken & activates.replicate(SLOTS), row.taken & (~activates).replicate(SLOTS)
        soon = BankTimers(m, begins, row.bank, rcd=timing.rcd - SLOTS, ras=timing.ras - SLOTS, rc=timing.rc - SLOTS).ready
        soon |= BankTimers(m, ends, row.bank, rp=timing.rp - SLOTS).ready
        rtp = self._read_to_precharge(m, count, read.bank, read.taken, timing.rtp_bank - SLOTS)
        groups = GROUPS * ranks
        ccd_l, rrd_l = ([Timer(m, max(tck - SLOTS, 1), f"{name}_{k}") for k in range(groups)] for name, tck in (
            ("ccd_l", timing.ccd), ("rrd_l", timing.rrd_l)))
        ccd_s = Timer(m, timing.ccd_s, "ccd_s")
        claimed, free = (Cat(vector[bundle] for bundle, _ in banks) for vector in (self.claim, self.free))
        reads, changes = [], []
        for slot in range(SLOTS):
            column, activate = (Cat(timer.ready[slot] & ~picked.bank[group::groups].any()
                                    for group, timer in enumerate(timers)).replicate(count // groups)
                                for timers, picked in ((ccd_l, read), (rrd_l, row)))
            reads.append(soon["rcd"][slot] & column & some & opened & fits & ~claimed & ~row.bank)
            ending = soon["ras"][slot] & rtp[slot] & opened & ((some & ~fits) | claimed)
            beginning = soon["rp"][slot] & soon["rc"][slot] & activate & some & ~opened & free
            changes.append((ending | beginning) & ~row.bank & ~read.bank)
        after = Signal(count)  # banks behind the one that was read last
        read.pick(m, reads, after, self.hold)
        changed = row.pick(m, changes, after, self.hold)
        with m.If(row.free):
            m.d.sync += activates.eq((changed & ~opened).any())
        left = self.slots & (~self.hold).replicate(SLOTS)
        m.d.comb += [
            row.taken.eq(first_slot(row.slots & left & ((self.one & self.over) | (~activates).replicate(SLOTS)))),
            read.taken.eq(first_slot(read.slots & ccd_s.ready & left & ~row.taken)), self.activated.eq(begins),
        ]
        ccd_s.start(m, read.taken)
        for group in range(groups):
            ccd_l[group].start(m, read.taken & read.bank[group::groups].any().replicate(SLOTS))
            rrd_l[group].start(m, begins & row.bank[group::groups].any().replicate(SLOTS))

        # The commands, a cycle later.
        register = Pipeline(m).register
        ports = [entries.read_port(domain="comb") for _ in range(2)]
        places = [register(Cat(*((bit & picked.bank).any() for bit in heads), encoded(picked.bank))) for picked in (row, read)]
        row_slots, read_slots, activated = (register(each) for each in (row.taken, read.taken, activates))
        for port, place in zip(ports, places, strict=True):
            m.d.comb += port.addr.eq(place)
        row_number, read_number = (place[len(tail):] for place in places)
        m.d.comb += [self.read.eq(read_slots.any()), self.tag.eq(ports[1].data.tag)]
        for slot in range(SLOTS):
            given = self.given[slot]
            with m.If(row_slots[slot]):
                m.d.comb += [given.command.eq(Mux(activated, Command.ACTIVATE, Command.PRECHARGE)),
                             *place_of(given, row_number, ranks), given.row.eq(Mux(activated, ports[0].data.row, 0))]
            with m.If(read_slots[slot]):
                m.d.comb += [given.command.eq(Command.READ), *place_of(given, read_number, ranks), given.row.eq(ports[1].data.row),
                             given.column.eq(ports[1].data.column)]

        # What follows from them.
        begun, ended = (row.bank & taken.any().replicate(count) for taken in (begins, ends))
        entered, leaves = decoded(number, count, enters), read.bank & read.taken.any().replicate(count)
        first, up, down = entered & ~some, entered & ~leaves, leaves & ~entered
        following = [~heads[0] & ~heads[1], heads[0] & ~heads[1], ~heads[0] & heads[1], heads[0] & heads[1]]
        stored = reduce(or_, (at & sames[(k + 1) % DEPTH] for k, at in enumerate(following)))
        next_fits = (more_than[1] & stored) | (~more_than[1] & same.replicate(count))
        m.d.sync += [
            total.eq(total + enters - read.taken.any()), opened.eq((opened | begun) & ~ended & ~self.close.any().replicate(count)),
            fits.eq((fits & ~first & ~leaves) | (first & same.replicate(count)) | (leaves & next_fits) | begun),
            *(sames[k].eq(Mux(tail == k, (sames[k] & ~entered) | (entered & same.replicate(count)), sames[k])) for k in range(DEPTH)),
            *(bit.eq(bit ^ (moved & reduce(and_, bits[:k], moved))) for bits, moved in ((heads, leaves), (tails, entered))
              for k, bit in enumerate(bits)),
            *(here.eq((here & ~down) | (down & above) | (up & below)) for below, here, above in zip(
                [~Const(0, count), *more_than], more_than, [*more_than[1:], Const(0, count)], strict=False)),
        ]
        with m.If(read.taken.any()):
            m.d.sync += after.eq(-(read.bank << 1))
        closed_long = soon["rp"][0] & soon["rc"][0]
        resting = closed_long & register(closed_long) & ~opened & ~row.bank
        m.d.comb += [
            self.closed.eq(~opened.any()),
            self.closable.eq(register(Cat((a & b).all() for a, b in zip(soon["ras"], rtp, strict=True)))),
            self.idle.eq(register(Cat((a & b).all() for a, b in zip(soon["rc"], soon["rp"], strict=True)))),
            *(self.busy[bundle].eq(~Cat(resting[k] for k in range(count) if banks[k][0] == bundle).all())
              for bundle in range(config.bundles)),
        ]
        return m

    def _read_to_precharge(self, m: Module, count: int, bank: Signal, read: Signal, least: int) -> list[Value]:
        """Banks whose last read is ``least`` ago, by slot. A bank may be read again before it is."""
        blocked, line = [Const(0, count)] * SLOTS, (bank, read)
        for cycles in range(1, least // SLOTS + 2):
            later = Signal(count, name=f"read_bank_{cycles}"), Signal(SLOTS, name=f"read_{cycles}")
            m.d.sync += [target.eq(value) for target, value in zip(later, line, strict=True)]
            line = later
            for slot in range(SLOTS):
                near = Cat(line[1][then] for then in range(SLOTS) if cycles * SLOTS + slot - then < least)
                blocked[slot] = blocked[slot] | (line[0] & near.any().replicate(count))
        return [~each for each in blocked]


class Picked:
    """The bank that is next, and a pick of the one behind it.

    Attributes
    ----------
    bank : Signal(count)
        One-hot, 0 if there is none. A register.
    valid : Value
    slots : Value
        Slots of this cycle in which its timers allow the command.
    taken : Signal(SLOTS)
        To be driven: the slot in which it has the command.
    free : Value
        Another one is picked in this cycle.
    """

    def __init__(self, m: Module, name: str, count: int):
        self.name = name
        self.bank, self.taken = Signal(count, name=f"{name}_bank"), Signal(SLOTS, name=f"{name}_taken")
        self.early = Signal(name=f"{name}_early")
        self.valid = self.bank.any()
        self.slots = Cat(self.early, Const(1, 1)) & self.valid.replicate(SLOTS)
        self.free = self.taken.any() | ~self.valid

    def pick(self, m: Module, allowed: list[Value], after: Signal, hold: Value) -> Value:
        """The first of the banks in ``after`` that is allowed in the last slot of the next cycle (so it is if it is in the first one),
        else the first of all."""
        count = len(after)
        both, first = Signal(2 * count, name=f"{self.name}_both"), Signal(2 * count, name=f"{self.name}_first")
        m.d.comb += [both.eq(Cat(allowed[-1] & after, allowed[-1])), first.eq(both & -both)]
        picked = first[:count] | first[count:]
        m.d.sync += self.early.eq(1)
        with m.If(self.free):
            m.d.sync += [self.bank.eq(picked), self.early.eq((picked & allowed[0]).any())]
        with m.If(hold):
            m.d.sync += self.bank.eq(0)
        return picked


def place_of(given: data.View, number: Value, ranks: int) -> list[Any]:
    """Bundle and bank of a bank's number."""
    return [given.bundle.eq(Cat(number[-1], number[:ranks - 1])), given.bank.eq(number[ranks - 1:-1])]
