"""The error about a name that is not known."""

import difflib
from collections.abc import Iterable

__all__ = ["unknown_name"]


def unknown_name(parameter: str, name: str, known: Iterable[str]) -> ValueError:
    """``parameter must be one of KNOWN, not NAME``, with the nearest known name if one is near."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return ValueError(f"{parameter} must be one of {', '.join(names)}, not {name!r}{hint}")
