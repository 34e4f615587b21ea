"""Configurations, models and prompts with which the cycle model is compared with RTL (``sim/timing``)."""

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from ..accelerators.config import AcceleratorConfig
from ..accelerators.control.isa import decode_program
from ..accelerators.model_shape import ModelShape
from ..accelerators.presets import PRESETS
from ..sim.native.build import build_driver
from ..sim.native.run import simulate
from ..sim.timing import Layout, Machine, Memory, Run
from .checkpoint import Checkpoint
from .compile import CompileError, check_fit, compile_model
from .emit import write_if_changed
from .generate import emitted_accelerator
from .image import Image
from .random_checkpoint import SHAPES, write_random_checkpoint
from .report import Book, Measurement
from .yowasp import ToolError, build_root

__all__ = ["CASES", "TOPIC", "Case", "Comparison", "compare", "predict", "run_comparisons"]

TOPIC = "timing"
"""Of ``build/bench``: the comparisons."""

_FRACTION_BITS = 20


@dataclass(frozen=True)
class Case:
    """A run of the accelerator.

    Parameters
    ----------
    name : str
    config : AcceleratorConfig
    model : ModelShape
    prompt : int
        Tokens of the prompt.
    tokens : int
        Tokens to generate, at least 2.
    latency : int
        Of the memory.
    """

    name: str
    config: AcceleratorConfig
    model: ModelShape
    prompt: int
    tokens: int = 4
    latency: int = 20


@dataclass(frozen=True)
class Comparison:
    """Cycles of the prefill and per decoded token, and the beats read, of RTL and of the model."""

    case: Case
    prefill: tuple[float, float]
    decode: tuple[float, float]
    read_beats: tuple[int, int]

    @property
    def errors(self) -> tuple[float, float]:
        """Relative errors of the model: prefill, decode."""
        (rtl, model), (rtl_decode, model_decode) = self.prefill, self.decode
        return model / rtl - 1, model_decode / rtl_decode - 1


def predict(image: Image, prompt: int, tokens: int, memory: Memory) -> Run:
    """What the model says of a generation."""
    program = list(decode_program(image.data[image.program_address:].tobytes()))
    layout = Layout(image.program_address, image.prompt_address, image.kv_record_beats, image.kv_head_stride)
    return Machine(image.config, program, layout, memory).generate(prompt, tokens)


def compare(case: Case, *, execute: bool = True) -> Comparison | None:
    """Simulate ``case`` (or remember what was simulated with the same Verilog and image) and let the model predict it.

    Without ``execute`` None for what was not simulated before. Raises ``RuntimeError`` if the accelerator reports an error.
    """
    emitted = emitted_accelerator(case.config)
    with TemporaryDirectory() as folder:
        write_random_checkpoint(Path(folder) / "model", case.model, seed=1)
        file = Path(folder) / "image.bin"
        image = compile_model(Checkpoint.open(Path(folder) / "model"), case.config, fraction_bits=_FRACTION_BITS,
                              stem=file.with_suffix(""))
        prompt = random.Random(1).choices(range(case.model.vocab_size), k=case.prompt)
        key = hashlib.sha256(repr((emitted.verilog, image.sha256, prompt, case.tokens, case.latency)).encode()).hexdigest()
        remembered = build_root() / "cache" / f"{key}.timing.json"
        if not remembered.is_file():
            if not execute:
                return None
            program = build_driver(emitted, fast=case.config.name in PRESETS)
            run = simulate(program, image, file, prompt, case.tokens, latency=case.latency)
            if run.error is not None:
                raise RuntimeError(f"{case.name}: {run.error}")
            write_if_changed(remembered, json.dumps([[token.cycle, token.read_beats] for token in run.tokens]))
    times, beats = zip(*json.loads(remembered.read_text()), strict=True)
    model = predict(image, case.prompt, case.tokens, Memory(latency=case.latency))
    steps = case.tokens - 1
    return Comparison(case, (times[0], model.tokens[0]),
                      ((times[-1] - times[0]) / steps, (model.tokens[-1] - model.tokens[0]) / steps),
                      (beats[-1], model.read_beats[-1]))


def run_comparisons(book: Book, say: Callable[[str], None], *, execute: bool = True) -> list[str]:
    """Add topic ``timing``: cycles of RTL and of the model, and its errors, of all cases. Returns what went wrong."""
    problems = []
    for case in CASES.values():
        command, reason = f"pytest -m bench tests/sim/test_timing.py -k {case.name}", "`make bench` has not been run"
        try:
            if execute:
                say(f"cycle model: {case.name}")
            compared = compare(case, execute=execute)
        except (ToolError, RuntimeError, OSError, ValueError) as error:
            compared, reason = None, str(error).splitlines()[0]
            problems.append(f"{case.name}: {error}")
        for phase, index in (("prefill", 0), ("decode", 1)):
            rtl, model = (None, None) if compared is None else (compared.prefill, compared.decode)[index]
            deviation = None if compared is None else compared.errors[index]
            book.add(TOPIC, [
                Measurement(f"{case.name}/{phase}/rtl", rtl, "cycles", "measured", command, "" if rtl is not None else reason),
                Measurement(f"{case.name}/{phase}/model", model, "cycles", "projected", command,
                            "see error" if model is not None else reason),
                Measurement(f"{case.name}/{phase}/error", deviation, "%", "derived", command,
                            "model / RTL - 1" if deviation is not None else reason)])
    book.save(TOPIC)
    return problems


def _shapes() -> dict[str, ModelShape]:
    small = SHAPES["tiny"]
    return {
        "gqa": small,
        "short": replace(small, hidden_size=32, head_dim=8),
        "mha": replace(small, hidden_size=96, intermediate_size=256, heads=6, kv_heads=6),
        "llama": replace(small, hidden_size=96, intermediate_size=144, layers=3, heads=4, kv_heads=1, activation="silu",
                         sub_norms=False, tied=False),
        "wide": replace(small, hidden_size=256, intermediate_size=640, layers=2, heads=8, kv_heads=4, head_dim=32,
                        vocab_size=1000, activation="silu"),
    }


def _variants() -> dict[str, AcceleratorConfig]:
    tiny, edge, kv260 = PRESETS["tiny"], PRESETS["edge"], PRESETS["kv260"]
    variants = {
        "pair": replace(tiny, chunks=2, token_lanes=3),
        "rows": replace(tiny, tables=5, table_rows=2, query_lanes=8, token_lanes=1, prefetch_beats=32, data_beats=16),
        "coarse": replace(edge, group_size=2, tables=10, table_rows=2, query_lanes=2, kv_bits=16, head_bits=16, prefetch_beats=64),
        "int4": replace(tiny, kv_storage="int4"),
        "double": replace(edge, bus_bits=128, memory_ports=2, vector_lanes=4, tables=13, table_rows=2, chunks=2, token_lanes=2),
        "small_kv260": replace(kv260, token_lanes=2, max_vector=1024, max_block_rows=512, vector_memory=4096, max_head_dim=64,
                               max_context=256, max_vocab=2048, prefetch_beats=512, data_beats=64, max_heads=16),
    }
    return {name: replace(config, name=f"timing_{name}") for name, config in variants.items()}


def _random(seed: int) -> Case:
    """A legal configuration and a model that fits it."""
    rng = random.Random(seed)
    while True:
        bus, lanes = rng.choice([(32, 2), (64, 2), (64, 4), (128, 8)])
        group = rng.choice([2, 3, 4])
        head_dim = 4 * lanes * rng.choice([1, 2, 3])
        kv_heads = rng.choice([1, 2, 4])
        heads = kv_heads * rng.choice([1, 2, 3])
        try:
            config = AcceleratorConfig(
                name=f"timing_random_{seed}", bus_bits=bus, vector_lanes=lanes, token_lanes=rng.randrange(1, 5), group_size=group,
                tables=rng.randrange(3, 20), table_rows=rng.choice([1, 2]), query_lanes=rng.randrange(3, 7), max_vector=528,
                max_block_rows=rng.choice([64, 256]), vector_memory=4096, max_head_dim=64, max_context=128, max_vocab=1024,
                prefetch_beats=rng.choice([64, 128, 512]), data_beats=rng.choice([16, 64]), chunks=rng.choice([1, 2]))
            model = ModelShape(
                hidden_size=heads * head_dim, intermediate_size=4 * rng.randrange(20, 100), layers=rng.randrange(1, 4), heads=heads,
                kv_heads=kv_heads, head_dim=head_dim, vocab_size=rng.randrange(100, 800), max_context=128, rope_theta=1e4,
                rms_norm_eps=1e-5, activation=rng.choice(["relu2", "silu"]), sub_norms=rng.random() < 0.7, tied=True)
            check_fit(model, config)
        except (ValueError, CompileError):
            continue
        return Case(f"random-{seed}", config, model, prompt=rng.randrange(1, 12), latency=rng.choice([8, 20, 60]))


def _cases() -> Iterator[Case]:
    shapes, variants = _shapes(), _variants()
    tiny, edge = PRESETS["tiny"], PRESETS["edge"]
    yield Case("tiny-gqa", tiny, shapes["gqa"], prompt=5)
    yield Case("tiny-mha-long", tiny, shapes["mha"], prompt=33, tokens=6)
    yield Case("tiny-gqa-context", tiny, shapes["gqa"], prompt=110, tokens=10)
    yield Case("tiny-llama-slow-memory", tiny, shapes["llama"], prompt=4, latency=60)
    yield Case("pair-gqa", variants["pair"], shapes["gqa"], prompt=8)
    yield Case("pair-llama", variants["pair"], shapes["llama"], prompt=6)
    yield Case("edge-wide", edge, shapes["wide"], prompt=11)
    yield Case("edge-mha-one", edge, shapes["mha"], prompt=1)
    yield Case("rows-gqa", variants["rows"], shapes["gqa"], prompt=3)
    yield Case("rows-mha", variants["rows"], shapes["mha"], prompt=2, latency=40)
    yield Case("coarse-wide", variants["coarse"], shapes["wide"], prompt=9)
    yield Case("int4-gqa", variants["int4"], shapes["gqa"], prompt=40, tokens=6)
    yield Case("double-wide", variants["double"], shapes["wide"], prompt=7)
    yield Case("short-gqa", PRESETS["tiny_short"], shapes["short"], prompt=100, tokens=6)
    yield Case("small-kv260-wide", variants["small_kv260"], shapes["wide"], prompt=10)
    for seed in (1, 2, 3):
        yield _random(seed)


CASES = {case.name: case for case in _cases()}
