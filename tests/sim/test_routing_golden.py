"""Queues of the experts and the selector: models against plain counting."""

import random
from collections import defaultdict
from dataclasses import replace

from llmrtl.accelerators.experts.config import EXPERT_PRESETS
from llmrtl.accelerators.experts.errors import ExpertError
from llmrtl.sim.golden.queues import ExpertQueues
from llmrtl.sim.golden.router import route
from llmrtl.sim.golden.selector import select

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
