"""The ``llmrtl`` command."""

import argparse
import os
import shlex
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from ..sim.native.run import CLOCK_MHZ, MEMORY_MODELS, MEMORY_OPTIONS
from . import commands
from .arguments import DEFAULT_PRESET, LOCAL, SEED_LIMITS, TOKEN_LIMITS, number, token_ids, whole
from .estimate import STORIES
from .export import FORMATS
from .moe import DEFAULT_SIZE, SPLITS, moe
from .random_checkpoint import SHAPES
from .report import BENCH_PARTS
from .run_command import error_text

__all__ = ["build_parser", "main"]

_tokens, _count, _seed, _clock = whole(*TOKEN_LIMITS), whole(0, TOKEN_LIMITS[1]), whole(*SEED_LIMITS), number(*CLOCK_MHZ, "MHz")
_PRESET = "accelerator configuration (see `llmrtl list`), or a file of one: NAME.json"


def _formats(option: Callable[..., None]) -> None:
    option("--preset", help=f"{_PRESET}; default: {DEFAULT_PRESET}")
    option("--fraction-bits", type=whole(0, 24), metavar="N",
           help="fraction bits of the residual stream, 0 to 24; default: by a calibration run")
    option("--high-precision", action="store_true",
           help="wider K/V, LM head, embedding, probabilities: tells what a format costs from what a bug costs")


def _sampling(option: Callable[..., None]) -> None:
    option("--temperature", type=number(0.001, 1000), metavar="T",
           help="sample at this temperature, 0.001 to 1000; default: the best token")
    option("--top-k", type=_tokens, metavar="K",
           help="with --temperature: sample among the best K tokens; default: the preset's limit")


def _model(option: Callable[..., None]) -> None:
    option("--checkpoint", type=Path, default=Path(os.path.relpath(STORIES)), metavar="DIR",
           help="Hugging Face folder or GGUF file with a ternary (BitNet b1.58) model")


def _kept(option: Callable[..., None]) -> None:
    """What the KV cache keeps, if not all positions."""
    option("--window", type=_tokens, metavar="W",
           help="a token sees the latest W positions, itself included, and the sinks: the KV cache keeps no others, and text may be "
                "longer than it (StreamingLLM)")
    option("--budget", type=_tokens, metavar="N",
           help="the KV cache keeps N rows per head, those with the largest scores; what goes is merged into a similar row, and text "
                "may be longer than it (EMS)")
    option("--blocks", type=_tokens, metavar="N",
           help="a token sees the N blocks of the text whose mean keys fit it best, and the latest positions: no others of the KV "
                "cache are read (ReKV)")
    option("--local", type=_tokens, metavar="L",
           help=f"with --blocks: the latest L positions, and what is left of a block before them; default: {LOCAL}")
    option("--sinks", type=_count, metavar="S",
           help="the first S positions are kept; default: with --window 0, with --budget N / 8, 4 at most")
    option("--recent", type=_count, metavar="R", help="with --budget: the last R positions before a token are kept; default: N / 4")
    option("--threshold", type=number(0, 1.5), metavar="T",
           help="with --budget: cosine from which on two keys are similar; above 1 nothing is merged; default: 0.8")


def build_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands."""
    parser = argparse.ArgumentParser(
        prog="llmrtl",
        description="Generates hardware for running large language models: a checkpoint goes in; Verilog, a memory image and "
                    "simulated tokens that are bit-exact with a NumPy model come out.",
        epilog="`llmrtl COMMAND --help` explains the options of a command and gives examples.")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(function, name: str, summary: str, more: str, *examples: str) -> Callable[..., None]:
        shown = [f"llmrtl {name} {example}".rstrip() for example in examples]
        subparser = subparsers.add_parser(
            name, help=summary, description=textwrap.fill(f"{summary[0].upper()}{summary[1:]}. {more}", 100),
            epilog="\n  ".join(("example:" if len(shown) == 1 else "examples:", *shown)),
            formatter_class=argparse.RawDescriptionHelpFormatter)
        subparser.set_defaults(function=function)

        def option(*names: str, **options) -> None:
            if options.get("default") is not None:
                options["help"] += "; default: %(default)s"
            subparser.add_argument(*names, **options)
        if function in (commands.run, commands.chat, commands.compare, commands.image):
            _formats(option)
        return option

    option = command(commands.run, "run", "generate text with a checkpoint on the simulated accelerator",
                     "Compiles the checkpoint, emits and builds the accelerator, prefills the prompt and decodes token by "
                     "token; every token is compared with the golden model. Exit status 1 if one differs.",
                     "--checkpoint models/stories --prompt 'Once upon a time' --tokens 20",
                     "--checkpoint models/stories --preset tiny --prompt-ids 1,2,3 --tokens 8 --temperature 0.8 --seed 7",
                     "--window 128 --sinks 4 --tokens 700 --ignore-eos",
                     "--budget 64 --tokens 200 --ignore-eos",
                     "--blocks 4 --local 32 --tokens 200 --ignore-eos")
    _model(option)
    option("--prompt", metavar="TEXT", help="text to continue (needs the checkpoint's tokenizer.json)")
    option("--prompt-ids", type=token_ids, metavar="1,2,3", help="the prompt as token ids, instead of --prompt")
    option("--prompt-length", type=_tokens, metavar="N", help="a prompt of N random tokens (see --seed), to measure prefill")
    option("--tokens", type=_tokens, default=64, metavar="N", help="tokens to generate")
    option("--ignore-eos", action="store_true", help="go on after the end-of-text token")
    _sampling(option)
    option("--seed", type=_seed, metavar="S",
           help="seed of --temperature and of --prompt-length, 0 to 2**32 - 1; default: 1")
    option("--context", type=_tokens, metavar="N", help="positions of KV cache; default: what model and preset allow. With --window "
           "or --budget: positions of the text; default: enough for prompt and tokens")
    _kept(option)
    option("--memory-model", choices=tuple(MEMORY_MODELS), default="ideal",
           help="; ".join(f"{name}: {what}" for name, what in MEMORY_MODELS.items()))
    option("--clock-mhz", type=_clock, default=250.0, metavar="MHZ", help="clock of the accelerator, for GB/s and DRAM models")
    option("--fill-context", type=_tokens, default=0, metavar="N",
           help="start at position N with a KV cache of seeded random records instead of a prefilled one: simulates one token at "
                "a long context in minutes")
    option("--check-hidden", action="store_true",
           help="compare the final hidden state of every token as well (a digest), on an accelerator with outputs that show it")
    option("--latency", type=whole(*MEMORY_OPTIONS["latency"]), default=20, metavar="CYCLES",
           help="latency of the simulated memory; with a DRAM model that of its controller")
    option("--stall", type=whole(*MEMORY_OPTIONS["stall"]), default=0, metavar="PERCENT",
           help="cycles in which the simulated memory hesitates, 0 to 99")
    option("--read-trace", type=Path, metavar="FILE", help="write all read bursts (CSV: cycle, port, address, bytes)")
    option("--trace", type=Path, metavar="FILE",
           help="write a timeline of all units (Chrome trace JSON, for ui.perfetto.dev) and a picture of the last token beside it")
    option("--wave", type=Path, metavar="FILE",
           help="write waveforms for GTKWave or Surfer: FST if FILE ends in .fst (needs the headers of lz4 and zlib), else VCD; slow, "
                "use few tokens")
    option("--json", type=Path, metavar="FILE",
           help="also write the summary here; it is always written to build/run/summary.json. What the console shows is kept beside "
                "both, as text")

    option = command(commands.chat, "chat", "generate text with a checkpoint on a board, over a serial line",
                     "Loads the memory image (what is there already is left alone), checks it by hashes, and shows tokens as text. "
                     "Without a prompt, every line of standard input is one. A core of another version or preset is refused.",
                     "--port /dev/ttyUSB0 --checkpoint models/stories",
                     "--simulate --checkpoint models/stories --preset tiny --prompt 'Once upon a time' --tokens 4")
    option("--port", metavar="DEVICE", help="serial port of the board")
    option("--baud", type=whole(9600, 12_000_000), default=3_000_000, metavar="RATE", help="line rate that the bitstream was built for")
    option("--simulate", action="store_true", help="a simulated board on a pseudo-terminal instead; every token is compared with the "
           "golden model")
    _model(option)
    option("--prompt", metavar="TEXT", help="text to continue (needs the checkpoint's tokenizer.json)")
    option("--prompt-ids", type=token_ids, metavar="1,2,3", help="the prompt as token ids, instead of --prompt")
    option("--tokens", type=_tokens, default=64, metavar="N", help="tokens to generate at most")
    option("--ignore-eos", action="store_true", help="go on after the end-of-text token")
    option("--check", action="store_true", help="compare every token with the golden model")
    _sampling(option)
    option("--seed", type=_seed, metavar="S", help="seed of --temperature, 0 to 2**32 - 1; default: 1")

    option = command(commands.serve_sim, "serve-sim", "serve several requests at a time on the simulated accelerator",
                     "Requests share steps (continuous batching, prompts in chunks) and the beginnings of their prompts (paged KV "
                     "cache). Every token is compared with the golden model's run of its request alone. Exit status 1 if one differs.",
                     "docs/requests.json --preset tiny_paged",
                     "requests.json --preset tiny_paged --token-budget 2")
    option("requests", type=Path, metavar="REQUESTS.json",
           help='list of requests: [{"prompt": "Once upon a time", "tokens": 20}, ...]; prompt_ids instead of prompt, and, if wanted, '
                "name and arrival (number of a step)")
    _model(option)
    option("--preset", help=f"{_PRESET}, with a paged KV cache; default: {DEFAULT_PRESET}")
    option("--ignore-eos", action="store_true", help="go on after the end-of-text token")
    _sampling(option)
    option("--seed", type=_seed, metavar="S", help="seed of --temperature, 0 to 2**32 - 1; default: 1")
    option("--token-budget", type=_tokens, metavar="N",
           help="tokens of a step at most, those of prompts and those of requests past theirs together; default: as many as the preset "
                "has token lanes")
    option("--no-sharing", action="store_true", help="compute and keep every prompt from its beginning, to see what sharing saves")
    option("--no-groups", action="store_true", help="read a shared prefix for every request apart, to see what groups save")
    option("--memory-model", choices=tuple(MEMORY_MODELS), default="ideal",
           help="; ".join(f"{name}: {what}" for name, what in MEMORY_MODELS.items()))
    option("--clock-mhz", type=_clock, default=250.0, metavar="MHZ", help="clock of the accelerator, for DRAM models")
    option("--json", type=Path, metavar="FILE", help="also write the summary here")

    option = command(moe, "moe", "run a mixture-of-experts layer on the simulated expert unit",
                     "Random tokens, and random weights or those of a checkpoint; the co-processing scheduler says which experts run "
                     "on Logic-PIM, these are simulated with the memory behind the unit, and compared with the golden model bit by "
                     "bit; the xPU is a roofline. Exit status 1 if an output differs or the memory's timing was broken.",
                     "--tokens 64 --experts 8 --top-k 2", "--routing trace.csv --hidden 256 --intermediate 512",
                     "--checkpoint mixtral --layer 3 --tokens 16")
    option("--tokens", type=_tokens, metavar="N",
           help="tokens of the batch; default: what --routing has, or 64, or as many as the preset takes")
    option("--checkpoint", type=Path, metavar="DIR",
           help="a Mixtral checkpoint in Hugging Face format, instead of random weights: experts, --top-k and dimensions are its own")
    option("--layer", type=whole(0, 1023), metavar="N", help="layer of the checkpoint, from 0 on; default: 0")
    option("--experts", type=whole(8, 64), metavar="N", help=f"experts of the layer, 8 to 64; default: {DEFAULT_SIZE['experts']}")
    option("--top-k", type=whole(1, 8), metavar="K", help=f"experts of a token, 1 to 8; default: {DEFAULT_SIZE['top_k']}")
    option("--routing", type=Path, metavar="FILE.csv",
           help="experts of the tokens, instead of a router with random logits or the checkpoint's: lines token,expert,weight below a "
                "line that says so")
    option("--expert", type=whole(0, 63), metavar="N", help="all tokens go to this expert, with weight 1, instead of being routed")
    option("--hidden", type=_tokens, metavar="N", help=f"hidden dimension; default: {DEFAULT_SIZE['hidden']}")
    option("--intermediate", type=_tokens, metavar="N",
           help=f"the unit's share of the intermediate dimension; default: {DEFAULT_SIZE['intermediate']}")
    option("--preset", default="narrow_duplex", help="configuration of the expert unit")
    option("--element", choices=("fp16", "bf16", "int8"), help="format of weights and activations; default: the preset's")
    option("--policy", choices=("single", "ping-pong"),
           help="one bundle per expert, as published, or two bundles in turns; default: the preset's")
    option("--split", choices=SPLITS, default="scheduler", help="who computes: as the scheduler decides, or all on one side")
    option("--seed", type=_seed, default=1, metavar="S", help="seed of weights, tokens and logits, 0 to 2**32 - 1")
    option("--json", type=Path, metavar="FILE", help="also write the figures here")

    option = command(commands.estimate, "estimate", "tell speed, bytes and utilization of a model that need not be simulated",
                     "From the cycle model (sim/timing), which is driven by the compiled program; needs no weights. Each figure says "
                     "whether it is measured, derived or projected.",
                     "--preset edge --model stories --context 64",
                     "--model bitnet-2b-4t --context 1024 --plot build/roofline.png")
    option("--preset", default="kv260", help=_PRESET)
    option("--model", required=True, metavar="MODEL",
           help=f"stories, {', '.join(SHAPES)}, a .json file with the fields of ModelShape, or a checkpoint")
    option("--context", type=_tokens, required=True, metavar="N", help="positions in the KV cache when a token is decoded")
    option("--prompt", type=_tokens, metavar="N",
           help="tokens of the prompt for the time to first token; default: 128, or what the context holds besides a token")
    option("--clock-mhz", type=_clock, default=250.0, metavar="MHZ", help="clock of the accelerator, 1 to 1200 MHz")
    option("--latency", type=whole(1, MEMORY_OPTIONS["latency"][1]), default=20, metavar="CYCLES", help="latency of the memory")
    option("--memory-efficiency", type=number(0.01, 1), default=1.0, metavar="SHARE",
           help="share of the port's bytes per cycle that the memory sustains: what `llmrtl run --memory-model ddr4` reports as "
                "achieved, over bus bytes times clock; 0.01 to 1")
    option("--plot", type=Path, metavar="FILE.png", help="write a roofline plot")
    option("--json", type=Path, metavar="FILE", help="also write the figures here")

    option = command(commands.compare, "compare", "compare float reference and golden model with another program's logits",
                     "EXPECTED.npz has the layout of the reference checkpoints: input_ids_I, logits_I, greedy_I. Prints the "
                     "errors of each prompt. Exit status 1 if the float reference differs by more than the tolerance or by a greedy "
                     "token, or if the golden model reproduces fewer greedy tokens than asked.",
                     "models/stories expected.npz --agreement 0.9")
    option("checkpoint", type=Path, metavar="CHECKPOINT", help="Hugging Face folder or GGUF file with a ternary model")
    option("expected", type=Path, metavar="EXPECTED.npz", help="what the other program gave")
    option("--tolerance", type=number(0, 1e6), default=2e-4, help="largest logit error of the float reference")
    option("--agreement", type=number(0, 1), default=0.0, metavar="SHARE",
           help="least share of greedy tokens that the golden model must reproduce, 0 to 1")
    option("--json", type=Path, metavar="FILE", help="also write the figures here")

    option = command(commands.verilog, "verilog", "write the Verilog of a unit or of the whole accelerator",
                     "Writes NAME.sv and its sidecar NAME.json: ports, payload fields, latency, versions, hash; for the accelerator "
                     "also its registers, as C header NAME.h and as SystemRDL NAME.rdl.",
                     "ternary_engine --preset tiny", "accelerator --preset edge -o build/verilog")
    option("unit", metavar="UNIT", help="a unit of `llmrtl list`, or 'accelerator'")
    option("--preset", help=f"{_PRESET}; default: {DEFAULT_PRESET}, for parts of the expert unit tiny_duplex")
    option("-o", "--output", type=Path, default=Path("build/verilog"), metavar="DIR", help="folder to write to")

    option = command(commands.export, "export", "write a directory that stands alone, for the tools of others",
                     "The accelerator's Verilog, registers (SystemRDL, C), drivers (C, Python), memory-image format, and what the "
                     "format asks for: " + "; ".join(f"{name} for {what}" for name, what in FORMATS.items()) + ".",
                     "--format vivado --preset kv260 -o build/export/kv260", "--format fusesoc --preset edge -o build/export/edge")
    option("--format", choices=tuple(FORMATS), required=True, help="whose tools")
    option("--preset", help=f"{_PRESET}; default: {DEFAULT_PRESET}")
    option("-o", "--output", type=Path, required=True, metavar="DIR", help="an empty folder, or one to be made")

    command(commands.list_units, "list", "list units and presets", "Every unit listed can be emitted and synthesized alone.", "")

    option = command(commands.image, "image", "compile a checkpoint into a memory image, or inspect one",
                     "With --checkpoint: writes STEM.bin and STEM.json. Without: verifies STEM (size, hash, version) and prints "
                     "its sections.",
                     "build/model --checkpoint models/stories --preset edge", "build/model --program")
    option("stem", type=Path, metavar="STEM", help="path of the image without its suffix")
    option("--checkpoint", type=Path, metavar="DIR", help="the model to compile")
    option("--context", type=_tokens, metavar="N", help="positions of KV cache (with --window or --budget: of the text); default: what "
           "model and preset allow")
    _kept(option)
    option("--program", action="store_true", help="print the program")

    option = command(commands.random_checkpoint, "random-checkpoint", "write a checkpoint with random weights",
                     "For speed and size of a model of full scale: in Hugging Face format, sharded, the same bytes for the same "
                     "seed. It generates nonsense.",
                     "bitnet-0.73b -o build/checkpoints/bitnet-0.73b")
    option("shape", metavar="SHAPE", help=f"{', '.join(SHAPES)}, or a .json file with the fields of ModelShape")
    option("-o", "--output", type=Path, required=True, metavar="DIR", help="an empty folder, or one to be made")
    option("--seed", type=_seed, default=1, metavar="N", help="seed of the weights, 0 to 2**32 - 1")

    option = command(commands.synth, "synth", "synthesize a unit or the accelerator with Yosys",
                     "Prints and stores LUT, FF, block RAM and DSP; with --pnr also clock frequency and critical path. 'all': "
                     "every unit for ECP5 and UltraScale+, the accelerator placed and routed, into docs/RESULTS.md.",
                     "ternary_engine --pnr", "accelerator --preset kv260 --target xcup", "expert_gemm --target cells")
    option("unit", metavar="UNIT", help="a unit of `llmrtl list`, 'accelerator' or 'all'")
    option("--preset", help=f"{_PRESET}; default: {DEFAULT_PRESET}, for parts of the expert unit tiny_duplex")
    option("--target", choices=("ecp5", "xcup", "ice40", "cells"), default="ecp5", help="device family, or standard cells")
    option("--liberty", metavar="FILE", help="liberty file of the standard cells; default: osu018 of Debian's qflow-tech-osu018")
    option("--pnr", action="store_true", help="place and route (ecp5: LFE5U-85F)")

    option = command(commands.bitstream, "bitstream", "build the bitstream of a board",
                     "Accelerator, SDRAM controller and host link: synthesis, place and route, packing, with open tools. Writes "
                     "BOARD.bit (.bin, .fs), the report BOARD.json (clock, utilization, margins of the SDRAM's pins), Verilog and "
                     "constraints. Takes many minutes; results are kept by content. Exit status 1 if timing is not met.",
                     "--board ulx3s-85f", "--board ulx3s-85f --memory")
    option("--board", required=True, metavar="BOARD", help="ulx3s-85f; icepi-zero (--memory); icebreaker, tang-nano-9k (self-test)")
    option("--preset", help=f"{_PRESET}; default: the board's")
    option("--memory", action="store_true", help="host link and memory alone, to try a board: built in a minute")
    option("--seeds", type=whole(1, 100), default=3, metavar="N", help="try so many seeds of place and route until timing is met")
    option("-o", "--output", type=Path, default=Path("build/bitstream"), metavar="DIR", help="folder to write to")

    option = command(commands.bench, "bench", "measure everything and write docs/RESULTS.md",
                     "Synthesizes every unit, places and routes, simulates the shipped, the reference and the 0.73B checkpoints. Takes "
                     "hours from nothing; results are kept by content, so an interrupted or repeated run goes on where it stopped.",
                     "", "--only units timing")
    option("--only", nargs="+", choices=BENCH_PARTS, metavar="PART",
           help=f"measure only these: {', '.join(BENCH_PARTS)}; docs/RESULTS.md keeps what was measured before, and is "
                "written when there is nothing that was never measured")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status (2 for bad input, with the reason on standard error)."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = build_parser().parse_args(arguments)
    options.command_line = shlex.join(["llmrtl", *arguments])
    try:
        return options.function(options)
    except BrokenPipeError:
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError, OverflowError, KeyError, RuntimeError) as error:
        print(f"llmrtl {options.command}: error: {error_text(error)}", file=sys.stderr)
        return 2
