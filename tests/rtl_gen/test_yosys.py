"""Synthesis: figures in known ranges, caching, errors."""

import dataclasses

import pytest
from amaranth.hdl import Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from llmrtl.accelerators.presets import preset
from llmrtl.rtl_gen import yosys
from llmrtl.rtl_gen.emit import Emitted, emit
from llmrtl.rtl_gen.registry import emit_unit
from llmrtl.rtl_gen.yosys import TARGETS, synthesize
from llmrtl.rtl_gen.yowasp import ToolError


class Products(wiring.Component):
    """Two products of registered arrays, in a submodule of their own, and a block RAM of 512 x 36."""

    i: In(data.ArrayLayout(signed(16), 2))
    j: In(data.ArrayLayout(signed(16), 2))
    o: Out(data.ArrayLayout(signed(36), 2))

    def elaborate(self, platform):
        m = Module()
        m.submodules.both = both = Module()
        m.submodules.table = table = Memory(shape=36, depth=512, init=[])
        write, read = table.write_port(), table.read_port()
        i, j = data.ArrayLayout(signed(16), 2), data.ArrayLayout(signed(16), 2)
        a, b = Signal(i), Signal(j)
        m.d.sync += [a.eq(self.i), b.eq(self.j)]
        m.d.comb += [write.en.eq(a[0][0]), write.addr.eq(a[1]), write.data.eq(b), read.en.eq(1), read.addr.eq(b[1])]
        both.d.sync += [self.o[0].eq(a[0] * b[0] + read.data), self.o[1].eq(a[1] * b[1])]
        return m


@pytest.fixture(scope="module")
def products():
    return emit(Products(), "products", None)


@pytest.mark.parametrize("target", TARGETS)
def test_area_of_gearbox(target):
    area = synthesize(emit_unit("gearbox", preset("edge")), target)
    assert (area.name, area.target) == ("gearbox", target)
    assert 120 < area.lut < 300
    assert 200 < area.ff < 300
    assert (area.bram, area.uram, area.dsp, area.lutram) == (0, 0, 0, 0)
    assert sum(area.cells.values()) >= area.ff + area.lut // 2


@pytest.mark.parametrize(("target", "bram", "dsp"), [("ecp5", 1, 2), ("xcup", 0.5, 2), ("ice40", 5, 2)])
def test_memories_and_multipliers(products, target, bram, dsp):
    area = synthesize(products, target)
    assert (area.bram, area.dsp) == (bram, dsp)
    assert area.lutram == 0
    assert 15 < area.lut < 250


def test_queue_needs_no_bypass():
    """Yosys must see in the Verilog that no row is read while it is written; a bypass would add a register per bit."""
    config = preset("edge")
    area = synthesize(emit_unit("queue", config), "ecp5")
    assert area.bram == 2
    assert area.ff < 2.7 * config.bus_bits  # two per bit are the buffer behind the memory


def test_distributed_memory_counts_as_luts():
    area = synthesize(emit_unit("queue", dataclasses.replace(preset("edge"), prefetch_beats=16)), "xcup")
    assert 32 <= area.lutram <= area.lut
    assert area.bram == 0


def test_hierarchy(products):
    area = synthesize(products, "ecp5")
    assert set(area.hierarchy) == {"both", "table"} or set(area.hierarchy) == {"both"}
    assert area.hierarchy["both"]["DSP"] == 2
    assert all(counts[resource] <= getattr(area, resource.lower())
               for counts in area.hierarchy.values() for resource in counts)
    assert synthesize(products, "xcup").hierarchy == {}


def test_element_names_do_not_stop_abc9():
    """Without ``_yosys_safe`` Yosys 0.67 stops here: ``Assert count_id(wire->name) == 0``."""
    verilog = emit_unit("head", preset("tiny")).verilog
    assert r"\write__data[0] " in verilog
    assert synthesize(emit_unit("head", preset("tiny")), "ice40").dsp > 0


def test_results_are_remembered(products, monkeypatch):
    first = synthesize(products, "ecp5")
    monkeypatch.setattr(yosys, "run_yosys", lambda *_: pytest.fail("Yosys was run again"))
    assert synthesize(products, "ecp5") == first
    assert first.netlist().startswith("{")


def test_unknown_target(products):
    with pytest.raises(ValueError, match="target must be one of ecp5, xcup, ice40, not 'ecp6'"):
        synthesize(products, "ecp6")


def test_error_quotes_the_log():
    broken = Emitted("broken", "module broken(input a, output b);\n  nothing u(a, b);\nendmodule\n", {})
    with pytest.raises(ToolError, match=r"(?s)synthesis of broken for ecp5: yosys failed with exit code 1:.*nothing"):
        synthesize(broken, "ecp5")


def test_cells_that_the_device_lacks_are_refused():
    verilog = "module odd(input c, input [3:0] a, output reg b);\n  always_latch if (c) b = ^a;\nendmodule\n"
    with pytest.raises(ToolError, match="synthesis of odd for ecp5"):
        synthesize(Emitted("odd", verilog, {}), "ecp5")


def test_unwritable_cache(products, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LLMRTL_BUILD", str(tmp_path / "file"))
    with pytest.raises(OSError, match=r"cannot write .*file/cache: Not a directory"):
        synthesize(products, "ecp5")
