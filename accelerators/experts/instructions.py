"""Instructions of the expert unit, defined once: hardware, golden model and host all read this file.

The host sends descriptors of 64 bytes: what Duplex's host sends are weight and input start addresses and GEMM dimensions
(arXiv:2409.01141, section 5); inputs are in the buffer of the unit, and which tokens an expert gets the dispatch decides. Sixteen
little-endian 32-bit words; the last one is a check word (the XOR of the others and ``CHECK_SEED``). A matrix lies row after row without
gaps from its start address on. Plain Python.
"""

from dataclasses import dataclass
from enum import IntEnum

from ..control.isa import check_word

__all__ = ["DESCRIPTOR_WORDS", "FIELDS", "KIND_BITS", "SCALES", "Descriptor", "Kind", "Start"]

DESCRIPTOR_WORDS = 16
KIND_BITS = 2


class Kind(IntEnum):
    """What a descriptor asks for; all dimensions are elements, and whole words."""

    EXPERT = 1
    """Describes an expert of the next LAYER: ``first`` is gate and up, row by row in turn, [2 * intermediate, hidden]; ``second`` down,
    [hidden, intermediate]."""
    ATTENTION = 2
    """Decode attention of a K/V head: ``first`` is K [positions, hidden], ``second`` V transposed [hidden, intermediate], of which the
    first ``positions`` of each row count. The query heads are ``group`` tokens of the input buffer, from ``query`` on."""
    LAYER = 3
    """The experts of a batch: the lists that the dispatch gives Logic-PIM, each with its expert as described. Has no matrices."""


FIELDS: dict[str, tuple[int, int, int]] = {
    "kind": (0, 0, 8),
    "begin": (0, 8, 1),
    "tag": (0, 16, 16),
    "expert": (1, 0, 8),
    "first_bundle": (1, 8, 8),
    "second_bundle": (1, 16, 8),
    "hidden": (2, 0, 32),
    "intermediate": (3, 0, 32),
    "first_row": (4, 0, 16),
    "first_offset": (4, 16, 16),
    "second_row": (5, 0, 16),
    "second_offset": (5, 16, 16),
    "positions": (9, 0, 32),
    "softmax_scale": (10, 0, 32),
    "query": (11, 0, 16),
    "group": (11, 16, 16),
}
"""Field -> (word, lowest bit, width)."""

SCALES = (6, 7, 8)
"""Words of the scales of int8: of what ``first`` gives, of the activation's result (EXPERT), of what ``second`` gives. 16 bits of
mantissa, then 8 of the signed exponent."""


@dataclass(frozen=True)
class Start:
    """Where a matrix begins: a bundle, a row of it, and the byte ``offset`` in it, a multiple of what a read command gives."""

    bundle: int = 0
    row: int = 0
    offset: int = 0


@dataclass(frozen=True)
class Descriptor:
    """What the host sends.

    ``begin``, of LAYER and ATTENTION: all outputs are 0 before it; else results are added to what is there. ``tag`` comes back with
    the answer. ``softmax_scale``: log2(e) / sqrt(hidden) in 25 fraction bits. ``scales``: ``(mantissa, exponent)``, int8 only.
    """

    kind: int
    hidden: int = 0
    intermediate: int = 0
    first: Start = Start()
    second: Start = Start()
    expert: int = 0
    begin: bool = False
    tag: int = 0
    scales: tuple[tuple[int, int], tuple[int, int], tuple[int, int]] = ((1, 0), (1, 0), (1, 0))
    positions: int = 0
    softmax_scale: int = 0
    query: int = 0
    group: int = 0

    def values(self) -> dict[str, int]:
        """By field."""
        starts = {f"{name}_{part}": getattr(getattr(self, name), part) for name in ("first", "second")
                  for part in ("bundle", "row", "offset")}
        return {name: starts[name] if name in starts else int(getattr(self, name)) for name in FIELDS}

    def words(self) -> list[int]:
        """The sixteen words; ``ValueError`` names a field that does not fit. Whether they make sense the unit tells."""
        words = [0] * (DESCRIPTOR_WORDS - 1)
        for name, value in self.values().items():
            word, low, width = FIELDS[name]
            if not 0 <= value < 1 << width:
                raise ValueError(f"{name} must be in 0..{(1 << width) - 1}, not {value}")
            words[word] |= value << low
        for word, (mantissa, exponent) in zip(SCALES, self.scales, strict=True):
            if not (0 <= mantissa < 1 << 16 and -128 <= exponent < 128):
                raise ValueError(f"scales must have mantissas in 0..65535 and exponents in -128..127, not {mantissa}, {exponent}")
            words[word] = mantissa | (exponent & 255) << 16
        return [*words, check_word(words)]

    def encode(self) -> bytes:
        """The 64 bytes."""
        return b"".join(word.to_bytes(4, "little") for word in self.words())
