"""Registers of ECP5 multipliers (MULT18X18D): flip-flops around a multiplier are moved into it, in the netlist of Yosys.

A product comes 3.9 ns after its operands (nextpnr, speed grade 6), and multipliers stand in few rows of the device, so that the
wires to and from them are long: up to 7 ns each in a device that is half full. Yosys maps a multiplier without its registers. With
those of the operands, or that of the product, a cycle has one of the wires::

    FF --> wire --> 3.9 ns --> wire --> FF         wire --> registers, 3.9 ns --> wire --> FF
                                                   FF --> wire --> 3.5 ns, register --> 0.7 ns, wire --> FF

A flip-flop moves if it does what the multiplier's own does: an enable or none, no reset, 0 at power-up. Those of the operands move
together, if little logic lies in front of them (it is better off near its flip-flop); one that something else reads stays as well.
Where they do not, the register of the product moves if nothing else sees the product and it has no enable.

The multipliers of a block of the device share four enables. nextpnr renumbers them where multipliers in a block differ, but for the
register of the product the database of bitstreams (Trellis) has no enable: only number 0 can be relied upon. So each number
belongs to one net in the whole design, 0 to the constant 1 and the others to the enables of most operands, and nothing is renumbered.
"""

from collections import Counter
from typing import Any

from .flip_flops import Wiring, alike, enable, hide, registers_behind

__all__ = ["MULTIPLIER_REGISTERS", "use_multiplier_registers"]

MULTIPLIER_REGISTERS = "4"
"""Changes when ``use_multiplier_registers`` moves other registers."""

_OPERANDS = {side: [f"{side}{bit}" for bit in range(18)] for side in "AB"}
_PRODUCT = [f"P{bit}" for bit in range(36)]
_LOGIC = {"LUT4": 1, "PFUMX": 0, "L6MUX21": 0, "TRELLIS_DPR16X4": 1}
"""Cells that may lie in front of the registers of an operand, with the levels of logic that they are. No multipliers: the register
behind one may be moved into it, and would leave the operand without a driver."""
_MOST_LEVELS = 3


def use_multiplier_registers(module: dict[str, Any]) -> int:
    """Move registers into the multipliers of a module of a JSON netlist; returns how many flip-flops that saves."""
    cells = module["cells"]
    before, wires, hidden = len(cells), Wiring(module), set()
    multipliers = {name: cell for name, cell in cells.items() if cell["type"] == "MULT18X18D"}
    operands = {name: found for name, cell in multipliers.items() if (found := _operands(cell, cells, wires))}
    nets = Counter(net for found in operands.values() for net in _enables(found) - {"1"})
    pins = {"1": "CE0"} | {net: f"CE{number}" for number, (net, _) in enumerate(nets.most_common(3), 1)}
    for name, multiplier in multipliers.items():
        if name in operands and _enables(operands[name]) <= pins.keys():
            for side, registers in operands[name].items():
                _switch_on(multiplier, f"REG_INPUT{side}", pins, next(iter(registers.values())))
                for pin, register in registers.items():
                    multiplier["connections"][pin] = register["connections"]["DI"]
            continue
        product = registers_behind(_PRODUCT, multiplier, cells, wires)
        like = next((cells[behind] for behind in product.values()), None)
        if like is None or enable(like) != "1":
            continue
        _switch_on(multiplier, "REG_OUTPUT", pins, like)
        for pin, behind in product.items():
            hidden.add(multiplier["connections"][pin][0])
            multiplier["connections"][pin] = cells.pop(behind)["connections"]["Q"]
    used = Wiring(module).readers
    for name in [name for name, cell in cells.items() if cell["type"] == "TRELLIS_FF"]:
        net = cells[name]["connections"]["Q"][0]
        if net in wires.readers and net not in used:
            hidden.add(net)
            del cells[name]
    hide(module, hidden)
    return before - len(cells)


def _switch_on(multiplier: dict[str, Any], registers: str, pins: dict[Any, str], like: dict[str, Any]) -> None:
    """Use registers of the multiplier, with the clock and the enable of a flip-flop."""
    net = enable(like)
    # Yosys gives a multiplier no parameters; flip-flops have GSR off.
    multiplier["parameters"] |= {f"{registers}_CLK": "CLK0", f"{registers}_CE": pins[net], "GSR": "DISABLED"}
    for pin, bits in (("CLK0", like["connections"]["CLK"]), (pins[net], [net])):
        multiplier["connections"][pin] = bits
        multiplier["port_directions"][pin] = "input"


def _enables(operands: dict[str, dict[str, dict[str, Any]]]) -> set[Any]:
    return {enable(register) for registers in operands.values() for register in registers.values()}


def _operands(multiplier: dict[str, Any], cells: dict[str, Any], wires: Wiring) -> dict[str, dict[str, dict[str, Any]]]:
    """Per operand the register of each pin that is not 0; empty unless all of both can be moved."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for side, pins in _OPERANDS.items():
        found[side] = {}
        for pin in pins:
            bit = multiplier["connections"][pin][0]
            if bit == "0":
                continue
            name, output = wires.drivers.get(bit, ("", ""))
            if output != "Q" or _levels(cells[name]["connections"].get("DI", ["x"])[0], cells, wires) > _MOST_LEVELS:
                return {}
            found[side][pin] = cells[name]
        if not alike(list(found[side].values())):
            return {}
    clocks = {register["connections"]["CLK"][0] for registers in found.values() for register in registers.values()}
    return found if len(clocks) == 1 else {}


def _levels(net: Any, cells: dict[str, Any], wires: Wiring) -> int:
    """Levels of logic between registers and ``net``; more than ``_MOST_LEVELS``, or other cells, count as one too many."""
    front, levels = {net}, 0
    while front:
        sources, deeper = set(), 0
        for bit in front:
            name, _ = wires.drivers.get(bit, ("", ""))
            if name not in cells or cells[name]["type"] == "TRELLIS_FF":
                continue
            cell = cells[name]
            if cell["type"] not in _LOGIC:
                return _MOST_LEVELS + 1
            deeper = max(deeper, _LOGIC[cell["type"]])
            sources |= {source for pin, bits in cell["connections"].items() if cell["port_directions"][pin] == "input"
                       and (cell["type"] != "TRELLIS_DPR16X4" or pin == "RAD") for source in bits}
        front, levels = sources, levels + deeper
        if levels > _MOST_LEVELS:
            break
    return levels
