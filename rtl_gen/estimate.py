"""What an accelerator will do with a model, from the cycle model: no weights, no simulation of hardware.

Every figure is a ``Measurement``: *projected* ones come from the cycle model (with its error against RTL where that was
measured), *derived* ones follow from them or from the program, *measured* ones are areas that were synthesized before.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..accelerators.config import AcceleratorConfig
from ..accelerators.control.isa import Opcode
from ..accelerators.integers import ceil_div
from ..accelerators.model_shape import ModelShape
from ..sim.timing import Layout, Machine, Memory, Run
from .checkpoint import Checkpoint
from .compile import CompileError, Plan, plan
from .formats import cache_bytes, storage_name
from .random_checkpoint import SHAPES, shape_named
from .report import Book, Measurement, bench_folder
from .timing_cases import TOPIC
from .yosys import TARGETS

__all__ = ["CycleModel", "Estimate", "Point", "estimate", "model_named", "prompt_figures"]

STORIES = Path(__file__).parent.parent / "models" / "stories"
EXACT_GROUPS = 6
"""Groups of prompt tokens up to which every one is gone through; of longer prompts some, and others lie between them."""

SAMPLES = 4
RESOURCES = ("lut", "ff", "bram", "uram", "dsp")


@dataclass(frozen=True)
class Point:
    """A kind of work in the roofline plot.

    Parameters
    ----------
    name : str
    phase : ``"prefill"`` or ``"decode"``
    macs : int
        Multiply-accumulates.
    bytes : int
        Read from memory for them.
    cycles : float
        In which its unit is at work.
    """

    name: str
    phase: str
    macs: int
    bytes: int
    cycles: float

    @property
    def intensity(self) -> float:
        """Operations (two per multiply-accumulate) per byte."""
        return 2 * self.macs / self.bytes

    @property
    def rate(self) -> float:
        """Multiply-accumulates per cycle."""
        return self.macs / self.cycles


@dataclass(frozen=True)
class Estimate:
    """Figures of one configuration, model and context.

    Members
    -------
    figures : list of Measurement
    points : list of Point
        Of the roofline plot.
    port_bytes : float
        Bytes per cycle that the memory gives.
    roofs : dict of str to float
        Multiply-accumulates per cycle of each phase's ternary lanes.
    """

    config: AcceleratorConfig
    model: ModelShape
    context: int
    prompt: int
    clock_mhz: float
    memory: Memory
    figures: list[Measurement]
    points: list[Point]
    port_bytes: float
    roofs: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Everything, also what the plot shows."""
        return asdict(self) | {"points": [asdict(point) | {"operations_per_byte": point.intensity, "macs_per_cycle": point.rate}
                                          for point in self.points]}


def model_named(text: str) -> ModelShape:
    """The shipped checkpoint, a shape of ``SHAPES``, a JSON file of a shape, or a checkpoint; ``ValueError`` says what is wrong."""
    if text == "stories":
        return Checkpoint.open(STORIES).model
    path = Path(text)
    if text in SHAPES or path.suffix == ".json":
        if text not in SHAPES and not path.is_file():
            raise ValueError(f"{path}: no such file")
        return shape_named(text)
    if path.exists():
        return Checkpoint.open(path).model
    raise ValueError(f"model must be one of stories, {', '.join(SHAPES)}, a checkpoint or a .json file, not {text!r}")


class CycleModel:
    """Runs of the cycle model for one program."""

    def __init__(self, planned: Plan, memory: Memory) -> None:
        self.planned, self.memory = planned, memory
        self.layout = Layout(planned.program_address, planned.prompt_address, planned.kv_record_beats, planned.kv_head_stride)
        self.group = planned.config.token_slots

    def run(self, prompt: int, tokens: int, position: int = 0) -> Run:
        return Machine(self.planned.config, self.planned.program, self.layout, self.memory).generate(prompt, tokens, position)

    def prefill(self, prompt: int) -> float:
        """Cycles to the first token. A group (the chunks in flight) costs what a third one adds to two; between some positions
        that is taken to be linear in the position."""
        size = self.group
        groups, rest = divmod(prompt, size)
        if groups <= EXACT_GROUPS:
            return self.run(prompt, 1).tokens[0]

        def third(length: int, position: int) -> float:
            """What ``length`` tokens at ``position`` add, behind two groups."""
            begin = position - 2 * size
            return self.run(2 * size + length, 1, begin).tokens[0] - self.run(2 * size, 1, begin).tokens[0]

        places = sorted({2 + round(step * (groups - 3) / (SAMPLES - 1)) for step in range(SAMPLES)})
        costs = [third(size, place * size) for place in places]
        total = self.run(2 * size, 1).tokens[0] + costs[0]
        for (left, right), (low, high) in zip(pairwise(places), pairwise(costs), strict=True):
            steps = right - left
            total += sum(low + (high - low) * step / steps for step in range(1, steps + 1))
        return total + (third(rest, groups * size) if rest else 0)


def estimate(config: AcceleratorConfig, model: ModelShape, *, context: int, prompt: int | None = None, clock_mhz: float = 250.0,
             memory: Memory = Memory(), command: str = "llmrtl estimate") -> Estimate:
    """Go through the prefill of ``prompt`` tokens and one decoded token at the end of ``context`` positions.

    ``prompt`` is the smaller of 128 and ``context - 1`` by default. Raises ``CompileError`` for a model that does not fit the
    configuration, and for a context that one of them does not have.
    """
    if config.cache != "contiguous":
        raise CompileError(f"the cycle model knows a cache of kind 'contiguous' only; preset {config.name!r} has {config.cache!r}")
    planned = plan(model, config, context)
    if context < 2:
        raise CompileError(f"context must be at least 2, a prompt and a token, not {context}")
    prompt = min(128, context - 1) if prompt is None else prompt
    if not 1 <= prompt < context:
        raise CompileError(f"prompt must be in 1..{context - 1}, with room for a token in the context, not {prompt}")
    cycles = CycleModel(planned, memory)
    prefill = cycles.prefill(prompt)
    decode = cycles.run(1, 2, context - 2)
    return Estimate(config, model, context, prompt, clock_mhz, memory,
                    list(_figures(planned, prefill, decode, context, prompt, clock_mhz, memory, command)),
                    _points(cycles, decode, context, prompt), config.bus_bytes * memory.efficiency,
                    {phase: float(config.tile_activations * config.table_rows * tokens)
                     for phase, tokens in (("prefill", config.token_lanes), ("decode", 1))})


def prompt_figures(config: AcceleratorConfig, model: str, prompt: int, clock_mhz: float) -> list[Measurement]:
    """What a long prompt costs and which part of it is attention: ``prefill-PROMPT/...``, from the cycle model, ideal memory."""
    run = CycleModel(plan(shape_named(model), config), Memory()).run(prompt, 1)
    cycles, attended, matrices = run.tokens[0], run.busy[Opcode.ATTEND], run.busy[Opcode.LINEAR]
    command, note, head = "llmrtl bench --only timing", _error(), f"prefill-{prompt}"
    return [
        Measurement(f"{head}/cycles_prefill", round(cycles), "cycles", "projected", command, note),
        Measurement(f"{head}/attention_cycles", round(attended), "cycles", "projected", command, note),
        Measurement(f"{head}/attention_share", attended / cycles, "%", "derived", command, "cycles of attention / cycles"),
        Measurement(f"{head}/matrix_share", matrices / cycles, "%", "derived", command, "cycles of ternary matrices / cycles"),
        Measurement(f"{head}/prompt_tokens_per_second", prompt * clock_mhz * 1e6 / cycles, "1/s", "derived", command,
                    f"{prompt} tokens * {clock_mhz:g} MHz / cycles"),
    ]


def _figures(planned: Plan, prefill: float, decode: Run, context: int, prompt: int, clock_mhz: float, memory: Memory,
             command: str) -> Iterator[Measurement]:
    config, model = planned.config, planned.model
    error = _error()

    def projected(name: str, value: float, unit: str) -> Measurement:
        return Measurement(name, value, unit, "projected", command, error)

    def derived(name: str, value: float, unit: str, formula: str) -> Measurement:
        return Measurement(name, value, unit, "derived", command, formula)

    token = decode.tokens[1] - decode.tokens[0]
    beats = decode.read_beats[1] - decode.read_beats[0]
    hertz = clock_mhz * 1e6
    written = model.layers * model.kv_heads * planned.kv_record_beats
    weights = sum(op.beats for op in planned.program if op.opcode is Opcode.LINEAR)
    head = sum(op.beats for op in planned.program if op.opcode is Opcode.HEAD)
    macs = model.ternary_parameters * prompt
    lanes = config.tile_activations * config.table_rows * config.token_lanes
    bus = config.bus_bytes
    yield derived("parameters", model.parameters, "", "from the shape")
    yield derived("memory", planned.memory_bytes, "bytes", f"image, prompt buffer and KV cache of {context} positions")
    yield projected("prefill/cycles", prefill, "cycles")
    yield derived("prefill/time_to_first_token", prefill / hertz, "s", "cycles / clock")
    yield derived("prefill/tokens_per_second", prompt * hertz / prefill, "1/s", f"{prompt} tokens * clock / cycles")
    yield derived("prefill/lane_utilization", macs / lanes / prefill, "%", "ternary multiply-accumulates / lanes / cycles")
    yield projected("decode/cycles_per_token", token, "cycles")
    yield derived("decode/tokens_per_second", hertz / token, "1/s", "clock / cycles per token")
    yield projected("decode/bytes_read_per_token", beats * bus, "bytes")
    yield derived("decode/bytes_of_ternary_weights", weights * bus, "bytes", "beats of the program's matrices")
    yield derived("decode/bytes_of_lm_head", head * bus, "bytes", "beats of the program's LM head")
    yield derived("decode/bytes_of_cache", model.layers * model.kv_heads * planned.kv_record_beats * context * bus, "bytes",
                  "layers * KV heads * record * context")
    yield derived("decode/bytes_written_per_token", written * bus, "bytes", "layers * KV heads * record")
    layer, record = cache_bytes(model, config), "KV heads * record, with scales and padding to bus words"
    yield derived("cache/bytes_per_token", model.layers * layer[storage_name(config)], "bytes",
                  f"{storage_name(config)}: layers * {record}")
    yield derived("cache/bytes_per_token_and_layer", layer[storage_name(config)], "bytes", f"{storage_name(config)}: {record}")
    for storage, size in layer.items():
        yield derived(f"cache/bytes_per_token/{storage}", model.layers * size, "bytes", f"if it were {storage}: layers * {record}")
    yield derived("decode/port_utilization", beats / token, "%", "beats read / cycles")
    yield derived("decode/bandwidth", beats * bus * clock_mhz / 1e3 / token, "GB/s", "bytes read / cycles * clock")
    if memory.efficiency < 1:
        yield derived("decode/memory_utilization", beats / token / memory.efficiency, "%", "beats read / cycles / efficiency")
    yield from _areas(config)


def _error() -> str:
    """What is known of the cycle model's error."""
    book = Book(bench_folder())
    if not book.load(TOPIC):
        return "cycle model; its error was not measured here: `make bench`"
    errors = {name: figure.value for name, figure in book.topics[TOPIC].items() if name.endswith("/error")}
    known = [abs(value) for value in errors.values() if isinstance(value, (int, float))]
    return f"cycle model, within {max(known):.2%} of RTL in {len(known)} comparisons (build/bench/{TOPIC}.json)"


def _areas(config: AcceleratorConfig) -> Iterator[Measurement]:
    """Stored results of synthesis, of whatever command stored them."""
    stored = Book(bench_folder())
    for file in sorted(stored.folder.glob("*.json")) if stored.folder.is_dir() else ():
        with suppress(ValueError):  # other commands keep files of their own there
            stored.load(file.stem)
    for target in TARGETS:
        command = f"llmrtl synth accelerator --preset {config.name} --target {target}"
        found = {figure.name: figure for figures in stored.topics.values() for figure in figures.values()
                 if figure.command.startswith(command) and figure.value is not None}
        names = [name for name in (f"accelerator/{target}/{resource}" for resource in RESOURCES) if name in found]
        for name in names:
            yield replace(found[name], name=name.replace("accelerator", "area", 1))
        if not names:
            yield Measurement(f"area/{target}", None, "", "measured", command, f"not synthesized here: `{command}`")


def _points(cycles: CycleModel, decode: Run, context: int, prompt: int) -> list[Point]:
    """Work of a decoded token at the end of the context, and of the prompt's first groups."""
    model, config, bus = cycles.planned.model, cycles.planned.config, cycles.planned.config.bus_bytes
    head_macs = model.vocab_size * model.hidden_size
    attended = 2 * model.layers * model.heads * model.head_dim
    half = _Share(decode, 2)  # a prompt token and a generated one
    points = [
        Point("linears", "decode", model.ternary_parameters, round(half.beats["weights"] * bus), half.busy[Opcode.LINEAR]),
        Point("attention", "decode", attended * context, round(half.beats["cache"] * bus), half.busy[Opcode.ATTEND]),
        Point("LM head", "decode", head_macs, round(half.beats["head"] * bus), half.busy[Opcode.HEAD]),
    ]
    tokens = min(prompt, EXACT_GROUPS * cycles.group)
    run = cycles.run(tokens, 1)
    chunks = ceil_div(tokens, config.token_lanes)
    rows = tokens * (tokens + 1) // 2
    points += [
        Point("linears", "prefill", model.ternary_parameters * tokens, run.beats["weights"] * bus, run.busy[Opcode.LINEAR]),
        Point("attention", "prefill", attended * rows, run.beats["cache"] * bus, run.busy[Opcode.ATTEND]),
    ]
    assert run.beats["weights"] == chunks * half.beats["weights"]
    return points


class _Share:
    """A part of a run."""

    def __init__(self, run: Run, parts: int) -> None:
        self.beats = {kind: beats / parts for kind, beats in run.beats.items()}
        self.busy = {opcode: cycles / parts for opcode, cycles in run.busy.items()}
