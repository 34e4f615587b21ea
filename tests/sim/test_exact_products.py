"""The fast forms of the golden models against integers of Python: nothing is rounded anywhere."""

import numpy as np
import pytest
from llmrtl.accelerators.presets import preset
from llmrtl.sim.golden import head, ternary
from llmrtl.sim.golden.elementwise import LEVELS, RECIPROCAL_SHIFT, norm_quantize, norm_quantize_rows
from llmrtl.sim.golden.numerics import Scalar

COLUMNS = 1 << 17  # the largest max_vector


@pytest.mark.parametrize("level", [127, 32767])
def test_longest_matrix_rows(level):
    """Sums at the bound and one off it, for int8 (float32) and int16 (float64) activations."""
    rng = np.random.default_rng(level)
    trits = np.ones((4, COLUMNS), np.int8)
    trits[1] = -1
    trits[2, ::2] = -1
    trits[3] = rng.integers(-1, 2, COLUMNS)
    q = np.full((2, COLUMNS), level)
    q[1] = rng.integers(-level, level + 1, COLUMNS)
    q[0, -1] -= 1
    expected = [[sum(int(value) for value in row * vector) for row in trits.astype(np.int64)] for vector in q]
    assert expected[0][0] == level * COLUMNS - 1
    assert ternary.matvec(trits, q).tolist() == expected
    assert ternary.matvec(trits, q[1]).tolist() == expected[1]


def test_products_beyond_float64_are_refused():
    with pytest.raises(ValueError, match=r"must stay within 2\*\*53"):
        ternary.matvec(np.ones((1, 4), np.int8), np.full(4, 1 << 52))


@pytest.mark.parametrize("bits", [8, 16])
def test_largest_head_sums(bits):
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1
    weights = np.full((300, 6912), low, np.int8 if bits == 8 else np.int16)
    weights[::2, ::2] = high
    q = np.full(6912, low)
    q[1] = high
    matrix = head.QuantizedHead(weights, np.arange(300, dtype=np.uint16), 0)
    sums = [sum(int(w) * int(x) for w, x in zip(row, q, strict=True)) for row in weights[:2]]
    assert head.matvec(matrix, q).tolist() == [row * sums[row % 2] for row in range(300)]


@pytest.mark.parametrize("wide", [False, True])
def test_quantized_rows_follow_the_definition(wide):
    """``docs/architecture.md`` in integers of Python, row by row."""
    rng = np.random.default_rng(7)
    x = rng.integers(-(1 << 31), 1 << 31, (8, 24)) >> np.array([0, 3, 9, 15, 22, 29, 31, 40])[:, None]
    x[0, 0], x[6] = -(1 << 31), 0
    gain = rng.integers(-(1 << 15), 1 << 15, 24)
    scales = [Scalar.of(int(rng.integers(1, 1 << 30)), -20) for _ in x]
    q, steps = norm_quantize_rows(x, gain, scales, norm=False, wide=wide)
    levels, k = LEVELS[wide], RECIPROCAL_SHIFT[wide]
    for row, vector in enumerate(x):
        products = [int(value) * int(g) for value, g in zip(vector, gain, strict=True)]
        largest = max(map(abs, products))
        shift = largest.bit_length() - 24

        def truncated(value, shift=shift):
            return value >> shift if shift >= 0 else value << -shift
        expected = [0] * 24
        if largest:
            reciprocal = (levels << k) // truncated(largest)
            expected = [(1 if p > 0 else -1) * (truncated(abs(p)) * reciprocal + (1 << k - 1) >> k) for p in products]
        assert q[row].tolist() == expected
        alone, step = norm_quantize(vector, gain, scales[row], norm=False, wide=wide)
        assert alone.tolist() == expected and step == steps[row]


def test_decoding_refuses_what_stands_for_nothing():
    config = preset("tiny")
    raw = ternary.pack(np.ones((8, 24), np.int8), config)
    raw[0] |= 0x1F  # sign and entry 15: there are 14 entries
    with pytest.raises(ValueError, match="31 is no index of a group of 3 trits"):
        ternary.unpack(raw, 8, 24, config)
