"""What the subcommands of ``llmrtl`` do; ``cli.py`` parses the options."""

from argparse import Namespace
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..accelerators.control.isa import FIELDS, SCALARS, decode_program
from ..accelerators.presets import PRESETS, preset
from ..accelerators.top import Accelerator
from ..sim.timing import Memory
from .arguments import DEFAULT_PRESET, budget, configuration, retrieval, window
from .calibration import calibrate
from .checkpoint import Checkpoint
from .comparison import compare_prompts
from .compile import compile_model
from .emit import write_if_changed
from .export import FORMATS, export_files, write_export
from .generate import emitted_accelerator, write_summary
from .image import Image, image_files
from .outputs import check_file, check_files, check_folder
from .random_checkpoint import shape_named, write_random_checkpoint
from .registry import UNITS, build, emit_unit, unit
from .regmap_export import c_header, systemrdl
from .report import show_kinds
from .retrieval import with_retrieval
from .run_command import console_file, run

__all__ = ["bench", "bitstream", "chat", "compare", "console_file", "estimate", "export", "image", "list_units", "random_checkpoint",
           "run", "synth", "verilog"]

ACCELERATOR = "accelerator"
VARIES = "varies"
console = Console(highlight=False)


def chat(options: Namespace) -> int:
    """``llmrtl chat`` (``boards/chat.py``)."""
    from ..boards.chat import chat as run_chat  # boards import rtl_gen
    return run_chat(options)


def compare(options: Namespace) -> int:
    """``llmrtl compare``: exit status 1 if a figure is outside the limits."""
    config = configuration(options)
    if options.json is not None:
        check_file("--json", options.json)
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
    """``llmrtl verilog``; the accelerator comes with its register map, as C header and as SystemRDL."""
    config = (preset(options.preset or DEFAULT_PRESET) if options.unit == ACCELERATOR else
              unit(options.unit, also=(ACCELERATOR,)).config(options.preset))
    check_folder("--output", options.output)
    emitted = emitted_accelerator(config) if options.unit == ACCELERATOR else emit_unit(options.unit, config)
    paths = list(emitted.emit_to(options.output))
    if options.unit == ACCELERATOR:
        for suffix, text in ((".h", c_header(config)), (".rdl", systemrdl(config))):
            paths.append(options.output / f"{emitted.name}{suffix}")
            write_if_changed(paths[-1], text)
    for path in paths:
        console.print(str(path), markup=False, soft_wrap=True)
    return 0


def _purpose(component: type) -> str:
    """The first sentence of a component's docstring."""
    paragraph = " ".join((component.__doc__ or "").strip().partition("\n\n")[0].split())
    return paragraph.partition(". ")[0].rstrip(".:").replace("``", "")


def _cycles(promise: int | dict[str, int] | None) -> str:
    """A latency or an interval, for each kind of item if they differ."""
    if isinstance(promise, dict):
        return f"({show_kinds(promise)})"
    return VARIES if promise is None else str(promise)


def list_units(options: Namespace) -> int:
    """``llmrtl list``."""
    config: Any = preset(DEFAULT_PRESET)

    def show(name: str, component: type, reference: str, latency: str, interval: str) -> None:
        console.print(f"[bold]{name:22}[/] latency {latency}, interval {interval}  "
                      f"[dim]{reference.removeprefix('llmrtl.accelerators.')}[/]\n    {escape(_purpose(component))}", soft_wrap=True)
    for entry in UNITS.values():
        component = build(entry, entry.config())
        latency, interval = (_cycles(getattr(component, promise, None)) for promise in ("latency", "interval"))
        show(entry.name, type(component), entry.component, latency, interval)
    show(ACCELERATOR, Accelerator, "top:Accelerator", VARIES, VARIES)
    console.print(f"\nlatency and interval: cycles on preset {config.name}, of experts on tiny_duplex; {VARIES}: depends on the data\n")
    presets = Table("preset", "bus bits", "token lanes", "ternary MAC/cycle", "longest vector", "context")
    for config in PRESETS.values():
        presets.add_row(config.name, str(config.bus_bits), str(config.token_lanes),
                        str(config.tile_activations * config.table_rows * config.token_lanes), str(config.max_vector),
                        str(config.max_context))
    console.print(presets)
    return 0


def image(options: Namespace) -> int:
    """``llmrtl image``."""
    if not options.stem.name:
        raise ValueError(f"STEM {options.stem}: must end in the name of a file")
    if options.checkpoint is None:
        names = ("preset", "context", "fraction-bits", "high-precision", "window", "budget", "sinks", "recent", "threshold", "blocks",
                 "local")
        if given := [f"--{name}" for name in names
                     if (value := getattr(options, name.replace("-", "_"))) is not None and value is not False]:
            raise ValueError(f"{', '.join(given)}: only with --checkpoint; an image is what it was compiled as")
    else:
        config = configuration(options)
        check_files(("STEM", path) for path in image_files(options.stem))
        checkpoint = Checkpoint.open(options.checkpoint)
        bits, wanted = calibrate(checkpoint) if options.fraction_bits is None else options.fraction_bits, retrieval(options)
        compiled = compile_model(checkpoint, config, fraction_bits=bits, context=options.context, window=window(options),
                                 budget=budget(options), stem=None if wanted else options.stem)
        if wanted:
            with_retrieval(compiled, *wanted).save(options.stem)
    loaded = Image.load(options.stem, fresh=True)
    table = Table("section", "address", "bytes", "kind")
    for section in loaded.sections:
        table.add_row(section.name, f"{section.address:#010x}", f"{section.bytes:,}", section.kind)
    console.print(table)
    ternary = sum(section.bytes for section in loaded.sections if section.kind == "ternary")
    what = "sinks and a ring" if loaded.window else "a budget of rows" if loaded.eviction else ""
    means = loaded.retrieval and f" and means of {loaded.retrieval.records} blocks"
    console.print(f"{loaded.data.size:,} bytes, {8 * ternary / loaded.model.ternary_parameters:.3f} bits per ternary weight, "
                  f"{loaded.memory_bytes:,} bytes with a KV cache of {loaded.kv_capacity} positions{means or ''}"
                  f"{f' ({what}) for texts of up to {loaded.positions}' if what else ''}, "
                  f"sha256 {loaded.sha256[:16]}", soft_wrap=True)
    if options.program:
        for op in decode_program(loaded.data[loaded.program_address:].tobytes()):
            values = {name: getattr(op, name) for name in (*FIELDS, *SCALARS) if name not in ("opcode", "flags", "tag")}
            shown = " ".join(f"{name}={value}" for name, value in values.items() if value not in (0, (0, 0)))
            console.print(f"{op.tag:4} {loaded.operations[op.tag]:28} {op.opcode.name:9} {shown}", soft_wrap=True)
    return 0


def export(options: Namespace) -> int:
    """``llmrtl export``."""
    config = preset(options.preset or DEFAULT_PRESET)
    check_folder("--output", options.output)
    with console.status("emit Verilog"):
        files = export_files(emitted_accelerator(config), config, options.format)
    write_export(options.output, files)
    console.print(f"{options.output}: {len(files)} files for {FORMATS[options.format]}, see README.md there", soft_wrap=True)
    return 0


def random_checkpoint(options: Namespace) -> int:
    """``llmrtl random-checkpoint``."""
    shape = shape_named(options.shape)
    check_folder("--output", options.output)
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
    check_files((option, path) for option, path in (("--plot", options.plot), ("--json", options.json)) if path is not None)
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


def serve_sim(options: Namespace) -> int:
    """``llmrtl serve-sim``."""
    from .serve import serve_sim as run_service
    return run_service(options)


def synth(options: Namespace) -> int:
    """``llmrtl synth``."""
    from .synthesis import synth as run_synthesis
    return run_synthesis(options)


def bitstream(options: Namespace) -> int:
    """``llmrtl bitstream``."""
    from ..boards.bitstream import bitstream as build
    return build(options)


def bench(options: Namespace) -> int:
    """``llmrtl bench``."""
    from .bench import bench as run_bench
    return run_bench(options)
