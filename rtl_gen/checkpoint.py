"""Reads a ternary (BitNet b1.58) checkpoint, of Hugging Face (``huggingface.py``) or GGUF (``gguf_file.py``).

``Checkpoint.open`` checks the configuration, the name, dtype and shape of every tensor and the weight
scales before anything is loaded. Tensors are then read one at a time from a memory map, so a large
checkpoint is never in memory twice. ``validate`` reads everything once and refuses weights that are not
ternary and numbers that are not finite. Every refusal is a ``CheckpointError`` that names the file, the
tensor or key, the value found and the rule; nothing is repaired.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ..accelerators.checks import check_int
from ..accelerators.model_shape import ModelShape
from .files import file_sha256

__all__ = ["FLOATS", "GAINS", "PROJECTIONS", "Checkpoint", "CheckpointError", "Expected", "Projection", "StoredTensor", "check_tensors",
           "float_tensor", "gain_lengths", "projection_shapes"]

FLOATS = ("F32", "F16", "BF16")
PROJECTIONS = ("q", "k", "v", "o", "gate", "up", "down")
GAINS = ("attention", "ffn", "attention_sub", "ffn_sub")

Expected = dict[str, tuple[tuple[str, ...], tuple[int, ...]]]  # tensor name -> accepted dtypes, shape


class CheckpointError(ValueError):
    """The checkpoint is damaged, or is not one that this project runs."""


def projection_shapes(model: ModelShape) -> dict[str, tuple[int, int]]:
    """Rows (outputs) and columns (inputs) of the ternary matrices of a layer, by role."""
    hidden, inner = model.hidden_size, model.intermediate_size
    query, key = model.heads * model.head_dim, model.kv_heads * model.head_dim
    return {"q": (query, hidden), "k": (key, hidden), "v": (key, hidden), "o": (hidden, query),
            "gate": (inner, hidden), "up": (inner, hidden), "down": (hidden, inner)}


def gain_lengths(model: ModelShape) -> dict[str, int]:
    """Elements of the RMSNorm gains of a layer, by role; sub-norms only where the model has them."""
    lengths = {"attention": model.hidden_size, "ffn": model.hidden_size}
    if model.sub_norms:
        lengths |= {"attention_sub": model.heads * model.head_dim, "ffn_sub": model.intermediate_size}
    return lengths


@dataclass(frozen=True)
class Projection:
    """A ternary linear layer: ``y = (trits @ x) * scale``.

    Attributes
    ----------
    trits : int8 array [out, in]
        Weights -1, 0, +1.
    scale : float
        Always multiplies, whatever the stored convention; positive.
    """

    trits: np.ndarray
    scale: float


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as it lies in a file: name of its dtype, shape with ``out`` first, memory-mapped bytes."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    data: np.ndarray


class Checkpoint:
    """An open checkpoint; made by ``Checkpoint.open(path)``.

    Attributes
    ----------
    path : Path
        The directory or file that was opened.
    model : ModelShape
        Shape and constants; ``model.eos`` is the first of ``stop_tokens``.
    stop_tokens : tuple of int
        All end-of-sequence ids of the configuration.
    tokenizer_path : Path or None
        ``tokenizer.json`` of a Hugging Face directory, where there is one; always None for GGUF.
    files : tuple of Path
        Configuration and tensor files, sorted.
    """

    names: Mapping[str, str]  # role -> tensor name, with {} for the layer; each format has its own

    def __init__(self, path: Path, files: list[Path], model: ModelShape, tensors: dict[str, StoredTensor],
                 stop_tokens: tuple[int, ...], tokenizer_path: Path | None = None) -> None:
        self.path, self.files, self.model = path, tuple(sorted(files)), model
        self.stop_tokens, self.tokenizer_path = stop_tokens, tokenizer_path
        self._tensors = tensors
        if model.sub_norms and model.heads * model.head_dim != model.hidden_size:
            raise CheckpointError(f"{path}: heads * head_dim must equal hidden_size in sub-norms, "
                                  f"not {model.heads} * {model.head_dim} and {model.hidden_size}")
        self._check_tensors()

    @staticmethod
    def open(path: Path | str) -> "Checkpoint":
        """Open a Hugging Face directory or a ``.gguf`` file; ``CheckpointError`` if any rule is broken."""
        path = Path(path)
        if path.is_dir():
            from .huggingface import HuggingFaceCheckpoint
            return HuggingFaceCheckpoint(path)
        if path.is_file() and path.suffix == ".gguf":
            from .gguf_file import GgufCheckpoint
            return GgufCheckpoint(path)
        raise CheckpointError(f"{path}: a checkpoint must be a directory with config.json and "
                              "model.safetensors, or a .gguf file")

    @cached_property
    def sha256(self) -> str:
        """Hash over name and content of configuration and tensor files; not of directory or tokenizer."""
        total = hashlib.sha256()
        for file in self.files:
            total.update(file.name.encode() + b"\0" + bytes.fromhex(file_sha256(file)))
        return total.hexdigest()

    def embedding(self) -> np.ndarray:
        """Embedding rows: float32 ``[vocab, hidden]``."""
        return self._float(self.names["embedding"])

    def lm_head(self) -> np.ndarray:
        """LM head: float32 ``[vocab, hidden]``; one more copy of the embedding when ``model.tied``."""
        return self._float(self.names["embedding" if self.model.tied else "lm_head"])

    def final_gain(self) -> np.ndarray:
        """Gain of the norm before the LM head: float32 ``[hidden]``."""
        return self._float(self.names["final"])

    def gain(self, layer: int, which: str) -> np.ndarray | None:
        """Gain of one RMSNorm: float32, as long as the input of the projections that follow.

        ``which`` is ``"attention"`` (before q, k, v), ``"ffn"`` (before gate, up), ``"attention_sub"``
        (before o) or ``"ffn_sub"`` (before down); None for a sub-norm that the architecture does not have.
        """
        self._check_role(layer, which, GAINS)
        if which.endswith("_sub") and not self.model.sub_norms:
            return None
        return self._float(self.names[which].format(layer))

    def projection(self, layer: int, which: str) -> Projection:
        """Trits and scale of ``which`` in q, k, v, o, gate, up, down; decoded anew on every call."""
        self._check_role(layer, which, PROJECTIONS)
        return self._ternary(self.names[which].format(layer))

    def validate(self) -> None:
        """Read every tensor once; ``CheckpointError`` if one holds no trits or no finite numbers."""
        for name, tensor in self._tensors.items():
            if tensor.dtype in FLOATS:
                self._float(name)
        for layer in range(self.model.layers):
            for which in PROJECTIONS:
                self.projection(layer, which)

    def _ternary_tensors(self, name: str, rows: int, columns: int) -> Expected:
        """The stored tensors of one projection."""
        raise NotImplementedError

    def _ternary(self, name: str) -> Projection:
        """Decode one projection."""
        raise NotImplementedError

    def _check_role(self, layer: int, which: str, roles: tuple[str, ...]) -> None:
        if which not in roles:
            raise ValueError(f"which must be one of {', '.join(roles)}, not {which!r}")
        check_int("layer", layer, 0, self.model.layers - 1)

    def _expected(self) -> Expected:
        """All tensors that the model shape asks for."""
        m, names = self.model, self.names
        expected: Expected = {names["embedding"]: (FLOATS, (m.vocab_size, m.hidden_size)),
                              names["final"]: (FLOATS, (m.hidden_size,))}
        if not m.tied:
            expected[names["lm_head"]] = (FLOATS, (m.vocab_size, m.hidden_size))
        for layer in range(m.layers):
            for which, length in gain_lengths(m).items():
                expected[names[which].format(layer)] = (FLOATS, (length,))
            for which, (rows, columns) in projection_shapes(m).items():
                expected |= self._ternary_tensors(names[which].format(layer), rows, columns)
        return expected

    def _check_tensors(self) -> None:
        """Compare stored and expected tensors, both ways."""
        expected = self._expected()
        check_tensors(self.path, self._tensors, expected)
        for name, tensor in self._tensors.items():
            if name not in expected:
                raise CheckpointError(f"{tensor.file}: tensor {name} is not part of this architecture "
                                      "(no biases, no LM head when tied, no sub-norms in Llama)")

    def _float(self, name: str) -> np.ndarray:
        return float_tensor(name, self._tensors[name])


def float_tensor(name: str, tensor: StoredTensor) -> np.ndarray:
    """A tensor of ``FLOATS`` widened exactly to float32, in memory of its own; ``CheckpointError`` if a number is not finite."""
    if tensor.dtype == "BF16":
        values = tensor.data.view("<u2").astype(np.uint32)
        values <<= 16
        values = values.view(np.float32)
    else:
        values = tensor.data.view({"F32": "<f4", "F16": "<f2"}[tensor.dtype]).astype(np.float32)
    finite = np.isfinite(values)
    if not finite.all():
        index = int(np.argmin(finite))
        raise CheckpointError(f"{tensor.file}: tensor {name} must be finite, not {values[index]} "
                              f"at index {[int(i) for i in np.unravel_index(index, tensor.shape)]}")
    return values.reshape(tensor.shape)


def check_tensors(where: Path, tensors: Mapping[str, StoredTensor], expected: Expected) -> None:
    """``CheckpointError`` for an expected tensor that is missing, or has another dtype or shape."""
    for name, (dtypes, shape) in expected.items():
        if name not in tensors:
            raise CheckpointError(f"{where}: tensor {name} is missing")
        tensor = tensors[name]
        if tensor.dtype not in dtypes:
            raise CheckpointError(f"{tensor.file}: tensor {name} must have dtype {' or '.join(dtypes)}, "
                                  f"not {tensor.dtype}")
        if tensor.shape != shape:
            raise CheckpointError(f"{tensor.file}: tensor {name} must have shape {list(shape)}, "
                                  f"not {list(tensor.shape)}")
