"""Attention of a program in the accelerator with a unified maximum: tokens of the golden model, fallbacks counted."""

from dataclasses import replace

import numpy as np
import pytest
from llmrtl.accelerators.control.isa import Opcode, decode_program, encode_program

from .checkpoints import SMALL_BITNET
from .modes import modes_image, run
from .tokens import said, steps

pytestmark = pytest.mark.bench


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return modes_image(tmp_path_factory.mktemp("model"), window=(2, 8))


def with_maximum(image, phi):
    """The image with a program whose ATTEND has a unified maximum."""
    ops = [replace(op, rows=1, shift=phi) if op.opcode is Opcode.ATTEND else op
           for op in decode_program(image.data[image.program_address:].tobytes())]
    code, data = np.frombuffer(encode_program(ops), np.uint8), np.array(image.data)
    data[image.program_address:image.program_address + code.size] = code
    return replace(image, data=data)


@pytest.mark.parametrize("phi", [0, 2, 6, -100, 100])
def test_tokens_and_fallbacks(modes_program, image, tmp_path, phi):
    changed, prompt, new = with_maximum(image, phi), [1, 2, 3, 4, 5], 24
    done = run(modes_program, changed, tmp_path, prompt, new)
    assert done.error is None
    assert said(done) == steps(changed, prompt, new)
    lanes = (len(prompt) + new - 1) * SMALL_BITNET.layers * SMALL_BITNET.heads
    missed, passed = done.registers["ATTENTION_MISSED"], done.registers["ATTENTION_PASSED"]
    print(f"phi {phi}: {missed} missed, {passed} passed of {lanes}")
    assert missed + passed <= lanes
    if abs(phi) == 100:  # the first row is never within the window
        assert (missed, passed) == (lanes, 0)
    else:
        assert missed < lanes
