"""A board made of golden models: link, registers, memory, machine; and a line to it that may be bad."""

import random
from collections import deque

from llmrtl.accelerators.control.regmap import register_map
from llmrtl.accelerators.link.protocol import Splitter
from llmrtl.rtl_gen.image import Image
from llmrtl.sim.golden.link import LinkModel
from llmrtl.sim.golden.machine import Machine

__all__ = ["GoldenBoard"]


class GoldenBoard:
    """A ``Line``: what is written to it is answered, as far as it arrives.

    Parameters
    ----------
    image : Image
        Registers are those of its accelerator; tokens come from a ``Machine`` with it, if memory holds it when a run is started.
    faults : float
        Share of bytes that get lost, come twice or change, in either direction.
    """

    def __init__(self, image: Image, *, faults: float = 0.0, seed: int = 1, data_bytes: int = 256) -> None:
        self.image, self.faults, self.rng = image, faults, random.Random(seed)
        self.map = register_map(image.config)
        self.values = {register.offset: register.reset for register in self.map}
        self.memory = bytearray(random.Random(0).randbytes(image.memory_bytes))
        self.model = LinkModel(self.memory, bus_bytes=image.config.bus_bytes, data_bytes=data_bytes,
                               clock_hz=25_000_000, baud=3_000_000,
                               read_register=self.values.get, write_register=self.set_register)
        self.splitter, self.out = Splitter(), deque[int]()
        self.starts = 0
        self.writes, self.fails_at = 0, 0  # the cable comes out

    def set_version(self, *version: int) -> None:
        self.values[self.map.offsets["VERSION"]] = version[0] << 16 | version[1] << 8 | version[2]

    def set_register(self, offset: int, value: int) -> bool:
        if offset not in self.values or not any(r.writable for r in self.map if r.offset == offset):
            return False
        if offset != self.map.offsets["CONTROL"]:
            self.values[offset] = value
        elif value & 1:
            self.run(greedy=bool(value >> 8 & 1), ignore_eos=bool(value >> 9 & 1))
        return True

    def run(self, *, greedy: bool, ignore_eos: bool) -> None:
        """What the accelerator does from start to done."""
        self.starts += 1
        value = {name: self.values[offset] for name, offset in self.map.offsets.items()}
        if bytes(self.memory[:self.image.data.size]) != self.image.data.tobytes():
            return
        word = self.image.config.bus_bytes
        at = value["PROMPT_ADDRESS"]
        prompt = [int.from_bytes(self.memory[at + k * word:at + k * word + 4], "little") for k in range(value["PROMPT_LENGTH"])]
        eos = None if ignore_eos else value["EOS_TOKEN"]
        if not value["START_POSITION"]:
            exponent = (value["INVERSE_TEMPERATURE_EXPONENT"] ^ 0x8000) - 0x8000
            self.machine = Machine(self.image, seed=value["SEED"], greedy=greedy, top_k=value["TOP_K"],
                                   inverse_temperature=value["INVERSE_TEMPERATURE_MANTISSA"] * 2.0 ** exponent)
        assert self.machine.position == value["START_POSITION"]
        steps = list(self.machine.generate(prompt, value["MAX_NEW_TOKENS"], eos=eos))
        self.model.tokens.extend((step.token, step.value, int(step is steps[-1])) for step in steps)
        self.values[self.map.offsets["STATUS"]] = 2
        self.values[self.map.offsets["TOKENS_GENERATED"]] = len(steps)
        self.values[self.map.offsets["LAST_TOKEN"]] = steps[-1].token

    def _pass(self, data: bytes) -> bytes:
        passed = bytearray()
        for byte in data:
            if self.rng.random() >= self.faults:
                passed.append(byte)
            else:
                flipped = byte ^ 1 << self.rng.randrange(8)
                passed += self.rng.choice((b"", bytes((byte, byte)), bytes((flipped,)), self.rng.randbytes(1)))
        return bytes(passed)

    def write(self, data: bytes) -> None:
        self.writes += 1
        if self.writes == self.fails_at:
            raise OSError("the cable is out")
        for frame in self.splitter.feed(self._pass(data)):
            reply = self.model.answer(frame)
            if reply is not None:
                self.out.extend(self._pass(reply.encode()))

    def read(self, size: int) -> bytes:
        return bytes(self.out.popleft() for _ in range(min(size, len(self.out))))
