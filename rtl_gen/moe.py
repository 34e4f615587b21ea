"""``llmrtl moe``: a mixture-of-experts layer on the simulated expert unit."""

from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from ..accelerators.experts.config import EXPERT_PRESETS, ExpertConfig
from ..accelerators.names import unknown_name
from ..sim.golden.coprocess import decide
from ..sim.golden.experts import Route, outputs, results_of
from ..sim.golden.experts import moe as golden_layer
from ..sim.random_layer import ExpertLayer, random_layer, real, stored_layer
from ..sim.timing.experts import ExpertShape, layer_cycles
from ..sim.traces.experts import ExpertRun, run_experts
from .generate import write_summary
from .mixtral import MixtralExperts
from .outputs import check_file
from .routing import one_expert, random_routes, read_routes, router_routes

__all__ = ["CLOCK_MHZ", "DEFAULT_SIZE", "SPLITS", "XPU_FLOPS", "UnitTimes", "checkpoint_layer", "moe", "simulated_layer"]

CLOCK_MHZ = 650
"""Logic clock, half of the command clock (Duplex, arXiv:2409.01141)."""

XPU_FLOPS, XPU_CHANNELS = 989e12, 160
"""Peak of the xPU (H100, fp16, dense), and the pseudo channels that share it: 5 stacks of 32."""

DEFAULT_SIZE = {"experts": 8, "top_k": 2, "hidden": 512, "intermediate": 1792}
"""Of a layer with random weights."""

SPLITS = ("scheduler", "logic-pim", "xpu")
console = Console(highlight=False)


@dataclass(frozen=True)
class UnitTimes:
    """Times of an expert on a unit and on its share of the xPU, in logic cycles.

    The xPU is a roofline: the normal path gives a quarter of what bundles give; peak arithmetic, shared by all pseudo channels.
    """

    config: ExpertConfig
    shape: ExpertShape

    def pim(self, tokens: int) -> int:
        """By the cycle model, alone on the unit."""
        return round(layer_cycles(self.config, [tokens], self.shape)[0]) if tokens else 0

    def xpu(self, tokens: int) -> int:
        words, width = sum(self.shape.sizes(self.config)), self.config.word_bytes / 128
        flops = 2 * tokens * words * self.config.lanes
        return max(4 * words, round(flops * CLOCK_MHZ * 1e6 / (XPU_FLOPS / XPU_CHANNELS * width))) if tokens else 0

    def tables(self, most: int) -> tuple[list[int], list[int]]:
        """Of the xPU and of Logic-PIM for 0 to ``most`` tokens; Logic-PIM works on whole tiles."""
        lanes = self.config.token_lanes
        tiles = [self.pim(tile * lanes) for tile in range(-(-most // lanes) + 1)]
        return [self.xpu(n) for n in range(most + 1)], [tiles[-(-n // lanes)] for n in range(most + 1)]


def simulated_layer(config: ExpertConfig, layer: ExpertLayer, mask: int) -> tuple[ExpertRun, bool]:
    """The experts in ``mask`` on the simulated unit, and whether their outputs are those of the golden model."""
    chosen = {number: expert for number, expert in enumerate(layer.experts) if mask >> number & 1}
    run = run_experts(config, layer.x, layer.routes, chosen, total=len(layer.experts))
    return run, np.array_equal(run.outputs, outputs(config, layer.x, layer.routes, chosen))


def checkpoint_layer(config: ExpertConfig, source: MixtralExperts, layer: int, x: np.ndarray,
                     routes: Sequence[Sequence[Route]] | None = None) -> ExpertLayer:
    """A layer of a checkpoint with real tokens ``x`` [tokens, hidden], which its router sends to experts unless ``routes`` does."""
    def matrices() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for number in range(source.experts):
            gate, up, down = source.expert(layer, number)
            yield np.concatenate([gate, up]), down
    return stored_layer(config, x, matrices(), router_routes(config, x, source.router(layer)) if routes is None else routes)


def moe(options: Namespace) -> int:
    """``llmrtl moe``: exit status 0 if every output equals the golden model's and the memory's timing was kept, 1 if not."""
    source, size = _size(options)
    config = _config(options, size, source)
    if options.json is not None:
        check_file("--json", options.json)
    rng = np.random.default_rng(options.seed)
    routes, tokens = None, min(64, config.max_tokens) if options.tokens is None else options.tokens
    if options.expert is not None:
        if options.routing is not None:
            raise ValueError("--expert and --routing both say where the tokens go: leave one of them out")
        routes = one_expert(config, options.expert, tokens)
    elif options.routing is not None:
        routes = read_routes(options.routing, config)
        if options.tokens not in (None, len(routes)):
            raise ValueError(f"--tokens {options.tokens}, but {options.routing} has {len(routes)}")
        tokens = len(routes)
    if source is None:
        layer = random_layer(config, rng, hidden=size["hidden"], intermediate=size["intermediate"], experts=config.experts,
                             routes=random_routes(config, rng, tokens) if routes is None else routes)
    else:
        layer = checkpoint_layer(config, source, options.layer or 0, rng.standard_normal((tokens, size["hidden"])), routes)
    shape = ExpertShape(size["hidden"] // config.lanes, size["intermediate"] // config.lanes)
    times = UnitTimes(config, shape).tables(max(layer.counts))
    decision = decide(layer.counts, *times)
    mask = {"scheduler": decision.mask, "logic-pim": (1 << config.experts) - 1, "xpu": 0}[options.split]
    console.print(f"{tokens} tokens, {config.experts} experts of {size['hidden']} x {size['intermediate']} ({config.element}), "
                  f"preset {config.name}, seed {options.seed}" + (f", layer {options.layer or 0} of {source.path}" if source else ""))
    with console.status("[cyan]simulate (the simulator is built first and kept for the next time)"):
        run, match = simulated_layer(config, layer, mask)
    summary = _summary(config, layer, mask, run, match, times)
    on_pim = [count if mask >> number & 1 else 0 for number, count in enumerate(layer.counts)]
    # Refreshes go on from reset; the input buffer is filled before the first instruction.
    model = layer_cycles(config, on_pim, shape, tokens * shape.hidden_words + 1)
    summary["cycles_of_the_model"] = round(model[-1]) if model else 0
    whole = real(golden_layer(config, layer.x, layer.routes, layer.experts, mask), results_of(config))
    truth = layer.truth(config)
    summary["relative_rms_error"] = float(np.sqrt(np.mean((whole - truth) ** 2) / np.mean(truth ** 2)))
    _report(summary)
    if options.json is not None:
        write_summary(options.json, summary | {"command": options.command_line})
    return 0 if match and not run.broken else 1


def _size(options: Namespace) -> tuple[MixtralExperts | None, dict[str, int]]:
    """The checkpoint if there is one; experts, top_k and dimensions. ``ValueError`` names an option that does not go with another."""
    given = {name: getattr(options, name) for name in DEFAULT_SIZE}
    if options.checkpoint is None:
        if options.layer is not None:
            raise ValueError("--layer is one of a checkpoint: give --checkpoint too")
        return None, {name: DEFAULT_SIZE[name] if value is None else value for name, value in given.items()}
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"--{name.replace('_', '-')} is what --checkpoint says: leave it out")
    source = MixtralExperts(options.checkpoint)
    if (options.layer or 0) >= source.layers:
        raise ValueError(f"--layer must be in 0..{source.layers - 1}, the layers of {source.path}, not {options.layer}")
    return source, {name: getattr(source, name) for name in DEFAULT_SIZE}


def _config(options: Namespace, size: Mapping[str, int], source: MixtralExperts | None) -> ExpertConfig:
    """The preset with what the options change; ``ValueError`` names an option, or key of the checkpoint, that does not fit."""
    if options.preset not in EXPERT_PRESETS:
        raise unknown_name("preset", options.preset, EXPERT_PRESETS)
    config = EXPERT_PRESETS[options.preset]
    element = options.element or config.element
    ping_pong = config.ping_pong if options.policy is None else options.policy == "ping-pong"
    if (element, ping_pong) != (config.element, config.ping_pong):
        config = replace(config, name=f"{config.name}_{element}_{'ping_pong' if ping_pong else 'single'}", element=element,
                         ping_pong=ping_pong)
    if size["top_k"] > size["experts"]:
        raise ValueError(f"--top-k must be at most --experts, not {size['top_k']} of {size['experts']}")
    for name, most in (("hidden", config.max_hidden), ("intermediate", config.max_intermediate)):
        if size[name] % config.lanes or not config.lanes <= size[name] <= most:
            where = f"--{name}" if source is None else f"{source.path}: {name}_size"
            raise ValueError(f"{where} must be a multiple of {config.lanes} in {config.lanes}..{most} with preset {options.preset}, "
                             f"not {size[name]}")
    if options.tokens is not None and options.tokens > config.max_tokens:
        raise ValueError(f"--tokens must be at most {config.max_tokens} with preset {options.preset}, not {options.tokens}")
    try:
        return replace(config, experts=size["experts"], top_k=size["top_k"])
    except ValueError as error:
        raise ValueError(f"{source.path}: {error}" if source else str(error)) from None


def _summary(config: ExpertConfig, layer: ExpertLayer, mask: int, run: ExpertRun, match: bool,
             times: tuple[Sequence[int], Sequence[int]]) -> dict[str, Any]:
    finished = iter(run.finished)
    experts: list[dict[str, Any]] = []
    for number, count in enumerate(layer.counts):
        on_pim = bool(mask >> number & 1)
        experts.append({"expert": number, "tokens": count, "on": "-" if not count else "logic-pim" if on_pim else "xpu",
                        "finished": next(finished) if count and on_pim else None})
    xpu = sum(times[0][count] for number, count in enumerate(layer.counts) if not mask >> number & 1)
    seconds, counters = run.cycles / (CLOCK_MHZ * 1e6), run.counters
    return {
        "tokens": len(layer.routes), "experts": experts, "cycles_logic_pim": run.cycles, "cycles_xpu": xpu,
        "makespan": max(run.cycles, xpu), "bytes": counters["memory_bytes"],
        "gb_s": counters["memory_bytes"] / seconds / 1e9 if seconds else 0.0,
        "peak_gb_s": config.word_bytes * CLOCK_MHZ / 1000, "busy": run.busy,
        "stalls": {name: counters[name] for name in ("starved", "waiting", "held")},
        "memory": {name.removeprefix("memory_"): value for name, value in counters.items() if name.startswith("memory_")},
        "commands": dict(run.commands), "timing_violations": len(run.broken), "simulation_seconds": run.seconds, "golden_match": match}


def _report(summary: dict[str, Any]) -> None:
    table = Table("expert", "tokens", "on", "finished (cycle)", box=None)
    for each in summary["experts"]:
        table.add_row(str(each["expert"]), str(each["tokens"]), each["on"], "" if each["finished"] is None else f"{each['finished']:,}")
    console.print(table)
    rows = [("cycles on Logic-PIM (measured)", f"{summary['cycles_logic_pim']:,}"),
            ("the same by the cycle model (projected)", f"{summary['cycles_of_the_model']:,}"),
            ("cycles on the xPU (projected, roofline)", f"{summary['cycles_xpu']:,}"),
            ("bytes", f"{summary['bytes']:,}"),
            ("bandwidth", f"{summary['gb_s']:.2f} of {summary['peak_gb_s']:.2f} GB/s ({summary['gb_s'] / summary['peak_gb_s']:.1%})"),
            ("cycles with a weight for all lanes", f"{summary['busy']:.1%}"),
            ("other cycles", ", ".join(f"{name} {value:,}" for name, value in summary["stalls"].items())),
            ("memory waits for", ", ".join(f"{name} {summary['memory'][name]:,}" for name in ("row", "refresh", "commands", "full"))),
            ("activates, refreshes", f"{summary['memory']['activates']:,}, {summary['memory']['refreshes']:,}"),
            ("timing violations", str(summary["timing_violations"])),
            ("error of the layer against float64", f"{summary['relative_rms_error']:.2e}"),
            ("simulation", f"{summary['simulation_seconds']:.1f} s")]
    figures = Table(show_header=False, box=None, pad_edge=False)
    for name, value in rows:
        figures.add_row(name, value)
    console.print(figures)
    if summary["golden_match"]:
        console.print("[green]golden_match: true[/] (every output of the unit equals the NumPy model's)")
    else:
        console.print("[bold red]golden_match: false")
