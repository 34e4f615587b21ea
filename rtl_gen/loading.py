"""Objects by name, without importing anything else: the simulator process uses this too."""

from importlib import import_module
from typing import Any

__all__ = ["load"]


def load(reference: str) -> Any:
    """The object that ``package.module:Name`` names; ``ImportError`` says what is missing."""
    module, _, name = reference.partition(":")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ImportError(f"cannot load {reference!r}: {error}") from error
