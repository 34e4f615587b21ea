"""The float reference against transformers' outputs (reference checkpoints) and against itself."""

import numpy as np
import pytest
from llmrtl.rtl_gen.checkpoint import Checkpoint
from llmrtl.sim.reference import Reference, quantize_activations

from ..checkpoints import SMALL_BITNET, SMALL_LLAMA, reference_checkpoint, write_checkpoint

CHECKPOINTS = ["bitnet-auto-h128", "llama-bit-h96", "bitnet-auto-h256-mha",
               "bitnet-auto-h256-mha/gguf/model-TQ1_0.gguf", "bitnet-auto-h256-mha/gguf/model-TQ2_0.gguf"]
PROMPTS = range(5)


@pytest.fixture(scope="module", params=CHECKPOINTS)
def checkpoint(request):
    return Checkpoint.open(reference_checkpoint(request.param))


@pytest.fixture(scope="module")
def expected(checkpoint):
    directory = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parents[1]
    return np.load(directory / "expected.npz")


@pytest.fixture(scope="module", params=[np.float32, np.float64])
def reference(request, checkpoint):
    return Reference(checkpoint, request.param)


def small(tmp_path, shape, **options):
    write_checkpoint(tmp_path, shape, 8, **options)
    return Reference(Checkpoint.open(tmp_path))


def test_logits(reference, expected):
    for prompt in PROMPTS:
        logits = reference.forward(expected[f"input_ids_{prompt}"])
        assert logits.dtype == reference.dtype
        np.testing.assert_allclose(logits, expected[f"logits_{prompt}"], rtol=0, atol=3e-5)
        if reference.dtype is np.float64:
            exact = expected[f"logits_exactq_{prompt}"]
            np.testing.assert_array_max_ulp(logits.astype(np.float32), exact, maxulp=1)


def test_greedy(reference, expected):
    for prompt in PROMPTS:
        assert reference.greedy(expected[f"input_ids_{prompt}"], 24) == expected[f"greedy_{prompt}"].tolist()


def test_intermediate_values(reference, expected):
    capture = {}
    reference.forward(expected[f"input_ids_{expected['hidden_prompt']}"], capture=capture)
    np.testing.assert_allclose(capture["hidden_states"], expected["hidden_states"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(capture["final_norm"], expected["final_norm"], rtol=0, atol=1e-5)
    activations = [key for key in expected if key.startswith("act_q_")]
    assert len(activations) == 4 * reference.model.layers
    for key in activations:
        assert capture[key].dtype == np.int8
        np.testing.assert_array_equal(capture[key], expected[key])
        scale = key.replace("act_q_", "act_scale_")
        np.testing.assert_allclose(capture[scale], expected[scale], rtol=2e-6)
    assert set(capture) == {key for key in expected if key.startswith(("act_", "hidden_s", "final_norm"))}


def test_activation_quantizer():
    cases = np.load(reference_checkpoint("act_quant_cases.npz"))
    q, scale = quantize_activations(cases["x"])
    assert q.dtype == np.int8 and scale.dtype == np.float32
    np.testing.assert_array_equal(q, cases["q"])
    np.testing.assert_array_equal(scale, cases["scale"])
    np.testing.assert_array_equal(q.astype(np.float32) / scale[:, None], cases["fake"])


def test_activation_quantizer_rules():
    x = np.array([[127, 0.5, 1.5, -2.5, -127], [0, 0, 0, 0, 0], [4e-6, 0, 0, 0, -2e-6]], np.float64)
    q, scale = quantize_activations(x)
    assert scale.dtype == np.float64
    assert q.tolist() == [[127, 0, 2, -2, -127], [0, 0, 0, 0, 0], [51, 0, 0, 0, -25]]
    np.testing.assert_allclose(scale, [1, 1.27e7, 1.27e7], rtol=1e-15)


@pytest.mark.parametrize("shape", [SMALL_BITNET, SMALL_LLAMA], ids=["bitnet", "llama"])
def test_incremental_decode_is_the_full_forward(tmp_path, shape):
    reference = small(tmp_path, shape, dtype="float32")
    ids = np.random.default_rng(9).integers(0, shape.vocab_size, 24)
    full = reference.forward(ids)
    cache, parts = reference.new_cache(), []
    for part in np.split(ids, [1, 2, 9, 10, 20]):
        parts.append(reference.forward(part, cache))
    assert cache.tokens == 24
    np.testing.assert_allclose(np.concatenate(parts), full, rtol=0, atol=1e-4)


def test_stored_format_does_not_matter(tmp_path):
    one, other = (small(tmp_path / name, SMALL_BITNET, dtype=name, sharded=name == "float16")
                  for name in ("bfloat16", "float16"))
    np.testing.assert_array_equal(one.forward([1, 2, 3]), other.forward([1, 2, 3]))


def test_greedy_is_the_largest_logit(tmp_path):
    reference = small(tmp_path, SMALL_LLAMA)
    ids = [4, 5]
    for token in reference.greedy(ids, 6):
        assert token == int(np.argmax(reference.forward(ids)[-1]))
        ids.append(token)
    assert reference.greedy([1], 0) == []


def test_errors(tmp_path):
    reference = small(tmp_path, SMALL_LLAMA)
    with pytest.raises(ValueError, match=r"^ids must be one or more token ids, not array\(\[\]"):
        reference.forward([])
    with pytest.raises(ValueError, match="ids must be one or more token ids"):
        reference.forward([0.5])
    with pytest.raises(ValueError, match=r"^ids must be in 0\.\.49, not 3\.\.50$"):
        reference.forward([3, 50])
    with pytest.raises(ValueError, match=r"^ids must be in 0\.\.49, not -1\.\.3$"):
        reference.forward([3, -1])
    cache = reference.new_cache()
    reference.forward([0] * 60, cache)
    with pytest.raises(ValueError, match=r"^cached tokens and ids must fit max_context = 64, not 60 \+ 5$"):
        reference.forward([0] * 5, cache)
    assert reference.forward([0] * 4, cache).shape == (4, 50)
    with pytest.raises(ValueError, match=r"^dtype must be np.float32 or np.float64, not "):
        Reference(Checkpoint.open(tmp_path), np.float16)
