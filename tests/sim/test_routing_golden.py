"""Queues of the experts, the selector and the dispatch: models against plain counting and the golden layer."""

import random
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
from llmrtl.accelerators.experts.config import EXPERT_PRESETS
from llmrtl.accelerators.experts.dispatch import ExpertDispatch
from llmrtl.accelerators.experts.errors import ExpertError
from llmrtl.sim.bench.expert_dispatch import FIRST_LIST
from llmrtl.sim.golden.dispatch import dispatch
from llmrtl.sim.golden.experts import expert_tokens, moe, outputs, reduction
from llmrtl.sim.golden.queues import ExpertQueues
from llmrtl.sim.golden.router import route
from llmrtl.sim.golden.selector import select
from llmrtl.sim.random_layer import random_layer, stored
from llmrtl.sim.timing.promises import promised

DUPLEX = EXPERT_PRESETS["duplex"]


def test_a_batch_from_logits_to_queues():
    """All tokens of the largest batch find a place, also if all go to the same experts."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for skew in (False, True):
        queues, expected = ExpertQueues(DUPLEX), defaultdict(list)
        for token in range(DUPLEX.max_tokens):
            logits = [rng.randrange(0x3000, 0x4000) for _ in range(DUPLEX.experts)]
            if skew:
                logits[3], logits[60] = 0x4800, 0x4900  # all tokens to the same two experts
            selected, error = route(DUPLEX, logits)
            assert error is ExpertError.NONE and len({expert for expert, _ in selected}) == DUPLEX.top_k
            for expert, weight in selected:
                assert queues.add(token, expert, weight) == ExpertError.NONE
                expected[expert].append((token, weight))
        assert queues.queues == [expected[expert] for expert in range(DUPLEX.experts)]
        assert sum(queues.counts) == 2 * DUPLEX.max_tokens and (max(queues.counts) == DUPLEX.max_tokens) == skew


def test_refused_tokens_leave_the_queues_as_they_were():
    config = replace(DUPLEX, experts=40, max_tokens=8)
    queues = ExpertQueues(config)
    for token in range(8):
        assert queues.add(token, 39, 1) == queues.add(token, 0, 2) == 0
    before = [list(queue) for queue in queues.queues]
    assert queues.add(0, 39, 1) == queues.add(0, 5, 1) == ExpertError.QUEUE_FULL  # one queue, all together
    assert queues.add(0, 40, 1) == ExpertError.EXPERT and queues.add(8, 0, 1) == ExpertError.TOKEN
    assert queues.add(0, 0, 1, ExpertError.LOGIT) == ExpertError.LOGIT
    assert queues.queues == before and queues.read(40)[0]["cause"] == ExpertError.EXPERT
    assert queues.read(5) == [{"token": 0, "weight": 0, "tokens": 0, "cause": 0, "last": 1}]


def test_selector_by_operations_per_byte():
    """fp16: 64 experts with 4 tokens each have 4 Op/B, a group of 8 query heads 8; int8 has twice as many."""
    assert select([4] * 64, 4 * 16, "fp16") and not select([4] * 64, 4 * 16 - 1, "fp16")
    assert not select([4] * 64, 8 * 16 - 1, "int8") and select([4] * 64, 8 * 16, "int8")
    assert select([8] * 3, 8 * 16, "bf16") and not select([512], 8 * 16, "fp16")
    assert select([0, 0, 8, 0], 8 * 16, "fp16") and not select([0, 0, 9, 0], 8 * 16, "fp16")


def test_lists_of_both_sides_make_the_layer():
    """Both sides together have every token's experts, as ``ExpertCore`` takes them; what they compute adds up to the golden layer."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng, config = np.random.default_rng(seed), EXPERT_PRESETS["tiny_duplex"]
    logits = stored(rng.standard_normal((12, config.experts)), "fp16").tolist()
    logits[4][7], logits[9] = config.format.nan, logits[9][:1]
    routes = [route(config, each)[0] for each in logits]
    layer = random_layer(config, rng, hidden=16, intermediate=16, experts=config.experts, routes=routes)
    times = [20 * n for n in range(13)]  # of both sides: with two experts or more, both have some
    made = dispatch(config, logits, times, times)
    assert [(error["token"], error["cause"]) for error in made.errors] == [(4, ExpertError.LOGIT), (9, ExpertError.LOGIT_COUNT)]
    used = [expert for expert, count in enumerate(layer.counts) if count]
    assert made.pim and made.xpu and sorted([*made.pim, *made.xpu]) == used
    assert {**made.pim, **made.xpu} == {expert: expert_tokens(routes, expert) for expert in used}
    assert list(made.pim) == sorted(made.pim) and list(made.xpu) == sorted(made.xpu)
    parts = [outputs(config, layer.x, routes, {expert: layer.experts[expert] for expert in side}) for side in (made.xpu, made.pim)]
    assert np.array_equal(reduction(config, parts), moe(config, layer.x, routes, layer.experts, made.decision.mask))


def test_no_lists_without_a_decision():
    logits = [[0x3C00] * DUPLEX.experts] * 3
    made = dispatch(DUPLEX, logits, [0, 5, 5], [0, 9, 9])  # experts 0 and 1 have three tokens, the tables end at two
    assert made.decision.error and not made.decision.makespan and not made.pim and not made.xpu and not made.errors


def test_cycles_of_the_dispatch():
    """What the unit promises, which its bench compares with what it measures: 64 experts are decided in time, and the page says so."""
    page = (Path(__file__).parents[2] / "docs" / "experts-routing.md").read_text()
    for name in ("tiny_duplex", "duplex"):
        unit = promised(ExpertDispatch(EXPERT_PRESETS[name]))
        assert unit.decision <= 256
        assert f"| `{name}` ({unit.config.experts} experts) | {unit.latency} | {unit.decision} | {FIRST_LIST} |" in page
