"""The bundle path: opens, reads and closes bundle rows, one stretch after another."""

from functools import reduce
from operator import and_, or_

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .config import SLOTS, ExpertConfig
from .dram_commands import BUNDLE_BANKS, Command, command_pins
from .dram_timers import Timer, first_slot

__all__ = ["BundlePath", "stretch_layout"]


def stretch_layout(config: ExpertConfig) -> data.StructLayout:
    """Reads of the columns ``column`` to ``last`` of a row."""
    return data.StructLayout({"bundle": range(config.bundles), "row": range(config.rows), "column": range(config.columns),
                              "last": range(config.columns)})


class BundlePath(wiring.Component):
    """Commands for whole bundles. Part of ``BundleController``.

    While a stretch is read, the row of the next one is opened if it lies in another bundle. A row is closed behind the last read of
    its stretch, unless the next one is known by then and lies in the same row::

        i -> following -> now -> ALL_READ
                 '---------+---> ALL_ACTIVATE of a bundle that is closed (or two HALF_ACTIVATE)
                                 ALL_PRECHARGE of one whose stretch is done

    A read and a row command can leave in a cycle.

    Members
    -------
    i : In(stream of stretch_layout)
    slots : In(SLOTS)
        Command slots that may be used.
    hold, close, over : In
        From ``Refresh``.
    four : In(SLOTS)
        Slots in which four banks may be activated (``ActivateWindow``); with ``activate_limits``.
    busy : In(bundles)
        The normal path has banks of these open, or has closed some just now.
    claim, free : Out(bundles)
        Bundles that this path uses or waits for; those whose banks the normal path may activate.
    closed, closable, idle : Out
        For ``Refresh``.
    given : Out(command_pins)
        The commands; slots without one hold zeros.
    used, halves : Out(SLOTS)
        Slots that have a command; that have a HALF_ACTIVATE.
    read, activate, precharge : Out(1)
        A read, the (whole) activate, the precharge of a bundle is among the commands.
    empty : Out(1)
        There is no stretch.
    row, refresh, commands : Out(1)
        There is a stretch and the data path is free, but a row has to be opened; there is a refresh; the slot is taken or the normal
        path has the bundle.
    """

    def __init__(self, config: ExpertConfig):
        self.config = config
        super().__init__({
            "i": In(stream.Signature(stretch_layout(config))), "slots": In(SLOTS), "hold": In(1), "close": In(SLOTS), "over": In(SLOTS),
            "four": In(SLOTS), "busy": In(config.bundles), "claim": Out(config.bundles), "free": Out(config.bundles), "closed": Out(1),
            "closable": Out(SLOTS), "idle": Out(SLOTS), "given": Out(command_pins(config)), "used": Out(SLOTS), "halves": Out(SLOTS),
            **{name: Out(1) for name in ("read", "activate", "precharge", "empty", "row", "refresh", "commands")},
        })

    def elaborate(self, platform):
        m = Module()
        config, timing, numbers = self.config, self.config.timing, range(self.config.bundles)
        limits = config.activate_limits
        now, following = Signal(stretch_layout(config)), Signal(stretch_layout(config))
        reading, waiting = Signal(), Signal()  # there is one
        opened, closing, half = Signal(config.bundles), Signal(config.bundles), Signal(config.bundles)
        # The last bank of a half is that much later.
        late = 3 * timing.rrd if limits else 0
        rcd, ras, rc, rp, rtp = ([Timer(m, tck, f"{name}_{b}") for b in numbers] for name, tck in (
            ("rcd", timing.rcd + late), ("ras", timing.ras + late), ("rc", timing.rc + late), ("rp", timing.rp), ("rtp", timing.rtp)))
        ccd = Timer(m, timing.ccd, "ccd")

        read, is_open, row_ready, done = Signal(SLOTS), Signal(), Signal(SLOTS), Signal()
        m.d.comb += [
            is_open.eq(reading & (opened & ~closing).bit_select(now.bundle, 1)),
            row_ready.eq(Array([timer.ready for timer in rcd])[now.bundle]),
            read.eq(first_slot(row_ready & ccd.ready & self.slots & (is_open & ~self.hold).replicate(SLOTS))),
            done.eq(read.any() & (now.column == now.last)), self.read.eq(read.any()), self.i.ready.eq(~waiting),
            self.empty.eq(~reading & ~waiting),
        ]
        ccd.start(m, read)
        for slot in range(SLOTS):
            with m.If(read[slot]):
                m.d.comb += [self.given[slot].command.eq(Command.ALL_READ), self.given[slot].bundle.eq(now.bundle),
                             self.given[slot].row.eq(now.row), self.given[slot].column.eq(now.column)]
        with m.If(read.any()):
            m.d.sync += now.column.eq(now.column + 1)
        with m.If(done | ~reading):
            m.d.sync += [now.eq(following), reading.eq(waiting), waiting.eq(0)]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [following.eq(self.i.p), waiting.eq(1)]

        # A row command, of the lowest bundle that has one.
        left = self.slots & ~read & (~self.hold).replicate(SLOTS)
        allowed = self.over & self.four if limits else self.over
        same = waiting & (following.bundle == now.bundle) & (following.row == now.row)
        before, activate_command = Const(0, 1), Command.HALF_ACTIVATE if limits else Command.ALL_ACTIVATE
        activated, precharged, commands, begins = [], [], [], []
        for b in numbers:
            of_now = reading & (now.bundle == b)
            wanted = of_now | (waiting & (following.bundle == b) & (is_open | ~reading))
            activate = allowed & rp[b].ready & (rc[b].ready | half[b].replicate(SLOTS)) & (wanted & ~self.busy[b]).replicate(SLOTS)
            precharge = ras[b].ready & rtp[b].ready & closing[b].replicate(SLOTS)
            taken, on = Signal(SLOTS, name=f"row_command_{b}"), opened[b]
            m.d.comb += [
                taken.eq(first_slot(left & Mux(on, precharge, activate) & (~before).replicate(SLOTS))),
                self.claim[b].eq(wanted | on | half[b]),
                self.free[b].eq(~self.claim[b] & rp[b].ready[0] & rc[b].ready[0]),
            ]
            before = before | taken.any()
            for slot in range(SLOTS):
                given = self.given[slot]
                with m.If(taken[slot]):
                    m.d.comb += [given.command.eq(Mux(on, Command.ALL_PRECHARGE, activate_command)), given.bundle.eq(b),
                                 given.row.eq(Mux(on, 0, Mux(of_now, now.row, following.row))),
                                 given.bank.eq(Mux(half[b], BUNDLE_BANKS // 2, 0))]
            whole = half[b] if limits else Const(1, 1)
            begun, ended = taken & (~on).replicate(SLOTS), taken & on.replicate(SLOTS)
            for timer in (rcd[b], ras[b], rc[b]):
                timer.start(m, begun)
            rtp[b].start(m, read & of_now.replicate(SLOTS))
            rp[b].start(m, ended | self.close)
            with m.If(begun.any()):
                m.d.sync += [opened[b].eq(whole), half[b].eq(~whole)]
            with m.If(ended.any() | self.close.any()):
                m.d.sync += [opened[b].eq(0), closing[b].eq(0), half[b].eq(0)]
            with m.If(done & of_now & ~same):
                m.d.sync += closing[b].eq(1)
            activated.append(begun.any() & whole)
            precharged.append(ended.any())
            commands.append(taken)
            begins.append(begun)
        m.d.comb += [
            self.activate.eq(Cat(activated).any()), self.precharge.eq(Cat(precharged).any()), self.closed.eq(~(opened | half).any()),
            self.used.eq(reduce(or_, commands, read)), self.halves.eq(reduce(or_, begins) if limits else 0),
            self.closable.eq(reduce(and_, (timer.ready for timer in (*ras, *rtp)))),
            self.idle.eq(reduce(and_, (timer.ready for timer in (*rp, *rc)))),
        ]

        # What a stretch waits for.
        stalled = reading & ccd.ready.any() & ~read.any()
        refreshed = self.hold | ~self.over.any()
        held_up = (is_open & row_ready.any()) | self.busy.bit_select(now.bundle, 1)
        m.d.comb += [self.refresh.eq(stalled & refreshed), self.commands.eq(stalled & ~refreshed & held_up),
                     self.row.eq(stalled & ~refreshed & ~held_up)]
        return m
