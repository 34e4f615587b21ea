"""Flip-flops of an ECP5 in a netlist of Yosys: which of them a register inside another cell could stand for."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["Wiring", "alike", "enable", "hide", "registers_behind"]


class Wiring:
    """Who drives and who reads each net of a module of a JSON netlist.

    Members
    -------
    drivers : dict of net to (cell, pin)
        Without the module's inputs.
    readers : dict of net to list of (cell, pin)
        A port of the module is the pin of a cell with an empty name.
    """

    def __init__(self, module: dict[str, Any]):
        self.drivers: dict[Any, tuple[str, str]] = {}
        self.readers: dict[Any, list[tuple[str, str]]] = defaultdict(list)
        for name, cell in module["cells"].items():
            for pin, bits in cell["connections"].items():
                for bit in bits:
                    if cell["port_directions"][pin] == "input":
                        self.readers[bit].append((name, pin))
                    else:
                        self.drivers[bit] = name, pin
        for name, port in module["ports"].items():
            for bit in port["bits"]:
                self.readers[bit].append(("", name))


def enable(register: dict[str, Any]) -> Any:
    """Net of the clock enable, ``"1"`` without one, ``None`` if it is inverted."""
    mux = register["parameters"]["CEMUX"].strip()
    if mux == "1":
        return "1"
    return register["connections"]["CE"][0] if mux == "CE" else None


def _is_plain(cell: dict[str, Any], clock: Any) -> bool:
    """A flip-flop at the rising edge of ``clock`` with an enable or none, no reset, 0 at power-up, that no one wants kept."""
    if cell["type"] != "TRELLIS_FF":
        return False
    parameters, pins = cell["parameters"], cell["connections"]
    return (parameters["CLKMUX"] == "CLK" and pins["CLK"] == [clock] and pins.get("LSR", ["0"]) == ["0"]
            and parameters.get("LSRMUX", "LSR") == "LSR" and parameters["REGSET"] == "RESET" and parameters["GSR"] == "DISABLED"
            and enable(cell) is not None and "keep" not in cell["attributes"])


def alike(registers: Sequence[dict[str, Any]]) -> bool:
    """There are some, another cell's registers could stand for each, and one clock and enable does for all."""
    return (bool(registers) and all(_is_plain(cell, registers[0]["connections"].get("CLK", ["x"])[0]) for cell in registers)
            and len({enable(cell) for cell in registers}) == 1)


def registers_behind(pins: Iterable[str], cell: dict[str, Any], cells: dict[str, Any], wires: Wiring) -> dict[str, str]:
    """Register behind each used pin of ``cell``: pin -> name; empty unless that is all that reads them and they are ``alike``."""
    found: dict[str, str] = {}
    for pin in pins:
        for bit in cell["connections"].get(pin, []):
            for name, reader in wires.readers[bit]:
                if pin in found or reader != "DI" or not name:
                    return {}
                found[pin] = name
    return found if alike([cells[name] for name in found.values()]) else {}


def hide(module: dict[str, Any], nets: set) -> None:
    """Take away the names of nets that are inside a cell now."""
    for net in module["netnames"].values():
        net["bits"] = ["x" if bit in nets else bit for bit in net["bits"]]
