"""Writes a trained network as a Hugging Face checkpoint (BitNetForCausalLM, packed ternary matrices).

Layout of a packed matrix: uint8 [out / 4, in]; bits 2i, 2i+1 of byte [r, c] hold W[i * out / 4 + r, c] + 1,
and `weight_scale` multiplies (quantization_config.linear_class = autobitlinear). Embeddings, norms and scales
are stored in float32, so that the file holds exactly the trained network.
"""

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save

from .network import Network, Shape, TernaryLinear, quantize_weight
from .tokenizer import BEGIN_ID, END_ID


def pack_ternary(matrix: torch.Tensor) -> torch.Tensor:
    """Four rows that lie out / 4 apart into one byte row."""
    rows = matrix.shape[0]
    if rows % 4:
        raise ValueError(f"matrix has {rows} rows, but a packed matrix needs a multiple of 4")
    quarters = (matrix.to(torch.int16) + 1).view(4, rows // 4, matrix.shape[1])
    return torch.stack([quarters[i] << (2 * i) for i in range(4)]).sum(dim=0).to(torch.uint8)


def tensors(network: Network) -> dict[str, torch.Tensor]:
    """Every tensor of the checkpoint under its Hugging Face name."""
    found = {}
    ternary = {name for name, module in network.named_modules() if isinstance(module, TernaryLinear)}
    for name, parameter in network.named_parameters():
        module = name.removesuffix(".weight")
        if module in ternary:
            matrix, scale = quantize_weight(parameter.detach())
            found[f"model.{name}"] = pack_ternary(matrix)
            found[f"model.{module}.weight_scale"] = scale.reshape(1).clone()
        else:
            found[f"model.{name}"] = parameter.detach().clone()
    return found


def config(shape: Shape) -> dict:
    """config.json in the style of the published checkpoints."""
    return {
        "architectures": ["BitNetForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": BEGIN_ID,
        "eos_token_id": END_ID,
        "hidden_act": "relu2",
        "initializer_range": 0.02,
        "model_type": "bitnet",
        **asdict(shape),
        "quantization_config": {
            "quant_method": "bitnet",
            "linear_class": "autobitlinear",
            "quantization_mode": "offline",
        },
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "use_cache": True,
    }


def export(network: Network, folder: Path) -> None:
    """Writes model.safetensors, config.json and generation_config.json into folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(save(tensors(network), metadata={"format": "pt"}))
    generation = {"bos_token_id": BEGIN_ID, "eos_token_id": END_ID, "do_sample": False, "use_cache": True}
    for name, content in (("config", config(network.shape)), ("generation_config", generation)):
        (folder / f"{name}.json").write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
