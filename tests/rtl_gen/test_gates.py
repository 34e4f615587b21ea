"""The whole accelerator as the gates that nextpnr gets, against the golden model; and what those gates are taken for."""

import json
import random
from dataclasses import replace

import pytest
from llmrtl.accelerators.presets import preset
from llmrtl.rtl_gen.checkpoint import Checkpoint
from llmrtl.rtl_gen.compile import compile_model
from llmrtl.rtl_gen.generate import emitted_accelerator
from llmrtl.rtl_gen.verilator import QUICK_SPLIT, quick_environment
from llmrtl.rtl_gen.yowasp import run_yosys
from llmrtl.sim.golden.machine import Machine
from llmrtl.sim.native import build
from llmrtl.sim.native.run import simulate

from ..checkpoints import SMALL_LLAMA, write_checkpoint
from .gates import CLOCK, ENABLE, OTHER, gates, netlist_verilog, register

PROMPT, COUNT, FAULTS = [1, 2], 2, 8


def bits(rng, width):
    return f"{rng.getrandbits(width):0{width}b}"


def lut(rng, inputs, output):
    return {"type": "LUT4", "attributes": {}, "parameters": {"INIT": bits(rng, 16)},
            "port_directions": dict.fromkeys("ABCD", "input") | {"Z": "output"},
            "connections": {pin: [net] for pin, net in zip("ABCDZ", (*inputs, output), strict=True)}}


def carry(rng, inputs, outputs, injected):
    pins = [f"{letter}{half}" for half in "01" for letter in "ABCD"]
    results = ("S0", "S1", "COUT")
    return {"type": "CCU2C", "attributes": {},
            "parameters": {"INIT0": bits(rng, 16), "INIT1": bits(rng, 16),
                           **{f"INJECT1_{half}": ("NO", "YES")[injected >> half & 1] for half in range(2)}},
            "port_directions": dict.fromkeys((*pins, "CIN"), "input") | dict.fromkeys(results, "output"),
            "connections": {pin: [net] for pin, net in zip((*pins, "CIN", *results), (*inputs, *outputs), strict=True)}}


def selector(kind, pins, inputs, output):
    return {"type": kind, "attributes": {}, "parameters": {}, "port_directions": dict.fromkeys(pins, "input") | {"Z": "output"},
            "connections": {pin: [net] for pin, net in zip((*pins, "Z"), (*inputs, output), strict=True)}}


def test_gates_are_what_yosys_takes_them_for(tmp_path):
    """Proved for random truth tables, constants at inputs among them, and flip-flops of all kinds; every gate drives an output."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    sources, following, cells = [*range(OTHER + 1, OTHER + 10)], iter(range(100, 1000)), {}

    def inputs(count):
        return [rng.choice([*sources, "0", "1"]) if rng.random() < 0.3 else rng.choice(sources) for _ in range(count)]
    outputs = []

    def add(make, count=1):
        nets = [next(following) for _ in range(count)]
        cells[f"gate{len(cells)}"] = make(nets)
        outputs.extend(nets)
    for _ in range(24):
        add(lambda nets: lut(rng, inputs(4), nets[0]))
    for injected in range(4):
        add(lambda nets, injected=injected: carry(rng, inputs(9), nets, injected), 3)
    add(lambda nets: selector("PFUMX", ("ALUT", "BLUT", "C0"), inputs(3), nets[0]))
    add(lambda nets: selector("L6MUX21", ("D0", "D1", "SD"), inputs(3), nets[0]))
    for changes in ({}, {"CEMUX": "CE", "CE": [ENABLE]}, {"CEMUX": "INV", "CE": [ENABLE]}, {"LSR": [OTHER], "REGSET": "SET"},
                    {"LSRMUX": "INV", "LSR": [OTHER]}, {"CEMUX": "CE", "CE": [ENABLE], "LSR": [OTHER]}):
        add(lambda nets, changes=changes: register(rng.choice(outputs), nets[0], **changes))
    nets = {"clk": [CLOCK], "controls": [ENABLE, OTHER], "data": sources}
    module = {"attributes": {}, "cells": cells, "netnames": {},
              "ports": {name: {"direction": "input", "bits": found} for name, found in nets.items()}
              | {"o": {"direction": "output", "bits": outputs}}}
    (tmp_path / "netlist.json").write_text(json.dumps({"modules": {"theirs": module}}))
    (tmp_path / "ours.v").write_text(netlist_verilog("ours", module))
    run_yosys("read_json netlist.json\nread_verilog -overwrite +/ecp5/cells_sim.v\nhierarchy -top theirs\nproc\nflatten\n"
              "read_verilog ours.v\nproc\nmiter -equiv -flatten ours theirs miter\nhierarchy -top miter\nopt_clean\n"
              "sat -verify -tempinduct -prove trigger 0 miter\n", tmp_path)


@pytest.mark.bench
def test_the_accelerator_of_gates_generates_the_golden_tokens(tmp_path, monkeypatch):
    """Every LUT, flip-flop and memory of preset tiny; SiLU reads tables that block RAMs begin with. Of eight LUTs whose outputs are
    inverted, one at a time, most are noticed (others are for errors that do not come up, and choices that nobody asks for)."""
    emitted, cells = gates(emitted_accelerator(preset("tiny")), faults=FAULTS)
    memories = [cell for cell in cells if cell["type"] == "DP16KD"]
    assert any("1" in value for cell in memories for name, value in cell["parameters"].items() if name.startswith("INITVAL"))
    # The compiler would take minutes to optimize functions of thousands of gates.
    monkeypatch.setitem(build.SPEED, False, (lambda main: quick_environment(main, "-O0"), QUICK_SPLIT))
    program = build.build_driver(emitted, fast=False)
    write_checkpoint(tmp_path / "checkpoint", replace(SMALL_LLAMA, max_context=8), seed=7)
    image = compile_model(Checkpoint.open(tmp_path / "checkpoint"), preset("tiny"), fraction_bits=20)
    image.save(tmp_path / "image")
    monkeypatch.chdir(tmp_path)

    def generated(**options):
        run = simulate(program, image, tmp_path / "image.bin", PROMPT, COUNT, **options)
        return run.error, [(token.token, token.value) for token in run.tokens], run.cycles
    error, tokens, cycles = generated()
    assert error is None
    assert tokens == [(step.token, step.value) for step in Machine(image).generate(PROMPT, COUNT)]
    noticed = []
    for number in range(1, FAULTS + 1):
        (tmp_path / "fault").write_text(str(number))
        noticed.append(generated(cycle_limit=2 * cycles)[:2] != (None, tokens))
    print(noticed)
    assert sum(noticed) >= FAULTS // 2
