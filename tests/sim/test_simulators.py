"""What the bench does to sources for a simulator."""

from llmrtl.accelerators.presets import preset
from llmrtl.rtl_gen.registry import emit_unit
from llmrtl.sim.bench.simulators import for_icarus


def test_icarus_gets_blocks_that_wake_once():
    verilog = emit_unit("front_end", preset("tiny")).verilog
    changed = for_icarus(verilog)
    assert "always_comb" in verilog and "always_comb" not in changed
    assert changed.count("always @* begin if (\\$wake ) ;") == verilog.count("always_comb")
    assert changed.count("reg \\$wake = 1'b0;") == sum("always_comb" in module for module in verilog.split("endmodule"))
    single = for_icarus("module a;\n  always_comb\n    b = c;\nendmodule\n")
    assert single.endswith("  always @* begin if (\\$wake ) ;\n    b = c;\n  end\nendmodule\n")
    assert for_icarus("module a;\nendmodule\n") == "module a;\nendmodule\n"
