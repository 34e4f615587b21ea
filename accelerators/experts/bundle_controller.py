"""Bank-bundle DRAM controller of a pseudo channel."""

from functools import reduce
from operator import and_, or_

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..pipeline import Pipeline
from ..streams import connect
from .bundle_path import BundlePath, stretch_layout
from .config import SLOTS, ExpertConfig
from .dram_commands import Command, command_pins, data_cycles, granule_bits
from .dram_timers import ActivateWindow, Refresh
from .normal_path import NormalPath, normal_request

__all__ = ["COUNTERS", "BundleController", "normal_data"]

COUNTERS = data.StructLayout({"bytes": 48, **dict.fromkeys(
    ("activates", "precharges", "refreshes", "row", "refresh", "commands", "full"), 32)})
"""``bytes``: read by bundles; ``activates``, ``precharges``: of whole bundles; ``refreshes``; then logic cycles in which a bundle has
something to read and the data path is free, by what was waited for: a ``row`` that opens, a ``refresh``, ``commands`` (the slot is
taken, or the normal path has the bundle), a ``full`` buffer."""


def normal_data(config: ExpertConfig) -> data.StructLayout:
    """What a bank gave, with the tag of the request."""
    return data.StructLayout({"data": granule_bits(config), "tag": normal_request(config)["tag"].shape})


class BundleController(wiring.Component):
    """Controller of the bank bundles of a pseudo channel (Duplex, arXiv:2409.01141, section 5), and of its single banks for the xPU::

        i --------> BundlePath ---.
                      |  claim    +--> command slots
        i_normal -> NormalPath ---|
                     Refresh -----'

    A bundle belongs to one path at a time: the bundle path claims it, the normal path closes its banks there and waits until the claim
    has ended. Different bundles are used at the same time; the bundle path has the first choice of slots. Timing is that of
    ``config.timing``, kept exactly to the slot: all rules, also tRRD and tFAW if ``activate_limits``; without it they hold for the
    normal path alone. A refresh is given when it is due: no new command from then on, all banks are precharged as soon as tRAS and
    tRTP allow, refreshed after tRP and tRC; rows that were open are opened again.

    Parameters
    ----------
    config : ExpertConfig
    normal : bool
        With the normal path.

    Members
    -------
    i : In(stream of stretch_layout)
        What to read of bundle rows, one after another.
    o : Out(stream of word, always_ready=True)
        ``timing.ccd / 2`` words for each column.
    i_normal : In(stream of normal_request)
        See ``NormalPath``.
    o_normal : Out(stream of normal_data, always_ready=True)
        Answers, in the order of their reads.
    slots : In(SLOTS)
        Command slots of this cycle that may be used: all, if no other pseudo channel shares them.
    starved : In(1)
        There is more to read, but no room for it: counted as ``full`` if there is no stretch.
    command, data, normal_data, counters
        See ``WeightStreamer``.

    Latency: 3 cycles from a stretch to ALL_ACTIVATE on the pins when idle. Interval: 2 cycles.
    """

    latency = None
    interval = None

    def __init__(self, config: ExpertConfig, *, normal: bool = True):
        self.config, self.normal = config, normal
        word = 8 * config.word_bytes
        super().__init__({
            "i": In(stream.Signature(stretch_layout(config))),
            "o": Out(stream.Signature(word, always_ready=True)),
            "slots": In(SLOTS),
            "starved": In(1),
            "command": Out(command_pins(config)),
            "data": In(word),
            "counters": Out(COUNTERS),
            **({"i_normal": In(stream.Signature(normal_request(config))),
                "o_normal": Out(stream.Signature(normal_data(config), always_ready=True)),
                "normal_data": In(granule_bits(config))} if normal else {}),
        })

    @classmethod
    def for_config(cls, config: ExpertConfig) -> "BundleController":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        config, register = self.config, Pipeline(m).register
        m.submodules.bundles = bundles = BundlePath(config)
        m.submodules.refresh = refresh = Refresh(config)
        connect(m, wiring.flipped(self.i), bundles.i)
        paths = [bundles]
        given = [register(bundles.given)]
        m.d.comb += bundles.slots.eq(self.slots)
        if self.normal or config.activate_limits:
            window = ActivateWindow(m, config)
        if config.activate_limits:
            m.d.comb += bundles.four.eq(window.four)
            window.start_four(m, bundles.halves)
        if self.normal:
            m.submodules.banks = banks = NormalPath(config)
            connect(m, wiring.flipped(self.i_normal), banks.i)
            m.d.comb += [banks.slots.eq(self.slots & ~bundles.used), banks.claim.eq(bundles.claim), banks.free.eq(bundles.free),
                         banks.one.eq(window.one & (~bundles.halves.any()).replicate(SLOTS)),
                         bundles.busy.eq(banks.busy)]
            window.start_one(m, banks.activated)
            paths.append(banks)
            given.append(banks.given)
            came = register(banks.read, 1 + data_cycles(config), reset=True)
            m.d.comb += [self.o_normal.valid.eq(came), self.o_normal.p.data.eq(self.normal_data),
                         self.o_normal.p.tag.eq(register(banks.tag, 1 + data_cycles(config)))]
        for path in paths:
            m.d.comb += [path.hold.eq(refresh.hold), path.close.eq(refresh.close), path.over.eq(refresh.over)]
        m.d.comb += [
            refresh.slots.eq(self.slots), refresh.closed.eq(Cat(path.closed for path in paths).all()),
            refresh.closable.eq(reduce(and_, (path.closable for path in paths))),
            refresh.idle.eq(reduce(and_, (path.idle for path in paths))),
        ]
        for slot in range(SLOTS):
            pin = Signal.like(self.command[slot], name=f"slot_{slot}")
            m.d.comb += pin.as_value().eq(reduce(or_, (each[slot].as_value() for each in given)))
            with m.If(register(refresh.close[slot])):
                m.d.comb += pin.command.eq(Command.PRECHARGE_CHANNEL)
            with m.If(register(refresh.refresh[slot])):
                m.d.comb += pin.command.eq(Command.REFRESH)
            m.d.sync += self.command[slot].eq(pin)

        words = config.timing.ccd // SLOTS
        first = register(bundles.read, 2 + data_cycles(config), reset=True)
        m.d.comb += [self.o.valid.eq(Cat(register(first, k, reset=True) for k in range(words)).any()), self.o.p.eq(self.data)]

        reads = Signal(len(self.counters.bytes) - (words * config.word_bytes).bit_length() + 1)
        m.d.sync += reads.eq(reads + bundles.read)
        m.d.comb += self.counters.bytes.eq(reads * (words * config.word_bytes))
        for name, event in (("activates", bundles.activate), ("precharges", bundles.precharge), ("refreshes", refresh.refresh.any()),
                            ("row", bundles.row), ("refresh", bundles.refresh), ("commands", bundles.commands),
                            ("full", self.starved & bundles.empty)):
            counted = register(event, reset=True)
            m.d.sync += self.counters[name].eq(self.counters[name] + counted)
        return m
