"""Checkpoints for tests: small random ones of any shape, and where the reference ones are.

``write_checkpoint`` and ``write_gguf`` write the model of ``random_weights(shape, seed)``. All its numbers
are exact in bfloat16 and float16, so format and dtype change the file but never the model; only the scales
of ``"bitlinear"``, which are stored as reciprocals, are rounded. What was written is returned, for
comparison.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from llmrtl.accelerators.model_shape import ModelShape
from llmrtl.rtl_gen.checkpoint import GAINS, PROJECTIONS, Checkpoint, CheckpointError
from llmrtl.rtl_gen.random_checkpoint import huggingface_config
from safetensors import TensorSpec, serialize_file

__all__ = ["SMALL_BITNET", "SMALL_LLAMA", "Weights", "assert_holds", "edit_config", "random_weights",
           "reference_checkpoint", "refused", "save_safetensors", "write_checkpoint", "write_gguf"]

SMALL_BITNET = ModelShape(
    hidden_size=32, intermediate_size=40, layers=2, heads=4, kv_heads=2, head_dim=8, vocab_size=50,
    max_context=64, rope_theta=500000.0, rms_norm_eps=1e-5, activation="relu2",
    sub_norms=True, tied=True, bos=48, eos=49,
)
SMALL_LLAMA = ModelShape(
    hidden_size=24, intermediate_size=36, layers=2, heads=4, kv_heads=1, head_dim=8, vocab_size=50,
    max_context=64, rope_theta=10000.0, rms_norm_eps=1e-6, activation="silu",
    sub_norms=False, tied=False, bos=48, eos=49,
)

Tensors = dict[str, tuple[str, np.ndarray]]  # name -> dtype in the file, array (bfloat16 as uint16)

_ROOT = Path(__file__).resolve().parents[2] / "shared" / "reference" / "checkpoints"
_HUGGING_FACE = {
    "embedding": "model.embed_tokens", "lm_head": "lm_head", "final": "model.norm",
    "attention": "model.layers.{}.input_layernorm", "ffn": "model.layers.{}.post_attention_layernorm",
    "attention_sub": "model.layers.{}.self_attn.attn_sub_norm", "ffn_sub": "model.layers.{}.mlp.ffn_sub_norm",
    **{which: f"model.layers.{{}}.self_attn.{which}_proj" for which in "qkvo"},
    **{which: f"model.layers.{{}}.mlp.{which}_proj" for which in ("gate", "up", "down")}}
_GGUF = {
    "embedding": "token_embd", "lm_head": "output", "final": "output_norm", "attention": "blk.{}.attn_norm",
    "ffn": "blk.{}.ffn_norm", "attention_sub": "blk.{}.attn_sub_norm", "ffn_sub": "blk.{}.ffn_sub_norm",
    "q": "blk.{}.attn_q", "k": "blk.{}.attn_k", "v": "blk.{}.attn_v", "o": "blk.{}.attn_output",
    "gate": "blk.{}.ffn_gate", "up": "blk.{}.ffn_up", "down": "blk.{}.ffn_down"}


def reference_checkpoint(name: str = ".") -> Path:
    """A file or directory of the reference checkpoints; skips the test where they are absent."""
    if not _ROOT.is_dir():
        pytest.skip(f"no reference checkpoints at {_ROOT}")
    return _ROOT / name


@dataclass
class Weights:
    """A model: arrays by role (``"embedding"``, ``"lm_head"``, ``"final"``) or by (layer, role).

    floats: float32; trits: int8 ``[out, in]``; scales: multiply.
    """

    floats: dict[Any, np.ndarray]
    trits: dict[tuple[int, str], np.ndarray]
    scales: dict[tuple[int, str], float]


def random_weights(shape: ModelShape, seed: int) -> Weights:
    """A random model whose activations and logits have sensible sizes."""
    rng = np.random.default_rng(seed)
    query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    floats: dict[Any, np.ndarray] = {}
    for role in ("embedding",) if shape.tied else ("embedding", "lm_head"):
        floats[role] = rng.normal(0, 3 / shape.hidden_size ** 0.5, (shape.vocab_size, shape.hidden_size))
    floats["final"] = rng.normal(1, 0.2, shape.hidden_size)
    trits, scales = {}, {}
    for layer in range(shape.layers):
        gains = {"attention": shape.hidden_size, "ffn": shape.hidden_size}
        if shape.sub_norms:
            gains |= {"attention_sub": query, "ffn_sub": shape.intermediate_size}
        for which, length in gains.items():
            floats[layer, which] = rng.normal(1, 0.2, length)
        for which, (rows, columns) in {
                "q": (query, shape.hidden_size), "k": (key, shape.hidden_size), "v": (key, shape.hidden_size),
                "o": (shape.hidden_size, query), "gate": (shape.intermediate_size, shape.hidden_size),
                "up": (shape.intermediate_size, shape.hidden_size),
                "down": (shape.hidden_size, shape.intermediate_size)}.items():
            trits[layer, which] = rng.choice([-1, 0, 1], (rows, columns), p=(0.3, 0.4, 0.3)).astype(np.int8)
            scales[layer, which] = _rounded_scale(rng.uniform(0.8, 1.2) / (0.6 * columns) ** 0.5)
    return Weights({role: _rounded(values) for role, values in floats.items()}, trits, scales)


def write_checkpoint(path: Path, shape: ModelShape, seed: int, linear_class: str = "autobitlinear",
                     sharded: bool = False, dtype: str = "bfloat16") -> Weights:
    """Write a Hugging Face directory of ``random_weights(shape, seed)`` and return what it holds.

    Sub-norms make it ``BitNetForCausalLM``, otherwise it is ``LlamaForCausalLM``. ``linear_class`` is
    ``"autobitlinear"`` (the scale multiplies) or ``"bitlinear"`` (it divides); ``dtype`` is ``"bfloat16"``,
    ``"float16"`` or ``"float32"``; ``sharded`` writes two files and an index.
    """
    weights = random_weights(shape, seed)
    code = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}[dtype]
    tensors: Tensors = {f"{_name(_HUGGING_FACE, role)}.weight": (code, _stored(values, code))
                        for role, values in weights.floats.items()}
    for role, trits in weights.trits.items():
        stored = weights.scales[role]
        if linear_class == "bitlinear":
            stored = _rounded_scale(1 / stored)
            weights.scales[role] = 1 / stored
        name = f"{_name(_HUGGING_FACE, role)}.weight"
        tensors[name] = "U8", _packed(trits)
        tensors[f"{name}_scale"] = code, _stored(np.array([stored]), code)
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(huggingface_config(shape, linear_class=linear_class, dtype=dtype), indent=2))
    if not sharded:
        save_safetensors(path / "model.safetensors", tensors)
        return weights
    shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    weight_map = {name: shards[i % 2] for i, name in enumerate(sorted(tensors))}
    for shard in shards:
        save_safetensors(path / shard, {name: tensors[name] for name in tensors if weight_map[name] == shard})
    total = sum(array.nbytes for _, array in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (path / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    return weights


def write_gguf(path: Path, shape: ModelShape, seed: int, quantization: str = "TQ2_0",
               architecture: str = "bitnet-b1.58", overrides: dict[str, Any] | None = None,
               big_endian: bool = False) -> Weights:
    """Write a GGUF file of ``random_weights(shape, seed)`` (rows a multiple of 256) and return what it holds.

    ``overrides`` adds or replaces metadata, or leaves it out where the value is None; keys are those
    under the architecture, global ones have a leading dot (``".split.count"``).
    """
    weights = random_weights(shape, seed)
    order = gguf.GGUFEndian.BIG if big_endian else gguf.GGUFEndian.LITTLE
    writer = gguf.GGUFWriter(path, architecture, endianess=order)
    values: dict[str, Any] = {
        "vocab_size": shape.vocab_size, "context_length": shape.max_context,
        "embedding_length": shape.hidden_size, "block_count": shape.layers,
        "feed_forward_length": shape.intermediate_size,
        "rope.dimension_count": shape.head_dim, "attention.head_count": shape.heads,
        "attention.head_count_kv": shape.kv_heads, "attention.layer_norm_rms_epsilon": shape.rms_norm_eps,
        "rope.freq_base": shape.rope_theta, ".tokenizer.ggml.bos_token_id": shape.bos,
        ".tokenizer.ggml.eos_token_id": shape.eos, **(overrides or {})}
    for key, value in values.items():
        key = key[1:] if key.startswith(".") else f"{architecture}.{key}"
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif value is not None:
            writer.add_uint32(key, value)
    for role, array in weights.floats.items():
        stored = array.astype(np.float16) if array.ndim > 1 else array
        writer.add_tensor(f"{_name(_GGUF, role)}.weight", stored)
    kind = gguf.GGMLQuantizationType[quantization]
    for role, trits in weights.trits.items():
        data = gguf.quants.quantize(trits * np.float32(weights.scales[role]), kind)
        writer.add_tensor(f"{_name(_GGUF, role)}.weight", data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


def save_safetensors(file: Path, tensors: Tensors) -> None:
    """Write a safetensors file of any dtype; bfloat16 comes as its bits."""
    names = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "U8": "uint8", "I8": "int8"}
    arrays = {name: (names[code], np.ascontiguousarray(array)) for name, (code, array) in tensors.items()}
    specs = {name: TensorSpec(dtype=code, shape=array.shape, data_ptr=array.ctypes.data,
                              data_len=array.nbytes) for name, (code, array) in arrays.items()}
    serialize_file(specs, file, metadata={"format": "pt"})


def _name(names: dict[str, str], role: Any) -> str:
    return names[role] if isinstance(role, str) else names[role[1]].format(role[0])


def _rounded(values: np.ndarray) -> np.ndarray:
    """float32 numbers that bfloat16 and float16 hold exactly: 8 significant bits, nothing below 2**-10."""
    values = np.where(np.abs(values) < 2.0 ** -10, 0, values).astype(np.float32)
    return ((values.view(np.uint32) + 0x8000) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def _rounded_scale(scale: float) -> float:
    return float(_rounded(np.array([scale]))[0])


def _stored(values: np.ndarray, code: str) -> np.ndarray:
    values = values.astype(np.float32)
    if code == "BF16":
        return (values.view(np.uint32) >> 16).astype(np.uint16)
    return values.astype({"F32": np.float32, "F16": np.float16}[code])


def _packed(trits: np.ndarray) -> np.ndarray:
    quarter = len(trits) // 4
    codes = (trits + 1).astype(np.uint8)
    return sum(codes[i * quarter:(i + 1) * quarter] << np.uint8(2 * i) for i in range(4)).astype(np.uint8)


def edit_config(path: Path, changes: dict[str, Any]) -> None:
    """Replace keys of config.json (None deletes); dots descend."""
    file = path / "config.json"
    config = json.loads(file.read_text())
    for key, value in changes.items():
        *parents, leaf = key.split(".")
        table = config
        for parent in parents:
            table = table[parent]
        if value is None:
            table.pop(leaf)
        else:
            table[leaf] = value
    file.write_text(json.dumps(config))


def assert_holds(checkpoint: Checkpoint, weights: Weights) -> None:
    """Every array and scale of the checkpoint is what was written."""
    model, floats = checkpoint.model, weights.floats
    for actual, role in ((checkpoint.embedding(), "embedding"), (checkpoint.final_gain(), "final"),
                         (checkpoint.lm_head(), "embedding" if model.tied else "lm_head")):
        assert actual.dtype == np.float32 and type(actual) is np.ndarray
        np.testing.assert_array_equal(actual, floats[role])
    for layer in range(model.layers):
        for which in GAINS:
            gain = checkpoint.gain(layer, which)
            if which.endswith("_sub") and not model.sub_norms:
                assert gain is None
            else:
                assert gain.dtype == np.float32
                np.testing.assert_array_equal(gain, floats[layer, which])
        for which in PROJECTIONS:
            projection = checkpoint.projection(layer, which)
            assert projection.trits.dtype == np.int8
            np.testing.assert_array_equal(projection.trits, weights.trits[layer, which])
            assert projection.scale == weights.scales[layer, which]


def refused(path: Path, *parts: str) -> None:
    """Opening is refused, with a message that holds all parts."""
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(path)
    for part in parts:
        assert part in str(caught.value), str(caught.value)
