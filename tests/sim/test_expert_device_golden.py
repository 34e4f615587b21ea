"""Golden model of the expert device against those of its parts, which know nothing of memory and descriptors."""

import random
from dataclasses import replace

import numpy as np
import pytest
from llmrtl.accelerators.experts.config import EXPERT_PRESETS
from llmrtl.accelerators.experts.errors import ExpertError
from llmrtl.accelerators.experts.instructions import Descriptor, Kind, Start
from llmrtl.sim.golden.expert_attention import attend
from llmrtl.sim.golden.expert_device import ExpertDevice, matrix_at
from llmrtl.sim.golden.experts import Placement, expert_tokens, interleaved, memory_image, outputs, packed, place
from llmrtl.sim.golden.sequencer import Batch
from llmrtl.sim.random_attention import random_attention
from llmrtl.sim.random_layer import random_layer

HIDDEN, INTERMEDIATE, TOKENS, EXPERTS, POSITIONS = 32, 48, 12, (1, 4, 6), 70
ROUTES = [[(expert, 0x3800 + token)] for token, expert in enumerate([4, 1, 6, 4, 4, 1, 6, 6, 4, 4, 1, 6])]


@pytest.fixture(params=["tiny_duplex_attention", "tiny_duplex_attention_bf16", "tiny_duplex_attention_int8"])
def case(request):
    """A device with a layer's experts and an attention in memory, the layer, the attention, and their descriptors."""
    config, seed = EXPERT_PRESETS[request.param], random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    layer = random_layer(config, rng, hidden=HIDDEN, intermediate=INTERMEDIATE, experts=8, routes=ROUTES)
    attention = random_attention(config, rng, layer.x[3:6], layer.x_scale, POSITIONS, capacity=96).attention
    matrices = [(packed(config, interleaved(layer.experts[e])), packed(config, layer.experts[e].down)) for e in EXPERTS]
    matrices.append((packed(config, attention.k), packed(config, attention.v)))
    places = place(config, [[len(words) for words in own] for own in matrices])
    device = ExpertDevice(config, memory_image(config, [
        (at, words) for ats, own in zip(places, matrices, strict=True) for at, words in zip(ats, own, strict=True)]))
    device.x[:TOKENS, :HIDDEN] = layer.x
    starts = [[Start(at.bundle, at.row) for at in own] for own in places]
    experts = [Descriptor(Kind.EXPERT, HIDDEN, INTERMEDIATE, *own, expert=e, tag=e, scales=layer.experts[e].scales)
               for e, own in zip(EXPERTS, starts, strict=False)]
    (first, last) = attention.scales
    group = Descriptor(Kind.ATTENTION, HIDDEN, attention.v.shape[1], *starts[-1], begin=True, tag=99, scales=(first, (0, 0), last),
                       positions=POSITIONS, softmax_scale=attention.softmax_scale, query=3, group=3)
    return device, layer, attention, experts, group


LAYER = Descriptor(Kind.LAYER, begin=True, tag=50)
END = {"tag": 50, "expert": 0, "cause": 0, "end": 1}


def lists(*experts):
    return iter([Batch({expert: expert_tokens(ROUTES, expert) for expert in experts})])


def execute(device, descriptors, batches=iter(())):
    return [answer for each in descriptors for answer in device.execute(each.words(), batches)]


def test_a_layer_is_that_of_its_experts(case):
    device, layer, _, experts, _ = case
    assert execute(device, experts) == [{"tag": e, "expert": 0, "cause": 0, "end": 1} for e in EXPERTS]
    assert execute(device, [LAYER], lists(*EXPERTS)) == [*(END | {"expert": e, "end": 0} for e in EXPERTS), END]
    assert np.array_equal(device.out[:TOKENS, :HIDDEN], outputs(device.config, layer.x, ROUTES, dict(enumerate(layer.experts))))


def test_an_expert_without_description_is_missing_and_only_that(case):
    device, layer, _, experts, _ = case
    execute(device, [experts[0], replace(experts[1], hidden=0), experts[2]])
    answers = execute(device, [LAYER], lists(*EXPERTS))
    assert [answer["cause"] for answer in answers] == [ExpertError.NONE, ExpertError.MISSING, ExpertError.NONE, ExpertError.NONE]
    others = {e: layer.experts[e] for e in (1, 6)}
    assert np.array_equal(device.out[:TOKENS, :HIDDEN], outputs(device.config, layer.x, ROUTES, others))
    assert [answer["cause"] for answer in execute(device, [LAYER], lists(1))] == [ExpertError.MISSING, ExpertError.NONE]  # forgotten
    assert not device.out.any()


def test_a_batch_without_decision_or_lists(case):
    device, _, _, _, group = case
    execute(device, [group])
    assert execute(device, [replace(LAYER, begin=False)], iter([Batch({}, True)])) == [END | {"cause": ExpertError.TABLE}]
    assert device.out.any()
    assert execute(device, [LAYER], iter([Batch({})])) == [END] and not device.out.any()


def test_attentions_and_layers_add_up(case):
    device, layer, attention, experts, group = case
    config, out = device.config, np.zeros((TOKENS, HIDDEN), np.int64)
    execute(device, [group, replace(group, begin=False)])
    for _ in range(2):
        out[3:6] = attend(config, out[3:6], layer.x[3:6], attention)
    assert out.any() and np.array_equal(device.out[:TOKENS, :HIDDEN], out)
    narrow = replace(experts[0], hidden=HIDDEN - config.lanes)
    answers = execute(device, [narrow, replace(LAYER, begin=False)], lists(1))
    assert [answer["cause"] for answer in answers] == [ExpertError.NONE, ExpertError.DIMENSIONS, ExpertError.NONE]
    assert np.array_equal(device.out[:TOKENS, :HIDDEN], out)
    execute(device, [group])
    assert np.array_equal(device.out[3:6, :HIDDEN], attend(config, np.zeros((3, HIDDEN), np.int64), layer.x[3:6], attention))


def test_a_matrix_may_begin_within_a_row():
    config = EXPERT_PRESETS["tiny_duplex_limits"]
    words = np.arange(40 * config.word_bytes, dtype=np.uint8).reshape(40, -1)
    memory = memory_image(config, [(Placement(1, 3, 46), np.pad(words, ((6, 0), (0, 0))))])
    read = matrix_at(config, memory, {"bundle": 1, "row": 3, "column": 3}, 20, 2)
    assert np.array_equal(packed(config, read), words)
