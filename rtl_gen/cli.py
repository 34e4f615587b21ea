"""The ``llmrtl`` command."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from . import commands

__all__ = ["main"]


def _ids(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be token ids separated by commas, not {text!r}") from None


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return value


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"must be a positive number, not {text!r}")
    return value


def _formats(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", default="edge", help="accelerator configuration (see `llmrtl list`); default: %(default)s")
    parser.add_argument("--fraction-bits", type=int, metavar="N",
                        help="fraction bits of the residual stream, 0 to 24; default: by a calibration run")
    parser.add_argument("--high-precision", action="store_true",
                        help="wider K/V, LM head, embedding and probabilities: tells what a format costs from what a bug costs")


def build_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands."""
    parser = argparse.ArgumentParser(
        prog="llmrtl", description="Generates hardware for running large language models: a checkpoint goes in; Verilog, a "
        "memory image and simulated tokens that are bit-exact with a NumPy model come out.")
    commands_ = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands_.add_parser("run", help="generate text with a checkpoint on the simulated accelerator",
                               description="Compiles the checkpoint, emits and builds the accelerator, prefills the prompt and "
                               "decodes token by token; every token is compared with the golden model. Writes a summary as "
                               "JSON. Exit status 1 if a token differs.")
    run.add_argument("--checkpoint", type=Path, required=True, metavar="DIR",
                     help="Hugging Face folder or GGUF file with a ternary (BitNet b1.58) model")
    _formats(run)
    prompt = run.add_mutually_exclusive_group()
    prompt.add_argument("--prompt", metavar="TEXT", help="text to continue (needs the checkpoint's tokenizer.json)")
    prompt.add_argument("--prompt-ids", type=_ids, metavar="1,2,3", help="the prompt as token ids")
    run.add_argument("--tokens", type=_positive, default=64, metavar="N", help="tokens to generate; default: %(default)s")
    run.add_argument("--ignore-eos", action="store_true", help="go on after the end-of-text token")
    run.add_argument("--temperature", type=_temperature, metavar="T", help="sample at this temperature instead of taking the best token")
    run.add_argument("--top-k", type=_positive, metavar="K", help="sample among the best K tokens; default: the preset's limit")
    run.add_argument("--seed", type=int, default=1, metavar="S", help="seed of the sampler, 0 to 2**32 - 1; default: %(default)s")
    run.add_argument("--context", type=_positive, metavar="N", help="positions of KV cache; default: as many as model and preset allow")
    run.add_argument("--latency", type=int, default=20, metavar="CYCLES", help="read latency of the simulated memory; default: %(default)s")
    run.add_argument("--stall", type=int, default=0, metavar="PERCENT", help="cycles in which the simulated memory hesitates; default: %(default)s")
    run.add_argument("--wave", type=Path, metavar="FILE", help="write waveforms (FST; open with GTKWave or Surfer); slow, use few tokens")
    run.add_argument("--json", type=Path, default=Path("build/run/summary.json"), metavar="FILE", help="where the summary goes; default: %(default)s")
    run.set_defaults(function=commands.run)

    compare = commands_.add_parser("compare", help="compare the float reference and the golden model with another program's logits",
                                   description="EXPECTED.npz has the layout of the reference checkpoints: input_ids_I, logits_I, greedy_I. "
                                   "Prints the errors of each prompt. Exit status 1 if the float reference differs by more than the "
                                   "tolerance or by a greedy token, or if the golden model agrees on fewer greedy tokens than asked.")
    compare.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    compare.add_argument("expected", type=Path, metavar="EXPECTED.npz")
    _formats(compare)
    compare.add_argument("--tolerance", type=float, default=2e-4, help="largest logit error of the float reference; default: %(default)s")
    compare.add_argument("--agreement", type=float, default=0.0, metavar="SHARE",
                         help="least share of greedy tokens the golden model must reproduce; default: %(default)s")
    compare.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    compare.set_defaults(function=commands.compare)

    verilog = commands_.add_parser("verilog", help="write the Verilog of a unit or of the whole accelerator",
                                   description="Writes NAME.sv and its sidecar NAME.json (ports, payload fields, latency, hashes).")
    verilog.add_argument("unit", metavar="UNIT", help="a unit of `llmrtl list`, or 'accelerator'")
    verilog.add_argument("--preset", default="edge", help="default: %(default)s")
    verilog.add_argument("-o", "--output", type=Path, default=Path("build/verilog"), metavar="DIR", help="default: %(default)s")
    verilog.set_defaults(function=commands.verilog)

    list_ = commands_.add_parser("list", help="list units and presets", description="Lists every unit that can be emitted alone, and the presets.")
    list_.set_defaults(function=commands.list_units)

    image = commands_.add_parser("image", help="compile a checkpoint into a memory image, or inspect one",
                                 description="With --checkpoint: writes STEM.bin and STEM.json. Without: verifies STEM (size, hash, "
                                 "version) and prints its sections; --program also prints the program.")
    image.add_argument("stem", type=Path, metavar="STEM", help="path of the image without its suffix")
    image.add_argument("--checkpoint", type=Path, metavar="DIR")
    _formats(image)
    image.add_argument("--context", type=_positive, metavar="N")
    image.add_argument("--program", action="store_true", help="print the program")
    image.set_defaults(function=commands.image)

    synth = commands_.add_parser("synth", help="synthesize a unit or the accelerator with Yosys; place and route with nextpnr",
                                 description="Prints and stores cell counts (LUT, FF, block RAM, DSP) and with --pnr the clock frequency "
                                 "and critical path. 'all': every unit for every target, and docs/RESULTS.md.")
    synth.add_argument("unit", metavar="UNIT", help="a unit of `llmrtl list`, 'accelerator' or 'all'")
    synth.add_argument("--preset", default="edge", help="default: %(default)s")
    synth.add_argument("--target", choices=("ecp5", "xcup", "ice40"), default="ecp5", help="default: %(default)s")
    synth.add_argument("--pnr", action="store_true", help="place and route (ecp5: LFE5U-85F)")
    synth.set_defaults(function=commands.synth)

    bench = commands_.add_parser("bench", help="measure everything and write docs/RESULTS.md")
    bench.set_defaults(function=commands.bench)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status (2 for bad input, with the reason on standard error)."""
    options = build_parser().parse_args(arguments)
    try:
        return options.function(options)
    except BrokenPipeError:
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError, OverflowError, KeyError, RuntimeError) as error:
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"llmrtl {options.command}: error: {text}", file=sys.stderr)
        return 2
