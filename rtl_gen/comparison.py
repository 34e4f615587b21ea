"""Compares float reference and golden model with another program's logits and greedy tokens."""

import zipfile
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


def compare_prompts(checkpoint: Checkpoint, expected: Path, config: AcceleratorConfig, *,
                    fraction_bits: int | None = None) -> dict[str, Any]:
    """Errors per prompt and in total.

    ``expected`` is an ``.npz`` with ``input_ids_I`` (int), ``logits_I`` (``[T, vocab]``) and ``greedy_I`` (tokens after the
    prompt), I from 0. The golden model is fed the other program's own greedy tokens, so that one early difference is counted
    once. Raises ``ValueError`` that names the file and the array if one is missing or of a wrong shape.
    """
    try:
        data = np.load(expected)
        names = set(data.files)
    except (OSError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{expected}: cannot be read as .npz: {error}") from None
    count = sum(name.startswith("input_ids_") for name in names)
    if not count:
        raise ValueError(f"{expected}: has no input_ids_0")
    bits = calibrate(checkpoint) if fraction_bits is None else fraction_bits
    image = compile_model(checkpoint, config, fraction_bits=bits)
    reference = Reference(checkpoint, np.float32)
    rows = []
    for prompt in range(count):
        for name in (f"input_ids_{prompt}", f"logits_{prompt}", f"greedy_{prompt}"):
            if name not in names:
                raise ValueError(f"{expected}: array {name} is missing")
        ids = data[f"input_ids_{prompt}"].reshape(-1).tolist()
        logits, greedy = data[f"logits_{prompt}"], data[f"greedy_{prompt}"].reshape(-1).tolist()
        if logits.shape != (len(ids), checkpoint.model.vocab_size):
            raise ValueError(f"{expected}: logits_{prompt} must have shape {(len(ids), checkpoint.model.vocab_size)}, "
                             f"not {logits.shape}")
        float_logits = reference.forward(ids)
        float_greedy = reference.greedy(ids, len(greedy))
        machine = Machine(image)
        golden_logits = machine.logits(ids)
        chosen = [int(golden_logits[-1].argmax())]
        for token in greedy[:-1]:
            chosen.append(int(machine.logits([token])[-1].argmax()))
        rows.append({
            "prompt": prompt, "tokens": len(ids), "greedy": len(greedy),
            "float_max_error": float(np.abs(float_logits - logits).max()),
            "float_greedy": sum(a == b for a, b in zip(float_greedy, greedy, strict=True)),
            "golden_max_error": float(np.abs(golden_logits - logits).max()),
            "golden_kl": kl_divergence(logits, golden_logits),
            "golden_greedy": sum(a == b for a, b in zip(chosen, greedy, strict=True)),
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
