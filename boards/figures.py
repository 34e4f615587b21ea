"""Figures of boards for ``docs/RESULTS.md``: bandwidth of the SDRAM in simulation, bitstreams, speed of the shipped model."""

import hashlib
import json
from collections.abc import Callable

from ..accelerators.config import AcceleratorConfig
from ..accelerators.memory.sdram import SdramController
from ..accelerators.memory.sdram_chips import SdramConfig
from ..accelerators.presets import preset
from ..rtl_gen.emit import write_if_changed
from ..rtl_gen.estimate import estimate, model_named
from ..rtl_gen.registry import UNITS, emit_unit
from ..rtl_gen.report import Book, Measurement
from ..rtl_gen.yowasp import ToolError, build_root
from ..sim.bench.runner import run_unit
from ..sim.timing import Memory
from ..sim.timing.promises import promised
from .bitstream import build_bitstream
from .board import BOARDS, Board
from .system import memory_config

__all__ = ["TOPIC", "board_figures"]

TOPIC = "boards"
_COMMAND = "llmrtl bench --only boards"
_UNIT = "sdram_controller"
_CONTEXT = 64


def _accelerator(board: Board) -> AcceleratorConfig:
    assert board.preset is not None
    return preset(board.preset)


def _memory(board: Board) -> SdramConfig:
    assert board.memory is not None
    return memory_config(_accelerator(board), board.memory)


def bandwidth(board: Board, execute: bool) -> dict[str, float] | None:
    """Shares of the SDRAM's data bus that sequential reads and writes reach, with the board's memory; remembered by content."""
    config = _memory(board)
    emitted = emit_unit(_UNIT, config)
    file = build_root() / "cache" / f"{hashlib.sha256(repr((emitted.verilog, config)).encode()).hexdigest()}.bandwidth.json"
    if not file.is_file():
        if not execute:
            return None
        report = run_unit(UNITS[_UNIT], config, seed=1, cases=["bandwidth"],
                          folder=build_root() / "runs" / f"{_UNIT}-{board.name}-bandwidth")
        if not report.ok:
            raise RuntimeError(str(report))
        write_if_changed(file, json.dumps(report.figures))
    return json.loads(file.read_text())


def _memory_figures(board: Board, shares: dict[str, float]) -> list[Measurement]:
    assert board.memory is not None
    peak, figures = board.memory.peak_mb_s, []
    for direction in ("read", "write"):
        share = shares[f"{direction}_share"]
        figures += [
            Measurement(f"{board.name}/sdram_{direction}_share", share, "%", "measured", _COMMAND,
                        "sequential, refreshes included; chip model with the data sheet's timing"),
            Measurement(f"{board.name}/sdram_{direction}", share * peak, "MB/s", "derived", _COMMAND, f"share * {peak:g} MB/s")]
    return figures


def _speed(board: Board, share: float) -> Measurement:
    config = _accelerator(board)
    memory = _memory(board)
    result = estimate(config, model_named("stories"), context=_CONTEXT, clock_mhz=board.clock_mhz, memory=Memory(
        promised(SdramController(memory)).latency["closed"], share * 2 / config.bus_bytes))
    figure = next(figure for figure in result.figures if figure.name == "decode/tokens_per_second")
    return Measurement(f"{board.name}/tokens_per_second", figure.value, "1/s", "projected", _COMMAND,
                       f"shipped model at context {_CONTEXT}: cycle model, bandwidth of the SDRAM as measured, clock of the board")


def _bitstream_figures(board: Board) -> list[Measurement]:
    built = build_bitstream(board, _accelerator(board), build_root() / "bitstream", seeds=(1, 2, 3))
    command = f"llmrtl bitstream --board {board.name}"

    def measured(name: str, value: float | str | bool, unit: str = "", note: str = "") -> Measurement:
        return Measurement(f"{board.name}/{name}", value, unit, "measured", command, note)

    return [measured("clock", board.clock_mhz, "MHz", "asked for"),
            measured("fmax", min(built.fmax_mhz.values()), "MHz", f"seed {built.seed}"), measured("timing_met", built.met),
            *(measured(f"used/{name}", f"{used:,} of {built.available[name]:,}") for name, used in built.used.items())]


def board_figures(book: Book, say: Callable[[str], None], *, execute: bool = True) -> list[str]:
    """Add topic ``boards``; returns errors. Without ``execute`` only remembered figures of the memory are used."""
    errors = []
    for board in (board for board in BOARDS.values() if board.preset is not None):
        try:
            say(f"{board.name}: bandwidth of its SDRAM")
            shares = bandwidth(board, execute)
            if shares is not None:
                book.add(TOPIC, [*_memory_figures(board, shares), _speed(board, shares["read_share"])])
            if execute:
                say(f"{board.name}: bitstream")
                book.add(TOPIC, _bitstream_figures(board))
        except (ToolError, RuntimeError, OSError, ValueError) as error:
            errors.append(f"{board.name}: {error}")
            book.add(TOPIC, [Measurement(f"{board.name}/fmax", None, "MHz", "measured", _COMMAND, str(error).splitlines()[0])])
    book.save(TOPIC)
    return errors
