"""``llmrtl serve-sim``: several requests at a time on the simulated accelerator with a paged KV cache."""

import itertools
import json
from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from tokenizers import Tokenizer

from ..accelerators.config import AcceleratorConfig
from ..accelerators.control.entries import refusal
from ..accelerators.integers import ceil_div
from ..accelerators.presets import preset
from ..sim.golden.batch import paged_tables
from ..sim.golden.machine import Machine
from ..sim.golden.paged import PagedTables
from ..sim.golden.sampler import Sampler
from ..sim.golden.swap import SwapTables
from ..sim.native.build import build_driver
from ..sim.native.run import Sampling
from ..sim.native.session import Session
from .arguments import DEFAULT_PRESET, having_cache
from .checkpoint import Checkpoint
from .generate import cache_summary, chosen_sampling, compiled_image, emitted_accelerator, write_summary
from .image import Image
from .outputs import check_files
from .scheduler import Request, Scheduler, Step
from .tokenizer import encode, load_tokenizer

__all__ = ["Served", "ServedStep", "load_requests", "mismatches", "report", "serve", "serve_sim", "summarize_service", "token_budget"]

console = Console(highlight=False)
FIELDS = {"name", "prompt", "prompt_ids", "tokens", "arrival"}


@dataclass(frozen=True)
class ServedStep:
    """Figures of a step: blocks of the KV cache in use, and without sharing; rows that attention read for each K/V head, and without
    groups; words that came from memory."""

    cycles: int
    tokens: int
    blocks: int
    blocks_apart: int
    rows: int
    rows_apart: int
    read_beats: int


@dataclass
class Served:
    """How it went. ``order``: whose tokens came, one after another. ``values``, ``cycles``: of each request, the logits of its tokens
    and the cycles at whose end they came, from the start of the first step; ``arrived``: the cycle at which its first step could have
    begun."""

    requests: list[Request]
    order: list[str] = field(default_factory=list)
    values: dict[str, list[int]] = field(default_factory=dict)
    cycles: dict[str, list[int]] = field(default_factory=dict)
    arrived: dict[str, int] = field(default_factory=dict)
    steps: list[ServedStep] = field(default_factory=list)
    free_blocks: int | None = None
    swapped: dict[str, int] = field(default_factory=dict)


def load_requests(path: Path, tokenizer: Tokenizer | None, vocabulary: int) -> list[Request]:
    """The requests of a JSON file: a list of objects with ``prompt`` (text) or ``prompt_ids``, ``tokens`` (to generate at most), and,
    if wanted, ``name`` and ``arrival`` (number of the step before which it is not there).

    Raises ``ValueError`` that names the file, the request and the rule.
    """
    try:
        found = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:  # also text that is no UTF-8, and integers of thousands of digits
        raise ValueError(f"{path}: not JSON: {error}") from None
    if not isinstance(found, list) or not found or not all(isinstance(each, dict) for each in found):
        raise ValueError(f"{path}: must be a list of requests, each an object with 'prompt' or 'prompt_ids' and 'tokens'")
    requests: list[Request] = []
    for number, each in enumerate(found):
        where = f"{path}: request {number}"
        if unknown := sorted(each.keys() - FIELDS):
            raise ValueError(f"{where}: no field {', '.join(map(repr, unknown))}; there are {', '.join(sorted(FIELDS))}")
        if ("prompt" in each) == ("prompt_ids" in each):
            raise ValueError(f"{where}: needs 'prompt' or 'prompt_ids', and not both")
        for name, least in (("tokens", 1), ("arrival", 0)):
            value = each.get(name, None if name == "tokens" else 0)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{where}: {name!r} must be a whole number from {least} on, not {value!r}")
        if "prompt" in each:
            if not isinstance(each["prompt"], str):
                raise ValueError(f"{where}: 'prompt' must be text, not {each['prompt']!r}")
            if tokenizer is None:
                raise ValueError(f"{where}: there is no tokenizer.json; give the prompt as 'prompt_ids'")
            ids = encode(tokenizer, each["prompt"])
        else:
            ids = each["prompt_ids"]
        if not isinstance(ids, list) or not ids or not all(type(token) is int and 0 <= token < vocabulary for token in ids):
            raise ValueError(f"{where}: the prompt must be one or more token ids in 0..{vocabulary - 1}, not {ids!r}")
        name = each.get("name", str(number))
        if not isinstance(name, str) or name in {request.name for request in requests}:
            raise ValueError(f"{where}: 'name' must be text that no other request has, not {name!r}")
        requests.append(Request(name, ids, each["tokens"], each.get("arrival", 0)))
    return requests


def token_budget(config: AcceleratorConfig, asked: int | None) -> int:
    """Tokens of a step: as many as there are token lanes, or fewer, if so is asked."""
    if asked is None:
        return config.token_lanes
    if not 1 <= asked <= config.token_lanes:
        raise ValueError(f"--token-budget must be in 1..{config.token_lanes}, the token lanes of preset {config.name!r}, not {asked}")
    return asked


def tables_of(config: AcceleratorConfig, image: Image) -> PagedTables | SwapTables:
    """The cache of an accelerator, empty."""
    return paged_tables(config, image.positions)


def serve(session: Session, image: Image, requests: list[Request], *, budget: int | None = None, eos: int | None = None,
          share: bool = True, group: bool = True, on_step: Any = lambda number, step: None) -> Served:
    """Run all requests to their ends, at most ``budget`` tokens per step (``None``: all token lanes). ``RuntimeError`` if the
    accelerator stops with an error or refuses an entry."""
    scheduler = Scheduler(requests, tables_of(image.config, image), token_budget(image.config, budget), eos, share,
                          image.config.query_lanes // image.model.group, group)
    served = Served(requests, [], {request.name: [] for request in requests}, {request.name: [] for request in requests})
    number = cycle = 0
    while scheduler.active:
        for request in requests:
            if request.arrival <= number:
                served.arrived.setdefault(request.name, cycle)
        step = scheduler.step(number)
        if not step.words:  # nobody is there yet
            number = scheduler.waiting[0].arrival
            continue
        number += 1
        run = session.step(step.words)
        if run.error is not None:
            raise RuntimeError(f"step {number - 1}: {run.error}")
        for token in run.tokens:
            if (refused := refusal(token.token)) is not None:
                raise RuntimeError(f"step {number - 1}: the KV cache refused sequence {refused[0]} (error {refused[1]})")
        if len(run.tokens) != len(step.sampled):
            raise RuntimeError(f"step {number - 1}: {len(run.tokens)} tokens came, {len(step.sampled)} were due")
        for request, token in zip(step.sampled, run.tokens, strict=True):
            served.order.append(request.name)
            served.values[request.name].append(token.value)
            served.cycles[request.name].append(cycle + token.cycle)
        cycle += run.registers["CYCLES"]
        tables = scheduler.tables
        alone = sum(ceil_div(sequence.length, tables.block_size) for sequence in tables.sequences)
        served.steps.append(ServedStep(run.registers["CYCLES"], step.tokens, tables.pool.blocks - tables.pool.free, alone, step.rows,
                                       step.rows_apart, run.registers["READ_BEATS"]))
        served.free_blocks = run.registers["KV_FREE_BLOCKS"]
        if served.free_blocks != tables.pool.free:
            raise RuntimeError(f"step {number - 1}: the KV cache has {served.free_blocks} free blocks, not {tables.pool.free}")
        if isinstance(tables, SwapTables):
            served.swapped = {name: run.registers[f"KV_{name.upper()}"] for name in ("rows_out", "rows_in", "clean_blocks")}
            if any(tables.counters[name] != count for name, count in served.swapped.items()):
                raise RuntimeError(f"step {number - 1}: the KV cache has moved {served.swapped}, not {tables.counters}")
        scheduler.finish(step, [token.token for token in run.tokens])
        on_step(number - 1, step)
    return served


def mismatches(image: Image, served: Served, eos: int | None, sampling: Sampling = Sampling()) -> dict[str, str]:
    """Requests whose tokens or logits are not those of the golden model's run of that request alone: name -> what differs. Only the
    sampler is one for all runs, which go on in the order of the tokens that came."""
    sampler, runs = Sampler(image.config, sampling.seed), {}
    alone: dict[str, list[tuple[int, int]]] = {}
    for request in served.requests:
        machine = Machine(image, greedy=sampling.greedy, top_k=sampling.top_k, inverse_temperature=1 / sampling.temperature)
        machine.sampler = sampler
        runs[request.name], alone[request.name] = machine.generate(request.prompt, request.count, eos=eos), []
    for name in served.order:
        alone[name] += [(step.token, step.value) for step in itertools.islice(runs[name], 1)]
    for name, run in runs.items():  # what did not come
        alone[name] += [(step.token, step.value) for step in run]
    found = {}
    for request in served.requests:
        got, want = list(zip(request.generated, served.values[request.name], strict=True)), alone[request.name]
        if got != want:
            at = next((k for k, (a, b) in enumerate(zip(got, want, strict=False)) if a != b), min(len(got), len(want)))
            found[request.name] = f"token {at}: {got[at:at + 1] or 'nothing'}, alone {want[at:at + 1] or 'nothing'}"
    return found


def serve_sim(options: Namespace) -> int:
    """``llmrtl serve-sim``: exit status 0 if every token equals the golden model's run of its request alone, 1 if not."""
    config = having_cache(preset(options.preset or DEFAULT_PRESET), "paged", "serve-sim")
    checkpoint = Checkpoint.open(options.checkpoint)
    tokenizer = load_tokenizer(checkpoint)
    requests = load_requests(options.requests, tokenizer, checkpoint.model.vocab_size)
    eos = None if options.ignore_eos else checkpoint.model.eos
    if options.seed is not None and options.temperature is None:
        raise ValueError("--seed has no effect without --temperature: the best token is taken")
    sampling, budget = chosen_sampling(options, config), token_budget(config, options.token_budget)
    if options.json is not None:
        check_files([("--json", options.json)])
    with console.status("[cyan]compile, emit and build"):
        image, file = compiled_image(checkpoint, config)
        Scheduler(requests, tables_of(config, image), budget)  # refuses what cannot be served
        program = build_driver(emitted_accelerator(config))
    console.print(f"[cyan]{options.checkpoint.resolve().name}[/]: preset {config.name}, {len(requests)} requests, {config.sequences} "
                  f"sequences, at most {budget} tokens per step", soft_wrap=True)
    with console.status("") as status, Session(program, image, file, sampling=sampling, memory_model=options.memory_model,
                                               clock_mhz=options.clock_mhz) as session:
        def show(number: int, step: Step) -> None:
            status.update(f"[cyan]step {number}, {step.tokens} tokens")
        served = serve(session, image, requests, budget=budget, eos=eos, share=not options.no_sharing, group=not options.no_groups,
                       on_step=show)
    with console.status("[cyan]golden model, request by request"):
        differ = mismatches(image, served, eos, sampling)
    summary = summarize_service(image, served, differ, options.command_line)
    if options.json is not None:
        write_summary(options.json, summary)
    for request in requests:
        text = " ".join(map(str, request.ids)) if tokenizer is None else tokenizer.decode(request.ids)
        console.print(f"[bold]{escape(request.name)}[/]: ", end="")
        console.print(text, markup=False, soft_wrap=True)
    report(summary)
    return 0 if summary["golden_match"] else 1


def summarize_service(image: Image, served: Served, differ: dict[str, str], command: str) -> dict[str, Any]:
    """What ``--json`` writes: bytes of the KV cache with and without sharing, bytes that attention read of it with and without groups,
    tokens per step, cycles to the first token and between tokens, per request."""
    row_bytes = cache_summary(image)["bytes_per_position"]
    block_bytes = row_bytes * image.config.block_size
    tokens = sum(step.tokens for step in served.steps)
    requests = {}
    for request in served.requests:
        cycles = served.cycles[request.name]
        requests[request.name] = {
            "prompt_tokens": len(request.prompt), "tokens": request.generated, "shared_positions": request.shared,
            "preempted": request.preempted, "swapped": request.swapped,
            "cycles_to_first_token": cycles[0] - served.arrived[request.name],
            "cycles_between_tokens": round((cycles[-1] - cycles[0]) / (len(cycles) - 1)) if len(cycles) > 1 else None,
            "mismatch": differ.get(request.name)}
    return {
        "golden_match": not differ, "preset": image.config.name, "command": command, "steps": len(served.steps),
        "cycles": sum(step.cycles for step in served.steps), "tokens_per_step": round(tokens / max(1, len(served.steps)), 3),
        "tokens_through_the_model": tokens, "kv_bytes_per_token": row_bytes, "block_bytes": block_bytes,
        "kv_bytes_peak": max(step.blocks for step in served.steps) * block_bytes,
        "kv_bytes_peak_without_sharing": max(step.blocks_apart for step in served.steps) * block_bytes,
        "kv_bytes_read": sum(step.rows for step in served.steps) * row_bytes,
        "kv_bytes_read_without_groups": sum(step.rows_apart for step in served.steps) * row_bytes,
        "kv_swap": {name: count * (block_bytes if name == "clean_blocks" else row_bytes) for name, count in served.swapped.items()},
        "free_blocks_at_the_end": served.free_blocks, "requests": requests}


def report(summary: dict[str, Any]) -> None:
    """Print what ``summarize_service`` says."""
    table = Table("request", "prompt", "found in the cache", "tokens", "cycles to the first", "between tokens")
    for name, each in summary["requests"].items():
        between = "" if each["cycles_between_tokens"] is None else f"{each['cycles_between_tokens']:,}"
        table.add_row(escape(name), str(each["prompt_tokens"]), str(each["shared_positions"]), str(len(each["tokens"])),
                      f"{each['cycles_to_first_token']:,}", between)
    console.print(table)
    console.print(f"{summary['steps']} steps, {summary['cycles']:,} cycles, {summary['tokens_per_step']} tokens per step; KV cache "
                  f"{summary['kv_bytes_per_token']:,} bytes per token, {summary['kv_bytes_peak']:,} at most, "
                  f"{summary['kv_bytes_peak_without_sharing']:,} without sharing; attention read {summary['kv_bytes_read']:,} bytes "
                  f"of it, {summary['kv_bytes_read_without_groups']:,} without groups", soft_wrap=True)
    if summary["kv_swap"]:
        moved = summary["kv_swap"]
        console.print(f"swapped: {moved['rows_out']:,} bytes out, {moved['rows_in']:,} bytes back; {moved['clean_blocks']:,} bytes "
                      "left without being written again", soft_wrap=True)
    if summary["golden_match"]:
        console.print("[green]golden_match: true[/] (every token and its logit equal the NumPy model's run of the request alone)")
    for name, each in summary["requests"].items():
        if each["mismatch"]:
            console.print(f"[bold red]{escape(name)}[/]: {escape(each['mismatch'])}", soft_wrap=True)
