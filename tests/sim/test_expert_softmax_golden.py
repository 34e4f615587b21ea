"""Softmax of decode attention on the expert unit: against float64, by its weights and by the attention they make."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from llmrtl.accelerators.experts.config import EXPERT_PRESETS, FORMATS
from llmrtl.sim.golden.expert_softmax import SCALE_BITS, softmax

LIMIT = {"fp16": 0.52, "bf16": 0.51}
"""Units in the last place of p and of a weight; stated in docs/experts-routing.md."""


def encoded(values, name):
    if name == "fp16":
        return np.asarray(values).astype(np.float16).view(np.uint16).astype(np.int64)
    return (np.asarray(values).astype(np.float32).view(np.uint32) >> 16).astype(np.int64)


def floats(bits, name):
    bits = np.asarray(bits)
    if name == "int8":
        return ((bits ^ 128) - 128).astype(float) / 127
    if name == "fp16":
        return bits.astype(np.uint16).view(np.float16).astype(float)
    return (bits.astype(np.uint32) << 16).view(np.float32).astype(float)


def ulps(got, real, form):
    exponent = np.maximum(np.floor(np.log2(real)), 1 - form.bias)
    return np.max(np.abs(got - real) * 2.0 ** (form.fraction_bits - exponent))


@pytest.mark.parametrize("element", ["fp16", "bf16", "int8"])
@pytest.mark.parametrize("positions", [1, 64, 16384])
def test_against_float64(element, positions):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    config = replace(EXPERT_PRESETS["duplex"], element=element)
    name = "fp16" if element == "int8" else element
    scale = round(1.4426950408889634 / 128 ** 0.5 * 2 ** SCALE_BITS)
    for spread in (1, 30):
        scores = encoded(rng.normal(0, spread, (positions, 8)), name)
        p, weight = softmax(config, scores, scale)
        real = floats(scores, name) / 128 ** 0.5
        exact = np.exp(real - real.max(axis=0))
        if element == "int8":
            assert np.max(np.abs(floats(p, "int8") - exact)) < 0.501 / 127
        else:
            assert ulps(floats(p, element), exact, config.format) < LIMIT[name]
        assert ulps(floats(weight, name), 1 / exact.sum(axis=0), FORMATS[name]) < LIMIT[name]
        # The attention that comes of it, relative to the size of values.
        values = rng.normal(0, 1, (positions, 16))
        got = (floats(p, element).T @ values) * floats(weight, name)[:, None]
        want = (exact / exact.sum(axis=0)).T @ values
        assert np.sqrt(np.mean((got - want) ** 2)) < {"fp16": 5e-4, "bf16": 4e-3, "int8": 2e-2}[element]


def test_the_page_states_these_errors():
    page = (Path(__file__).parents[2] / "docs" / "experts-routing.md").read_text()
    assert f"of decode attention | {LIMIT['fp16']} ulp | {LIMIT['bf16']} ulp |" in page


def test_special_scores_spoil_only_their_lane():
    config = EXPERT_PRESETS["tiny_duplex"]
    scores = encoded(np.zeros((4, 3)), "fp16")
    scores[2, 1] = 0xFE00
    p, weight = softmax(config, scores, 1 << SCALE_BITS)
    assert p[:, 0].tolist() == [0x3C00] * 4 and weight.tolist() == [0x3400, 0x7E00, 0x3400] and (p[:, 1] == 0x7E00).all()
    p, _ = softmax(EXPERT_PRESETS["tiny_duplex_int8"], scores, 1 << SCALE_BITS)
    assert p[0].tolist() == [127, 0, 127]
