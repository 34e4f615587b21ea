"""Router of the experts: against float64 softmax over the selected, with the stated errors; ties and refusals."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from llmrtl.accelerators.experts.config import EXPERT_PRESETS, FORMATS
from llmrtl.accelerators.experts.errors import ERROR_BITS, ERROR_TEXT, ExpertError
from llmrtl.sim.golden.router import route

LIMIT = {"fp16": 0.53, "bf16": 0.51}
"""Units in the last place of a weight, stated in accelerators/experts/router.py and docs/experts-routing.md."""


def seeded():
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    return np.random.default_rng(seed)


def encoded(values, name):
    if name == "fp16":
        return np.asarray(values).astype(np.float16).view(np.uint16).astype(np.int64)
    return (np.asarray(values).astype(np.float32).view(np.uint32) >> 16).astype(np.int64)


def floats(bits, name):
    bits = np.asarray(bits)
    if name == "fp16":
        return bits.astype(np.uint16).view(np.float16).astype(float)
    return (bits.astype(np.uint32) << 16).view(np.float32).astype(float)


@pytest.mark.parametrize("top_k", [1, 2, 8])
@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_weights_are_a_softmax(name, top_k):
    rng, form = seeded(), FORMATS[name]
    config = replace(EXPERT_PRESETS["duplex"], element=name, top_k=top_k)
    worst = 0.0
    for spread in (0.01, 1, 5, 30):
        for _ in range(150):
            logits = encoded(rng.normal(0, spread, 64), name)
            real = floats(logits, name)
            selected, error = route(config, logits.tolist())
            experts, weights = [expert for expert, _ in selected], floats([weight for _, weight in selected], name)
            assert error is ExpertError.NONE
            assert experts == np.lexsort((np.arange(64), -real))[:top_k].tolist()
            exact = np.exp(real[experts] - real[experts[0]])
            exact /= exact.sum()
            near = exact > np.exp(-60)
            exponent = np.maximum(np.floor(np.log2(exact)), 1 - form.bias)
            worst = max(worst, np.max((np.abs(weights - exact) * 2.0 ** (form.fraction_bits - exponent))[near]))
            assert abs(weights.sum() - 1) <= LIMIT[name] * 2.0 ** -form.fraction_bits
    print(f"largest error {worst:.4f} units in the last place")
    assert worst < LIMIT[name]


def test_the_page_states_these_errors():
    page = (Path(__file__).parents[2] / "docs" / "experts-routing.md").read_text()
    assert f"`exp(-60)` | {LIMIT['fp16']} ulp | {LIMIT['bf16']} ulp |" in page
    assert f"less 1 | {LIMIT['fp16']} * 2^-10 | {LIMIT['bf16']} * 2^-7 |" in page


def test_ties():
    config = replace(EXPERT_PRESETS["tiny_duplex"], top_k=3)
    half = 0x3800
    assert route(config, [0, half, 0x8000, half, 0, 0, 0, 0])[0] == [(1, encoded(0.5 / (1 + np.exp(-0.5) / 2), "fp16")),
                                                                      (3, encoded(0.5 / (1 + np.exp(-0.5) / 2), "fp16")),
                                                                      (0, encoded(1 / (1 + 2 * np.exp(0.5)), "fp16"))]
    assert [expert for expert, _ in route(config, [0x8000, 0, 0x8000, 0, 1, 0, 0, 0])[0]] == [4, 0, 1]
    assert route(replace(config, top_k=1), [0x8400] * 8) == ([(0, 0x3C00)], ExpertError.NONE)


def test_refusals():
    config = EXPERT_PRESETS["tiny_duplex"]
    for bad in (0x7C00, 0xFC00, 0x7E01):
        assert route(config, [0] * 7 + [bad]) == ([], ExpertError.LOGIT)
    assert route(config, [0]) == route(config, [0] * 9) == ([], ExpertError.LOGIT_COUNT)
    assert route(EXPERT_PRESETS["tiny_duplex_bf16"], [0x4780, 0]) == ([], ExpertError.LOGIT)  # 2**16


def test_every_error_has_a_text():
    assert set(ERROR_TEXT) == set(ExpertError) - {ExpertError.NONE} and max(ExpertError) < 1 << ERROR_BITS
