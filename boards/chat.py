"""``llmrtl chat``: text with an accelerator on a board, or on a simulated one, over a serial line."""

import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import ExitStack

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from tokenizers import Tokenizer

from ..rtl_gen.arguments import configuration
from ..rtl_gen.checkpoint import Checkpoint
from ..rtl_gen.generate import chosen_sampling, compiled_image
from ..rtl_gen.image import Image
from ..rtl_gen.tokenizer import encode, load_tokenizer
from ..sim.golden.machine import Machine
from ..sim.native.run import Sampling
from .device import Device
from .host_link import HostLink, Line
from .simulated import BAUD, SimulatedBoard, build_board, emitted_board

__all__ = ["chat", "open_line"]

LINE_TIMEOUT = 0.005  # of a read: how long a reply may lie about
SIMULATION_SLOWNESS = 400.0
console = Console(highlight=False)


def open_line(port: str, baud: int) -> Line:
    """The serial port, 8N1. ``OSError`` if it cannot be opened."""
    import serial  # needed here only
    try:
        return serial.Serial(port, baud, timeout=LINE_TIMEOUT)
    except serial.SerialException as error:
        raise OSError(str(error)) from None


def chat(options: Namespace) -> int:
    """Exit status 1 if a token differs from the golden model's (with ``--check``, and always in a simulation)."""
    if (options.port is None) == (not options.simulate):
        raise ValueError("give either --port or --simulate")
    if options.seed is not None and options.temperature is None:
        raise ValueError("--seed has no effect without --temperature: the best token is taken")
    config = configuration(options)
    if config.cache in ("window", "paged"):
        command = "run" if config.cache == "window" else "serve-sim"
        raise ValueError(f"preset {config.name!r} has a KV cache of kind {config.cache!r}, which `llmrtl chat` does not use: see "
                         f"`llmrtl {command}`")
    sampling = chosen_sampling(options, config)
    checkpoint = Checkpoint.open(options.checkpoint)
    tokenizer = load_tokenizer(checkpoint)
    if options.prompt is not None and options.prompt_ids is not None:
        raise ValueError("give the prompt as --prompt or --prompt-ids, not as both")
    if tokenizer is None and options.prompt_ids is None:
        raise ValueError(f"{checkpoint.path}: there is no tokenizer.json; give the prompt as --prompt-ids")
    with console.status("compile"):
        image, _ = compiled_image(checkpoint, config, fraction_bits=options.fraction_bits)
    eos = None if options.ignore_eos else checkpoint.model.eos
    with ExitStack() as stack:
        if options.simulate:
            with console.status("build the simulator (Verilator and C++; kept for the next time)"):
                program = build_board(emitted_board(config))
            board = stack.enter_context(SimulatedBoard(program, image.memory_bytes))
            link = HostLink(open_line(board.port, BAUD), slowness=SIMULATION_SLOWNESS)
        else:
            link = HostLink(open_line(options.port, options.baud))
        device = Device(link, image)
        _load(device)
        right = True
        for prompt in _prompts(options, tokenizer):
            right &= _answer(device, tokenizer, prompt, min(options.tokens, image.positions - len(prompt) + 1), eos, sampling,
                             options.check or options.simulate)
        if link.repeats:
            console.print(f"[yellow]{link.repeats} requests were sent again[/] (bytes got lost or wrong on the line)")
    return 0 if right else 1


def _prompts(options: Namespace, tokenizer: Tokenizer | None) -> Iterator[list[int]]:
    if options.prompt_ids is not None:
        yield options.prompt_ids
        return
    assert tokenizer is not None
    if options.prompt is not None:
        yield encode(tokenizer, options.prompt)
        return
    while True:
        try:
            line = console.input("> ") if sys.stdin.isatty() else input()
        except EOFError:
            return
        if line.strip():
            yield encode(tokenizer, line)


def _load(device: Device) -> None:
    """The image, with a progress bar; a transfer that broke earlier goes on."""
    size = device.image.data.size
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("image", total=size)
        started = time.monotonic()
        sent = device.load(lambda count, sent: progress.advance(task, count))
    seconds = time.monotonic() - started
    if sent:
        console.print(f"image: {sent:,} of {size:,} bytes sent in {seconds:.1f} s, hashes right")
    else:
        console.print(f"image: {size:,} bytes are there already, hashes right")


def _answer(device: Device, tokenizer: Tokenizer | None, prompt: list[int], count: int, eos: int | None, sampling: Sampling,
            check: bool) -> bool:
    """Show the text as it comes; whether it is the golden model's (if that was asked)."""
    if count < 1:
        raise ValueError(f"the prompt has {len(prompt)} tokens; this model on preset {device.image.config.name!r} has a context of "
                         f"{device.image.positions}")
    expected = _golden(device.image, prompt, count, eos, sampling) if check else None
    ids, started, wrong = list(prompt), time.monotonic(), None
    shown = _text(tokenizer, ids)
    console.print(shown, end="", markup=False, soft_wrap=True)
    for token, value in device.generate(prompt, count, eos=eos, sampling=sampling):
        ids.append(token)
        text = _text(tokenizer, ids)
        if not text.endswith("\ufffd"):  # part of a character
            console.print(text[len(shown):], end="", markup=False, soft_wrap=True)
            shown = text
        if expected is not None and wrong is None:
            want = next(expected, None)
            if want != (token, value):
                wrong = f"token {len(ids) - len(prompt) - 1} is {token} (logit {value}), the golden model's is {want}"
    if expected is not None and wrong is None and next(expected, None) is not None:
        wrong = "the golden model goes on"
    seconds = time.monotonic() - started
    generated = len(ids) - len(prompt)
    console.print(f"\n[dim]{generated} tokens in {seconds:.1f} s ({generated / seconds:.1f} per second)[/]")
    if check:
        console.print(f"[bold red]golden_match: false[/]: {wrong}" if wrong else "[green]golden_match: true[/]")
    return wrong is None


def _golden(image: Image, prompt: list[int], count: int, eos: int | None, sampling: Sampling) -> Iterator[tuple[int, int]]:
    machine = Machine(image, seed=sampling.seed, greedy=sampling.greedy, top_k=sampling.top_k,
                      inverse_temperature=float(sampling.inverse_temperature))
    return ((step.token, step.value) for step in machine.generate(prompt, count, eos=eos))


def _text(tokenizer: Tokenizer | None, ids: list[int]) -> str:
    return " ".join(map(str, ids)) if tokenizer is None else tokenizer.decode(ids)
