"""Descriptors of the expert unit: their bytes, what the host is refused, and what the decoder's model makes of them."""

from dataclasses import replace

import pytest
from llmrtl.accelerators.control.isa import check_word
from llmrtl.accelerators.experts.config import EXPERT_PRESETS
from llmrtl.accelerators.experts.errors import ExpertError
from llmrtl.accelerators.experts.instructions import DESCRIPTOR_WORDS, FIELDS, SCALES, Descriptor, Kind, Start
from llmrtl.sim.golden.instructions import decode_descriptor

DUPLEX = EXPERT_PRESETS["duplex"]
MIXTRAL = Descriptor(Kind.EXPERT, 4096, 14336, Start(2, 100, 512), Start(1, 0), expert=7, begin=True, tag=0xBEEF)


def test_bytes():
    encoded = MIXTRAL.encode()
    assert len(encoded) == 64
    assert encoded[:24].hex(" ", 4) == "0101efbe 07020100 00100000 00380000 64000002 00000000"
    words = [int.from_bytes(encoded[k:k + 4], "little") for k in range(0, 64, 4)]
    assert words[15] == check_word(words[:15])


def test_fields_do_not_overlap():
    bits = [(word, bit) for word, low, width in FIELDS.values() for bit in range(low, low + width)]
    bits += [(word, bit) for word in SCALES for bit in range(24)]
    assert len(set(bits)) == len(bits) and all(word < DESCRIPTOR_WORDS - 1 and bit < 32 for word, bit in bits)


def test_decoded():
    operation, error = decode_descriptor(DUPLEX, MIXTRAL.words())
    assert error is ExpertError.NONE
    assert operation == {"kind": 1, "tag": 0xBEEF, "expert": 7, "first": 1, "gate_up": {"bundle": 2, "row": 100, "column": 2},
                         "down": {"bundle": 1, "row": 0, "column": 0}, "hidden_words": 64, "slice_words": 224}


@pytest.mark.parametrize("change, cause", [
    ({"kind": 0}, ExpertError.KIND), ({"kind": 4}, ExpertError.KIND), ({"expert": 64}, ExpertError.EXPERT),
    ({"hidden": 0}, ExpertError.DIMENSIONS), ({"hidden": 4160}, ExpertError.DIMENSIONS),
    ({"intermediate": 14337}, ExpertError.DIMENSIONS), ({"intermediate": 1 << 31}, ExpertError.DIMENSIONS),
    ({"first": Start(0, 0, 128)}, ExpertError.ADDRESS), ({"second": Start(4, 0)}, ExpertError.SPACE),
    ({"first": Start(0, 16384)}, ExpertError.SPACE), ({"second": Start(0, 0, 8192)}, ExpertError.SPACE),
    ({"kind": 0, "hidden": 0, "first": Start(9, 0, 1)}, ExpertError.KIND),
])
def test_refused_by_the_unit(change, cause):
    assert decode_descriptor(DUPLEX, replace(MIXTRAL, **change).words()) == ({}, cause)


def test_a_matrix_may_end_with_the_memory():
    """Gate and up: 1835008 words, 28672 rows; two bundles have 32768. Down has half of that."""
    fits = replace(MIXTRAL, first=Start(2, (32768 - 28672) // 2), second=Start(2, (32768 - 14336) // 2))
    assert decode_descriptor(DUPLEX, fits.words())[1] is ExpertError.NONE
    for name in ("first", "second"):
        later = replace(fits, **{name: replace(getattr(fits, name), bundle=3)})  # the odd bundle: a stretch later
        assert decode_descriptor(DUPLEX, later.words())[1] is ExpertError.SPACE
    single = replace(DUPLEX, ping_pong=False)
    assert decode_descriptor(single, fits.words())[1] is ExpertError.SPACE  # one bundle has 16384
    only = replace(fits, kind=Kind.MIX, first=Start(3, 16384 - 14336), second=Start(255, 0, 3))
    assert decode_descriptor(single, only.words())[1] is ExpertError.NONE
    assert decode_descriptor(single, replace(only, first=Start(3, 2048, 256)).words())[1] is ExpertError.SPACE


def test_damaged_and_scales():
    words = MIXTRAL.words()
    for damaged in (words[:-1], [*words, 0], [words[0] ^ 1, *words[1:]]):
        assert decode_descriptor(DUPLEX, damaged) == ({}, ExpertError.CHECK_WORD)
    integers = replace(DUPLEX, element="int8")
    scaled = replace(MIXTRAL, scales=((40000, -20), (1, 127), (65535, -128)))
    operation, error = decode_descriptor(integers, scaled.words())
    assert error is ExpertError.NONE and operation["scales"][2] == {"mantissa": 65535, "exponent": -128}
    zero = replace(MIXTRAL, scales=((1, 0), (0, 0), (1, 0)))
    assert decode_descriptor(integers, zero.words())[1] is ExpertError.SCALE
    assert decode_descriptor(integers, replace(zero, kind=Kind.SCORES).words())[1] is ExpertError.NONE


@pytest.mark.parametrize("change, message", [
    ({"hidden": 1 << 32}, r"hidden must be in 0\.\.4294967295, not 4294967296"), ({"tag": -1}, r"tag must be in 0\.\.65535, not -1"),
    ({"first": Start(256)}, r"first_bundle must be in 0\.\.255, not 256"),
    ({"scales": ((1, 0), (65536, 0), (1, 0))}, r"mantissas in 0\.\.65535 and exponents in -128\.\.127, not 65536, 0"),
])
def test_what_does_not_fit_the_bytes(change, message):
    with pytest.raises(ValueError, match=message):
        replace(MIXTRAL, **change).words()
