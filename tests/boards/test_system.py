"""The whole of a board, simulated up to the pins of the SDRAM: image, registers and tokens over the serial line."""

import random
from dataclasses import replace

import pytest
import serial
from llmrtl.accelerators.memory.sdram_chips import SdramConfig
from llmrtl.accelerators.presets import preset
from llmrtl.boards.device import Device
from llmrtl.boards.host_link import HostLink, RefusedError
from llmrtl.boards.simulated import SimulatedBoard, build_board, emitted_system
from llmrtl.boards.system import System, memory_config
from llmrtl.rtl_gen.checkpoint import Checkpoint
from llmrtl.rtl_gen.compile import compile_model
from llmrtl.rtl_gen.lint import lint
from llmrtl.sim.golden.machine import Machine

from ..checkpoints import SMALL_BITNET, write_checkpoint

MEMORY = SdramConfig("test", "16Mx16", 60.0)
PROMPT = [1, 2, 3]


def test_memory_port_is_that_of_the_accelerator():
    memory = memory_config(preset("edge"), MEMORY)
    assert (memory.bus_bits, memory.burst, memory.id_bits) == (64, 4, 3)
    with pytest.raises(ValueError, match="memory_ports of kv260 must be 1, not 4: a board has one memory"):
        System(preset("kv260"), MEMORY, baud=3_000_000)


@pytest.mark.bench
def test_lint():
    assert lint(emitted_system(preset("tiny"), MEMORY)) == []


@pytest.mark.parametrize("faults", [0, pytest.param(2000, marks=pytest.mark.bench)])
def test_tokens_over_the_serial_line(tmp_path, faults):
    """An accelerator that is busy refreshing, reading and writing an SDRAM gives the golden model's tokens; on a bad line too."""
    config = preset("tiny")
    write_checkpoint(tmp_path / "model", replace(SMALL_BITNET, max_context=24), seed=3)
    image = compile_model(Checkpoint.open(tmp_path / "model"), config, fraction_bits=16, stem=tmp_path / "image")
    program = build_board(emitted_system(config, MEMORY), MEMORY)
    # The image is in the SDRAM already: to send it takes millions of cycles.
    with SimulatedBoard(program, 4096, fault_ppm=faults, contents=tmp_path / "image.bin") as board:
        with serial.Serial(board.port, timeout=0.01) as line:
            link = HostLink(line, slowness=2000.0, attempts=40)
            assert (link.identity.word_bytes, link.identity.clock_hz) == (4, 60_000_000)
            device = Device(link, image)
            assert device.load() == 0
            noise = random.Random(faults).randbytes(1000)
            link.write(MEMORY.data_sheet.bytes - 1000, noise)
            assert link.read(MEMORY.data_sheet.bytes - 1000, 1000) == noise
            with pytest.raises(RefusedError):
                link.read(MEMORY.data_sheet.bytes, 4)
            for _ in range(2):
                tokens = list(device.generate(PROMPT, 8))
                assert tokens == [(step.token, step.value) for step in Machine(image).generate(PROMPT, 8, eos=None)]
        said = board.close()
    assert said["cycles"] > 0 and (said["faults"] > 0) is (faults > 0)
