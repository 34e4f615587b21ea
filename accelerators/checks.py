"""Checks of parameters, and the base of the descriptions that have them."""

import json
import re
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

__all__ = ["Configuration", "check_int", "check_name", "json_object"]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def check_int(name: str, value: Any, low: int, high: int, *, power_of_two: bool = False,
              multiple_of: int = 1) -> None:
    """Refuse ``value`` unless it is an integer in ``low..high`` (and a power of two, or a multiple).

    Raises ``TypeError`` for anything but an ``int`` and ``ValueError`` for one that breaks a rule.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be in {low}..{high}, not {value}")
    if power_of_two and value & (value - 1):
        raise ValueError(f"{name} must be a power of two, not {value}")
    if value % multiple_of:
        raise ValueError(f"{name} must be a multiple of {multiple_of}, not {value}")


def check_name(name: Any) -> None:
    """Refuse what cannot be part of a file name."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError(f"name must be made of letters, digits, '_', '-', '.' and start with one of the first two, not {name!r}")


def json_object(path: Path) -> dict[str, Any]:
    """What is in a JSON file; ``ValueError`` or ``TypeError`` unless it is an object."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise TypeError(f"must hold a JSON object, not {type(content).__name__}")
    return content


class Configuration:
    """Base of the frozen dataclasses that describe something: JSON round trip."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_json(cls, data: dict[str, Any]):
        known = {field.name for field in fields(cls)}  # type: ignore[arg-type]
        for key in data:
            if key not in known:
                raise ValueError(f"{cls.__name__} has no parameter {key!r}")
        needed = [field.name for field in fields(cls)  # type: ignore[arg-type]
                  if field.default is MISSING and field.default_factory is MISSING and field.name not in data]
        if needed:
            raise ValueError(f"{cls.__name__} needs {', '.join(needed)}")
        return cls(**data)
