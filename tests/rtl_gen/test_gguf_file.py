"""GGUF files: what is read, and every refusal with its message."""

import dataclasses
import re

import gguf
import numpy as np
import pytest
from llmrtl.rtl_gen.checkpoint import GAINS, PROJECTIONS, Checkpoint, CheckpointError

from ..checkpoints import SMALL_BITNET, assert_holds, reference_checkpoint, refused, write_gguf

SHAPE = dataclasses.replace(SMALL_BITNET, hidden_size=256, intermediate_size=256, layers=1, head_dim=64)


def edit_gguf(path, name, edit):
    """Change the stored bytes of a tensor: ``edit`` gets uint8 ``[rows, bytes per row]``."""
    tensor = next(tensor for tensor in gguf.GGUFReader(path).tensors if tensor.name == name)
    data = np.fromfile(path, np.uint8)
    edit(data[tensor.data_offset:tensor.data_offset + tensor.n_bytes].reshape(int(tensor.shape[1]), -1))
    data.tofile(path)


@pytest.mark.parametrize("quantization", ["TQ1_0", "TQ2_0"])
@pytest.mark.parametrize(("architecture", "activation"), [("bitnet-b1.58", "relu2"), ("bitnet", "silu")])
def test_gguf_round_trip(tmp_path, quantization, architecture, activation):
    shape = dataclasses.replace(SHAPE, activation=activation)
    weights = write_gguf(tmp_path / "model.gguf", shape, 4, quantization, architecture)
    checkpoint = Checkpoint.open(str(tmp_path / "model.gguf"))
    assert checkpoint.model == shape
    assert checkpoint.tokenizer_path is None
    checkpoint.validate()
    assert_holds(checkpoint, weights)


@pytest.mark.parametrize("overrides", [
    {"rope.scaling.type": "linear", "rope.scaling.factor": 1.0}, {"rope.scaling.type": "none"},
    {"vocab_size": None}, {"rope.dimension_count": None},
    {"attention.key_length": 64, "attention.value_length": 64},
])
def test_gguf_harmless_keys(tmp_path, overrides):
    write_gguf(tmp_path / "model.gguf", SHAPE, 4, overrides=overrides)
    assert Checkpoint.open(tmp_path / "model.gguf").model == SHAPE


def test_gguf_details(tmp_path):
    path = tmp_path / "model.gguf"
    weights = write_gguf(path, dataclasses.replace(SHAPE, tied=False), 5)
    assert_holds(Checkpoint.open(path), weights)
    write_gguf(path, SHAPE, 5, architecture="bitnet", overrides={"hidden_activation": "relu2"})
    assert Checkpoint.open(path).model.activation == "relu2"
    write_gguf(path, SHAPE, 5, overrides={".tokenizer.ggml.eos_token_id": None})
    assert Checkpoint.open(path).model.eos is None
    assert Checkpoint.open(path).stop_tokens == ()


def test_gguf_zero_scales(tmp_path):
    path = tmp_path / "model.gguf"
    weights = write_gguf(path, SHAPE, 5)
    edit_gguf(path, "blk.0.attn_k.weight", lambda rows: rows[3:5, -2:].fill(0))
    edit_gguf(path, "blk.0.attn_v.weight", lambda rows: rows[:, -2:].fill(0))
    checkpoint = Checkpoint.open(path)
    weights.trits[0, "k"][3:5] = 0
    weights.trits[0, "v"][:] = 0
    weights.scales[0, "v"] = 1
    assert_holds(checkpoint, weights)


@pytest.mark.parametrize("quantization", ["TQ1_0", "TQ2_0"])
def test_reference_gguf(quantization):
    path = reference_checkpoint("bitnet-auto-h256-mha")
    checkpoint = Checkpoint.open(path / "gguf" / f"model-{quantization}.gguf")
    original = Checkpoint.open(path)
    assert checkpoint.model == original.model
    expected = np.load(path / "gguf" / "expected_dequant.npz")
    np.testing.assert_array_equal(checkpoint.embedding(), expected["token_embd.weight"])
    np.testing.assert_array_equal(checkpoint.final_gain(), expected["output_norm.weight"])
    for which in GAINS:
        np.testing.assert_array_equal(checkpoint.gain(0, which), original.gain(0, which))
        np.testing.assert_array_equal(checkpoint.gain(0, which), expected[checkpoint.names[which].format(0)])
    for which in PROJECTIONS:
        projection = checkpoint.projection(0, which)
        assert projection.scale == original.projection(0, which).scale
        np.testing.assert_array_equal(projection.trits, original.projection(0, which).trits)
        np.testing.assert_array_equal(projection.trits * np.float32(projection.scale),
                                      expected[checkpoint.names[which].format(0)])


@pytest.mark.parametrize(("overrides", "message"), [
    ({"rope.scaling.type": "yarn"}, "bitnet-b1.58.rope.scaling.type must be 'none' or 'linear', not 'yarn'"),
    ({"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
     "bitnet-b1.58.rope.scaling.factor must be 1.0, not 4.0"),
    ({"hidden_activation": "silu"}, "bitnet-b1.58.hidden_activation must be 'relu2', not 'silu'"),
    ({"expert_count": 8}, "bitnet-b1.58.expert_count is not a known key of this architecture"),
    ({"rope.dimension_count": 32}, "bitnet-b1.58.rope.dimension_count must be 64, not 32"),
    ({"vocab_size": 51}, "bitnet-b1.58.vocab_size must be 50, not 51"),
    ({"block_count": None}, "bitnet-b1.58.block_count is missing"),
    ({"block_count": 2}, "tensor blk.1.attn_norm.weight is missing"),
    ({"rope.freq_base": None}, "bitnet-b1.58.rope.freq_base is missing"),
    ({"rope.freq_base": 10000}, "bitnet-b1.58.rope.freq_base must be a finite float, not 10000"),
    ({"attention.head_count": 3, "rope.dimension_count": None},
     "heads must be a multiple of kv_heads, not 3 and 2"),
    ({"attention.head_count_kv": 4}, "tensor blk.0.attn_k.weight must have shape [256, 256], not [128, 256]"),
    ({".tokenizer.ggml.eos_token_id": 50}, "tokenizer.ggml.eos_token_id must be in 0..49, not 50"),
    ({".split.count": 2}, "split.count must be 1 (merge the parts first), not 2"),
])
def test_refused_gguf_metadata(tmp_path, overrides, message):
    write_gguf(tmp_path / "model.gguf", SHAPE, 1, overrides=overrides)
    refused(tmp_path / "model.gguf", str(tmp_path / "model.gguf"), message)


def test_refused_gguf_architecture(tmp_path):
    write_gguf(tmp_path / "model.gguf", SHAPE, 1, architecture="llama")
    refused(tmp_path / "model.gguf", "general.architecture must be bitnet-b1.58 or bitnet, not 'llama'")


def _block_scale(row, value):
    def edit(rows):
        rows[row, -2:] = np.array([value], "<f2").view(np.uint8)
    return edit


@pytest.mark.parametrize("quantization", ["TQ1_0", "TQ2_0"])
@pytest.mark.parametrize(("value", "message"), [
    (0.5, "tensor blk.0.attn_q.weight must have the same scale in all blocks, not "),
    (-1, "tensor blk.0.attn_q.weight must have finite block scales of 0 or more, not -1.0"),
    (np.nan, "tensor blk.0.attn_q.weight must have finite block scales of 0 or more, not nan"),
    (np.inf, "tensor blk.0.attn_q.weight must have finite block scales of 0 or more, not inf"),
])
def test_refused_gguf_scales(tmp_path, quantization, value, message):
    path = tmp_path / "model.gguf"
    write_gguf(path, SHAPE, 1, quantization)
    edit_gguf(path, "blk.0.attn_q.weight", _block_scale(9, value))
    refused(path, f"{path}: {message}")


def test_refused_gguf_tensors(tmp_path):
    path = tmp_path / "model.gguf"
    write_gguf(path, SHAPE, 1, "TQ2_0")
    edit_gguf(path, "blk.0.ffn_up.weight", lambda rows: rows[7, 3:4].fill(0b11010101))
    code = "tensor blk.0.ffn_up.weight is not ternary: code 3 at row 7, column 99, codes must be 0..2"
    with pytest.raises(CheckpointError, match=f"^{re.escape(f'{path}: {code}')}$"):
        Checkpoint.open(path).validate()
    write_gguf(path, SHAPE, 1, "Q8_0")
    refused(path, "tensor blk.0.attn_q.weight must have dtype TQ1_0 or TQ2_0, not Q8_0")
    write_gguf(path, dataclasses.replace(SHAPE, tied=False), 1)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"\0output.weight", b"\0output.scales"))
    refused(path, "tensor output.scales is not part of this architecture")
    path.write_bytes(data.replace(b"token_embd.weight", b"token_embd.scales"))
    refused(path, "tensor token_embd.weight is missing")


def test_refused_gguf_type_of_bitnet_cpp(tmp_path):
    path = tmp_path / "model.gguf"
    write_gguf(path, SHAPE, 1)
    info = next(tensor.field for tensor in gguf.GGUFReader(path).tensors if "attn_q" in tensor.name)
    data = bytearray(path.read_bytes())
    kind = info.offset + sum(part.nbytes for part in info.parts[:4])
    assert data[kind] == gguf.GGMLQuantizationType.TQ2_0
    data[kind] = 36
    path.write_bytes(data)
    refused(path, "damaged or unsupported GGUF file: ", "36) is not a valid GGMLQuantizationType "
                  "(36 is I2_S of bitnet.cpp; TQ1_0 and TQ2_0 are read here)")


@pytest.mark.parametrize("length", [0, 3, 20, 30, 200, 700, 1000, -1, -5000])
def test_truncated_gguf(tmp_path, length):
    path = tmp_path / "model.gguf"
    write_gguf(path, SHAPE, 1)
    path.write_bytes(path.read_bytes()[:length])
    refused(path, f"{path}: damaged or unsupported GGUF file")


def test_big_endian_gguf(tmp_path):
    write_gguf(tmp_path / "model.gguf", SHAPE, 1, big_endian=True)
    refused(tmp_path / "model.gguf", "model.gguf: must be a little-endian GGUF file")
