"""From a checkpoint to generated text: calibrate, compile, emit, build, simulate; every token is checked."""

import hashlib
import json
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..accelerators.config import AcceleratorConfig
from ..accelerators.control.isa import Opcode, decode_program
from ..accelerators.control.regmap import UNIT_EVENTS, UNIT_NAMES
from ..accelerators.top import Accelerator
from ..sim.golden.machine import Machine, Step
from ..sim.native.build import build_driver
from ..sim.native.locate import first_difference
from ..sim.native.run import Generated, Run, Sampling, simulate
from .calibration import calibrate
from .checkpoint import Checkpoint
from .compile import Budget, compile_model
from .emit import Emitted, emit
from .files import write_atomically
from .formats import cache_bytes, storage_name
from .image import Image, ImageError, image_files
from .retrieval import with_retrieval
from .yowasp import build_root

__all__ = ["DEFAULT_SEED", "Outcome", "cache_summary", "chosen_sampling", "compiled_image", "emitted_accelerator", "generate",
           "locate_mismatch", "summarize", "write_summary"]

DEFAULT_SEED = 1


def compiled_image(checkpoint: Checkpoint, config: AcceleratorConfig, *, fraction_bits: int | None = None,
                   context: int | None = None, window: tuple[int, int] | None = None, budget: Budget | None = None,
                   retrieval: tuple[int, int] | None = None, progress: Callable[[str], None] = lambda name: None
                   ) -> tuple[Image, Path]:
    """Image and its ``.bin`` file in ``build/images``, compiled unless the same one is there and intact. ``retrieval``: blocks and
    latest positions that attention sees (``with_retrieval``)."""
    settings = [checkpoint.sha256, config.to_json(), fraction_bits, context, window, budget and asdict(budget), _compiler_hash()]
    if retrieval is not None:
        settings.append(retrieval)
    key = hashlib.sha256(json.dumps(settings).encode())
    stem = build_root() / "images" / f"{checkpoint.path.name}-{config.name}-{key.hexdigest()[:12]}"
    try:
        return Image.load(stem), image_files(stem)[0]
    except ImageError:
        pass
    if retrieval is not None:
        image, _ = compiled_image(checkpoint, config, fraction_bits=fraction_bits, context=context, window=window, budget=budget,
                                  progress=progress)
        progress("scales of the means of blocks")
        image = with_retrieval(image, *retrieval)
        image.save(stem)
        return image, image_files(stem)[0]
    if fraction_bits is None:
        progress("calibration")
        fraction_bits = calibrate(checkpoint)
    image = compile_model(checkpoint, config, fraction_bits=fraction_bits, context=context, window=window, budget=budget,
                          progress=progress, stem=stem)
    return image, image_files(stem)[0]


def _compiler_hash() -> str:
    """Hash of the sources that decide what an image contains."""
    here = Path(__file__).parent
    sources = [*(here / name for name in ("compile.py", "tensors.py", "image.py", "generate.py", "retrieval.py", "split.py")),
               *sorted((here.parent / "sim/golden").glob("*.py")),
               *(here.parent / "accelerators" / name for name in ("config.py", "rules.py", "kv_records.py", "model_shape.py",
                                                                  "control/isa.py", "ternary/code.py"))]
    digest = hashlib.sha256()
    for source in sources:
        digest.update(source.read_bytes() if source.is_file() else b"")
    return digest.hexdigest()


@lru_cache(maxsize=8)  # seconds each
def emitted_accelerator(config: AcceleratorConfig, *, observe: bool = False, trace: bool = False) -> Emitted:
    """Verilog and sidecar of the whole accelerator (``observe``: with outputs for every operation's result, ``trace``: for
    what is busy)."""
    name = f"accelerator_{config.name}" + "_observed" * observe + "_traced" * trace
    return emit(Accelerator(config, observe=observe, trace=trace), name, config)


@dataclass
class Outcome:
    """A generation and its comparison with the golden model."""

    run: Run
    steps: list[Step] = field(default_factory=list)
    mismatch: str | None = None
    seconds: float = 0.0
    fill_context: int = 0
    hidden_state_compared: bool = False

    @property
    def golden_match(self) -> bool:
        return self.mismatch is None and self.run.error is None and len(self.steps) == len(self.run.tokens) > 0


def generate(image: Image, image_file: Path, emitted: Emitted, prompt: Sequence[int], count: int, *,
             eos: int | None = None, sampling: Sampling = Sampling(), wave: Path | None = None,
             on_token: Callable[[Generated], None] = lambda token: None, fill_context: int = 0, check_hidden: bool = False,
             **memory: Any) -> Outcome:
    """Run the simulated accelerator; the golden model keeps pace and the first difference is recorded.

    ``fill_context``: begin at this position, behind a K/V cache of seeded random records (``Machine.fill_cache``).
    ``check_hidden``: compare the final hidden state of every token as well (``emitted`` needs ``observe``).
    """
    program = build_driver(emitted, wave=wave)
    machine = Machine(image, seed=sampling.seed, greedy=sampling.greedy, top_k=sampling.top_k,
                      inverse_temperature=float(sampling.inverse_temperature))
    expected = machine.generate(prompt, count, eos=eos)
    outcome = Outcome(Run(), fill_context=fill_context, hidden_state_compared=check_hidden)
    started = time.monotonic()

    def check(token: Generated) -> None:
        on_token(token)
        step = next(expected, None)
        if step is None:
            outcome.mismatch = outcome.mismatch or f"step {len(outcome.steps)}: the golden model had stopped"
            return
        outcome.steps.append(step)
        differences = _differences(step, token, check_hidden)
        if outcome.mismatch is None and differences:
            outcome.mismatch = f"step {len(outcome.steps) - 1} (position {step.position}): {'; '.join(differences)}"

    with tempfile.TemporaryDirectory() as folder:
        memory |= _filled(machine, fill_context, Path(folder))
        outcome.run = simulate(program, image, image_file, prompt, count, eos=eos, sampling=sampling, wave=wave,
                               on_token=check, hidden=check_hidden, **memory)
    if outcome.mismatch is None and outcome.run.error is None and next(expected, None) is not None:
        outcome.mismatch = f"the accelerator stopped after {len(outcome.run.tokens)} tokens, the golden model goes on"
    outcome.seconds = time.monotonic() - started
    return outcome


def _differences(step: Step, token: Generated, check_hidden: bool) -> list[str]:
    """What the golden model says otherwise of a token."""
    differences = []
    if check_hidden and token.hidden != step.hidden:
        seen = "was not seen whole" if token.hidden is None else f"has digest {token.hidden:#010x}"
        differences.append(f"the accelerator's final hidden state {seen}, the golden model's {step.hidden:#010x}")
    if (token.token, token.value) != (step.token, step.value):
        differences.append(f"the accelerator chose token {token.token} (logit {token.value}), the golden model "
                           f"{step.token} ({step.value})")
    return differences


def _filled(machine: Machine, positions: int, folder: Path) -> dict[str, Any]:
    """Fill the golden model's cache; options with which ``simulate`` starts from the same one."""
    if not positions:
        return {}
    machine.fill_cache(positions)
    records = folder / "cache.bin"
    return {"start_position": positions, "preload": [(machine.write_cache(records), records)]}


def locate_mismatch(image: Image, image_file: Path, prompt: Sequence[int], run: Run, *, eos: int | None = None,
                    sampling: Sampling = Sampling(), fill_context: int = 0, **memory: Any) -> str:
    """Run again on an accelerator that shows every operation's result; says which one differs first from the golden model.

    The options are those of the ``generate`` that gave ``run``.
    """
    emitted = emitted_accelerator(image.config, observe=True)
    program = build_driver(emitted)
    with tempfile.TemporaryDirectory() as folder:
        observed = Path(folder) / "observed.bin"
        simulate(program, image, image_file, prompt, len(run.tokens), eos=eos, sampling=sampling, observe=observed,
                 **memory, **_filled(Machine(image), fill_context, Path(folder)))
        difference = first_difference(image, observed, prompt, [token.token for token in run.tokens], fill_context)
    return str(difference) if difference is not None else "no operation differs: what is left are the sampler and the token output"


def _engine_summary(image: Image, prompt_tokens: int, generated: int, busy: int | None) -> dict[str, Any]:
    """How densely the ternary weights lie in memory, and how busy the lookup lanes were while a matrix was under way."""
    linears = [op for op in decode_program(image.data[image.program_address:].tobytes()) if op.opcode is Opcode.LINEAR]
    chunks = len(image.prompt_chunks(prompt_tokens)) + max(generated - 1, 0)
    weight_bytes = sum(section.bytes for section in image.sections if section.kind == "ternary")
    return {
        "ternary_bits_per_weight": round(8 * weight_bytes / image.model.ternary_parameters, 4),
        "lookup_utilization": round(chunks * sum(op.rows * op.tiles for op in linears) / busy, 4) if busy else None,
    }


def _memory_summary(run: Run, config: AcceleratorConfig, decode_bytes_per_cycle: float | None, memory_model: str,
                    clock_mhz: float) -> dict[str, Any]:
    """Bandwidth over the whole run and while decoding, its bound (ports, or DRAM less refresh), what the DRAM model counted."""
    ports = config.bus_bytes * clock_mhz / 1000
    bound = ports if run.dram is None else min(ports, run.dram.sustained_gb_s)
    moved = sum(map(sum, run.port_beats)) * config.port_bits // 8
    bandwidth = {"run": moved / run.cycles * clock_mhz / 1000 if run.cycles else 0.0}
    if decode_bytes_per_cycle is not None:
        bandwidth["decode"] = decode_bytes_per_cycle * clock_mhz / 1000
    summary: dict[str, Any] = {
        "model": memory_model, "clock_mhz": clock_mhz,
        "achieved_gb_s": {phase: round(value, 4) for phase, value in bandwidth.items()}, "bound_gb_s": round(bound, 4),
        "share_of_bound": {phase: round(value / bound, 4) for phase, value in bandwidth.items()},
    }
    if run.dram is not None:
        summary |= {"dram_peak_gb_s": run.dram.peak_gb_s, "dram_refresh_share": round(run.dram.refresh_share, 4),
                    "dram_statistics": run.dram.statistics,
                    "dram_timing": {name: {"clocks": clocks, "ns": ns} for name, (clocks, ns) in run.dram.timing.items()}}
    return summary


def summarize(outcome: Outcome, image: Image, emitted: Emitted, prompt: Sequence[int], *, memory_model: str = "ideal",
              clock_mhz: float = 250.0) -> dict[str, Any]:
    """What ``build/run/summary.json`` holds."""
    run, registers = outcome.run, outcome.run.registers
    tokens = run.tokens
    bus = image.config.bus_bytes
    summary: dict[str, Any] = {
        "golden_match": outcome.golden_match, "hidden_state_compared": outcome.hidden_state_compared,
        "mismatch": outcome.mismatch, "error": run.error,
        "fill_context": outcome.fill_context, "prompt_tokens": len(prompt), "tokens_generated": len(tokens),
        "tokens": [token.token for token in tokens],
        "parameters": image.model.parameters, "checkpoint_sha256": image.checkpoint_sha256, "image_sha256": image.sha256,
        "verilog_sha256": emitted.sidecar["sha256"], "preset": image.config.name,
        "fraction_bits": image.fraction_bits, "simulation_seconds": round(outcome.seconds, 2), "kv_cache": cache_summary(image),
    }
    decode_bytes_per_cycle = None
    if tokens:
        first, last = tokens[0], tokens[-1]
        steps = max(len(tokens) - 1, 1)
        decode_cycles = last.cycle - first.cycle
        reads, writes = last.read_beats - first.read_beats, last.write_beats - first.write_beats
        if decode_cycles:
            decode_bytes_per_cycle = (reads + writes) * bus / decode_cycles
        summary |= {
            "cycles_prefill": first.cycle, "cycles_decode": decode_cycles,
            "cycles_per_decoded_token": round(decode_cycles / steps, 1),
            "bytes_read_per_token": round(reads * bus / steps), "bytes_written_per_token": round(writes * bus / steps),
            "read_utilization_decode": round(reads / decode_cycles, 4) if decode_cycles else None,
            "read_utilization_prefill": round(first.read_beats / first.cycle, 4),
            "cycles_total": registers.get("CYCLES"),
            "simulated_cycles_per_second": round(last.cycle / outcome.seconds) if outcome.seconds else None,
        }
    summary |= _engine_summary(image, len(prompt), len(tokens), registers.get("ENGINE_BUSY"))
    summary["port_beats"] = [{"read": read, "written": written} for read, written in run.port_beats]
    summary["port_utilization"] = [round(read / run.cycles, 4) if run.cycles else None for read, _ in run.port_beats]
    summary["memory"] = _memory_summary(run, image.config, decode_bytes_per_cycle, memory_model, clock_mhz)
    summary["units"] = {unit: {event: registers.get(f"{unit}_{event}".upper()) for event in UNIT_EVENTS}
                        for unit in UNIT_NAMES}
    summary["registers"] = {name: registers[name] for name in sorted(registers)}
    return summary


def chosen_sampling(options: Namespace, config: AcceleratorConfig) -> Sampling:
    """What ``--temperature``, ``--top-k`` and ``--seed`` ask for."""
    if options.temperature is None:
        if options.top_k is not None:
            raise ValueError("--top-k has no effect without --temperature: the best token is taken")
        return Sampling()
    top_k = options.top_k or config.top_k
    if top_k > config.top_k:
        raise ValueError(f"--top-k must be at most {config.top_k} on preset {config.name!r}, not {top_k}")
    return Sampling(False, top_k, options.temperature, DEFAULT_SEED if options.seed is None else options.seed)


def cache_summary(image: Image) -> dict[str, Any]:
    """The KV cache: positions it has room for, bytes per position (also of one layer, and in other formats) and in all, and what is
    seen of the text if not all of it."""
    layers, layer = image.model.layers, cache_bytes(image.model, image.config)
    per_position = layers * image.model.kv_heads * image.kv_record_beats * image.config.bus_bytes
    cache = {"kind": image.config.cache, "storage": storage_name(image.config), "positions": image.kv_capacity,
             "bytes_per_position": per_position, "bytes_per_position_and_layer": per_position // layers,
             "bytes_per_position_in": {storage: layers * size for storage, size in layer.items()},
             "bytes": image.kv_capacity * per_position}
    if image.retrieval is not None:
        return cache | asdict(image.retrieval) | {"bytes_of_means": image.retrieval.records * per_position}
    kept = image.window or image.eviction
    return cache if kept is None else cache | asdict(kept) | {"positions": image.kv_capacity, "text_positions": image.positions}


def write_summary(path: Path, summary: dict[str, Any]) -> None:
    """Write the summary as JSON, whole or not at all."""
    write_atomically(path, (json.dumps(summary, indent=1) + "\n").encode())
