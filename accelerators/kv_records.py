"""K/V records: how long they are, and how they may hold their elements (``docs/kv-storage.md``)."""

from .integers import ceil_div

__all__ = ["HEADER_BITS", "INT4_STEP", "KV_STORAGES", "fp16_record_beats", "header_in_tail", "record_beats"]

HEADER_BITS = 64
"""Header of a K/V record: the scales of key and value."""

KV_STORAGES = ("int", "int4")
"""How K/V records of an accelerator hold their elements: as attention has them, or in 4 bits."""

INT4_STEP = 18
"""Steps of the 8-bit quantization between two 4-bit elements: -7 .. 7 times 18 reach to 126, and no element of -127 .. 127 is more
than half of it away."""


def header_in_tail(head_dim: int, *, kv_bits: int, bus_bits: int) -> bool:
    """Whether the header of a K/V record lies in the top bits of K's last bus word, because K leaves them free."""
    return -(head_dim * kv_bits) % bus_bits >= HEADER_BITS


def record_beats(head_dim: int, *, kv_bits: int, bus_bits: int) -> int:
    """Bus words of a K/V record: K and V, each padded to whole words, and the header in front unless it lies in K's tail.

    Never fewer for a larger ``head_dim``.
    """
    header = 0 if header_in_tail(head_dim, kv_bits=kv_bits, bus_bits=bus_bits) else ceil_div(HEADER_BITS, bus_bits)
    return header + 2 * ceil_div(head_dim * kv_bits, bus_bits)


def fp16_record_beats(head_dim: int, bus_bits: int) -> int:
    """Bus words of a record of fp16 elements: K and V, each padded to whole words, no header. Never more than those of a record of
    16-bit integers."""
    return 2 * ceil_div(head_dim * 16, bus_bits)
