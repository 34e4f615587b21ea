"""SDR SDRAM chips: their data sheets' figures, and the figures in cycles of a clock.

Nothing here depends on hardware: the controller (``sdram.py``) and the model in simulation are given the same data sheet, and each
makes of it what its own rules ask for.
"""

from dataclasses import dataclass, replace
from math import ceil, floor
from typing import Any

from ..checks import Configuration, check_int, check_name
from ..names import unknown_name

__all__ = ["CHIPS", "SDRAM_PRESETS", "SdramChip", "SdramConfig", "SdramCycles", "slowest"]


@dataclass(frozen=True)
class SdramChip:
    """Organisation and timing of a 16-bit SDR SDRAM of four banks.

    Parameters
    ----------
    name, data_sheet : str
        Part with speed grade; where the figures are from.
    row_bits, column_bits : int
        Address bits; a column is 16 bits.
    clock_ns : dict of int to float
        Shortest clock period for each CAS latency.
    rc, rfc, ras, ras_most, rcd, rp, rrd, wr, mrd : float
        Nanoseconds: ACTIVE to ACTIVE of a bank, REFRESH to any command, ACTIVE to PRECHARGE (least and most), ACTIVE to READ or WRITE,
        PRECHARGE to ACTIVE, ACTIVE to ACTIVE of another bank, last data written to PRECHARGE, LOAD MODE REGISTER to any command.
    rrd_clocks, wr_clocks, mrd_clocks : int
        The same where the data sheet counts clocks; the larger of both counts.
    refresh_ns : float
        Average interval of refreshes: 64 ms over the number of rows.
    power_up_ns : float
        Pause after power-up.
    access_ns : dict of int to float
        Clock edge to data valid, for each CAS latency (tAC).
    hold_ns, setup_ns : float
        Clock edge to data no longer valid (tOH); inputs before the clock edge (tIS).
    """

    name: str
    data_sheet: str
    row_bits: int
    column_bits: int
    clock_ns: dict[int, float]
    rc: float
    rfc: float
    ras: float
    ras_most: float
    rcd: float
    rp: float
    rrd: float
    wr: float
    mrd: float
    access_ns: dict[int, float]
    hold_ns: float
    setup_ns: float = 1.5
    rrd_clocks: int = 1
    wr_clocks: int = 1
    mrd_clocks: int = 2
    refresh_ns: float = 64e6 / 8192
    power_up_ns: float = 200e3

    @property
    def bytes(self) -> int:
        """Capacity."""
        return 8 << self.row_bits + self.column_bits

    def cycles(self, clock_mhz: float) -> "SdramCycles":
        """All of it in clock cycles, rounded to the safe side."""
        def least(ns: float, clocks: int = 1) -> int:
            return max(clocks, ceil(ns * clock_mhz / 1000 - 1e-9))

        rp = least(self.rp)
        return SdramCycles(
            ras=max(least(self.ras), least(self.rc) - rp), rcd=least(self.rcd), rp=rp, rrd=least(self.rrd, self.rrd_clocks),
            rfc=least(self.rfc), wr=least(self.wr, self.wr_clocks), mrd=least(self.mrd, self.mrd_clocks),
            refresh=floor(self.refresh_ns * clock_mhz / 1000), power_up=least(self.power_up_ns))


@dataclass(frozen=True)
class SdramCycles:
    """Timing in cycles. ``ras`` is so long that ``ras + rp`` is the row cycle time too."""

    ras: int
    rcd: int
    rp: int
    rrd: int
    rfc: int
    wr: int
    mrd: int
    refresh: int
    power_up: int


def slowest(name: str, *chips: SdramChip) -> SdramChip:
    """A chip as slow as the slowest of ``chips``, which must be organised alike: for a board that comes with any of them."""
    if len({(chip.row_bits, chip.column_bits) for chip in chips}) != 1:
        raise ValueError(f"chips must be organised alike, not {', '.join(chip.name for chip in chips)}")
    most: dict[str, Any] = {field: max(getattr(chip, field) for chip in chips) for field in (
        "rc", "rfc", "ras", "rcd", "rp", "rrd", "wr", "mrd", "setup_ns", "rrd_clocks", "wr_clocks", "mrd_clocks", "power_up_ns")}
    least: dict[str, Any] = {field: min(getattr(chip, field) for chip in chips) for field in ("ras_most", "hold_ns", "refresh_ns")}
    each: dict[str, Any] = {field: {latency: max(getattr(chip, field)[latency] for chip in chips) for latency in (2, 3)}
            for field in ("clock_ns", "access_ns")}
    return replace(chips[0], name=name, data_sheet="; ".join(chip.data_sheet for chip in chips), **most, **least, **each)


_ALLIANCE = SdramChip(
    "AS4C16M16SA-7", "Alliance AS4C16M16SA-C&I, rev. 3.0, Mar. 2015, table 16", row_bits=13, column_bits=9, clock_ns={2: 10, 3: 7},
    rc=63, rfc=63, ras=42, ras_most=120_000, rcd=21, rp=21, rrd=14, wr=14, mrd=14, access_ns={2: 6, 3: 5.4}, hold_ns=2.5,
    mrd_clocks=1)
_WINBOND = SdramChip(
    "W9825G6JH-6I", "Winbond W9825G6JH, rev. A04, Nov. 2011, section 9.5", row_bits=13, column_bits=9, clock_ns={2: 10, 3: 6},
    rc=60, rfc=60, ras=42, ras_most=100_000, rcd=18, rp=18, rrd=0, wr=0, mrd=0, access_ns={2: 6, 3: 5.4}, hold_ns=3,
    rrd_clocks=2, wr_clocks=2)

CHIPS = {
    chip.name: chip
    for chip in (
        _ALLIANCE,
        _WINBOND,
        replace(_ALLIANCE, name="AS4C32M16SB-7", data_sheet="Alliance AS4C32M16SB, table 16", column_bits=10),
        slowest("16Mx16", _ALLIANCE, _WINBOND),
        # For benches: a pause that a simulation can wait for, and refreshes that come often.
        replace(_WINBOND, name="small", data_sheet="none: for benches", row_bits=11, column_bits=8, refresh_ns=2500, power_up_ns=500),
    )
}
"""``16Mx16``: the 32 MB chip of an ULX3S, whoever made it."""


@dataclass(frozen=True)
class SdramConfig(Configuration):
    """What a controller is made for.

    Parameters
    ----------
    name : str
    chip : str
        A key of ``CHIPS``.
    clock_mhz : float
        Of the controller and of the chip.
    cas_latency : 2 or 3
    bus_bits : int
        Word of the AXI4 port, 32, 64 or 128: a burst of the chip is one word.
    id_bits : int
        IDs of the AXI4 port.
    pad_cycles : int
        Cycles that the way out to the chip and back adds to the CAS latency: registers in the pads, phase of the chip's clock.
    """

    name: str
    chip: str
    clock_mhz: float
    cas_latency: int = 3
    bus_bits: int = 64
    id_bits: int = 2
    pad_cycles: int = 1

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.chip not in CHIPS:
            raise unknown_name("chip", self.chip, CHIPS)
        check_int("cas_latency", self.cas_latency, 2, 3)
        check_int("bus_bits", self.bus_bits, 32, 128, power_of_two=True)
        check_int("id_bits", self.id_bits, 1, 8)
        check_int("pad_cycles", self.pad_cycles, 0, 4)
        fastest = 1000 / self.data_sheet.clock_ns[self.cas_latency]
        if not 20 <= self.clock_mhz <= fastest:
            raise ValueError(f"clock_mhz must be in 20..{fastest:.1f} with {self.chip} and cas_latency {self.cas_latency}, not "
                             f"{self.clock_mhz}")

    @property
    def data_sheet(self) -> SdramChip:
        return CHIPS[self.chip]

    @property
    def bus_bytes(self) -> int:
        return self.bus_bits // 8

    @property
    def burst(self) -> int:
        """Columns of a bus word: the chip's burst length."""
        return self.bus_bits // 16

    @property
    def peak_mb_s(self) -> float:
        """Two bytes per cycle."""
        return 2 * self.clock_mhz


SDRAM_PRESETS = {
    config.name: config
    for config in (
        SdramConfig("tiny_sdram", "small", 60.0, cas_latency=2, bus_bits=32),
        SdramConfig("edge_sdram", "small", 80.0, bus_bits=64),
        SdramConfig("wide_sdram", "small", 133.0, bus_bits=128, pad_cycles=2),
        SdramConfig("ulx3s_sdram", "16Mx16", 60.0, bus_bits=32, id_bits=3),
    )
}
"""``tiny_sdram``, ``edge_sdram``, ``wide_sdram``: for benches. ``ulx3s_sdram``: the 32 MB chip of an ULX3S; its pause after power-up is
too long for a bench with many resets."""
