"""Decode attention on the expert unit: error of the golden model against float64, and what may lie behind the last position."""

import random
from dataclasses import replace

import numpy as np
import pytest
from llmrtl.accelerators.experts.config import EXPERT_PRESETS
from llmrtl.sim.golden.expert_attention import attend
from llmrtl.sim.golden.experts import results_of
from llmrtl.sim.random_attention import random_attention
from llmrtl.sim.random_layer import real, stored

ERRORS = {1: {"fp16": 1.2e-3, "bf16": 1e-2, "int8": 5e-2}, 4: {"fp16": 5e-3, "bf16": 4e-2, "int8": 5e-2}}
"""Relative root mean square error against float64 on the same stored numbers, by the deviation of the logits; docs/experts.md."""


def attention(element, positions, spread, group=8, head_dim=64, **options):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    config = replace(EXPERT_PRESETS["duplex"], element=element)
    q, unit = rng.standard_normal((group, head_dim)), 4 / 127 if element == "int8" else 1.0
    return config, random_attention(config, rng, stored(q / unit, element), unit, positions, spread=spread, **options)


@pytest.mark.parametrize("element", ERRORS[1])
@pytest.mark.parametrize("spread", ERRORS)
@pytest.mark.parametrize("positions", [63, 500])
def test_error_against_float64(element, positions, spread):
    config, made = attention(element, positions, spread)
    got = real(attend(config, np.zeros(made.q.shape, np.int64), made.q, made.attention), results_of(config))
    truth = made.truth(config)
    error = np.sqrt(np.mean((got - truth) ** 2) / np.mean(truth ** 2))
    print(f"{element}, {positions} positions: {error:.2e}")
    assert error < ERRORS[spread][element]


def test_what_lies_behind_the_last_position_does_not_matter():
    """Zeros, or numbers in the rest of the word and anything in words behind it."""
    config, made = attention("fp16", 70, 1, capacity=256)
    zero = np.zeros(made.q.shape, np.int64)
    clean = made.attention.v.copy()
    clean[:, 70:] = 0
    expected = attend(config, zero, made.q, replace(made.attention, v=clean))
    special = made.attention.v.copy()
    special[:, 128:] = config.format.infinity
    assert np.array_equal(attend(config, zero, made.q, replace(made.attention, v=special)), expected)


def test_a_special_score_spoils_its_query_head():
    config, made = attention("fp16", 10, 1, group=4)
    q = made.q.copy()
    q[2, 5] = config.format.infinity
    zero = np.zeros(q.shape, np.int64)
    got, expected = attend(config, zero, q, made.attention), attend(config, zero, made.q, made.attention)
    assert (got[2] == config.format.nan).all() and np.array_equal(np.delete(got, 2, axis=0), np.delete(expected, 2, axis=0))
