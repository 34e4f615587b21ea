"""Integer primitives that hardware and golden model share: rounding shifts, saturation, pseudo-floats.

A **pseudo-float** (``Scalar``) is a non-negative number ``mantissa * 2**exponent`` with the mantissa in
``2**23 .. 2**24 - 1`` (24 bits, top bit set) and a signed 16-bit exponent; zero is ``(0, 0)``. All results are
truncated towards zero unless stated otherwise, so that hardware needs no second normalization. No operation
overflows its exponent in a legal model; one that would raises ``OverflowError`` here.
"""

from dataclasses import dataclass
from fractions import Fraction
from math import isqrt

import numpy as np

MANTISSA_BITS = 24

__all__ = ["MANTISSA_BITS", "Scalar", "bit_length", "round_shift", "saturate"]


def round_shift(value, shift):
    """``floor(value / 2**shift + 1/2)`` for ``shift >= 0``; an exact left shift for ``shift < 0``.

    Rounds halves up (towards plus infinity). ``value`` and ``shift`` are integers or int64 arrays.
    """
    value = np.asarray(value, dtype=np.int64)
    shift = np.asarray(shift, dtype=np.int64)
    right = np.clip(shift, 0, 63)
    half = np.where(right > 0, np.int64(1) << np.maximum(right - 1, 0), 0)
    # A right shift by 63 of value + half can overflow int64 only for |value| >= 2**62: outside every format used.
    return np.where(shift >= 0, (value + half) >> right, value << np.clip(-shift, 0, 63))


def saturate(value, bits: int):
    """Clamp to the two's-complement range of ``bits``; returns ``(clamped, number_of_clamped)``."""
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    value = np.asarray(value, dtype=np.int64)
    clamped = np.clip(value, low, high)
    return clamped, int(np.count_nonzero(clamped != value))


def bit_length(value):
    """Bits of a non-negative integer (0 for 0); elementwise for arrays below 2**62."""
    if isinstance(value, (int, np.integer)):
        return int(value).bit_length()
    value = np.asarray(value, dtype=np.int64)
    result = np.zeros(value.shape, dtype=np.int64)
    for step in (32, 16, 8, 4, 2, 1):
        big = (value >> step) > 0
        result += np.where(big, step, 0)
        value = np.where(big, value >> step, value)
    return result + (value > 0)


@dataclass(frozen=True)
class Scalar:
    """A pseudo-float: ``mantissa * 2**exponent``, 24-bit normalized mantissa (or zero)."""

    mantissa: int
    exponent: int

    def __post_init__(self) -> None:
        if self.mantissa and not 1 << (MANTISSA_BITS - 1) <= self.mantissa < 1 << MANTISSA_BITS:
            raise ValueError(f"mantissa must be normalized to {MANTISSA_BITS} bits, not {self.mantissa:#x}")
        if not -(1 << 15) <= self.exponent < 1 << 15:
            raise OverflowError(f"exponent {self.exponent} does not fit 16 bits")

    @staticmethod
    def of(value: int, exponent: int = 0) -> "Scalar":
        """``value * 2**exponent`` with ``value`` a non-negative integer of any size, truncated to 24 bits."""
        if value == 0:
            return Scalar(0, 0)
        shift = int(value).bit_length() - MANTISSA_BITS
        mantissa = int(value) >> shift if shift >= 0 else int(value) << -shift
        return Scalar(mantissa, exponent + shift)

    @staticmethod
    def from_float(value: float) -> "Scalar":
        """Nearest pseudo-float of a non-negative float (compile time only; exact rational arithmetic)."""
        if not (value >= 0 and value < float("inf")):
            raise ValueError(f"a pseudo-float must be finite and not negative, not {value}")
        if value == 0:
            return Scalar(0, 0)
        ratio = Fraction(value)
        exponent = ratio.numerator.bit_length() - ratio.denominator.bit_length() - MANTISSA_BITS
        while True:
            mantissa = round(ratio / Fraction(2) ** exponent)
            if mantissa >= 1 << MANTISSA_BITS:
                exponent += 1
            elif mantissa < 1 << (MANTISSA_BITS - 1):
                exponent -= 1
            else:
                return Scalar(mantissa, exponent)

    def __float__(self) -> float:
        return float(self.mantissa) * 2.0 ** self.exponent

    def shifted(self, bits: int) -> "Scalar":
        """Exact multiplication by ``2**bits``."""
        return Scalar(self.mantissa, self.exponent + bits) if self.mantissa else self

    def __mul__(self, other: "Scalar") -> "Scalar":
        """Product, truncated."""
        return Scalar.of(self.mantissa * other.mantissa, self.exponent + other.exponent)

    def __add__(self, other: "Scalar") -> "Scalar":
        """Sum, truncated: the smaller operand is shifted right (truncated) to the larger one's exponent."""
        if not self.mantissa or not other.mantissa:
            return other if not self.mantissa else self
        big, small = (self, other) if self.exponent >= other.exponent else (other, self)
        return Scalar.of(big.mantissa + (small.mantissa >> min(big.exponent - small.exponent, MANTISSA_BITS)),
                         big.exponent)

    def reciprocal(self) -> "Scalar":
        """``1 / self``, truncated: mantissa ``floor(2**47 / mantissa)`` renormalized; zero gives zero."""
        if not self.mantissa:
            return self
        return Scalar.of((1 << (2 * MANTISSA_BITS - 1)) // self.mantissa,
                         -self.exponent - (2 * MANTISSA_BITS - 1))

    def rsqrt(self) -> "Scalar":
        """``1 / sqrt(self)``: the root of the mantissa to 24 bits (truncated), then ``reciprocal``; zero gives zero."""
        if not self.mantissa:
            return self
        odd = self.exponent & 1
        root = isqrt(self.mantissa << (MANTISSA_BITS - odd))
        # self = (mantissa << (24 - odd)) * 2**(exponent - 24 + odd), and exponent - 24 + odd is even.
        return Scalar.of(root, (self.exponent - MANTISSA_BITS + odd) >> 1).reciprocal()

    def word(self) -> int:
        """64-bit memory word: mantissa in bits 0..23, exponent (two's complement) in bits 32..47."""
        return self.mantissa | (self.exponent & 0xFFFF) << 32
