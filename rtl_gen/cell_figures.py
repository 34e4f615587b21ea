"""``llmrtl synth UNIT --target cells``, and the page's table of what units take in standard cells."""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .emit import Emitted
from .registry import emit_unit, unit
from .report import Book, Measurement
from .standard_cells import CellArea, default_liberty, map_to_cells

__all__ = ["TOPIC", "measure_cells", "show_cells"]

TOPIC = "cells"

MEASURED = (("expert_gemm", "tiny_duplex"), ("expert_gemm", "tiny_duplex_bf16"), ("expert_gemm", "tiny_duplex_int8"),
            ("expert_rounder", "tiny_duplex"), ("expert_coprocess", "duplex"), ("ternary_lanes", "edge"), ("attention_softmax", "edge"))
"""Units and presets of the page."""


def _macs(name: str, config: Any) -> int | None:
    """Multiply-accumulates per cycle of a unit that makes them."""
    if name == "expert_gemm":
        return config.lanes * config.token_lanes
    if name == "ternary_lanes":
        return config.tile_activations * config.table_rows * config.token_lanes
    return None


def _command(name: str, config: Any) -> str:
    return f"llmrtl synth {name} --preset {config.name} --target cells"


def _figures(name: str, config: Any, area: CellArea, command: str) -> list[Measurement]:
    """``NAME/PRESET/area`` and so on."""
    head = f"{name}/{config.name}"
    figures = [Measurement(f"{head}/area", area.area, "um2", "measured", command, area.library),
               Measurement(f"{head}/flip_flops", area.flip_flops, "", "measured", command),
               Measurement(f"{head}/memory_bits", area.memory_bits, "bit", "measured", command)]
    if macs := _macs(name, config):
        figures += [Measurement(f"{head}/macs", macs, "", "derived", command, "of the configuration"),
                    Measurement(f"{head}/area_per_mac", area.area / macs, "um2", "derived", command, f"area / {macs}")]
    return figures + [Measurement(f"{head}/module/{module}", value, "um2", "measured", command)
                      for module, value in area.modules.items()]


def measure_cells(book: Book, say: Callable[[str], None]) -> list[str]:
    """The units of the page in cells of the default library; returns errors. Without the library they are not measured."""
    errors = []
    for name, preset in MEASURED:
        config = unit(name).config(preset)
        command = _command(name, config)
        try:
            area = map_to_cells(emit_unit(name, config), default_liberty())
        except FileNotFoundError as missing:
            book.add(TOPIC, [Measurement(f"{name}/{preset}/area", None, "um2", "measured", command, str(missing))])
            continue
        except Exception as error:  # whatever is wrong with one, the others are measured
            errors.append(f"{name} of {preset} in standard cells: {type(error).__name__}: {error}")
            book.add(TOPIC, [Measurement(f"{name}/{preset}/area", None, "um2", "measured", command, str(error).splitlines()[0])])
            continue
        book.add(TOPIC, _figures(name, config, area, command))
        say(f"{name:18} {preset:18} {area.area:12,.0f} um2 in {area.library}")
    book.save(TOPIC)
    return errors


def show_cells(options: Namespace, emitted: Emitted, config: Any, book: Book, console: Console) -> int:
    """``llmrtl synth UNIT --target cells [--liberty FILE]``."""
    liberty = default_liberty() if options.liberty is None else Path(options.liberty)
    if not liberty.is_file():
        raise FileNotFoundError(f"--liberty: {liberty} is not a file")
    with console.status(f"{options.unit}: standard cells of {liberty.name}"):
        area = map_to_cells(emitted, liberty)
    macs = _macs(options.unit, config)
    table = Table(title=f"{area.name} in {area.library}, areas in units of the liberty file", show_header=False)
    table.add_row("area", f"{area.area:,.0f}")
    if macs:
        table.add_row(f"per multiply-accumulate ({macs})", f"{area.area / macs:,.0f}")
    table.add_row("flip-flops", f"{area.flip_flops:,}")
    table.add_row("bits of memories (not in the area)", f"{area.memory_bits:,}")
    table.add_section()
    for module, value in sorted(area.modules.items()):
        table.add_row(module, f"{value:,.0f}")
    console.print(table)
    command = f"{_command(options.unit, config)}{'' if options.liberty is None else f' --liberty {liberty}'}"
    topic = f"synth-{options.unit}-{config.name}-{area.library}"
    book.add(topic, _figures(options.unit, config, area, command))
    console.print(f"stored: {book.save(topic)}", soft_wrap=True)
    return 0
