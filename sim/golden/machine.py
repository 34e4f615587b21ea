"""The golden model of the whole accelerator: executes the program of a memory image, integer-only, bit for bit.

Everything the machine knows comes from the image (program, packed weights, tables), as in hardware, so the compiler is
checked with it. Tokens of a chunk are independent of how the prompt is cut into chunks, so the machine may take a whole
prompt as one chunk where the hardware takes several. But what a KV cache with a budget of rows takes at a time, it says itself.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...accelerators.control.isa import Flag, Opcode
from ..blas import single_threaded_blas
from .layer_cache import LayerCache
from .machine_state import Trace
from .numerics import Scalar
from .operations import Operations
from .sampler import Sampler

if TYPE_CHECKING:
    from ...rtl_gen.image import Image

__all__ = ["Machine", "Step", "hidden_digest"]


@dataclass(frozen=True)
class Step:
    """One generated token: its id, the largest logit (integer units), the position of the token it follows, and the
    ``hidden_digest`` of that position's final hidden state."""

    token: int
    value: int
    position: int
    hidden: int


def hidden_digest(activations: np.ndarray) -> int:
    """What a final hidden state is compared by: CRC-32 (``zlib.crc32``) of its elements as little-endian int32, in order.

    ``activations``: the quantized vector that the last NORM gives to the LM head, ``hidden_size`` elements without padding.
    One wrong element always changes the digest.
    """
    return zlib.crc32(activations.astype("<i4").tobytes())


class Machine(Operations):
    """Executes an image.

    Parameters
    ----------
    image : Image
    seed : int
        Of the sampler's generator.
    greedy, top_k, inverse_temperature :
        Sampling parameters, as in the register block.
    trace : Trace or None
        Receives every operation's result.

    ``program`` and ``position`` may be set between chunks: another program on the same memory, a token computed again. What a chunk
    leaves behind: ``MachineState``.

    Raises ``ValueError`` for a program that splits attention where the accelerator cannot, and for a token id outside the vocabulary;
    ``OverflowError`` when the cache is full.
    """

    def __init__(self, image: Image, *, seed: int = 1, greedy: bool = True, top_k: int = 1,
                 inverse_temperature: float = 1.0, trace: Trace | None = None) -> None:
        super().__init__(image, trace)
        self.greedy, self.top_k = greedy, top_k
        self.inverse_temperature = Scalar.from_float(inverse_temperature)
        self.sampler = Sampler(self.config, seed)

    def generate(self, prompt: Sequence[int], count: int, *, eos: int | None = None) -> Iterator[Step]:
        """Prefill ``prompt``, then yield ``count`` tokens (fewer if ``eos`` is generated: it is the last)."""
        tokens = list(prompt)
        for _ in range(count):
            values = self.chunk(tokens)[-1]
            position = self.position - 1
            scale = self.logit_unit * self.inverse_temperature
            token, value = self.sampler.sample(values, greedy=self.greedy, k=self.top_k, scale=scale)
            yield Step(token, value, position, hidden_digest(self.activations[-1, :self.model.hidden_size]))
            if token == eos:
                return
            tokens = [token]

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        """float64 ``[len(tokens), vocab]``: logits of every token of a chunk in real units (for error figures)."""
        rows = self.chunk(tokens, every=True)
        return np.stack([values * scale for values, scale in zip(rows, self.real_scales, strict=True)])

    def chunk(self, tokens: Sequence[int], *, every: bool = False) -> list[np.ndarray]:
        """Run the program over ``tokens``; returns the int64 logits of the last one (or of every one)."""
        for token in tokens:
            if not 0 <= token < self.model.vocab_size:
                raise ValueError(f"token id {token} is outside the vocabulary of {self.model.vocab_size}")
        if not tokens:
            raise ValueError("a chunk needs at least one token")
        if self.position + len(tokens) > self.image.positions:
            raise OverflowError(f"the KV cache holds {self.image.positions} positions; "
                                f"{self.position + len(tokens)} needed")
        self.results, self.real_scales = [], []
        left = list(tokens)
        # Parts and lists of blocks are those of a chunk as the hardware takes it.
        by_lanes = self.parts or any(op.opcode is Opcode.RETRIEVE for op in self.program)
        while left:
            count = self.image.chunk_room(self.position) or (self.config.token_lanes if by_lanes else len(left))
            here, left = left[:count], left[count:]
            self._execute(here, every, final=not left)
        return self.results

    def _execute(self, tokens: list[int], every: bool, final: bool) -> None:
        """The program over tokens that go into the cache at a time, the ``final`` ones of a chunk or others."""
        self.begin(tokens, every)
        with single_threaded_blas():
            for op in self.program[:-1]:
                if every or final or Flag.LAST_CHUNK not in op.flags:
                    self.execute(op)
        self.position += len(tokens)

    def fill_cache(self, positions: int, seed: int = 1) -> None:
        """Fill an empty cache with random records, as if ``positions`` tokens had been prefilled: the next one is at ``positions``.

        A vector's elements are normal with the largest at full scale, as quantization leaves them. Its scale has the exponent
        that this layer and head give to one token of the model, and a random mantissa. ``write_cache`` gives the hardware the
        same records.

        Raises ``ValueError`` unless the cache keeps all positions, is empty, and has room for ``positions`` and one more.
        """
        if self.image.window is not None or self.image.eviction is not None:
            raise ValueError("a cache of sinks and a window, or of a budget of rows, is not filled")
        if self.position:
            raise ValueError(f"the cache must be empty to be filled, it holds {self.position} positions")
        if not 1 <= positions < self.image.kv_capacity:
            raise ValueError(f"positions to fill must be in 1..{self.image.kv_capacity - 1}, not {positions}")
        probe = Machine(self.image)
        probe._weights = self._weights
        probe.chunk([self.model.bos or 0])
        self._caches = probe._caches
        for layer, cache in enumerate(self._caches.values()):
            cache.fill(positions, np.random.default_rng([seed, layer]))
        self.position = positions

    def copy_rows(self, source: int, target: int, position: int, count: int) -> None:
        """What a host copies: the first ``count`` rows of the cache of a layer at address ``source`` become those of the positions from
        ``position`` on in the cache at ``target``."""
        cache = self._caches[source]
        into = self._caches.setdefault(target, LayerCache(len(cache.keys), self.image.positions, cache.keys.shape[2], self.config))
        into.copy(cache, position, count)

    def write_cache(self, path: Path) -> int:
        """Write the K/V cache as it lies in memory and return the byte address where the file begins.

        What no record has been written to is a hole in the file. Raises ``ValueError`` for an empty cache.
        """
        if not self.position:
            raise ValueError("the cache is empty")
        base = min(self._caches)
        with open(path, "wb") as file:
            for address, cache in self._caches.items():
                for head_number in range(len(cache.keys)):
                    file.seek(address - base + head_number * self.image.kv_head_stride)
                    file.write(cache.packed(head_number, self.position).data)
        return base
