"""A small model for the ``llmrtl`` command, and places that it writes to."""

from dataclasses import replace

import pytest
from llmrtl.rtl_gen import commands, run_command

from ..checkpoints import SMALL_BITNET, write_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "small"
    write_checkpoint(folder, replace(SMALL_BITNET, max_context=24), seed=3)
    return folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where `llmrtl run` leaves its summary; there is one of a run that was right."""
    folder = tmp_path / "build/run"
    folder.mkdir(parents=True)
    monkeypatch.setattr(run_command, "run_folder", lambda: folder)
    (folder / "summary.json").write_text('{"golden_match": true}')
    (folder / "summary.console.txt").write_text("golden_match: true")
    return folder


@pytest.fixture
def unbuilt(monkeypatch):
    """Nothing may be compiled, emitted or built: it is too early."""
    def early(*arguments, **options):
        raise AssertionError("work began before the arguments were checked")
    for name in ("compiled_image", "emitted_accelerator", "build_driver", "generate"):
        monkeypatch.setattr(run_command, name, early)
    for name in ("calibrate", "compile_model", "write_random_checkpoint", "compare_prompts", "emit_unit", "emitted_accelerator"):
        monkeypatch.setattr(commands, name, early)
    monkeypatch.setattr("llmrtl.rtl_gen.estimate.estimate", early)
