"""Hugging Face directories: ``config.json`` with one ``model.safetensors``, or shards with their index.

Read are ``BitNetForCausalLM`` (sub-norms) and ``LlamaForCausalLM`` (none) with ``quant_method: "bitnet"``,
quantized offline.

- Packed weight: uint8 ``[out/4, in]``; bits ``2i, 2i+1`` of byte ``[r, c]``: ``W[i * out/4 + r, c] + 1``.
- ``weight_scale``: one positive number ``[1]``. ``linear_class: "autobitlinear"`` multiplies by it;
  ``"bitlinear"`` (also when the key is absent) divides, so ``Projection.scale`` is its reciprocal, in
  float64.
- Other tensors: float32, float16 or bfloat16.
- Configuration of transformers 4 (``rope_theta``) and 5 (``rope_parameters``). ``num_key_value_heads`` and
  ``head_dim`` may be absent, as transformers defines; keys that are not read here are ignored, as in
  transformers.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from ..accelerators.checks import check_int
from ..accelerators.model_shape import ModelShape
from .checkpoint import FLOATS, Checkpoint, CheckpointError, Expected, Projection, StoredTensor

__all__ = ["HuggingFaceCheckpoint", "parse_config", "read_directory", "read_json", "read_safetensors", "unpack_trits"]

_ARCHITECTURES = {"bitnet": "BitNetForCausalLM", "llama": "LlamaForCausalLM"}
# key -> accepted values, the first of which an absent key means
_FIXED: dict[str, tuple] = {
    "attention_bias": (False, None), "mlp_bias": (False, None), "partial_rotary_factor": (1.0, None)}
_PLAIN_ROPE = (("rope_type", "default"), ("type", "default"), ("partial_rotary_factor", 1))
_FIXED_QUANTIZATION: dict[str, tuple] = {
    "linear_class": ("bitlinear", "autobitlinear"), "quantization_mode": ("offline",),
    "use_rms_norm": (False,), "modules_to_not_convert": (None, ["lm_head"])}


class HuggingFaceCheckpoint(Checkpoint):
    """A checkpoint directory; see ``Checkpoint`` for the interface."""

    names = {"embedding": "model.embed_tokens.weight", "lm_head": "lm_head.weight",
             "final": "model.norm.weight",
             "attention": "model.layers.{}.input_layernorm.weight",
             "ffn": "model.layers.{}.post_attention_layernorm.weight",
             "attention_sub": "model.layers.{}.self_attn.attn_sub_norm.weight",
             "ffn_sub": "model.layers.{}.mlp.ffn_sub_norm.weight",
             **{which: f"model.layers.{{}}.self_attn.{which}_proj.weight" for which in "qkvo"},
             **{which: f"model.layers.{{}}.mlp.{which}_proj.weight" for which in ("gate", "up", "down")}}

    def __init__(self, path: Path) -> None:
        config_file = path / "config.json"
        config = read_json(config_file)
        try:
            model, stop_tokens = parse_config(config)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{config_file}: {error}") from error
        self._scale_divides = config["quantization_config"].get("linear_class", "bitlinear") == "bitlinear"
        files, tensors = read_directory(path)
        tokenizer = path / "tokenizer.json"
        super().__init__(path, [config_file, *files], model, tensors, stop_tokens,
                         tokenizer if tokenizer.is_file() else None)
        for name in tensors:
            if name.endswith(".weight_scale"):
                self._scale(name)

    def _ternary_tensors(self, name: str, rows: int, columns: int) -> Expected:
        if rows % 4:
            raise CheckpointError(f"{self.path}: tensor {name} must have a multiple of 4 rows to be packed, "
                                  f"not {rows}")
        return {name: (("U8",), (rows // 4, columns)), f"{name}_scale": (FLOATS, (1,))}

    def _ternary(self, name: str) -> Projection:
        tensor = self._tensors[name]
        trits = unpack_trits(tensor.data.reshape(tensor.shape))
        if trits.max() > 1:
            row, column = np.argwhere(trits > 1)[0]
            raise CheckpointError(f"{tensor.file}: tensor {name} is not ternary: code 3 at row {row}, "
                                  f"column {column}, codes must be 0..2")
        return Projection(trits, self._scale(f"{name}_scale"))

    def _scale(self, name: str) -> float:
        scale = float(self._float(name)[0])
        if scale <= 0:
            raise CheckpointError(f"{self._tensors[name].file}: tensor {name} must be positive, not {scale}")
        return 1 / scale if self._scale_divides else scale


def unpack_trits(packed: np.ndarray) -> np.ndarray:
    """uint8 ``[out/4, in]`` -> int8 ``[out, in]``; the illegal code 3 becomes 2."""
    trits = np.empty((4, *packed.shape), dtype=np.int8)
    for i in range(4):
        np.bitwise_and(packed >> (2 * i), 3, out=trits[i].view(np.uint8))
    trits -= 1
    return trits.reshape(-1, packed.shape[1])


def parse_config(config: dict[str, Any]) -> tuple[ModelShape, tuple[int, ...]]:
    """``config.json`` -> model shape, end-of-sequence ids; ``ValueError`` or ``TypeError`` says why."""
    kind = config.get("model_type")
    if kind not in _ARCHITECTURES:
        raise ValueError(f"model_type must be one of {', '.join(_ARCHITECTURES)}, not {kind!r}")
    if config.get("architectures") not in (None, [_ARCHITECTURES[kind]]):
        raise ValueError(f"architectures must be [{_ARCHITECTURES[kind]!r}], not {config['architectures']!r}")
    quantization = config.get("quantization_config")
    if not isinstance(quantization, dict) or quantization.get("quant_method") != "bitnet":
        raise ValueError("not a ternary checkpoint: quantization_config.quant_method must be 'bitnet', "
                         f"quantization_config is {quantization!r}")
    _check_fixed("", config, _FIXED)
    _check_fixed("quantization_config.", quantization, _FIXED_QUANTIZATION)
    tied = config.get("tie_word_embeddings", False)
    if not isinstance(tied, bool):
        raise TypeError(f"tie_word_embeddings must be true or false, not {tied!r}")

    hidden, heads = _required(config, "hidden_size"), _required(config, "num_attention_heads")
    vocab = _required(config, "vocab_size")
    check_int("hidden_size", hidden, 4, 1 << 16)
    check_int("num_attention_heads", heads, 1, 1 << 10)
    head_dim = config.get("head_dim")
    if head_dim is None:
        if hidden % heads:
            raise ValueError("hidden_size must be a multiple of num_attention_heads without head_dim, "
                             f"not {hidden} and {heads}")
        head_dim = hidden // heads
    kv_heads = config.get("num_key_value_heads")
    bos, eos = _token_ids(config, "bos_token_id", vocab), _token_ids(config, "eos_token_id", vocab)
    model = ModelShape(
        hidden_size=hidden, intermediate_size=_required(config, "intermediate_size"),
        layers=_required(config, "num_hidden_layers"), heads=heads,
        kv_heads=heads if kv_heads is None else kv_heads, head_dim=head_dim, vocab_size=vocab,
        max_context=_required(config, "max_position_embeddings"), rope_theta=_rope_theta(config),
        rms_norm_eps=_number("rms_norm_eps", _required(config, "rms_norm_eps")),
        activation=_required(config, "hidden_act"), sub_norms=kind == "bitnet", tied=tied,
        bos=bos[0] if bos else None, eos=eos[0] if eos else None)
    return model, eos


def _rope_theta(config: dict[str, Any]) -> float:
    """Base of the rotary embedding, from either generation of keys; only the plain embedding is accepted."""
    found = [config["rope_theta"]] if "rope_theta" in config else []
    for key in ("rope_parameters", "rope_scaling"):
        rope = config.get(key)
        if rope is None:
            continue
        if not isinstance(rope, dict):
            raise TypeError(f"{key} must be an object, not {rope!r}")
        for name, value in rope.items():
            if name == "rope_theta":
                found.append(value)
            elif (name, value) not in _PLAIN_ROPE:
                raise ValueError(f"{key}.{name} is {value!r}, only rope_type 'default' is supported")
    if not found:
        raise ValueError("rope_theta is missing (at top level or in rope_parameters)")
    if any(value != found[0] for value in found):
        raise ValueError(f"rope_theta must be the same everywhere, not {' and '.join(map(repr, found))}")
    return _number("rope_theta", found[0])


def _required(config: dict[str, Any], key: str) -> Any:
    if key not in config:
        raise ValueError(f"{key} is missing")
    return config[key]


def _number(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(f"{key} must be a finite number, not {value!r}")
    return float(value)


def _check_fixed(prefix: str, config: dict[str, Any], rules: dict[str, tuple]) -> None:
    for key, accepted in rules.items():
        value = config.get(key, accepted[0])
        if value not in accepted:
            raise ValueError(f"{prefix}{key} must be {' or '.join(map(repr, accepted))}, not {value!r}")


def _token_ids(config: dict[str, Any], key: str, vocab: int) -> tuple[int, ...]:
    """A token id, a list of them, or null."""
    value = config.get(key)
    ids = value if isinstance(value, list) else [] if value is None else [value]
    for token in ids:
        check_int(key, token, 0, vocab - 1)
    return tuple(ids)


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file; ``CheckpointError`` if there is none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{file}: file is missing") from error
    except ValueError as error:  # also what UnicodeDecodeError and JSONDecodeError are
        raise CheckpointError(f"{file}: not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: must hold a JSON object, not {type(content).__name__}")
    return content


def read_safetensors(file: Path) -> dict[str, StoredTensor]:
    """The tensors of one safetensors file, as stored (of any dtype, bfloat16 too); nothing is loaded."""
    try:
        with safe_open(file, framework="np"):
            pass  # the library checks that header, offsets and file size agree
    except FileNotFoundError as error:
        raise CheckpointError(f"{file}: file is missing") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file}: damaged safetensors file: {error}") from error
    data = np.asarray(np.memmap(file, dtype=np.uint8, mode="r"))
    start = 8 + int(data[:8].view("<u8")[0])
    header = json.loads(data[8:start].tobytes())
    header.pop("__metadata__", None)
    return {name: StoredTensor(file, entry["dtype"], tuple(entry["shape"]),
                               data[start + entry["data_offsets"][0]:start + entry["data_offsets"][1]])
            for name, entry in header.items()}


def read_directory(path: Path) -> tuple[list[Path], dict[str, StoredTensor]]:
    """All tensor files (with the index, if sharded) and all tensors of a directory."""
    single, index = path / "model.safetensors", path / "model.safetensors.index.json"
    if single.exists() == index.exists():
        raise CheckpointError(f"{path}: must hold either model.safetensors or model.safetensors.index.json, "
                              f"not {'both' if single.exists() else 'neither'}")
    if single.exists():
        return [single], read_safetensors(single)
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(
            isinstance(shard, str) and shard == Path(shard).name for shard in weight_map.values()):
        raise CheckpointError(f"{index}: weight_map must map tensor names to files in the same directory")
    shards = {name: read_safetensors(path / name) for name in sorted(set(weight_map.values()))}
    tensors: dict[str, StoredTensor] = {}
    for name, shard in weight_map.items():
        if name not in shards[shard]:
            raise CheckpointError(f"{path / shard}: tensor {name} is missing ({index.name} says it is here)")
        tensors[name] = shards[shard][name]
    for shard, content in shards.items():
        for name in content:
            if weight_map.get(name) != shard:
                raise CheckpointError(f"{path / shard}: tensor {name} is not listed here by {index.name}")
    return [index, *(path / shard for shard in shards)], tensors
