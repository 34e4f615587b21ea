"""The table of proofs in docs/verification.md: ``python -m llmrtl.sim.formal.table``."""

import inspect
from collections.abc import Iterable, Mapping

from .cases import CASES
from .contract import StreamContract
from .units import BOUNDED, FEWER, INDUCTIVE, KNOWN, MORE_STEPS, SMALLER, UNPROVED

__all__ = ["contracts_text", "table", "units_text"]


def table() -> str:
    """A line for each case, but for those of whole units."""
    lines = ["| proof | contract | method | run by |", "|---|---|---|---|"]
    for name, case in CASES.items():
        if name.startswith("unit_"):
            continue
        how = f"induction, {case.depth} steps" if case.method == "induction" else f"{case.depth} cycles after reset"
        lines.append(f"| `{name}` | {type(case.contract()).__name__} | {how} | `make {'formal' if case.slow else 'test'}` |")
    return "\n".join(lines)


def contracts_text() -> str:
    """What each contract says, from its docstring."""
    kinds = dict.fromkeys(type(case.contract()) for case in CASES.values())
    return "\n".join(f"* **{kind.__name__}**: " + " ".join(_promise(kind).split()) for kind in kinds if kind is not StreamContract)


def units_text() -> str:
    """What is proved of each registered unit, and of which nothing is."""
    reasons = dict.fromkeys(UNPROVED.values())
    return "\n".join((
        f"* by induction of two steps: {_names(INDUCTIVE)};",
        f"* likewise, of fewer places, or with plain inputs that stand still: {_names(FEWER)}; by contracts of their own: "
        f"{_names(KNOWN)};",
        f"* by induction of so many steps: {_depths(MORE_STEPS)};",
        f"* for some cycles after reset, in which each stream waits to be taken: {_depths(BOUNDED)};",
        "* likewise, of fewer places, or with plain inputs that stand still: "
        f"{_depths({unit: depth for unit, (_, depth) in SMALLER.items()})};",
        *(f"* not proved, {reason}: {_names(name for name, why in UNPROVED.items() if why == reason)};" for reason in reasons),
        "* all others that have streams: in the table below."))


def _names(units: Iterable[str]) -> str:
    return ", ".join(f"`{unit}`" for unit in units)


def _depths(units: Mapping[str, int]) -> str:
    return ", ".join(f"`{unit}` {depth}" for unit, depth in units.items())


def _promise(kind: type) -> str:
    return inspect.cleandoc(kind.__doc__ or "").removesuffix(".") + "."


if __name__ == "__main__":
    print(contracts_text() + "\n\n" + units_text() + "\n\n" + table())
