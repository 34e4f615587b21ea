"""Bank-bundle DRAM controller of a pseudo channel."""

from amaranth.lib import data

from .config import ExpertConfig
from .dram_commands import BUNDLE_BANKS, granule_bits

__all__ = ["COUNTERS", "normal_data", "normal_request"]

TAG_BITS = 8

COUNTERS = data.StructLayout({"bytes": 48, **dict.fromkeys(
    ("activates", "precharges", "refreshes", "row", "refresh", "commands", "full"), 32)})
"""``bytes``: read by bundles; ``activates``, ``precharges``: of whole bundles; ``refreshes``; then logic cycles in which a bundle has
something to read and the data path is free, by what was waited for: ``row`` opening, ``refresh``, command slots or a bundle that the
normal path uses, a ``full`` buffer."""


def normal_request(config: ExpertConfig) -> data.StructLayout:
    """A read of one bank."""
    return data.StructLayout({"bundle": range(config.bundles), "bank": range(BUNDLE_BANKS), "row": range(config.rows),
                              "column": range(config.columns), "tag": TAG_BITS})


def normal_data(config: ExpertConfig) -> data.StructLayout:
    return data.StructLayout({"data": granule_bits(config), "tag": TAG_BITS})
