"""Cuts transfers into AXI4 bursts."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..checks import check_int
from ..config import AcceleratorConfig

__all__ = ["ADDRESS_BITS", "BURST", "BURST_COMMAND", "BurstSplitter", "default_burst_beats"]

ADDRESS_BITS = 32
PAGE_BYTES = 4096

BURST_COMMAND = data.StructLayout({"address": ADDRESS_BITS, "beats": 24})
"""Transfer of ``beats`` bus words from byte ``address``, which is a multiple of the bus word."""

BURST = data.StructLayout({"address": ADDRESS_BITS, "length": 8, "last": 1, "unaligned": 1, "empty": 1})
"""One burst: ``length`` is the number of beats less one, as on AXI; ``last`` marks the final burst of a
command; ``unaligned`` is set on all bursts of a command whose address is no multiple of the bus word;
``empty`` (with ``last``) stands for a command of no beats, and there is nothing to transfer."""


def default_burst_beats(bus_bits: int) -> int:
    """64 beats, or as many as fit a page of 4 KiB."""
    return min(64, PAGE_BYTES * 8 // bus_bits)


def check_bursts(bus_bits: int, burst_beats: int) -> None:
    """Refuse widths and burst lengths with which a burst could cross a page."""
    check_int("bus_bits", bus_bits, 32, 1024, power_of_two=True)
    check_int("burst_beats", burst_beats, 2, min(256, PAGE_BYTES * 8 // bus_bits), power_of_two=True)


class BurstSplitter(wiring.Component):
    """Cuts each command into bursts that end at multiples of ``burst_beats`` bus words.

    So no burst crosses 4 KiB, and all but the first and last of a command are whole and aligned, as memory
    controllers like best.

    Parameters
    ----------
    bus_bits : int
        Bus word, 32 to 1024, a power of two.
    burst_beats : int
        Longest burst, a power of two, 2 to 256, at most 4 KiB.

    Members
    -------
    i : In(stream.Signature({address: 32, beats: 24}))
    o : Out(stream.Signature({address: 32, length: 8, last: 1, unaligned: 1, empty: 1}))
        Registered. ``length`` is beats less one. The first address of an unaligned command is given as it
        came, later ones are aligned.

    Latency: 2 cycles. Interval: 1 cycle per burst and 1 per command.

    A command of no beats gives one item with ``empty``. Addresses wrap at 2**32.
    """

    latency = 2
    interval = 2

    def __init__(self, bus_bits: int, burst_beats: int):
        check_bursts(bus_bits, burst_beats)
        self.bus_bits, self.burst_beats = bus_bits, burst_beats
        super().__init__({"i": In(stream.Signature(BURST_COMMAND)), "o": Out(stream.Signature(BURST))})

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "BurstSplitter":
        return cls(config.bus_bits, default_burst_beats(config.bus_bits))

    def elaborate(self, platform):
        m = Module()
        word = (self.bus_bits // 8).bit_length() - 1  # address bits within a bus word
        block = word + self.burst_beats.bit_length() - 1  # and within a whole burst

        busy, unaligned, empty = Signal(), Signal(), Signal()
        address = Signal(ADDRESS_BITS)
        beats_left = Signal(24)  # less one
        room = Signal(block - word)  # beats to the next multiple, less one
        beyond = Signal(25)  # beats left after this burst, less one; negative if there is none
        final, free, advance = Signal(), Signal(), Signal()
        m.d.comb += [
            beyond.eq(beats_left - room - 1),
            final.eq(beyond[-1]),
            free.eq(self.o.ready | ~self.o.valid),
            advance.eq(busy & free),
            self.i.ready.eq(~busy),
        ]
        with m.If(free):
            m.d.sync += [
                self.o.valid.eq(busy),
                self.o.p.address.eq(address),
                self.o.p.length.eq(Mux(final, beats_left[:8], room)),
                self.o.p.last.eq(final),
                self.o.p.unaligned.eq(unaligned),
                self.o.p.empty.eq(empty),
            ]
        with m.If(advance):
            m.d.sync += [
                address.eq(Cat(Const(0, block), address[block:] + 1)),
                beats_left.eq(beyond),
                room.eq(self.burst_beats - 1),
                busy.eq(~final),
            ]
        with m.If(self.i.ready):
            m.d.sync += [
                busy.eq(self.i.valid),
                address.eq(self.i.p.address),
                beats_left.eq(self.i.p.beats - 1),
                room.eq(~self.i.p.address[word:block]),
                unaligned.eq(self.i.p.address[:word].any()),
                empty.eq(self.i.p.beats == 0),
            ]
            # No beats: as if one, so that it is a single item.
            with m.If(self.i.p.beats == 0):
                m.d.sync += beats_left.eq(0)
        return m
