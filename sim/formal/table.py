"""The table of proofs in docs/verification.md: ``python -m llmrtl.sim.formal.table``."""

import inspect

from .cases import CASES
from .contract import StreamContract

__all__ = ["contracts_text", "table"]


def table() -> str:
    """A line for each case."""
    lines = ["| proof | contract | method | run by |", "|---|---|---|---|"]
    for name, case in CASES.items():
        how = f"induction, {case.depth} steps" if case.method == "induction" else f"{case.depth} cycles after reset"
        lines.append(f"| `{name}` | {type(case.contract()).__name__} | {how} | `make {'formal' if case.slow else 'test'}` |")
    return "\n".join(lines)


def contracts_text() -> str:
    """What each contract says, from its docstring."""
    kinds = dict.fromkeys(type(case.contract()) for case in CASES.values())
    return "\n".join(f"* **{kind.__name__}**: " + " ".join(_promise(kind).split()) for kind in kinds if kind is not StreamContract)


def _promise(kind: type) -> str:
    return inspect.cleandoc(kind.__doc__ or "").removesuffix(".") + "."


if __name__ == "__main__":
    print(contracts_text() + "\n\n" + table())
