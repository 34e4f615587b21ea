"""Host library and `llmrtl chat` against golden models, on good and on bad lines."""

import os
import pty
import random
import select
import threading
import tty
import zlib
from dataclasses import replace

import pytest
from llmrtl.accelerators.control.regmap import IDENTITY, check_core, config_hash, register_map
from llmrtl.accelerators.link.protocol import Frame, Identity, Kind, Splitter, Status
from llmrtl.accelerators.presets import preset
from llmrtl.boards import chat as chat_module
from llmrtl.boards.device import Device, DeviceError
from llmrtl.boards.host_link import HostLink, LinkError, RefusedError
from llmrtl.rtl_gen.checkpoint import Checkpoint
from llmrtl.rtl_gen.cli import main
from llmrtl.rtl_gen.compile import compile_model
from llmrtl.sim.golden.link import LinkModel
from llmrtl.sim.golden.machine import Machine
from llmrtl.sim.native.run import Sampling, read_results

from ..checkpoints import SMALL_BITNET, write_checkpoint
from .golden_board import GoldenBoard

PROMPT = [1, 2, 3]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("boards") / "small"
    write_checkpoint(folder, replace(SMALL_BITNET, max_context=24), seed=3)
    return folder


@pytest.fixture(scope="module")
def image(checkpoint):
    return compile_model(Checkpoint.open(checkpoint), preset("tiny"), fraction_bits=16)


def link_to(board, **options):
    return HostLink(board, **{"patience": 0.002, "attempts": 400, **options})


def golden_tokens(image, count):
    return [(step.token, step.value) for step in Machine(image).generate(PROMPT, count, eos=None)]


def test_frames_survive_the_line():
    rng = random.Random(5)
    for _ in range(300):
        data = bytes(rng.choice((0x7D, 0x7E, 0x5D, 0x5E, rng.randrange(256))) for _ in range(rng.randrange(40)))
        frame = Frame(rng.choice(list(Kind)), rng.randrange(256), rng.getrandbits(32), data, rng.choice(list(Status)))
        line = frame.encode()
        assert 0x7E not in line[1:-1]
        splitter = Splitter()
        assert list(splitter.feed(line + line[1:])) == [frame, frame]
        assert splitter.dropped == 0


def test_a_damaged_frame_is_dropped_and_the_next_one_is_not():
    rng = random.Random(6)
    good = Frame(Kind.WRITE_MEMORY, 9, 64, bytes(range(32)))
    for _ in range(2000):
        line = bytearray(good.encode())
        at = rng.randrange(len(line))
        what = rng.randrange(4)
        line[at:at + 1] = (b"", bytes((line[at], line[at])), bytes((line[at] ^ 1 << rng.randrange(8),)), b"\x7d\x7d")[what]
        splitter = Splitter()
        found = list(splitter.feed(bytes(line) + b"\x7e" + good.encode()))
        assert found[-1] == good and all(frame == good for frame in found), (at, what)


def test_crc_is_that_of_zlib():
    packet = Frame(Kind.HASH, 1, 2, b"abcd").packet()
    assert zlib.crc32(packet[:-4]).to_bytes(4, "little") == packet[-4:]
    assert packet[:8] == bytes((6, 1, 4, 0, 2, 0, 0, 0))


def test_a_request_is_done_once():
    counter = [0]

    def add(address, value):
        counter[0] += value
        return True
    model = LinkModel(bytearray(64), bus_bytes=4, write_register=add)
    frame = Frame(Kind.WRITE_REGISTER, 7, 0, (5).to_bytes(4, "little"))
    assert model.answer(frame) == model.answer(frame)
    assert counter == [5]
    identify = Frame(Kind.IDENTIFY, 7)
    assert Identity.decode(model.answer(identify).data).word_bytes == 4  # always answered afresh
    model.answer(frame)
    assert counter == [10]


@pytest.mark.parametrize("faults", [0.0, 0.003])
def test_tokens_are_the_golden_models(image, faults):
    board = GoldenBoard(image, faults=faults, seed=4)
    link = link_to(board)
    device = Device(link, image)
    assert device.load() == -(-image.data.size // 4) * 4
    assert list(device.generate(PROMPT, 8)) == golden_tokens(image, 8)
    assert board.starts == 1
    assert (link.repeats > 0) == (faults > 0)
    with pytest.raises(ValueError, match="prompt and tokens must be at least 1 and at most 24, not 3 \\+ 90"):
        next(device.generate(PROMPT, 90))


def test_sampled_tokens_are_the_golden_models(image):
    sampling = Sampling(False, 4, 1.7, 99)
    machine = Machine(image, seed=99, greedy=False, top_k=4, inverse_temperature=float(sampling.inverse_temperature))
    device = Device(link_to(GoldenBoard(image)), image)
    device.load()
    want = [(step.token, step.value) for step in machine.generate(PROMPT, 6, eos=None)]
    assert list(device.generate(PROMPT, 6, sampling=sampling)) == want


def test_a_broken_transfer_goes_on(image, monkeypatch):
    monkeypatch.setattr("llmrtl.boards.host_link.HASH_BLOCK", 1024)
    board = GoldenBoard(image)
    device = Device(link_to(board), image)
    board.fails_at = board.writes + 12
    with pytest.raises(OSError, match="cable"):
        device.load()
    whole = image.data.size
    sent = Device(link_to(board), image).load()
    assert 0 < sent < whole
    assert bytes(board.memory[:whole]) == image.data.tobytes()
    assert Device(link_to(board), image).load() == 0


def test_memory_that_does_not_keep_its_contents_is_told(image):
    board = GoldenBoard(image)
    board.model.memory = board.memory = bytearray(image.memory_bytes)
    device = Device(link_to(board), image)

    def forget(request):
        board.memory[5] = 0x5A
        return LinkModel.answer(board.model, request)
    board.model.answer = forget
    with pytest.raises(LinkError, match=r"memory at 0x0..0x[0-9a-f]+ has CRC .*the memory does not keep"):
        device.load()


def test_memory_is_read_back(image):
    board = GoldenBoard(image)
    link = link_to(board)
    data = random.Random(2).randbytes(1000)
    link.write(8, data)
    assert link.read(8, 1000) == data and link.hash(8, 1000) == zlib.crc32(data)
    with pytest.raises(ValueError, match="must be multiples of 4 within 4 GiB, not 0x2 and 4"):
        link.read(2, 4)
    with pytest.raises(RefusedError, match="had an error on its bus from READ_MEMORY"):
        link.read(1 << 20, 4)
    with pytest.raises(RefusedError, match="WRITE_REGISTER at 0x0"):
        link.write_register(0, 1)


def test_a_core_of_another_version_is_refused(image):
    board = GoldenBoard(image)
    board.set_version(0, 1, 9)
    Device(link_to(board), image)  # the last number is free
    board.set_version(0, 2, 0)
    with pytest.raises(DeviceError, match=r"the core's register map has version 0\.2\.0, this driver is for version 0\.1\.0"):
        Device(link_to(board), image)


def test_another_core_is_refused(image):
    board = GoldenBoard(image)
    with pytest.raises(DeviceError, match=r"the core's configuration has hash 0x[0-9a-f]{8}, the image is for 'edge' with hash"):
        Device(link_to(board), replace(image, config=preset("edge")))
    with pytest.raises(ValueError, match="there is no llmrtl accelerator: its identity must be 0x4c54524c, not 0x00000000"):
        check_core(lambda offset: 0, image.config)


def test_another_protocol_is_refused(image, monkeypatch):
    monkeypatch.setattr("llmrtl.boards.host_link.VERSION", (2, 0))
    with pytest.raises(LinkError, match=r"speaks protocol version 1\.0, this program version 2\.0"):
        link_to(GoldenBoard(image))


class Silence:
    def read(self, size):
        return b""

    def write(self, data):
        pass


def test_nobody_answers():
    with pytest.raises(LinkError, match="no answer to IDENTIFY at 0x0 after 2 attempts"):
        HostLink(Silence(), patience=0.0, slowness=0.0, attempts=2)


def test_an_error_of_the_accelerator_is_told(image):
    board = GoldenBoard(image)
    device = Device(link_to(board), image)

    def fail(**modes):
        board.values[board.map.offsets["STATUS"]] = 6
        board.values[board.map.offsets["ERROR_CAUSE"]] = 1
    board.run = fail
    with pytest.raises(DeviceError, match="the accelerator stopped with"):
        list(device.generate(PROMPT, 2))


def test_chat(checkpoint, image, monkeypatch, capsys):
    board = GoldenBoard(image)
    monkeypatch.setattr(chat_module, "open_line", lambda port, baud: board)
    arguments = ["chat", "--port", "/dev/ttyUSB7", "--checkpoint", str(checkpoint), "--preset", "tiny", "--fraction-bits", "16",
                 "--prompt-ids", "1,2,3", "--tokens", "4", "--ignore-eos", "--check"]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert " ".join(map(str, [*PROMPT, *(token for token, _ in golden_tokens(image, 4))])) in said
    assert "golden_match: true" in said and "hashes right" in said
    board.set_version(9, 0, 0)
    assert main(arguments) == 2
    assert "version 9.0.0" in capsys.readouterr().err


def test_chat_without_a_board(checkpoint, capsys):
    assert main(["chat", "--checkpoint", str(checkpoint)]) == 2
    assert "give either --port or --simulate" in capsys.readouterr().err
    assert main(["chat", "--port", "/nowhere/tty", "--checkpoint", str(checkpoint), "--prompt-ids", "1", "--preset", "tiny"]) == 2
    assert "/nowhere/tty" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "command"), [("tiny_window", "run"), ("tiny_paged", "serve-sim")])
def test_chat_is_not_for_every_cache(checkpoint, capsys, name, command):
    assert main(["chat", "--simulate", "--checkpoint", str(checkpoint), "--prompt-ids", "1", "--preset", name]) == 2
    assert f"preset '{name}' has a KV cache of kind" in (error := capsys.readouterr().err) and f"`llmrtl {command}`" in error


def test_a_simulated_core_of_another_version_is_refused(image):
    offsets = register_map(image.config).offsets
    found = {"IDENTITY": IDENTITY, "VERSION": 3 << 16, "CONFIG_HASH": config_hash(image.config), "STATUS": 2}

    def error():
        return read_results([*(f"register {offsets[name]} {value}" for name, value in found.items()), "end 1"], image).error
    assert error().startswith("the core's register map has version 3.0.0, this driver is for version 0.1.0")
    found["VERSION"] = 0x000100
    assert error() is None
    found["CONFIG_HASH"] ^= 1
    assert "the image is for 'tiny'" in error()


def test_over_a_pseudo_terminal(image):
    """pyserial at one end of a pseudo-terminal, the golden board at the other."""
    board, (ours, theirs) = GoldenBoard(image), pty.openpty()
    tty.setraw(theirs)
    ends = threading.Event()

    def serve():
        while not ends.is_set():
            if select.select([ours], [], [], 0.02)[0]:
                board.write(os.read(ours, 4096))
                os.write(ours, board.read(1 << 16))
    thread = threading.Thread(target=serve)
    thread.start()
    try:
        device = Device(HostLink(chat_module.open_line(os.ttyname(theirs), 3_000_000), patience=0.5), image)
        device.load()
        assert list(device.generate(PROMPT, 5)) == golden_tokens(image, 5)
    finally:
        ends.set()
        thread.join()
        os.close(ours)
        os.close(theirs)
