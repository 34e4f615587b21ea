"""Golden model of the expert device: bit-exact answers and outputs, from descriptors, batches, activations and the memory's contents.

Put together from those of its parts: ``instructions.py`` (what a descriptor says), ``sequencer.py`` (what meets which list, in which
order), ``experts.py`` and ``expert_attention.py`` (what comes of it); the batches are made by ``dispatch.py``.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ...accelerators.experts.config import ExpertConfig
from ...accelerators.experts.instructions import Kind
from .expert_attention import Attention, attend
from .experts import Expert, Placement, Route, Scale, add_expert, stretches
from .instructions import decode_descriptor
from .sequencer import Batch, ExpertSequencer

__all__ = ["ExpertDevice", "matrix_at"]


def matrix_at(config: ExpertConfig, memory: np.ndarray, at: dict[str, int], rows: int, row_words: int) -> np.ndarray:
    """``rows`` rows from a start address on, as bits of elements; ``memory``: see ``memory_image``."""
    skip, words = at["column"] * config.timing.ccd // 2, rows * row_words
    read = np.concatenate([memory[where] for where in stretches(config, Placement(at["bundle"], at["row"], skip + words))])
    own = read[skip * config.word_bytes:(skip + words) * config.word_bytes]
    return own.view("<u2" if config.format.storage_bits == 16 else "u1").astype(np.int64).reshape(rows, -1)


class ExpertDevice:
    """``execute`` for each descriptor.

    Attributes
    ----------
    x : array
        Input buffer ``[max_tokens, max_hidden]``, bits of elements.
    out : array
        Outputs ``[max_tokens, max_hidden]``, bits of ``R``.
    """

    def __init__(self, config: ExpertConfig, memory: np.ndarray):
        self.config, self.memory = config, memory
        self.x, self.out = (np.zeros((config.max_tokens, config.max_hidden), np.int64) for _ in range(2))
        self._sequencer = ExpertSequencer(config)

    def execute(self, words: Sequence[int], batches: Iterator[Batch]) -> list[dict[str, int]]:
        """The answers to a descriptor; a LAYER takes the next of ``batches``."""
        operation = decode_descriptor(self.config, words)
        steps = self._sequencer.take(operation, batches)
        if not operation["cause"] and operation["kind"] != Kind.EXPERT and operation["begin"]:
            self.out[:] = 0
        for step in steps:
            if step.item is not None:
                self._compute(step.item, step.tokens)
        return [step.answer for step in steps]

    def _compute(self, item: dict[str, Any], tokens: Sequence[Route]) -> None:
        config, hidden_words, own = self.config, item["hidden_words"], item["slice_words"]
        hidden = hidden_words * config.lanes
        x, out = self.x[:, :hidden], self.out[:, :hidden]
        scales: list[Scale] = [(scale["mantissa"], scale["exponent"]) for scale in item.get("scales", ())]
        down = matrix_at(config, self.memory, item["down"], hidden, own)
        if item.get("attention"):
            k = matrix_at(config, self.memory, item["gate_up"], item["positions"], hidden_words)
            attention = Attention(k, down, item["softmax_scale"], *([(scales[0], scales[2])] if scales else []))
            heads = [token for token, _ in tokens]
            out[heads] = attend(config, out[heads], x[heads], attention)
            return
        both = matrix_at(config, self.memory, item["gate_up"], 2 * own * config.lanes, hidden_words)
        expert = Expert(both[0::2], both[1::2], down, *([(scales[0], scales[1], scales[2])] if scales else []))
        add_expert(config, out, x, tokens, expert)
