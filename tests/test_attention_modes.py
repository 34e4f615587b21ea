"""Attention of a program in the accelerator with a unified maximum: tokens of the golden model, fallbacks counted, and done."""

from dataclasses import replace

import numpy as np
import pytest
from llmrtl.accelerators.control.errors import ErrorCause
from llmrtl.accelerators.control.isa import INSTRUCTION_BYTES, Opcode
from llmrtl.accelerators.presets import preset
from llmrtl.rtl_gen.generate import emitted_accelerator
from llmrtl.rtl_gen.split import program_of, split_attention, with_code
from llmrtl.rtl_gen.unify import unify_maximum
from llmrtl.sim.golden.machine import Machine
from llmrtl.sim.native.build import build_driver

from .checkpoints import SMALL_BITNET
from .modes import MODES, modes_image, run
from .tokens import said, steps

PROMPT, NEW = [1, 2, 3, 4, 5], 24
LANES = (len(PROMPT) + NEW - 1) * SMALL_BITNET.layers * SMALL_BITNET.heads


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return modes_image(tmp_path_factory.mktemp("model"), window=(2, 8))


class Attended(Machine):
    """Keeps what the ATTENDs of the first layer give, and whether a lane of each passed its maximum, which are fallbacks."""

    def __init__(self, image):
        super().__init__(image)
        self.first = min(op.tag for op in self.program if op.opcode is Opcode.ATTEND)
        self.outputs, self.ways, self.fallbacks = [], [], 0

    def _attend(self, op):
        if op.fallback and not self.passed:
            return super()._attend(op)
        self.fallbacks += op.fallback
        super()._attend(op)
        if op.tag == self.first:
            x = self._vectors(op.destination, op.count * op.group * op.words).reshape(len(self.tokens), op.count * op.group, -1)
            if op.fallback:
                self.outputs[-1] = x * 2.0 ** self.exponents[:, :, None]
            else:
                self.outputs.append(x * 2.0 ** self.exponents[:, :, None])
                self.ways.append(self.passed)
        return None


def attended(image):
    machine = Attended(image)
    for token in (PROMPT * 6)[:NEW]:
        machine.chunk([token])
    return machine


def test_a_fallback_gives_what_a_running_maximum_gives(image):
    """What the first layer's attention gives, token by token, bit for bit; where no lane passed, what the unified maximum gave. All
    three happen: no lane passed, some did, and then the results without a fallback are others."""
    plain = attended(image)
    others = 0
    for maximum in (-2, 0, 2, 6):
        alone, with_fallback = attended(unify_maximum(image, maximum, fallback=False)), attended(unify_maximum(image, maximum))
        assert with_fallback.ways == alone.ways and alone.fallbacks == 0
        print(f"maximum {maximum}: {sum(alone.ways)} of {len(alone.ways)} in the first layer, {with_fallback.fallbacks} fallbacks")
        assert with_fallback.fallbacks >= sum(alone.ways)
        for passed, got, unified, running in zip(alone.ways, with_fallback.outputs, alone.outputs, plain.outputs, strict=True):
            assert np.array_equal(got, running if passed else unified)
            others += passed and not np.array_equal(unified, running)
        if maximum == 0:
            assert 0 < sum(alone.ways) < len(alone.ways)
    assert others


def test_what_cannot_have_a_unified_maximum(image):
    with pytest.raises(ValueError, match="programs of 'tiny_window' cannot have a unified maximum: it needs attention_modes"):
        unify_maximum(replace(image, config=preset("tiny_window")), 0)
    with pytest.raises(ValueError, match=r"ATTEND \(tag \d+\): shift must be in -128..127, not 128"):
        unify_maximum(image, 128)
    for changed in (unify_maximum(image, 0, fallback=False), split_attention(image, [(0, 16), (16, None)])):
        with pytest.raises(ValueError, match=r"ATTEND \(tag \d+\) has a unified maximum already, or is split or a fallback"):
            unify_maximum(changed, 0)
    with pytest.raises(ValueError, match=r"ATTEND \(tag \d+\) is split already, or is a fallback"):
        split_attention(unify_maximum(image, 0), [(0, None)])
    with pytest.raises(ValueError, match="the program splits attention or has fallbacks, which 'tiny_window' cannot"):
        Machine(replace(unify_maximum(image, 0), config=preset("tiny_window")))
    with pytest.raises(ValueError, match=r"ATTEND \(tag \d+\) is a fallback: it must be right behind the ATTEND that it is one of"):
        Machine(misplaced(image))


def misplaced(image):
    """A program whose first fallback has a NORM before it."""
    program = program_of(unify_maximum(image, 0))
    place = next(k for k, op in enumerate(program) if op.fallback)
    program[place], program[place + 1] = program[place + 1], program[place]
    return with_code(image, program)


@pytest.mark.bench
@pytest.mark.parametrize("maximum", [-2, 0, 2, 6, -100, 100])
@pytest.mark.parametrize("fallback", [False, True], ids=["goes on", "falls back"])
def test_tokens_and_fallbacks(modes_program, image, tmp_path, maximum, fallback):
    changed = unify_maximum(image, maximum, fallback=fallback)
    done = run(modes_program, changed, tmp_path, PROMPT, NEW)
    assert done.error is None
    assert said(done) == steps(changed, PROMPT, NEW)
    missed, passed = done.registers["ATTENTION_MISSED"], done.registers["ATTENTION_PASSED"]
    print(f"maximum {maximum}: {missed} missed, {passed} passed of {LANES}")
    assert missed + passed <= LANES
    if abs(maximum) == 100:  # the first row is never within the window
        assert (missed, passed) == (LANES, 0)
        assert said(done) == steps(image, PROMPT, NEW)
    else:
        assert missed < LANES
        assert passed if maximum <= 0 else True


@pytest.mark.bench
def test_lanes_that_pass_side_by_side(tmp_path):
    """Two lanes may leave their unified maximum in the same cycle: both are counted, and the fallback is done."""
    config = replace(MODES, name="modes_side_by_side", row_cycles=3)
    assert config.softmax_ways == 2
    image, program = modes_image(tmp_path / "model", (2, 8), config), build_driver(emitted_accelerator(config))
    for maximum in (-2, 0):
        changed = unify_maximum(image, maximum)
        done = run(program, changed, tmp_path, PROMPT, NEW)
        assert done.error is None and said(done) == steps(changed, PROMPT, NEW)
        assert done.registers["ATTENTION_PASSED"]


@pytest.mark.bench
def test_slow_memory_and_a_misplaced_fallback(modes_program, image, tmp_path):
    """Whenever an ATTEND ends, what comes behind it waits."""
    changed = unify_maximum(image, 0)
    for memory in ({"latency": 3}, {"latency": 200, "stall": 30, "seed": 5}):
        done = run(modes_program, changed, tmp_path, PROMPT, NEW, **memory)
        assert done.error is None and done.registers["ATTENTION_PASSED"]
        assert said(done) == steps(changed, PROMPT, NEW)
    bad = misplaced(image)
    place = next(k for k, op in enumerate(program_of(bad)) if op.fallback)
    done = run(modes_program, bad, tmp_path, PROMPT, NEW)
    assert (done.cause, done.registers["ERROR_INFO"]) == (ErrorCause.ILLEGAL_INSTRUCTION, place * INSTRUCTION_BYTES)
