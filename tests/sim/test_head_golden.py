"""Golden model of the LM head: packing, exactness, and its stated error against float64."""

from dataclasses import replace

import numpy as np
import pytest
from llmrtl.accelerators.presets import preset
from llmrtl.sim.golden.head import (
    QuantizedHead,
    head_bytes,
    matvec,
    pack_head,
    pack_rows,
    quantize_head,
    unpack_head,
)

TINY = preset("tiny")
EVERY = [replace(TINY, head_bits=head, head_activation_bits=activation, max_vector=longest)
         for head in (4, 8, 16) for activation in (8, 16) for longest in (528, 1 << 17)]


def weights_of(rng, rows, columns):
    return rng.normal(size=(rows, columns)) * rng.lognormal(0, 1, size=(rows, 1))


@pytest.mark.parametrize("config", EVERY)
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 4), (37, 100), (64, 128)])
def test_pack_and_unpack(config, rows, columns):
    head, _ = quantize_head(weights_of(np.random.default_rng(0), rows, columns), config)
    image = pack_rows(head, config)
    back = unpack_head(image, rows, columns, config)
    assert image.size == head_bytes(rows, columns, config)
    assert (back.weights == head.weights).all() and (back.row_scales == head.row_scales).all()
    assert back.shift == head.shift
    assert head.row_scales.max() == 65535


@pytest.mark.parametrize("config", EVERY)
def test_error_against_float64(config):
    """Relative RMS error of the logits: below 16 % with 4-bit rows, 1 % with 8-bit rows, 1e-4 with 16-bit rows."""
    rng = np.random.default_rng(1)
    weights = weights_of(rng, 500, 300)
    q = rng.integers(-127, 128, 300)
    head, unit = quantize_head(weights, config)
    got, want = matvec(head, q) * unit, weights @ q
    error = np.sqrt(np.mean((got - want) ** 2) / np.mean(want ** 2))
    assert error < {4: 0.16, 8: 1e-2, 16: 1e-4}[config.head_bits]


@pytest.mark.parametrize("config", EVERY)
def test_every_logit_fits_48_bits(config):
    size, low = config.max_vector, 1 << (config.head_bits - 1)
    weights = np.full((1, size), -low, np.int16)
    head = QuantizedHead(weights, np.array([0xFFFF], np.uint16), config.head_shift)
    for q in (-(1 << (config.head_activation_bits - 1)), (1 << (config.head_activation_bits - 1)) - 1):
        value = int(matvec(head, np.full(size, q))[0])
        assert value == (size * -low * q * 0xFFFF) >> config.head_shift
        assert -(1 << 47) <= value < 1 << 47


def test_rows_of_zeros():
    head, unit = quantize_head(np.zeros((3, 8)), TINY)
    assert not head.weights.any() and not head.row_scales.any() and unit > 0
    weights = np.ones((2, 8))
    weights[1] = 0
    assert list(matvec(quantize_head(weights, TINY)[0], np.ones(8))) == [8 * 127 * 65535, 0]


@pytest.mark.parametrize(("weights", "message"), [
    (np.ones(4), r"LM head weights must be \[vocab, hidden\], not of shape \(4,\)"),
    (np.full((2, 2), np.nan), "LM head weights must be finite"),
    (np.ones((1025, 2)), "LM head rows must be at most max_vocab = 1024, not 1025"),
    (np.ones((2, 529)), "LM head columns must be at most max_vector = 528, not 529"),
])
def test_refuses_weights(weights, message):
    with pytest.raises(ValueError, match=message):
        pack_head(weights, TINY)


def test_refuses_activations_and_images():
    head, _ = quantize_head(np.ones((2, 4)), TINY)
    with pytest.raises(ValueError, match=r"must be one vector of 4 elements, not of shape \(3,\)"):
        matvec(head, np.ones(3))
    assert list(matvec(head, np.array([1, 1, 1, 1, 0, 0]))) == [4 * 127 * 65535] * 2
    with pytest.raises(ValueError, match="LM head image must have 12 bytes, not 13"):
        unpack_head(np.zeros(13, np.uint8), 2, 4, TINY)
