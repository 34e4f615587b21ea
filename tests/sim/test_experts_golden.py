"""Golden model of a mixture-of-experts layer: error against float64, shares of several units, placement."""

import random
from dataclasses import replace

import numpy as np
import pytest
from llmrtl.accelerators.experts.config import EXPERT_PRESETS
from llmrtl.sim.golden.experts import interleaved, memory_image, moe, outputs, packed, place, reduction, results_of, share
from llmrtl.sim.random_layer import PEAK, largest_activation, random_layer, real, stored

CONFIG = replace(EXPERT_PRESETS["duplex"], name="scaled", max_hidden=256, max_intermediate=512, experts=8)
ERRORS = {"fp16": 7e-4, "bf16": 6e-3, "int8": 4e-2}
"""Relative root mean square error of a layer of 256 and 512, top-2 of 8 experts, against float64 on the same stored numbers."""


def layer(element, tokens=24, hidden=256, intermediate=512):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    config = replace(CONFIG, element=element)
    routes = [[(int(e), int(w)) for e, w in zip(rng.choice(8, 2, replace=False), stored(rng.dirichlet((2, 2)), results_of(config)),
                                                strict=True)] for _ in range(tokens)]
    return config, random_layer(config, rng, hidden=hidden, intermediate=intermediate, experts=8, routes=routes)


def saturates(config, made, token):
    """Whether an activation of the token is beyond the one that 127 stands for, which is rare, and clipped."""
    x = real(made.x[[token]], config.element) * made.x_scale
    return any(largest_activation(x, real(np.concatenate([made.experts[e].gate, made.experts[e].up]), config.element)
                                  * made.weight_scales[e][0]) > PEAK for e, _ in made.routes[token])


@pytest.mark.parametrize("element", ERRORS)
def test_error_against_float64(element):
    """Of all tokens of which no int8 activation is clipped."""
    config, made = layer(element)
    truth = made.truth(config)
    inside = [token for token in range(len(made.x)) if element != "int8" or not saturates(config, made, token)]
    assert len(inside) > len(made.x) // 2
    for mask, shares in ((0b11111111, 1), (0b01011010, 4), (0, 1)):
        got = real(moe(config, made.x, made.routes, made.experts, mask, shares), results_of(config))
        error = np.sqrt(np.mean((got - truth)[inside] ** 2) / np.mean(truth[inside] ** 2))
        print(f"{element}, mask {mask:08b}, {shares} shares: {error:.2e}")
        assert error < ERRORS[element]


def test_fp16_rounds_as_numpy_does():
    """One expert, one token: every step in float64 and float16 is the same, but where the activation's table differs."""
    config, made = layer("fp16", tokens=1)
    (number, weight), = made.routes[0][:1]
    expert = made.experts[number]

    def halves(bits):
        return np.asarray(bits).astype(np.uint16).view(np.float16).astype(np.float64)
    got = outputs(config, made.x, [[(number, weight)]], {number: expert})
    x, gate, up, down = (halves(each) for each in (made.x, expert.gate, expert.up, expert.down))
    g, u = (np.float16(x @ each.T).astype(np.float64) for each in (gate, up))
    h = np.float16(g / (1 + np.exp(-g)) * u).astype(np.float64)
    expected = np.float16(halves(weight) * np.float16(h @ down.T).astype(np.float64))
    assert np.allclose(halves(got), expected, rtol=2e-2, atol=2e-4)


def test_shares_of_an_expert_are_slices_of_it():
    config, made = layer("fp16", intermediate=448)
    expert = made.experts[0]
    parts = [share(config, expert, k, 4) for k in range(4)]
    assert all(len(part.gate) == 128 and not part.gate[112:].any() and not part.down[:, 112:].any() for part in parts)
    for name in ("gate", "up"):
        assert np.array_equal(np.concatenate([getattr(part, name)[:112] for part in parts]), getattr(expert, name))
    assert np.array_equal(np.concatenate([part.down[:, :112] for part in parts], axis=1), expert.down)


def test_experts_add_up_in_ascending_order():
    config, made = layer("bf16")
    every = dict(enumerate(made.experts))
    backwards = [list(reversed(each)) for each in made.routes]
    there = outputs(config, made.x, backwards, dict(reversed(every.items())))
    assert np.array_equal(outputs(config, made.x, made.routes, every), there)


def test_reduction_rounds_once():
    # 1 + 2**-11 + 2**-11: in pairs each half would be lost.
    parts = [stored(np.array([[value]]), "fp16") for value in (1.0, 2.0 ** -11, 2.0 ** -11)]
    assert real(reduction(CONFIG, parts), "fp16") == 1 + 2.0 ** -10


@pytest.mark.parametrize("ping_pong", [False, True])
def test_placement_holds_every_word_once(ping_pong):
    config, made = layer("fp16", hidden=128, intermediate=192)
    config = replace(config, ping_pong=ping_pong)
    matrices = [[packed(config, interleaved(expert)), packed(config, expert.down)] for expert in made.experts]
    places = place(config, [[len(each) for each in own] for own in matrices])
    image = memory_image(config, [(at, words) for own, ats in zip(matrices, places, strict=True)
                                  for at, words in zip(ats, own, strict=True)])
    assert [own[0].bundle for own in places] == [0, 0, 1, 1, 2, 2, 3, 3]
    for own, ats in zip(matrices, places, strict=True):
        for at, words in zip(ats, own, strict=True):
            read = []
            for stretch in range(-(-len(words) // config.row_words)):
                bundle, row = at.bundle, at.row + stretch
                if ping_pong:  # as the streamer's docstring says it
                    bundle = at.bundle ^ stretch % 2
                    row = at.row + (stretch + at.bundle % 2) // 2
                read.append(image[bundle, row].reshape(-1, config.word_bytes))
            assert np.array_equal(np.concatenate(read)[:len(words)], words)


def test_placement_refuses_too_small_a_memory():
    with pytest.raises(ValueError, match="more than the 4 rows"):
        place(replace(CONFIG, rows=4, ping_pong=False), [[65 * 4]] * 8)


def test_rows_must_be_whole_words():
    with pytest.raises(ValueError, match="multiple of 64 elements, not 32"):
        packed(CONFIG, np.zeros((4, 32), np.int64))
