"""Output registers of ECP5 block RAMs (EBR): registers behind a memory are moved into it, in the netlist of Yosys.

An EBR's data come 5.83 ns after the clock (nextpnr, speed grade 6), which at 150 MHz leaves 0.8 ns for wires and logic. With
its output register (``REGMODE "OUTREG"``) they come after 0.96 ns, but Yosys maps every memory without it, and a register that a
design has there becomes flip-flops in the fabric. So this is done between Yosys and nextpnr::

    EBR --> 5.83 ns --> flip-flops --> logic          EBR with register --> 0.96 ns --> logic

A register can be moved if it does what the EBR's own does: the clock of the port, the enable one net for all bits of the port or
none, no reset, 0 at power-up; and nothing else sees the data of the port. The EBR's register has an enable of its own (``OCE``),
which does not depend on the port's. So a design gives a register behind a memory no reset and puts nothing in front of it:
masks and selections belong behind it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .flip_flops import Wiring, enable, hide, registers_behind

__all__ = ["OUTPUT_REGISTERS", "use_output_registers"]

OUTPUT_REGISTERS = "1"
"""Changes when ``use_output_registers`` moves other registers."""

_DATA_PINS = 18


@dataclass(frozen=True)
class _ReadPort:
    """Data pins ``DOA`` or ``DOB``, or both together: ``sides``; ``clock`` is the side whose clock reads."""

    sides: str
    clock: str


def _read_ports(memory: dict[str, Any]) -> Iterator[_ReadPort]:
    """Ports whose data may come from an output register. A memory of 36 bits has one, with the data pins of both sides."""
    parameters, pins = memory["parameters"], memory["connections"]
    pair = int(parameters["DATA_WIDTH_B"], 2) > _DATA_PINS
    if pair and pins["CLKA"] != pins["CLKB"]:
        # The enable is given to both sides, so it has to belong to both clocks.
        return
    for port in [_ReadPort("AB", "B")] if pair else [_ReadPort("A", "A"), _ReadPort("B", "B")]:
        if all(parameters[f"REGMODE_{side}"] == "NOREG" and parameters[f"CLK{side}MUX"] == f"CLK{side}"
               and pins[f"RST{side}"] == ["0"] and parameters["GSR"] == "DISABLED" for side in port.sides):
            yield port


def use_output_registers(module: dict[str, Any]) -> int:
    """Move registers into the block RAMs of a module of a JSON netlist, port by port; returns how many flip-flops that saves."""
    cells = module["cells"]
    wires = Wiring(module)
    hidden = set()
    for memory in [cell for cell in cells.values() if cell["type"] == "DP16KD"]:
        for port in _read_ports(memory):
            pins = (f"DO{side}{bit}" for side in port.sides for bit in range(_DATA_PINS))
            moved = registers_behind(pins, memory, cells, wires)
            if any(cells[name]["connections"]["CLK"] != memory["connections"][f"CLK{port.clock}"] for name in moved.values()):
                continue
            for pin, name in moved.items():
                hidden.add(memory["connections"][pin][0])
                memory["connections"][pin] = cells[name]["connections"]["Q"]
            if moved:
                net = enable(cells[next(iter(moved.values()))])
                for side in port.sides:
                    memory["parameters"][f"REGMODE_{side}"] = "OUTREG"
                    memory["connections"][f"OCE{side}"] = [net]
            for name in moved.values():
                del cells[name]
    hide(module, hidden)
    return len(hidden)
