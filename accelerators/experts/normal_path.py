"""The normal path: reads of single banks for the xPU, the first ready bank first."""

from functools import reduce
from operator import and_, or_
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import check_int
from ..streams import StreamBuffer, connect
from .config import SLOTS, ExpertConfig
from .dram_commands import BUNDLE_BANKS, Command, command_pins
from .dram_timers import BankTimers, Timer, decoded, first_slot

__all__ = ["NormalPath", "normal_request"]

TAG_BITS = 8

GROUPS = 4
"""Bank groups of a rank."""

DEPTH, LOOK_AHEAD = 4, 40
"""Requests that wait at a bank, and at all of them. With 40 streams take as long as in the public simulator, which looks at 32 requests
and has those besides for which it has opened a row."""


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
    rp must be at least 3.

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
    given : Out(command_pins)
    activated : Out(SLOTS)
        Slot of an activate.
    read : Out(1)
    tag : Out(8)
        Of the request that is read.
    """

    def __init__(self, config: ExpertConfig):
        self.config = config
        for name in ("rcd", "ras", "rc", "rp"):
            check_int(f"timing.{name}", getattr(config.timing, name), 3, 1 << 16)
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
        m.submodules.sames = sames = memory.Memory(shape=1, depth=count * DEPTH, init=[])
        more_than = [Signal(count, name=f"more_than_{k}") for k in range(DEPTH)]  # requests at the bank
        heads, tails = ([Signal(count, name=f"{name}_{bit}") for bit in range((DEPTH - 1).bit_length())] for name in ("head", "tail"))
        opened, fits, total = Signal(count), Signal(count), Signal(range(LOOK_AHEAD + 1))
        some, enters, same = more_than[0], Signal(), Signal()
        latest, remember, write, mark = rows.read_port(domain="comb"), rows.write_port(), entries.write_port(), sames.write_port()
        place = Cat(*(bit.bit_select(number, 1) for bit in tails), number)
        m.d.comb += [
            incoming.o.ready.eq(~more_than[-1].bit_select(number, 1) & (total != LOOK_AHEAD)),
            enters.eq(incoming.o.valid & incoming.o.ready), latest.addr.eq(number), same.eq(latest.data == item.row),
            remember.addr.eq(number), remember.data.eq(item.row), remember.en.eq(enters), write.addr.eq(place), write.en.eq(enters),
            write.data.row.eq(item.row), write.data.column.eq(item.column), write.data.tag.eq(item.tag), mark.addr.eq(place),
            mark.data.eq(same), mark.en.eq(enters),
        ]

        # Which bank may have which command, by slot.
        row_bank, read_bank, row, read, begins = Signal(count), Signal(count), Signal(SLOTS), Signal(SLOTS), Signal(SLOTS)
        row_number, read_number = encoded(row_bank), encoded(read_bank)
        ends = row & ~begins
        of_activate = BankTimers(m, count, begins, row_number, rcd=timing.rcd, ras=timing.ras, rc=timing.rc).ready
        of_precharge = BankTimers(m, count, ends, row_number, rp=timing.rp).ready
        groups = GROUPS * ranks
        ccd_l, rrd_l = ([Timer(m, tck, f"{name}_{k}") for k in range(groups)] for name, tck in (
            ("ccd_l", timing.ccd), ("rrd_l", timing.rrd_l)))
        ccd_s = Timer(m, timing.ccd_s, "ccd_s")
        claimed, free = (Cat(vector[bundle] for bundle, _ in banks) for vector in (self.claim, self.free))
        reads, changes, rtp = [], [], self._read_to_precharge(m, count, read_bank, read)
        for slot in range(SLOTS):
            column, activate = (Cat(timer[slot] for timer in (each.ready for each in timers)).replicate(count // groups)
                                for timers in (ccd_l, rrd_l))
            reads.append(of_activate["rcd"][slot] & column & some & opened & fits & ~claimed)
            ending = of_activate["ras"][slot] & rtp[slot] & opened & ((some & ~fits) | claimed)
            beginning = of_precharge["rp"][slot] & of_activate["rc"][slot] & activate & some & ~opened & free
            changes.append(ending | (beginning & (self.one & self.over)[slot].replicate(count)))
        after = Signal(count)  # banks behind the one that was read last
        left = self.slots & (~self.hold).replicate(SLOTS)
        precharged = (row_bank & opened).any()
        m.d.comb += [
            row_bank.eq(self._pick(m, "row", changes, after)), read_bank.eq(self._pick(m, "read", reads, after)),
            row.eq(first_slot(Cat((each & row_bank).any() for each in changes) & left)),
            read.eq(first_slot(Cat((each & read_bank).any() for each in reads) & ccd_s.ready & left & ~row)),
            begins.eq(row & (~precharged).replicate(SLOTS)), self.activated.eq(begins), self.read.eq(read.any()),
        ]
        ccd_s.start(m, read)
        for group in range(groups):
            for timers, taken, picked in ((ccd_l, read, read_bank), (rrd_l, begins, row_bank)):
                timers[group].start(m, taken & picked[group::groups].any().replicate(SLOTS))

        # The commands.
        row_entry, read_entry = (entries.read_port(domain="comb") for _ in range(2))
        next_same = sames.read_port(domain="comb")
        row_head, read_head = (Cat((bit & picked).any() for bit in heads) for picked in (row_bank, read_bank))
        m.d.comb += [row_entry.addr.eq(Cat(row_head, row_number)), read_entry.addr.eq(Cat(read_head, read_number)),
                     next_same.addr.eq(Cat((read_head + 1)[:len(read_head)], read_number)), self.tag.eq(read_entry.data.tag)]
        for slot in range(SLOTS):
            given = self.given[slot]
            with m.If(row[slot]):
                m.d.comb += [given.command.eq(Mux(precharged, Command.PRECHARGE, Command.ACTIVATE)),
                             *place_of(given, row_number, ranks), given.row.eq(Mux(precharged, 0, row_entry.data.row))]
            with m.If(read[slot]):
                m.d.comb += [given.command.eq(Command.READ), *place_of(given, read_number, ranks), given.row.eq(read_entry.data.row),
                             given.column.eq(read_entry.data.column)]

        # What follows from them.
        begun, ended = (row_bank & taken.any().replicate(count) for taken in (begins, ends))
        entered, leaves = decoded(number, count, enters), read_bank & read.any().replicate(count)
        first, up, down = entered & ~some, entered & ~leaves, leaves & ~entered
        next_fits = Mux((more_than[1] & read_bank).any(), next_same.data, same)
        m.d.sync += [
            total.eq(total + enters - self.read), opened.eq((opened | begun) & ~ended & ~self.close.any().replicate(count)),
            fits.eq((fits & ~first & ~leaves) | (first & same.replicate(count)) | (leaves & next_fits.replicate(count)) | begun),
            *(bit.eq(bit ^ (moved & reduce(and_, bits[:k], moved))) for bits, moved in ((heads, leaves), (tails, entered))
              for k, bit in enumerate(bits)),
            *(here.eq((here & ~down) | (down & above) | (up & below)) for below, here, above in zip(
                [~Const(0, count), *more_than], more_than, [*more_than[1:], Const(0, count)], strict=False)),
        ]
        with m.If(read.any()):
            m.d.sync += after.eq(-(read_bank << 1))
        resting = of_precharge["rp"][0] & of_activate["rc"][0] & ~opened
        m.d.comb += [
            self.closed.eq(~opened.any()), self.closable.eq(Cat((a & b).all() for a, b in zip(of_activate["ras"], rtp, strict=True))),
            self.idle.eq(Cat((a & b).all() for a, b in zip(of_activate["rc"], of_precharge["rp"], strict=True))),
            *(self.busy[bundle].eq(~Cat(resting[k] for k in range(count) if banks[k][0] == bundle).all())
              for bundle in range(config.bundles)),
        ]
        return m

    def _read_to_precharge(self, m: Module, count: int, bank: Signal, read: Signal) -> list[Value]:
        """Banks whose last read is long enough ago, by slot. A bank may be read again before it is."""
        least, blocked, line = self.config.timing.rtp_bank, [Const(0, count)] * SLOTS, (bank, read)
        for cycles in range(1, least // SLOTS + 2):
            later = Signal(count, name=f"read_bank_{cycles}"), Signal(SLOTS, name=f"read_{cycles}")
            m.d.sync += [target.eq(value) for target, value in zip(later, line, strict=True)]
            line = later
            for slot in range(SLOTS):
                near = Cat(line[1][then] for then in range(SLOTS) if cycles * SLOTS + slot - then < least)
                blocked[slot] = blocked[slot] | (line[0] & near.any().replicate(count))
        return [~each for each in blocked]

    def _pick(self, m: Module, name: str, allowed: list[Value], after: Signal) -> Value:
        """One-hot: the first with a slot of the banks in ``after``, else the first of all."""
        count = len(after)
        both, first = Signal(2 * count, name=f"{name}_both"), Signal(2 * count, name=f"{name}_first")
        some = reduce(or_, allowed)
        m.d.comb += [both.eq(Cat(some & after, some)), first.eq(both & -both)]
        return first[:count] | first[count:]


def encoded(picked: Signal) -> Value:
    return Cat(Cat(picked[k] for k in range(len(picked)) if k >> bit & 1).any() for bit in range((len(picked) - 1).bit_length()))


def place_of(given: data.View, number: Value, ranks: int) -> list[Any]:
    """Bundle and bank of a bank's number."""
    return [given.bundle.eq(Cat(number[-1], number[:ranks - 1])), given.bank.eq(number[ranks - 1:-1])]
