"""The host link's hardware on a bad line; its whole menu is in `make bench`."""

from llmrtl.accelerators.presets import preset
from llmrtl.rtl_gen.registry import unit
from llmrtl.sim.bench.runner import run_unit


def test_a_bad_line():
    report = run_unit(unit("host_link"), preset("tiny"), "verilator", cases=["faults"])
    assert report.ok, report
