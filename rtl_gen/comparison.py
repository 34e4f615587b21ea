"""Compares float reference and golden model with another program's logits and greedy tokens."""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..accelerators.config import AcceleratorConfig
from ..sim.golden.machine import Machine
from ..sim.reference import Reference
from .calibration import calibrate
from .checkpoint import Checkpoint
from .compile import compile_model

__all__ = ["compare_prompts", "kl_divergence"]


def kl_divergence(expected: np.ndarray, actual: np.ndarray) -> float:
    """Mean KL divergence, nats, of ``softmax(actual)`` from ``softmax(expected)``, both logits ``[T, vocab]``."""
    def log_softmax(x: np.ndarray) -> np.ndarray:
        x = x.astype(np.float64) - x.max(axis=-1, keepdims=True)
        return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
    p, q = log_softmax(expected), log_softmax(actual)
    return float((np.exp(p) * (p - q)).sum(axis=-1).mean())


@dataclass(frozen=True)
class _Prompt:
    """What the other program gave: logits ``[T, vocab]`` of the prompt's tokens, and the greedy tokens behind them."""

    ids: list[int]
    logits: np.ndarray
    greedy: list[int]


def _prompts(expected: Path, vocabulary: int) -> list[_Prompt]:
    """All prompts of an ``.npz``; ``ValueError`` names the file, and the array that is missing or is not what it should be."""
    if not expected.is_file():
        raise ValueError(f"{expected}: no such file")
    if not zipfile.is_zipfile(expected):
        raise ValueError(f"{expected}: not an .npz archive")
    try:
        with np.load(expected) as archive:
            arrays = {name: archive[name] for name in archive.files if name.startswith(("input_ids_", "logits_", "greedy_"))}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{expected}: a damaged .npz archive: {error}") from None

    def array(name: str) -> np.ndarray:
        if name not in arrays:
            raise ValueError(f"{expected}: array {name} is missing")
        if arrays[name].dtype.kind not in "iuf" or not np.isfinite(arrays[name]).all():
            raise ValueError(f"{expected}: {name} must hold finite numbers")
        return arrays[name]

    def tokens(name: str) -> list[int]:
        values = array(name).reshape(-1)
        if values.dtype.kind not in "iu" or not values.size or values.min() < 0 or values.max() >= vocabulary:
            raise ValueError(f"{expected}: {name} must hold token ids, in 0..{vocabulary - 1}")
        return values.tolist()

    prompts = []
    for number in range(max(1, sum(name.startswith("input_ids_") for name in arrays))):
        prompt = _Prompt(tokens(f"input_ids_{number}"), array(f"logits_{number}"), tokens(f"greedy_{number}"))
        if prompt.logits.shape != (len(prompt.ids), vocabulary):
            raise ValueError(f"{expected}: logits_{number} must have shape {(len(prompt.ids), vocabulary)}, "
                             f"not {prompt.logits.shape}")
        prompts.append(prompt)
    return prompts


def compare_prompts(checkpoint: Checkpoint, expected: Path, config: AcceleratorConfig, *,
                    fraction_bits: int | None = None) -> dict[str, Any]:
    """Errors per prompt and in total.

    ``expected`` is an ``.npz`` with ``input_ids_I`` (int), ``logits_I`` (``[T, vocab]``) and ``greedy_I`` (tokens after the
    prompt), I from 0. The golden model is fed the other program's own greedy tokens, so that one early difference is counted
    once. Raises ``ValueError`` that names the file and the array if one is missing or not what it should be.
    """
    prompts = _prompts(expected, checkpoint.model.vocab_size)
    bits = calibrate(checkpoint) if fraction_bits is None else fraction_bits
    image = compile_model(checkpoint, config, fraction_bits=bits)
    reference = Reference(checkpoint, np.float32)
    rows = []
    for number, prompt in enumerate(prompts):
        float_logits = reference.forward(prompt.ids)
        float_greedy = reference.greedy(prompt.ids, len(prompt.greedy))
        machine = Machine(image)
        golden_logits = machine.logits(prompt.ids)
        chosen = [int(golden_logits[-1].argmax())]
        for token in prompt.greedy[:-1]:
            chosen.append(int(machine.logits([token])[-1].argmax()))
        rows.append({
            "prompt": number, "tokens": len(prompt.ids), "greedy": len(prompt.greedy),
            "float_max_error": float(np.abs(float_logits - prompt.logits).max()),
            "float_greedy": sum(a == b for a, b in zip(float_greedy, prompt.greedy, strict=True)),
            "golden_max_error": float(np.abs(golden_logits - prompt.logits).max()),
            "golden_kl": kl_divergence(prompt.logits, golden_logits),
            "golden_greedy": sum(a == b for a, b in zip(chosen, prompt.greedy, strict=True)),
            "saturations": machine.saturations,
        })
    tokens = sum(row["greedy"] for row in rows)
    return {
        "checkpoint_sha256": checkpoint.sha256, "config": config.to_json(), "fraction_bits": bits, "prompts": rows,
        "total": {
            "float_max_error": max(row["float_max_error"] for row in rows),
            "float_agreement": sum(row["float_greedy"] for row in rows) / tokens,
            "golden_max_error": max(row["golden_max_error"] for row in rows),
            "golden_kl": sum(row["golden_kl"] * row["tokens"] for row in rows) / sum(row["tokens"] for row in rows),
            "golden_agreement": sum(row["golden_greedy"] for row in rows) / tokens,
        },
    }
