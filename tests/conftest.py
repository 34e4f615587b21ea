"""What holds for all tests."""

import pytest
from llmrtl.rtl_gen import run_command


@pytest.fixture(scope="session", autouse=True)
def runs_of_tests(tmp_path_factory):
    """`llmrtl run` writes its summary to ``build/run``: that of the user's latest run stays there."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_command, "run_folder", lambda: folder)
        yield folder
