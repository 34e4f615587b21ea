"""Attention of a program in the accelerator with a unified maximum: tokens of the golden model, fallbacks counted."""

from dataclasses import replace

import numpy as np
import pytest
from llmrtl.accelerators.control.isa import Opcode, decode_program, encode_program
from llmrtl.accelerators.presets import preset
from llmrtl.rtl_gen.checkpoint import Checkpoint
from llmrtl.rtl_gen.compile import compile_model
from llmrtl.rtl_gen.generate import emitted_accelerator
from llmrtl.rtl_gen.lint import lint
from llmrtl.sim.golden.machine import Machine
from llmrtl.sim.native.build import build_driver
from llmrtl.sim.native.run import simulate

from .checkpoints import SMALL_BITNET, write_checkpoint

MODES = preset("tiny_modes")
pytestmark = pytest.mark.bench


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write_checkpoint(folder, SMALL_BITNET, seed=7)
    return compile_model(Checkpoint.open(folder), MODES, fraction_bits=20, window=(2, 8), context=200)


@pytest.fixture(scope="module")
def program():
    emitted = emitted_accelerator(MODES)
    assert lint(emitted) == []
    return build_driver(emitted)


def with_maximum(image, phi):
    """The image with a program whose ATTEND has a unified maximum."""
    ops = [replace(op, rows=1, shift=phi) if op.opcode is Opcode.ATTEND else op
           for op in decode_program(image.data[image.program_address:].tobytes())]
    code, data = np.frombuffer(encode_program(ops), np.uint8), np.array(image.data)
    data[image.program_address:image.program_address + code.size] = code
    return replace(image, data=data)


@pytest.mark.parametrize("phi", [0, 2, 6, -100, 100])
def test_tokens_and_fallbacks(program, image, tmp_path, phi):
    changed = with_maximum(image, phi)
    (tmp_path / "image.bin").write_bytes(changed.data.tobytes())
    run = simulate(program, changed, tmp_path / "image.bin", [1, 2, 3, 4, 5], 24)
    assert run.error is None
    assert [(token.token, token.value) for token in run.tokens] == [
        (step.token, step.value) for step in Machine(changed).generate([1, 2, 3, 4, 5], 24)]
    lanes = (5 + 24 - 1) * SMALL_BITNET.layers * SMALL_BITNET.heads
    missed, passed = run.registers["ATTENTION_MISSED"], run.registers["ATTENTION_PASSED"]
    print(f"phi {phi}: {missed} missed, {passed} passed of {lanes}")
    assert missed + passed <= lanes
    if abs(phi) == 100:  # the first row is never within the window
        assert (missed, passed) == (lanes, 0)
    else:
        assert missed < lanes
