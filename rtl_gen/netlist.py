"""Names in a netlist of Yosys: every cell gets the name of a signal, and so a place in the hierarchy.

Flattening keeps the names of nets (``core.attention.total``) but not of cells; Yosys's ``autoname`` takes longer than the
synthesis of a large design. This does the same in linear time: a cell is called after the net that it drives, or, if
that has no name, after the nearest cell behind it.
"""

import re
from collections import Counter, deque
from typing import Any

__all__ = ["NAMING", "name_cells", "resources_by_instance"]

NAMING = "1"
"""Changes when ``name_cells`` gives other names."""

_ANONYMOUS = re.compile(r"\$|_\d+_$")
_TAKEN_IN = re.compile(r"(i\w*__(payload|valid)\b|o\w*__ready\b|rst$|clk$)")


class _Scopes:
    """Instances of a flattened design: Yosys leaves a ``$scopeinfo`` for each."""

    def __init__(self, cells: dict[str, Any]):
        self.paths = {name for name, cell in cells.items() if cell["type"] == "$scopeinfo"}

    def of(self, name: str) -> list[str]:
        """Paths of the instances around a signal, outermost first."""
        parts = name.split(".")
        return [path for length in range(1, len(parts)) if (path := ".".join(parts[:length])) in self.paths]

    def local(self, name: str) -> str:
        """A signal's name without the instances."""
        around = self.of(name)
        return name[len(around[-1]) + 1:] if around else name

    def rank(self, name: str) -> tuple[bool, int, int, str]:
        """Sorts the aliases of a net: the driver's own name first, that is no input, and deep in the hierarchy."""
        return bool(_TAKEN_IN.match(self.local(name))), -len(self.of(name)), len(name), name


def _net_names(module: dict[str, Any], scopes: _Scopes) -> dict[int, str]:
    best: dict[int, tuple[Any, str]] = {}
    for name, net in module["netnames"].items():
        if net.get("hide_name") or _ANONYMOUS.match(scopes.local(name)):
            continue
        rank = scopes.rank(name)
        for bit in net["bits"]:
            if isinstance(bit, int) and (bit not in best or rank < best[bit][0]):
                best[bit] = rank, name
    return {bit: name for bit, (_, name) in best.items()}


def _bits(cell: dict[str, Any], direction: str) -> list[int]:
    return [bit for port, bits in cell["connections"].items() if cell["port_directions"].get(port) == direction
            for bit in bits if isinstance(bit, int)]


def name_cells(module: dict[str, Any]) -> None:
    """Rename the cells of a module of a JSON netlist: ``core.attention.total_LUT4_7``."""
    cells = module["cells"]
    nets = _net_names(module, _Scopes(cells))
    drivers: dict[int, str] = {}
    bases: dict[str, str] = {}
    for name, cell in cells.items():
        if cell["type"] == "$scopeinfo":
            continue
        outputs = _bits(cell, "output")
        drivers.update(dict.fromkeys(outputs, name))
        if not name.startswith("$"):
            bases[name] = name
        elif base := next((nets[bit] for bit in outputs if bit in nets), None):
            bases[name] = base
    waiting = deque(bases)
    while waiting:
        consumer = waiting.popleft()
        for bit in _bits(cells[consumer], "input"):
            driver = drivers.get(bit)
            if driver is not None and driver not in bases:
                bases[driver] = bases[consumer]
                waiting.append(driver)
    renamed: dict[str, Any] = {}
    used: Counter[str] = Counter()
    for name, cell in cells.items():
        new = name
        if name.startswith("$") and name in bases:
            stem = f"{bases[name]}_{cell['type']}"
            new = f"{stem}_{used[stem]}"
            used[stem] += 1
        renamed[new] = cell
    module["cells"] = renamed


def resources_by_instance(module: dict[str, Any]) -> dict[str, Counter[str]]:
    """Cells by type below every instance, after ``name_cells``."""
    scopes = _Scopes(module["cells"])
    counts: dict[str, Counter[str]] = {path: Counter() for path in sorted(scopes.paths)}
    for name, cell in module["cells"].items():
        for path in scopes.of(name) if cell["type"] != "$scopeinfo" else ():
            counts[path][cell["type"]] += 1
    return counts
