"""The instruction set, defined once: hardware, golden model, compiler and C header all read this file.

A program is a list of 64-byte descriptors in memory, one per operation, executed from the first to ``END`` for every
*chunk* of 1 to ``token_lanes`` tokens; prefill and decode are the same program. Sixteen little-endian 32-bit words;
the last is a check word (the XOR of the others and ``CHECK_SEED``), so that a wild program address or a damaged
image is refused as an illegal instruction instead of being executed.

Vector-memory addresses (``source``, ``destination``, ``other``) and lengths (``words``) count words of
``vector_lanes`` elements; ``address`` is a byte address in memory and a multiple of the bus width; ``beats`` counts
bus words. Scalars are pseudo-floats (``sim/golden/numerics.py``). Plain Python: no Amaranth, no NumPy.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag

from ..config import AcceleratorConfig

__all__ = ["CHECK_SEED", "FIELDS", "INSTRUCTION_BYTES", "PART_FIELDS", "RANGE_UNIT", "SCALARS", "Flag", "Instruction", "Opcode",
           "decode_program", "encode_program", "opcodes"]

INSTRUCTION_BYTES = 64
CHECK_SEED = 0x4C4D5254


class Opcode(IntEnum):
    """What an operation does; the fields it uses are listed behind each name."""

    END = 1
    """End of the program: the chunk is done."""
    EMBED = 2
    """Embedding rows of the chunk's tokens -> vector memory. address, beats (per row), destination, words, shift, rows
    (vocabulary)."""
    NORM = 3
    """Norm + quantization -> activations of the ternary engine (or of the LM head). source, words, address and beats of the
    gains, shift (exponent of the gains), scalar_a (scale of the source), scalar_b (1 / length), scalar_c (epsilon);
    with ALIGN: group = words per head; with TO_HEAD: rows (vocabulary)."""
    LINEAR = 4
    """Ternary matrix times activations -> vector memory. address, beats, tiles, block_rows, rows, destination,
    other (row groups before the magnitudes of a second vector are collected)."""
    ROPE = 5
    """Rotary embedding in place. source, count (heads), words (per head), address and beats (of one position's table row).
    Where attention takes runs, into destination. With a window, and rows not 0, tokens from position rows - 1 on use that row of the
    table."""
    APPEND = 6
    """Quantize K and V, append to the cache. address (layer's cache), source (K), destination (V), count (KV heads), words (per
    head), scalar_a, scalar_b (weight scales of K and V). With parts: first, end (only those positions are kept). With a budget
    of rows: address (whole cache), other (number of the layer's first KV head among those of all layers), beats (of K per row); until
    the ATTEND behind it nothing else may read memory."""
    ATTEND = 7
    """Attention of the chunk's queries. address (layer's cache), source (queries), destination (outputs), count (KV heads),
    group (query heads per KV head), words (per head), beats (of K per row), tiles (tokens per query tile), scalar_a (weight
    scale of the queries times log2(e) / sqrt(head_dim)); with a window: other (queries for the sinks). With attention modes: rows not
    0 (a unified maximum), shift (which one: a base-2 logit), first, end (positions that are seen), merge, partial, parts, fallback (see
    ``PART_FIELDS``). With a budget of rows: address and other as of APPEND, tiles 1. With block retrieval, and other not 0: only the
    blocks that the RETRIEVE before it has listed, and the positions behind those that it has scored; no LINEAR lies between."""
    RESIDUAL = 8
    """residual += sums. source (sums), destination (residual), words, scalar_a (weight scale times 2**fraction_bits)."""
    GLU = 9
    """Gated activation. source (gate), other (up), destination, words, scalar_a (weight scale of the gate), scalar_b (product
    of weight scales in the result)."""
    HEAD = 10
    """LM head and sampling. address, beats, rows (vocabulary), words, scalar_a (real value of one logit unit times log2(e))."""
    DEVIATE = 11
    """With selective recompute, instead of HEAD and with LAST_CHUNK: of the latest ``rows`` tokens those whose values in a layer differ
    most from reused ones; their list leaves on the token output. address (layer's cache), source and destination (lower and upper half
    of the byte address of the reused rows, a multiple of the bus width; the first row is that of the first of these tokens), count (KV
    heads), words (per head), beats (of V per row), rows (1 to all tokens so far), tiles (share of the tokens, in 1 / 256, at most 256),
    scalar_a (its exponent is that of a step)."""
    MEANS = 12
    """With block retrieval: the mean key and the mean value of each block that the chunk has completed, a record per KV head, into the
    layer's table, which is addressed like a cache, by number of the block. address (layer's cache), source and destination (lower
    and upper half of the table's byte address), count (KV heads), words (per head), beats (of K per row), scalar_a (its exponent is
    that of a step)."""
    RETRIEVE = 13
    """With block retrieval: list of the blocks whose mean keys fit the chunk's queries best. Those before the latest ``other``
    positions (1 at least) of the chunk's first token are scored, unless they are at most ``rows`` (1 at least): then all are listed.
    address (layer's table), source (queries), count (KV heads), group (query heads per KV head), words (per head), beats (of K per
    row), tiles (tokens per query tile), rows (blocks to list), other, scalar_a (weight scale of the queries), scalar_b (its exponent
    is that of a step)."""


class Flag(IntFlag):
    """Modifiers of an operation."""

    LAST_CHUNK = 1
    """Executed only in the last chunk of the prompt and in decode."""
    NORMALIZE = 2
    """NORM: divide by the root mean square."""
    WIDE = 4
    """NORM: quantize to 16 bits instead of 8."""
    GAIN = 8
    """NORM: multiply by gains read from memory."""
    ALIGN = 16
    """NORM: the source holds attention outputs, one exponent per head."""
    PRODUCT = 32
    """NORM: the source holds products of GLU, with their scale."""
    TO_HEAD = 64
    """NORM: last token of the chunk only, into the LM head."""
    SILU = 128
    """GLU: silu instead of squared ReLU."""


NO_FLAGS = Flag(0)


def opcodes(config: AcceleratorConfig) -> tuple[Opcode, ...]:
    """The operations that an accelerator has."""
    absent = {*(() if config.selective_recompute else (Opcode.DEVIATE,)),
              *(() if config.block_retrieval else (Opcode.MEANS, Opcode.RETRIEVE))}
    return tuple(opcode for opcode in Opcode if opcode not in absent)


FIELDS: dict[str, tuple[int, int, int]] = {
    "opcode": (0, 0, 8),
    "flags": (0, 8, 8),
    "tag": (0, 16, 16),
    "address": (1, 0, 32),
    "beats": (2, 0, 24),
    "count": (2, 24, 8),
    "source": (3, 0, 16),
    "destination": (3, 16, 16),
    "words": (4, 0, 16),
    "group": (4, 16, 16),
    "tiles": (5, 0, 16),
    "block_rows": (5, 16, 16),
    "rows": (6, 0, 24),
    "shift": (6, 24, -8),
    "other": (7, 0, 16),
    "merge": (7, 16, 1),
    "partial": (7, 17, 1),
    "fallback": (7, 18, 1),
    "first": (9, 16, 16),
    "end": (11, 16, 16),
    "parts": (14, 0, 32),
}
"""Field -> (word, lowest bit, width); a negative width marks a signed field."""

PART_FIELDS = ("merge", "partial", "fallback", "first", "end", "parts")
"""Of these, those of an accelerator with ``AcceleratorConfig.attention_modes``. An ATTEND sees, and an APPEND keeps, the positions from
``RANGE_UNIT * first`` on, up to the one before ``RANGE_UNIT * end`` (0: all). With ``merge`` each lane of an ATTEND is merged with a
part of it in memory, with ``partial`` it leaves as a part, for memory, instead of being divided and written to ``destination``. Parts
lie from the byte address ``parts`` on, in the order of the lanes: head after head, token after token, the heads of a group; those that
leave lie where those were that they are merged with.

An ATTEND with ``fallback`` stands right behind another ATTEND. It is done only if a lane of that one, when it was done, came to a row
above its unified maximum; so it says in another way what that one said. It cannot both merge and be partial: the parts that it should
be merged with are no longer there."""

RANGE_UNIT = 16
"""Positions that ``first`` and ``end`` count."""

SCALARS = {"scalar_a": 8, "scalar_b": 10, "scalar_c": 12}
"""Pseudo-float -> word of its 24-bit mantissa; the signed 16-bit exponent is in the next word."""


@dataclass(frozen=True)
class Instruction:
    """One descriptor. Scalars are ``(mantissa, exponent)`` pairs. ``ValueError`` names a field that does not fit."""

    opcode: Opcode
    flags: Flag = NO_FLAGS
    tag: int = 0
    address: int = 0
    beats: int = 0
    count: int = 0
    source: int = 0
    destination: int = 0
    words: int = 0
    group: int = 0
    tiles: int = 0
    block_rows: int = 0
    rows: int = 0
    shift: int = 0
    other: int = 0
    merge: int = 0
    partial: int = 0
    fallback: int = 0
    first: int = 0
    end: int = 0
    parts: int = 0
    scalar_a: tuple[int, int] = field(default=(0, 0))
    scalar_b: tuple[int, int] = field(default=(0, 0))
    scalar_c: tuple[int, int] = field(default=(0, 0))

    def __post_init__(self) -> None:
        for name, (_, _, width) in FIELDS.items():
            value = getattr(self, name)
            low, high = (-(1 << -width - 1), (1 << -width - 1) - 1) if width < 0 else (0, (1 << width) - 1)
            if not low <= value <= high:
                raise ValueError(f"{self.opcode.name} (tag {self.tag}): {name} must be in {low}..{high}, not {value}")
        for name in SCALARS:
            mantissa, exponent = getattr(self, name)
            if not (0 <= mantissa < 1 << 24 and -(1 << 15) <= exponent < 1 << 15):
                raise ValueError(f"{self.opcode.name} (tag {self.tag}): {name} does not fit: {mantissa}, {exponent}")
        if (self.merge or self.partial) and self.opcode is not Opcode.ATTEND:
            raise ValueError(f"{self.opcode.name} (tag {self.tag}): only an ATTEND may merge parts or give partial results")
        if self.fallback and (self.opcode is not Opcode.ATTEND or (self.merge and self.partial)):
            raise ValueError(f"{self.opcode.name} (tag {self.tag}): only an ATTEND may be a fallback, and not if it merges parts and "
                             "gives some: those are no longer there")
        if self.end and self.end < self.first:
            raise ValueError(f"{self.opcode.name} (tag {self.tag}): end must be 0 or at least first, not {self.end} and {self.first}")

    @property
    def splits(self) -> bool:
        """Whether it says something that only an accelerator with ``attention_modes`` does."""
        return any(getattr(self, name) for name in PART_FIELDS)

    def sees(self, position: int) -> bool:
        """Whether a position is in the range of ``first`` and ``end``."""
        return position >= RANGE_UNIT * self.first and (not self.end or position < RANGE_UNIT * self.end)

    def encode(self) -> bytes:
        """The 64 bytes in memory."""
        words = [0] * 15
        for name, (word, low, width) in FIELDS.items():
            words[word] |= (int(getattr(self, name)) & ((1 << abs(width)) - 1)) << low
        for name, word in SCALARS.items():
            mantissa, exponent = getattr(self, name)
            words[word] |= mantissa
            words[word + 1] |= exponent & 0xFFFF
        words.append(check_word(words))
        return b"".join(word.to_bytes(4, "little") for word in words)

    @classmethod
    def decode(cls, descriptor: bytes) -> "Instruction":
        """Inverse of ``encode``; ``ValueError`` for a wrong length, check word or opcode."""
        if len(descriptor) != INSTRUCTION_BYTES:
            raise ValueError(f"an instruction has {INSTRUCTION_BYTES} bytes, not {len(descriptor)}")
        words = [int.from_bytes(descriptor[i:i + 4], "little") for i in range(0, INSTRUCTION_BYTES, 4)]
        if words[15] != check_word(words[:15]):
            raise ValueError(f"illegal instruction: check word {words[15]:#010x} should be {check_word(words[:15]):#010x}")
        values: dict = {}
        for name, (word, low, width) in FIELDS.items():
            value = words[word] >> low & ((1 << abs(width)) - 1)
            values[name] = value - (1 << -width) if width < 0 and value >> (-width - 1) else value
        if values["opcode"] not in Opcode.__members__.values():
            raise ValueError(f"illegal instruction: no operation has code {values['opcode']}")
        for name, word in SCALARS.items():
            exponent = words[word + 1] & 0xFFFF
            values[name] = (words[word] & 0xFFFFFF, exponent - (1 << 16) if exponent >> 15 else exponent)
        return cls(**{**values, "opcode": Opcode(values["opcode"]), "flags": Flag(values["flags"])})


def check_word(words: Iterable[int]) -> int:
    """XOR of the first fifteen words and ``CHECK_SEED``."""
    result = CHECK_SEED
    for word in words:
        result ^= word
    return result


def encode_program(program: Iterable[Instruction]) -> bytes:
    """The program's bytes; ``ValueError`` unless it ends with the only ``END``."""
    program = list(program)
    if not program or [i for i, op in enumerate(program) if op.opcode is Opcode.END] != [len(program) - 1]:
        raise ValueError("a program must end with END and have no other END")
    return b"".join(instruction.encode() for instruction in program)


def decode_program(memory: bytes) -> Iterator[Instruction]:
    """Instructions from the start of ``memory`` to ``END``; ``ValueError`` for an illegal one."""
    for start in range(0, len(memory), INSTRUCTION_BYTES):
        instruction = Instruction.decode(bytes(memory[start:start + INSTRUCTION_BYTES]))
        yield instruction
        if instruction.opcode is Opcode.END:
            return
    raise ValueError("the program has no END")
