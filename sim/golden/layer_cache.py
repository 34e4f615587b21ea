"""The K/V cache of a layer, as the golden model of the whole accelerator has it: records by head and position."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .cache import pack_records, restored, stored

if TYPE_CHECKING:
    from ...accelerators.config import AcceleratorConfig

__all__ = ["HeadRows", "LayerCache"]

HeadRows = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Of a head: keys ``[rows, head_dim]``, their scales ``[rows, 2]``, values and theirs."""


class LayerCache:
    """K/V records of one layer: elements as stored, scales as (mantissa, exponent). All positions are kept, also those that a
    window does not see any more.

    ``keys``, ``values`` are ``[heads, capacity, head_dim]``, ``key_scales``, ``value_scales`` ``[heads, capacity, 2]``.
    """

    def __init__(self, heads: int, capacity: int, head_dim: int, config: AcceleratorConfig) -> None:
        # Pages of zeros take memory when they are written.
        self.config = config
        self.keys, self.values = (np.zeros((heads, capacity, head_dim), f"i{config.kv_bits // 8}") for _ in range(2))
        self.key_scales, self.value_scales = (np.zeros((heads, capacity, 2), np.int32) for _ in range(2))

    def put(self, position: int, keys: np.ndarray, key_scales: np.ndarray, values: np.ndarray, value_scales: np.ndarray) -> None:
        """Records of quantized vectors ``[heads, tokens, ...]`` from ``position`` on."""
        rows = slice(position, position + keys.shape[1])
        self.keys[:, rows], self.key_scales[:, rows] = stored(keys, self.config), key_scales
        self.values[:, rows], self.value_scales[:, rows] = stored(values, self.config), value_scales

    def rows(self, head_number: int, end: int, begin: int = 0) -> HeadRows:
        """The positions ``begin`` to ``end - 1`` of a head, as attention has them."""
        return (restored(self.keys[head_number, begin:end], self.config), self.key_scales[head_number, begin:end],
                restored(self.values[head_number, begin:end], self.config), self.value_scales[head_number, begin:end])

    def fill(self, positions: int, generator: np.random.Generator) -> None:
        """Random records for the first ``positions``: see ``Machine.fill_cache``. Exponents of scales are those of position 0."""
        largest = (1 << self.config.stored_kv_bits - 1) - 1
        for elements, scales in ((self.keys, self.key_scales), (self.values, self.value_scales)):
            x = generator.standard_normal((len(elements), positions, elements.shape[2]), np.float32)
            x *= largest / np.abs(x).max(axis=2, keepdims=True)
            elements[:, :positions] = np.rint(x)
            exponents, used = scales[:, :1, 1].copy(), scales[:, :1, 0] > 0
            scales[:, :positions, 0] = generator.integers(1 << 15, 1 << 16, (len(elements), positions)) * used
            scales[:, :positions, 1] = exponents

    def copy(self, source: LayerCache, position: int, count: int) -> None:
        """The first ``count`` rows of ``source`` become those from ``position`` on."""
        for name in ("keys", "key_scales", "values", "value_scales"):
            getattr(self, name)[:, position:position + count] = getattr(source, name)[:, :count]

    def packed(self, head_number: int, positions: int) -> np.ndarray:
        """The first ``positions`` of a head as they lie in memory, bytes."""
        parts = (part[head_number, :positions] for part in (self.keys, self.values, self.key_scales, self.value_scales))
        return pack_records(*parts, kv_bits=self.config.stored_kv_bits, bus_bits=self.config.bus_bits)
