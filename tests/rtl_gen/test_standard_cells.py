"""Area in standard cells, with a library of a few cells that stands here."""

import json
from pathlib import Path

import pytest
from llmrtl.accelerators.presets import preset
from llmrtl.accelerators.streams import Queue
from llmrtl.rtl_gen import standard_cells
from llmrtl.rtl_gen.cli import main
from llmrtl.rtl_gen.emit import emit
from llmrtl.rtl_gen.registry import emit_unit
from llmrtl.rtl_gen.standard_cells import DEFAULT_LIBERTY, default_liberty, map_to_cells


def pin(name, function=None):
    what = f'direction : output; function : "{function}";' if function else "direction : input;"
    return f"pin({name}) {{ {what} }}"


LIBRARY = f"""library(few) {{
  cell(NAND) {{ area : 4; {pin("A")} {pin("B")} {pin("Y", "(A&B)'")} }}
  cell(BUF) {{ area : 3; {pin("A")} {pin("Y", "A")} }}
  cell(INV) {{ area : 2; {pin("A")} {pin("Y", "A'")} }}
  cell(REG) {{ area : 20; ff(Q_, QN_) {{ next_state : "D"; clocked_on : "C"; }} {pin("D")} {pin("C")} {pin("Q", "Q_")} }}
}}
"""


@pytest.fixture
def few(tmp_path):
    path = tmp_path / "few.lib"
    path.write_text(LIBRARY)
    return path


def test_area_is_the_sum_of_cells(few):
    area = map_to_cells(emit_unit("downsizer", preset("tiny")), few)
    sizes = {"NAND": 4, "BUF": 3, "INV": 2, "REG": 20}
    assert area.library == "few" and set(area.cells) <= set(sizes)
    assert area.area == sum(sizes[cell] * count for cell, count in area.cells.items()) == sum(area.modules.values())
    assert area.flip_flops == area.cells["REG"] > 0 and area.memory_bits == 0


def test_large_memories_are_left_out(few):
    large, small = (map_to_cells(emit(Queue(16, depth), f"queue_{depth}", preset("tiny")), few) for depth in (512, 64))
    assert large.memory_bits == 512 * 16 and small.memory_bits == 0
    assert small.flip_flops > 64 * 16 > large.flip_flops


def test_an_instance_counts_as_often_as_it_is_there(few):
    """``step_scale`` instantiates units below units: the modules' areas sum up to the whole."""
    area = map_to_cells(emit_unit("step_scale", preset("tiny")), few)
    assert len(area.modules) > 3 and area.area == sum(area.modules.values())


@pytest.mark.parametrize(("text", "message"), [
    ("cells", r"is not a liberty file: it has no 'library \(NAME\)'"),
    ("library(none) { cell(INV) { area : 1; } }", r"library none has no flip-flop"),
])
def test_other_files_are_refused(tmp_path, text, message):
    path = tmp_path / "other.lib"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        map_to_cells(emit_unit("downsizer", preset("tiny")), path)


def test_missing_library_says_where_it_comes_from(monkeypatch):
    monkeypatch.setattr(standard_cells, "DEFAULT_LIBERTY", Path("/nowhere/cells.lib"))
    with pytest.raises(FileNotFoundError, match=r"/nowhere/cells.lib is missing: install Debian's qflow-tech-osu018"):
        default_liberty()


def test_command(few, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LLMRTL_BUILD", str(tmp_path))
    assert main(["synth", "downsizer", "--preset", "tiny", "--target", "cells", "--liberty", str(few)]) == 0
    figures = json.loads((tmp_path / "bench" / "synth-downsizer-tiny-few.json").read_text())["measurements"]
    area = next(figure for figure in figures if figure["name"] == "downsizer/tiny/area")
    assert area["command"].endswith(f"--target cells --liberty {few}") and f"{area['value']:,.0f}" in capsys.readouterr().out


@pytest.mark.parametrize(("options", "message"), [
    (["queue", "--liberty", "x"], "--liberty is for --target cells, not ecp5"),
    (["queue", "--target", "cells", "--liberty", "nowhere.lib"], "--liberty: nowhere.lib is not a file"),
    (["all", "--target", "cells"], "--target cells is for one unit, not all"),
])
def test_bad_options(options, message, capsys):
    assert main(["synth", *options]) == 2 and message in capsys.readouterr().err


@pytest.mark.skipif(not DEFAULT_LIBERTY.is_file(), reason="Debian's qflow-tech-osu018 is not installed")
def test_default_library():
    area = map_to_cells(emit_unit("divider", preset("tiny")), default_liberty())
    assert area.library == "osu018_stdcells" and area.cells["DFFPOSX1"] == area.flip_flops > 0
