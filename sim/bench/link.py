"""Bench of the host link: a host on the line that asks again when no reply comes, a memory, registers, tokens."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...accelerators.link.protocol import Frame, Kind, Splitter, Status
from ..golden.link import TOKEN, LinkModel
from ..memory.axi_memory import AxiMemory
from .agents import BenchFailure, Model, Pattern, always
from .link_registers import LinkRegisters
from .serial_line import LineReceiver, LineSender
from .trace import Trace
from .unit import Items, UnitBench

__all__ = ["TIMEOUT", "HostLinkBench"]

PERIOD = 4
MEMORY_BYTES = 1 << 13
DATA_BYTES = 256
TIMEOUT = 1000
"""Cycles without a byte from the link after which the host asks again; no request of the bench takes as long."""


class HostLinkBench(UnitBench):
    """Requests of every kind, also wrong ones, one at a time or (writes) several; replies, memory, registers and tokens must be as the
    golden model says, each token once. ``faults`` is the share of bytes on the line that get lost, come twice or change."""

    modules = (*UnitBench.modules, "llmrtl.sim.bench.link_cases")
    patience = 8000
    faults = 0.0
    spoiled = False  # there were faults since the reset: the link counts what it dropped

    def __init__(self, config: Any):
        super().__init__(config)
        self.bus_bytes = config.bus_bytes
        self.data = np.zeros(MEMORY_BYTES, dtype=np.uint8)
        self.script: list[list[Frame]] = []
        self.rng = random.Random(0)

    def models(self, ports: Mapping[str, Any]) -> Sequence[Model]:
        self.memory, self.registers = AxiMemory(dict(ports), self.data), LinkRegisters(ports)
        self.host = _Host(ports, self)
        return [self.host, self.memory, self.registers]

    def constants(self) -> Mapping[str, int]:
        return {"rx": 1}

    def begin(self, stimulus: Items) -> None:
        self.spoiled = bool(self.faults)
        self.data[:] = np.random.default_rng(1).integers(0, 256, MEMORY_BYTES, dtype=np.uint8)
        self.registers.fill()
        self.model = LinkModel(bytearray(self.data), bus_bytes=self.bus_bytes, data_bytes=DATA_BYTES,
                               clock_hz=12_000_000, baud=3_000_000,
                               read_register=self.registers.golden_read, write_register=self.registers.golden_write)
        self.memory.rng = random.Random(self.rng.getrandbits(32))
        self.memory.latency, self.memory.jitter = self.rng.choice((1, 7)), self.rng.choice((0, 9))
        self.tokens = [(item["token"], item["value"] - (item["value"] >> 63 << 64), item["last"]) for item in stimulus["i_token"]]

    def request(self, rng: random.Random, sequence: int) -> list[Frame]:
        """A random request, or several writes."""
        word, words = self.bus_bytes, MEMORY_BYTES // self.bus_bytes
        kind = rng.choice((*Kind, Kind.WRITE_MEMORY, Kind.READ_MEMORY, "window", "wrong"))
        if kind == "wrong":
            return [rng.choice((
                Frame(0, sequence), Frame(8, sequence), Frame(Kind.TOKENS, sequence, 0, b"x"), Frame(Kind.IDENTIFY, sequence, 0, b"12"),
                Frame(Kind.READ_REGISTER, sequence, 2), Frame(Kind.READ_REGISTER, sequence, 0x1000),
                Frame(Kind.WRITE_REGISTER, sequence, 0, b"123"), Frame(Kind.READ_MEMORY, sequence, 1, word.to_bytes(4, "little")),
                Frame(Kind.READ_MEMORY, sequence, 0, (DATA_BYTES + word).to_bytes(4, "little")),
                Frame(Kind.READ_MEMORY, sequence, 0, bytes(4)), Frame(Kind.HASH, sequence, 0, (word + 1).to_bytes(4, "little")),
                Frame(Kind.HASH, sequence, 0, b"\xff\xff\xff\xff"), Frame(Kind.WRITE_MEMORY, sequence, 0, bytes(word + 1)),
                Frame(Kind.WRITE_MEMORY, sequence, 1, bytes(word)), Frame(Kind.WRITE_MEMORY, sequence),
                Frame(Kind.READ_MEMORY, sequence, 0, word.to_bytes(4, "little"), Status.BUS_ERROR)))]
        if kind == "window":
            first = rng.randrange(words - 8)
            return [Frame(Kind.WRITE_MEMORY, (sequence + k) % 256, (first + 2 * k) * word, rng.randbytes(2 * word)) for k in range(3)]
        if kind in (Kind.READ_REGISTER, Kind.WRITE_REGISTER):
            return [Frame(kind, sequence, 4 * rng.randrange(64), rng.randbytes(4) if kind == Kind.WRITE_REGISTER else b"")]
        if kind in (Kind.IDENTIFY, Kind.TOKENS):
            return [Frame(kind, sequence)]
        count = rng.choice((1, 2, 3, 16, 17, 20)) if kind == Kind.HASH else rng.choice((1, 2, rng.randint(1, 5)))
        address = (words - (count + 1) // 2 if rng.random() < 0.1 else rng.randrange(words - count)) * word  # some go beyond the end
        if kind == Kind.WRITE_MEMORY:
            return [Frame(kind, sequence, address, bytes(rng.choice((0x7E, 0x7D, 0, rng.randrange(256))) for _ in range(count * word)))]
        return [Frame(kind, sequence, address, (count * word).to_bytes(4, "little"))]

    def stimulus(self, rng: random.Random, case: str) -> Items:
        self.rng = random.Random(rng.getrandbits(32))
        sequence = rng.randrange(256)
        self.script = []
        for _ in range({"faults": 12, "reset_mid_stream": 1, "sink_stalled_from_start": 1, "stress": 2}.get(case, 3)):
            self.script.append(self.request(rng, sequence % 256))
            sequence += len(self.script[-1])
        return {"i_token": [{"token": rng.getrandbits(32), "value": rng.getrandbits(64), "last": rng.getrandbits(1)}
                            for _ in range(rng.randint(0, 6))]}

    def boundary(self) -> Items:
        """Whole frames, all escapes; the end of memory."""
        full, word = DATA_BYTES.to_bytes(4, "little"), self.bus_bytes.to_bytes(4, "little")
        self.script = [[frame] for frame in (
            Frame(Kind.WRITE_MEMORY, 0, MEMORY_BYTES - DATA_BYTES, b"\x7e\x7d" * (DATA_BYTES // 2)),
            Frame(Kind.READ_MEMORY, 1, MEMORY_BYTES - DATA_BYTES, full), Frame(Kind.READ_MEMORY, 2, MEMORY_BYTES, word),
            Frame(Kind.HASH, 3, MEMORY_BYTES - DATA_BYTES, full),
            Frame(Kind.WRITE_MEMORY, 4, 1 << 31, bytes(self.bus_bytes)))]
        return {"i_token": [{"token": 0xFFFFFFFF, "value": 1 << 63, "last": 1}]}

    def expected(self, stimulus: Items) -> Items:
        return {}

    def latency_stimulus(self) -> Items:
        self.script = [[Frame(Kind.TOKENS, 5)]]
        return {"i_token": []}

    def measure(self, trace: Trace) -> dict[str, int]:
        return {"latency": self.host.reply_began - self.host.request_ended}


class _Host(Model):
    """Asks, waits, asks again."""

    name = "line"

    def __init__(self, ports: Mapping[str, Any], bench: HostLinkBench):
        self.bench = bench
        self.sender, self.receiver = LineSender(ports["rx"], PERIOD), LineReceiver(ports["tx"], PERIOD)
        self.clear()

    def clear(self) -> None:
        self.sender.clear()
        self.receiver.clear()
        self.splitter, self.script = Splitter(), list[list[Frame]]()
        self.open: dict[int, tuple[Frame, Frame]] = {}  # sequence -> request, reply that must come
        self.tokens: list[tuple[int, ...]] = []
        self.events: list[int] = []
        self.quiet = self.repeats = self.reply_began = self.request_ended = 0
        self.source: Pattern = always

    def begin(self, sources: Pattern, sinks: Pattern) -> None:
        self.script, self.source, self.rng = list(self.bench.script), sources, self.bench.rng

    @property
    def transfers(self) -> list[int]:
        return self.events

    def _fault(self, byte: int) -> list[int]:
        """What becomes of a byte on the line."""
        if self.rng.random() >= self.bench.faults:
            return [byte]
        return self.rng.choice(([], [byte, byte], [byte ^ 1 << self.rng.randrange(8)], [self.rng.randrange(256)], [byte | 256]))

    def _send(self, frames: list[Frame]) -> None:
        for frame in frames:
            for byte in frame.encode():
                self.sender.bytes.extend(self._fault(byte) if self.bench.faults else [byte])

    def drive(self) -> None:
        if not self.open and self.script and self.source():
            for frame in self.script.pop(0):
                # A write that is done again would be wrong only if another came between; those of a window do not touch.
                reply = self.bench.model.answer(frame)
                assert reply is not None
                self.open[frame.sequence] = frame, reply
            self._send([frame for frame, _ in self.open.values()])
        elif self.open and self.quiet > TIMEOUT and self.sender.idle:
            self.quiet, self.repeats = 0, self.repeats + 1
            if self.repeats > 20 + 500 * bool(self.bench.faults):
                raise BenchFailure(f"no reply to {[frame for frame, _ in self.open.values()]}")
            self._send([frame for frame, _ in self.open.values()])
        self.begins = self.sender.drive()

    def sample(self, cycle: int) -> bool:
        self.quiet = 0 if self.begins or not self.sender.idle else self.quiet + 1
        if self.begins:
            self.request_ended = cycle
        byte = self.receiver.sample(cycle)
        if byte is None:
            return self.begins
        self.quiet = 0
        if self.reply_began <= self.request_ended:
            self.reply_began = self.receiver.began or 0
        for each in self._fault(byte):
            for frame in self.splitter.feed(bytes((each & 255,))):
                self._take(frame)
                self.events.append(cycle)
        return True

    def _take(self, frame: Frame) -> None:
        if frame.sequence not in self.open:
            if not self.bench.faults:
                raise BenchFailure(f"nobody asked for {frame}")
            return
        request, want = self.open.pop(frame.sequence)
        if request.kind == Kind.TOKENS and not request.data:  # which have come by now is not the model's to say
            self.tokens += TOKEN.iter_unpack(frame.data)
            want = Frame(want.kind, want.sequence, want.address, frame.data, want.status)
        if request.kind == Kind.IDENTIFY and self.bench.spoiled:
            want = Frame(want.kind, want.sequence, want.address, want.data[:-4] + frame.data[-4:], want.status)
        if frame != want:
            raise BenchFailure(f"the reply to {request} is {frame}, expected {want}")

    def pending(self) -> str | None:
        if self.script or self.open:
            return f"{len(self.script)} requests are to come, no reply has come to {[frame for frame, _ in self.open.values()]}"
        if len(self.tokens) < len(self.bench.tokens):
            self.script.append([Frame(Kind.TOKENS, self.rng.randrange(256))])
            return "tokens have not come"
        return None

    def finish(self) -> None:
        if self.tokens != self.bench.tokens:
            raise BenchFailure(f"the tokens are {self.tokens}, expected {self.bench.tokens}")
        self.bench.registers.compare()
        wrong = np.flatnonzero(self.bench.data != np.frombuffer(self.bench.model.memory, dtype=np.uint8))
        if len(wrong):
            raise BenchFailure(f"memory differs at {wrong[0]:#x} and {len(wrong) - 1} other bytes")
