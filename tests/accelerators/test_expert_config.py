"""Configuration of the expert unit: what it refuses, what follows from it, and its way through JSON."""

import json
from dataclasses import replace

import pytest
from llmrtl.accelerators.experts.config import EXPERT_PRESETS, ExpertConfig, HbmTiming

DUPLEX = EXPERT_PRESETS["duplex"]


@pytest.mark.parametrize("config", EXPERT_PRESETS.values(), ids=EXPERT_PRESETS)
def test_json_round_trip(config):
    assert ExpertConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_published_shape():
    """64 weights and 8 tokens per logic cycle, rows of 8 KB (arXiv:2409.01141, section 5)."""
    assert (DUPLEX.lanes, DUPLEX.token_lanes, DUPLEX.row_words * DUPLEX.word_bytes) == (64, 8, 8192)
    assert DUPLEX.tiles == 16
    assert replace(DUPLEX, element="int8").lanes == 128


@pytest.mark.parametrize("change, message", [
    ({"element": "fp32"}, "element must be one of fp16, bf16, int8, not 'fp32'"),
    ({"word_bytes": 24}, "word_bytes must be a power of two, not 24"),
    ({"experts": 4}, r"experts must be in 8\.\.64, not 4"),
    ({"top_k": 9}, r"top_k must be in 1\.\.8, not 9"),
    ({"max_hidden": 100}, "max_hidden must be a multiple of 64, not 100"),
    ({"name": "a b"}, "name must be made of letters"),
])
def test_refusals(change, message):
    with pytest.raises(ValueError, match=message):
        replace(DUPLEX, **change)


def test_timing_refusals():
    with pytest.raises(ValueError, match=r"timing\.ccd must be a multiple of 2"):
        HbmTiming(ccd=3)
    with pytest.raises(ValueError, match=r"timing\.refi must be above rfc \+ rp, not 600 and 586 \+ 19"):
        HbmTiming(refi=600)
    with pytest.raises(ValueError, match="ExpertConfig has no parameter 'colour'"):
        ExpertConfig.from_json(DUPLEX.to_json() | {"colour": 1})
