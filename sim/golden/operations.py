"""What each operation of the golden machine does with the tokens that are on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...accelerators.control.isa import RANGE_UNIT, Flag, Instruction, Opcode
from . import elementwise, head, ternary
from .attention import Rows, all_finished, attend, attend_parts
from .cache import stored_scale
from .evict_layer import EvictLayer
from .layer_cache import HeadRows, LayerCache
from .machine_state import MachineState, Trace
from .numerics import Scalar
from .select import block_mean, block_scores, share_count, top_indices, value_deviation

if TYPE_CHECKING:
    from ...rtl_gen.image import Image

__all__ = ["Operations"]


class Operations(MachineState):
    """A handler per opcode; parameters as of ``MachineState``."""

    def __init__(self, image: Image, trace: Trace | None = None) -> None:
        super().__init__(image, trace)
        self._handlers: dict[Opcode, Callable[[Instruction], None]] = {
            opcode: getattr(self, "_" + opcode.name.lower()) for opcode in Opcode if opcode is not Opcode.END}

    def execute(self, op: Instruction) -> None:
        self._handlers[op.opcode](op)

    # In the order of Opcode.

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
        tokens = range(len(self.tokens) - 1 if only_last else 0, len(self.tokens))
        x, scales = self._vectors(op.source, op.words)[tokens.start:], [Scalar(*op.scalar_a)] * len(tokens)
        if Flag.ALIGN in op.flags:
            exponents = self.exponents[tokens.start:]
            top = exponents.max(axis=1)
            shifts = np.repeat(top[:, None] - exponents, op.group * lanes, axis=1)
            x = elementwise.align(x, np.minimum(shifts, 63))
            scales = [scale.shifted(int(bits)) for scale, bits in zip(scales, top, strict=True)]
        if Flag.PRODUCT in op.flags:
            scales = self.products[tokens.start:]
        q, steps = elementwise.norm_quantize_rows(
            x, gain, scales, gain_exponent=exponent, norm=Flag.NORMALIZE in op.flags, wide=Flag.WIDE in op.flags,
            inverse_length=Scalar(*op.scalar_b), epsilon=Scalar(*op.scalar_c))
        self.activations = q
        for t, row, step in zip(tokens, q, steps, strict=True):
            self.scales[t] = step
            self._trace(op, t, row)

    def _linear(self, op: Instruction) -> None:
        rows, width = op.rows * self.config.table_rows, op.tiles * self.config.tile_activations
        if op.address not in self._weights:
            raw = self._read(op.address, op.beats, np.dtype(np.uint8))
            self._weights[op.address] = ternary.unpack(raw, rows, width, self.config)
        activations = np.zeros((len(self.tokens), width), np.int64)
        activations[:, :self.activations.shape[1]] = self.activations[:, :width]
        sums = ternary.matvec(self._weights[op.address], activations)
        self._before = None
        split = op.other * self.config.table_rows
        magnitude = np.abs(sums)
        self.magnitudes = [(int(first).bit_length(), int(second).bit_length())
                           for first, second in zip(magnitude[:, :split].max(axis=1, initial=0),
                                                    magnitude[:, split:].max(axis=1, initial=0), strict=True)]
        for t in range(len(self.tokens)):
            self._write(op, t, op.destination, sums[t])

    def _rope(self, op: Instruction) -> None:
        lanes, half, tokens = self.config.vector_lanes, op.words // 2, len(self.tokens)
        last = op.rows - 1 if op.rows and self.image.window is not None else self.position + tokens
        first = min(self.position, last)
        rows = self._read(op.address + first * op.beats * self.config.bus_bytes, (min(self.position + tokens - 1, last) - first + 1)
                          * op.beats, np.dtype("<i2"))
        rows = rows.reshape(-1, op.beats * self.config.bus_bytes // 2)[np.minimum(np.arange(tokens) + self.position, last) - first]
        table = rows[:, :2 * half * lanes].astype(np.int64).reshape(tokens, 1, half, 2, lanes)
        heads = self._vectors(op.source, op.count * op.words).reshape(tokens, op.count, 2, half, lanes)
        rotated = np.stack(elementwise.rope(heads[:, :, 0], heads[:, :, 1], table[..., 0, :], table[..., 1, :]), axis=2)
        for t in range(tokens):
            self._write(op, t, op.destination if self.config.attention_runs else op.source, rotated[t])

    def _append(self, op: Instruction) -> None:
        cache, tokens = self._cache(op), len(self.tokens)
        parts = []
        for base, weight_scale in ((op.source, op.scalar_a), (op.destination, op.scalar_b)):
            q, scales = self._quantized_heads(base, op.count, op.words, Scalar(*weight_scale))
            stored = np.array([stored_scale(scale) for scale in scales]).reshape(tokens, op.count, 2)
            parts += [q.transpose(1, 0, 2), stored.transpose(1, 0, 2)]
        kept = [t for t in range(tokens) if op.sees(self.position + t)]
        if kept:  # positions one after another
            cache.put(self.position + kept[0], *(part[:, kept[0]:kept[-1] + 1] for part in parts))
        for t in kept:
            for head_number in range(op.count):
                self._trace(op, t, np.concatenate([parts[0][head_number, t], parts[2][head_number, t]]))

    def _attend(self, op: Instruction) -> None:
        if op.fallback and not self.passed:
            return
        passed = False
        cache, tokens, heads = self._cache(op), len(self.tokens), op.count * op.group
        outputs = np.zeros((tokens, heads, op.words * self.config.vector_lanes), np.int64)
        exponents = np.zeros((tokens, heads), np.int64)
        q, scales = self._quantized_heads(op.source, heads, op.words, Scalar(*op.scalar_a))
        limits = np.repeat(np.arange(self.position, self.position + tokens) + 1, op.group)
        if isinstance(cache, EvictLayer):
            limits = np.minimum(limits, self.image.kv_capacity)
        phi = op.shift if self.config.attention_modes and op.rows else None
        if self.image.window is not None:
            sink_q, sink_scales = self._quantized_heads(op.other, heads, op.words, Scalar(*op.scalar_a))
        for kv_head in range(op.count):
            group = slice(kv_head * op.group, (kv_head + 1) * op.group)
            lane_scales = [scales[t * heads + j] for t in range(tokens) for j in range(group.start, group.stop)]
            queries = q[:, group].reshape(len(limits), -1)
            rows = cache.rows(kv_head) if isinstance(cache, EvictLayer) else cache.rows(kv_head, self.position + tokens)
            if self.config.block_retrieval and op.other:
                rows, limits = self._listed_rows(rows, op)
            if self.image.window is None and phi is None:
                x, e = attend(queries, lane_scales, limits, *rows, self.config)
                if isinstance(cache, EvictLayer):
                    cache.weigh(kv_head, queries, lane_scales, limits, op.group)
            else:
                runs = [Rows(queries, lane_scales, np.zeros_like(limits), limits, *rows)]
                if self.image.window is not None:
                    sink_lanes = [sink_scales[t * heads + j] for t in range(tokens) for j in range(group.start, group.stop)]
                    assert isinstance(cache, LayerCache)
                    runs = self._window(cache, kv_head, limits, (sink_q[:, group].reshape(len(limits), -1), sink_lanes),
                                        (queries, lane_scales), op)
                parts = attend_parts(runs, self.config, phi)
                passed |= any(part.passed for part in parts)
                x, e = all_finished(parts if self.parts is None else self.parts.exchange(op, parts, kv_head * len(limits)), self.config)
            outputs[:, group] = x.reshape(tokens, op.group, -1)
            exponents[:, group] = e.reshape(tokens, op.group)
        self.passed = passed
        if op.partial:  # its results are in memory
            return
        self.exponents = exponents
        for t in range(tokens):
            self._write(op, t, op.destination, outputs[t])

    def _window(self, cache: LayerCache, kv_head: int, limits: np.ndarray, sink_queries: tuple[np.ndarray, list[Scalar]],
                queries: tuple[np.ndarray, list[Scalar]], op: Instruction) -> list[Rows]:
        """What the lanes see: of the sinks, then of the latest positions. ``limits``: the lanes' positions + 1. Of them the range of
        ``op``."""
        assert self.image.window is not None
        sinks, recent, end = self.image.window.sinks, self.image.window.recent, int(limits[-1])
        lowest = max(sinks, int(limits[0]) - recent)
        runs, stop = [], np.minimum(limits, op.end * RANGE_UNIT) if op.end else limits
        if sinks:
            rows = cache.rows(kv_head, min(sinks, end))
            runs.append(Rows(*sink_queries, np.full_like(limits, op.first * RANGE_UNIT), np.minimum(stop, sinks), *rows))
        if end > lowest:
            runs.append(Rows(*queries, np.maximum(limits - recent, op.first * RANGE_UNIT).clip(lowest) - lowest,
                             np.maximum(stop - lowest, 0), *cache.rows(kv_head, end, lowest)))
        return runs

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
            values = head.matvec(weights, self.activations[t if self._every else 0])
            self.results.append(values)
            unit = self.scales[t] * Scalar(*op.scalar_a)
            self.real_scales.append(float(unit) / float(np.log2(np.e)))
            self.logit_unit = unit
            self._trace(op, t, values)

    def _deviate(self, op: Instruction) -> None:
        """Reused rows are counted from 0, new ones are those of the latest tokens."""
        end = self.position + len(self.tokens)
        if not 1 <= op.rows <= end:
            raise ValueError(f"tokens to compare must be in 1..{end}, not {op.rows}")
        values: list[np.ndarray] = []
        for where, stop in ((replace(op, address=op.source | op.destination << 16), op.rows), (op, end)):
            cache = self._cache(where)
            assert isinstance(cache, LayerCache)
            heads = [cache.rows(head_number, stop, stop - op.rows)[2:] for head_number in range(op.count)]
            values += [np.stack(part) for part in zip(*heads, strict=True)]
        scores, _ = value_deviation(*values, exponent=op.scalar_a[1], kv_bits=self.config.kv_bits)
        self.listed = top_indices(scores, share_count(op.rows, op.tiles))

    def _means(self, op: Instruction) -> None:
        """Of the blocks that the chunk has completed; their records are those of a cache of their own."""
        cache, table, size = self._cache(op), self._table(op, op.source | op.destination << 16), self.config.block_size
        assert isinstance(cache, LayerCache)
        for block in range(self.position // size, (self.position + len(self.tokens)) // size):
            parts: list[list[Any]] = [[], [], [], []]
            for head_number in range(op.count):
                rows = cache.rows(head_number, (block + 1) * size, block * size)
                for k in (0, 2):
                    q, scale, large = block_mean(rows[k], rows[k + 1], exponent=op.scalar_a[1], kv_bits=self.config.kv_bits,
                                                 block_size=size)
                    parts[k].append([q])
                    parts[k + 1].append([stored_scale(scale)])
                    self.means_saturated |= large
            table.put(block, *(np.array(part) for part in parts))

    def _retrieve(self, op: Instruction) -> None:
        """Blocks before the latest positions of the chunk's first token."""
        if not (op.rows and op.other):
            raise ValueError(f"RETRIEVE (tag {op.tag}): blocks to list and latest positions must be at least 1, not {op.rows} and "
                             f"{op.other}")
        scored, tokens = max(0, self.position + 1 - op.other) // self.config.block_size, len(self.tokens)
        self._before, self.listed = scored, list(range(scored))
        if scored <= op.rows:
            return
        q, scales = self._quantized_heads(op.source, op.count * op.group, op.words, Scalar(*op.scalar_a))
        table = self._table(op, op.address)
        keys, key_scales = (np.stack(part) for part in list(zip(*(table.rows(h, scored) for h in range(op.count)), strict=True))[:2])
        lanes = [(t, h) for t in range(tokens) for h in range(op.group)]
        queries = np.stack([[q[t, kv_head * op.group + h] for t, h in lanes] for kv_head in range(op.count)])
        pairs = [(scale.mantissa, scale.exponent) for scale in scales]
        query_scales = np.array([[pairs[(t * op.count + kv_head) * op.group + h] for t, h in lanes] for kv_head in range(op.count)])
        scores = block_scores(queries, query_scales, keys, key_scales, exponent=op.scalar_b[1])
        self.listed = top_indices(scores, op.rows)

    def _listed_rows(self, rows: HeadRows, op: Instruction) -> tuple[HeadRows, np.ndarray]:
        """Of a head's rows the listed blocks and what is behind those that were scored; how many of them each lane sees."""
        if self._before is None:
            raise ValueError(f"ATTEND (tag {op.tag}): there is no list of blocks")
        size, end = self.config.block_size, self.position + len(self.tokens)
        seen = [*(block * size + k for block in self.listed for k in range(size)), *range(self._before * size, end)]
        limits = np.repeat(np.arange(self.position, end) + 1, op.group)
        keys, key_scales, values, value_scales = (part[seen] for part in rows)
        return (keys, key_scales, values, value_scales), limits - end + len(seen)
