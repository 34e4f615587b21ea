"""Every approximation of the elementwise units stays within its stated bound."""

import pytest
from llmrtl.sim.approximation import error_rows


@pytest.mark.parametrize("row", error_rows(), ids=lambda row: f"{row.unit}: {row.quantity}, {row.where}")
def test_error_is_within_its_bound(row):
    assert row.worst <= row.bound
    assert row.rms <= row.worst
