"""GGUF files with TQ1_0 or TQ2_0 weights, read with the ``gguf`` package.

Two architectures share tensor names, sub-norms and half-split RoPE (q and k rows are not permuted) and
differ in the activation: ``"bitnet-b1.58"`` (the published 2B-4T) means squared ReLU; ``"bitnet"`` means
SiLU, as in llama.cpp, unless ``bitnet.hidden_activation`` says ``"relu2"``, which newer llama.cpp reads.
Any other architecture is refused, and so is any ``<architecture>.*`` key not known here, since it may
change the arithmetic.

A block of 256 weights is ternary digits and a float16 ``d``. A tensor is accepted if ``d`` is the same in
all its blocks, or 0 in blocks that are all zero: a ternary matrix with one scale, which multiplies (1 where
the whole matrix is zero). Embedding, LM head (``output.weight``; tied when absent) and gains are F32, F16
or BF16. Numbers stored as float32 are taken as their shortest decimal (1e-05), equal to those of a Hugging
Face configuration. There is no tokenizer file.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType
from gguf.quants import dequantize

from ..accelerators.checks import check_int
from ..accelerators.model_shape import ModelShape
from .checkpoint import Checkpoint, CheckpointError, Expected, Projection, StoredTensor

__all__ = ["GgufCheckpoint"]

_BLOCK = 256
_ACTIVATIONS = {"bitnet-b1.58": ("relu2",), "bitnet": ("silu", "relu2")}  # the first if the file does not say
_KEYS = {"vocab_size", "context_length", "embedding_length", "block_count", "feed_forward_length",
         "hidden_activation", "attention.head_count", "attention.head_count_kv", "attention.key_length",
         "attention.value_length", "attention.layer_norm_rms_epsilon", "rope.dimension_count",
         "rope.freq_base", "rope.scaling.type", "rope.scaling.factor"}


class GgufCheckpoint(Checkpoint):
    """One ``.gguf`` file; see ``Checkpoint`` for the interface."""

    names = {"embedding": "token_embd.weight", "final": "output_norm.weight", "lm_head": "output.weight",
             "attention": "blk.{}.attn_norm.weight", "ffn": "blk.{}.ffn_norm.weight",
             "attention_sub": "blk.{}.attn_sub_norm.weight", "ffn_sub": "blk.{}.ffn_sub_norm.weight",
             "o": "blk.{}.attn_output.weight",
             **{which: f"blk.{{}}.attn_{which}.weight" for which in "qkv"},
             **{which: f"blk.{{}}.ffn_{which}.weight" for which in ("gate", "up", "down")}}

    def __init__(self, path: Path) -> None:
        metadata, tensors = _read(path)
        embedding = tensors.get(self.names["embedding"])
        if embedding is None:
            raise CheckpointError(f"{path}: tensor {self.names['embedding']} is missing")
        try:
            model = _parse(metadata, vocab_size=embedding.shape[0], tied=self.names["lm_head"] not in tensors)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: {error}") from error
        super().__init__(path, [path], model, tensors, () if model.eos is None else (model.eos,))
        for name, tensor in tensors.items():
            if tensor.dtype.startswith("TQ"):
                self._block_scale(name)

    def _ternary_tensors(self, name: str, rows: int, columns: int) -> Expected:
        return {name: (("TQ1_0", "TQ2_0"), (rows, columns))}

    def _ternary(self, name: str) -> Projection:
        tensor = self._tensors[name]
        scale = self._block_scale(name)
        packed = tensor.data.reshape(tensor.shape[0], -1)
        values = dequantize(packed, GGMLQuantizationType[tensor.dtype])
        values /= np.float32(scale)  # exact: every value is 0, or d times a digit
        if values.max() > 1:
            row, column = np.argwhere(values > 1)[0]
            raise CheckpointError(f"{tensor.file}: tensor {name} is not ternary: code 3 at row {row}, "
                                  f"column {column}, codes must be 0..2")
        return Projection(values.astype(np.int8), scale)

    def _block_scale(self, name: str) -> float:
        """The one scale of a tensor: the ``d`` of all blocks that are not all zero."""
        tensor = self._tensors[name]
        blocks = tensor.data.reshape(math.prod(tensor.shape) // _BLOCK, -1)
        scales = np.unique(blocks[:, -2:].copy().view("<f2"))
        scales = scales[scales != 0]
        illegal = scales[~((scales > 0) & np.isfinite(scales))]
        if len(illegal):
            raise CheckpointError(f"{tensor.file}: tensor {name} must have finite block scales of 0 or more, "
                                  f"not {illegal[0]}")
        if len(scales) > 1:
            raise CheckpointError(f"{tensor.file}: tensor {name} must have the same scale in all blocks, not "
                                  f"{float(scales[0])} and {float(scales[1])}")
        return float(scales[0]) if len(scales) else 1.0


def _read(path: Path) -> tuple[dict[str, Any], dict[str, StoredTensor]]:
    """Metadata and memory-mapped tensors of a file."""
    try:
        reader = GGUFReader(path)
        metadata = {name: _value(field) for name, field in reader.fields.items()}
    except (KeyError, IndexError, TypeError, OverflowError, ValueError) as error:
        hint = ""
        if "GGMLQuantizationType" in str(error):
            hint = " (36 is I2_S of bitnet.cpp; TQ1_0 and TQ2_0 are read here)"
        raise CheckpointError(f"{path}: damaged or unsupported GGUF file: {error}{hint}") from error
    if reader.byte_order != "I":
        raise CheckpointError(f"{path}: must be a little-endian GGUF file")
    return metadata, {
        tensor.name: StoredTensor(path, tensor.tensor_type.name, tuple(map(int, tensor.shape[::-1])),
                                  np.asarray(tensor.data).reshape(-1).view(np.uint8))
        for tensor in reader.tensors}


def _value(field: Any) -> Any:
    value = field.contents()
    return float(str(np.float32(value))) if field.types == [GGUFValueType.FLOAT32] else value


def _parse(metadata: dict[str, Any], vocab_size: int, tied: bool) -> ModelShape:
    """Metadata -> model shape; ``ValueError`` or ``TypeError`` names key and rule."""
    if metadata.get("split.count", 1) != 1:
        raise ValueError(f"split.count must be 1 (merge the parts first), not {metadata['split.count']!r}")
    architecture = metadata.get("general.architecture")
    if architecture not in _ACTIVATIONS:
        raise ValueError(f"general.architecture must be {' or '.join(_ACTIVATIONS)}, not {architecture!r}")
    prefix = f"{architecture}."
    values = {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)}
    for key in values.keys() - _KEYS:
        raise ValueError(f"{prefix}{key} is not a known key of this architecture")

    def required(key: str) -> Any:
        if key not in values:
            raise ValueError(f"{prefix}{key} is missing")
        return values[key]

    def fixed(key: str, accepted: tuple) -> Any:
        value = values.get(key, accepted[0])
        if value not in accepted:
            raise ValueError(f"{prefix}{key} must be {' or '.join(map(repr, accepted))}, not {value!r}")
        return value

    hidden, heads = required("embedding_length"), required("attention.head_count")
    check_int(f"{prefix}embedding_length", hidden, 4, 1 << 16)
    check_int(f"{prefix}attention.head_count", heads, 1, 1 << 10)
    head_dim = values.get("attention.key_length", hidden // heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        fixed(key, (head_dim,))
    fixed("vocab_size", (vocab_size,))
    fixed("rope.scaling.type", ("none", "linear"))
    fixed("rope.scaling.factor", (1.0,))
    for key in ("rope.freq_base", "attention.layer_norm_rms_epsilon"):
        if not isinstance(required(key), float) or not math.isfinite(required(key)):
            raise TypeError(f"{prefix}{key} must be a finite float, not {required(key)!r}")
    tokens = {}
    for key in ("bos", "eos"):
        tokens[key] = metadata.get(f"tokenizer.ggml.{key}_token_id")
        if tokens[key] is not None:
            check_int(f"tokenizer.ggml.{key}_token_id", tokens[key], 0, vocab_size - 1)
    return ModelShape(
        hidden_size=hidden, intermediate_size=required("feed_forward_length"), layers=required("block_count"),
        heads=heads, kv_heads=values.get("attention.head_count_kv", heads), head_dim=head_dim,
        vocab_size=vocab_size, max_context=required("context_length"), rope_theta=required("rope.freq_base"),
        rms_norm_eps=required("attention.layer_norm_rms_epsilon"),
        activation=fixed("hidden_activation", _ACTIVATIONS[architecture]), sub_norms=True, tied=tied,
        **tokens)
