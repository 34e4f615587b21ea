"""Compiler: checkpoint -> memory image and program.

Lays out, from address 0: the embedding and rotary tables, per layer the gains and packed ternary matrices (q|k|v fused, o,
gate|up fused, down), the LM head, the program, and, behind the bytes of the file, the prompt buffer (one token id per bus
word) and the KV cache. Every section starts at a bus word. ``plan`` does the same without weights, for a model that is known
by its shape: sections, addresses and program, but no contents.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from math import frexp, log2, sqrt
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO

import numpy as np

from ..accelerators.config import THRESHOLD_FRACTION, AcceleratorConfig
from ..accelerators.control.isa import INSTRUCTION_BYTES, Flag, Instruction, Opcode, encode_program
from ..accelerators.integers import ceil_div
from ..accelerators.kv_records import record_beats
from ..accelerators.model_shape import ModelShape
from ..sim.golden.numerics import Scalar
from .checkpoint import Checkpoint, projection_shapes
from .files import replacing
from .image import Eviction, Image, MemoryMap, Section, Window, image_files
from .tensors import Contents, PackedTensors, TensorSizes, in_words

__all__ = ["Budget", "CompileError", "Plan", "compile_model", "fraction_bits_for", "plan"]

ROPE_KEPT_BITS = 6


class CompileError(ValueError):
    """The model does not fit the accelerator; the message names the parameter of each and the rule."""


@dataclass(frozen=True)
class Budget:
    """Rows of each K/V head that a cache with a budget keeps, and the rules for them (see ``Eviction``); ``None`` is a default: all
    ``rows`` that the preset has, of them an eighth as sinks, 4 at most, and a quarter for the latest positions."""

    rows: int | None = None
    sinks: int | None = None
    recent: int | None = None
    threshold: float = 0.8


def fraction_bits_for(peak: float) -> int:
    """Fraction bits of the int32 residual stream that leave 8x headroom above ``peak``, at most 24."""
    _, exponent = frexp(max(peak, 1e-30) * 8)
    return max(0, min(24, 31 - exponent))


def check_fit(model: ModelShape, config: AcceleratorConfig) -> None:
    """Raise ``CompileError`` unless ``config`` can run ``model``."""
    padded = in_words(model, config).head_dim
    said = f"{model.head_dim}" if padded == model.head_dim else f"{model.head_dim}, {padded} with both halves in whole words,"
    rules = [
        (padded <= config.max_head_dim, f"head_dim {said} exceeds max_head_dim {config.max_head_dim}"),
        (model.group <= config.query_lanes,
         f"{model.group} query heads per KV head exceed query_lanes {config.query_lanes}"),
        (model.vocab_size <= config.max_vocab, f"vocab_size {model.vocab_size} exceeds max_vocab {config.max_vocab}"),
        (model.heads <= config.max_heads, f"{model.heads} heads exceed max_heads {config.max_heads}"),
    ]
    for name, length in (("hidden_size", model.hidden_size), ("intermediate_size", model.intermediate_size),
                         ("heads * head_dim", model.heads * padded)):
        rules.append((length <= config.max_vector, f"{name} {length} exceeds max_vector {config.max_vector}"))
    needed = VectorMemory(model, config).elements
    rules.append((needed <= config.vector_memory,
                  f"the model needs {needed} elements of vector memory, vector_memory is {config.vector_memory}"))
    for holds, message in rules:
        if not holds:
            raise CompileError(f"preset {config.name!r} cannot run this model: {message}")


class VectorMemory:
    """Word addresses of the vector-memory regions of one token."""

    def __init__(self, model: ModelShape, config: AcceleratorConfig) -> None:
        lanes, model = config.vector_lanes, in_words(model, config)
        self.hidden = ceil_div(model.hidden_size, lanes)
        self.ffn = ceil_div(model.intermediate_size, lanes)
        self.head = model.head_dim // lanes
        self.residual = 0
        self.sums = self.q = self.gate = self.hidden
        self.k = self.q + model.heads * self.head
        self.v = self.k + model.kv_heads * self.head
        self.attention = self.v + model.kv_heads * self.head
        self.up = self.gate + self.ffn
        self.sink_q = self.attention + model.heads * self.head  # queries for the sinks
        sink_words = model.heads * self.head if config.cache == "window" else 0
        end = max(self.sums + self.hidden, self.sink_q + sink_words, self.up + self.ffn)
        self.elements = end * lanes


class _Layout:
    """Sections one after another, each at a bus word."""

    def __init__(self, bus_bytes: int) -> None:
        self.bus_bytes = bus_bytes
        self.sections: list[Section] = []
        self.end = 0

    def add(self, name: str, contents: Contents, kind: str) -> tuple[int, int]:
        """Append ``contents``; returns ``(address, beats)``."""
        length = contents if isinstance(contents, int) else contents.nbytes
        size = ceil_div(length, self.bus_bytes) * self.bus_bytes
        address, self.end = self.end, self.end + size
        self.sections.append(Section(name, address, size, kind))
        return address, size // self.bus_bytes


class _FileLayout(_Layout):
    """Grows the image, in a file."""

    def __init__(self, bus_bytes: int, file: BinaryIO) -> None:
        super().__init__(bus_bytes)
        self.file = file
        self.digest = hashlib.sha256()

    def add(self, name: str, contents: Contents, kind: str) -> tuple[int, int]:
        raw = np.ascontiguousarray(contents).reshape(-1).view(np.uint8)
        address, beats = super().add(name, raw, kind)
        for part in (raw.data, bytes(beats * self.bus_bytes - raw.size)):
            self.file.write(part)
            self.digest.update(part)
        return address, beats

    def contents(self) -> np.ndarray:
        """All that was added: a map of the file."""
        self.file.flush()
        return np.memmap(self.file, np.uint8, mode="r")


@dataclass(frozen=True, kw_only=True)
class Plan(MemoryMap):
    """Where everything lies and what is executed."""

    program: list[Instruction]


def plan(model: ModelShape, config: AcceleratorConfig, context: int | None = None, window: tuple[int, int] | None = None,
         budget: Budget | None = None) -> Plan:
    """Program and layout of a model of this shape. Fields of the program that depend on weights (scales, shifts) mean nothing.

    Raises ``CompileError`` as ``compile_model`` does.
    """
    room = _room(model, config, context, window, budget)
    return _plan(model, config, TensorSizes(model, config), _Layout(config.bus_bytes), 0, room, lambda name: None)


def compile_model(checkpoint: Checkpoint, config: AcceleratorConfig, *, fraction_bits: int,
                  context: int | None = None, window: tuple[int, int] | None = None, budget: Budget | None = None,
                  progress: Callable[[str], None] = lambda name: None, stem: Path | None = None) -> Image:
    """Compile ``checkpoint`` for ``config``. Sections go to a file as they are packed; the image is a map of it.

    Parameters
    ----------
    fraction_bits : int
        Of the residual stream, 0 to 24 (``fraction_bits_for`` of a calibration run's peak).
    context : int
        Positions of KV cache; the smaller of the model's and the configuration's maximum by default. With a window or a budget:
        positions of the longest text, the model's maximum by default.
    window : (int, int)
        For ``cache = "window"``, and only for it: sinks, and the latest positions that a token sees (see ``Window``).
    budget : Budget
        For ``cache = "evict"``, and only for it; all defaults without.
    progress : callable
        Called with the name of each section before it is packed.
    stem : Path
        Write ``stem.bin`` and ``stem.json``, whole or not at all; without it the file has no name and ends with the image.

    Raises ``CompileError`` if the model does not fit and ``CheckpointError`` for a bad checkpoint.
    """
    room = _room(checkpoint.model, config, context, window, budget)
    if not 0 <= fraction_bits <= 24:
        raise CompileError(f"fraction_bits must be in 0..24, not {fraction_bits}")
    with TemporaryFile() if stem is None else replacing(image_files(stem)[0]) as file:
        layout = _FileLayout(config.bus_bytes, file)
        planned = _plan(checkpoint.model, config, PackedTensors(checkpoint, config, fraction_bits), layout, fraction_bits, room,
                        progress)
        image = Image(**{each.name: getattr(planned, each.name) for each in fields(MemoryMap)}, data=layout.contents(),
                      sha256=layout.digest.hexdigest(), fraction_bits=fraction_bits, checkpoint_sha256=checkpoint.sha256)
    if stem is not None:
        image.save_manifest(stem)
    return image


@dataclass(frozen=True)
class _Room:
    """Rows per head of the KV cache, positions of the rotary table and of the prompt buffer, and what is seen of them."""

    capacity: int
    positions: int
    window: Window | None = None
    eviction: Eviction | None = None


def _evicting(model: ModelShape, config: AcceleratorConfig, positions: int, budget: Budget) -> _Room:
    """``CompileError`` for a budget that the cache cannot keep."""
    if model.layers * model.kv_heads > config.cache_heads:
        raise CompileError(f"preset {config.name!r} cannot run this model: {model.layers} layers of {model.kv_heads} KV heads exceed "
                           f"cache_heads {config.cache_heads}")
    rows = config.max_budget if budget.rows is None else budget.rows
    if not 1 <= rows <= config.max_budget:
        raise CompileError(f"budget must be in 1..{config.max_budget} rows on preset {config.name!r}, not {rows}")
    sinks = min(rows // 8, 4) if budget.sinks is None else budget.sinks
    recent = rows // 4 if budget.recent is None else budget.recent
    if sinks < 0 or recent < 0 or sinks + recent >= rows:
        raise CompileError(f"sinks and recent positions (0 or more) must together be fewer than the budget, not {sinks} and {recent} "
                           f"of {rows}")
    if not 0 <= budget.threshold <= 1.5:
        raise CompileError(f"threshold must be in 0..1.5, not {budget.threshold}")
    return _Room(rows, positions, eviction=Eviction(sinks, recent, positions, round(budget.threshold * (1 << THRESHOLD_FRACTION))))


def _room(model: ModelShape, config: AcceleratorConfig, context: int | None, window: tuple[int, int] | None, budget: Budget | None
          ) -> _Room:
    """``CompileError`` if the model does not fit, or the cache has not so many positions."""
    check_fit(model, config)
    if window is None and config.cache == "window":
        raise CompileError(f"the KV cache of preset {config.name!r} keeps a window: give one (--window, --sinks)")
    if window is not None and config.cache != "window":
        raise CompileError(f"sinks and window go with a cache of kind 'window'; that of {config.name!r} is {config.cache!r}")
    evict = config.cache == "evict"
    if budget is not None and not evict:
        raise CompileError(f"a budget goes with a cache of kind 'evict'; that of {config.name!r} is {config.cache!r}")
    limit = config.max_positions if evict or window is not None else min(model.max_context, config.max_context)
    longest = min(limit, model.max_context) if context is None else context
    if not 1 <= longest <= limit:
        raise CompileError(f"context must be in 1..{limit}, not {longest}")
    if config.cache == "paged":
        if context is not None:
            raise CompileError(f"context is that of preset {config.name!r}: its KV cache has {config.block_size} positions per block"
                               f"; {context} was asked for")
        return _Room(config.blocks * config.block_size, limit)
    if evict:
        return _evicting(model, config, longest, budget or Budget())
    if window is None:
        return _Room(longest, limit)
    sinks, recent = window
    # A chunk's tokens are all written before the first of them has read what it sees.
    capacity = sinks + recent + config.token_lanes - 1
    if sinks < 0 or recent < 1 or capacity > config.max_context:
        raise CompileError(f"sinks (0 or more) and window (1 or more) must together be at most "
                           f"{config.max_context - config.token_lanes + 1} on preset {config.name!r}, max_context less a chunk's "
                           f"token_lanes - 1, not {sinks} + {recent}")
    return _Room(capacity, longest, Window(sinks, recent, longest))


def _plan(model: ModelShape, config: AcceleratorConfig, tensors: PackedTensors | TensorSizes, layout: _Layout, fraction_bits: int,
          room: _Room, progress: Callable[[str], None]) -> Plan:
    """Fill ``layout`` and describe it."""
    build = _Builder(model, config, tensors, layout, fraction_bits, room, progress)
    program = build.program()
    # The cache lies behind the program and the prompt buffer; the operations count its addresses from 0 until here.
    program_bytes = ceil_div(len(program) * INSTRUCTION_BYTES, config.bus_bytes) * config.bus_bytes
    prompt_address = layout.end + program_bytes
    prompt_words = room.positions
    if config.cache == "paged":  # a batch: at most an entry for each token, one for two of them (a group), and five for each sequence
        prompt_words = max(prompt_words, 2 * config.token_lanes + config.token_lanes // 2 + 5 * config.sequences)
    kv_address = prompt_address + prompt_words * config.bus_bytes
    swap_stride = config.swap_slots * config.block_size * build.record_beats * config.bus_bytes
    memory_bytes = kv_address + model.layers * model.kv_heads * (build.head_stride + swap_stride)
    if memory_bytes >= 1 << 32:
        raise CompileError(f"image and KV cache take {memory_bytes} bytes; addresses have 32 bits")
    program = [replace(op, address=op.address + kv_address) if op.opcode in (Opcode.APPEND, Opcode.ATTEND) else op
               for op in program]
    program_address, _ = layout.add("program", np.frombuffer(encode_program(program), np.uint8), "program")
    return Plan(model=model, config=config, program=program, operations=build.names, sections=layout.sections,
                memory_bytes=memory_bytes, program_address=program_address, prompt_address=prompt_address,
                kv_capacity=room.capacity, kv_record_beats=build.record_beats, kv_head_stride=build.head_stride, window=room.window,
                eviction=room.eviction)


class _Builder:
    """Lays out the sections and writes the program of one model."""

    def __init__(self, model: ModelShape, config: AcceleratorConfig, tensors: PackedTensors | TensorSizes, layout: _Layout,
                 fraction_bits: int, room: _Room, progress: Callable[[str], None]) -> None:
        self.model, self.config, self.tensors, self.room = model, config, tensors, room
        self.padded = in_words(model, config)
        self.layout, self.fraction_bits, self.progress = layout, fraction_bits, progress
        self.memory = VectorMemory(self.model, config)
        self.names: list[str] = []
        self.ops: list[Instruction] = []
        self.kv_beats = ceil_div(self.padded.head_dim * config.stored_kv_bits, config.bus_bits)
        self.record_beats = record_beats(self.padded.head_dim, kv_bits=config.stored_kv_bits, bus_bits=config.bus_bits)
        self.head_stride = room.capacity * self.record_beats * config.bus_bytes

    def emit(self, name: str, opcode: Opcode, **fields) -> None:
        scalars = {key: (value.mantissa, value.exponent) for key, value in fields.items() if isinstance(value, Scalar)}
        self.ops.append(Instruction(opcode, tag=len(self.names), **{**fields, **scalars}))
        self.names.append(name)

    def program(self) -> list[Instruction]:
        model, config, memory = self.model, self.config, self.memory
        self.progress("embedding")
        table, shift = self.tensors.embedding()
        address, beats = self.layout.add("embedding", table, "embedding")
        self.emit("embedding", Opcode.EMBED, address=address, beats=beats // model.vocab_size, rows=model.vocab_size,
                  destination=memory.residual, words=memory.hidden, shift=shift)
        self.rope, beats = self.layout.add("rope", self.tensors.rope(self.room.positions), "rope")
        self.rope_beats = beats // self.room.positions
        for layer in range(model.layers):
            self.progress(f"layer {layer}")
            # With a budget, heads of all layers are numbered instead.
            self.layer(layer, 0 if config.cache == "evict" else layer * model.kv_heads * self.head_stride)
        self.progress("lm head")
        wide = Flag.WIDE if config.head_activation_bits == 16 else Flag(0)
        self.norm("final norm", "final_norm", self.tensors.final_gain(), memory.residual, model.hidden_size,
                  Flag.LAST_CHUNK | Flag.TO_HEAD | Flag.NORMALIZE | wide, Scalar.from_float(2.0 ** -self.fraction_bits),
                  rows=model.vocab_size)
        packed, unit = self.tensors.head()
        address, beats = self.layout.add("lm_head", packed, "head")
        self.emit("lm head", Opcode.HEAD, flags=Flag.LAST_CHUNK, address=address, beats=beats, rows=model.vocab_size,
                  words=memory.hidden, scalar_a=Scalar.from_float(float(unit) * log2(np.e)))
        self.emit("end", Opcode.END)
        return self.ops

    def norm(self, name: str, key: str, gain: tuple[Contents, int] | None, source: int, length: int, flags: Flag,
             scale: Scalar, *, words: int | None = None, **fields: int) -> None:
        """One NORM of ``length`` elements, in ``words`` if not as few as hold them, with its gains; ``gain`` None: no gains and no
        division by the root mean square."""
        address = beats = exponent = 0
        if gain is not None:
            contents, exponent = gain
            address, beats = self.layout.add(key, contents, "gain")
            flags |= Flag.GAIN | Flag.NORMALIZE
        self.emit(name, Opcode.NORM, flags=flags, source=source, words=words or ceil_div(length, self.config.vector_lanes),
                  address=address, beats=beats, shift=exponent, scalar_a=scale, **fields,
                  scalar_b=Scalar.from_float(1 / length), scalar_c=Scalar.from_float(self.model.rms_norm_eps))

    def linear(self, name: str, key: str, layer: int, roles: Sequence[str], destination: int) -> dict[str, float]:
        """One LINEAR of the matrices of ``roles``; the rows of each are padded to whole vector words. Returns their scales."""
        config, shapes = self.config, projection_shapes(self.padded)
        rows = [ceil_div(shapes[role][0], config.vector_lanes) * config.vector_lanes for role in roles]
        contents, scales = self.tensors.matrix(layer, roles, rows)
        address, beats = self.layout.add(key, contents, "ternary")
        self.emit(name, Opcode.LINEAR, address=address, beats=beats, rows=sum(rows) // config.table_rows,
                  tiles=ceil_div(shapes[roles[0]][1], config.tile_activations),
                  block_rows=config.max_block_rows // config.table_rows, destination=destination,
                  other=rows[0] // config.table_rows)
        return scales

    def layer(self, layer: int, cache: int) -> None:
        model, config, memory, tensors = self.model, self.config, self.memory, self.tensors
        name = f"layer {layer} "
        residual_scale = Scalar.from_float(2.0 ** -self.fraction_bits)
        self.norm(name + "attention norm", f"layers.{layer}.attention_norm", tensors.gain(layer, "attention"),
                  memory.residual, model.hidden_size, Flag(0), residual_scale)
        scale = self.linear(name + "q+k+v", f"layers.{layer}.qkv", layer, ("q", "k", "v"), memory.q)
        rotary, window = {"words": memory.head, "address": self.rope, "beats": self.rope_beats}, self.room.window
        attention = {}
        if window is not None:
            # To a query that sees a window, the sinks are right before it: at most ``sinks + recent - 1`` positions away.
            self.emit(name + "rotary embedding for sinks", Opcode.ROPE, source=memory.q, destination=memory.sink_q, count=model.heads,
                      rows=min(window.sinks + window.recent, window.positions), **rotary)
            attention["other"] = memory.sink_q
        if config.attention_runs:
            rotary["destination"] = memory.q
        self.emit(name + "rotary embedding", Opcode.ROPE, source=memory.q, count=model.heads + model.kv_heads, **rotary)
        append, tiles = {}, config.query_lanes // model.group
        if config.cache == "evict":
            attention["other"] = append["other"] = layer * model.kv_heads
            append["beats"], tiles = self.kv_beats, 1
        kept = 2.0 ** -ROPE_KEPT_BITS
        self.emit(name + "cache append", Opcode.APPEND, address=cache, source=memory.k, destination=memory.v,
                  count=model.kv_heads, words=memory.head, **append, scalar_a=Scalar.from_float(scale["k"] * kept),
                  scalar_b=Scalar.from_float(scale["v"]))
        self.emit(name + "attention", Opcode.ATTEND, address=cache, source=memory.q, destination=memory.attention,
                  count=model.kv_heads, group=model.group, words=memory.head, beats=self.kv_beats,
                  tiles=tiles, **attention,
                  scalar_a=Scalar.from_float(scale["q"] * kept * log2(np.e) / sqrt(model.head_dim)))
        self.norm(name + "attention sub-norm", f"layers.{layer}.attention_sub_norm", tensors.gain(layer, "attention_sub"),
                  memory.attention, model.heads * model.head_dim, Flag.ALIGN, Scalar.from_float(1.0), group=memory.head,
                  words=model.heads * memory.head)
        scale |= self.linear(name + "o", f"layers.{layer}.o", layer, ("o",), memory.sums)
        self.emit(name + "attention residual", Opcode.RESIDUAL, source=memory.sums, destination=memory.residual,
                  words=memory.hidden, scalar_a=Scalar.from_float(scale["o"] * 2.0 ** self.fraction_bits))
        self.norm(name + "ffn norm", f"layers.{layer}.ffn_norm", tensors.gain(layer, "ffn"), memory.residual,
                  model.hidden_size, Flag(0), residual_scale)
        scale |= self.linear(name + "gate+up", f"layers.{layer}.gate_up", layer, ("gate", "up"), memory.gate)
        silu = model.activation == "silu"
        product = scale["gate"] * scale["up"] * (1.0 if silu else scale["gate"])
        self.emit(name + "activation", Opcode.GLU, flags=Flag.SILU if silu else Flag(0), source=memory.gate,
                  other=memory.up, destination=memory.gate, words=memory.ffn,
                  scalar_a=Scalar.from_float(scale["gate"]), scalar_b=Scalar.from_float(product))
        self.norm(name + "ffn sub-norm", f"layers.{layer}.ffn_sub_norm", tensors.gain(layer, "ffn_sub"), memory.gate,
                  model.intermediate_size, Flag.PRODUCT, Scalar.from_float(1.0))
        scale |= self.linear(name + "down", f"layers.{layer}.down", layer, ("down",), memory.sums)
        self.emit(name + "ffn residual", Opcode.RESIDUAL, source=memory.sums, destination=memory.residual,
                  words=memory.hidden, scalar_a=Scalar.from_float(scale["down"] * 2.0 ** self.fraction_bits))
