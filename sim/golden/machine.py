"""The golden model of the whole accelerator: executes the program of a memory image, integer-only, bit for bit.

Everything the machine knows comes from the image (program, packed weights, tables), as in hardware, so the compiler is
checked with it. Tokens of a chunk are independent of how the prompt is cut into chunks, so the machine may take a whole
prompt as one chunk where the hardware takes several.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...accelerators.control.isa import Flag, Instruction, Opcode, decode_program
from . import elementwise, head, ternary
from .attention import attend
from .cache import stored_scale
from .numerics import Scalar, bit_length
from .sampler import Sampler

if TYPE_CHECKING:
    from ...rtl_gen.image import Image

__all__ = ["Machine", "Step", "Trace"]

Trace = Callable[[int, int, np.ndarray], None]
"""Called with (operation tag, position, result) for every operation and token."""


@dataclass(frozen=True)
class Step:
    """One generated token: its id, the largest logit (integer units), and the position of the token it follows."""

    token: int
    value: int
    position: int


class Machine:
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

    Raises ``ValueError`` for a token id outside the vocabulary and ``OverflowError`` when the cache is full.
    """

    def __init__(self, image: Image, *, seed: int = 1, greedy: bool = True, top_k: int = 1,
                 inverse_temperature: float = 1.0, trace: Trace | None = None) -> None:
        self.image, self.config, self.model = image, image.config, image.model
        self.program = list(decode_program(image.data[image.program_address:].tobytes()))
        self.greedy, self.top_k = greedy, top_k
        self.inverse_temperature = Scalar.from_float(inverse_temperature)
        self.sampler = Sampler(self.config, seed)
        self.trace = trace
        self.saturations = 0
        self.position = 0
        self._weights: dict[int, Any] = {}
        self._keys: dict[int, list[list]] = {}
        self._handlers: dict[Opcode, Callable[[Instruction], None]] = {
            opcode: getattr(self, "_" + opcode.name.lower()) for opcode in Opcode if opcode is not Opcode.END}

    def generate(self, prompt: Sequence[int], count: int, *, eos: int | None = None) -> Iterator[Step]:
        """Prefill ``prompt``, then yield ``count`` tokens (fewer if ``eos`` is generated: it is the last)."""
        tokens = list(prompt)
        for _ in range(count):
            values = self.chunk(tokens)[-1]
            position = self.position - 1
            token, value = self.sampler.sample(values, greedy=self.greedy, k=self.top_k, scale=self._logit_scale)
            yield Step(token, value, position)
            if token == eos:
                return
            tokens = [token]

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        """float64 ``[len(tokens), vocab]``: logits of every token of a chunk in real units (for error figures)."""
        rows = self.chunk(tokens, every=True)
        return np.stack([values * scale for values, scale in zip(rows, self._real_scales, strict=True)])

    def chunk(self, tokens: Sequence[int], *, every: bool = False) -> list[np.ndarray]:
        """Run the program over ``tokens``; returns the int64 logits of the last one (or of every one)."""
        for token in tokens:
            if not 0 <= token < self.model.vocab_size:
                raise ValueError(f"token id {token} is outside the vocabulary of {self.model.vocab_size}")
        if not tokens:
            raise ValueError("a chunk needs at least one token")
        if self.position + len(tokens) > self.image.kv_capacity:
            raise OverflowError(f"the KV cache holds {self.image.kv_capacity} positions; "
                                f"{self.position + len(tokens)} needed")
        lanes = self.config.vector_lanes
        self.tokens = list(tokens)
        self.memory = np.zeros((len(tokens), self.config.vector_memory // lanes, lanes), np.int64)
        self.activations: list[np.ndarray] = [np.zeros(0, np.int64)] * len(tokens)
        self.scales = [Scalar(0, 0)] * len(tokens)
        self.products = [Scalar(0, 0)] * len(tokens)
        self.magnitudes = [(0, 0)] * len(tokens)
        self.exponents: list[np.ndarray] = [np.zeros(0, np.int64)] * len(tokens)
        self.results: list[np.ndarray] = []
        self._real_scales: list[float] = []
        self._every = every
        for op in self.program[:-1]:
            self._handlers[op.opcode](op)
        self.position += len(tokens)
        return self.results

    # Operations, in the order of Opcode.

    def _embed(self, op: Instruction) -> None:
        bits = self.config.embedding_bits
        for t, token in enumerate(self.tokens):
            row = self._read(op.address + token * op.beats * self.config.bus_bytes, op.beats, np.dtype(f"<i{bits // 8}"))
            x, clamped = elementwise.embed(row[:op.words * self.config.vector_lanes], op.shift)
            self.saturations += clamped
            self._write(op, t, op.destination, x)

    def _norm(self, op: Instruction) -> None:
        lanes = self.config.vector_lanes
        gain, exponent = np.ones(op.words * lanes, np.int64), 0
        if Flag.GAIN in op.flags:
            gain = self._read(op.address, op.beats, np.dtype("<i2")).astype(np.int64)[:op.words * lanes]
            exponent = op.shift
        only_last = Flag.TO_HEAD in op.flags and not self._every
        for t in range(len(self.tokens) - 1 if only_last else 0, len(self.tokens)):
            x, scale = self._vector(t, op.source, op.words), Scalar(*op.scalar_a)
            if Flag.ALIGN in op.flags:
                top = int(self.exponents[t].max())
                shifts = np.repeat(top - self.exponents[t], op.group * lanes)
                x, scale = elementwise.align(x, np.minimum(shifts, 63)), scale.shifted(top)
            if Flag.PRODUCT in op.flags:
                scale = self.products[t]
            q, self.scales[t] = elementwise.norm_quantize(
                x, gain, scale, gain_exponent=exponent, norm=Flag.NORMALIZE in op.flags, wide=Flag.WIDE in op.flags,
                inverse_length=Scalar(*op.scalar_b), epsilon=Scalar(*op.scalar_c))
            self.activations[t] = q
            self._trace(op, t, q)

    def _linear(self, op: Instruction) -> None:
        rows, width = op.rows * self.config.table_rows, op.tiles * self.config.tile_activations
        if op.address not in self._weights:
            raw = self._read(op.address, op.beats, np.dtype(np.uint8))
            # float64 holds every integer sum exactly and multiplies fast.
            self._weights[op.address] = ternary.unpack(raw, rows, width, self.config).astype(np.float64)
        activations = np.zeros((len(self.tokens), width))
        for t, q in enumerate(self.activations):
            activations[t, :min(q.size, width)] = q[:width]
        sums = (activations @ self._weights[op.address].T).astype(np.int64)
        split = op.other * self.config.table_rows
        for t in range(len(self.tokens)):
            magnitude = np.abs(sums[t])
            self.magnitudes[t] = (int(bit_length(int(magnitude[:split].max(initial=0)))),
                                  int(bit_length(int(magnitude[split:].max(initial=0)))))
            self._write(op, t, op.destination, sums[t])

    def _rope(self, op: Instruction) -> None:
        lanes, half = self.config.vector_lanes, op.words // 2
        for t in range(len(self.tokens)):
            row = self._read(op.address + (self.position + t) * op.beats * self.config.bus_bytes, op.beats, np.dtype("<i2"))
            table = row.astype(np.int64)[:2 * half * lanes].reshape(half, 2, lanes)
            heads = self.memory[t, op.source:op.source + op.count * op.words].reshape(op.count, 2, half, lanes)
            low, high = elementwise.rope(heads[:, 0], heads[:, 1], table[:, 0], table[:, 1])
            self._write(op, t, op.source, np.stack([low, high], axis=1))

    def _append(self, op: Instruction) -> None:
        wide = self.config.kv_bits == 16
        cache = self._keys.setdefault(op.address, [[] for _ in range(op.count)])
        for t in range(len(self.tokens)):
            for head_number, rows in enumerate(cache):
                record = []
                for base, weight_scale in ((op.source, op.scalar_a), (op.destination, op.scalar_b)):
                    x = self._vector(t, base + head_number * op.words, op.words)
                    q, scale = elementwise.norm_quantize(x, np.ones_like(x), self.scales[t] * Scalar(*weight_scale),
                                                         norm=False, wide=wide)
                    record += [q, stored_scale(scale)]
                rows.append(record)
                self._trace(op, t, np.concatenate([record[0], record[2]]))

    def _attend(self, op: Instruction) -> None:
        wide = self.config.kv_bits == 16
        heads = op.count * op.group
        outputs = np.zeros((len(self.tokens), heads, op.words * self.config.vector_lanes), np.int64)
        exponents = np.zeros((len(self.tokens), heads), np.int64)
        for kv_head, rows in enumerate(self._keys[op.address]):
            k, k_scales, v, v_scales = (list(column) for column in zip(*rows, strict=True))
            lanes, scales, limits = [], [], []
            for t in range(len(self.tokens)):
                for j in range(kv_head * op.group, (kv_head + 1) * op.group):
                    x = self._vector(t, op.source + j * op.words, op.words)
                    q, scale = elementwise.norm_quantize(x, np.ones_like(x), self.scales[t] * Scalar(*op.scalar_a),
                                                         norm=False, wide=wide)
                    lanes.append(q)
                    scales.append(scale)
                    limits.append(self.position + t + 1)
            x, e = attend(np.stack(lanes), scales, np.array(limits), np.stack(k), np.array(k_scales), np.stack(v),
                          np.array(v_scales), self.config)
            group = slice(kv_head * op.group, (kv_head + 1) * op.group)
            outputs[:, group] = x.reshape(len(self.tokens), op.group, -1)
            exponents[:, group] = e.reshape(len(self.tokens), op.group)
        for t in range(len(self.tokens)):
            self.exponents[t] = exponents[t]
            self._write(op, t, op.destination, outputs[t])

    def _residual(self, op: Instruction) -> None:
        for t in range(len(self.tokens)):
            x, clamped = elementwise.residual_add(self._vector(t, op.source, op.words),
                                                  self._vector(t, op.destination, op.words),
                                                  self.scales[t] * Scalar(*op.scalar_a))
            self.saturations += clamped
            self._write(op, t, op.destination, x)

    def _glu(self, op: Instruction) -> None:
        silu = Flag.SILU in op.flags
        for t, (gate_bits, up_bits) in enumerate(self.magnitudes):
            scale = self.scales[t]
            y = elementwise.glu(self._vector(t, op.source, op.words), self._vector(t, op.other, op.words), silu=silu,
                                gate_bits=gate_bits, up_bits=up_bits, scale=scale * Scalar(*op.scalar_a))
            product = (scale * scale) * Scalar(*op.scalar_b) if silu else ((scale * scale) * scale) * Scalar(*op.scalar_b)
            self.products[t] = product.shifted((1 if silu else 2) * gate_bits + up_bits - 31)
            self._write(op, t, op.destination, y)

    def _head(self, op: Instruction) -> None:
        if op.address not in self._weights:
            raw = self._read(op.address, op.beats, np.dtype(np.uint8))
            self._weights[op.address] = head.unpack_head(raw, op.rows, op.words * self.config.vector_lanes, self.config)
        weights = self._weights[op.address]
        for t in range(0 if self._every else len(self.tokens) - 1, len(self.tokens)):
            values = head.matvec(weights, self.activations[t])
            self.results.append(values)
            unit = self.scales[t] * Scalar(*op.scalar_a)
            self._real_scales.append(float(unit) / float(np.log2(np.e)))
            self._logit_scale = unit * self.inverse_temperature
            self._trace(op, t, values)

    # Memory.

    def _read(self, address: int, beats: int, dtype: np.dtype) -> np.ndarray:
        return self.image.data[address:address + beats * self.config.bus_bytes].view(dtype)

    def _vector(self, token: int, base: int, words: int) -> np.ndarray:
        return self.memory[token, base:base + words].reshape(-1)

    def _write(self, op: Instruction, token: int, base: int, values: np.ndarray) -> None:
        words = values.reshape(-1, self.config.vector_lanes)
        self.memory[token, base:base + len(words)] = words
        self._trace(op, token, values)

    def _trace(self, op: Instruction, token: int, values: np.ndarray) -> None:
        if self.trace is not None:
            self.trace(op.tag, self.position + token, values.reshape(-1))
