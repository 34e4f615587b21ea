"""What holds for all tests."""

import os
import random
import subprocess
from pathlib import Path

import pytest
from llmrtl.rtl_gen import run_command
from llmrtl.rtl_gen.emit import write_if_changed
from llmrtl.rtl_gen.generate import emitted_accelerator
from llmrtl.rtl_gen.lint import lint
from llmrtl.rtl_gen.yowasp import build_root
from llmrtl.sim.native.build import SPEED, build_driver

from .modes import MODES

MADE = "not bench and not formal"
"""Marks of the tests of `make test`, see pyproject.toml."""


def _tree():
    """The committed tree's hash: tests of the same commit have the same seeds, those of the next one others."""
    try:
        return subprocess.run(["git", "rev-parse", "HEAD^{tree}"], cwd=Path(__file__).parent, capture_output=True, text=True,
                              check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "random"


def pytest_configure(config):
    """``$LLMRTL_TEST_SEED`` seeds what is random in the tests: any text, ``random`` for another one each time. Workers get it too."""
    seed = os.environ.get("LLMRTL_TEST_SEED") or _tree()
    os.environ["LLMRTL_TEST_SEED"] = str(random.getrandbits(64)) if seed == "random" else seed


def pytest_report_header(config):
    return f"LLMRTL_TEST_SEED={os.environ['LLMRTL_TEST_SEED']}"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """A test's seeds do not depend on which others run."""
    random.seed(f"{os.environ['LLMRTL_TEST_SEED']}/{item.nodeid}")


def pytest_terminal_summary(terminalreporter, exitstatus, config):
    """What `make test` came to stays in ``build/test.txt``, for README; a run of chosen tests leaves it alone."""
    options = config.option
    chosen = (options.keyword or options.markexpr != MADE or options.collectonly or getattr(options, "lf", False)
              or config.args_source is not config.ArgsSource.TESTPATHS)
    if exitstatus == 0 and not chosen and not hasattr(config, "workerinput"):
        counts = ((what, len(terminalreporter.stats.get(what, []))) for what in ("passed", "skipped", "deselected"))
        write_if_changed(build_root() / "test.txt", ", ".join(f"{count:,} {what}" for what, count in counts if count) + "\n")


@pytest.fixture(scope="session", autouse=True)
def runs_of_tests(tmp_path_factory):
    """`llmrtl run` writes its summary to ``build/run``: that of the user's latest run stays there."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_command, "run_folder", lambda: folder)
        yield folder


@pytest.fixture(scope="session", autouse=True)
def quick_drivers():
    """Runs of tests are short: their drivers compile quickly."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SPEED, True, SPEED[False])
        yield


@pytest.fixture(scope="session")
def modes_program(quick_drivers):
    """The driver of the accelerator whose attention has modes."""
    emitted = emitted_accelerator(MODES)
    assert lint(emitted) == []
    return build_driver(emitted)
