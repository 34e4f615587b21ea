"""Boards as data: device, pins, clock, memory, serial line.

Pins and I/O attributes come from ``amaranth-boards``; what is here is what a design needs to know beside them.
"""

from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any

from amaranth.vendor import GowinPlatform

from ..accelerators.memory.sdram_chips import SdramConfig
from ..accelerators.names import unknown_name

__all__ = ["BOARDS", "Board", "Pin", "board"]


@dataclass(frozen=True)
class Pin:
    """One pin: its ball or number at the package, whether the signal is inverted, attributes of its buffer."""

    site: str
    inverted: bool
    attributes: dict[str, str]


@dataclass(frozen=True)
class Board:
    """A board that a design is built for.

    Parameters
    ----------
    name, title : str
        For the command line; for people.
    definition : str
        ``module:Class`` of the platform in ``amaranth_boards``, which has device, package, speed grade and pins.
    preset : str or None
        Configuration of the accelerator; None where none fits.
    memory : SdramConfig or None
        Chip, clock of the whole system, CAS latency, and the cycles of the pads. Without a memory there is the self-test of the ternary
        engine (``SelfTest``) at the clock of the oscillator.
    baud : int
        Rate of the serial line.
    sdram_phase : float
        Degrees by which the clock of the chip follows that of the system.
    pad_ns : (float, float)
        From the clock of an output register to its pin, shortest and longest.
    input_hold_ns : float
        Hold time of an input register; its setup time is 0 or less.
    high : tuple of str
        Pins that the board wants high: ``resource`` or ``resource.subsignal``.
    lights : tuple of str
        Resources whose first two pins are the lights of the self-test: right, wrong.
    """

    name: str
    title: str
    definition: str
    preset: str | None
    memory: SdramConfig | None
    baud: int
    sdram_phase: float = 0.0
    pad_ns: tuple[float, float] = (0.0, 0.0)
    input_hold_ns: float = 0.0
    high: tuple[str, ...] = ()
    lights: tuple[str, ...] = ("led",)

    @cached_property
    def platform(self) -> Any:
        """The platform of ``amaranth_boards``."""
        module, name = self.definition.split(":")
        return getattr(import_module(module), name)()

    @property
    def device(self) -> str:
        """Name of the device; of a Gowin also its package and speed grade."""
        return self.platform.part if isinstance(self.platform, GowinPlatform) else self.platform.device

    @property
    def clock_mhz(self) -> float:
        """Of the system."""
        return self.input_mhz if self.memory is None else self.memory.clock_mhz

    @property
    def input_mhz(self) -> float:
        """Of the board's oscillator."""
        return self.platform.resources[self.platform.default_clk, 0].clock.frequency / 1e6

    def pins(self, name: str) -> list[Pin]:
        """Pins of ``resource``, ``resource.subsignal``; of all resources of that name if they are numbered (``led``)."""
        resource, _, part = name.partition(".")
        found = []
        for (known, _), entry in self.platform.resources.items():
            if known == resource:
                ios = [io for sub in entry.ios if sub.name == part for io in sub.ios] if part else entry.ios
                attributes = dict(entry.attrs)
                for sub in entry.ios if part else ():
                    attributes |= dict(sub.attrs) if sub.name == part else {}
                found += [Pin(site, bool(io.invert), {key: str(value) for key, value in attributes.items()})
                          for io in ios for site in io.names]
        if not found:
            raise ValueError(f"{self.name} has no pins called {name!r}")
        return found

    def margins(self) -> dict[str, float]:
        """What the data sheets leave at the chip's pins, in nanoseconds, without the board's traces: must all be positive.

        Outputs change at the system's clock edge, the chip samples ``sdram_phase`` later. Its data come ``access`` after its own
        edge, which is late by an output's delay, and are sampled at the system's next but one clock edge.
        """
        if self.memory is None:
            return {}
        chip, period = self.memory.data_sheet, 1000 / self.clock_mhz
        shift = self.sdram_phase / 360 * period
        shortest, longest = self.pad_ns
        skew = 0.5  # between two outputs
        return {
            "command setup": shift - chip.setup_ns - skew, "command hold": period - shift - 1.0 - skew,
            "read setup": period - shift - longest - chip.access_ns[self.memory.cas_latency],
            "read hold": shift + shortest + chip.hold_ns - self.input_hold_ns,
        }


BOARDS = {
    each.name: each
    for each in (
        # Pad delays and hold time: assumed for speed grade 6 of an ECP5 (LVCMOS33), to be compared with FPGA-DS-02012.
        Board("ulx3s-85f", "Radiona ULX3S with an LFE5U-85F", "amaranth_boards.ulx3s:ULX3S_85F_Platform", "ulx3s",
              SdramConfig("ulx3s", "16Mx16", 60.0), sdram_phase=76.5, pad_ns=(3.0, 6.1), input_hold_ns=3.1, baud=3_000_000,
              high=("esp32.gpio0",)),
        Board("icepi-zero", "Icepi Zero with an LFE5U-25F", "amaranth_boards.icepi_zero:IcepiZero1_3Platform", None,
              SdramConfig("icepi", "16Mx16", 60.0), sdram_phase=76.5, pad_ns=(3.0, 6.1), input_hold_ns=3.1, baud=3_000_000),
        Board("icebreaker", "iCEBreaker with an iCE40UP5K", "amaranth_boards.icebreaker:ICEBreakerPlatform", None, None, baud=115_200,
              lights=("led_g", "led_r")),
        Board("tang-nano-9k", "Sipeed Tang Nano 9K with a GW1NR-9C", "amaranth_boards.tang_nano_9k:TangNano9kPlatform", None, None,
              baud=115_200),
    )
}


def board(name: str) -> Board:
    """The board called ``name``; ``ValueError`` with the known names otherwise."""
    try:
        return BOARDS[name]
    except KeyError:
        raise unknown_name("board", name, BOARDS) from None
