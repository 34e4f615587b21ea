"""Programs that let attention see the blocks that fit a chunk's queries best (ReKV, arXiv:2503.00540; ``docs/selection.md``)."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..accelerators.checks import check_int
from ..accelerators.config import AcceleratorConfig
from ..accelerators.control.isa import Instruction, Opcode
from ..accelerators.integers import ceil_div
from ..sim.golden.evict_layer import EvictLayer
from ..sim.golden.machine import Machine
from ..sim.golden.numerics import Scalar
from ..sim.golden.select import grid_exponent
from .image import Image, Retrieval
from .split import moved_by, program_of, with_code

__all__ = ["Steps", "check_retrieval", "layer_steps", "with_retrieval"]

SPARE = 1
"""Bits that a scale may be larger than all of the calibration."""

CALIBRATION = 64
"""Tokens of the calibration."""

TERM_BITS = 31
"""Bits of a term of a score, without its sign (``BlockScores``)."""


@dataclass(frozen=True)
class Steps:
    """Exponents of a layer's steps, of the sums of rows and of the scores."""

    means: int
    scores: int


@dataclass
class _Scales:
    """Of one layer: those of the rows, ``[..., 2]``, and the exponents of those of the queries."""

    rows: list[np.ndarray] = field(default_factory=list)
    queries: list[int] = field(default_factory=list)


class _Probe(Machine):
    """Notes the scales that each ATTEND meets."""

    def __init__(self, image: Image) -> None:
        super().__init__(image)
        self.met: dict[int, _Scales] = {}

    def _attend(self, op: Instruction) -> None:
        found = self.met.setdefault(op.address, _Scales())
        _, scales = self._quantized_heads(op.source, op.count * op.group, op.words, Scalar(*op.scalar_a))
        found.queries += [scale.exponent for scale in scales if scale.mantissa]
        cache = self._cache(op)
        assert not isinstance(cache, EvictLayer)
        for head in range(op.count):
            _, keys, _, values = cache.rows(head, self.position + len(self.tokens))
            found.rows += [keys, values]
        super()._attend(op)


def check_retrieval(config: AcceleratorConfig, capacity: int, blocks: int, local: int) -> int:
    """Records of a table of means for a KV cache of ``capacity`` positions. ``ValueError`` as of ``with_retrieval``."""
    if not config.block_retrieval:
        raise ValueError(f"preset {config.name!r} has no block retrieval")
    records = ceil_div(capacity, config.block_size)
    check_int("blocks", blocks, 1, records)
    check_int("local", local, 1, min(capacity, (1 << 16) - 1))
    return records


def layer_steps(image: Image, tokens: Sequence[int] | None = None) -> list[Steps]:
    """The finest steps of each layer that fit the scales of ``tokens`` (random ones of a fixed seed, if not given), with ``SPARE`` bits
    more. No term of a score saturates with them."""
    if tokens is None:
        tokens = random.Random(1).choices(range(image.model.vocab_size), k=min(CALIBRATION, image.positions))
    config, probe = image.config, _Probe(image)
    probe.chunk(tokens)
    steps = []
    for found in probe.met.values():
        rows = np.concatenate([part.reshape(-1, 2) for part in found.rows])
        keys = np.concatenate([part.reshape(-1, 2) for part in found.rows[::2]])
        key = int(keys[keys[:, 0] != 0, 1].max(initial=-(1 << 14)))
        words = next(op.words for op in probe.program if op.opcode is Opcode.ATTEND)
        # dot * factor >> right, of 2 * (kv_bits - 1) + log2(head_dim) and 17 bits; right = exponent - those of both scales - 23
        right = max(0, (words * config.vector_lanes - 1).bit_length() + 2 * (config.kv_bits - 1) + 17 - TERM_BITS)
        steps.append(Steps(grid_exponent(rows, config.kv_bits) + SPARE, max(found.queries) + key + 23 + right + SPARE))
    return steps


def with_retrieval(image: Image, blocks: int, local: int, steps: Sequence[Steps] | None = None) -> Image:
    """``image`` with a program in which attention sees ``blocks`` blocks of the text, chosen for each layer and chunk by their mean
    keys, and the latest positions: ``local`` at least, so many that whole blocks are left. As long as there are no more blocks than
    that, it sees all. A table of means lies behind the rows of each KV head.

    ``steps``: of each layer; those of ``layer_steps`` if not given.

    Raises ``ValueError`` for an accelerator without block retrieval, an image that has it already, and numbers out of their ranges.
    """
    config, model = image.config, image.model
    if image.retrieval is not None:
        raise ValueError("the image has block retrieval already")
    records = check_retrieval(config, image.kv_capacity, blocks, local)
    if steps is None:
        steps = layer_steps(image)
    if len(steps) != model.layers:
        raise ValueError(f"there must be steps of {model.layers} layers, not of {len(steps)}")
    program = program_of(image)
    cache, rows = image.kv_address + moved_by(image, len(program) + 2 * model.layers), image.kv_head_stride
    stride = rows + records * image.kv_record_beats * config.bus_bytes
    code: list[Instruction] = []
    names, layer = list(image.operations), 0
    for op in program:
        address = cache + layer * model.kv_heads * stride
        if op.opcode is Opcode.APPEND:
            op = replace(op, address=address)
        if op.opcode is not Opcode.ATTEND:
            code.append(op)
            continue
        table = address + rows
        code += [
            replace(op, opcode=Opcode.RETRIEVE, tag=len(names), address=table, rows=blocks, other=local, destination=0,
                    scalar_b=(0, steps[layer].scores)),
            replace(op, address=address, other=1),
            Instruction(Opcode.MEANS, tag=len(names) + 1, address=address, source=table & 0xFFFF, destination=table >> 16,
                        count=op.count, words=op.words, beats=op.beats, scalar_a=(0, steps[layer].means)),
        ]
        names += [f"layer {layer} block retrieval", f"layer {layer} block means"]
        layer += 1
    memory = cache + model.layers * model.kv_heads * stride
    if memory >= 1 << 32:
        raise ValueError(f"image, KV cache and tables of means take {memory} bytes; addresses have 32 bits")
    return with_code(image, code, memory_bytes=memory, kv_head_stride=stride, operations=names,
                     retrieval=Retrieval(blocks, local, records))
