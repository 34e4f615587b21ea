"""The story grammar, the tokenizer and the shipped checkpoint's files (no torch needed)."""

import json
import re
from pathlib import Path

import pytest
from llmrtl import models
from llmrtl.models import grammar
from safetensors import safe_open
from tokenizers import Tokenizer

MODELS = Path(models.__file__).parent
SHIPPED = MODELS / "stories"
VOCAB_SIZE = 1024
MATRICES = {
    "self_attn.q_proj": (192, 192), "self_attn.k_proj": (96, 192), "self_attn.v_proj": (96, 192),
    "self_attn.o_proj": (192, 192), "mlp.gate_proj": (528, 192), "mlp.up_proj": (528, 192),
    "mlp.down_proj": (192, 528),
}  # fmt: skip

NORMS = ("input_layernorm", "post_attention_layernorm", "self_attn.attn_sub_norm", "mlp.ffn_sub_norm")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(SHIPPED / "tokenizer.json"))


def test_same_seed_same_stories():
    assert grammar.training(50, 3) == grammar.training(50, 3)
    assert grammar.training(80, 3)[:50] == grammar.training(50, 3)
    assert grammar.training(50, 3) != grammar.training(50, 4)
    assert grammar.held_out(20, 3) == grammar.held_out(20, 3)


def test_held_out_stories_are_never_training_stories():
    assert not set(grammar.training(2000, 1)) & set(grammar.held_out(200, 1))
    assert all(grammar.is_held_out(text) for text in grammar.held_out(200, 2))
    assert not any(grammar.is_held_out(text) for text in grammar.training(2000, 2))


def test_stories_are_different_plain_and_complete():
    stories = grammar.training(2000, 5)
    assert len(set(stories)) == len(stories)
    for text in stories:
        assert text.isascii() and text.isprintable()
        assert grammar.MIN_WORDS <= len(text.split()) <= grammar.MAX_WORDS
        assert text[0].isupper() and re.search(r'[.!?]"?$', text)
        assert text.count('"') % 2 == 0
        assert not re.search(r"[\[\]{}|\\]|  ", text)
        assert not re.search(r"\ba [aeiou]\w", text.lower()), text
        assert not re.search(r"\ban [^aeiou]", text.lower()), text
        assert not re.search(r'[.!?] [a-z]', text), text
        assert grammar.document(text) == text + "<|end_of_text|>"


@pytest.mark.parametrize("plot", grammar.PLOTS)
def test_every_plot_has_variety(plot):
    steps = grammar.PLOTS[plot]
    assert len(steps) >= 6
    assert all(len(step) >= 1 for step in steps)


@pytest.mark.parametrize("count", [-1, 1.5])
def test_count_is_refused(count):
    with pytest.raises(ValueError, match=rf"n is {count!r}, but must be a count of stories"):
        grammar.training(count, 1)


def test_tokenizer_round_trip(tokenizer):
    assert tokenizer.get_vocab_size() == VOCAB_SIZE
    assert [tokenizer.id_to_token(i) for i in range(VOCAB_SIZE - 3, VOCAB_SIZE)] == [
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|eot_id|>",
    ]
    for text in grammar.held_out(50, 6):
        ids = tokenizer.encode(grammar.document(text)).ids
        assert ids[0] == VOCAB_SIZE - 3 and ids[-1] == VOCAB_SIZE - 2
        assert len(ids) <= 280
        assert tokenizer.decode(ids) == text


def test_tokenizer_takes_any_text(tokenizer):
    text = "  \tZebra-42, d\u00e9j\u00e0 vu \u2603\n"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_shipped_configuration():
    config = json.loads((SHIPPED / "config.json").read_text())
    expected = {
        "architectures": ["BitNetForCausalLM"], "model_type": "bitnet", "hidden_act": "relu2",
        "hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 48, "intermediate_size": 528, "vocab_size": VOCAB_SIZE, "tie_word_embeddings": True,
        "rope_theta": 10000.0, "rms_norm_eps": 1e-5, "max_position_embeddings": 512,
        "bos_token_id": VOCAB_SIZE - 3, "eos_token_id": VOCAB_SIZE - 2, "torch_dtype": "float32",
    }  # fmt: skip
    assert {key: config.get(key) for key in expected} == expected
    assert config["quantization_config"] == {
        "quant_method": "bitnet",
        "linear_class": "autobitlinear",
        "quantization_mode": "offline",
    }


def test_shipped_tensors():
    with safe_open(SHIPPED / "model.safetensors", "numpy") as file:
        names = set(file.keys())
        expected = {"model.embed_tokens.weight", "model.norm.weight"}
        for layer in range(4):
            prefix = f"model.layers.{layer}."
            expected |= {f"{prefix}{norm}.weight" for norm in NORMS}
            for matrix, (rows, columns) in MATRICES.items():
                expected |= {f"{prefix}{matrix}.weight", f"{prefix}{matrix}.weight_scale"}
                packed = file.get_tensor(f"{prefix}{matrix}.weight")
                assert packed.dtype == "uint8" and packed.shape == (rows // 4, columns)
                assert not any(((packed >> 2 * i & 3) == 3).any() for i in range(4))
                assert file.get_tensor(f"{prefix}{matrix}.weight_scale") > 0
        assert names == expected


def test_shipped_files_are_small():
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 4_000_000


def test_prompts():
    prompts = json.loads((MODELS / "prompts.json").read_text())
    assert len(prompts) >= 12 and len(set(prompts)) == len(prompts)
    assert all(prompt.isascii() and prompt == prompt.strip() for prompt in prompts)


def test_training_record():
    record = json.loads((SHIPPED / "training.json").read_text())
    assert record["steps_done"] == record["steps"]
    assert 1 < record["held_out_perplexity"] < 3
