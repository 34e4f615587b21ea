"""What options of the ``llmrtl`` command may be, and mean: types for ``argparse``, whose errors name the rule and what was given."""

from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable
from dataclasses import replace
from math import nan

from ..accelerators.config import AcceleratorConfig
from ..accelerators.presets import preset, with_cache
from .compile import Budget
from .formats import high_precision

__all__ = ["DEFAULT_PRESET", "LOCAL", "SEED_LIMITS", "TOKEN_LIMITS", "budget", "configuration", "having_cache", "number",
           "retrieval", "token_ids", "whole", "window"]

DEFAULT_PRESET = "edge"
LOCAL = 64
"""Latest positions that attention sees beside blocks, if none are asked for."""

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


def having_cache(config: AcceleratorConfig, cache: str, asked_by: str) -> AcceleratorConfig:
    """``config`` with the KV cache that an option or command needs; ``ValueError`` if it is made for another one, or cannot have it."""
    if config.cache not in ("contiguous", cache):
        raise ValueError(f"{asked_by} needs a KV cache of kind {cache!r}, preset {config.name!r} is one with {config.cache!r}")
    try:
        return config if config.cache == cache else with_cache(config, cache)
    except ValueError as error:
        raise ValueError(f"{asked_by} needs a KV cache of kind {cache!r}, which preset {config.name!r} cannot have: {error}") from None


def configuration(options: Namespace) -> AcceleratorConfig:
    """The preset, with wider formats if ``--high-precision`` was given, with another cache if ``--window`` or ``--budget`` was, with
    block retrieval if ``--blocks`` was."""
    config = preset(options.preset or DEFAULT_PRESET)
    for option, cache, wanted in (("--window", "window", window(options)), ("--budget", "evict", budget(options))):
        if wanted is not None:
            config = having_cache(config, cache, option)
    if retrieval(options) is not None and not config.block_retrieval:
        config = replace(config, block_retrieval=True, name=f"{config.name}_blocks")
    return high_precision(config) if options.high_precision else config


def _keeps_budget(options: Namespace) -> bool:
    """Whether the KV cache is one with a budget of rows."""
    if getattr(options, "budget", None) is not None and getattr(options, "window", None) is not None:
        raise ValueError("give --window or --budget, not both: they are different KV caches")
    return (getattr(options, "budget", None) is not None
            or (getattr(options, "window", None) is None and preset(options.preset or DEFAULT_PRESET).cache == "evict"))


def window(options: Namespace) -> tuple[int, int] | None:
    """Sinks and window, if ``--window`` was given."""
    if getattr(options, "window", None) is None:
        if getattr(options, "sinks", None) is not None and not _keeps_budget(options):
            raise ValueError("--sinks has no effect without --window or --budget: all positions are kept")
        return None
    return options.sinks or 0, options.window


def budget(options: Namespace) -> Budget | None:
    """Budget of rows and its rules, if ``--budget`` was given or the preset has such a KV cache."""
    rules = {name: value for name in ("recent", "threshold") if (value := getattr(options, name, None)) is not None}
    if _keeps_budget(options):
        return Budget(getattr(options, "budget", None), getattr(options, "sinks", None), **rules)
    for name in rules:
        raise ValueError(f"--{name} has no effect without --budget")
    return None


def retrieval(options: Namespace) -> tuple[int, int] | None:
    """Blocks and latest positions that attention sees, if ``--blocks`` was given."""
    local = getattr(options, "local", None)
    if getattr(options, "blocks", None) is None:
        if local is not None:
            raise ValueError("--local has no effect without --blocks: all positions are seen")
        return None
    if getattr(options, "window", None) is not None or _keeps_budget(options):
        raise ValueError("--blocks chooses among all positions: it does not go with --window or --budget")
    return options.blocks, LOCAL if local is None else local
