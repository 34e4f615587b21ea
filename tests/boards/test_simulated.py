"""The whole path: host program, pseudo-terminal, serial line, link, memory, accelerator, tokens; bit-exact with the golden model."""

from dataclasses import replace

import pytest
from llmrtl.accelerators.presets import preset
from llmrtl.boards.chat import open_line
from llmrtl.boards.device import Device
from llmrtl.boards.host_link import HostLink
from llmrtl.boards.simulated import BAUD, SimulatedBoard, SimulatedTop, build_board, emitted_board
from llmrtl.rtl_gen.checkpoint import Checkpoint
from llmrtl.rtl_gen.cli import main
from llmrtl.rtl_gen.compile import compile_model
from llmrtl.sim.golden.machine import Machine

from ..checkpoints import SMALL_BITNET, write_checkpoint

PROMPT = [1, 2, 3]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulated") / "small"
    write_checkpoint(folder, replace(SMALL_BITNET, max_context=24), seed=3)
    return folder


def test_a_board_has_one_memory_port():
    with pytest.raises(ValueError, match="memory_ports must be 1 on a simulated board, not 4"):
        SimulatedTop(preset("kv260"))


@pytest.mark.bench
@pytest.mark.parametrize("fault_ppm", [0, 300])
def test_tokens_over_the_line(checkpoint, fault_ppm):
    image = compile_model(Checkpoint.open(checkpoint), preset("tiny"), fraction_bits=16)
    with SimulatedBoard(build_board(emitted_board(preset("tiny"))), image.memory_bytes, fault_ppm=fault_ppm) as board:
        link = HostLink(open_line(board.port, BAUD), patience=0.5, slowness=200, attempts=100)
        device = Device(link, image)
        assert device.load() == image.data.size
        assert device.load() == 0
        for count in (6, 3):
            want = [(step.token, step.value) for step in Machine(image).generate(PROMPT, count)]
            assert list(device.generate(PROMPT, count)) == want
        # A host that comes back while the accelerator works.
        next(device.generate(PROMPT, 20))
        again = Device(HostLink(open_line(board.port, BAUD), patience=0.5, slowness=200, attempts=100), image)
        assert list(again.generate(PROMPT, count)) == want
        counts = board.close()
    assert (counts["faults"] > 0) == (fault_ppm > 0)


@pytest.mark.bench
def test_chat_with_a_simulated_board(checkpoint, capsys):
    assert main(["chat", "--simulate", "--checkpoint", str(checkpoint), "--preset", "tiny", "--fraction-bits", "16",
                 "--prompt-ids", "1,2,3", "--tokens", "4", "--ignore-eos"]) == 0
    assert "golden_match: true" in capsys.readouterr().out
