"""The co-processing scheduler's decisions against the reference cases: the published rule and the exact optimum."""

import json
import random
from itertools import product
from pathlib import Path

import pytest
from llmrtl.sim.golden.coprocess import decide

_FILE = Path(__file__).resolve().parents[3] / "shared" / "reference" / "duplex" / "coprocess.json"


@pytest.fixture(scope="module")
def reference():
    if not _FILE.is_file():
        pytest.skip(f"no reference data at {_FILE}")
    return json.loads(_FILE.read_text())


@pytest.mark.parametrize("table", ["peak", "simulated_bw", "stress_weak_xpu"])
def test_never_worse_than_the_rule_and_within_one_percent_of_the_optimum(reference, table):
    xpu, pim = (reference["tables"][table][name] for name in ("T_xPU", "T_PIM"))
    worst = rule = 1.0
    for case in reference["cases"]:
        decision, result = decide(case["tokens"], xpu, pim), case["results"][table]
        on = [decision.mask >> e & 1 for e in range(len(case["tokens"]))]
        assert decision.pim == sum(pim[count] for count, bit in zip(case["tokens"], on, strict=True) if bit)
        assert decision.xpu == sum(xpu[count] for count, bit in zip(case["tokens"], on, strict=True) if not bit)
        assert decision.makespan <= result["rule"]["makespan"]
        worst = max(worst, decision.makespan / result["optimal"]["makespan"])
        rule = max(rule, result["rule_over_optimal"])
    print(f"{table}: {worst:.6f} of the optimum at most, the rule {rule:.4f}")
    assert worst <= 1.01
    assert (rule > 1.1) == (table == "stress_weak_xpu")


def test_spaces_are_the_best_of_sixteen(reference):
    xpu, pim = (reference["tables"]["stress_weak_xpu"][name] for name in ("T_xPU", "T_PIM"))
    for case in reference["cases"]:
        counts, size = case["tokens"], len(case["tokens"]) // 4
        decision = decide(counts, xpu, pim, spaces=True)
        best = min(max(sum(xpu[n] for e, n in enumerate(counts) if not on[e // size]),
                       sum(pim[n] for e, n in enumerate(counts) if on[e // size])) for on in product((0, 1), repeat=4))
        assert decision.makespan == best
        assert all(len({decision.mask >> e & 1 for e in range(k * size, (k + 1) * size)}) == 1 for k in range(4))


def test_eight_experts_are_decided_exactly():
    """All of them are in the window."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(20):
        xpu, pim = ([0, *sorted(rng.sample(range(1, 1000), 20))] for _ in range(2))
        counts = [rng.randrange(21) for _ in range(8)]
        best = min(max(sum(xpu[n] for n, b in zip(counts, on, strict=True) if not b),
                       sum(pim[n] for n, b in zip(counts, on, strict=True) if b)) for on in product((0, 1), repeat=8))
        assert decide(counts, xpu, pim).makespan == best


def test_a_count_beyond_the_tables_decides_nothing():
    assert decide([1] * 7 + [3], [0, 1, 2], [0, 1, 2]).error
