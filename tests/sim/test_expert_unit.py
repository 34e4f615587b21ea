"""The simulated expert unit: whole layers bit by bit, its cycles against the cycle model, and how busy its lanes are."""

import random
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from llmrtl.accelerators.experts.config import EXPERT_PRESETS
from llmrtl.rtl_gen.moe import UnitTimes, simulated_layer
from llmrtl.rtl_gen.routing import random_routes
from llmrtl.sim.golden.experts import Placement, place, stretches
from llmrtl.sim.random_layer import random_layer
from llmrtl.sim.timing.experts import BundleReads, ExpertShape, layer_cycles
from llmrtl.sim.timing.moe import MODELS, WAYS, throughput

NARROW = replace(EXPERT_PRESETS["narrow_duplex"], experts=8)
REFRESHED = 1 - (586 + 19 + 19 + 6) / 5070
"""Of the time, what refreshes leave to reads: tRFC, and around it tRTP, tRP, tRCD."""


def simulated(config, routes, hidden, intermediate):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    layer = random_layer(config, np.random.default_rng(seed), hidden=hidden, intermediate=intermediate, experts=8, routes=routes)
    run, match = simulated_layer(config, layer, 0b11111111)
    assert match and run.broken == []
    shape = ExpertShape(hidden // config.lanes, intermediate // config.lanes)
    model = layer_cycles(config, layer.counts, shape, len(routes) * shape.hidden_words + 1)
    assert len(model) == len(run.finished)
    return run, model, layer


@pytest.mark.bench
@pytest.mark.parametrize("ping_pong", [False, True], ids=["single", "ping-pong"])
@pytest.mark.parametrize("tokens", [8, 16, 32])
def test_lanes_are_busy_and_time_goes_with_the_tiles(tokens, ping_pong):
    """All tokens to one expert: of the cycles in which a word is there, lanes work in 95 % at least, and the whole takes what memory
    takes for one tile, and what the lanes take for several. Two rows in the buffer outlast a refresh from four tiles on."""
    config = replace(NARROW, ping_pong=ping_pong)
    run, model, _ = simulated(config, [[(3, 0x3C00)]] * tokens, 512, 448)
    counters, tiles = run.counters, tokens // 8
    words = 3 * 64 * 448 * tiles
    assert counters["words"] == words
    assert words / (words + counters["held"] + counters["waiting"]) > 0.95
    assert abs(model[-1] / run.cycles - 1) < 0.02
    needed = max(words, words / tiles * (1 if ping_pong else 168 / 128))
    assert run.cycles < 1.02 * needed / (REFRESHED if tiles < 4 else 1)


@pytest.mark.bench
@pytest.mark.parametrize("tokens", [1, 12])
def test_layer_and_cycle_model(tokens):
    config = replace(NARROW, top_k=2)
    routes = random_routes(config, np.random.default_rng(random.randrange(1 << 32)), tokens)
    run, model, _ = simulated(config, routes, 256, 512)
    for measured, projected in zip(run.finished, model, strict=True):
        assert abs(projected / measured - 1) < 0.02


def test_model_of_one_bundle_is_the_published_row_period():
    """A row takes 168 tCK (shared/reference/duplex: tRCD 19 + 31 x 4 + tRTP 6 + tRP 19)."""
    reads = BundleReads(replace(NARROW, ping_pong=False))
    firsts = [reads.stretch(0, 32, 0)[0] for _ in range(20)]
    assert [later - earlier for earlier, later in pairwise(firsts)] == [168] * 19


def test_model_of_two_bundles_hides_rows_and_keeps_refreshes():
    reads = BundleReads(NARROW)
    last = 0.0
    for k in range(2000):
        _, last = reads.stretch(k % 2, 32, max(0.0, last - 100))
    share = 2000 * 32 * 4 / last
    assert 0.85 < share < REFRESHED + 0.005


def test_stretches_follow_the_streamer():
    config = replace(NARROW, ping_pong=True)
    assert stretches(config, Placement(3, 5, 3 * config.row_words)) == [(3, 5), (2, 6), (3, 6)]
    assert stretches(replace(config, ping_pong=False), Placement(3, 5, 3 * config.row_words)) == [(3, 5), (3, 6), (3, 7)]
    places = place(config, [[100, 100]] * 8)
    taken = [where for own in places for at in own for where in stretches(config, at)]
    assert len(set(taken)) == len(taken)


def test_projections_are_between_the_sides():
    """By the rule it is never slower than either side alone; ping-pong never slower than one bundle."""
    for model in MODELS:
        rates = throughput(model, 32)
        assert rates["Duplex rule"] >= max(rates["xPU only"], rates["Logic-PIM only"]) * 0.999
        assert rates["Duplex rule, ping-pong"] >= rates["Duplex rule"] and list(rates) == list(WAYS)


def test_xpu_is_a_roofline():
    """Bound by memory up to 297 tokens (shared/reference/duplex/README.md)."""
    times = UnitTimes(EXPERT_PRESETS["duplex"], ExpertShape(64, 7))
    assert times.xpu(1) == times.xpu(297) < times.xpu(300)
