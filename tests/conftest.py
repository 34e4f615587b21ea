"""What holds for all tests."""

import pytest
from llmrtl.rtl_gen import run_command
from llmrtl.rtl_gen.emit import write_if_changed
from llmrtl.rtl_gen.generate import emitted_accelerator
from llmrtl.rtl_gen.lint import lint
from llmrtl.rtl_gen.yowasp import build_root
from llmrtl.sim.native.build import build_driver

from .modes import MODES


def pytest_terminal_summary(terminalreporter, exitstatus, config):
    """What `make test` came to stays in ``build/test.txt``, for README; a run of chosen tests leaves it alone."""
    chosen = config.option.keyword or getattr(config.option, "lf", False) or config.args_source is not config.ArgsSource.TESTPATHS
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


@pytest.fixture(scope="session")
def modes_program():
    """The driver of the accelerator whose attention has modes."""
    emitted = emitted_accelerator(MODES)
    assert lint(emitted) == []
    return build_driver(emitted)
