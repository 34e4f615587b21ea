"""Chooses number formats from a float run of the model."""

import numpy as np

from ..sim.blas import single_threaded_blas
from ..sim.reference import Reference
from .checkpoint import Checkpoint
from .compile import fraction_bits_for

__all__ = ["calibrate"]

CALIBRATION_TOKENS = 48


def calibrate(checkpoint: Checkpoint, seed: int = 1) -> int:
    """Fraction bits of the residual stream: 8x headroom above the peak of a float run over seeded random tokens."""
    model = checkpoint.model
    count = min(CALIBRATION_TOKENS, model.max_context)
    tokens = np.random.default_rng(seed).integers(0, model.vocab_size, count).tolist()
    if model.bos is not None:
        tokens[0] = model.bos
    capture: dict[str, np.ndarray] = {}
    with single_threaded_blas():
        Reference(checkpoint, np.float32).forward(tokens, capture=capture)
    return fraction_bits_for(float(np.abs(capture["hidden_states"]).max()))
