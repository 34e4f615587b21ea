"""K/V records and the contiguous cache: the golden model of ``accelerators/cache``.

A record is what one token leaves behind for one K/V head: a header with the scales of key and value, the
key, the value, each padded with zeros to whole bus words. The header takes the top bits of the key's last word
instead of a word of its own if they are free.

``kv_bits`` is here the width of an element in the record, ``stored_kv_bits`` of the configuration: 4, 8 or 16. What is quantized to 8
bits and stored in 4 goes through ``stored`` and, for attention, back through ``restored``. Records of fp16 elements (``pack_fp16``)
have no header; elements are bit patterns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...accelerators.config import AcceleratorConfig
from ...accelerators.kv_records import HEADER_BITS, INT4_STEP, fp16_record_beats, header_in_tail, record_beats
from .numerics import MANTISSA_BITS, Scalar

__all__ = ["BurstCommand", "contiguous_command", "kept", "pack_fp16", "pack_record", "pack_records", "record_beats", "restored",
           "stored", "stored_scale", "unpack_fp16", "unpack_record"]

DROPPED_BITS = MANTISSA_BITS - 16


def stored_scale(scale: Scalar) -> tuple[int, int]:
    """Mantissa (16 bits, truncated) and exponent of a scale in a record; ``(0, 0)`` for zero.

    An exponent that does not fit 16 bits saturates; no legal model has one.
    """
    if not scale.mantissa:
        return 0, 0
    return scale.mantissa >> DROPPED_BITS, min(scale.exponent + DROPPED_BITS, (1 << 15) - 1)


def stored(q: np.ndarray, config: AcceleratorConfig) -> np.ndarray:
    """Quantized elements as a record holds them: in 4 bits ``round(q / INT4_STEP)``, halves away from zero, at most 7."""
    if config.kv_storage == "int":
        return q
    return np.sign(q) * np.minimum((np.abs(q) + INT4_STEP // 2) // INT4_STEP, 7)


def restored(elements: np.ndarray, config: AcceleratorConfig) -> np.ndarray:
    """Elements of a record as attention has them."""
    return elements if config.kv_storage == "int" else elements * INT4_STEP


def kept(q: np.ndarray, config: AcceleratorConfig) -> np.ndarray:
    """Quantized elements as attention has them when a record has held them."""
    return restored(stored(q, config), config)


def _beats(value: int, bits: int, bus_bits: int) -> list[int]:
    return [value >> low & (1 << bus_bits) - 1 for low in range(0, bits, bus_bits)]


def _packed(elements: Sequence[int], kv_bits: int) -> int:
    low = -(1 << kv_bits - 1)
    value = 0
    for position, element in enumerate(elements):
        if not low <= element < -low:
            raise ValueError(f"elements must fit {kv_bits} bits, not {element}")
        value |= (int(element) & (1 << kv_bits) - 1) << position * kv_bits
    return value


def pack_record(key: Sequence[int], value: Sequence[int], key_scale: Scalar, value_scale: Scalar, *,
                kv_bits: int, bus_bits: int) -> list[int]:
    """The bus words of a record."""
    if len(key) != len(value):
        raise ValueError(f"key and value must be of the same length, not {len(key)} and {len(value)}")
    header = 0
    for position, scale in enumerate((key_scale, value_scale)):
        mantissa, exponent = stored_scale(scale)
        header |= (mantissa | (exponent & 0xFFFF) << 16) << 32 * position
    bits = -(-len(key) * kv_bits // bus_bits) * bus_bits
    keys, values = _packed(key, kv_bits), _packed(value, kv_bits)
    front: list[int] = []
    if header_in_tail(len(key), kv_bits=kv_bits, bus_bits=bus_bits):
        keys |= header << bits - HEADER_BITS
    else:
        front = _beats(header, HEADER_BITS, bus_bits)
    return front + _beats(keys, bits, bus_bits) + _beats(values, bits, bus_bits)


def pack_records(keys: np.ndarray, values: np.ndarray, key_scales: np.ndarray, value_scales: np.ndarray, *,
                 kv_bits: int, bus_bits: int) -> np.ndarray:
    """The bytes of many records, uint8 ``[records, bytes]``: ``pack_record`` of each, in memory order.

    Keys and values are ``[records, head_dim]``; scales are as stored, ``[records, 2]`` of mantissa and exponent.
    """
    count, head_dim = keys.shape
    half = 1 << kv_bits - 1
    for elements in (keys, values):
        if elements.size and not -half <= elements.min() <= elements.max() < half:
            raise ValueError(f"elements must fit {kv_bits} bits, not {elements.min()}..{elements.max()}")
    records = np.zeros((count, record_beats(head_dim, kv_bits=kv_bits, bus_bits=bus_bits) * bus_bits // 8), np.uint8)
    length = -(-head_dim * kv_bits // bus_bits) * bus_bits // 8
    start = records.shape[1] - 2 * length
    for offset, elements in ((start, keys), (start + length, values)):
        if kv_bits == 4:
            padded = np.zeros((count, head_dim + head_dim % 2), np.uint8)
            padded[:, :head_dim] = elements & 15
            raw = padded[:, ::2] | padded[:, 1::2] << 4
        else:
            raw = np.ascontiguousarray(elements, f"<i{kv_bits // 8}").view(np.uint8)
        records[:, offset:offset + raw.shape[1]] = raw
    tail = header_in_tail(head_dim, kv_bits=kv_bits, bus_bits=bus_bits)
    header = length - HEADER_BITS // 8 if tail else 0
    scales = np.concatenate([key_scales, value_scales], axis=1).astype("<u2")  # exponents in two's complement
    records[:, header:header + HEADER_BITS // 8] = scales.view(np.uint8)
    return records


def unpack_record(beats: Sequence[int], head_dim: int, *, kv_bits: int,
                  bus_bits: int) -> tuple[np.ndarray, np.ndarray, tuple[int, int], tuple[int, int]]:
    """Key, value, and their scales as (mantissa, exponent), from the bus words of a record."""
    expected = record_beats(head_dim, kv_bits=kv_bits, bus_bits=bus_bits)
    if len(beats) != expected:
        raise ValueError(f"beats must be the {expected} of a record, not {len(beats)}")
    image = b"".join(int(beat).to_bytes(bus_bits // 8, "little") for beat in beats)
    length = -(-head_dim * kv_bits // bus_bits) * bus_bits // 8
    start = len(image) - 2 * length
    tail = header_in_tail(head_dim, kv_bits=kv_bits, bus_bits=bus_bits)
    header = np.frombuffer(image, dtype="<u2", count=4, offset=length - HEADER_BITS // 8 if tail else 0)
    key, value = (_unpacked(image[offset:offset + length], kv_bits)[:head_dim] for offset in (start, start + length))
    scales: list[Any] = [(int(header[k]), int(header[k + 1].astype(np.int16))) for k in (0, 2)]
    return key, value, scales[0], scales[1]


def _unpacked(raw: bytes, kv_bits: int) -> np.ndarray:
    if kv_bits > 4:
        return np.frombuffer(raw, dtype=f"<i{kv_bits // 8}").astype(np.int64)
    pairs = np.frombuffer(raw, np.uint8).astype(np.int64)
    elements = np.stack([pairs & 15, pairs >> 4], axis=1).reshape(-1)
    return (elements ^ 8) - 8


def pack_fp16(key: np.ndarray, value: np.ndarray, bus_bits: int) -> list[int]:
    """The bus words of a record of fp16 elements, given as uint16 bit patterns."""
    if len(key) != len(value):
        raise ValueError(f"key and value must be of the same length, not {len(key)} and {len(value)}")
    size = fp16_record_beats(len(key), bus_bits) * bus_bits // 16
    image = b"".join(vector.astype("<u2", casting="safe").tobytes().ljust(size, b"\0") for vector in (key, value))
    return [int.from_bytes(image[at:at + bus_bits // 8], "little") for at in range(0, len(image), bus_bits // 8)]


def unpack_fp16(beats: Sequence[int], head_dim: int, bus_bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Key and value, uint16 bit patterns, from the bus words of a record."""
    expected = fp16_record_beats(head_dim, bus_bits)
    if len(beats) != expected:
        raise ValueError(f"beats must be the {expected} of a record, not {len(beats)}")
    image = b"".join(int(beat).to_bytes(bus_bits // 8, "little") for beat in beats)
    key, value = (np.frombuffer(half, "<u2")[:head_dim] for half in (image[:len(image) // 2], image[len(image) // 2:]))
    return key, value


@dataclass(frozen=True)
class BurstCommand:
    """``beats`` bus words from byte ``address`` on."""

    address: int
    beats: int


def contiguous_command(base: int, head: int, position: int, count: int, *, capacity: int, record_beats: int,
                       head_stride: int, bus_bits: int) -> BurstCommand | None:
    """The burst of rows ``position`` to ``position + count - 1`` of a head; ``None`` beyond ``capacity``."""
    if position + count > capacity:
        return None
    address = base + head * head_stride + position * record_beats * bus_bits // 8
    return BurstCommand(address % (1 << 32), count * record_beats)
