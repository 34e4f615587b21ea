"""Trains the shipped model from nothing but a seed and writes it to models/stories/.

    python -m llmrtl.models.train                     the shipped model
    python -m llmrtl.models.train --steps 20 --output build/train/smoke
    python -m llmrtl.models.train --export-only build/train/state.pt

Corpus, tokenizer and network all come from `--seed`; it needs a CPU, the extra `[train]` and a C++ compiler
(unless `--eager`). Progress goes to standard output, the state of training to `--state`. How long the shipped
run took, on how many threads, its held-out loss and its perplexity are in models/stories/training.json, which
this script writes. Repeating the run on the same kind of machine with the same number of threads gives the
same checkpoint; elsewhere the order of float additions may differ.

Recipe (after BitNet b1.58): AdamW, warm-up, a high learning rate that falls linearly in two stages, weight
decay only in the first stage. Rows start with the begin-of-text token; the first `1 / PACKED_EVERY` of the
stories are packed several to a row up to the context length, so that all positions are trained.
"""

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tokenizers
import torch
from tokenizers import Tokenizer
from torch.nn import functional

from . import grammar
from .export import export
from .network import Network, Shape
from .tokenizer import BEGIN_ID, CONTEXT, END_ID, save_tokenizer, train_tokenizer

STORIES = Path(__file__).parent / "stories"
TOKENIZER_STORIES = 20_000
HELD_OUT_STORIES = 1000
HELD_OUT_SEED = 1
BATCH_TOKENS = 4096
PACKED_EVERY = 8
BATCHES_PER_SORT = 64
PEAK_RATE = 3e-3
WEIGHT_DECAY = 0.1
WARM_UP = 0.03


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Trains the shipped ternary story model.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1800)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=STORIES)
    parser.add_argument("--state", type=Path, default=Path("build/train/state.pt"))
    parser.add_argument("--save-every", type=int, default=250, help="steps between saved states")
    parser.add_argument("--eager", action="store_true", help="do not compile (slower, needs no C++ compiler)")
    parser.add_argument("--export-only", type=Path, metavar="STATE", help="export a saved state; no training")
    arguments = parser.parse_args()
    for name in ("steps", "threads", "save_every"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name.replace('_', '-')} is {getattr(arguments, name)}, but must be at least 1")
    return arguments


def story_rows(tokenizer: Tokenizer, stories: list[str]) -> list[list[int]]:
    """Token rows: begin-of-text, story, end-of-text."""
    rows = [row.ids for row in tokenizer.encode_batch([grammar.document(text) for text in stories])]
    if any(row[0] != BEGIN_ID or row[-1] != END_ID for row in rows):
        raise ValueError("a row does not start with begin-of-text or does not end with end-of-text")
    return rows


def packed_rows(rows: list[list[int]]) -> list[list[int]]:
    """Rows joined up to the context length (a row that does not fit starts the next one)."""
    packed: list[list[int]] = [[]]
    for row in rows:
        if len(packed[-1]) + len(row) > CONTEXT:
            packed.append([])
        packed[-1] += row
    return packed


def padded(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets [rows, longest]; -100 marks targets that do not count."""
    length = max(map(len, rows))
    tokens = torch.tensor([row + [END_ID] * (length - len(row)) for row in rows])
    targets = torch.tensor([row[1:] + [-100] * (length - len(row) + 1) for row in rows])
    return tokens, targets


def batches(tokenizer: Tokenizer, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless batches of about BATCH_TOKENS tokens; no training story comes twice."""
    stories, rng = grammar.training_stream(seed), random.Random(f"batches {seed}")
    while True:
        rows = story_rows(tokenizer, [next(stories) for _ in range(BATCHES_PER_SORT * 32)])
        cut = len(rows) // PACKED_EVERY
        made = []
        for part in (packed_rows(rows[:cut]), sorted(rows[cut:], key=len)):
            while part:
                size = max(1, BATCH_TOKENS // len(part[-1]))
                made.append(part[-size:])
                part = part[:-size]
        rng.shuffle(made)
        yield from map(padded, made)


def rate(step: int, steps: int) -> tuple[float, float]:
    """Learning rate and weight decay of a step: linear, in two stages."""
    done = step / steps
    if done < WARM_UP:
        return PEAK_RATE * (step + 1) / (WARM_UP * steps), WEIGHT_DECAY
    if done < 0.5:
        return PEAK_RATE * (1 - 0.6 * done), WEIGHT_DECAY
    return PEAK_RATE * 0.7 * (1 - done) / 0.5, 0.0


def held_out_loss(network: Network, tokenizer: Tokenizer) -> tuple[float, int]:
    """Mean loss per token over the held-out stories, and how many tokens they have."""
    rows = sorted(story_rows(tokenizer, grammar.held_out(HELD_OUT_STORIES, HELD_OUT_SEED)), key=len)
    total, count = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(rows), 32):
            tokens, targets = padded(rows[start : start + 32])
            loss = functional.cross_entropy(network(tokens).flatten(0, 1), targets.flatten(), reduction="sum")
            total += loss.item()
            count += int((targets >= 0).sum())
    return total / count, count


def train(network: Network, tokenizer: Tokenizer, arguments: argparse.Namespace) -> dict:
    """Runs the steps; returns what there is to record about the run."""
    matrices = [p for name, p in network.named_parameters() if name.endswith("_proj.weight")]
    others = [p for name, p in network.named_parameters() if not name.endswith("_proj.weight")]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.95), fused=True)
    source = batches(tokenizer, arguments.seed)
    forward = network if arguments.eager else torch.compile(network, dynamic=True)
    started, seen, record = time.monotonic(), 0, {}
    for step in range(arguments.steps):
        learning_rate, decay = rate(step, arguments.steps)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        optimizer.param_groups[0]["weight_decay"] = decay
        tokens, targets = next(source)
        loss = functional.cross_entropy(forward(tokens).flatten(0, 1), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seen += int((targets >= 0).sum())
        seconds = time.monotonic() - started
        if step % 25 == 0:
            print(f"step {step} loss {loss.item():.4f} tokens {seen} seconds {seconds:.0f}", flush=True)
        last = step + 1 == arguments.steps
        if last or (step + 1) % arguments.save_every == 0:
            record = {
                "seed": arguments.seed,
                "steps": arguments.steps,
                "steps_done": step + 1,
                "training_tokens": seen,
                "training_seconds": round(seconds),
                "threads": arguments.threads,
                "compiled": not arguments.eager,
            }
            arguments.state.parent.mkdir(parents=True, exist_ok=True)
            torch.save({"network": network.state_dict(), "record": record}, arguments.state)
    return record


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    torch.use_deterministic_algorithms(True)
    network = Network(Shape())
    if arguments.export_only:
        state = torch.load(arguments.export_only, weights_only=True)
        network.load_state_dict(state["network"])
        record = state["record"]
        arguments.seed = record["seed"]
    tokenizer = train_tokenizer(grammar.training(TOKENIZER_STORIES, arguments.seed))
    if not arguments.export_only:
        record = train(network, tokenizer, arguments)
    export(network, arguments.output)
    save_tokenizer(tokenizer, arguments.output)
    loss, count = held_out_loss(network, tokenizer)
    record |= {
        "held_out_stories": HELD_OUT_STORIES,
        "held_out_seed": HELD_OUT_SEED,
        "held_out_tokens": count,
        "held_out_loss": loss,
        "held_out_perplexity": math.exp(loss),
        "torch": torch.__version__,
        "tokenizers": tokenizers.__version__,
    }
    (arguments.output / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
