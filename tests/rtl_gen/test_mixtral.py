"""Experts of Mixtral checkpoints: both forms, every refusal, and ``llmrtl moe`` on one."""

import json
import re

import numpy as np
import pytest
from llmrtl.accelerators.experts.config import EXPERT_PRESETS
from llmrtl.accelerators.experts.errors import ERROR_TEXT, ExpertError
from llmrtl.rtl_gen.checkpoint import CheckpointError
from llmrtl.rtl_gen.cli import main
from llmrtl.rtl_gen.mixtral import MixtralExperts
from llmrtl.rtl_gen.moe import checkpoint_layer
from llmrtl.sim.golden.experts import results_of
from llmrtl.sim.golden.router import route
from llmrtl.sim.random_layer import real, stored

from ..checkpoints import edit_config, save_safetensors

HIDDEN, INTERMEDIATE, EXPERTS, LAYERS = 16, 24, 8, 2
CONFIG = {"model_type": "mixtral", "hidden_act": "silu", "hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE,
          "num_hidden_layers": LAYERS, "num_local_experts": EXPERTS, "num_experts_per_tok": 2}
PRESET = EXPERT_PRESETS["tiny_duplex"]


def matrices(layer):
    """router, and gate, up, down of all experts: float32."""
    rng = np.random.default_rng(layer)
    shapes = (EXPERTS, HIDDEN), *((EXPERTS, *each) for each in ((INTERMEDIATE, HIDDEN), (INTERMEDIATE, HIDDEN), (HIDDEN, INTERMEDIATE)))
    return [(rng.standard_normal(shape) * shape[-1] ** -0.5).astype(np.float32) for shape in shapes]


def write(path, *, fused=False, experts=EXPERTS, edit=lambda tensors: None):
    tensors = {"model.embed_tokens.weight": ("F32", np.zeros((4, HIDDEN), np.float32))}  # what is not looked at
    for layer in range(LAYERS):
        router, gate, up, down = (part[:experts] for part in matrices(layer))
        prefix = f"model.layers.{layer}." + ("mlp." if fused else "block_sparse_moe.")
        tensors[f"{prefix}gate.weight"] = "F32", router
        if fused:
            tensors[f"{prefix}experts.gate_up_proj"] = "F32", np.concatenate([gate, up], axis=1)
            tensors[f"{prefix}experts.down_proj"] = "F32", down
            continue
        for number in range(experts):
            for name, matrix in (("w1", gate), ("w2", down), ("w3", up)):
                tensors[f"{prefix}experts.{number}.{name}.weight"] = "F32", matrix[number]
    edit(tensors)
    path.mkdir()
    (path / "config.json").write_text(json.dumps({**CONFIG, "num_local_experts": experts}))
    save_safetensors(path / "model.safetensors", tensors)
    return path


@pytest.fixture
def checkpoint(tmp_path):
    return write(tmp_path / "mixtral")


@pytest.mark.parametrize("fused", [False, True])
def test_matrices(tmp_path, fused):
    source = MixtralExperts(write(tmp_path / "mixtral", fused=fused))
    for layer in range(LAYERS):
        router, *parts = matrices(layer)
        assert np.array_equal(source.router(layer), router)
        for number in range(EXPERTS):
            for got, part in zip(source.expert(layer, number), parts, strict=True):
                assert got.dtype == np.float32 and np.array_equal(got, part[number])
    for arguments in ((LAYERS, 0), (0, EXPERTS)):
        with pytest.raises(ValueError, match="must be in 0"):
            source.expert(*arguments)


@pytest.mark.parametrize("element", ["fp16", "bf16", "int8"])
def test_layer_computes_what_the_matrices_say(checkpoint, element):
    """The truth of the stored layer against plain NumPy on the matrices: they differ by the rounding of the format."""
    config = PRESET if element == "fp16" else EXPERT_PRESETS[f"tiny_duplex_{element}"]
    x = np.random.default_rng(3).standard_normal((9, HIDDEN))
    layer = checkpoint_layer(config, MixtralExperts(checkpoint), 1, x)
    router, *parts = (part.astype(np.float64) for part in matrices(1))
    results = results_of(config)
    truth = np.zeros_like(x)
    for token, routes in enumerate(layer.routes):
        assert sorted(route(config, stored(x[token] @ router.T, results))[0]) == routes
        for number, weight in routes:
            gate, up, down = (part[number] for part in parts)
            g, u = gate @ x[token], up @ x[token]
            truth[token] += real(np.array(weight), results) * (down @ (g / (1 + np.exp(-g)) * u))
    error = np.sqrt(np.mean((layer.truth(config) - truth) ** 2) / np.mean(truth ** 2))
    assert error < {"fp16": 1e-3, "bf16": 8e-3, "int8": 3e-2}[element]


@pytest.mark.parametrize(("changes", "message"), [
    ({"model_type": "llama"}, "no layers with experts: model_type must be 'mixtral', not 'llama'"),
    ({"model_type": None}, "no layers with experts: model_type must be 'mixtral', not None"),
    ({"hidden_act": "gelu"}, "hidden_act must be 'silu', not 'gelu'"),
    ({"quantization_config": {"quant_method": "awq"}}, "quantization_config must be None, not {'quant_method': 'awq'}"),
    ({"num_local_experts": None}, "num_local_experts must be an integer, not None"),
    ({"hidden_size": 0}, "hidden_size must be in 1..65536, not 0"),
    ({"num_experts_per_tok": 9}, "num_experts_per_tok must be at most num_local_experts, not 9 of 8"),
    ({"num_hidden_layers": 3}, "tensor model.layers.2.block_sparse_moe.gate.weight is missing"),
    ({"intermediate_size": 32}, "tensor model.layers.0.block_sparse_moe.experts.0.w1.weight must have shape [32, 16], not [24, 16]"),
])
def test_refused_configurations(checkpoint, changes, message):
    edit_config(checkpoint, changes)
    with pytest.raises(CheckpointError) as caught:
        MixtralExperts(checkpoint)
    assert message in str(caught.value)


def test_refused_tensors(tmp_path):
    name = "model.layers.1.block_sparse_moe.experts.7.w2.weight"
    path = write(tmp_path / "integers", edit=lambda tensors: tensors.update({name: ("I8", np.zeros((HIDDEN, INTERMEDIATE), np.int8))}))
    with pytest.raises(CheckpointError, match=f"tensor {name} must have dtype F32 or F16 or BF16, not I8"):
        MixtralExperts(path)
    wrong = np.full((EXPERTS, HIDDEN, INTERMEDIATE), 1, np.float32)
    wrong[5, 0, 3] = np.inf
    name = "model.layers.0.mlp.experts.down_proj"
    source = MixtralExperts(write(tmp_path / "infinite", fused=True, edit=lambda tensors: tensors.update({name: ("F32", wrong)})))
    source.expert(0, 4)
    with pytest.raises(CheckpointError, match=rf"tensor {name} must be finite, not inf at index \[0, 3\]"):
        source.expert(0, 5)
    with pytest.raises(CheckpointError, match=r"config\.json: file is missing"):
        MixtralExperts(tmp_path)


def test_router_logits_that_are_too_large(checkpoint):
    with pytest.raises(ValueError, match=re.escape(f"token 1: {ERROR_TEXT[ExpertError.LOGIT]}")):
        checkpoint_layer(PRESET, MixtralExperts(checkpoint), 0, np.outer([1, 1e6], np.ones(HIDDEN)))


def moe(checkpoint, *options):
    return main(["moe", "--preset", "tiny_duplex", "--checkpoint", str(checkpoint), *options])


@pytest.mark.parametrize(("options", "message"), [
    (("--layer", "2"), "--layer must be in 0..1, the layers of "),
    (("--experts", "8"), "--experts is what --checkpoint says: leave it out"),
    (("--top-k", "2"), "--top-k is what --checkpoint says: leave it out"),
    (("--preset", "duplex"), "hidden_size must be a multiple of 64 in 64..4096 with preset duplex, not 16"),
])
def test_refused_options(checkpoint, capsys, options, message):
    assert moe(checkpoint, *options) == 2
    assert message in capsys.readouterr().err


def test_a_checkpoint_without_experts(checkpoint, capsys):
    edit_config(checkpoint, {"model_type": "llama"})
    assert moe(checkpoint) == 2
    assert "no layers with experts: model_type must be 'mixtral', not 'llama'" in capsys.readouterr().err


def test_fewer_experts_than_the_unit_has(tmp_path, capsys):
    path = write(tmp_path / "few", experts=4)
    assert moe(path) == 2
    assert f"{path}: experts must be in 8..64, not 4" in capsys.readouterr().err


def test_layer_without_checkpoint(capsys):
    assert main(["moe", "--layer", "1"]) == 2
    assert "--layer is one of a checkpoint: give --checkpoint too" in capsys.readouterr().err


def test_layer_on_the_xpu(checkpoint, tmp_path, capsys):
    """Nothing is simulated."""
    path = tmp_path / "summary.json"
    assert moe(checkpoint, "--layer", "1", "--tokens", "12", "--split", "xpu", "--json", str(path)) == 0
    assert f"12 tokens, 8 experts of 16 x 24 (fp16), preset tiny_duplex, seed 1, layer 1 of {checkpoint}" in \
        " ".join(capsys.readouterr().out.split())
    summary = json.loads(path.read_text())
    assert sum(each["tokens"] for each in summary["experts"]) == 24 and summary["cycles_logic_pim"] == 0
    assert 0 < summary["relative_rms_error"] < 1e-3


@pytest.mark.bench
def test_layer_on_the_simulated_unit(checkpoint, tmp_path):
    path = tmp_path / "summary.json"
    assert moe(checkpoint, "--tokens", "12", "--split", "logic-pim", "--json", str(path)) == 0
    summary = json.loads(path.read_text())
    assert summary["golden_match"] and summary["timing_violations"] == 0
