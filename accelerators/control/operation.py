"""Layout of a decoded operation on its way from the front end to the executor, derived from the instruction set."""

from amaranth.hdl import Cat, Value, signed
from amaranth.lib import data

from ..config import AcceleratorConfig
from ..numerics import SCALAR
from .isa import CHECK_SEED, FIELDS, INSTRUCTION_BYTES, PART_FIELDS, SCALARS, Opcode

__all__ = ["are_parts_legal", "decode_fields", "instruction_layout", "is_intact", "operation_layout"]

WORDS = INSTRUCTION_BYTES // 4


def instruction_layout(config: AcceleratorConfig) -> data.StructLayout:
    """All fields and scalars of an instruction, but for those that the accelerator has no use for."""
    members: dict = {name: signed(-width) if width < 0 else width for name, (_, _, width) in FIELDS.items()
                     if config.attention_modes or name not in PART_FIELDS}
    return data.StructLayout({**members, **dict.fromkeys(SCALARS, SCALAR)})


def operation_layout(config: AcceleratorConfig) -> data.StructLayout:
    """An instruction and the chunk it works on: ``tokens`` (1..token_lanes), position of the first one (of every one, where they are
    of several sequences), which of the ``chunks`` in flight it is, and where it has several, the token that is ``sampled``."""
    position = range(config.max_positions + 1)
    if config.cache == "paged":
        where: dict = {"positions": data.ArrayLayout(position, config.token_lanes), "sampled": range(config.token_lanes)}
    else:
        where = {"position": position}
    return data.StructLayout({
        "instruction": instruction_layout(config),
        "tokens": range(config.token_lanes + 1),
        **where,
        "chunk": range(max(config.chunks, 2)),
    })


def decode_fields(instruction: data.View, descriptor: Value) -> list:
    """Assignments of every field of ``instruction`` from the 512 bits of a descriptor."""
    statements = []
    fields = instruction.shape().members
    for name, (word, low, width) in ((name, place) for name, place in FIELDS.items() if name in fields):
        statements.append(instruction[name].eq(descriptor[32 * word + low:32 * word + low + abs(width)]))
    for name, word in SCALARS.items():
        statements += [instruction[name].mantissa.eq(descriptor[32 * word:32 * word + 24]),
                       instruction[name].exponent.eq(descriptor[32 * (word + 1):32 * (word + 1) + 16])]
    return statements


def are_parts_legal(descriptor: Value) -> Value:
    """High if the descriptor says nothing about parts and fallbacks that it must not (``Instruction``)."""
    def of(name: str) -> Value:
        word, low, width = FIELDS[name]
        return descriptor[32 * word + low:32 * word + low + width]
    merge, partial, fallback, end = of("merge"), of("partial"), of("fallback"), of("end")
    return (((of("opcode") == Opcode.ATTEND) | ~(merge | partial | fallback)) & ~(merge & partial & fallback)
            & ((end == 0) | (end >= of("first"))))


def is_intact(descriptor: Value) -> Value:
    """High if the check word is right."""
    lanes = [Cat(descriptor[32 * word + bit] for word in range(WORDS)).xor() for bit in range(32)]
    return Cat(lanes) == CHECK_SEED
