"""The whole-model golden machine against other people's logits and greedy tokens."""

from dataclasses import replace

import numpy as np
import pytest
from llmrtl.accelerators.presets import preset
from llmrtl.rtl_gen.checkpoint import Checkpoint
from llmrtl.rtl_gen.comparison import compare_prompts, kl_divergence
from llmrtl.rtl_gen.compile import compile_model
from llmrtl.rtl_gen.formats import high_precision
from llmrtl.sim.golden.machine import Machine

from ..checkpoints import SMALL_BITNET, SMALL_LLAMA, reference_checkpoint, write_checkpoint

MODELS = ("bitnet-auto-h128", "llama-bit-h96", "bitnet-auto-h256-mha")


@pytest.mark.parametrize("name", MODELS)
def test_high_precision_agrees_with_transformers(name):
    """At least 95 % of the greedy tokens, as the formats are then too fine to matter but for int8 ties."""
    folder = reference_checkpoint(name)
    figures = compare_prompts(Checkpoint.open(folder), folder / "expected.npz", high_precision(preset("tiny")))
    assert figures["total"]["float_max_error"] < 2e-4
    assert figures["total"]["float_agreement"] == 1
    assert figures["total"]["golden_agreement"] >= 0.95
    assert figures["total"]["golden_kl"] < 3e-3


@pytest.mark.parametrize("name", MODELS)
def test_default_formats(name):
    folder = reference_checkpoint(name)
    figures = compare_prompts(Checkpoint.open(folder), folder / "expected.npz", preset("edge"))
    print(name, figures["total"])
    assert figures["total"]["golden_agreement"] >= 0.93
    assert figures["total"]["golden_kl"] < 2e-2
    assert not any(row["saturations"] for row in figures["prompts"])


def assert_chunks_do_not_matter(image, prompt):
    """The last logits of ``prompt`` are those of the whole prompt at once, however it is cut."""
    expected = Machine(image).chunk(prompt)[-1]
    for size in (1, 2, 5):
        machine = Machine(image)
        for start in range(0, len(prompt), size):
            values = machine.chunk(prompt[start:start + size])[-1]
        assert np.array_equal(values, expected)


@pytest.mark.parametrize("shape, linear_class", [(SMALL_BITNET, "autobitlinear"), (SMALL_LLAMA, "bitlinear")])
def test_chunks_do_not_matter(tmp_path, shape, linear_class):
    write_checkpoint(tmp_path / "model", shape, seed=3, linear_class=linear_class)
    image = compile_model(Checkpoint.open(tmp_path / "model"), preset("tiny"), fraction_bits=20)
    prompt = np.random.default_rng(11).integers(0, shape.vocab_size, 13).tolist()
    assert_chunks_do_not_matter(image, prompt)


@pytest.mark.parametrize("shape", [SMALL_BITNET, replace(SMALL_BITNET, hidden_size=48, head_dim=12),
                                   replace(SMALL_LLAMA, head_dim=20)], ids=["8", "12", "20"])
def test_presets_differ_in_layout_only(tmp_path, shape):
    """The same formats on another bus give the same integers, also where one of them pads the heads and the other does not."""
    write_checkpoint(tmp_path / "model", shape, seed=3)
    checkpoint = Checkpoint.open(tmp_path / "model")
    tiny = preset("tiny")
    results = []
    for config in (tiny, replace(tiny, bus_bits=64, tables=16, vector_lanes=4, table_rows=2),
                   replace(tiny, bus_bits=128, tables=16, vector_lanes=8, table_rows=2)):
        machine = Machine(compile_model(checkpoint, config, fraction_bits=20))
        results.append(machine.chunk([1, 2, 3])[-1])
    assert all(np.array_equal(each, results[0]) for each in results)


def test_bad_input(tmp_path):
    write_checkpoint(tmp_path / "model", SMALL_BITNET, seed=3)
    image = compile_model(Checkpoint.open(tmp_path / "model"), preset("tiny"), fraction_bits=20, context=4)
    machine = Machine(image)
    with pytest.raises(ValueError, match="token id 50 is outside the vocabulary of 50"):
        machine.chunk([50])
    with pytest.raises(ValueError, match="at least one token"):
        machine.chunk([])
    with pytest.raises(OverflowError, match="the KV cache holds 4 positions; 5 needed"):
        machine.chunk([1, 2, 3, 4, 5])
    assert len(list(machine.generate([1, 2], 3))) == 3
    with pytest.raises(OverflowError):
        machine.chunk([1])


def test_kl_divergence():
    logits = np.array([[0.0, 1.0], [2.0, 0.0]])
    assert kl_divergence(logits, logits + 5) == pytest.approx(0)
    p, q = 1 / (1 + np.exp(-1)), 0.5
    assert kl_divergence(logits[:1], np.zeros((1, 2))) == pytest.approx(p * np.log(p / q) + (1 - p) * np.log((1 - p) / q))
