"""The shipped checkpoint in transformers and in the integer golden model (extra ``[golden]``)."""

import pytest
from llmrtl.accelerators.presets import preset


@pytest.mark.golden
def test_golden_model_follows_transformers():
    pytest.importorskip("torch", reason="needs the extra [golden]")
    pytest.importorskip("transformers", reason="needs the extra [golden]")
    from llmrtl.models.evaluate import evaluate
    figures = evaluate(preset("edge"), stories=4)
    print(figures)
    assert figures["prompts"] >= 10
    assert figures["greedy_agreement"] >= 0.99
    assert abs(figures["perplexity_ratio"] - 1) < 0.01
    assert figures["kl_divergence"] < 5e-3
