"""The instruction set: round trip, check word, refused fields and programs."""

import random

import pytest
from llmrtl.accelerators.control.isa import (
    FIELDS,
    INSTRUCTION_BYTES,
    SCALARS,
    Flag,
    Instruction,
    Opcode,
    decode_program,
    encode_program,
)


def random_instruction(rng: random.Random, opcode: Opcode) -> Instruction:
    fields = {}
    for name, (_, _, width) in FIELDS.items():
        if name not in ("opcode", "flags"):
            fields[name] = rng.randrange(-(1 << -width - 1), 1 << -width - 1) if width < 0 else rng.randrange(1 << width)
    scalars = {name: (rng.randrange(1 << 24), rng.randrange(-(1 << 15), 1 << 15)) for name in SCALARS}
    if opcode is not Opcode.ATTEND:
        fields["merge"] = fields["partial"] = fields["fallback"] = 0
    fields["fallback"] &= ~(fields["merge"] & fields["partial"])
    fields["end"] = rng.choice((0, rng.randrange(fields["first"], 1 << 16)))
    return Instruction(opcode, Flag(rng.randrange(256)), **fields, **scalars)


def test_round_trip():
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for opcode in Opcode:
        for _ in range(20):
            instruction = random_instruction(rng, opcode)
            assert Instruction.decode(instruction.encode()) == instruction


def test_fields_do_not_overlap():
    used = set()
    for word, low, width in [*FIELDS.values(), *((word, 0, 24) for word in SCALARS.values()),
                             *((word + 1, 0, 16) for word in SCALARS.values())]:
        bits = {(word, bit) for bit in range(low, low + abs(width))}
        assert not used & bits
        assert low + abs(width) <= 32 and word < 15
        used |= bits


def test_field_that_does_not_fit():
    with pytest.raises(ValueError, match=r"LINEAR \(tag 3\): beats must be in 0..16777215, not 16777216"):
        Instruction(Opcode.LINEAR, tag=3, beats=1 << 24)
    with pytest.raises(ValueError, match=r"NORM \(tag 0\): scalar_a does not fit"):
        Instruction(Opcode.NORM, scalar_a=(1 << 24, 0))


def test_parts_that_are_inconsistent():
    for name in ("merge", "partial"):
        with pytest.raises(ValueError, match=r"NORM \(tag 3\): only an ATTEND may merge parts or give partial results"):
            Instruction(Opcode.NORM, tag=3, **{name: 1})
    for opcode, fields in ((Opcode.NORM, {}), (Opcode.ATTEND, {"merge": 1, "partial": 1})):
        with pytest.raises(ValueError, match=rf"{opcode.name} \(tag 3\): only an ATTEND may be a fallback, and not if it merges"):
            Instruction(opcode, tag=3, fallback=1, **fields)
    with pytest.raises(ValueError, match=r"ATTEND \(tag 0\): end must be 0 or at least first, not 1 and 2"):
        Instruction(Opcode.ATTEND, first=2, end=1)
    bad = bytearray(Instruction(Opcode.ATTEND, merge=1).encode())
    for at in (0, 60):  # another opcode, and the check word that goes with it
        bad[at] ^= Opcode.ATTEND ^ Opcode.NORM
    with pytest.raises(ValueError, match="only an ATTEND may merge"):
        list(decode_program(bytes(bad)))


def test_any_flipped_bit_is_illegal():
    good = Instruction(Opcode.HEAD, address=0x1000, beats=7, scalar_a=(1 << 23, -5)).encode()
    for bit in range(8 * INSTRUCTION_BYTES):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match="check word"):
            Instruction.decode(bytes(bad))


def test_zero_memory_is_illegal():
    with pytest.raises(ValueError, match="illegal instruction"):
        list(decode_program(bytes(INSTRUCTION_BYTES)))


def test_program_needs_one_end():
    norm, end = Instruction(Opcode.NORM), Instruction(Opcode.END)
    assert list(decode_program(encode_program([norm, end]))) == [norm, end]
    for program in ([], [norm], [end, norm], [end, end]):
        with pytest.raises(ValueError, match="must end with END"):
            encode_program(program)
    with pytest.raises(ValueError, match="no END"):
        list(decode_program(norm.encode()))
