"""What options of the ``llmrtl`` command may be, and mean: types for ``argparse``, whose errors name the rule and what was given."""

from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable
from math import nan

from ..accelerators.config import AcceleratorConfig
from ..accelerators.presets import preset, with_cache
from .formats import high_precision

__all__ = ["DEFAULT_PRESET", "SEED_LIMITS", "TOKEN_LIMITS", "configuration", "number", "token_ids", "whole", "window"]

DEFAULT_PRESET = "edge"
SEED_LIMITS = 0, (1 << 32) - 1
TOKEN_LIMITS = 1, 1 << 20
"""Tokens, positions: the longest context that an ``AcceleratorConfig`` can have."""


def whole(low: int, high: int) -> Callable[[str], int]:
    """A whole number in ``low..high``."""
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise ArgumentTypeError(f"must be a whole number in {low}..{high}, not {text!r}")
        return value
    return parse


def number(low: float, high: float, unit: str = "") -> Callable[[str], float]:
    """A number from ``low`` to ``high``; ``nan`` is none."""
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = nan
        if not low <= value <= high:
            raise ArgumentTypeError(f"must be a number{unit and ' of '}{unit} from {low:g} to {high:g}, not {text!r}")
        return value
    return parse


def token_ids(text: str) -> list[int]:
    """Token ids separated by commas."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ArgumentTypeError(f"must be token ids separated by commas, not {text!r}") from None


def configuration(options: Namespace) -> AcceleratorConfig:
    """The preset, with wider formats if ``--high-precision`` was given, and with another cache if ``--window`` was."""
    config = preset(options.preset or DEFAULT_PRESET)
    if window(options) is not None and config.cache != "window":
        config = with_cache(config, "window")
    return high_precision(config) if options.high_precision else config


def window(options: Namespace) -> tuple[int, int] | None:
    """Sinks and window, if ``--window`` was given."""
    if getattr(options, "window", None) is None:
        if getattr(options, "sinks", None) is not None:
            raise ValueError("--sinks has no effect without --window: all positions are kept")
        return None
    return options.sinks or 0, options.window
