"""What the sections of an image hold: packed tensors of a checkpoint, or, without one, only how large they are.

``PackedTensors`` and ``TensorSizes`` have the same methods. The compiler lays out an image from the one; from the other the
same layout and program follow for a model that is known by its shape alone (``compile.plan``).

Vectors of the accelerator are words of ``vector_lanes`` elements, and the rotary embedding pairs words of both halves of a head. So
each half of a head is padded with zeros to whole words (``in_words``): rows of the query, key and value projections, columns of
the output projection, gains between attention and it. Attention then sees zeros, which change no dot product.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import ceil, log2

import numpy as np

from ..accelerators.config import AcceleratorConfig
from ..accelerators.integers import ceil_div
from ..accelerators.model_shape import ModelShape
from ..sim.golden import head, ternary
from .checkpoint import Checkpoint, gain_lengths, projection_shapes

__all__ = ["Contents", "PackedTensors", "TensorSizes", "embedding_table", "fixed_point", "in_words", "rope_table", "spread_heads"]

Contents = np.ndarray | int
"""Of a section: the bytes, or their number."""

GAIN_BITS = 16
ROPE_FRACTION_BITS = 14


def fixed_point_exponent(values: np.ndarray, bits: int) -> int:
    """The least ``e`` with which ``values / 2**e`` fit ``bits``; 0 for zeros."""
    peak = float(max(values.max(initial=0.0), -values.min(initial=0.0)))
    return ceil(log2(peak / ((1 << (bits - 1)) - 1))) if peak > 0 else 0


def fixed_point(values: np.ndarray, bits: int) -> tuple[np.ndarray, int]:
    """Integers of ``bits`` and the exponent ``e`` with ``values ~ integers * 2**e``, as precise as fits."""
    exponent = fixed_point_exponent(values, bits)
    return np.rint(values.astype(np.float64) * 2.0 ** -exponent).astype(np.int64), exponent


def in_words(model: ModelShape, config: AcceleratorConfig) -> ModelShape:
    """The shape with heads of whole words, each half by itself."""
    lanes = config.vector_lanes
    return replace(model, head_dim=2 * ceil_div(model.head_dim, 2 * lanes) * lanes)


def spread_heads(array: np.ndarray, head_dim: int, padded: int, axis: int = 0) -> np.ndarray:
    """``array`` with zeros behind each half of each head of ``axis``: ``padded`` elements per head instead of ``head_dim``."""
    if head_dim == padded:
        return array
    array = np.moveaxis(array, axis, -1)
    halves = array.reshape(*array.shape[:-1], -1, head_dim // 2)
    halves = np.pad(halves, [(0, 0)] * (halves.ndim - 1) + [(0, (padded - head_dim) // 2)])
    return np.moveaxis(halves.reshape(*array.shape[:-1], -1), -1, axis)


def rope_row_elements(model: ModelShape, config: AcceleratorConfig) -> int:
    """int16 elements of the rotary table per position, padded to bus words."""
    return ceil_div(in_words(model, config).head_dim * 16, config.bus_bits) * config.bus_bits // 16


def rope_table(model: ModelShape, config: AcceleratorConfig, positions: int) -> np.ndarray:
    """int16 ``[positions, row]``: per pair word V cosines then V sines in Q1.14, rows padded to bus words."""
    frequencies = model.rope_theta ** (-np.arange(0, model.head_dim, 2) / model.head_dim)
    frequencies = np.pad(frequencies, (0, (in_words(model, config).head_dim - model.head_dim) // 2))
    angles = np.arange(positions)[:, None] * frequencies
    parts = [np.rint(f(angles) * (1 << ROPE_FRACTION_BITS)).astype(np.int16)
             .reshape(positions, -1, 1, config.vector_lanes) for f in (np.cos, np.sin)]
    rows = np.concatenate(parts, axis=2).reshape(positions, -1)
    return np.pad(rows, ((0, 0), (0, rope_row_elements(model, config) - rows.shape[1])))


def embedding_row_elements(hidden: int, config: AcceleratorConfig) -> int:
    """Elements of an embedding row, padded to bus words."""
    return ceil_div(hidden * config.embedding_bits, config.bus_bits) * config.bus_bits // config.embedding_bits


def embedding_table(weights: np.ndarray, config: AcceleratorConfig, fraction_bits: int) -> tuple[np.ndarray, int]:
    """Embedding rows as integers padded to bus words, and the left shift to the residual's format."""
    # What is more precise than the residual stream is rounded once, here.
    exponent = max(fixed_point_exponent(weights, config.embedding_bits), -fraction_bits)
    padded = np.zeros((weights.shape[0], embedding_row_elements(weights.shape[1], config)),
                      np.int16 if config.embedding_bits == 16 else np.int32)
    for start in range(0, len(weights), 4096):  # float64 copies of a part at a time
        part = weights[start:start + 4096].astype(np.float64)
        padded[start:start + 4096, :weights.shape[1]] = np.rint(part * 2.0 ** -exponent)
    return padded, exponent + fraction_bits


class PackedTensors:
    """Sections of a checkpoint, packed as the accelerator reads them, and the numbers that go into the program.

    Parameters
    ----------
    checkpoint : Checkpoint
    config : AcceleratorConfig
    fraction_bits : int
        Of the residual stream.
    """

    def __init__(self, checkpoint: Checkpoint, config: AcceleratorConfig, fraction_bits: int) -> None:
        self.checkpoint, self.config, self.fraction_bits = checkpoint, config, fraction_bits
        self._head_dims = checkpoint.model.head_dim, in_words(checkpoint.model, config).head_dim

    def embedding(self) -> tuple[Contents, int]:
        """The rows, and the shift to the residual's format."""
        return embedding_table(self.checkpoint.embedding(), self.config, self.fraction_bits)

    def rope(self, positions: int) -> Contents:
        """The rotary table."""
        return rope_table(self.checkpoint.model, self.config, positions)

    def gain(self, layer: int, which: str) -> tuple[Contents, int] | None:
        """Gains of a norm and their exponent; None for a sub-norm that the model does not have."""
        gain = self.checkpoint.gain(layer, which)
        if gain is not None and which == "attention_sub":
            gain = spread_heads(gain, *self._head_dims)
        return None if gain is None else self._gain(gain)

    def final_gain(self) -> tuple[Contents, int]:
        """Gains of the last norm and their exponent."""
        return self._gain(self.checkpoint.final_gain())

    def matrix(self, layer: int, roles: Sequence[str], rows: Sequence[int]) -> tuple[Contents, dict[str, float]]:
        """Projections one below the other, each padded to its number of ``rows``, and the scale of each."""
        padded, scales = [], {}
        for role, count in zip(roles, rows, strict=True):
            projection = self.checkpoint.projection(layer, role)
            trits, scales[role] = projection.trits, projection.scale
            if role in ("q", "k", "v", "o"):
                trits = spread_heads(trits, *self._head_dims, axis=int(role == "o"))
            padded.append(np.pad(trits, ((0, count - trits.shape[0]), (0, 0))))
        return ternary.pack(np.concatenate(padded), self.config), scales

    def head(self) -> tuple[Contents, float]:
        """The LM head, and the real value of one logit unit."""
        return head.pack_head(self.checkpoint.lm_head(), self.config)

    @staticmethod
    def _gain(gain: np.ndarray) -> tuple[Contents, int]:
        integers, exponent = fixed_point(gain, GAIN_BITS)
        return integers.astype(np.int16), exponent


class TensorSizes:
    """Bytes of the same sections for a model of which only the shape is known; all other numbers are 0 or 1.

    Parameters
    ----------
    model : ModelShape
    config : AcceleratorConfig
    """

    def __init__(self, model: ModelShape, config: AcceleratorConfig) -> None:
        self.model, self.config = in_words(model, config), config

    def embedding(self) -> tuple[Contents, int]:
        elements = embedding_row_elements(self.model.hidden_size, self.config)
        return self.model.vocab_size * elements * self.config.embedding_bits // 8, 0

    def rope(self, positions: int) -> Contents:
        return 2 * positions * rope_row_elements(self.model, self.config)

    def gain(self, layer: int, which: str) -> tuple[Contents, int] | None:
        lengths = gain_lengths(self.model)
        return (lengths[which] * GAIN_BITS // 8, 0) if which in lengths else None

    def final_gain(self) -> tuple[Contents, int]:
        return self.model.hidden_size * GAIN_BITS // 8, 0

    def matrix(self, layer: int, roles: Sequence[str], rows: Sequence[int]) -> tuple[Contents, dict[str, float]]:
        columns = projection_shapes(self.model)[roles[0]][1]
        return ternary.bus_beats(sum(rows), columns, self.config) * self.config.bus_bytes, dict.fromkeys(roles, 1.0)

    def head(self) -> tuple[Contents, float]:
        return head.head_bytes(self.model.vocab_size, self.model.hidden_size, self.config), 1.0
