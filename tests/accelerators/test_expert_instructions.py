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
ATTENTIVE = replace(DUPLEX, attention=True)
GROUP = Descriptor(Kind.ATTENTION, 128, 1024, Start(1, 2, 768), Start(3, 4), positions=1000, softmax_scale=4278190, query=120, group=8)


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
    assert decode_descriptor(DUPLEX, MIXTRAL.words()) == {
        "kind": 1, "cause": 0, "tag": 0xBEEF, "expert": 7, "begin": 1, "gate_up": {"bundle": 2, "row": 100, "column": 2},
        "down": {"bundle": 1, "row": 0, "column": 0}, "hidden_words": 64, "slice_words": 224}
    assert decode_descriptor(DUPLEX, Descriptor(Kind.LAYER, tag=3).words()) == {"kind": 3, "cause": 0, "tag": 3, "begin": 0}
    assert decode_descriptor(ATTENTIVE, GROUP.words()) == {
        "kind": 2, "cause": 0, "tag": 0, "begin": 0, "gate_up": {"bundle": 1, "row": 2, "column": 3},
        "down": {"bundle": 3, "row": 4, "column": 0}, "hidden_words": 2, "slice_words": 16, "positions": 1000, "softmax_scale": 4278190,
        "query": 120, "group": 8}


def cause(config, descriptor):
    operation = decode_descriptor(config, descriptor.words())
    assert operation["tag"] == descriptor.tag and (operation["cause"] == 0) == ("begin" in operation)
    return ExpertError(operation["cause"])


@pytest.mark.parametrize("change, why", [
    ({"kind": 0}, ExpertError.KIND), ({"kind": Kind.ATTENTION}, ExpertError.KIND), ({"kind": 4}, ExpertError.KIND),
    ({"expert": 64}, ExpertError.EXPERT), ({"hidden": 0}, ExpertError.DIMENSIONS), ({"hidden": 4160}, ExpertError.DIMENSIONS),
    ({"intermediate": 14337}, ExpertError.DIMENSIONS), ({"intermediate": 1 << 31}, ExpertError.DIMENSIONS),
    ({"first": Start(0, 0, 128)}, ExpertError.ADDRESS), ({"second": Start(4, 0)}, ExpertError.SPACE),
    ({"first": Start(0, 16384)}, ExpertError.SPACE), ({"second": Start(0, 0, 8192)}, ExpertError.SPACE),
    ({"kind": 0, "hidden": 0, "first": Start(9, 0, 1)}, ExpertError.KIND),
    ({"kind": Kind.LAYER, "hidden": 0, "expert": 255, "first": Start(9, 0, 1)}, ExpertError.NONE),
])
def test_refused_by_the_unit(change, why):
    assert cause(DUPLEX, replace(MIXTRAL, **change)) is why


@pytest.mark.parametrize("change, why", [
    ({"positions": 0}, ExpertError.DIMENSIONS), ({"positions": 1024}, ExpertError.NONE), ({"positions": 1025}, ExpertError.DIMENSIONS),
    ({"group": 0}, ExpertError.DIMENSIONS), ({"group": 9}, ExpertError.DIMENSIONS), ({"query": 121}, ExpertError.TOKEN),
    ({"query": 121, "group": 7, "expert": 255}, ExpertError.NONE), ({"hidden": 96}, ExpertError.DIMENSIONS),
    ({"second": Start(3, 4, 128)}, ExpertError.ADDRESS), ({"second": Start(2, 16383, 7936)}, ExpertError.SPACE),
    ({"softmax_scale": (1 << 26) - 1}, ExpertError.NONE), ({"softmax_scale": 1 << 26}, ExpertError.SCALE),
])
def test_attention_refused_by_the_unit(change, why):
    assert cause(ATTENTIVE, replace(GROUP, **change)) is why


def test_a_matrix_may_end_with_the_memory():
    """Gate and up: 1835008 words, 28672 rows; two bundles have 32768. Down has half of that."""
    fits = replace(MIXTRAL, first=Start(2, (32768 - 28672) // 2), second=Start(2, (32768 - 14336) // 2))
    assert cause(DUPLEX, fits) is ExpertError.NONE
    for name in ("first", "second"):
        later = replace(fits, **{name: replace(getattr(fits, name), bundle=3)})  # the odd bundle: a stretch later
        assert cause(DUPLEX, later) is ExpertError.SPACE
    single = replace(DUPLEX, ping_pong=False)
    assert cause(single, fits) is ExpertError.SPACE  # one bundle has 16384
    half = replace(fits, intermediate=7168, first=Start(3, 16384 - 14336))
    assert cause(single, half) is ExpertError.NONE
    assert cause(single, replace(half, first=Start(3, 2048, 256))) is ExpertError.SPACE
    # K has 2000 words, 31.25 rows; V transposed 128 * 16 words, 32 rows.
    ends = replace(GROUP, first=Start(2, 16384 - 16, 6144), second=Start(0, 16384 - 16))
    assert cause(ATTENTIVE, ends) is ExpertError.NONE
    assert cause(ATTENTIVE, replace(ends, positions=1001)) is ExpertError.SPACE


def test_damaged_and_scales():
    words = MIXTRAL.words()
    for damaged in (words[:-1], [*words, 0], [words[0], words[1] ^ 1, *words[2:]]):
        assert decode_descriptor(DUPLEX, damaged) == {"tag": 0xBEEF, "cause": ExpertError.CHECK_WORD}
    integers = replace(ATTENTIVE, element="int8")
    scaled = replace(MIXTRAL, scales=((40000, -20), (1, 127), (65535, -128)))
    assert decode_descriptor(integers, scaled.words())["scales"][2] == {"mantissa": 65535, "exponent": -128}
    zero = {"scales": ((1, 0), (0, 0), (1, 0))}
    assert cause(integers, replace(MIXTRAL, **zero)) is ExpertError.SCALE
    assert cause(integers, replace(GROUP, **zero)) is ExpertError.NONE
    assert cause(integers, replace(GROUP, scales=((1, 0), (1, 0), (0, 3)))) is ExpertError.SCALE


@pytest.mark.parametrize("change, message", [
    ({"hidden": 1 << 32}, r"hidden must be in 0\.\.4294967295, not 4294967296"), ({"tag": -1}, r"tag must be in 0\.\.65535, not -1"),
    ({"first": Start(256)}, r"first_bundle must be in 0\.\.255, not 256"),
    ({"scales": ((1, 0), (65536, 0), (1, 0))}, r"mantissas in 0\.\.65535 and exponents in -128\.\.127, not 65536, 0"),
])
def test_what_does_not_fit_the_bytes(change, message):
    with pytest.raises(ValueError, match=message):
        replace(MIXTRAL, **change).words()
