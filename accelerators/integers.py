"""Arithmetic of sizes."""

__all__ = ["bits_for_magnitude", "ceil_div"]


def ceil_div(a: int, b: int) -> int:
    """Smallest integer not below ``a / b``."""
    return -(-a // b)


def bits_for_magnitude(magnitude: int) -> int:
    """Width of a two's-complement number that holds ``-magnitude .. magnitude``."""
    return magnitude.bit_length() + 1
