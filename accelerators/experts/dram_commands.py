"""Commands of a pseudo channel, and the pins through which they leave."""

from enum import IntEnum

from amaranth.lib import data

from ..integers import ceil_div
from .config import SLOTS, ExpertConfig

__all__ = ["BUNDLE_BANKS", "Command", "command_pins", "data_cycles", "granule_bits", "slot_layout"]

BUNDLE_BANKS = 8
"""Banks of a bundle: 4 bank groups x 2. Bank ``group + 4 * bank[0]``."""


class Command(IntEnum):
    """``ALL_*``: all banks of a bundle. ``HALF_ACTIVATE``: banks ``bank`` to ``bank + 3`` of it, one after another, tRRD apart.
    ``ACTIVATE``, ``READ``, ``PRECHARGE``: one bank. ``PRECHARGE_CHANNEL``, ``REFRESH``: all banks of the pseudo channel."""

    NONE = 0
    ALL_ACTIVATE = 1
    ALL_READ = 2
    ALL_PRECHARGE = 3
    HALF_ACTIVATE = 4
    ACTIVATE = 5
    READ = 6
    PRECHARGE = 7
    PRECHARGE_CHANNEL = 8
    REFRESH = 9


def slot_layout(config: ExpertConfig) -> data.StructLayout:
    """A command slot (tCK)."""
    return data.StructLayout({"command": 4, "bundle": range(config.bundles), "bank": range(BUNDLE_BANKS),
                              "row": range(config.rows), "column": range(config.columns)})


def command_pins(config: ExpertConfig) -> data.ArrayLayout:
    """The slots of a logic cycle, the first one lowest."""
    return data.ArrayLayout(slot_layout(config), SLOTS)


def granule_bits(config: ExpertConfig) -> int:
    """What a read of one bank gives: its share of what the bundle gives."""
    return 8 * config.word_bytes * config.timing.ccd // SLOTS // BUNDLE_BANKS


def data_cycles(config: ExpertConfig) -> int:
    """Logic cycles from a read command, in whichever slot, to its first word."""
    return ceil_div(config.timing.cl + config.timing.bl + SLOTS - 1, SLOTS)
