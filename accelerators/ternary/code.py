"""The trit-group code: which index in a weight word stands for which group of ternary weights.

A group of G trits (-1, 0, +1) times G activations is one of ``3**G`` signed sums. Only ``entries = (3**G + 1) / 2``
of them are kept in a table: the zero sum and the groups whose first non-zero trit is +1; the others are their
negatives. An index is ``sign << (index_bits - 1) | entry`` and stands for ``(sign ? -1 : +1) * sum[entry]``. The
zero group is always ``sign = 0, entry = 0``.

The entries are in the order of a reflected ternary Gray code (trit 0, the one of the lowest column, is the slowest),
so that each entry is the *previous* one plus or minus one activation: a table is built with one adder and one register,
one entry per cycle. For G = 2: ``(0, 0) (0, +) (+, +) (+, 0) (+, -)``.

Plain Python and NumPy, no Amaranth: the hardware, the packer and the golden model read this file.
"""

from functools import cache
from itertools import pairwise

import numpy as np

__all__ = ["MAX_GROUP_SIZE", "decode", "encode", "entries", "steps"]

MAX_GROUP_SIZE = 5


@cache
def entries(group_size: int) -> tuple[tuple[int, ...], ...]:
    """Trits of every entry, in table order: entry 0 is the zero group.

    Raises ``ValueError`` unless ``group_size`` is in 1..5.
    """
    if group_size not in range(1, MAX_GROUP_SIZE + 1):
        raise ValueError(f"group_size must be in 1..{MAX_GROUP_SIZE}, not {group_size!r}")
    if group_size == 1:
        return ((0,), (1,))
    # The half code of the other trits ends in a corner of their cube; a walk through the whole cube starts there.
    half = entries(group_size - 1)
    return (*((0, *trits) for trits in half), *((1, *trits) for trits in _snake(half[-1])))


def _snake(corner: tuple[int, ...]) -> list[tuple[int, ...]]:
    """All groups of ``len(corner)`` trits from ``corner`` to the opposite one, one trit changing by one each time."""
    if not corner:
        return [()]
    walk = _snake(corner[1:])
    first = corner[0]
    return [(trit, *rest) for trit, rests in ((first, walk), (0, walk[::-1]), (-first, walk)) for rest in rests]


@cache
def steps(group_size: int) -> tuple[tuple[int, int], ...]:
    """``(element, sign)`` per entry from entry 1 on: entry = previous entry + sign * activation[element]."""
    order = entries(group_size)
    found = []
    for before, after in pairwise(order):
        (change,) = ((element, new - old) for element, (old, new) in enumerate(zip(before, after, strict=True))
                     if new != old)
        found.append(change)
    return tuple(found)


@cache
def _tables(group_size: int) -> tuple[np.ndarray, np.ndarray]:
    """``index[ternary number]`` and ``trits[index]`` (0 for code words that stand for nothing)."""
    order = np.array(entries(group_size), dtype=np.int64)
    powers = 3 ** np.arange(group_size)[::-1]
    sign = 1 << (len(order) - 1).bit_length()
    # Numbers are in -(3**G // 2) .. 3**G // 2; NumPy's negative indices wrap to the upper half of the array.
    index = np.zeros(3 ** group_size, dtype=np.uint8)
    trits = np.zeros((2 * sign, group_size), dtype=np.int8)
    for entry, group in enumerate(order):
        index[group @ powers] = entry
        trits[entry] = group
        if entry:
            index[-(group @ powers)] = sign | entry
            trits[sign | entry] = -group
    for array in (index, trits):
        array.setflags(write=False)
    return index, trits


def encode(trits: np.ndarray) -> np.ndarray:
    """Indices (uint8 ``[...]``) of groups of trits (integers ``[..., G]``).

    Raises ``TypeError`` for anything but an integer array and ``ValueError`` for a value that is no trit or for a
    group size outside 1..5.
    """
    trits = np.asarray(trits)
    if not np.issubdtype(trits.dtype, np.integer):
        raise TypeError(f"trits must be an array of integers, not of {trits.dtype}")
    if trits.ndim < 1:
        raise ValueError("trits must have a last axis of one group")
    index, _ = _tables(trits.shape[-1])
    if trits.size and not (trits.min() >= -1 and trits.max() <= 1):
        wrong = trits[(trits < -1) | (trits > 1)]
        raise ValueError(f"trits must be -1, 0 or +1, not {wrong.flat[0]}")
    number = np.zeros(trits.shape[:-1], dtype=np.int8)  # |number| <= 3**5 // 2 = 121
    for element in range(trits.shape[-1]):
        number = number * np.int8(3) + trits[..., element].astype(np.int8, copy=False)
    return index[number]


def decode(indices: np.ndarray, group_size: int) -> np.ndarray:
    """Trits (int8 ``[..., G]``) of indices (integers ``[...]``): the inverse of ``encode``.

    Raises ``ValueError`` for a code word that ``encode`` never gives: negative zero, or no entry.
    """
    index, trits = _tables(group_size)
    indices = np.asarray(indices)
    legal = np.zeros(len(trits), dtype=bool)
    legal[index] = True
    if indices.size and not (indices.min() >= 0 and indices.max() < len(trits) and legal.take(indices).all()):
        wrong = next(int(i) for i in indices.flat if not (0 <= i < len(trits) and legal[i]))
        raise ValueError(f"{wrong} is no index of a group of {group_size} trits")
    return trits.take(indices, axis=0, mode="clip")  # nothing is clipped: the mode is the fast one
