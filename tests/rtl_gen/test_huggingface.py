"""Hugging Face directories: configuration keys, and every refusal with its message."""

import dataclasses
import json
import re

import numpy as np
import pytest
from llmrtl.rtl_gen.checkpoint import Checkpoint, CheckpointError
from llmrtl.rtl_gen.huggingface import read_safetensors

from ..checkpoints import SMALL_BITNET, SMALL_LLAMA, edit_config, refused, save_safetensors, write_checkpoint

Q0 = "model.layers.0.self_attn.q_proj.weight"


def load(file):
    """Stored tensors: name -> (dtype, array)."""
    types = {"BF16": "<u2", "F16": "<f2", "F32": "<f4", "U8": "u1"}
    return {name: (tensor.dtype, tensor.data.view(types[tensor.dtype]).reshape(tensor.shape).copy())
            for name, tensor in read_safetensors(file).items()}


def edit_tensors(path, edit):
    """Rewrite model.safetensors after ``edit(tensors)``."""
    tensors = load(path / "model.safetensors")
    edit(tensors)
    save_safetensors(path / "model.safetensors", tensors)


@pytest.fixture
def bitnet(tmp_path):
    write_checkpoint(tmp_path / "bitnet", SMALL_BITNET, seed=1)
    return tmp_path / "bitnet"


@pytest.fixture
def llama(tmp_path):
    write_checkpoint(tmp_path / "llama", SMALL_LLAMA, seed=2, linear_class="bitlinear", dtype="float32")
    return tmp_path / "llama"


def test_config_of_transformers_5(bitnet):
    before = Checkpoint.open(bitnet).model
    edit_config(bitnet, {"rope_theta": None, "torch_dtype": None, "dtype": "bfloat16", "head_dim": 8,
                         "rope_scaling": {},
                         "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"},
                         "quantization_config.modules_to_not_convert": ["lm_head"]})
    assert Checkpoint.open(bitnet).model == before


def test_config_defaults(llama):
    scale = Checkpoint.open(llama).projection(0, "q").scale
    edit_config(llama, {"quantization_config.linear_class": None, "tie_word_embeddings": None,
                        "bos_token_id": None, "eos_token_id": [49, 7], "architectures": None})
    checkpoint = Checkpoint.open(llama)
    assert checkpoint.model == dataclasses.replace(SMALL_LLAMA, bos=None)
    assert checkpoint.stop_tokens == (49, 7)
    assert checkpoint.projection(0, "q").scale == scale
    edit_config(llama, {"quantization_config.linear_class": "autobitlinear"})
    assert Checkpoint.open(llama).projection(0, "q").scale == pytest.approx(1 / scale, rel=1e-15)


def test_kv_heads_and_head_dim_may_be_absent(tmp_path):
    shape = dataclasses.replace(SMALL_BITNET, kv_heads=4)
    write_checkpoint(tmp_path, shape, 6)
    edit_config(tmp_path, {"num_key_value_heads": None})
    assert Checkpoint.open(tmp_path).model == shape


@pytest.mark.parametrize(("changes", "message"), [
    ({"model_type": "qwen2"}, "model_type must be one of bitnet, llama, not 'qwen2'"),
    ({"model_type": None}, "model_type must be one of bitnet, llama, not None"),
    ({"architectures": ["LlamaForCausalLM"]},
     "architectures must be ['BitNetForCausalLM'], not ['LlamaForCausalLM']"),
    ({"quantization_config": None},
     "not a ternary checkpoint: quantization_config.quant_method must be 'bitnet'"),
    ({"quantization_config": {"quant_method": "gptq"}},
     "quantization_config.quant_method must be 'bitnet', quantization_config is {'quant_method': 'gptq'}"),
    ({"quantization_config.linear_class": "linear"},
     "quantization_config.linear_class must be 'bitlinear' or 'autobitlinear', not 'linear'"),
    ({"quantization_config.quantization_mode": "online"},
     "quantization_config.quantization_mode must be 'offline', not 'online'"),
    ({"quantization_config.use_rms_norm": True}, "quantization_config.use_rms_norm must be False, not True"),
    ({"quantization_config.modules_to_not_convert": ["q_proj"]},
     "quantization_config.modules_to_not_convert must be None or ['lm_head'], not ['q_proj']"),
    ({"attention_bias": True}, "attention_bias must be False or None, not True"),
    ({"mlp_bias": True}, "mlp_bias must be False or None, not True"),
    ({"hidden_act": "gelu"}, "activation must be 'relu2' or 'silu', not 'gelu'"),
    ({"hidden_act": None}, "hidden_act is missing"),
    ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
     "rope_scaling.rope_type is 'llama3', only rope_type 'default' is supported"),
    ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling.type is 'linear'"),
    ({"rope_parameters": {"rope_type": "yarn"}}, "rope_parameters.rope_type is 'yarn'"),
    ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "rope_parameters.partial_rotary_factor is 0.5"),
    ({"rope_parameters": 3}, "rope_parameters must be an object, not 3"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor must be 1.0 or None, not 0.5"),
    ({"rope_parameters": {"rope_theta": 1e4}},
     "rope_theta must be the same everywhere, not 500000.0 and 10000.0"),
    ({"rope_theta": None}, "rope_theta is missing"),
    ({"rope_theta": float("inf")}, "rope_theta must be a finite number, not inf"),
    ({"rope_theta": "500000"}, "rope_theta must be a finite number, not '500000'"),
    ({"rms_norm_eps": float("nan")}, "rms_norm_eps must be a finite number, not nan"),
    ({"num_attention_heads": 5}, "hidden_size must be a multiple of num_attention_heads without head_dim, "
                                 "not 32 and 5"),
    ({"num_attention_heads": 0}, "num_attention_heads must be in 1..1024, not 0"),
    ({"num_key_value_heads": 3}, "heads must be a multiple of kv_heads, not 4 and 3"),
    ({"head_dim": 12}, "heads * head_dim must equal hidden_size in sub-norms"),
    ({"hidden_size": "32"}, "hidden_size must be an integer, not '32'"),
    ({"vocab_size": None}, "vocab_size is missing"),
    ({"tie_word_embeddings": "yes"}, "tie_word_embeddings must be true or false, not 'yes'"),
    ({"eos_token_id": 50}, "eos_token_id must be in 0..49, not 50"),
    ({"bos_token_id": [1, "2"]}, "bos_token_id must be an integer, not '2'"),
])
def test_refused_config(bitnet, changes, message):
    edit_config(bitnet, changes)
    refused(bitnet, str(bitnet), message)


def test_refused_config_files(bitnet):
    config = bitnet / "config.json"
    config.write_text("{")
    refused(bitnet, f"{config}: not valid JSON: Expecting property name")
    config.write_text("[]")
    refused(bitnet, f"{config}: must hold a JSON object, not list")
    config.write_bytes(b"\xff\xfe")
    refused(bitnet, f"{config}: not valid JSON")
    config.unlink()
    refused(bitnet, f"{config}: file is missing")


def test_refused_paths(tmp_path):
    rule = "a checkpoint must be a directory with config.json and model.safetensors, or a .gguf file"
    refused(tmp_path / "absent", f"{tmp_path}/absent: {rule}")
    refused(tmp_path / "absent.gguf", rule)
    (tmp_path / "model.bin").write_bytes(b"")
    refused(tmp_path / "model.bin", rule)


def _set(name, index, value):
    def edit(tensors):
        tensors[name][1][index] = value
    return edit


def _replace(name, dtype, array):
    return lambda tensors: tensors.update({name: (dtype, array)})


@pytest.mark.parametrize(("edit", "message"), [
    (lambda tensors: tensors.pop(Q0), f"tensor {Q0} is missing"),
    (lambda tensors: tensors.pop(f"{Q0}_scale"), f"tensor {Q0}_scale is missing"),
    (lambda tensors: tensors.pop("lm_head.weight"), "tensor lm_head.weight is missing"),
    (_replace("model.layers.1.self_attn.q_proj.bias", "F32", np.zeros(32, np.float32)),
     "tensor model.layers.1.self_attn.q_proj.bias is not part of this architecture (no biases"),
    (_replace("model.layers.2.input_layernorm.weight", "F32", np.ones(24, np.float32)),
     "tensor model.layers.2.input_layernorm.weight is not part of this architecture"),
    (_replace(Q0, "U8", np.zeros((8, 20), np.uint8)), f"tensor {Q0} must have shape [8, 24], not [8, 20]"),
    (_replace(Q0, "F32", np.zeros((32, 24), np.float32)), f"tensor {Q0} must have dtype U8, not F32"),
    (_replace("model.norm.weight", "I8", np.ones(24, np.int8)),
     "tensor model.norm.weight must have dtype F32 or F16 or BF16, not I8"),
    (_replace("model.embed_tokens.weight", "F32", np.ones((51, 24), np.float32)),
     "tensor model.embed_tokens.weight must have shape [50, 24], not [51, 24]"),
    (_replace(f"{Q0}_scale", "F32", np.ones(2, np.float32)),
     f"tensor {Q0}_scale must have shape [1], not [2]"),
    (_set(f"{Q0}_scale", 0, 0.0), f"tensor {Q0}_scale must be positive, not 0.0"),
    (_set(f"{Q0}_scale", 0, -0.5), f"tensor {Q0}_scale must be positive, not -0.5"),
    (_set(f"{Q0}_scale", 0, np.inf), f"tensor {Q0}_scale must be finite, not inf at index [0]"),
    (_set(f"{Q0}_scale", 0, np.nan), f"tensor {Q0}_scale must be finite, not nan at index [0]"),
])
def test_refused_tensors(llama, edit, message):
    edit_tensors(llama, edit)
    refused(llama, str(llama), message)


def test_refused_tied_head(bitnet):
    edit_tensors(bitnet, _replace("lm_head.weight", "F32", np.zeros((50, 32), np.float32)))
    refused(bitnet, "model.safetensors: tensor lm_head.weight is not part of this architecture")


def test_refused_rows_that_cannot_be_packed(tmp_path):
    write_checkpoint(tmp_path, SMALL_BITNET, 1)
    edit_config(tmp_path, {"intermediate_size": 42})
    refused(tmp_path, "layers.0.mlp.gate_proj.weight must have a multiple of 4 rows to be packed, not 42")


def test_contents_are_refused_when_read(llama):
    edit_tensors(llama, _set(Q0, (5, 7), 0b00110101))
    edit_tensors(llama, _set("model.embed_tokens.weight", (3, 4), np.nan))
    checkpoint = Checkpoint.open(llama)
    code = (f"{llama}/model.safetensors: tensor {Q0} is not ternary: code 3 at row 21, column 7, "
            "codes must be 0..2")
    with pytest.raises(CheckpointError, match=f"^{re.escape(code)}$"):
        checkpoint.projection(0, "q")
    number = "tensor model.embed_tokens.weight must be finite, not nan at index [3, 4]"
    with pytest.raises(CheckpointError, match=re.escape(number)):
        checkpoint.embedding()
    with pytest.raises(CheckpointError, match=re.escape(number)):
        checkpoint.validate()
    edit_tensors(llama, _set("model.embed_tokens.weight", (3, 4), 0))
    with pytest.raises(CheckpointError, match=f"^{re.escape(code)}$"):
        Checkpoint.open(llama).validate()


@pytest.mark.parametrize("length", [0, 4, 8, 100, -1, -1000])
def test_truncated_safetensors(bitnet, length):
    file = bitnet / "model.safetensors"
    file.write_bytes(file.read_bytes()[:length])
    refused(bitnet, f"{file}: damaged safetensors file")


@pytest.mark.parametrize(("position", "content"), [
    (0, b"\xff" * 8), (8, b"x"), (60, b"\xff\xff"), (0, b"\x08")])
def test_damaged_safetensors_header(bitnet, position, content):
    file = bitnet / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[position:position + len(content)] = content
    file.write_bytes(data)
    refused(bitnet, f"{file}: damaged safetensors file")


def test_safetensors_with_more_bytes(bitnet):
    file = bitnet / "model.safetensors"
    file.write_bytes(file.read_bytes() + b"\0")
    refused(bitnet, f"{file}: damaged safetensors file")


def test_refused_shards(tmp_path):
    write_checkpoint(tmp_path, SMALL_BITNET, 1, sharded=True)
    index = tmp_path / "model.safetensors.index.json"
    shard = tmp_path / "model-00001-of-00002.safetensors"
    original = json.loads(index.read_text())
    missing = "is missing (model.safetensors.index.json says it is here)"

    def weight_map(changes):
        index.write_text(json.dumps({"weight_map": {**original["weight_map"], **changes}}))
        return tmp_path

    refused(weight_map({"model.norm.weight": "model-00003-of-00003.safetensors"}),
            "model-00003-of-00003.safetensors: file is missing")
    refused(weight_map({"model.norm.bias": shard.name}), f"{shard}: tensor model.norm.bias {missing}")
    moved = next(name for name, file in original["weight_map"].items() if file == shard.name)
    other = tmp_path / "model-00002-of-00002.safetensors"
    refused(weight_map({moved: other.name}), f"{other}: tensor {moved} {missing}")
    save_safetensors(other, load(other) | {moved: load(shard)[moved]})
    refused(weight_map({}), f"{other}: tensor {moved} is not listed here by model.safetensors.index.json")
    refused(weight_map({moved: "../x.safetensors"}),
            f"{index}: weight_map must map tensor names to files in the same directory")
    index.write_text("{}")
    refused(tmp_path, f"{index}: weight_map must map tensor names")
    (tmp_path / "model.safetensors").write_bytes(b"")
    rule = "must hold either model.safetensors or model.safetensors.index.json"
    refused(tmp_path, f"{tmp_path}: {rule}, not both")
    index.unlink()
    (tmp_path / "model.safetensors").unlink()
    refused(tmp_path, f"{tmp_path}: {rule}, not neither")
