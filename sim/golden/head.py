"""Golden model of the LM head: per-row quantized weights, their memory image, exact integer logits.

Packing (``quantize_head``, ``pack_head``) is compile-time work on floats; ``matvec`` is integer-only and
bit-exact with ``accelerators/elementwise/head.py``.
"""

from dataclasses import dataclass

import numpy as np

from ...accelerators.config import AcceleratorConfig
from ...accelerators.integers import ceil_div

__all__ = ["QuantizedHead", "head_bytes", "matvec", "pack_head", "pack_rows", "quantize_head", "row_beats",
           "unpack_head"]

SCALE_BITS = 16


@dataclass(frozen=True)
class QuantizedHead:
    """LM head as integers.

    Members
    -------
    weights : int8 (also of 4-bit numbers) or int16 array [vocab, hidden]
    row_scales : uint16 array [vocab]
    shift : int
        Low bits dropped from every product with a row scale (``config.head_shift``).
    """

    weights: np.ndarray
    row_scales: np.ndarray
    shift: int


def quantize_head(weights: np.ndarray, config: AcceleratorConfig) -> tuple[QuantizedHead, float]:
    """Quantize a float matrix [vocab, hidden] symmetrically per row to ``head_bits``: ``(head, unit)``.

    The largest row gets the row scale 65535; others are rounded up, so that no weight is clipped. A row of
    zeros gets the scale 0. A real logit is ``matvec(head, q) * unit * activation_scale``.
    """
    weights = np.asarray(weights)
    if weights.ndim != 2 or not weights.size:
        raise ValueError(f"LM head weights must be [vocab, hidden], not of shape {weights.shape}")
    if not np.isfinite(weights).all():
        raise ValueError("LM head weights must be finite")
    if weights.shape[0] > config.max_vocab:
        raise ValueError(f"LM head rows must be at most max_vocab = {config.max_vocab}, "
                         f"not {weights.shape[0]}")
    if weights.shape[1] > config.max_vector:
        raise ValueError(f"LM head columns must be at most max_vector = {config.max_vector}, "
                         f"not {weights.shape[1]}")
    top = (1 << (config.head_bits - 1)) - 1
    largest = np.maximum(weights.max(axis=1), -weights.min(axis=1)).astype(np.float64)
    common = float(largest.max()) / top / ((1 << SCALE_BITS) - 1) or 1.0
    # A relative 2**-40 below the ceiling keeps the largest row at 65535 in spite of rounding.
    row_scales = np.ceil(largest / top / common * (1 - 2.0 ** -40))
    quantized = np.empty(weights.shape, dtype=np.int16 if config.head_bits == 16 else np.int8)
    for start in range(0, len(weights), 4096):
        rows = slice(start, start + 4096)
        step = np.maximum(row_scales[rows], 1) * common
        quantized[rows] = np.clip(np.rint(weights[rows].astype(np.float64) / step[:, None]), -top, top)
    head = QuantizedHead(quantized, row_scales.astype(np.uint16), config.head_shift)
    return head, common * 2.0 ** config.head_shift


def row_beats(hidden: int, config: AcceleratorConfig) -> int:
    """Bus beats of one row of ``hidden`` weights."""
    return ceil_div(hidden * config.head_bits, config.bus_bits)


def head_bytes(vocab: int, hidden: int, config: AcceleratorConfig) -> int:
    """Bytes of the packed matrix: a beat of row scales before every ``bus_bits / 16`` rows."""
    blocks = ceil_div(vocab, config.bus_bits // SCALE_BITS)
    return (blocks + vocab * row_beats(hidden, config)) * config.bus_bytes


def _element(config: AcceleratorConfig) -> np.dtype:
    """Of an array of weights."""
    return np.dtype("<i2" if config.head_bits == 16 else "<i1")


def pack_rows(head: QuantizedHead, config: AcceleratorConfig) -> np.ndarray:
    """Memory image (uint8) of integer rows and their scales, as ``HeadMatvec.i_weights`` reads it."""
    vocab, hidden = head.weights.shape
    block = config.bus_bits // SCALE_BITS
    rows = np.zeros((vocab, row_beats(hidden, config) * config.bus_bits // config.head_bits), dtype=_element(config))
    rows[:, :hidden] = head.weights
    image = np.zeros(head_bytes(vocab, hidden, config), dtype=np.uint8)
    offset = 0
    for start in range(0, vocab, block):
        scales = np.zeros(block, dtype="<u2")
        part = head.row_scales[start:start + block]
        scales[:len(part)] = part
        body = rows[start:start + block].reshape(-1)
        body = (body[::2] & 15 | body[1::2] << 4 if config.head_bits == 4 else body).view(np.uint8)
        image[offset:offset + config.bus_bytes] = scales.view(np.uint8)
        offset += config.bus_bytes
        image[offset:offset + body.size] = body
        offset += body.size
    return image


def unpack_head(image: np.ndarray, vocab: int, hidden: int, config: AcceleratorConfig) -> QuantizedHead:
    """Inverse of ``pack_rows``."""
    size = head_bytes(vocab, hidden, config)
    if image.size != size:
        raise ValueError(f"LM head image must have {size} bytes, not {image.size}")
    block = config.bus_bits // SCALE_BITS
    stride = row_beats(hidden, config) * config.bus_bytes
    weights = np.empty((vocab, hidden), dtype=_element(config))
    row_scales = np.empty(vocab, dtype=np.uint16)
    offset = 0
    for start in range(0, vocab, block):
        count = min(block, vocab - start)
        row_scales[start:start + count] = image[offset:offset + 2 * count].view("<u2")
        offset += config.bus_bytes
        body = np.ascontiguousarray(image[offset:offset + count * stride]).view(weights.dtype)
        if config.head_bits == 4:  # the lower half first
            body = np.stack((body << 4 >> 4, body >> 4), axis=1)
        weights[start:start + count] = body.reshape(count, -1)[:, :hidden]
        offset += count * stride
    return QuantizedHead(weights, row_scales, config.head_shift)


def pack_head(weights: np.ndarray, config: AcceleratorConfig) -> tuple[np.ndarray, float]:
    """Quantize and pack a float matrix: ``(memory image as uint8, unit)``; see ``quantize_head``."""
    head, unit = quantize_head(weights, config)
    return pack_rows(head, config), unit


def matvec(head: QuantizedHead, q: np.ndarray) -> np.ndarray:
    """Logits (int64) of all rows: ``floor((weights @ q) * row_scale / 2**shift)``.

    ``q`` holds integers of ``head_activation_bits``; zeros that pad it beyond the row length are ignored.
    """
    q = np.asarray(q, dtype=np.int64)
    hidden = head.weights.shape[1]
    if q.ndim != 1 or len(q) < hidden or q[hidden:].any():
        raise ValueError(f"LM head activations must be one vector of {hidden} elements, "
                         f"not of shape {q.shape}")
    dots = np.empty(len(head.weights), dtype=np.int64)
    operand = q[:hidden].astype(np.float64)
    for start in range(0, len(dots), 256):  # a block of weights that stays in the cache
        rows = slice(start, start + 256)
        # Exact: every partial sum is an integer below 2**47, and float64 holds those up to 2**53.
        dots[rows] = head.weights[rows].astype(np.float64) @ operand
    # Below 2**47 * 2**16 by the bounds of AcceleratorConfig, so int64 holds the product.
    return (dots * head.row_scales.astype(np.int64)) >> head.shift
