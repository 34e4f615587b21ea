"""How well the integer golden model follows transformers on the shipped checkpoint (extra ``[golden]``).

``python -m llmrtl.models.evaluate`` prints the figures and writes ``build/bench/golden.json``.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ..accelerators.config import AcceleratorConfig
from ..accelerators.presets import preset
from ..rtl_gen.calibration import calibrate
from ..rtl_gen.checkpoint import Checkpoint
from ..rtl_gen.comparison import kl_divergence
from ..rtl_gen.compile import compile_model
from ..rtl_gen.yowasp import build_root
from ..sim.golden.machine import Machine
from . import grammar

__all__ = ["evaluate"]

STORIES = Path(__file__).parent / "stories"
HELD_OUT_SEED = 2


def _log_likelihood(logits: np.ndarray, tokens: list[int]) -> float:
    """Sum of log probabilities of ``tokens[1:]`` under ``logits[:-1]``."""
    x = logits[:-1].astype(np.float64)
    x = x - x.max(axis=-1, keepdims=True)
    x = x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
    return float(x[np.arange(len(x)), tokens[1:]].sum())


def evaluate(config: AcceleratorConfig, *, prompts: int = 15, continuation: int = 48, stories: int = 12) -> dict[str, Any]:
    """Agreement, perplexity and KL divergence.

    Parameters
    ----------
    prompts, continuation : int
        Opening sentences of ``prompts.json`` and greedy tokens after each. Agreement is counted with both models fed the
        tokens of transformers, and as whole continuations that each model generates alone.
    stories : int
        Held-out stories for perplexity and KL divergence.
    """
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    network: Any = AutoModelForCausalLM.from_pretrained(STORIES, dtype=torch.float32, attn_implementation="eager")
    torch.nn.Module.float(network)
    network.eval()

    def expected_logits(tokens: list[int]) -> np.ndarray:
        with torch.no_grad():
            return network(torch.tensor([tokens])).logits[0].numpy()

    checkpoint = Checkpoint.open(STORIES)
    tokenizer = Tokenizer.from_file(str(STORIES / "tokenizer.json"))
    image = compile_model(checkpoint, config, fraction_bits=calibrate(checkpoint))
    equal = total = whole = 0
    opening = [tokenizer.encode(text).ids for text in json.loads((STORIES.parent / "prompts.json").read_text())[:prompts]]
    for ids in opening:
        with torch.no_grad():
            generated = network.generate(torch.tensor([ids]), max_new_tokens=continuation, do_sample=False)
        generated = generated[0, len(ids):].tolist()
        chosen = Machine(image).logits(ids + generated[:-1])[len(ids) - 1:].argmax(axis=-1).tolist()
        equal += sum(a == b for a, b in zip(chosen, generated, strict=True))
        total += len(generated)
        alone = [step.token for step in Machine(image).generate(ids, len(generated), eos=checkpoint.model.eos)]
        whole += alone == generated
    likelihood = {"transformers": 0.0, "golden": 0.0}
    divergence, predicted = 0.0, 0
    for text in grammar.held_out(stories, HELD_OUT_SEED):
        tokens = tokenizer.encode(grammar.document(text)).ids
        reference, golden = expected_logits(tokens), Machine(image).logits(tokens)
        likelihood["transformers"] += _log_likelihood(reference, tokens)
        likelihood["golden"] += _log_likelihood(golden, tokens)
        divergence += kl_divergence(reference, golden) * len(tokens)
        predicted += len(tokens) - 1
    perplexity = {name: float(np.exp(-value / predicted)) for name, value in likelihood.items()}
    return {
        "preset": config.name, "prompts": len(opening), "greedy_tokens": total, "greedy_agreement": equal / total,
        "identical_continuations": whole, "held_out_stories": stories, "held_out_tokens": predicted,
        "perplexity_transformers": perplexity["transformers"], "perplexity_golden": perplexity["golden"],
        "perplexity_ratio": perplexity["golden"] / perplexity["transformers"],
        "kl_divergence": divergence / (predicted + stories),
        "command": "python -m llmrtl.models.evaluate",
    }


if __name__ == "__main__":
    figures = evaluate(preset(sys.argv[1] if len(sys.argv) > 1 else "edge"))
    print(json.dumps(figures, indent=1))
    path = build_root() / "bench" / "golden.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=1) + "\n")
