"""Golden model of the selection of the largest scores."""

from collections.abc import Sequence

__all__ = ["top_indices"]


def top_indices(scores: Sequence[int], count: int) -> list[int]:
    """Numbers of the ``count`` largest, in rising order; of equal ones the earlier."""
    return sorted(sorted(range(len(scores)), key=lambda index: (-scores[index], index))[:count])
