"""What an open checkpoint promises, whatever its format; the reference checkpoints."""

import dataclasses
import json
import re
import shutil
import tracemalloc

import numpy as np
import pytest
from llmrtl.rtl_gen.checkpoint import PROJECTIONS, Checkpoint
from safetensors import safe_open

from ..checkpoints import (
    SMALL_BITNET,
    SMALL_LLAMA,
    assert_holds,
    edit_config,
    reference_checkpoint,
    write_checkpoint,
)

REFERENCE = ["bitnet-auto-h128", "llama-bit-h96", "bitnet-auto-h256-mha"]


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("linear_class", ["autobitlinear", "bitlinear"])
@pytest.mark.parametrize("shape", [SMALL_BITNET, SMALL_LLAMA], ids=["bitnet", "llama"])
def test_round_trip(tmp_path, shape, linear_class, dtype, sharded):
    weights = write_checkpoint(tmp_path, shape, 3, linear_class, sharded, dtype)
    checkpoint = Checkpoint.open(tmp_path)
    assert checkpoint.model == shape
    assert checkpoint.path == tmp_path
    assert checkpoint.tokenizer_path is None
    assert checkpoint.stop_tokens == (49,)
    checkpoint.validate()
    assert_holds(checkpoint, weights)


def test_tokenizer(tmp_path):
    write_checkpoint(tmp_path, SMALL_BITNET, 1)
    (tmp_path / "tokenizer.json").write_text("{}")
    assert Checkpoint.open(tmp_path).tokenizer_path == tmp_path / "tokenizer.json"


def test_sha256(tmp_path):
    for name in ("a", "b"):
        write_checkpoint(tmp_path / name, SMALL_BITNET, seed=1)
    write_checkpoint(tmp_path / "c", SMALL_BITNET, seed=2)
    write_checkpoint(tmp_path / "d", SMALL_BITNET, seed=1, sharded=True)
    shutil.copytree(tmp_path / "a", tmp_path / "e")
    edit_config(tmp_path / "e", {"rms_norm_eps": 2e-5})
    digests = {name: Checkpoint.open(tmp_path / name).sha256 for name in "abcde"}
    assert re.fullmatch("[0-9a-f]{64}", digests["a"])
    assert digests["a"] == digests["b"]
    assert len(set(digests.values())) == 4
    (tmp_path / "a" / "tokenizer.json").write_text("{}")
    assert Checkpoint.open(tmp_path / "a").sha256 == digests["b"]


def test_open_loads_nothing(tmp_path):
    """Neither opening nor reading one tensor takes more memory than that tensor, widened."""
    write_checkpoint(tmp_path, dataclasses.replace(SMALL_LLAMA, vocab_size=20000, tied=True), 7)
    Checkpoint.open(tmp_path)  # imports
    tracemalloc.start()
    checkpoint = Checkpoint.open(tmp_path)
    assert checkpoint.sha256
    assert tracemalloc.get_traced_memory()[1] < 500_000
    embedding = checkpoint.embedding()
    assert tracemalloc.get_traced_memory()[1] < 2 * embedding.nbytes
    tracemalloc.stop()


def test_wrong_arguments(tmp_path):
    write_checkpoint(tmp_path, SMALL_BITNET, 1)
    checkpoint = Checkpoint.open(tmp_path)
    with pytest.raises(ValueError, match=r"^layer must be in 0\.\.1, not 2$"):
        checkpoint.projection(2, "q")
    with pytest.raises(ValueError, match=r"^layer must be in 0\.\.1, not -1$"):
        checkpoint.gain(-1, "ffn")
    with pytest.raises(ValueError, match="which must be one of q, k, v, o, gate, up, down, not 'lm_head'"):
        checkpoint.projection(0, "lm_head")
    with pytest.raises(ValueError, match="one of attention, ffn, attention_sub, ffn_sub, not 'final'"):
        checkpoint.gain(0, "final")


@pytest.mark.parametrize("name", REFERENCE)
def test_reference(name):
    path = reference_checkpoint(name)
    manifest = json.loads((path.parent / "manifest.json").read_text())["models"][name]
    checkpoint = Checkpoint.open(path)
    checkpoint.validate()
    model = checkpoint.model
    for field, key in {
            "hidden_size": "hidden_size", "heads": "num_attention_heads", "kv_heads": "num_key_value_heads",
            "head_dim": "head_dim", "intermediate_size": "intermediate_size", "layers": "num_hidden_layers",
            "vocab_size": "vocab_size", "tied": "tie_word_embeddings", "rope_theta": "rope_theta",
            "rms_norm_eps": "rms_norm_eps"}.items():
        assert getattr(model, field) == manifest[key]
    assert model.max_context == 128
    assert model.sub_norms == (model.activation == "relu2") == (manifest["linear_class"] == "autobitlinear")
    assert checkpoint.tokenizer_path == (path / "tokenizer.json" if name == "bitnet-auto-h128" else None)
    with safe_open(path / "model.safetensors", framework="np") as file:
        for layer in range(model.layers):
            for which, block in zip(PROJECTIONS, 4 * ["self_attn"] + 3 * ["mlp"], strict=True):
                packed = file.get_tensor(f"model.layers.{layer}.{block}.{which}_proj.weight")
                trits = np.concatenate([(packed >> (2 * i)) & 3 for i in range(4)]).astype(np.int8) - 1
                np.testing.assert_array_equal(checkpoint.projection(layer, which).trits, trits)
    up = checkpoint.projection(0, "up").trits
    assert (up[5] == 1).all() and (up[6] == -1).all()
    assert not checkpoint.projection(0, "k").trits[1].any()
