"""Programs that split an attention into passes over ranges of positions (``docs/attention.md``, "Partial results")."""

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256

import numpy as np

from ..accelerators.control.isa import INSTRUCTION_BYTES, RANGE_UNIT, Instruction, Opcode, decode_program, encode_program
from ..accelerators.integers import ceil_div
from .image import Image

__all__ = ["moved_by", "part_bytes", "program_of", "split_attention", "with_code", "with_program"]


def part_bytes(image: Image) -> int:
    """Bytes of the parts of one ATTEND of a full chunk."""
    config, model = image.config, image.model
    words = next(op.words for op in program_of(image) if op.opcode is Opcode.ATTEND)
    return config.token_lanes * model.heads * config.part_beats(words) * config.bus_bytes


def program_of(image: Image) -> list[Instruction]:
    """The instructions of the program, ``END`` included."""
    return list(decode_program(image.data[image.program_address:].tobytes()))


def moved_by(image: Image, operations: int) -> int:
    """Bytes by which what lies behind the program moves with one of so many operations, ``END`` included."""
    bus = image.config.bus_bytes
    return ceil_div(operations * INSTRUCTION_BYTES, bus) * bus - (image.prompt_address - image.program_address)


def with_code(image: Image, code: Sequence[Instruction], **changes) -> Image:
    """``image`` with another program, of any length, as it stands; ``changes``: of its other fields, ``memory_bytes`` among them.

    Raises ``ValueError`` unless the program is the last section.
    """
    section = image.sections[-1]
    if section.kind != "program" or section.address != image.program_address:
        raise ValueError(f"the program must be the last section of the image, not {section.name!r}")
    data = np.concatenate([image.data[:image.program_address], np.frombuffer(encode_program(code), np.uint8)])
    return replace(image, data=data, sha256=sha256(data.tobytes()).hexdigest(),
                   prompt_address=image.prompt_address + moved_by(image, len(code)),
                   sections=[*image.sections[:-1], replace(section, bytes=len(code) * INSTRUCTION_BYTES)], **changes)


def with_program(image: Image, program: Sequence[Instruction], more_bytes: int = 0) -> Image:
    """``image`` with another program, of any length, and ``more_bytes`` behind its KV cache. Addresses of the KV cache in ``program``
    are those of ``image``, addresses of parts count from the end of its memory: all of it moves with the end of the program."""
    moved, bus = moved_by(image, len(program)), image.config.bus_bytes
    end, code = image.memory_bytes + moved, []
    for op in program:
        if op.opcode in (Opcode.APPEND, Opcode.ATTEND):
            op = replace(op, address=op.address + moved, parts=op.parts + end if op.merge or op.partial else 0)
        code.append(op)
    return with_code(image, code, memory_bytes=end + ceil_div(more_bytes, bus) * bus)


def split_attention(image: Image, ranges: Sequence[tuple[int, int | None]]) -> Image:
    """``image`` with a program that does every attention in passes, one for each range of positions (from the first up to the one
    before the second, or to the end of the text), in this order: what one pass has found waits in memory for the next.

    Raises ``ValueError`` for an accelerator whose programs cannot, for an ATTEND that is split already or is a fallback, and unless the
    ranges have every position once and their bounds are multiples of ``RANGE_UNIT``.
    """
    if not image.config.attention_modes:
        raise ValueError(f"programs of {image.config.name!r} cannot split attention: it needs attention_modes")
    rest = 0
    for first, end in sorted(ranges, key=lambda each: each[0]):
        if first != rest or first % RANGE_UNIT or (end is not None and (end % RANGE_UNIT or end <= first)):
            raise ValueError(f"ranges must follow each other from 0 to the end of the text, at multiples of {RANGE_UNIT}, not "
                             f"{list(ranges)}")
        rest = -1 if end is None else end
    if rest != -1:
        raise ValueError(f"ranges must reach to the end of the text (None), not to {rest}")
    program, layer, size = [], 0, part_bytes(image)
    for op in program_of(image):
        if op.opcode is not Opcode.ATTEND:
            program.append(op)
            continue
        if op.splits:
            raise ValueError(f"ATTEND (tag {op.tag}) is split already, or is a fallback")
        for number, (first, end) in enumerate(ranges):
            program.append(replace(op, first=first // RANGE_UNIT, end=(end or 0) // RANGE_UNIT, merge=int(number > 0),
                                   partial=int(number < len(ranges) - 1), parts=layer * size))
        layer += 1
    return with_program(image, program, layer * size)
