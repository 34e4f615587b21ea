"""Places that the ``llmrtl`` command cannot write to are refused before any work."""

import os

import pytest
from llmrtl.rtl_gen.cli import main

PLACES = {  # what is there already, and what is wrong with it
    "folder": "must be a file, but is a folder",
    "file/name": "file must be a folder, but is a file",
    "pipe": "must be a regular file",
    "/proc/name": "cannot be written",
    "n" * 300: "cannot be written: File name too long",
}


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Names of ``PLACES`` are relative to the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    os.mkfifo(tmp_path / "pipe")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("option", ["--json", "--trace", "--read-trace", "--wave"])
def test_outputs_of_a_run_are_checked_first(model, capsys, folder, unbuilt, places, option, place):
    assert main(["run", "--checkpoint", str(model), "--preset", "tiny", "--prompt-ids", "1", option, place]) == 2
    error = capsys.readouterr().err
    assert f"{option} {place}: " in error and PLACES[place] in error


@pytest.mark.parametrize("command", [
    ["compare", "MODEL", "expected.npz", "--json"], ["estimate", "--model", "tiny", "--preset", "tiny", "--context", "9", "--json"],
    ["estimate", "--model", "tiny", "--preset", "tiny", "--context", "9", "--plot"]])
@pytest.mark.parametrize("place", PLACES)
def test_outputs_of_other_commands_are_checked_first(model, capsys, unbuilt, places, command, place):
    assert main([str(model) if word == "MODEL" else word for word in (*command, place)]) == 2
    error = capsys.readouterr().err
    assert f"{command[-1]} {place}: " in error and PLACES[place] in error


@pytest.mark.parametrize("command", [["random-checkpoint", "tiny"], ["verilog", "gearbox"], ["verilog", "accelerator"]])
@pytest.mark.parametrize("place, message", [("file", "must be a folder, but is a file"), ("file/name", "file must be a folder"),
                                            ("/proc/name", "cannot be written")])
def test_output_folders_are_checked_first(capsys, unbuilt, places, command, place, message):
    assert main([*command, "--output", place]) == 2
    error = capsys.readouterr().err
    assert f"--output {place}: " in error and message in error


@pytest.mark.parametrize("stem, message", [("file/name", "file must be a folder"), ("/proc/name", "cannot be written"),
                                           ("taken", "taken.bin: must be a file, but is a folder"),
                                           (".", "must end in the name of a file")])
def test_place_of_an_image_is_checked_first(model, tmp_path, capsys, unbuilt, places, stem, message):
    (tmp_path / "taken.bin").mkdir()
    assert main(["image", stem, "--checkpoint", str(model), "--preset", "tiny"]) == 2
    error = capsys.readouterr().err
    assert f"STEM {stem}" in error and message in error


@pytest.mark.parametrize("options, message", [
    (("--trace", "t.csv"), "--trace (recording) t.csv: --trace is written to this file, too"),
    (("--trace", "t.png"), "--trace (picture) t.png: --trace is written to this file, too"),
    (("--json", "same", "--wave", "./same"), "--wave same: --json is written to this file, too"),
    (("--json", "a.json", "--read-trace", "a.console.txt"), "--read-trace a.console.txt: --json (printed text) is written"),
])
def test_two_outputs_in_one_file(model, capsys, folder, unbuilt, places, options, message):
    assert main(["run", "--checkpoint", str(model), "--preset", "tiny", "--prompt-ids", "1", *options]) == 2
    assert message in capsys.readouterr().err
