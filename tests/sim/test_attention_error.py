"""Errors of streaming attention against an exact softmax: what is demanded, and the tables of ``docs/attention.md``."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from llmrtl.accelerators.presets import PRESETS, preset
from llmrtl.accelerators.rules import UNIFIED_BITS
from llmrtl.sim.attention_error import (
    DEMAND,
    MODES,
    Case,
    case_table,
    cases,
    context_table,
    figures,
    preset_table,
    relative_rmse,
)
from llmrtl.sim.golden.attention import weight_drops, weight_range, weights

EDGE = preset("edge")
MODAL = replace(preset("tiny_modes"), max_context=8192)
DOCS = (Path(__file__).parents[2] / "docs" / "attention.md").read_text()

HARDEST = Case(8192, 1.0, 10.0, 0.05)
"""Long, next to sinks that take nearly all probability and give nothing: the rest shows its grain."""

ALL = (*MODES, "passed")

SEED = 1
"""The hardest one of the first eight for a unified maximum."""


@pytest.mark.parametrize("case", [*cases((64, 1024)), HARDEST], ids=str)
def test_all_modes_meet_the_demand(case):
    """At 26 probability bits, with a unified maximum as far above as the window reaches. What a seed may miss by chance, twice an error
    that is as small itself, is demanded of known ones."""
    drawn = random.SystemRandom().randrange(1 << 32)
    print(f"seed {drawn}")
    for seed in (SEED, drawn):
        for mode, found in zip(ALL, figures([(MODAL, mode) for mode in ALL], case, seed=seed), strict=True):
            assert found._replace(naive=found.naive if seed == SEED else 0.0).within(DEMAND), (mode, seed, found)


@pytest.mark.bench
@pytest.mark.parametrize("seed", range(24))
@pytest.mark.parametrize("case", [case for case in cases((8192,)) if case.sink_value != 1.0], ids=str)
def test_all_modes_meet_the_demand_with_many_seeds(case, seed):
    for mode, found in zip(ALL, figures([(MODAL, mode) for mode in ALL], case, seed=seed), strict=True):
        assert found.within(DEMAND), (mode, found)


@pytest.mark.parametrize("name", [name for name, config in PRESETS.items() if not config.attention_modes])
def test_presets_meet_the_demand(name):
    """Next to sinks, from few keys to their own ``max_context``."""
    config = PRESETS[name]
    for case in cases((5, 64, config.max_context)):
        if case.sink:
            found, = figures([(config, "running")], case, seed=SEED)
            assert found.within(DEMAND), (case, found)


def documented() -> dict[tuple[str, ...], list[float]]:
    """Bounds of the table by case, by its first columns."""
    title, _ = case_table(())
    lines = DOCS[DOCS.index(title):].split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {tuple(line[:4]): [float(cell) for cell in line[4:]] for line in cells}


@pytest.mark.parametrize("seed", [3])
def test_bounds_by_case(seed):
    bounds = documented()
    assert len(bounds) == len(list(cases()))
    formats = [(replace(EDGE, probability_bits=bits, max_context=8192), "running") for bits in (16, 20)] + [
        (MODAL, mode) for mode in MODES]
    for case in cases((64, 1024)):
        sinks = (f"+{case.sink:.0f}", str(case.sink_value)) if case.sink else ("none", "")
        found = figures(formats, case, seed=seed)
        for figure, bound in zip((figure for each in found for figure in each[:2]), bounds[str(case.rows), str(case.std), *sinks],
                                 strict=True):
            assert figure <= bound, (case, found)


@pytest.mark.bench
@pytest.mark.parametrize("table", [case_table, context_table, preset_table])
def test_tables_are_in_the_page(table):
    assert "\n".join(table()) in DOCS


@pytest.mark.parametrize("bits", [UNIFIED_BITS, 24, 26])
def test_unified_is_as_exact_as_its_bits(bits):
    """As far above as the window reaches, a unified maximum has the error of a running one with ``UNIFIED_BITS``."""
    for case in cases((1024,)):
        error, bound = (relative_rmse(replace(MODAL, probability_bits=each), case, mode)
                        for each, mode in ((bits, "unified"), (UNIFIED_BITS, "running")))
        assert error <= 1.5 * bound + 2e-4


def test_error_of_16_bit_rows():
    assert relative_rmse(replace(EDGE, probability_bits=20, max_context=8192, kv_bits=16), Case(1024, 2.0)) <= 2e-4


@pytest.mark.parametrize("bits", range(12, 27))
def test_weights_have_17_bits(bits):
    """Of every size, and next to the limits of the ranges: what is left has 17 bits, and is off by 2**-12 of it at most."""
    config = replace(EDGE, probability_bits=bits)
    p = np.unique([min(max(base + offset, 0), 1 << bits) for k in range(bits + 1) for base in (1 << k, (1 << k) * 13 // 10)
                   for offset in range(-300, 301, 3)])
    w = weights(p, 0x8000, -1, config)  # times 1.0
    drops = weight_drops(config)[weight_range(p, config)]
    assert (w >> drops << drops == w).all() and (w >> drops).max() < 1 << 17
    assert (np.abs(w - p) <= p / 2 ** 12).all() and (w[p < 1 << 17] == p[p < 1 << 17]).all()
