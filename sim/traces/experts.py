"""A layer on the emitted expert unit: simulated in C++ with the memory behind it, whose commands a timing checker judges."""

import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...accelerators.experts.bundle_controller import COUNTERS as MEMORY_COUNTERS
from ...accelerators.experts.config import SLOTS, ExpertConfig
from ...accelerators.experts.core import COUNTERS
from ...accelerators.experts.dram_commands import Command, data_cycles, slot_layout
from ...accelerators.experts.errors import ERROR_TEXT, ExpertError
from ...rtl_gen.registry import emit_unit
from ..bench.layout import Codec
from ..golden.dram import TimingChecker
from ..golden.expert_attention import no_attention
from ..golden.experts import Expert, Placement, Route, expert_tokens, interleaved, memory_image, packed, place
from .player import PlayError, compiled_player

__all__ = ["ExpertRun", "run_experts"]

GIVEN = np.dtype([("slot", "<u8"), ("bits", "<u8")])
CHECKED = 100_000
"""As many commands, the first ones, go through the timing checker, which takes longer than the simulation."""

STREAMS = ("i_x", "i", "i_tokens", "i_read")


@dataclass(frozen=True)
class ExpertRun:
    """What came of a layer.

    Attributes
    ----------
    outputs : array [tokens, hidden]
        Bits of the result format.
    finished : list of int
        Cycle of each expert's response, from the first instruction on.
    counters : dict
        Of the unit: cycles with an expert, words, and cycles without one by cause. ``memory_*``: of the memory controller.
    commands : Counter
        What the memory got.
    broken : list
        Timing rules that were broken, by the first ``CHECKED`` commands.
    seconds : float
        Time of the simulation.
    """

    outputs: np.ndarray
    finished: list[int]
    counters: dict[str, int]
    commands: Counter[str]
    broken: list[tuple[int, str, str]]
    seconds: float

    @property
    def cycles(self) -> int:
        """From the first instruction to the last response."""
        return self.finished[-1] if self.finished else 0

    @property
    def busy(self) -> float:
        """Share of the cycles in which all multiply-accumulates of a tile had a weight."""
        return self.counters["words"] / self.cycles if self.cycles else 0.0


def run_experts(config: ExpertConfig, x: np.ndarray, routes: list[list[Route]], experts: Mapping[int, Expert], *,
                total: int | None = None) -> ExpertRun:
    """The tokens ``x`` through ``experts``, those with tokens, in ascending order.

    ``total``: experts of the layer, which share the memory spaces; as many as the largest number says otherwise. Raises ``PlayError``
    if the unit refuses an expert, stops, or reads a row that is not open.
    """
    used = [number for number in sorted(experts) if expert_tokens(routes, number)]
    tokens, hidden = x.shape
    if not used:
        return ExpertRun(np.zeros(x.shape, np.int64), [], _counters([]), Counter(), [], 0.0)
    emitted = emit_unit("expert_unit", config)
    matrices = {number: (packed(config, interleaved(experts[number])), packed(config, experts[number].down)) for number in used}
    places = place(config, [[len(words) for words in matrices.get(number, ())] for number in range(total or used[-1] + 1)])
    image = memory_image(config, [(at, words) for number in used for at, words in zip(places[number], matrices[number], strict=True)])
    items = {"i_x": [{"token": token, "word": k, "value": int.from_bytes(word.tobytes(), "little")}
                     for token, words in enumerate(packed(config, x).reshape(tokens, -1, config.word_bytes))
                     for k, word in enumerate(words)],
             "i": [_instruction(config, experts[number], places[number], number == used[0]) for number in used],
             "i_tokens": [item for number in used for item in _tokens(expert_tokens(routes, number))],
             "i_read": [{"token": token, "element": k} for token in range(tokens) for k in range(hidden)]}
    codecs = {each["name"]: Codec(each["payload"], each["name"]) for each in emitted.sidecar["streams"]}
    program = compiled_player(emitted, _header(config, codecs), Path(__file__).parent / "experts.cpp")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "memory").write_bytes(image.tobytes())
        for stream in STREAMS:
            size = 4 * -(-codecs[stream].width // 32)
            (folder / stream).write_bytes(b"".join(codecs[stream].pack(item)[0].to_bytes(size, "little") for item in items[stream]))
        started = time.perf_counter()
        done = subprocess.run([str(program), name], capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - started
        if done.returncode:
            raise PlayError(f"the expert unit: {done.stderr.strip() or 'the simulation crashed'}")
        commands = np.fromfile(folder / "commands", GIVEN)
        responses = np.fromfile(folder / "responses", "<u8").reshape(-1, 2).tolist()
        out = np.fromfile(folder / "outputs", "<u4").astype(np.int64).reshape(tokens, hidden)
        counted = np.fromfile(folder / "counters", "<u4").tolist()
    for number, (_, cause) in zip(used, responses, strict=True):
        if cause:
            raise PlayError(f"the expert unit refused expert {number}: {ERROR_TEXT[ExpertError(cause)]}")
    checker = checked(config, commands)
    return ExpertRun(out, [cycle for cycle, _ in responses], _counters(counted), _seen(config, commands), checker.broken, seconds)


def _instruction(config: ExpertConfig, expert: Expert, places: list[Placement], first: bool) -> dict[str, Any]:
    gate_up, down = ({"bundle": at.bundle, "row": at.row, "column": 0} for at in places)
    scales = {} if config.format.exponent_bits else {
        "scales": [{"mantissa": mantissa, "exponent": exponent} for mantissa, exponent in expert.scales]}
    return {"gate_up": gate_up, "down": down, "hidden_words": expert.gate.shape[1] // config.lanes,
            "slice_words": len(expert.gate) // config.lanes, "first": int(first), **scales,
            **no_attention(config)}


def _tokens(tokens: list[Route]) -> list[dict[str, int]]:
    return [{"token": token, "weight": weight, "last": int(k == len(tokens) - 1)} for k, (token, weight) in enumerate(tokens)]


def _header(config: ExpertConfig, codecs: Mapping[str, Codec]) -> str:
    """What the program has to know of the layouts."""
    fields = dict(iter(slot_layout(config)))
    values = {"BUNDLES": config.bundles, "COLUMNS": config.columns, "WORDS": config.timing.ccd // SLOTS,
              "WORD_BYTES": config.word_bytes,
              "DATA_CYCLES": data_cycles(config), "DUE": data_cycles(config) + config.timing.ccd, "SLOT_BITS": slot_layout(config).size,
              **{f"{name.upper()}_AT": fields[name].offset for name in ("bundle", "row", "column")},
              **{f"{name.upper()}_BITS": fields[name].width for name in ("bundle", "row", "column")},
              **{each.name: each.value for each in Command},
              "COUNTER_BITS": COUNTERS.size, "MEMORY_COUNTER_BITS": MEMORY_COUNTERS.size,
              "X_BITS": codecs["i_x"].width, "EXPERT_BITS": codecs["i"].width, "TOKEN_BITS": codecs["i_tokens"].width,
              "READ_BITS": codecs["i_read"].width}
    return "\n".join(("#pragma once", *(f"constexpr unsigned {name} = {value};" for name, value in values.items()), ""))


def checked(config: ExpertConfig, commands: np.ndarray) -> TimingChecker:
    """The timing checker after the first ``CHECKED`` of ``commands`` (slot, bits)."""
    commands = commands[:CHECKED]
    checker, names = TimingChecker(config.timing, config.bundles, config.activate_limits), {each.value: each.name for each in Command}
    columns = [(commands["bits"] >> np.uint64(field.offset) & np.uint64((1 << field.width) - 1)).tolist()
               for _, field in slot_layout(config)]
    for slot, command, *where in zip(commands["slot"].tolist(), *columns, strict=True):
        checker.command(slot, names[command], *where)
    return checker


def _seen(config: ExpertConfig, commands: np.ndarray) -> Counter[str]:
    field = dict(iter(slot_layout(config)))["command"]
    numbers = commands["bits"].astype(np.int64) >> field.offset & (1 << field.width) - 1
    return Counter({each.name: count for each in Command if (count := int((numbers == each.value).sum()))})


def _counters(parts: list[int]) -> dict[str, int]:
    """Of the unit, then of the memory controller, from 16 bits at a time."""
    values: dict[str, int] = {}
    for prefix, layout in (("", COUNTERS), ("memory_", MEMORY_COUNTERS)):
        count = -(-layout.size // 16)
        bits = sum(part << 16 * k for k, part in enumerate(parts[:count]))
        parts = parts[count:]
        values |= {prefix + name: bits >> field.offset & (1 << field.width) - 1 for name, field in layout}
    return values
