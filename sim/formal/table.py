"""The table of proofs in docs/verification.md: ``python -m llmrtl.sim.formal.table``."""

import inspect
from collections.abc import Iterable, Mapping

from .cases import CASES
from .contract import StreamContract
from .units import FEWER, INDUCTIVE, KNOWN, MORE_STEPS

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
    """What each contract says, and each that one refers to, from its docstring."""
    kinds = dict.fromkeys(kind for case in CASES.values() for kind in reversed(type(case.contract()).__mro__)
                          if issubclass(kind, StreamContract) and not kind.__name__.startswith("_"))
    return "\n".join(f"* **{kind.__name__}**: " + " ".join(_promise(kind).split()) for kind in kinds if kind is not StreamContract)


def units_text() -> str:
    """What is proved of each registered unit."""
    return "\n".join((
        f"* by induction of two steps: {_names(INDUCTIVE)};",
        f"* likewise, of fewer places, or with plain inputs that stand still: {_names(FEWER)};",
        f"* by induction of so many steps: {_depths(MORE_STEPS)};",
        f"* likewise, by contracts of their own: {_depths({unit: steps for unit, (_, steps) in KNOWN.items()})};",
        "* all others that have streams: in the table below."))


def _names(units: Iterable[str]) -> str:
    return ", ".join(f"`{unit}`" for unit in units)


def _depths(units: Mapping[str, int]) -> str:
    return ", ".join(f"`{unit}` {depth}" for unit, depth in units.items())


def _promise(kind: type) -> str:
    return inspect.cleandoc(kind.__doc__ or "").removesuffix(".") + "."


if __name__ == "__main__":
    print(contracts_text() + "\n\n" + units_text() + "\n\n" + table())
