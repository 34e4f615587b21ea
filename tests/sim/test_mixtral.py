"""A Mixtral layer of the golden model against transformers (extra ``[golden]``), from the checkpoint that transformers writes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from llmrtl.accelerators.experts.config import EXPERT_PRESETS
from llmrtl.rtl_gen.mixtral import MixtralExperts
from llmrtl.rtl_gen.moe import checkpoint_layer
from llmrtl.sim.golden.experts import moe, results_of
from llmrtl.sim.random_layer import real, stored

SEED, LAYER, TOKENS = 11, 1, 32
ERRORS = {"fp16": 8e-4, "bf16": 7e-3}
"""Relative root mean square error against transformers' float64 output of its own float32 weights: those are rounded too."""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The model, and directories in the published and in the fused form. Weights of variance ``1 / hidden``, as trained ones about."""
    torch = pytest.importorskip("torch", reason="needs the extra [golden]")
    transformers = pytest.importorskip("transformers", reason="needs the extra [golden]")
    torch.manual_seed(SEED)
    config = transformers.MixtralConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, num_local_experts=8,
        num_experts_per_tok=2, vocab_size=32, initializer_range=64 ** -0.5)
    model = transformers.MixtralForCausalLM(config).eval()
    model.set_experts_implementation("eager")  # others have no float64
    folder = tmp_path_factory.mktemp("mixtral")
    for name, published in (("published", True), ("fused", False)):
        model.save_pretrained(folder / name, save_original_format=published)
    return model, folder


@pytest.mark.golden
@pytest.mark.parametrize("element", ERRORS)
def test_layer_follows_transformers(written, element):
    import torch
    model, folder = written
    config = replace(EXPERT_PRESETS["tiny_duplex"], element=element)
    x = real(stored(np.random.default_rng(SEED).standard_normal((TOKENS, 64)), element), element)
    block = model.model.layers[LAYER].mlp.double()
    with torch.no_grad():
        truth = block(torch.from_numpy(x)[None])[0].numpy()
        logits, _, chosen = block.gate(torch.from_numpy(x))
    layer = checkpoint_layer(config, MixtralExperts(folder / "published"), LAYER, x)
    # No token is a tie: its second and third logit differ by more than their rounding.
    _, second, third = np.sort(logits.numpy(), axis=1)[:, :-4:-1].T
    assert (second - third > 2 * np.abs(stored_error(logits.numpy(), element)).max()).all()
    assert [sorted(each) for each in chosen.tolist()] == [[expert for expert, _ in each] for each in layer.routes]
    errors = []
    for mask in (0b11111111, 0b10010110):
        out = real(moe(config, layer.x, layer.routes, layer.experts, mask), results_of(config))
        errors.append(np.sqrt(np.mean((out - truth) ** 2) / np.mean(truth ** 2)))
    stated = f"{max(errors):.1e} ({element})".replace("e-0", "e-")
    print(stated)
    assert max(errors) < ERRORS[element]
    assert stated in (Path(__file__).parents[2] / "docs" / "experts.md").read_text()


def stored_error(values, element):
    return real(stored(values, element), element) - values


@pytest.mark.golden
def test_both_forms_hold_what_transformers_has(written):
    model, folder = written
    published, fused = MixtralExperts(folder / "published"), MixtralExperts(folder / "fused")
    assert fused.fused and not published.fused
    for layer, module in enumerate(model.model.layers):
        block = module.mlp.float()
        for source in (published, fused):
            assert np.array_equal(source.router(layer), block.gate.weight.detach().numpy())
            for number in range(8):
                gate, up, down = source.expert(layer, number)
                assert np.array_equal(np.concatenate([gate, up]), block.experts.gate_up_proj[number].detach().numpy())
                assert np.array_equal(down, block.experts.down_proj[number].detach().numpy())


@pytest.mark.golden
def test_config_is_that_of_transformers(written):
    _, folder = written
    source = MixtralExperts(folder / "published")
    assert (source.hidden, source.intermediate, source.layers, source.experts, source.top_k) == (64, 128, 2, 8, 2)
    assert json.loads((folder / "fused" / "config.json").read_text())["architectures"] == ["MixtralForCausalLM"]
