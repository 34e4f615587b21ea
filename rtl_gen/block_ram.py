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

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

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
               and pins[f"RST{side}"] == ["0"] for side in port.sides):
            yield port


def _enable(register: dict[str, Any]) -> Any:
    """Net of the clock enable, ``"1"`` without one, ``None`` if the EBR has no such enable."""
    mux = register["parameters"]["CEMUX"].strip()
    if mux == "1":
        return "1"
    return register["connections"]["CE"][0] if mux == "CE" else None


def _movable(register: dict[str, Any], memory: dict[str, Any], clock: str) -> bool:
    """Whether the EBR's register could do what this one does, apart from the enable."""
    parameters, pins = register["parameters"], register["connections"]
    return (register["type"] == "TRELLIS_FF" and parameters["CLKMUX"] == "CLK" and pins["CLK"] == memory["connections"][f"CLK{clock}"]
            and pins.get("LSR", ["0"]) == ["0"] and parameters.get("LSRMUX", "LSR") == "LSR" and parameters["REGSET"] == "RESET"
            and parameters["GSR"] == memory["parameters"]["GSR"] and "keep" not in register["attributes"])


def use_output_registers(module: dict[str, Any]) -> int:
    """Move registers into the block RAMs of a module of a JSON netlist, port by port; returns how many flip-flops that saves."""
    cells = module["cells"]
    readers: dict[Any, list[tuple[str, str]]] = defaultdict(list)
    for name, cell in cells.items():
        for pin, bits in cell["connections"].items():
            if cell["port_directions"][pin] == "input":
                for bit in bits:
                    readers[bit].append((name, pin))
    for name, port in module["ports"].items():
        for bit in port["bits"]:
            readers[bit].append(("", name))
    hidden = set()
    for memory in [cell for cell in cells.values() if cell["type"] == "DP16KD"]:
        for port in _read_ports(memory):
            moved = _registers(port, memory, cells, readers)
            for pin, name in moved.items():
                hidden.add(memory["connections"][pin][0])
                memory["connections"][pin] = cells[name]["connections"]["Q"]
            if moved:
                enable = _enable(cells[next(iter(moved.values()))])
                for side in port.sides:
                    memory["parameters"][f"REGMODE_{side}"] = "OUTREG"
                    memory["connections"][f"OCE{side}"] = [enable]
            for name in moved.values():
                del cells[name]
    for net in module["netnames"].values():
        # There is no wire for what lies between memory and register.
        net["bits"] = ["x" if bit in hidden else bit for bit in net["bits"]]
    return len(hidden)


def _registers(port: _ReadPort, memory: dict[str, Any], cells: dict[str, Any],
               readers: dict[Any, list[tuple[str, str]]]) -> dict[str, str]:
    """Register behind each used data pin of ``port``; empty unless all can be moved."""
    found: dict[str, str] = {}
    for pin in (f"DO{side}{bit}" for side in port.sides for bit in range(_DATA_PINS)):
        for bit in memory["connections"].get(pin, []):
            for name, reader in readers[bit]:
                if pin in found or reader != "DI" or not name or not _movable(cells[name], memory, port.clock):
                    return {}
                found[pin] = name
    enables = {_enable(cells[name]) for name in found.values()}
    return found if len(enables) == 1 and None not in enables else {}
