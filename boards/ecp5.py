"""The top of a board with a Lattice ECP5: PLL, reset, registers in the pads."""

from dataclasses import dataclass
from typing import Any

from amaranth.hdl import ClockDomain, ClockSignal, Const, Elaboratable, Instance, IOPort, Module, Signal
from amaranth.lib import io
from amaranth.lib.cdc import FFSynchronizer

from .board import Board, Pin
from .bring_up import BringUp
from .system import System

__all__ = ["Ecp5Top", "Pll", "constraints", "with_pll_attributes"]

VCO_MHZ = (400, 800)
PLL_ATTRIBUTES = {"ICP_CURRENT": 12, "LPF_RESISTOR": 8, "MFG_ENABLE_FILTEROPAMP": 1, "MFG_GMCREF_SEL": 2}
"""Loop filter, as ``ecppll`` sets it."""

RESET_CYCLES = 16
CHIP_PINS = {"cke": "clk_en", "cs_n": "cs", "ras_n": "ras", "cas_n": "cas", "we_n": "we", "ba": "ba", "a": "a", "dqm": "dqm"}
"""Outputs of ``SdramSignature`` and what ``amaranth_boards`` calls them."""


@dataclass(frozen=True)
class Pll:
    """Dividers of an EHXPLLL that makes a clock and one that follows it by a phase.

    Parameters
    ----------
    reference, feedback, output : int
        Dividers of the input, of the feedback from the output, and of the oscillator.
    steps : int
        Phase of the second output, in eighths of the oscillator's period.
    """

    reference: int
    feedback: int
    output: int
    steps: int

    @classmethod
    def find(cls, input_mhz: float, output_mhz: float, phase: float) -> "Pll":
        """The one whose oscillator is nearest to the middle of its range; ``ValueError`` if the clock or the phase cannot be made."""
        found = [(abs(output_mhz * output - sum(VCO_MHZ) / 2), cls(reference, feedback, output, round(phase / 360 * 8 * output)))
                 for reference in range(1, 129) for feedback in range(1, 81) for output in range(1, 129)
                 if input_mhz / reference >= 3.125 and VCO_MHZ[0] <= output_mhz * output <= VCO_MHZ[1]
                 and abs(input_mhz / reference * feedback - output_mhz) < 1e-6]
        if not found:
            raise ValueError(f"no PLL makes {output_mhz} MHz of {input_mhz} MHz")
        pll = min(found, key=lambda entry: entry[0])[1]
        if abs(pll.phase - phase) > 1e-6:
            raise ValueError(f"phase must be a multiple of {45 / pll.output:g} degrees, not {phase}")
        return pll

    @property
    def phase(self) -> float:
        """Degrees by which the second output follows the first."""
        return self.steps / (8 * self.output) * 360

    def instance(self, source: Any, clock: Any, second: Any, locked: Any) -> Instance:
        base = self.output // 2 - 1
        return Instance(
            "EHXPLLL", p_PLLRST_ENA="DISABLED", p_INTFB_WAKE="DISABLED", p_STDBY_ENABLE="DISABLED", p_DPHASE_SOURCE="DISABLED",
            p_OUTDIVIDER_MUXA="DIVA", p_OUTDIVIDER_MUXB="DIVB", p_OUTDIVIDER_MUXC="DIVC", p_OUTDIVIDER_MUXD="DIVD",
            p_CLKI_DIV=self.reference, p_CLKFB_DIV=self.feedback, p_FEEDBK_PATH="CLKOP",
            p_CLKOP_ENABLE="ENABLED", p_CLKOP_DIV=self.output, p_CLKOP_CPHASE=base, p_CLKOP_FPHASE=0,
            p_CLKOS_ENABLE="ENABLED", p_CLKOS_DIV=self.output, p_CLKOS_CPHASE=base + self.steps // 8, p_CLKOS_FPHASE=self.steps % 8,
            i_RST=Const(0), i_STDBY=Const(0), i_CLKI=source, i_CLKFB=clock, o_CLKOP=clock, o_CLKOS=second, o_LOCK=locked,
            i_PHASESEL0=Const(0), i_PHASESEL1=Const(0), i_PHASEDIR=Const(1), i_PHASESTEP=Const(1), i_PHASELOADREG=Const(1),
            i_PLLWAKESYNC=Const(0), i_ENCLKOP=Const(0))


def with_pll_attributes(verilog: str) -> str:
    """Verilog with the attributes that instances of a PLL need: emission keeps none."""
    attributes = ", ".join(f'{name} = "{value}"' for name, value in PLL_ATTRIBUTES.items())
    return verilog.replace("  EHXPLLL #(", f"  (* {attributes} *)\n  EHXPLLL #(")


class Ecp5Top(Elaboratable):
    """A ``System`` on the pins of a board.

    The clock of the SDRAM comes out of a double-rate register like all other outputs, so that its delay is theirs, and follows
    them by the board's phase. Outputs leave from registers in the pads; ``dq`` is sampled by registers in the pads, at the system's
    clock: ``pad_cycles`` is 1. Reset ends 16 cycles after the PLL has locked.

    Parameters
    ----------
    board : Board
    system : System or BringUp

    Attributes
    ----------
    ports : dict of str to (IOPort, list of Pin)
        By name in the netlist.
    """

    def __init__(self, board: Board, system: System | BringUp):
        self.board, self.system = board, system
        names = {"clock": board.platform.default_clk, "rx": "uart.rx", "tx": "uart.tx", "leds": "led", "sdram_clk": "sdram.clk",
                 "sdram_dq": "sdram.dq", **{f"sdram_{ours}": f"sdram.{theirs}" for ours, theirs in CHIP_PINS.items()},
                 **{f"high_{number}": name for number, name in enumerate(board.high)}}
        self.ports: dict[str, tuple[IOPort, list[Pin]]] = {}
        for name, resource in names.items():
            pins = board.pins(resource)
            self.ports[name] = IOPort(len(pins), name=name), pins

    def _port(self, name: str, direction: str, *, levels: bool = True) -> io.SingleEndedPort:
        """``levels``: signals are levels at the pin; otherwise the board's inversion counts."""
        port, pins = self.ports[name]
        return io.SingleEndedPort(port, invert=[pin.inverted and not levels for pin in pins], direction=direction)

    def elaborate(self, platform):
        m = Module()
        board, system = self.board, self.system
        m.submodules.system = system
        chip = system.sdram
        clock, second, locked = Signal(), Signal(), Signal()
        m.submodules.clock_pad = source = io.Buffer("i", self._port("clock", "i"))
        pll = Pll.find(board.input_mhz, board.clock_mhz, board.sdram_phase)
        m.submodules.pll = pll.instance(source.i, clock, second, locked)

        m.domains.start = ClockDomain(local=True, reset_less=True)
        m.domains.second = ClockDomain(local=True, reset_less=True)
        m.d.comb += [ClockSignal("start").eq(clock), ClockSignal("second").eq(second), system.aclk.eq(clock)]
        stable, count, running = Signal(), Signal(range(RESET_CYCLES)), Signal()
        m.submodules.locked = FFSynchronizer(locked, stable, o_domain="start")
        with m.If(~stable):
            m.d.start += [count.eq(0), running.eq(0)]
        with m.Elif(count == RESET_CYCLES - 1):
            m.d.start += running.eq(1)
        with m.Else():
            m.d.start += count.eq(count + 1)
        m.d.comb += system.aresetn.eq(running)

        m.submodules.rx_pad = rx = io.Buffer("i", self._port("rx", "i"))
        m.submodules.rx_sync = FFSynchronizer(rx.i, system.rx, o_domain="start", init=1)
        for name, signal in (("tx", system.tx), ("leds", system.leds)):
            m.submodules[f"{name}_pad"] = pad = io.FFBuffer("o", self._port(name, "o", levels=name == "tx"), o_domain="start")
            m.d.comb += pad.o.eq(signal)
        for number, _ in enumerate(board.high):
            m.submodules[f"high_{number}_pad"] = pad = io.Buffer("o", self._port(f"high_{number}", "o"))
            m.d.comb += pad.o.eq(1)

        m.submodules.sdram_clk_pad = pad = io.DDRBuffer("o", self._port("sdram_clk", "o"), o_domain="second")
        m.d.comb += [pad.o[0].eq(1), pad.o[1].eq(0)]
        for name in CHIP_PINS:
            m.submodules[f"sdram_{name}_pad"] = pad = io.FFBuffer("o", self._port(f"sdram_{name}", "o"), o_domain="start")
            m.d.comb += pad.o.eq(getattr(chip, name))
        port, pins = self.ports["sdram_dq"]
        for number in range(len(pins)):  # an output enable per pin: its register is in the pad
            bit = io.SingleEndedPort(port[number], direction="io")
            m.submodules[f"sdram_dq_{number}_pad"] = pad = io.FFBuffer("io", bit, i_domain="start", o_domain="start")
            m.d.comb += [pad.o.eq(chip.dq_o[number]), pad.oe.eq(chip.dq_oe), chip.dq_i[number].eq(pad.i)]
        return m


def constraints(top: Ecp5Top) -> str:
    """The LPF file: sites, attributes, the frequency of the input."""
    lines = ["BLOCK ASYNCPATHS;", "BLOCK RESETPATHS;"]
    for name, (port, pins) in top.ports.items():
        for number, pin in enumerate(pins):
            bit = f"{name}[{number}]" if len(port) > 1 else name
            lines.append(f'LOCATE COMP "{bit}" SITE "{pin.site}";')
            attributes = "".join(f" {key}={value}" for key, value in sorted(pin.attributes.items()))
            lines.append(f'IOBUF PORT "{bit}"{attributes};')
    lines.append(f'FREQUENCY PORT "clock" {top.board.input_mhz:g} MHZ;')
    return "\n".join(lines) + "\n"
