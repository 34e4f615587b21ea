"""``llmrtl synth``: measures units and the accelerator, shows and stores the figures.

A unit that fails does not lose the others: its figures are stored as not measured with the reason, the errors are
listed at the end and the exit status is 1. Yosys and nextpnr keep their results by content, so an interrupted
command goes on where it stopped.
"""

from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from amaranth.lib import wiring
from rich.console import Console
from rich.table import Table

from ..accelerators.config import AcceleratorConfig
from ..accelerators.presets import preset
from ..accelerators.top import Accelerator
from .arguments import DEFAULT_PRESET
from .cell_figures import show_cells
from .emit import Emitted
from .generate import emitted_accelerator
from .nextpnr import DEVICE, Placement, in_harness, place_and_route
from .registry import AT, UNITS, build, emit_unit, unit
from .report import DATA_DEPENDENT, Book, Measurement, bench_folder
from .yosys import TARGETS, Synthesis, synthesize

__all__ = ["ACCELERATOR", "CACHES", "config_for", "console", "lookup_macs", "measure_all", "measure_caches", "measure_engines",
           "measure_kv260", "measured_units", "synth", "unit_name"]

ACCELERATOR = "accelerator"
SEEDS = (1,)
"""Seeds with which the accelerator is placed: a run takes half an hour, and not every seed can be routed. Units are placed once."""

ENGINE_SEEDS = (1, 2)

_SMALL = ("lut", "ff", "bram", "uram", "dsp", "lutram")
_PLACED = ("LUT", "FF", "BRAM", "DSP")
console = Console(highlight=False)


def _top(name: str, config: AcceleratorConfig) -> str:
    """Verilog name of the top module."""
    return f"{name}_{config.name}" if name == ACCELERATOR else unit_name(name)


def _component(name: str, config: AcceleratorConfig) -> wiring.Component:
    return Accelerator(config) if name == ACCELERATOR else build(unit_name(name), config)


def measured_units() -> list[str]:
    """What is measured on FPGAs: names of units, and ``NAME at PRESET`` for each further configuration of one."""
    return [row for name, entry in UNITS.items() if entry.synthesized
            for row in (name, *(f"{name}{AT}{also}" for also in entry.also_measured))]


def unit_name(row: str) -> str:
    """Name of the unit, without its preset, of one of ``measured_units``."""
    return row.partition(AT)[0]


def config_for(row: str, config: Any) -> Any:
    """The preset in a row's name; else ``config``, or the measured one of a unit that takes others."""
    name, _, named = row.partition(AT)
    if named:
        return UNITS[name].config(named)
    return config if name == ACCELERATOR or UNITS[name].measured == DEFAULT_PRESET else UNITS[name].config()


def _emitted(name: str, config: AcceleratorConfig, target: str) -> Emitted:
    """What is synthesized for ``target``; the accelerator for ECP5 once for area and placement: in its harness."""
    if name != ACCELERATOR:
        return emit_unit(unit_name(name), config)
    return in_harness(Accelerator(config), _top(name, config)) if target == "ecp5" else emitted_accelerator(config)


def _command(name: str, config: AcceleratorConfig, target: str, place: bool = False) -> str:
    return f"llmrtl synth {unit_name(name)} --preset {config.name} --target {target}{' --pnr' if place else ''}"


def area_figures(name: str, config: AcceleratorConfig, target: str, result: Synthesis) -> list[Measurement]:
    """Figures ``NAME/TARGET/lut`` and so on; below the accelerator also ``NAME/part/INSTANCE/LUT``."""
    command = _command(name, config, target)
    figures = [Measurement(f"{name}/{target}/{field}", getattr(result, field), "", "measured", command) for field in _SMALL]
    figures += [Measurement(f"{name}/{target}/cells/{cell}", count, "", "measured", command)
                for cell, count in result.cells.items()]
    if name == ACCELERATOR:
        figures += [Measurement(f"{name}/part/{path}/{resource}", count, "", "measured", command)
                    for path, counts in _parts(result).items() for resource, count in counts.items()]
    return figures


def _parts(area: Synthesis) -> dict[str, dict[str, int]]:
    """The hierarchy down to the units of the core, without the harness of registers."""
    paths = {path.removeprefix("unit."): counts for path, counts in area.hierarchy.items() if path != "unit"}
    return {path: counts for path, counts in paths.items() if path.count(".") < 2}


def clock_figures(name: str, config: AcceleratorConfig, result: Placement) -> list[Measurement]:
    """Figures ``NAME/ecp5/fmax``, ``path``, ``seeds``, ``used/LUT``, ``available/LUT``, ``share/LUT``."""
    command, head = _command(name, config, "ecp5", place=True), f"{name}/ecp5"
    seeds = ", ".join(f"{mhz:.1f} (seed {seed})" for seed, mhz in result.seeds.items())
    figures = [
        Measurement(f"{head}/fmax", result.fmax_mhz, "MHz", "measured", command, f"speed grade 6, seed {result.seed}"),
        Measurement(f"{head}/seeds", seeds, "MHz", "measured", command),
        Measurement(f"{head}/path", str(result.critical_path), "", "measured", command),
    ]
    for resource in _PLACED:
        figures += [
            Measurement(f"{head}/used/{resource}", result.used[resource], "", "measured", command),
            Measurement(f"{head}/available/{resource}", result.available[resource], "", "measured", command),
            Measurement(f"{head}/share/{resource}", result.share(resource), "%", "derived", command, "used / available"),
        ]
    return figures


def promise_figures(name: str, emitted: Emitted) -> list[Measurement]:
    """``NAME/latency`` and ``NAME/interval``: promised by the component, measured by its bench on the Verilog; ``NAME/verilog``: its
    hash."""
    command = f"pytest tests/test_units.py -k {unit_name(name)}"
    hashed = Measurement(f"{name}/verilog", emitted.sidecar["sha256"], "", "measured", command)
    return [hashed] + [Measurement(f"{name}/{figure}", emitted.sidecar[figure], "cycles", "measured", command,
                        "" if emitted.sidecar[figure] is not None else DATA_DEPENDENT)
            for figure in ("latency", "interval")]


def _missing(name: str, config: AcceleratorConfig, target: str, error: Exception) -> list[Measurement]:
    reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
    figures = [f"{name}/{target}/{field}" for field in _SMALL]
    if target == "ecp5":
        figures += [f"{name}/ecp5/fmax", f"{name}/ecp5/path"]
    return [Measurement(figure, None, "", "measured", _command(name, config, target), reason) for figure in figures]


def measure(name: str, config: AcceleratorConfig, target: str, place: bool,
            say: Callable[[str], None] = lambda what: None) -> tuple[list[Measurement], Synthesis, Placement | None]:
    """Area, and with ``place`` clock frequency, of a unit (one seed) or the accelerator (``SEEDS``)."""
    say(f"{name}: synthesis for {target}")
    area = synthesize(_emitted(name, config, target), target)
    figures = area_figures(name, config, target, area)
    placement = None
    if place:
        say(f"{name}: place and route for {DEVICE}")
        placement = place_and_route(_component(name, config), _top(name, config),
                                    SEEDS if name == ACCELERATOR else (1,))
        figures += clock_figures(name, config, placement)
    return figures, area, placement


def measure_all(book: Book, asked: AcceleratorConfig, names: Sequence[str] | None = None) -> list[str]:
    """Every measured unit for ECP5 and UltraScale+, then the accelerator (or only ``names`` of them); returns errors."""
    errors = []
    with console.status("") as status:
        for name in (*measured_units(), ACCELERATOR) if names is None else names:
            topic, config = ACCELERATOR if name == ACCELERATOR else "units", config_for(name, asked)
            if name != ACCELERATOR:
                try:
                    book.add(topic, promise_figures(name, emit_unit(unit_name(name), config)))
                except Exception as error:  # whatever a unit does wrong, the others are measured
                    errors.append(f"{name}: {type(error).__name__}: {error}")
                    for target in ("ecp5", "xcup"):
                        book.add(topic, _missing(name, config, target, error))
                    continue
            for target in ("ecp5", "xcup"):
                try:
                    figures, area, placement = measure(name, config, target, target == "ecp5", status.update)
                except Exception as error:
                    errors.append(f"{name} for {target}: {type(error).__name__}: {error}")
                    figures = _missing(name, config, target, error)
                else:
                    console.print(_line(area, placement))
                book.add(topic, figures)
            book.save(topic)
    return errors


ENGINES = tuple(replace(preset("edge"), name=f"p{tokens}", bus_bits=128, vector_lanes=4, tables=26, token_lanes=tokens)
                for tokens in (1, 2, 4))
"""A 128-bit weight stream into 26 tables, with several numbers of token lanes."""


def measure_engines(book: Book) -> list[str]:
    """Clock of the ternary engine for a 128-bit port; returns errors."""
    errors, command, topic, name = [], "llmrtl bench --only engine", "engine", "ternary_engine"
    for config in ENGINES:
        try:
            placement = place_and_route(build(name, config), f"{name}_128_{config.name}", ENGINE_SEEDS)
        except Exception as error:
            errors.append(f"{name} with {config.token_lanes} token lanes: {type(error).__name__}: {error}")
            continue
        figures = clock_figures(config.name, config, placement)
        book.add(topic, [replace(figure, command=command) for figure in figures])
    book.save(topic)
    return errors


KV260_AREA = ("ternary_engine", "ternary_lanes", "ternary_direct", "attention", "vector_memory", "norm_quantize", "head", ACCELERATOR)


def measure_kv260(book: Book) -> list[str]:
    """Area of the large preset: the engine, its parts, the control, the other large units, the whole; returns errors."""
    config, errors = preset("kv260"), []
    macs = lookup_macs(config)
    for name in KV260_AREA:
        command = _command(name, config, "xcup")
        try:
            area = synthesize(_emitted(name, config, "xcup"), "xcup")
        except Exception as error:
            errors.append(f"{name} for xcup on kv260: {type(error).__name__}: {error}")
            book.add("kv260_area", _missing(name, config, "xcup", error))
            continue
        console.print(_line(area, None))
        book.add("kv260_area", area_figures(name, config, "xcup", area))
        if name.startswith("ternary"):
            book.add("kv260_area", [Measurement(f"{name}/xcup/lut_per_mac", area.lut / macs, "", "derived", command,
                                                f"LUT / {macs}")])
    book.save("kv260_area")
    return errors


CACHES = "cache_area"
"""Topic of ``build/bench``: accelerators with each controller of the KV cache and what comes with it."""

CACHE_PRESETS = ("tiny", "tiny_window", "tiny_paged", "tiny_swap", "tiny_evict", "tiny_modes", "tiny_recompute",
                 "tiny_retrieval")


def measure_caches(book: Book) -> list[str]:
    """Area of whole accelerators on the ECP5, not placed; returns errors. Figures ``PRESET/ecp5/lut``, ``PRESET/max_context``, ..."""
    errors = []
    for config in map(preset, CACHE_PRESETS):
        command = _command(ACCELERATOR, config, "ecp5")
        try:
            area = synthesize(_emitted(ACCELERATOR, config, "ecp5"), "ecp5")
        except Exception as error:  # whatever is wrong with one, the others are measured
            errors.append(f"{ACCELERATOR} {config.name} for ecp5: {type(error).__name__}: {error}")
            book.add(CACHES, [replace(figure, name=figure.name.replace(ACCELERATOR, config.name, 1))
                              for figure in _missing(ACCELERATOR, config, "ecp5", error)])
        else:
            console.print(_line(area, None))
            book.add(CACHES, [Measurement(f"{config.name}/ecp5/{field}", getattr(area, field), "", "measured", command)
                              for field in _SMALL])
        book.add(CACHES, [Measurement(f"{config.name}/{field}", getattr(config, field), "", "derived", command, "of the configuration")
                          for field in ("bus_bits", "token_lanes", "max_context")])
        book.save(CACHES)
    return errors


def lookup_macs(config: AcceleratorConfig) -> int:
    """Ternary multiply-accumulates per cycle."""
    return config.tile_activations * config.table_rows * config.token_lanes


def _line(area: Synthesis, placement: Placement | None) -> str:
    text = (f"{area.name:18} {area.target:5} LUT {area.lut:6,}  FF {area.ff:6,}  BRAM {area.bram:3}  "
            f"DSP {area.dsp:3}")
    return text + (f"  {placement.fmax_mhz:6.1f} MHz" if placement else "")


def _show(area: Synthesis, placement: Placement | None) -> None:
    table = Table(title=f"{area.name}, {TARGETS[area.target].family}", show_header=False, min_width=40)
    for field in _SMALL:
        table.add_row(field.upper(), f"{getattr(area, field):,}")
    table.add_section()
    for cell, count in area.cells.items():
        table.add_row(cell, f"{count:,}")
    console.print(table)
    if parts := _parts(area):
        table = Table("instance", *_PLACED)
        for path, counts in parts.items():
            table.add_row(path, *(f"{counts[resource]:,}" for resource in _PLACED))
        console.print(table)
    if placement is not None:
        table = Table(title=f"{placement.name} on {DEVICE}, placed and routed in its harness", show_header=False)
        for resource in _PLACED:
            table.add_row(resource, f"{placement.used[resource]:,} of {placement.available[resource]:,}",
                          f"{placement.share(resource):.1%}")
        table.add_section()
        for seed, mhz in placement.seeds.items():
            table.add_row(f"seed {seed}", f"{mhz:.1f} MHz")
        console.print(table)
        console.print(f"critical path: {placement.critical_path}\n{placement.critical_path.table()}", markup=False)


def synth(options: Namespace) -> int:
    """``llmrtl synth``: exit status 1 if a unit of ``all`` fails; ``ValueError`` for bad options."""
    whole = options.unit in (ACCELERATOR, "all")
    config = preset(options.preset or DEFAULT_PRESET) if whole else unit(options.unit, also=(ACCELERATOR, "all")).config(options.preset)
    book = Book(bench_folder())
    if options.unit == "all" and options.target == "cells":
        raise ValueError("--target cells is for one unit, not all")
    if options.unit == "all":
        from .bench import write_page  # the page is made of all figures
        return write_page(book, config, measure_all(book, config))
    if options.pnr and options.target != "ecp5":
        raise ValueError(f"--pnr is for --target ecp5, not {options.target}")
    if options.liberty is not None and options.target != "cells":
        raise ValueError(f"--liberty is for --target cells, not {options.target}")
    if options.target == "cells":
        return show_cells(options, _emitted(options.unit, config, "cells"), config, book, console)
    with console.status("") as status:
        figures, area, placement = measure(options.unit, config, options.target, options.pnr, status.update)
    topic = f"synth-{options.unit}-{config.name}-{options.target}"
    book.add(topic, figures)
    _show(area, placement)
    console.print(f"stored: {book.save(topic)}", soft_wrap=True)
    return 0
