"""Exported directories in the hands of the tools that they are for: FuseSoC and LiteX, where the extra [exports] is installed."""

import os
import re
import subprocess
import sys

import pytest
from llmrtl.accelerators.presets import preset
from llmrtl.accelerators.top import Accelerator
from llmrtl.rtl_gen.ports import describe_ports
from llmrtl.rtl_gen.verilator import VERILATOR, verilator_environment

from .test_export import exported

NEEDED = "needs the extra [exports]"
CORE = "llmrtl:accelerators:accelerator_tiny"
USER = {
    "user.core": """CAPI=2:
name: someone:systems:user:1.0
filesets:
  rtl:
    files: [user.sv]
    file_type: systemVerilogSource
    depend: ["llmrtl:accelerators:accelerator_tiny"]
targets:
  lint: {filesets: [rtl], toplevel: user, flow: lint, flow_options: {tool: verilator}}
""",
    "user.sv": """module user(input aclk, input aresetn, output irq);
/* verilator lint_off PINMISSING */
accelerator_tiny core(.aclk(aclk), .aresetn(aresetn), .irq(irq));
endmodule
"""}


class FuseSoC:
    """The command in a folder where only the exported directory and a system that uses it are known."""

    def __init__(self, folder):
        self.folder = folder
        self.environment = os.environ | verilator_environment() | {
            f"XDG_{kind}_HOME": str(folder / kind) for kind in ("CONFIG", "DATA", "CACHE")}

    def __call__(self, *arguments, succeeds=True):
        done = subprocess.run([sys.executable, "-m", "fusesoc.main", *arguments], cwd=self.folder, env=self.environment,
                              capture_output=True, text=True, check=False)
        assert (done.returncode == 0) is succeeds, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture
def fusesoc(tmp_path):
    pytest.importorskip("fusesoc", reason=NEEDED)
    run = FuseSoC(tmp_path)
    exported(tmp_path / "core", preset("tiny"), "fusesoc")
    (tmp_path / "user").mkdir()
    for name, text in USER.items():
        (tmp_path / "user" / name).write_text(text)
    for name in ("core", "user"):
        run("library", "add", name, name)
    return run


def test_fusesoc_lints_the_core(fusesoc):
    assert re.search(rf"^Name: +{CORE}:[\d.]+$(?s:.)*^lint +:", fusesoc("core", "show", CORE), re.MULTILINE)
    assert "deprecated" not in fusesoc("run", "--target", "lint", CORE)
    source = fusesoc.folder / "core/rtl/accelerator_tiny.sv"
    source.write_text(source.read_text().replace("  assign irq = 0;", "  wire [1:0] left = 2'b0;\n  assign irq = left[0];").replace(
        "/* verilator lint_off UNUSEDSIGNAL */", ""))
    assert "Bits of signal are not used: 'left'[1]" in fusesoc("run", "--target", "lint", CORE, succeeds=False)


def test_fusesoc_brings_the_core_into_a_system(fusesoc):
    """The flag adds the C driver."""
    fusesoc("run", "--target", "lint", "someone:systems:user")
    (built,) = fusesoc.folder.glob("build/**/*.eda.yml")
    names = re.compile(r"^  name: src/llmrtl_accelerators_accelerator_tiny_[\d.]+/(.+)$", re.MULTILINE)
    assert names.findall(built.read_text()) == ["rtl/accelerator_tiny.sv"]
    fusesoc("run", "--setup", "--target", "lint", "--flag", "driver", "someone:systems:user")
    assert names.findall(built.read_text())[1:] == ["driver/llmrtl.h", "driver/llmrtl_registers.h", "driver/llmrtl.c"]


SOC = """
import sys
from litex.build.generic_platform import Pins
from litex.build.sim import SimPlatform
from litex.soc.integration.soc import SoCRegion
from litex.soc.integration.soc_core import SoCMini
from migen import ClockDomain, Module

sys.path.insert(0, "core")
from llmrtl_litex import Accelerator


class Clock(Module):
    def __init__(self, platform):
        self.clock_domains.cd_sys = ClockDomain()
        self.comb += [self.cd_sys.clk.eq(platform.request("clock")), self.cd_sys.rst.eq(platform.request("reset"))]


class System(SoCMini):
    def __init__(self, platform):
        super().__init__(platform, clk_freq=int(50e6), bus_standard="axi")
        self.crg = Clock(platform)
        self.add_ram("memory", 0x4000_0000, 0x1000)
        self.accelerator = Accelerator(platform)
        self.bus.add_slave("accelerator", self.accelerator.registers, SoCRegion(origin=0xB000_0000, size=0x1000, cached=False))
        for number, memory in enumerate(self.accelerator.memories):
            self.bus.add_master(f"accelerator{number}", master=memory)
        self.irq.enable()
        self.irq.add("accelerator")
        self.comb += self.accelerator.tokens.ready.eq(1)


platform = SimPlatform("SIM", [("clock", 0, Pins(1)), ("reset", 0, Pins(1))])
system = System(platform)
platform.finalize(system)
platform.get_verilog(system, name="system").write("system.v")
print("sources", [source[0] for source in platform.sources])
"""


@pytest.mark.parametrize("name", ["tiny", "kv260"])
def test_litex_builds_a_system(tmp_path, name):
    """Registers and all memory ports on a bus; Verilator finds no pin of another name or width."""
    pytest.importorskip("litex", reason=NEEDED)
    config = preset(name)
    exported(tmp_path / "core", config, "litex")
    (tmp_path / "soc.py").write_text(SOC)
    done = subprocess.run([sys.executable, "soc.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"core/rtl/accelerator_{name}.sv" in done.stdout.partition("sources")[2]
    text = (tmp_path / "system.v").read_text()
    ports = {port["name"] for port in describe_ports(Accelerator(config))}
    instance = text[text.index(f"\naccelerator_{name} accelerator_{name}("):]
    assert set(re.findall(r"^\t\.(\w+) +\((?!\))", instance, re.MULTILINE)) == ports
    linted = subprocess.run([str(VERILATOR), "--lint-only", "-Wall", "-Wno-fatal", "--top-module", "system", "system.v",
                             f"core/rtl/accelerator_{name}.sv"], cwd=tmp_path, capture_output=True, text=True, check=False,
                            env=os.environ | verilator_environment())
    assert linted.returncode == 0, linted.stderr
    assert not re.search(r"Warning-PIN|input port connection|output port connection", linted.stderr), linted.stderr
