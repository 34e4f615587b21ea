"""Hardware counterparts of ``sim/golden/numerics.py``: layouts and small arithmetic helpers."""

from amaranth.hdl import signed
from amaranth.lib import data

__all__ = ["SCALAR"]

SCALAR = data.StructLayout({"mantissa": 24, "exponent": signed(16)})
"""Pseudo-float ``mantissa * 2**exponent``: 24-bit normalized mantissa (or zero) and signed exponent."""
