"""What the subcommands of ``llmrtl`` do; ``cli.py`` parses the options."""

import io
import random
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text
from tokenizers import Tokenizer

from ..accelerators.config import AcceleratorConfig
from ..accelerators.control.isa import FIELDS, SCALARS, decode_program
from ..accelerators.presets import PRESETS, preset
from ..sim.native.build import build_driver
from ..sim.native.run import Generated, Run, Sampling
from ..sim.native.timeline import Timeline, draw
from ..sim.timing import Memory
from .calibration import calibrate
from .checkpoint import Checkpoint
from .comparison import compare_prompts
from .compile import compile_model
from .files import write_atomically
from .formats import high_precision
from .generate import compiled_image, emitted_accelerator, generate, locate_mismatch, summarize, write_summary
from .image import Image
from .random_checkpoint import shape_named, write_random_checkpoint
from .registry import UNITS, emit_unit

__all__ = ["bench", "compare", "configuration", "console_file", "estimate", "image", "list_units", "random_checkpoint", "run", "synth",
           "verilog"]

DEFAULT_PROMPT = "Once upon a time"
console = Console(highlight=False)
_TEXT_WIDTH = 120  # no line of a table that `llmrtl run` prints is longer


def configuration(options: Namespace) -> AcceleratorConfig:
    """The preset, with wider formats if ``--high-precision`` was given."""
    config = preset(options.preset)
    return high_precision(config) if options.high_precision else config


def _tokenizer(checkpoint: Checkpoint) -> Tokenizer | None:
    return Tokenizer.from_file(str(checkpoint.tokenizer_path)) if checkpoint.tokenizer_path else None


def _prompt(options: Namespace, checkpoint: Checkpoint, tokenizer: Tokenizer | None) -> list[int]:
    """Token ids of the prompt; ``ValueError`` for one that the model cannot take."""
    given = [option for option in (options.prompt, options.prompt_ids, options.prompt_length) if option is not None]
    if len(given) > 1:
        raise ValueError("give the prompt as --prompt, --prompt-ids or --prompt-length, not as several of them")
    if options.prompt_ids is not None:
        ids = options.prompt_ids
    elif options.prompt_length is not None:
        ids = random.Random(options.seed).choices(range(checkpoint.model.vocab_size), k=options.prompt_length)
    elif tokenizer is None:
        if options.prompt is not None:
            raise ValueError(f"{checkpoint.path}: there is no tokenizer.json; give the prompt as --prompt-ids")
        ids = [checkpoint.model.bos if checkpoint.model.bos is not None else 0]
    else:
        ids = tokenizer.encode(DEFAULT_PROMPT if options.prompt is None else options.prompt).ids
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


def console_file(summary: Path) -> Path:
    """Where ``llmrtl run`` keeps what it printed, beside its summary."""
    return summary.with_suffix(".console.txt")


def run(options: Namespace) -> int:
    """``llmrtl run``: exit status 0 if every token equals the golden model's, 1 if not."""
    config = configuration(options)
    checkpoint = Checkpoint.open(options.checkpoint)
    tokenizer = _tokenizer(checkpoint)
    prompt = _prompt(options, checkpoint, tokenizer)
    if not 0 <= options.seed < 1 << 32:
        raise ValueError(f"--seed must be in 0..{(1 << 32) - 1}, not {options.seed}")
    top_k = options.top_k or config.top_k
    if top_k > config.top_k:
        raise ValueError(f"--top-k must be at most {config.top_k} on preset {config.name!r}, not {top_k}")
    sampling = Sampling() if options.temperature is None else Sampling(False, top_k, options.temperature, options.seed)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    with console.status("") as status:
        def say(what: str) -> None:
            status.update(f"[cyan]{what}")
        say("compile")
        image, image_file = compiled_image(checkpoint, config, fraction_bits=options.fraction_bits, context=options.context,
                                           progress=lambda name: say(f"compile: {name}"))
        needed = options.fill_context + len(prompt) + options.tokens - 1
        if needed > image.kv_capacity:
            filled = f"{options.fill_context} filled positions, " if options.fill_context else ""
            raise ValueError(f"{filled}prompt of {len(prompt)} and {options.tokens} tokens need a context of {needed}; "
                             f"this model on preset {config.name!r} has {image.kv_capacity}")
        say("emit Verilog")
        emitted = emitted_accelerator(config, observe=options.check_hidden, trace=options.trace is not None)
        say("build the simulator (Verilator and C++; kept for the next time)")
        build_driver(emitted, waves=options.wave is not None)
    text = io.StringIO()
    plain = Console(file=text, force_terminal=False, width=_TEXT_WIDTH, highlight=False)

    def show(what: str | Table) -> None:
        for each in (console, plain):
            each.print(what, soft_wrap=isinstance(what, str))
    show(f"[cyan]{options.checkpoint.resolve().name}[/]: {image.model.parameters:,} parameters, "
         f"image {image.data.size:,} bytes, preset {config.name}, {len(prompt)} prompt tokens")
    eos = None if options.ignore_eos else checkpoint.model.eos
    timeline = options.trace.with_suffix(".csv") if options.trace is not None else None
    with _Display(tokenizer, prompt, options.tokens) as display:
        outcome = generate(image, image_file, emitted, prompt, options.tokens, eos=eos, sampling=sampling, wave=options.wave,
                           fill_context=options.fill_context, check_hidden=options.check_hidden,
                           on_token=display.add, latency=options.latency, stall=options.stall, read_trace=options.read_trace,
                           timeline=timeline,
                           memory_model=options.memory_model, clock_mhz=options.clock_mhz)
    plain.print(display.shown, markup=False, soft_wrap=True)
    if timeline is not None:
        _write_timeline(timeline, options.trace, image, outcome.run, options.clock_mhz)
        show(f"timeline: {options.trace} (open it in ui.perfetto.dev), {options.trace.with_suffix('.png')}")
    summary = summarize(outcome, image, emitted, prompt, memory_model=options.memory_model, clock_mhz=options.clock_mhz)
    if outcome.mismatch is not None and outcome.run.tokens:
        show("[bold red]the accelerator and the golden model differ; looking for the first operation that does")
        summary["first_difference"] = locate_mismatch(image, image_file, prompt, outcome.run,
                                                      fill_context=options.fill_context)
    summary |= {"command": options.command_line, "text": display.shown if tokenizer is not None else None}
    write_summary(options.json, summary)
    _report(summary, show)
    show(f"summary: {options.json}")
    write_atomically(console_file(options.json), text.getvalue().encode())
    return 0 if outcome.golden_match else 1


def _write_timeline(recorded: Path, target: Path, image: Image, run: Run, clock_mhz: float) -> None:
    """Chrome trace of the run, and a picture of its last token beside it."""
    timeline = Timeline(recorded, image.operations)
    write_atomically(target, timeline.text(clock_mhz).encode())
    recorded.unlink()
    if run.tokens:
        begin = run.tokens[-2].cycle if len(run.tokens) > 1 else 0
        draw(timeline, target.with_suffix(".png"), begin, run.tokens[-1].cycle)


def _report(summary: dict[str, Any], show: Callable[[str | Table], None]) -> None:
    table = Table(show_header=False, box=None, pad_edge=False)
    for name in ("tokens_generated", "cycles_prefill", "cycles_per_decoded_token", "bytes_read_per_token",
                 "bytes_written_per_token", "read_utilization_decode", "simulated_cycles_per_second", "simulation_seconds"):
        if name in summary:
            value = summary[name]
            table.add_row(name.replace("_", " "), f"{value:,}" if isinstance(value, (int, float)) else str(value))
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


def compare(options: Namespace) -> int:
    """``llmrtl compare``: exit status 1 if a figure is outside the limits."""
    config = configuration(options)
    checkpoint = Checkpoint.open(options.checkpoint)
    figures = compare_prompts(checkpoint, options.expected, config, fraction_bits=options.fraction_bits)
    table = Table("prompt", "tokens", "float: max error", "float: greedy", "golden: max error", "golden: KL", "golden: greedy")
    for row in figures["prompts"]:
        table.add_row(str(row["prompt"]), str(row["tokens"]), f"{row['float_max_error']:.2e}",
                      f"{row['float_greedy']}/{row['greedy']}", f"{row['golden_max_error']:.2e}", f"{row['golden_kl']:.2e}",
                      f"{row['golden_greedy']}/{row['greedy']}")
    console.print(table)
    total = figures["total"]
    console.print(f"float reference: max error {total['float_max_error']:.2e}, greedy {total['float_agreement']:.1%}; "
                  f"golden model ({config.name}): greedy {total['golden_agreement']:.1%}, mean KL {total['golden_kl']:.2e}")
    if options.json is not None:
        write_summary(options.json, figures)
    failures = []
    if total["float_max_error"] > options.tolerance:
        failures.append(f"float reference: error {total['float_max_error']:.2e} exceeds {options.tolerance:.2e}")
    if total["float_agreement"] < 1:
        failures.append("float reference: greedy tokens differ")
    if total["golden_agreement"] < options.agreement:
        failures.append(f"golden model: greedy agreement {total['golden_agreement']:.1%} is below {options.agreement:.1%}")
    for failure in failures:
        console.print(f"[red]{failure}")
    return 1 if failures else 0


def verilog(options: Namespace) -> int:
    """``llmrtl verilog``."""
    config = preset(options.preset)
    emitted = emitted_accelerator(config) if options.unit == "accelerator" else emit_unit(options.unit, config)
    for path in emitted.emit_to(options.output):
        console.print(str(path), soft_wrap=True)
    return 0


def list_units(options: Namespace) -> int:
    """``llmrtl list``."""
    table = Table("unit", "component", "presets")
    for unit in UNITS.values():
        table.add_row(unit.name, unit.component.removeprefix("llmrtl.accelerators."), ", ".join(unit.presets))
    table.add_row("accelerator", "top:Accelerator", ", ".join(PRESETS))
    console.print(table)
    presets = Table("preset", "bus bits", "token lanes", "ternary MAC/cycle", "longest vector", "context")
    for config in PRESETS.values():
        presets.add_row(config.name, str(config.bus_bits), str(config.token_lanes),
                        str(config.tile_activations * config.table_rows * config.token_lanes), str(config.max_vector),
                        str(config.max_context))
    console.print(presets)
    return 0


def image(options: Namespace) -> int:
    """``llmrtl image``."""
    if options.checkpoint is not None:
        config = configuration(options)
        checkpoint = Checkpoint.open(options.checkpoint)
        bits = calibrate(checkpoint) if options.fraction_bits is None else options.fraction_bits
        compile_model(checkpoint, config, fraction_bits=bits, context=options.context, stem=options.stem)
    loaded = Image.load(options.stem, fresh=True)
    table = Table("section", "address", "bytes", "kind")
    for section in loaded.sections:
        table.add_row(section.name, f"{section.address:#010x}", f"{section.bytes:,}", section.kind)
    console.print(table)
    ternary = sum(section.bytes for section in loaded.sections if section.kind == "ternary")
    console.print(f"{loaded.data.size:,} bytes, {8 * ternary / loaded.model.ternary_parameters:.3f} bits per ternary weight, "
                  f"{loaded.memory_bytes:,} bytes with a KV cache of {loaded.kv_capacity} positions, "
                  f"sha256 {loaded.sha256[:16]}", soft_wrap=True)
    if options.program:
        for op in decode_program(loaded.data[loaded.program_address:].tobytes()):
            values = {name: getattr(op, name) for name in (*FIELDS, *SCALARS) if name not in ("opcode", "flags", "tag")}
            shown = " ".join(f"{name}={value}" for name, value in values.items() if value not in (0, (0, 0)))
            console.print(f"{op.tag:4} {loaded.operations[op.tag]:28} {op.opcode.name:9} {shown}", soft_wrap=True)
    return 0


def random_checkpoint(options: Namespace) -> int:
    """``llmrtl random-checkpoint``."""
    shape = shape_named(options.shape)
    with console.status("") as status:
        write_random_checkpoint(options.output, shape, seed=options.seed,
                                progress=lambda name: status.update(f"[cyan]{name}"))
    console.print(f"{options.output}: {shape.parameters:,} parameters, {shape.ternary_parameters:,} of them ternary",
                  soft_wrap=True)
    return 0


def estimate(options: Namespace) -> int:
    """``llmrtl estimate``."""
    from .estimate import estimate as make_estimate
    from .estimate import model_named
    from .report import show
    from .roofline import plot_roofline
    config, model = preset(options.preset), model_named(options.model)
    command = (f"llmrtl estimate --preset {config.name} --model {options.model} --context {options.context} "
               f"--clock-mhz {options.clock_mhz:g} --latency {options.latency} --memory-efficiency {options.memory_efficiency:g}"
               + (f" --prompt {options.prompt}" if options.prompt else ""))
    with console.status("[cyan]cycle model"):
        result = make_estimate(config, model, context=options.context, prompt=options.prompt, clock_mhz=options.clock_mhz,
                               memory=Memory(options.latency, options.memory_efficiency), command=command)
    table = Table(title=f"{options.model} on {config.name}, {options.clock_mhz:g} MHz, prompt {result.prompt}, "
                        f"context {result.context}")
    for name in ("figure", "value", "unit", "kind"):
        table.add_column(name, no_wrap=True, justify="right" if name == "value" else "left")
    table.add_column("how")
    for figure in result.figures:
        how = "cycle model" if figure.kind == "projected" else figure.note or figure.command
        table.add_row(figure.name, show(figure), "" if figure.unit == "%" else figure.unit, figure.kind, how)
    console.print(table)
    console.print(next(figure.note for figure in result.figures if figure.kind == "projected"), soft_wrap=True)
    if options.plot is not None:
        plot_roofline(result, options.plot)
        console.print(f"plot: {options.plot}", soft_wrap=True)
    if options.json is not None:
        write_summary(options.json, result.to_json())
    return 0


def synth(options: Namespace) -> int:
    """``llmrtl synth``."""
    from .synthesis import synth as run_synthesis
    return run_synthesis(options)


def bench(options: Namespace) -> int:
    """``llmrtl bench``."""
    from .synthesis import bench as run_bench
    return run_bench(options)
