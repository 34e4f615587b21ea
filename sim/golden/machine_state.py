"""What the operations of the golden machine act on: tokens, vector memory, the image's memory and the caches in it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ...accelerators.control.isa import Flag, Instruction, Opcode, decode_program
from . import elementwise
from .evict_layer import EvictLayer
from .layer_cache import LayerCache
from .numerics import Scalar
from .part_memory import PartMemory

if TYPE_CHECKING:
    from ...rtl_gen.image import Image

__all__ = ["MachineState", "Trace"]

Trace = Callable[[int, int, np.ndarray], None]
"""Called with (operation tag, position, result) for every operation and token."""


class MachineState:
    """The machine between two operations.

    Parameters
    ----------
    image : Image
    trace : Trace or None
        Receives every operation's result.

    ``begin`` puts tokens on the machine, of which ``position`` is the first one's. HEAD appends to ``results`` (int64 logits) and
    ``real_scales`` (what 1 is in real units); ``logit_unit`` is what 1 is in base-2 logits, as the machine has it. ``listed`` are the
    numbers that the latest DEVIATE or RETRIEVE gave (of a RETRIEVE that scored nothing: all blocks); ``passed``: a lane of the latest
    ATTEND was above its unified maximum; ``means_saturated``: a MEANS met
    a scale that was too large for its steps; ``saturations`` counts elements that were clamped.

    Raises ``ValueError`` for a program that splits attention or has fallbacks where the accelerator cannot, and for a fallback that is
    not behind an ATTEND.
    """

    def __init__(self, image: Image, trace: Trace | None = None) -> None:
        self.image, self.config, self.model, self.trace = image, image.config, image.model, trace
        self.program = list(decode_program(image.data[image.program_address:].tobytes()))
        for before, op in itertools.pairwise(self.program):
            if op.fallback and (before.opcode is not Opcode.ATTEND or before.flags & ~op.flags & Flag.LAST_CHUNK):
                raise ValueError(f"ATTEND (tag {op.tag}) is a fallback: it must be right behind the ATTEND that it is one of")
        self.saturations = 0
        self.position = 0
        self.listed: list[int] = []
        self.means_saturated = self.passed = False
        self.results: list[np.ndarray] = []
        self.real_scales: list[float] = []
        self.logit_unit = Scalar(0, 0)
        self._weights: dict[int, Any] = {}
        self._caches: dict[int, LayerCache] = {}
        self._tables: dict[int, LayerCache] = {}
        self._evicting: dict[int, EvictLayer] = {}
        self.parts = PartMemory(self.config) if any(op.splits for op in self.program) else None
        """Parts in memory, where the program splits attention."""

    def begin(self, tokens: list[int], every: bool) -> None:
        """Tokens that go into the cache at a time; HEAD takes ``every`` one of them, or only the last."""
        lanes = self.config.vector_lanes
        self.tokens = tokens
        self.memory = np.zeros((len(tokens), self.config.vector_memory // lanes, lanes), np.int64)
        self.activations: np.ndarray = np.zeros((len(tokens), 0), np.int64)
        self.scales = [Scalar(0, 0)] * len(tokens)
        self.products = [Scalar(0, 0)] * len(tokens)
        self.magnitudes = [(0, 0)] * len(tokens)
        self.exponents: np.ndarray = np.zeros((len(tokens), 0), np.int64)
        self._every = every
        self._before: int | None = None

    def _read(self, address: int, beats: int, dtype: np.dtype) -> np.ndarray:
        return self.image.data[address:address + beats * self.config.bus_bytes].view(dtype)

    def _vector(self, token: int, base: int, words: int) -> np.ndarray:
        return self.memory[token, base:base + words].reshape(-1)

    def _vectors(self, base: int, words: int) -> np.ndarray:
        """The same vector of all tokens."""
        return self.memory[:, base:base + words].reshape(len(self.tokens), -1)

    def _quantized_heads(self, base: int, heads: int, words: int, weight_scale: Scalar) -> tuple[np.ndarray, list[Scalar]]:
        """Heads of all tokens as K/V integers ``[tokens, heads, head_dim]``, and their scales, token after token."""
        x = self._vectors(base, heads * words).reshape(len(self.tokens) * heads, -1)
        steps = [scale * weight_scale for scale in self.scales]
        q, scales = elementwise.norm_quantize_rows(x, np.ones(x.shape[1], np.int64),
                                                   [step for step in steps for _ in range(heads)], norm=False,
                                                   wide=self.config.kv_bits == 16)
        return q.reshape(len(self.tokens), heads, -1), scales

    def _cache(self, op: Instruction) -> LayerCache | EvictLayer:
        """Cache of the layer that an APPEND or ATTEND addresses."""
        if self.image.eviction is not None:
            if op.other not in self._evicting:
                self._evicting[op.other] = EvictLayer(op.count, self.image.kv_capacity, self.image.eviction, self.config)
            return self._evicting[op.other]
        if op.address not in self._caches:
            self._caches[op.address] = LayerCache(op.count, self.image.positions, op.words * self.config.vector_lanes,
                                                  self.config)
        return self._caches[op.address]

    def _table(self, op: Instruction, address: int) -> LayerCache:
        """Means of a layer's blocks."""
        if address not in self._tables:
            blocks = -(-self.image.positions // self.config.block_size)
            self._tables[address] = LayerCache(op.count, blocks, op.words * self.config.vector_lanes, self.config)
        return self._tables[address]

    def _write(self, op: Instruction, token: int, base: int, values: np.ndarray) -> None:
        words = values.reshape(-1, self.config.vector_lanes)
        self.memory[token, base:base + len(words)] = words
        self._trace(op, token, values)

    def _trace(self, op: Instruction, token: int, values: np.ndarray) -> None:
        if self.trace is not None:
            self.trace(op.tag, self.position + token, values.reshape(-1))
