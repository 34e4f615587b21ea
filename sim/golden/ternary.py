"""Golden model of the ternary engine: memory order of a packed matrix, exact products. Integer-only.

A matrix ``[rows, columns]`` is cut into *blocks* of ``max_block_rows`` rows, a block into *K tiles* of
``tile_activations`` columns, a tile into *row groups* of ``table_rows`` rows: one row group of one tile is one *lane word*
of ``lane_bits`` bits, with an index (``accelerators/ternary/code.py``) per row and table, row-major, lowest bits first.
Words follow each other in the order block, tile, row group, without padding between them. Rows and columns are padded
with zero trits to whole row groups and tiles.
"""

from collections.abc import Iterator

import numpy as np

from ...accelerators.config import AcceleratorConfig
from ...accelerators.integers import ceil_div
from ...accelerators.ternary.code import decode, encode

__all__ = ["bus_beats", "lane_words", "matvec", "pack", "row_groups", "tiles", "unpack", "words"]

# Indices per chunk of work: 8 of them are whole bytes whatever their width.
_OCTET = 8


def tiles(columns: int, config: AcceleratorConfig) -> int:
    """K tiles of a matrix: the command's ``tiles``."""
    return ceil_div(columns, config.tile_activations)


def row_groups(rows: int, config: AcceleratorConfig) -> int:
    """Row groups of a matrix: the command's ``rows``."""
    return ceil_div(rows, config.table_rows)


def words(rows: int, columns: int, config: AcceleratorConfig) -> int:
    """Lane words of a matrix: cycles that the lookup lanes need for it."""
    return row_groups(rows, config) * tiles(columns, config)


def bus_beats(rows: int, columns: int, config: AcceleratorConfig) -> int:
    """Beats of ``bus_bits`` that hold a matrix."""
    return ceil_div(words(rows, columns, config) * config.lane_bits, config.bus_bits)


def _blocks(rows: int, block_rows: int) -> Iterator[tuple[int, int]]:
    """``(first, end)`` row of every block of ``block_rows`` rows."""
    for first in range(0, rows, block_rows):
        yield first, min(first + block_rows, rows)


def _ordered_indices(trits: np.ndarray, config: AcceleratorConfig, block_rows: int) -> np.ndarray:
    """Indices (uint8) of a matrix in memory order, in blocks of ``block_rows`` rows."""
    trits = np.asarray(trits)
    if trits.ndim != 2 or not trits.size:
        raise ValueError(f"trits must be [rows, columns], not of shape {trits.shape}")
    rows, columns = trits.shape
    height = row_groups(rows, config) * config.table_rows
    width = tiles(columns, config) * config.tile_activations
    # Padding is part of the encoding of each block, so that only a block at a time is copied.
    parts = []
    for first, end in _blocks(height, block_rows):
        block = trits[first:end]
        if block.shape != (end - first, width):
            block = np.pad(block, ((0, end - first - block.shape[0]), (0, width - columns)))
        indices = encode(block.reshape(end - first, -1, config.group_size))
        parts.append(indices.reshape(end - first, -1, config.tables).transpose(1, 0, 2).reshape(-1))
    return np.concatenate(parts)


def _squeeze(indices: np.ndarray, bits: int) -> np.ndarray:
    """Concatenate the low ``bits`` of every index, lowest first, into bytes; the tail is filled with zeros."""
    padded = np.zeros(ceil_div(indices.size, _OCTET) * _OCTET, dtype=np.uint8)
    padded[:indices.size] = indices
    octets = padded.reshape(-1, _OCTET)
    joined = np.zeros(len(octets), dtype="<u8")
    for position in range(_OCTET):
        joined |= octets[:, position].astype(np.uint64) << np.uint64(position * bits)
    return np.ascontiguousarray(joined.view(np.uint8).reshape(-1, 8)[:, :bits]).reshape(-1)


def _spread(raw: np.ndarray, count: int, bits: int) -> np.ndarray:
    """Inverse of ``_squeeze``: the first ``count`` indices."""
    octets = ceil_div(count, _OCTET)
    padded = np.zeros((octets, 8), dtype=np.uint8)
    body = np.zeros(octets * bits, dtype=np.uint8)
    body[:min(raw.size, body.size)] = raw[:body.size]
    padded[:, :bits] = body.reshape(octets, bits)
    joined = padded.reshape(-1).view("<u8")
    mask = np.uint64((1 << bits) - 1)
    indices = np.empty((octets, _OCTET), dtype=np.uint8)
    for position in range(_OCTET):
        indices[:, position] = joined >> np.uint64(position * bits) & mask
    return indices.reshape(-1)[:count]


def pack(trits: np.ndarray, config: AcceleratorConfig) -> np.ndarray:
    """Memory image (uint8, whole bus beats) of a matrix of trits ``[rows, columns]``.

    Raises ``TypeError`` for a matrix that is not of integers, ``ValueError`` for a value other than -1, 0, +1, for a
    shape that is no matrix and for more than ``max_vector`` columns.
    """
    trits = np.asarray(trits)
    if trits.ndim == 2 and trits.shape[1] > config.max_vector:
        raise ValueError(f"columns must be at most max_vector = {config.max_vector}, not {trits.shape[1]}")
    body = _squeeze(_ordered_indices(trits, config, config.max_block_rows), config.index_bits)
    rows, columns = trits.shape
    image = np.zeros(bus_beats(rows, columns, config) * config.bus_bytes, dtype=np.uint8)
    # Behind the last index there is nothing but zeros.
    image[:min(body.size, image.size)] = body[:image.size]
    return image


def unpack(raw: np.ndarray, rows: int, columns: int, config: AcceleratorConfig) -> np.ndarray:
    """Trits (int8 ``[rows, columns]``) of a memory image: the inverse of ``pack``.

    Raises ``ValueError`` for an image that is not of ``bus_beats`` beats and for code words that stand for nothing.
    """
    size = bus_beats(rows, columns, config) * config.bus_bytes
    if raw.size != size:
        raise ValueError(f"the image of {rows} x {columns} trits must have {size} bytes, not {raw.size}")
    height = row_groups(rows, config) * config.table_rows
    count = words(rows, columns, config) * config.tables * config.table_rows
    indices = _spread(np.asarray(raw, dtype=np.uint8), count, config.index_bits)
    trits = np.empty((rows, columns), dtype=np.int8)
    position = 0
    for first, end in _blocks(height, config.max_block_rows):
        length = (end - first) * tiles(columns, config) * config.tables
        block = indices[position:position + length].reshape(-1, end - first, config.tables).transpose(1, 0, 2)
        position += length
        kept = min(end, rows) - first
        trits[first:first + kept] = decode(block[:kept], config.group_size).reshape(kept, -1)[:, :columns]
    return trits


def lane_words(trits: np.ndarray, config: AcceleratorConfig, block_row_groups: int | None = None) -> list[int]:
    """The words that the engine's ``i_weights`` takes for a matrix, as Python integers (for benches).

    ``block_row_groups``: row groups of a block, if it is not that of ``max_block_rows``.
    """
    block_rows = config.max_block_rows if block_row_groups is None else block_row_groups * config.table_rows
    indices = _ordered_indices(trits, config, block_rows).reshape(-1, config.tables * config.table_rows)
    return [int.from_bytes(_squeeze(word, config.index_bits).tobytes(), "little") for word in indices]


def matvec(trits: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Exact int64 products ``trits @ q``: ``[rows]`` for activations ``[columns]``, ``[tokens, rows]`` for
    ``[tokens, columns]``. Activations beyond the columns are ignored, as in the engine, whose padding trits are 0.

    Floating-point matrix products are the fast ones, and exact here: products and partial sums are integers of magnitude
    at most ``max|q| * columns``, whatever the order of the additions. float32 holds every integer up to 2**24, so int8
    activations allow 2**17 columns, ``max_vector``'s bound; what exceeds 2**24 takes float64, which ends at 2**53.
    """
    trits, q = np.asarray(trits), np.asarray(q)
    columns = trits.shape[1]
    if q.ndim not in (1, 2) or q.shape[-1] < columns:
        raise ValueError(f"activations must be [columns] or [tokens, columns] with {columns} columns, "
                         f"not of shape {q.shape}")
    largest = max(abs(int(q.min(initial=0))), abs(int(q.max(initial=0)))) * columns
    if largest > 1 << 53:
        raise ValueError(f"activations times {columns} columns must stay within 2**53, not {largest}")
    exact: type = np.float32 if largest <= 1 << 24 else np.float64
    operand: np.ndarray = q[..., :columns].astype(exact)
    sums = np.empty((*q.shape[:-1], len(trits)), dtype=np.int64)
    # For one token, converting the weights is half of the work: in blocks that stay in the cache.
    block = 256 if q.size == q.shape[-1] else 4096
    for start in range(0, len(trits), block):
        rows = slice(start, start + block)
        sums[..., rows] = operand @ trits[rows].astype(exact).T
    return sums
