"""Random checkpoints of any shape, in Hugging Face format: models of full size where no weights are at hand.

Speed, size and bit-exactness of an accelerator depend on the shape of a model, not on what it has learned. The numbers are
chosen so that activations stay as large as those of a trained model: every matrix keeps the variance of what it multiplies,
the output matrices share one unit of variance over all layers, logits have a standard deviation of about ``LOGIT_DEVIATION``.

Tensors are drawn one after another, each from its own generator (seeded by seed and tensor name), and written in shards, so
that memory holds one shard at a time and the same seed gives the same bytes whatever the size of the shards.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from math import prod, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import TensorSpec, serialize_file

from ..accelerators.checks import check_int, json_object
from ..accelerators.model_shape import ModelShape
from .checkpoint import gain_lengths, projection_shapes
from .huggingface import HuggingFaceCheckpoint

__all__ = ["SHAPES", "huggingface_config", "shape_named", "write_random_checkpoint"]

SHAPES = {
    "tiny": ModelShape(
        hidden_size=64, intermediate_size=160, layers=2, heads=4, kv_heads=2, head_dim=16, vocab_size=256, max_context=128,
        rope_theta=1e4, rms_norm_eps=1e-5, activation="relu2", sub_norms=True, tied=True, bos=1, eos=2),
    "bitnet-0.73b": ModelShape(
        hidden_size=1536, intermediate_size=4096, layers=24, heads=16, kv_heads=16, head_dim=96, vocab_size=32002,
        max_context=2048, rope_theta=1e4, rms_norm_eps=1e-5, activation="silu", sub_norms=True, tied=True, bos=1, eos=2),
    "bitnet-2b-4t": ModelShape(
        hidden_size=2560, intermediate_size=6912, layers=30, heads=20, kv_heads=5, head_dim=128, vocab_size=128256,
        max_context=4096, rope_theta=5e5, rms_norm_eps=1e-5, activation="relu2", sub_norms=True, tied=True, bos=128000,
        eos=128001),
}
"""Shapes by name: of the published BitNet b1.58 models, and a tiny one for trials."""

LOGIT_DEVIATION = 2.5
SHARD_BYTES = 1 << 27
_BLOCK = 1 << 18  # elements drawn at once
_TRIT_VARIANCE = 2 / 3

# All bytes of four codes 0..2, the lowest two bits first: one draw makes four trits.
_PACKED = np.array([sum(number // 3 ** i % 3 << 2 * i for i in range(4)) for number in range(81)], np.uint8)
_DTYPES = {"U8": ("uint8", 1), "BF16": ("bfloat16", 2)}


@dataclass(frozen=True)
class _Tensor:
    """A tensor to be written: dtype in the file, shape, and what draws its bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    draw: Callable[[np.random.Generator, int], np.ndarray]

    @property
    def bytes(self) -> int:
        return prod(self.shape) * _DTYPES[self.dtype][1]


def shape_named(text: str) -> ModelShape:
    """A shape of ``SHAPES``, or one read from a JSON file of ``ModelShape``'s fields; ``ValueError`` says what is wrong."""
    if text in SHAPES:
        return SHAPES[text]
    path = Path(text)
    if path.suffix != ".json":
        raise ValueError(f"shape must be one of {', '.join(SHAPES)}, or a .json file, not {text!r}")
    try:
        return ModelShape.from_json(json_object(path))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a model shape: {error}") from error


def write_random_checkpoint(folder: Path, shape: ModelShape, *, seed: int = 1, shard_bytes: int = SHARD_BYTES,
                            progress: Callable[[str], None] = lambda name: None) -> None:
    """Write ``config.json``, ``model-N-of-M.safetensors`` and their index to ``folder``, which must be empty or absent.

    Parameters
    ----------
    shape : ModelShape
        Written as ``BitNetForCausalLM`` with sub-norms, else as ``LlamaForCausalLM``.
    seed : int
        0 to 2**32 - 1.
    shard_bytes : int
        Largest shard; a larger tensor gets a shard of its own.
    progress : callable
        Called with the name of each shard before it is drawn.

    Raises ``ValueError`` for a folder with contents and for a shape that the format cannot hold. The configuration is
    written last: what was interrupted is no checkpoint.
    """
    check_int("seed", seed, 0, (1 << 32) - 1)
    check_int("shard_bytes", shard_bytes, 1, 1 << 40)
    _check(shape)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ValueError(f"{folder}: must be an empty folder")
    shards: list[list[_Tensor]] = []
    room = 0
    for tensor in _tensors(shape):
        if not shards or tensor.bytes > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(tensor)
        room -= tensor.bytes
    weight_map: dict[str, str] = {}
    total = 0
    for number, tensors in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        progress(file)
        _write_shard(folder / file, tensors, seed)
        weight_map |= {tensor.name: file for tensor in tensors}
        total += sum(tensor.bytes for tensor in tensors)
    _write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map})
    _write_json(folder / "config.json", huggingface_config(shape))


def huggingface_config(shape: ModelShape, *, linear_class: str = "autobitlinear", dtype: str = "bfloat16") -> dict[str, Any]:
    """``config.json`` of a checkpoint of this shape: ``BitNetForCausalLM`` with sub-norms, else ``LlamaForCausalLM``.

    Parameters
    ----------
    linear_class : str
        What scales do: ``"autobitlinear"`` multiply, ``"bitlinear"`` divide.
    dtype : str
        Of the tensors that are not packed.
    """
    config: dict[str, Any] = {
        "architectures": ["BitNetForCausalLM" if shape.sub_norms else "LlamaForCausalLM"],
        "model_type": "bitnet" if shape.sub_norms else "llama",
        "attention_bias": False,
        "hidden_act": shape.activation,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "vocab_size": shape.vocab_size,
        "max_position_embeddings": shape.max_context,
        "rope_theta": shape.rope_theta,
        "rms_norm_eps": shape.rms_norm_eps,
        "tie_word_embeddings": shape.tied,
        "bos_token_id": shape.bos,
        "eos_token_id": shape.eos,
        "torch_dtype": dtype,
        "quantization_config": {"quant_method": "bitnet", "linear_class": linear_class, "quantization_mode": "offline"},
    }
    # BitNet's class derives head_dim and knows no mlp_bias.
    return config if shape.sub_norms else config | {"head_dim": shape.head_dim, "mlp_bias": False}


def _check(shape: ModelShape) -> None:
    for which, (rows, _) in projection_shapes(shape).items():
        if rows % 4:
            raise ValueError(f"projection {which} must have a multiple of 4 rows to be packed, not {rows}")
    if shape.sub_norms and shape.heads * shape.head_dim != shape.hidden_size:
        raise ValueError(f"heads * head_dim must equal hidden_size in sub-norms, not {shape.heads} * {shape.head_dim} "
                         f"and {shape.hidden_size}")


def _tensors(shape: ModelShape) -> list[_Tensor]:
    """All tensors, in the order in which they are written."""
    names, hidden = HuggingFaceCheckpoint.names, shape.hidden_size
    vectors = shape.vocab_size, hidden
    rows = _normal(0, LOGIT_DEVIATION / sqrt(hidden))
    gains = _normal(1, 0.1)
    result = [_Tensor(names["embedding"], "BF16", vectors, rows)]
    for layer in range(shape.layers):
        result += [_Tensor(names[which].format(layer), "BF16", (length,), gains)
                   for which, length in gain_lengths(shape).items()]
        for which, (outputs, inputs) in projection_shapes(shape).items():
            name = names[which].format(layer)
            scale = 1 / sqrt(_TRIT_VARIANCE * inputs * (2 * shape.layers if which in ("o", "down") else 1))
            result += [_Tensor(name, "U8", (outputs // 4, inputs), _trits),
                       _Tensor(f"{name}_scale", "BF16", (1,), _normal(scale, 0.05 * scale))]
    result.append(_Tensor(names["final"], "BF16", (hidden,), gains))
    return result if shape.tied else [*result, _Tensor(names["lm_head"], "BF16", vectors, rows)]


def _trits(generator: np.random.Generator, count: int) -> np.ndarray:
    """Packed bytes; -1, 0 and +1 are equally likely."""
    return _PACKED[generator.integers(0, len(_PACKED), count, np.uint8)]


def _normal(mean: float, deviation: float) -> Callable[[np.random.Generator, int], np.ndarray]:
    """Draws bfloat16 bits of normal numbers, rounded to nearest even."""
    def draw(generator: np.random.Generator, count: int) -> np.ndarray:
        values = generator.standard_normal(count, np.float32)
        values *= np.float32(deviation)
        values += np.float32(mean)
        bits = values.view(np.uint32)
        bits += 0x7FFF + (bits >> 16 & 1)
        return (bits >> 16).astype(np.uint16)
    return draw


def _write_shard(file: Path, tensors: list[_Tensor], seed: int) -> None:
    arrays, specs = [], {}
    for tensor in tensors:
        generator = np.random.default_rng([seed, *tensor.name.encode()])
        count = prod(tensor.shape)
        array = np.empty(count, np.uint8 if tensor.dtype == "U8" else np.uint16)
        for start in range(0, count, _BLOCK):
            part = array[start:start + _BLOCK]
            part[:] = tensor.draw(generator, part.size)
        arrays.append(array)  # TensorSpec holds an address: the array must stay
        specs[tensor.name] = TensorSpec(dtype=_DTYPES[tensor.dtype][0], shape=tensor.shape, data_ptr=array.ctypes.data,
                                        data_len=array.nbytes)
    serialize_file(specs, file, metadata={"format": "pt"})
    file.chmod(0o644)


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
