"""What keeps commands apart: timers in tCK, the window of activates, the refresh."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .config import SLOTS, ExpertConfig

__all__ = ["ActivateWindow", "BankTimers", "Refresh", "Timer", "decoded", "encoded", "first_slot"]


def first_slot(allowed: Value) -> Value:
    """The first of the slots that are allowed, one-hot."""
    return Cat(allowed[k] & ~allowed[:k].any() if k else allowed[0] for k in range(SLOTS))


def passed(before: Signal, most: int, left: Signal, ready: Signal) -> list[Any]:
    """A timer one cycle later; it is never above ``most``."""
    return [left.eq(Mux(before < SLOTS, 0, before - SLOTS) if most >= SLOTS else 0),
            ready.eq(Cat(before <= SLOTS + k if SLOTS + k < most else Const(1, 1) for k in range(SLOTS)))]


class Timer:
    """Which slots of this logic cycle are ``tck`` or more after the slot of the last start.

    Attributes
    ----------
    ready : Signal(SLOTS)
        A bit per slot. A register.
    """

    def __init__(self, m: Module, tck: int, name: str):
        self.tck = tck
        self.ready = Signal(SLOTS, init=-1, name=f"{name}_ready")
        self.left = Signal(range(max(tck, 2)), name=f"{name}_left")
        m.d.sync += passed(self.left, tck - 1, self.left, self.ready)

    def start(self, m: Module, taken: Value, tck: int | None = None) -> None:
        """``taken``: the slot of the command, one-hot, or none. ``tck``: at most that of the constructor."""
        for slot in range(SLOTS):
            left = max((self.tck if tck is None else tck) + slot - SLOTS, 0)
            with m.If(taken[slot]):
                m.d.sync += [self.left.eq(left), self.ready.eq(Cat(Const(left <= k, 1) for k in range(SLOTS)))]


class BankTimers:
    """Timers of many banks, of which one is started at a time: a delay line of commands, whose end makes the bank ready again.

    Parameters
    ----------
    taken, bank : Value
        Slot of a command, one-hot, and its bank, one-hot.
    **tck : int
        Timers by name, at least 3.

    Attributes
    ----------
    ready : dict of str to list of Signal(count)
        By slot, a bit per bank. Registers.
    """

    def __init__(self, m: Module, taken: Value, bank: Value, **tck: int):
        count, longest = len(bank), max(tck.values()) // SLOTS + 1
        number = encoded(bank)
        line: list[tuple[Value, Value]] = [(taken, number)]
        for k in range(longest):
            slot, place = Signal(SLOTS, name=f"taken_{k}"), Signal(len(number), name=f"number_{k}", reset_less=True)
            m.d.sync += [slot.eq(line[-1][0]), place.eq(line[-1][1])]
            line.append((slot, place))
        started = bank & taken.any().replicate(count)
        self.ready = {}
        for name, least in tck.items():
            self.ready[name] = [Signal(count, init=-1, name=f"{name}_ready_{slot}") for slot in range(SLOTS)]
            for slot, ready in enumerate(self.ready[name]):
                # Of a command in slot ``then``: the cycle before the first in which this slot is late enough.
                over = Const(0, count)
                for then in range(SLOTS):
                    taken_then, place = line[-(-(least + then - slot) // SLOTS) - 1]
                    over = over | decoded(place, count, taken_then[then])
                m.d.sync += ready.eq((ready & ~started) | over)


def encoded(bank: Value) -> Value:
    """The number of a one-hot value."""
    return Cat(Cat(bank[k] for k in range(len(bank)) if k >> bit & 1).any() for bit in range((len(bank) - 1).bit_length()))


def decoded(number: Value, count: int, valid: Value) -> Value:
    """One-hot, or 0."""
    return (Const(1) << number)[:count] & valid.replicate(count)


class ActivateWindow:
    """tRRD and tFAW of the pseudo channel: at most four activates in any ``faw`` tCK.

    Attributes
    ----------
    one, four : Value
        The slots in which a bank may be activated, and four, one after another, ``rrd`` apart.
    """

    def __init__(self, m: Module, config: ExpertConfig):
        self.timing = config.timing
        rrd, faw = self.timing.rrd, self.timing.faw
        self.between = Timer(m, 4 * rrd, "rrd")
        self.most = faw + 3 * rrd - 1
        # The newest first. Of four, the later ones come later: they may meet a younger one.
        self.last = [Signal(range(self.most + 1), name=f"faw_{k}") for k in range(4)]
        self.ready = [Signal(SLOTS, init=-1, name=f"faw_ready_{k}") for k in range(4)]
        self.later = [Signal(SLOTS, init=-1, name=f"faw_later_{k}") for k in range(4)]
        self.one = self.between.ready & self.ready[3]
        self.four = self.between.ready & self.later[0] & self.later[1] & self.later[2] & self.later[3]
        self._pass(m, self.last)

    def _pass(self, m: Module, before: list[Signal]) -> None:
        for k, old in enumerate(before):
            m.d.sync += passed(old, self.most, self.last[k], self.ready[k])
            m.d.sync += self.later[k].eq(Cat(old <= SLOTS + slot + (3 - k) * self.timing.rrd for slot in range(SLOTS)))

    def start_one(self, m: Module, taken: Value) -> None:
        self.between.start(m, taken, self.timing.rrd)
        with m.If(taken.any()):
            self._pass(m, [self.last[0], *self.last[:3]])
        self._load(m, taken, 0, self.timing.faw)

    def start_four(self, m: Module, taken: Value) -> None:
        self.between.start(m, taken)
        for k in range(4):
            self._load(m, taken, 3 - k, self.timing.faw + k * self.timing.rrd)

    def _load(self, m: Module, taken: Value, place: int, tck: int) -> None:
        for slot in range(SLOTS):
            left, lead = max(tck + slot - SLOTS, 0), (3 - place) * self.timing.rrd
            with m.If(taken[slot]):
                m.d.sync += [self.last[place].eq(left), self.ready[place].eq(Cat(Const(left <= k, 1) for k in range(SLOTS))),
                             self.later[place].eq(Cat(Const(left <= k + lead, 1) for k in range(SLOTS)))]


class Refresh(wiring.Component):
    """All-bank refresh, once per ``refi`` tCK: no command from when it is due; then all banks are closed, then it is given.

    Members
    -------
    slots : In(SLOTS)
        Those of this cycle that may be used.
    closed : In(1)
        No bank is open.
    closable, idle : In(SLOTS)
        Slots in which all open banks may be precharged; in which all banks have been closed long enough for an activate. They need not
        know of the commands of the last cycle, but of ``close``.
    hold : Out(1)
        No other command may be given. A register.
    close, refresh : Out(SLOTS)
        Slot in which all banks are precharged; in which they are refreshed.
    over : Out(SLOTS)
        Slots that are ``rfc`` behind the last refresh. A register.
    """

    def __init__(self, config: ExpertConfig):
        self.timing = config.timing
        super().__init__({"slots": In(SLOTS), "closed": In(1), "closable": In(SLOTS), "idle": In(SLOTS), "hold": Out(1),
                          "close": Out(SLOTS), "refresh": Out(SLOTS), "over": Out(SLOTS)})

    def elaborate(self, platform):
        m = Module()
        timing = self.timing
        after = Timer(m, timing.rfc, "rfc")
        until = Signal(range(timing.refi + SLOTS), init=timing.refi - 1)
        due = until < SLOTS
        m.d.sync += until.eq(Mux(due, until + (timing.refi - SLOTS), until - SLOTS))
        m.d.comb += self.over.eq(after.ready)
        with m.If(due):
            m.d.sync += self.hold.eq(1)
        # What ``closable`` and ``idle`` say may be a cycle old.
        held = Signal()
        m.d.sync += held.eq(self.hold)
        with m.If(self.hold & held):
            with m.If(~self.closed):
                m.d.comb += self.close.eq(first_slot(self.closable & self.slots))
            with m.Else():
                m.d.comb += self.refresh.eq(first_slot(self.idle & self.slots))
        with m.If(self.refresh.any()):
            m.d.sync += self.hold.eq(0)
        after.start(m, self.refresh)
        return m
