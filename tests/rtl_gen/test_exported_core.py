"""The exported core under third-party AXI models."""

import json
from dataclasses import replace

import pytest
from llmrtl.accelerators.control.regmap import config_hash, register_map
from llmrtl.accelerators.presets import preset
from llmrtl.rtl_gen.checkpoint import Checkpoint
from llmrtl.rtl_gen.cli import main
from llmrtl.rtl_gen.compile import compile_model
from llmrtl.sim.bench.simulators import FastVerilator, publish_ports
from llmrtl.sim.golden.machine import Machine
from llmrtl.sim.native.run import Sampling, setup_registers

from ..checkpoints import SMALL_BITNET, write_checkpoint

PROMPT, TOKENS = [1, 2, 3], 3


@pytest.mark.bench
@pytest.mark.filterwarnings("ignore")
def test_tokens_with_cocotbext_axi(tmp_path):
    pytest.importorskip("cocotbext.axi")
    config = preset("tiny")
    write_checkpoint(tmp_path / "small", replace(SMALL_BITNET, max_context=24), seed=3)
    image = compile_model(Checkpoint.open(tmp_path / "small"), config, fraction_bits=16, stem=tmp_path / "image")
    assert main(["export", "--format", "rtl", "--preset", "tiny", "-o", str(tmp_path / "core")]) == 0
    ports = json.loads((tmp_path / "core/rtl/accelerator_tiny.json").read_text())["ports"]
    (tmp_path / "ports.vlt").write_text(publish_ports("accelerator_tiny", [port["name"] for port in ports]))
    map_ = register_map(config)
    control = {field.name: field.mask for field in map_["CONTROL"].fields}
    registers = {name: value & 0xFFFFFFFF for name, value in setup_registers(image, Sampling(), "ideal", 1 << 20).items()} | {
        "PROMPT_LENGTH": len(PROMPT), "START_POSITION": 0, "MAX_NEW_TOKENS": TOKENS,
        "CONTROL": control["greedy"] | control["ignore_eos"] | control["start"]}
    task = {"offsets": map_.offsets, "config_hash": config_hash(config), "data": str(tmp_path / "image.bin"), "prompt": PROMPT,
            "prompt_address": image.prompt_address, "word_bytes": config.bus_bytes, "registers": registers,
            "tokens": [step.token for step in Machine(image).generate(PROMPT, TOKENS)]}
    (tmp_path / "task.json").write_text(json.dumps(task))
    runner = FastVerilator(tmp_path / "runtime")
    runner.build(sources=[tmp_path / "core/rtl/accelerator_tiny.sv", tmp_path / "ports.vlt"], hdl_toplevel="accelerator_tiny",
                 build_dir=tmp_path / "build", build_args=["-Wno-fatal"], timescale=("1ns", "1ps"))
    runner.test(test_module="tests.rtl_gen.exported_core", hdl_toplevel="accelerator_tiny", hdl_toplevel_lang="verilog",
                build_dir=tmp_path / "build", test_dir=tmp_path, extra_env={"TASK": str(tmp_path / "task.json")},
                timescale=("1ns", "1ps"), results_xml=str(tmp_path / "results.xml"))
