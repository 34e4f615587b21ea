"""Number formats shared by all units."""

from amaranth.hdl import signed
from amaranth.lib import data

__all__ = ["MANTISSA_BITS", "SCALAR"]

MANTISSA_BITS = 24

SCALAR = data.StructLayout({"mantissa": MANTISSA_BITS, "exponent": signed(16)})
"""Pseudo-float ``mantissa * 2**exponent``: 24-bit normalized mantissa (or zero) and signed exponent."""
