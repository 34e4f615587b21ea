"""Mixture-of-experts layers of Mixtral checkpoints in Hugging Face format, as float32; all other tensors are left alone.

Names begin with ``model.layers.N.``:

| | published, and what ``save_pretrained`` writes: ``block_sparse_moe.`` | fused, as transformers 5 has them in memory: ``mlp.`` |
|---|---|---|
| router [experts, hidden] | ``gate.weight`` | ``gate.weight`` |
| gate, up [intermediate, hidden] | ``experts.E.w1.weight``, ``w3.weight`` | ``experts.gate_up_proj`` [experts, gate above up, hidden] |
| down [hidden, intermediate] | ``experts.E.w2.weight`` | ``experts.down_proj`` [experts, hidden, intermediate] |
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from ..accelerators.checks import check_int
from .checkpoint import FLOATS, CheckpointError, Expected, check_tensors, float_tensor
from .huggingface import read_directory, read_json

__all__ = ["MixtralExperts"]

_PUBLISHED = "model.layers.{}.block_sparse_moe."
_FUSED = "model.layers.{}.mlp."
_LIMITS = {"hidden_size": 1 << 16, "intermediate_size": 1 << 20, "num_hidden_layers": 1 << 10, "num_local_experts": 1 << 10,
           "num_experts_per_tok": 1 << 10}


class MixtralExperts:
    """A directory with ``config.json`` of ``model_type`` mixtral; name, dtype and shape of its experts' tensors are checked.

    ``CheckpointError`` names the file, what is wrong, and the rule.

    Parameters
    ----------
    path : Path

    Attributes
    ----------
    hidden, intermediate, layers, experts, top_k : int
    fused : bool
        In which of the two forms the tensors are.
    """

    def __init__(self, path: Path) -> None:
        file = path / "config.json"
        config = read_json(file)
        if config.get("model_type") != "mixtral":
            raise CheckpointError(f"{file}: no layers with experts: model_type must be 'mixtral', not {config.get('model_type')!r}")
        for key, only in (("hidden_act", "silu"), ("quantization_config", None)):
            if config.get(key, only) != only:
                raise CheckpointError(f"{file}: {key} must be {only!r}, not {config[key]!r}")
        try:
            for key, most in _LIMITS.items():
                check_int(key, config.get(key), 1, most)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{file}: {error}") from error
        self.path = path
        self.hidden, self.intermediate, self.layers, self.experts, self.top_k = (config[key] for key in _LIMITS)
        if self.top_k > self.experts:
            raise CheckpointError(f"{file}: num_experts_per_tok must be at most num_local_experts, not {self.top_k} of {self.experts}")
        _, self._tensors = read_directory(path)
        self.fused = f"{_FUSED.format(0)}experts.gate_up_proj" in self._tensors
        check_tensors(path, self._tensors, self._expected())

    def router(self, layer: int) -> np.ndarray:
        """[experts, hidden]"""
        check_int("layer", layer, 0, self.layers - 1)
        return self._float(f"{(_FUSED if self.fused else _PUBLISHED).format(layer)}gate.weight")

    def expert(self, layer: int, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """gate, up [intermediate, hidden], and down [hidden, intermediate]."""
        check_int("layer", layer, 0, self.layers - 1)
        check_int("number", number, 0, self.experts - 1)
        if not self.fused:
            gate, up, down = (self._float(f"{_PUBLISHED.format(layer)}experts.{number}.{name}.weight") for name in ("w1", "w3", "w2"))
            return gate, up, down
        both, down = (self._float(f"{_FUSED.format(layer)}experts.{name}", number) for name in ("gate_up_proj", "down_proj"))
        return both[:self.intermediate], both[self.intermediate:], down

    def _float(self, name: str, part: int | None = None) -> np.ndarray:
        """A tensor, or what it has for one expert."""
        tensor = self._tensors[name]
        if part is not None:
            own = tensor.data.reshape(self.experts, -1)[part]
            tensor = replace(tensor, shape=tensor.shape[1:], data=own)
        return float_tensor(name, tensor)

    def _expected(self) -> Expected:
        expected: Expected = {}
        inner, outer = (self.intermediate, self.hidden), (self.hidden, self.intermediate)
        for layer in range(self.layers):
            prefix = (_FUSED if self.fused else _PUBLISHED).format(layer)
            expected[f"{prefix}gate.weight"] = FLOATS, (self.experts, self.hidden)
            if self.fused:
                expected[f"{prefix}experts.gate_up_proj"] = FLOATS, (self.experts, 2 * self.intermediate, self.hidden)
                expected[f"{prefix}experts.down_proj"] = FLOATS, (self.experts, *outer)
                continue
            for number in range(self.experts):
                for name, shape in (("w1", inner), ("w2", outer), ("w3", inner)):
                    expected[f"{prefix}experts.{number}.{name}.weight"] = FLOATS, shape
        return expected
