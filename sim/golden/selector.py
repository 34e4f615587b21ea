"""Golden model of the selector: a layer's operations per byte against a threshold."""

from collections.abc import Sequence

from ...accelerators.experts.config import FORMATS

__all__ = ["select"]

OPB_UNITS = 16
"""Of the threshold per Op/B."""


def select(uses: Sequence[int], threshold: int, element: str) -> bool:
    """Does a layer run on Logic-PIM? ``uses``: tokens that use each matrix that is loaded once; 0: it is not loaded."""
    operations, loaded = 2 * sum(uses), sum(use != 0 for use in uses) * FORMATS[element].storage_bits // 8
    return OPB_UNITS * operations <= threshold * loaded
