"""Elements of the expert unit as integers, exact dot products of them, and rounding: bit-exact with the hardware, whatever the order.

An element of a format is an integer times ``2**low``, so a dot product is an integer times ``2**(2 * low)``, and sums of any number
of products in any order are exact::

    fp16    significand << max(exponent - 1, 0)                  low = -24, all finite values are exact
    bf16    the same, with exponents of 2**-25 to 2**15          low = -32, smaller values lose their low bits (towards zero)
    int8    the integer itself                                   low = 0

A result is rounded once, to the nearest, ties to even, with subnormals; too large ones are infinite. What is infinite or no number, and
a bf16 value from 2**16 on, is *special*: a dot product with a special element in it is not a number.
"""

import numpy as np

from ...accelerators.experts.config import FORMATS

__all__ = ["SPLIT", "decode", "dot", "encode", "multiply_add", "round_sum"]

LIMB = 14
"""Bits of the parts in which integers are multiplied: products of two, summed 2**16 times, are exact in float64."""

LIMBS = 4

SPLIT = LIMB * LIMBS
"""Sums have a high part, and ``SPLIT`` bits below it."""


def decode(stored: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """``(integers, special)`` of stored bits (any integer type, low bits count)."""
    form, bits = FORMATS[name], np.asarray(stored).astype(np.int64) & (1 << FORMATS[name].storage_bits) - 1
    if not form.exponent_bits:
        return bits - ((bits & 128) << 1), np.zeros(bits.shape, bool)
    exponent = bits >> form.fraction_bits & (1 << form.exponent_bits) - 1
    significand = bits & (1 << form.fraction_bits) - 1 | (exponent > 0).astype(np.int64) << form.fraction_bits
    # The unit of a significand is 2**(max(exponent, 1) - bias - fraction_bits).
    shift = np.maximum(exponent, 1) - form.bias - form.fraction_bits - form.low
    special = (exponent == (1 << form.exponent_bits) - 1) | (shift + form.fraction_bits + 1 > form.bits)
    shift = np.where(special, 0, shift)
    magnitude = np.where(shift >= 0, significand << np.maximum(shift, 0), significand >> np.minimum(-np.minimum(shift, 0), 63))
    return np.where(bits >> form.storage_bits - 1, -magnitude, magnitude), special


def dot(x: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Exact ``x @ w.T`` of the integers ``[tokens, n]`` and ``[rows, n]`` of ``decode``, n at most 2**16: ``(high, low)``, the
    sum is ``high * 2**SPLIT + low`` with ``0 <= low < 2**SPLIT``."""
    a, b = ([limb.astype(np.float64) for limb in _limbs(values)] for values in (x, w))
    sums = [sum((np.rint(a[i] @ b[k - i].T).astype(np.int64) for i in range(max(0, k - LIMBS + 1), min(k, LIMBS - 1) + 1)),
                start=np.zeros((len(x), len(w)), np.int64)) for k in range(2 * LIMBS - 1)]
    return _carried(sums)


def multiply_add(old: np.ndarray, weight: np.ndarray, value: np.ndarray, name: str) -> np.ndarray:
    """``old + weight * value`` of stored bits of a float format, rounded once; NaN with a special one."""
    (a, special_a), (b, special_b), (c, special_c) = (decode(each, name) for each in (weight, value, old))
    one = np.array(1 << -FORMATS[name].low)
    pairs = [(_limbs(a), _limbs(b)), (_limbs(c), _limbs(one))]
    sums = [sum((x[i] * y[k - i] for x, y in pairs for i in range(max(0, k - LIMBS + 1), min(k, LIMBS - 1) + 1)),
                start=np.zeros_like(a)) for k in range(2 * LIMBS - 1)]
    return round_sum(*_carried(sums), special_a | special_b | special_c, name, 2 * FORMATS[name].low)


def _limbs(values: np.ndarray) -> list[np.ndarray]:
    """``LIMBS`` parts of ``LIMB`` bits, the highest one signed."""
    return [values >> k * LIMB & (1 << LIMB) - 1 if k < LIMBS - 1 else values >> k * LIMB for k in range(LIMBS)]


def _carried(sums: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """``sum(sums[k] << 14 * k)`` as ``(high, low)``."""
    low, carry = np.zeros_like(sums[0]), np.zeros_like(sums[0])
    for k in range(LIMBS):
        carry = carry + sums[k]
        low |= (carry & (1 << LIMB) - 1) << LIMB * k
        carry = carry >> LIMB
    high = carry
    for k, each in enumerate(sums[LIMBS:]):
        high = high + (each << LIMB * k)
    return high, low


def round_sum(high: np.ndarray, low: np.ndarray, special: np.ndarray, name: str, unit: int) -> np.ndarray:
    """``(high * 2**SPLIT + low) * 2**unit`` as bits of the float format ``name``, rounded to nearest even; NaN where ``special``."""
    # All of it where it fits, else as much as fits from the top, and what lies below that as a sticky bit.
    values, units = high << 1 | (low != 0), np.full(high.shape, SPLIT - 1)
    for bits, kept in ((40, 16), (6, SPLIT)):
        fits, below = (high > -(1 << bits)) & (high < 1 << bits), SPLIT - kept
        sticky = (low & (1 << below) - 1) != 0
        values = np.where(fits, ((np.where(fits, high, 0) << kept) + (low >> below) << 1) | sticky, values)
        units = np.where(fits, below - 1, units)
    return np.where(special, FORMATS[name].nan, encode(values, units + unit, name))


def encode(values: np.ndarray, unit, name: str) -> np.ndarray:
    """``values * 2**unit`` of integers as bits of the format ``name``, rounded to nearest even; int8 is -127 to 127."""
    form = FORMATS[name]
    values = np.asarray(values, np.int64)
    magnitude, negative = np.abs(values), values < 0
    length = _bit_length(magnitude)
    smallest = 1 - form.bias - form.fraction_bits  # exponent of the unit of subnormals
    drop = np.maximum(length - form.fraction_bits - 1, smallest - unit)  # bits that go
    kept = np.where(drop > 0, magnitude >> np.clip(drop, 0, 63), magnitude << np.clip(-drop, 0, 63))
    cut = np.where(drop > 0, magnitude & (np.left_shift(np.int64(1), np.clip(drop, 0, 62)) - 1), 0)
    half = np.left_shift(np.int64(1), np.clip(drop - 1, 0, 62))
    up = (drop > 0) & (drop <= 62) & ((cut > half) | ((cut == half) & (kept & 1 == 1)))
    kept = kept + up
    exponent = drop + unit - smallest  # 0: subnormal, or the smallest normal exponent
    normal = kept >> form.fraction_bits != 0
    # A carry out of the significand makes the exponent larger by itself.
    bits = np.where(normal, (exponent << form.fraction_bits) + kept, kept)
    bits = np.where(magnitude == 0, 0, np.minimum(bits, form.infinity))
    if not form.exponent_bits:
        return np.where(negative, -bits, bits) & (1 << form.storage_bits) - 1
    return bits | negative.astype(np.int64) << form.storage_bits - 1


def _bit_length(values: np.ndarray) -> np.ndarray:
    length = np.zeros(values.shape, np.int64)
    for step in (32, 16, 8, 4, 2, 1):
        more = values >> step > 0
        length, values = length + step * more, np.where(more, values >> step, values)
    return length + (values > 0)
