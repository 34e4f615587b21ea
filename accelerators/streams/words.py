"""Layout of a stream of words that ends in packets."""

from amaranth.lib import data

__all__ = ["word_layout"]


def word_layout(bits: int) -> data.StructLayout:
    """``{data: bits, last: 1}``: one word; ``last`` marks the final word of a packet."""
    return data.StructLayout({"data": bits, "last": 1})
