"""Place and route: report, seeds, caching, errors. Frequencies are not asserted, only that they hang together."""

import pytest
from amaranth.hdl._ir import PortDirection
from llmrtl.accelerators.presets import preset
from llmrtl.rtl_gen import nextpnr
from llmrtl.rtl_gen.emit import emit
from llmrtl.rtl_gen.nextpnr import CriticalPath, Harness, Step, check_enables, place_and_route
from llmrtl.rtl_gen.ports import flat_ports
from llmrtl.rtl_gen.registry import build, emit_unit
from llmrtl.rtl_gen.yosys import synthesize
from llmrtl.rtl_gen.yowasp import ToolError


@pytest.fixture(scope="module")
def gearbox():
    return place_and_route(build("gearbox", preset("edge")), "gearbox", (1, 2))


def test_utilization(gearbox):
    alone = synthesize(emit_unit("gearbox", preset("edge")), "ecp5")
    ports = emit_unit("gearbox", preset("edge")).sidecar["ports"]
    inputs, outputs = (sum(port["width"] for port in ports if port["direction"] == way) for way in ("in", "out"))
    assert gearbox.used["FF"] == alone.ff + inputs + 2 * outputs
    assert abs(gearbox.used["LUT"] - alone.lut - outputs) < 40
    assert (gearbox.used["BRAM"], gearbox.used["DSP"]) == (0, 0)
    assert gearbox.available == {"LUT": 83640, "FF": 83640, "BRAM": 208, "DSP": 156}
    assert gearbox.share("FF") == gearbox.used["FF"] / 83640


def test_the_fastest_seed_is_taken(gearbox):
    assert set(gearbox.seeds) == {1, 2}
    assert gearbox.fmax_mhz == max(gearbox.seeds.values()) == gearbox.seeds[gearbox.seed]


def test_critical_path(gearbox):
    path = gearbox.critical_path
    assert path.total_ns == pytest.approx(1000 / gearbox.fmax_mhz, abs=0.05)
    assert sum(step.delay_ns for step in path.steps) == pytest.approx(path.total_ns, abs=0.05)
    assert [path.steps[0].kind, path.steps[-1].kind] == ["clk-to-q", "setup"]
    assert str(path).startswith(f"{path.start} -> {path.end}: ")
    assert not any("LUT4" in step.name or "TRELLIS" in step.name or step.name.startswith("unit.") for step in path.steps)
    assert path.table().count("\n") < len(path.steps)


def test_results_are_remembered(gearbox, monkeypatch):
    monkeypatch.setattr(nextpnr.subprocess, "run", lambda *_, **__: pytest.fail("nextpnr was run again"))
    assert place_and_route(build("gearbox", preset("edge")), "gearbox", (1, 2)) == gearbox


def test_registers_at_every_port():
    inner = build("gearbox", preset("edge"))
    emitted = emit(Harness(inner), "gearbox", None)
    assert {port["name"] for port in emitted.sidecar["ports"]} == {"scan_in", "scan_out"}
    for name, (value, direction) in flat_ports(inner).items():
        assert f"{name}__register" in emitted.verilog
        assert (f"{name}__parity" in emitted.verilog) == (direction is PortDirection.Output), (name, value)


def test_seeds_must_be_given():
    with pytest.raises(ValueError, match="seeds must not be empty"):
        place_and_route(None, "gearbox", ())


def test_what_does_not_fit_is_an_error(monkeypatch):
    monkeypatch.setitem(nextpnr._CAPACITY, "BRAM", 1)
    with pytest.raises(ToolError, match="queue does not fit LFE5U-85F: it needs 2 of 1 BRAM"):
        place_and_route(build("queue", preset("edge")), "queue")


def test_error_quotes_the_log(monkeypatch):
    monkeypatch.setattr(nextpnr, "_OPTIONS", ("--85k", "--package", "CABGA9"))
    with pytest.raises(ToolError, match=r"(?s)place and route of gearbox for LFE5U-85F failed with exit code \d+:.*CABGA9"):
        place_and_route(build("gearbox", preset("edge")), "gearbox")


@pytest.mark.parametrize(("cell", "name"), [
    ("unit.core.total_LUT4_Z_3_C_LUT4_Z", "core.total"),
    ("unit.count_TRELLIS_FF_Q_12", "count"),
    ("o__ready__register_TRELLIS_FF_Q", "o__ready__register"),
    ("unit.table.0.1_DOA15", "table.0.1"),
    ("unit.table.0.1_DO_2", "table.0.1"),
    ("unit.table.0.1", "table.0.1"),
    ("unit.rows.0.0$DPRAM_COMB0", "rows.0.0"),
    ("unit.sum_CCU2C_S0_7_COUT_CCU2C_CIN", "sum"),
    ("$nextpnr_CCU2C_3", ""),
])
def test_readable_names(cell, name):
    assert nextpnr._readable(cell) == name


def test_carry_chain_is_one_level():
    steps = [Step("clk-to-q", 0.5, "a", "Q"), Step("routing", 1.0, "sum", "A"), Step("logic", 0.4, "sum", "FCO"),
             Step("logic", 0.1, "sum", "FCO"), Step("logic", 0.4, "sum", "F"), Step("setup", 0.0, "b", "DI")]
    path = CriticalPath("a", "b", 1.4, 1.0, sum(step.level for step in steps), steps)
    assert str(path) == "a -> b: 2.4 ns = 1.4 logic + 1.0 routing, 1 level"
    assert path.table() == "  0.50 ns  a\n  1.90 ns  sum"


def test_a_renumbered_enable_of_a_product_is_refused():
    """The bitstream has bits for the enables of operands only."""
    def placed(**parameters):
        return {"top": {"cells": {"unit.core.total_MULT18X18D_0": {"type": "MULT18X18D", "parameters": parameters}}}}

    for parameters in ({}, {"REG_OUTPUT_CLK": "NONE", "REG_OUTPUT_CE": "CE1"}, {"REG_OUTPUT_CLK": "CLK0", "REG_OUTPUT_CE": "CE0"},
                       {"REG_INPUTA_CLK": "CLK0", "REG_INPUTA_CE": "CE2"}):
        check_enables("sums", placed(**parameters))
    with pytest.raises(ToolError, match=r"place and route of sums for LFE5U-85F: nextpnr renumbered the enable of the product register "
                                        r"of core\.total, for which the bitstream has no bits"):
        check_enables("sums", placed(REG_OUTPUT_CLK="CLK0", REG_OUTPUT_CE="CE1"))
