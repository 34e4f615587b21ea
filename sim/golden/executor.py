"""Golden model of the executor: the commands of an operation, in order, and what each of them causes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...accelerators.config import AcceleratorConfig
from ...accelerators.control.isa import RANGE_UNIT, Flag, Instruction, Opcode
from .numerics import Scalar

__all__ = ["Command", "Executor", "Inputs", "scalar_fields"]

WORD = 1 << 16  # vector-memory addresses wrap


def scalar_fields(scalar: Scalar) -> dict[str, int]:
    """A pseudo-float as a payload."""
    return {"mantissa": scalar.mantissa, "exponent": scalar.exponent}


@dataclass(frozen=True)
class Command:
    """A command on a port; ``launches``: items that it causes, by the name of the event that reports each."""

    port: str
    fields: dict[str, Any]
    launches: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inputs:
    """An operation, the chunk in flight that it works on, and what the units report per token: scales of NORM, magnitudes for
    GLU, top exponents for ALIGN. ``rows``: of ATTEND, the runs of each tile, where attention takes runs. Where a chunk has several
    sequences, ``positions`` of all tokens instead of ``position``, and the token that is ``sampled``."""

    op: Instruction
    tokens: int
    position: int
    scales: Sequence[Scalar]
    magnitudes: Sequence[tuple[int, int]]
    tops: Sequence[int]
    chunk: int = 0
    rows: Sequence[Sequence[dict[str, int]]] = ()
    positions: Sequence[int] = ()
    sampled: int | None = None

    def at(self, token: int) -> int:
        """Position of a token."""
        return self.positions[token] if self.positions else self.position + token

    @property
    def last(self) -> int:
        """The token whose logits are made."""
        return self.tokens - 1 if self.sampled is None else self.sampled


class Executor:
    """Remembers, like the hardware, the scales of the activations and of the products of GLU."""

    def __init__(self, config: AcceleratorConfig, inverse_temperature: Scalar, window: int = 0, budget: int = 0) -> None:
        self.config, self.inverse_temperature, self.window, self.budget = config, inverse_temperature, window, budget
        self.scales = [[Scalar(0, 0)] * config.token_lanes for _ in range(config.chunks)]
        self.products = [Scalar(0, 0)] * config.token_lanes

    def commands(self, inputs: Inputs) -> list[Command]:
        """The commands of one operation, in the order in which they are issued."""
        self.first_slot = inputs.chunk * self.config.token_lanes
        handler = getattr(self, "_" + inputs.op.opcode.name.lower())
        return list(handler(inputs.op, inputs))

    def _end(self, op: Instruction, inputs: Inputs) -> Iterator[Command]:
        yield from ()

    def _access(self, port: str, token: int, base: int, words: int, offset: int | None = None) -> Command:
        paired = offset is not None
        fields = {"token": self.first_slot + token, "base": base % WORD, "words": words, "paired": int(paired),
                  "offset": (offset or 0) % WORD}
        return Command(port, fields, () if port == "o_read" else ("vector_written",))

    def _quantize(self, token: int, base: int, words: int, scale: Scalar, op: Instruction) -> Iterator[Command]:
        """A vector through norm + quantize, and what tells it how; a short one is read once."""
        norm = op.opcode is Opcode.NORM
        yield self._access("o_read", token, base, words)
        yield Command("o_norm", {
            "scale": scalar_fields(scale), "gain_exponent": op.shift if norm and Flag.GAIN in op.flags else 0,
            "norm": int(norm and Flag.NORMALIZE in op.flags), "once": int(not norm),
            "wide": int(Flag.WIDE in op.flags) if norm else int(self.config.kv_bits == 16),
            "inverse_length": scalar_fields(Scalar(*op.scalar_b)), "epsilon": scalar_fields(Scalar(*op.scalar_c)),
        }, ("vector_quantized", "scale_stored") if norm else ("vector_quantized",))
        if norm:
            yield self._access("o_read", token, base, words)

    def _embed(self, op: Instruction, inputs: Inputs) -> Iterator[Command]:
        for token in range(inputs.tokens):
            yield Command("o_embedding", {"shift": op.shift}, ("packet_taken",))
            yield self._access("o_write", token, op.destination, op.words)

    def _norm(self, op: Instruction, inputs: Inputs) -> Iterator[Command]:
        to_head = Flag.TO_HEAD in op.flags
        tokens = range(inputs.last, inputs.last + 1) if to_head else range(inputs.tokens)
        if Flag.GAIN in op.flags:
            yield Command("o_gains", {"words": op.words, "times": 2 * len(tokens)}, ("packet_taken",))
        if to_head:
            yield Command("o_head", {"rows": op.rows, "words": op.words})
        for token in tokens:
            scale = Scalar(*op.scalar_a)
            if Flag.ALIGN in op.flags:
                scale = scale.shifted(inputs.tops[token])
            if Flag.PRODUCT in op.flags:
                scale = self.products[token]
            yield from self._quantize(token, op.source, op.words, scale, op)
            self.scales[inputs.chunk][token] = inputs.scales[token]

    def _linear(self, op: Instruction, inputs: Inputs) -> Iterator[Command]:
        yield Command("o_sums", {"base": op.destination, "split": op.other, "chunk": inputs.chunk})
        yield Command("o_engine", {"tiles": op.tiles, "block_rows": op.block_rows, "rows": op.rows, "tokens": inputs.tokens},
                      ("sums_written",))

    def _rope(self, op: Instruction, inputs: Inputs) -> Iterator[Command]:
        half = op.words // 2
        for token in range(inputs.tokens):
            yield Command("o_table", {"words": half, "times": op.count}, ("packet_taken",))
            for head in range(op.count):
                target = op.destination if self.config.attention_runs else op.source
                for port, base in (("o_read", op.source), ("o_write", target)):
                    yield self._access(port, token, base + head * op.words, half, half)

    def _append(self, op: Instruction, inputs: Inputs) -> Iterator[Command]:
        for token, activation_scale in enumerate(self.scales[inputs.chunk][:inputs.tokens]):
            if self.config.attention_modes and not op.sees(inputs.at(token)):
                continue
            for head in range(op.count):
                if self.config.cache != "paged":
                    yield self._request(op, head, ("record_written",), position=inputs.at(token))
                key, value = (list(self._quantize(token, base + head * op.words, op.words, activation_scale * Scalar(*scale), op))
                              for base, scale in ((op.source, op.scalar_a), (op.destination, op.scalar_b)))
                if self.config.cache == "paged":
                    key[0] = replace(key[0], launches=("record_written",))
                yield from key + value

    def _means(self, op: Instruction, inputs: Inputs) -> Iterator[Command]:
        size = self.config.block_size
        blocks = range(inputs.position // size, (inputs.position + inputs.tokens) // size)
        for head in range(op.count):
            yield Command("o_means", {"rows": len(blocks) * size, "beats": op.beats, "words": op.words, "exponent": op.scalar_a[1]},
                          ("packet_taken",))
            for block in blocks:
                yield Command("o_request", {"base": op.source | op.destination << 16, "head": head, "position": block},
                              ("record_written",))

    def _retrieve(self, op: Instruction, inputs: Inputs) -> Iterator[Command]:
        yield Command("o_count", {"count": op.rows}, ("token_sampled",))
        scored, tiles = (inputs.position + 1 - op.other) // self.config.block_size, range(0, inputs.tokens, op.tiles)
        for kv_head in range(op.count):
            for first in tiles:
                tile = range(first, min(first + op.tiles, inputs.tokens))
                yield Command("o_retrieve", {
                    "lanes": len(tile) * op.group, "rows": scored, "beats": op.beats, "words": op.words, "exponent": op.scalar_b[1],
                    "first": int(kv_head == 0 and first == 0), "last": int(kv_head == op.count - 1 and first == tiles[-1])},
                    ("packet_taken",))
                for token in tile:
                    for head in range(kv_head * op.group, (kv_head + 1) * op.group):
                        yield from self._quantize(token, op.source + head * op.words, op.words,
                                                  self.scales[inputs.chunk][token] * Scalar(*op.scalar_a), op)

    def _request(self, op: Instruction, head: int, launches: tuple[str, ...], **fields: int) -> Command:
        if self.config.cache == "evict":
            fields = {"scores": 0, **fields, "head": (op.other + head) % (1 << 8)}
        return Command("o_request", {"base": op.address, "head": head, "position": 0, **fields}, launches)

    def _attend_runs(self, op: Instruction, inputs: Inputs, kv_head: int, tile: range, runs: Sequence[dict[str, int]]
                     ) -> Iterator[Command]:
        modes = {"unified": int(op.rows != 0), "phi": op.shift, "merge": int(op.merge),
                 "partial": int(op.partial)} if self.config.attention_modes else {}
        leaves = modes.get("partial", 0)
        for run in runs:
            yield Command("o_attention", {"lanes": len(tile) * op.group, "beats": op.beats, "words": op.words,
                                          **{name: run[name] for name in ("rows", "begins", "ends")}, **modes}, ("packet_taken",))
            ends = int(run["ends"] and not leaves)
            for token in tile:
                seen = inputs.at(token) + 1 - run["position"]
                if self.config.cache == "paged" and not run["first_token"] <= token - tile.start < run["tokens_end"]:
                    seen = 0
                start = 0 if run["sinks"] or self.config.cache != "window" else max(0, seen - self.window)
                if self.config.attention_modes:
                    start = min(max(start, op.first * RANGE_UNIT - run["position"]), run["rows"])
                    seen = min(seen, (op.end * RANGE_UNIT or 1 << 20) - run["position"])
                for head in range(kv_head * op.group, (kv_head + 1) * op.group):
                    yield Command("o_lane", {"start": start, "limit": min(max(0, seen), run["rows"]), "token": token, "head": head,
                                             "ends": ends}, ("exponent_stored",) if ends else ())
                    yield from self._quantize(token, (op.other if run["sinks"] else op.source) + head * op.words, op.words,
                                              self.scales[inputs.chunk][token] * Scalar(*op.scalar_a), op)
                    if run["ends"] and self.config.attention_modes:
                        burst = {"address": (op.parts + self.part * self.config.bus_bytes) % (1 << 32),
                                 "beats": self.config.part_beats(op.words)}
                        self.part += burst["beats"]
                        if op.merge:
                            yield Command("o_given", burst)
                        if leaves:
                            yield Command("o_part", burst, ("record_written",))
                    if ends:
                        yield self._access("o_write", token, op.destination + head * op.words, op.words)

    def _attend(self, op: Instruction, inputs: Inputs) -> Iterator[Command]:
        tiles, self.part = iter(inputs.rows), 0
        for kv_head in range(op.count):
            if self.config.attention_runs:
                first = 0
                while first < inputs.tokens:
                    runs = next(tiles)
                    tile = range(first, first + runs[0]["tokens"])
                    yield from self._attend_runs(op, inputs, kv_head, tile, runs)
                    first = tile.stop
                continue
            for first in range(0, inputs.tokens, op.tiles):
                tile = range(first, min(first + op.tiles, inputs.tokens))
                if self.config.cache == "evict":
                    yield self._request(op, kv_head, (), scores=1)
                yield Command("o_attention", {"lanes": len(tile) * op.group, "rows": self._there(inputs.position + tile.stop),
                                              "beats": op.beats, "words": op.words}, ("packet_taken",))
                for token in tile:
                    for head in range(kv_head * op.group, (kv_head + 1) * op.group):
                        offset = head * op.words
                        yield Command("o_lane", {"limit": self._there(inputs.position + token + 1), "token": token, "head": head},
                                      ("exponent_stored",))
                        yield from self._quantize(token, op.source + offset, op.words,
                                                  self.scales[inputs.chunk][token] * Scalar(*op.scalar_a), op)
                        yield self._access("o_write", token, op.destination + offset, op.words)

    def _there(self, positions: int) -> int:
        """Rows of a head after so many positions."""
        return min(positions, self.budget) if self.config.cache == "evict" else positions

    def _residual(self, op: Instruction, inputs: Inputs) -> Iterator[Command]:
        for token in range(inputs.tokens):
            yield Command("o_residual", {"scale": scalar_fields(self.scales[inputs.chunk][token] * Scalar(*op.scalar_a))})
            yield self._access("o_read", token, op.source, op.words, op.destination - op.source)
            yield self._access("o_write", token, op.destination, op.words)

    def _glu(self, op: Instruction, inputs: Inputs) -> Iterator[Command]:
        silu = Flag.SILU in op.flags
        for token in range(inputs.tokens):
            scale, (gate, up) = self.scales[inputs.chunk][token], inputs.magnitudes[token]
            yield Command("o_glu", {"silu": int(silu), "gate_bits": gate, "up_bits": up,
                                    "scale": scalar_fields(scale * Scalar(*op.scalar_a))})
            yield self._access("o_read", token, op.source, op.words, op.other - op.source)
            yield self._access("o_write", token, op.destination, op.words)
            power = scale * scale if silu else (scale * scale) * scale
            self.products[token] = (power * Scalar(*op.scalar_b)).shifted((1 if silu else 2) * gate + up - 31)

    def _head(self, op: Instruction, inputs: Inputs) -> Iterator[Command]:
        unit = self.scales[inputs.chunk][inputs.last] * Scalar(*op.scalar_a)
        yield Command("o_sampler", {"scale": scalar_fields(unit * self.inverse_temperature)}, ("token_sampled",))

    def _deviate(self, op: Instruction, inputs: Inputs) -> Iterator[Command]:
        yield Command("o_deviate", {"heads": op.count, "rows": op.rows, "beats": op.beats, "words": op.words, "share": op.tiles,
                                    "exponent": op.scalar_a[1]}, ("token_sampled",))
