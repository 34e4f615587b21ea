"""``llmrtl run``: checks, simulation, what is shown, and the summary that tells how it ended."""

import io
import os
import random
import subprocess
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text
from tokenizers import Tokenizer

from ..accelerators.config import AcceleratorConfig
from ..sim.native.build import build_driver
from ..sim.native.run import Generated, Run, Sampling, driver_arguments, driver_command, read_results
from ..sim.native.timeline import Timeline, draw
from .arguments import budget, configuration, retrieval, window
from .checkpoint import Checkpoint
from .compile import Budget, plan
from .files import write_atomically
from .generate import (
    DEFAULT_SEED,
    chosen_sampling,
    compiled_image,
    emitted_accelerator,
    generate,
    locate_mismatch,
    summarize,
    write_summary,
)
from .image import Image
from .outputs import check_files
from .retrieval import check_retrieval
from .tokenizer import encode, load_tokenizer
from .yowasp import build_root

__all__ = ["console_file", "error_text", "run", "run_folder"]

DEFAULT_PROMPT = "Once upon a time"
console = Console(highlight=False)
_TEXT_WIDTH = 120  # no line of a table that `llmrtl run` prints is longer


def run_folder() -> Path:
    """Where every run leaves its ``summary.json``."""
    return Path(os.path.relpath(build_root() / "run"))


def console_file(summary: Path) -> Path:
    """Where ``llmrtl run`` keeps what it printed, beside its summary."""
    return summary.with_suffix(".console.txt")


def error_text(error: BaseException) -> str:
    """What an error says, in words."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return str(error.args[0] if isinstance(error, KeyError) and error.args else error) or type(error).__name__


@dataclass(frozen=True)
class _Request:
    """What was asked for, checked: nothing of it can fail any more for a reason that is in the command line."""

    config: AcceleratorConfig
    checkpoint: Checkpoint
    tokenizer: Tokenizer | None
    prompt: list[int]
    sampling: Sampling
    context: int | None
    window: tuple[int, int] | None
    budget: Budget | None
    retrieval: tuple[int, int] | None

    @classmethod
    def of(cls, options: Namespace) -> "_Request":
        """``ValueError`` names the option, the value and the rule."""
        config = configuration(options)
        if config.cache == "paged":
            raise ValueError(f"preset {config.name!r} serves several sequences at a time: use `llmrtl serve-sim`")
        if options.seed is not None and options.temperature is None and options.prompt_length is None:
            raise ValueError("--seed has no effect without --temperature or --prompt-length: the best token is taken")
        sampling = chosen_sampling(options, config)
        checkpoint = Checkpoint.open(options.checkpoint)
        tokenizer, seen, kept, chosen = load_tokenizer(checkpoint), window(options), budget(options), retrieval(options)
        prompt = _prompt(options, checkpoint, tokenizer)
        needed = options.fill_context + len(prompt) + options.tokens - 1
        context = options.context
        if options.fill_context and (seen is not None or kept is not None or chosen is not None):
            raise ValueError("--fill-context fills a KV cache of which all positions are seen: it does not go with --window, --budget "
                             "or --blocks")
        if seen is not None or kept is not None:
            context = max(checkpoint.model.max_context, needed) if context is None else context
        capacity = plan(checkpoint.model, config, context, seen, kept).positions
        if needed > capacity:
            filled = f"{options.fill_context} filled positions, " if options.fill_context else ""
            raise ValueError(f"{filled}prompt of {len(prompt)} and {options.tokens} tokens need a context of {needed}; "
                             f"this model on preset {config.name!r} has {capacity}")
        if chosen is not None:
            check_retrieval(config, capacity, *chosen)
        return cls(config, checkpoint, tokenizer, prompt, sampling, context, seen, kept, chosen)


def _prompt(options: Namespace, checkpoint: Checkpoint, tokenizer: Tokenizer | None) -> list[int]:
    """Token ids of the prompt; ``ValueError`` for one that the model cannot take."""
    given = [option for option in (options.prompt, options.prompt_ids, options.prompt_length) if option is not None]
    if len(given) > 1:
        raise ValueError("give the prompt as --prompt, --prompt-ids or --prompt-length, not as several of them")
    if options.prompt_ids is not None:
        ids = options.prompt_ids
    elif options.prompt_length is not None:
        seed = DEFAULT_SEED if options.seed is None else options.seed
        ids = random.Random(seed).choices(range(checkpoint.model.vocab_size), k=options.prompt_length)
    elif tokenizer is None:
        if options.prompt is not None:
            raise ValueError(f"{checkpoint.path}: there is no tokenizer.json; give the prompt as --prompt-ids")
        ids = [checkpoint.model.bos if checkpoint.model.bos is not None else 0]
    else:
        ids = encode(tokenizer, DEFAULT_PROMPT if options.prompt is None else options.prompt)
    vocabulary = checkpoint.model.vocab_size
    for token in ids:
        if not 0 <= token < vocabulary:
            raise ValueError(f"prompt token id {token} is outside the vocabulary of {vocabulary} (ids 0..{vocabulary - 1})")
    if not ids:
        raise ValueError("the prompt has no tokens")
    return ids


class _Display:
    """The text as it grows above a progress bar; without a terminal, the text alone.

    Tokens of an incomplete UTF-8 character wait for the rest of it.
    """

    def __init__(self, tokenizer: Tokenizer | None, prompt: list[int], count: int) -> None:
        self.tokenizer, self.ids, self.prompt = tokenizer, list(prompt), len(prompt)
        self.shown = self._text()
        self.progress = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                                 console=console)
        self.task = self.progress.add_task("prefill", total=count)
        self.live = Live(console=console, refresh_per_second=8) if console.is_terminal else None

    def __enter__(self) -> "_Display":
        if self.live is None:
            console.print(self.shown, end="", markup=False, soft_wrap=True)
        else:
            self.live.start()
            self._refresh()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.live is None:
            console.print()
        else:
            self.progress.update(self.task, description="done")
            self._refresh()
            self.live.stop()

    def add(self, token: Generated) -> None:
        self.ids.append(token.token)
        self.progress.update(self.task, advance=1, description=f"decode, cycle {token.cycle:,}")
        text = self._text()
        if not text.endswith("\ufffd"):
            if self.live is None:
                console.print(text[len(self.shown):], end="", markup=False, soft_wrap=True)
            self.shown = text
        if self.live is not None:
            self._refresh()

    def _text(self) -> str:
        return " ".join(map(str, self.ids)) if self.tokenizer is None else self.tokenizer.decode(self.ids)

    def _refresh(self) -> None:
        assert self.live is not None
        self.live.update(Group(Text(self.shown), self.progress))


def run(options: Namespace) -> int:
    """``llmrtl run``: exit status 0 if every token equals the golden model's, 1 if not.

    The summary of an earlier run is gone as soon as this one begins; a run that fails leaves one that says why.
    """
    summaries = [run_folder() / "summary.json"]
    if options.json is not None and options.json.resolve() != summaries[0].resolve():
        summaries.append(options.json)
    for path in summaries:
        with suppress(OSError):  # the check of the outputs names the path
            if path.is_file():
                path.unlink()
                console_file(path).unlink(missing_ok=True)
    check_files(_outputs(options, summaries))
    request = _Request.of(options)
    with _errors_recorded(summaries, options.command_line):
        return _run(options, request, summaries)


def _outputs(options: Namespace, summaries: list[Path]) -> Iterator[tuple[str, Path]]:
    """All files that a run writes, and the options that name them."""
    for path in summaries:
        option = "--json" if path == options.json else "summary"
        yield option, path
        yield f"{option} (printed text)", console_file(path)
    if options.trace is not None:
        yield "--trace", options.trace
        yield "--trace (recording)", _recording(options.trace)
        yield "--trace (picture)", _picture(options.trace)
    for option, path in (("--read-trace", options.read_trace), ("--wave", options.wave)):
        if path is not None:
            yield option, path


@contextmanager
def _errors_recorded(summaries: list[Path], command: str) -> Iterator[None]:
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        for path in summaries:
            with suppress(OSError):  # the first error is the one to tell
                write_summary(path, {"golden_match": False, "error": error_text(error), "command": command})
        raise


def _run(options: Namespace, request: _Request, summaries: list[Path]) -> int:
    config, checkpoint, prompt = request.config, request.checkpoint, request.prompt
    with console.status("") as status:
        def say(what: str) -> None:
            status.update(f"[cyan]{what}")
        say("compile")
        image, image_file = compiled_image(checkpoint, config, fraction_bits=options.fraction_bits, context=request.context,
                                           window=request.window, budget=request.budget, retrieval=request.retrieval,
                                           progress=lambda name: say(f"compile: {name}"))
        say("emit Verilog")
        emitted = emitted_accelerator(config, observe=options.check_hidden, trace=options.trace is not None)
        say("build the simulator (Verilator and C++; kept for the next time)")
        _check_core(build_driver(emitted, wave=options.wave), image, image_file)
    text = io.StringIO()
    plain = Console(file=text, force_terminal=False, width=_TEXT_WIDTH, highlight=False)

    def show(what: str | Table) -> None:
        for each in (console, plain):
            each.print(what, soft_wrap=isinstance(what, str))
    show(f"[cyan]{options.checkpoint.resolve().name}[/]: {image.model.parameters:,} parameters, "
         f"image {image.data.size:,} bytes, preset {config.name}, {len(prompt)} prompt tokens")
    eos = None if options.ignore_eos else checkpoint.model.eos
    timeline = _recording(options.trace) if options.trace is not None else None
    settings: dict[str, Any] = dict(
        eos=eos, sampling=request.sampling, fill_context=options.fill_context, latency=options.latency, stall=options.stall,
        memory_model=options.memory_model, clock_mhz=options.clock_mhz)
    for path in (options.wave, options.read_trace, timeline):  # the driver makes no folders
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
    with _Display(request.tokenizer, prompt, options.tokens) as display:
        outcome = generate(image, image_file, emitted, prompt, options.tokens, wave=options.wave, check_hidden=options.check_hidden,
                           on_token=display.add, read_trace=options.read_trace, timeline=timeline, **settings)
    plain.print(display.shown, markup=False, soft_wrap=True)
    if timeline is not None:
        _write_timeline(timeline, options.trace, image, outcome.run, options.clock_mhz)
        show(f"timeline: {options.trace} (open it in ui.perfetto.dev), {_picture(options.trace)}")
    summary = summarize(outcome, image, emitted, prompt, memory_model=options.memory_model, clock_mhz=options.clock_mhz)
    if outcome.mismatch is not None and outcome.run.tokens:
        show("[bold red]the accelerator and the golden model differ; looking for the first operation that does")
        summary["first_difference"] = locate_mismatch(image, image_file, prompt, outcome.run, **settings)
    summary |= {"command": options.command_line, "text": display.shown if request.tokenizer is not None else None}
    _report(summary, show)
    show(f"summary: {', '.join(map(str, summaries))}")
    for path in summaries:
        write_atomically(console_file(path), text.getvalue().encode())
        write_summary(path, summary)
    return 0 if outcome.golden_match else 1


def _check_core(program: Path, image: Image, image_file: Path) -> None:
    """Read what the core says of itself, before anything is written to it; ``ValueError`` if it is not one for the image."""
    arguments = driver_arguments(image, image_file, cycle_limit=1, memory_model="ideal", clock_mhz=250.0, memory={})
    said = subprocess.run(driver_command(program, image, arguments, "ideal"), capture_output=True, text=True, check=True).stdout
    if foreign := read_results(said.splitlines(), image).foreign:
        raise ValueError(foreign)


def _recording(trace: Path) -> Path:
    """What the simulator writes for ``--trace``; gone when the trace is there."""
    return trace.with_suffix(".csv")


def _picture(trace: Path) -> Path:
    return trace.with_suffix(".png")


def _write_timeline(recorded: Path, target: Path, image: Image, run: Run, clock_mhz: float) -> None:
    """Chrome trace of the run, and a picture of its last token beside it."""
    timeline = Timeline(recorded, image.operations)
    write_atomically(target, timeline.text(clock_mhz).encode())
    recorded.unlink()
    if run.tokens:
        begin = run.tokens[-2].cycle if len(run.tokens) > 1 else 0
        draw(timeline, _picture(target), begin, run.tokens[-1].cycle)


def _report(summary: dict[str, Any], show: Callable[[str | Table], None]) -> None:
    table = Table(show_header=False, box=None, pad_edge=False)
    for name in ("tokens_generated", "cycles_prefill", "cycles_per_decoded_token", "bytes_read_per_token",
                 "bytes_written_per_token", "read_utilization_decode", "simulated_cycles_per_second", "simulation_seconds"):
        if name in summary:
            value = summary[name]
            table.add_row(name.replace("_", " "), f"{value:,}" if isinstance(value, (int, float)) else str(value))
    cache = summary["kv_cache"]
    sizes = cache["bytes_per_position_in"]
    others = ", ".join(f"{storage} {sizes[storage]:,}" for storage in sizes if storage != cache["storage"])
    table.add_row("KV cache per token", f"{cache['bytes_per_position']:,} bytes of {cache['storage']} ({others})")
    if "threshold" in cache:
        table.add_row("KV cache", f"a budget of {cache['positions']} rows per head, {cache['sinks']} sinks and the latest "
                      f"{cache['recent']} positions among them: {cache['bytes']:,} bytes")
    elif "sinks" in cache:
        table.add_row("KV cache", f"{cache['sinks']} sinks and the latest {cache['recent']} positions: {cache['bytes']:,} bytes")
    memory = summary["memory"]
    for phase, achieved in memory["achieved_gb_s"].items():
        table.add_row(f"{memory['model']} memory, {phase}",
                      f"{achieved:.3f} of {memory['bound_gb_s']:.3f} GB/s ({memory['share_of_bound'][phase]:.1%})")
    busy = summary["registers"].get("CYCLES") or 1
    for unit, events in summary["units"].items():
        if events["busy"]:
            table.add_row(f"  {unit}", f"busy {events['busy'] / busy:6.1%}  starved {events['starved'] / busy:6.1%}  "
                          f"stalled {events['stalled'] / busy:6.1%}")
    show(table)
    if summary["golden_match"]:
        compared = ", its logit and its final hidden state" if summary["hidden_state_compared"] else " and its logit"
        show(f"[green]golden_match: true[/] (every token{compared} equal the NumPy model's)")
    else:
        show(f"[bold red]golden_match: false[/]: {summary['mismatch'] or summary['error']}")
        if "first_difference" in summary:
            show(f"[bold red]first difference:[/] {summary['first_difference']}")
