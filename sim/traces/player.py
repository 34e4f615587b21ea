"""Plays a trace on an emitted unit in Verilator: about a million cycles per second, and no Python between them."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ...rtl_gen.emit import Emitted
from ...rtl_gen.verilator import VERILATOR, quick_environment
from ...rtl_gen.yowasp import build_root
from ..bench.layout import Codec
from ..native.build import build_simulator, runtime_folder

__all__ = ["Answer", "Event", "Offer", "PlayError", "Set", "Settle", "Step", "Surroundings", "compiled_player", "play"]

SOURCE = Path(__file__).parent / "player.cpp"
WORDS = 6
EVENT = np.dtype([("what", "<u4"), ("port", "<u4"), ("step", "<u4"), ("cycle", "<u4"), ("words", "<u4", WORDS)])
WHAT = ("taken", "left", "level", "answered")


class PlayError(RuntimeError):
    """The unit broke a rule of streams or stopped, or a tool failed; the message says which."""


@dataclass(frozen=True)
class Offer:
    """An item for input stream ``stream``."""

    stream: str
    payload: Any


@dataclass(frozen=True)
class Set:
    """A value of a plain input."""

    port: str
    value: int


@dataclass(frozen=True)
class Settle:
    """Wait until nothing has left for ``cycles``, then look at the plain outputs."""

    cycles: int


@dataclass(frozen=True)
class Answer:
    """The payload of the next answer on ``stream`` that is not known yet; those that no step gives are zeros."""

    stream: str
    payload: Any


Step = Offer | Set | Settle | Answer


@dataclass(frozen=True)
class Surroundings:
    """What stands around the unit and answers it.

    Attributes
    ----------
    answers : mapping
        Output stream: (input stream, share). Each item that leaves the output has an answer, offered in ``share`` of 256 cycles.
    fetch : (str, str), optional
        Of a memory: stream of ``BURST_COMMAND``, and stream of ``word_layout`` on which the packet comes that is there when the command
        leaves; words that were never written are 0.
    write : (str, str, str), optional
        Its commands, words and answers. Words are there when the answer is taken.
    """

    answers: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    fetch: tuple[str, str] | None = None
    write: tuple[str, str, str] | None = None

    def inputs(self) -> dict[str, int]:
        """Streams with answers, and in how many cycles one is offered (0: as everything is)."""
        memory = [stream for streams in (self.fetch, self.write) if streams for stream in streams[-1:]]
        return {**dict(self.answers.values()), **dict.fromkeys(memory, 0)}


@dataclass(frozen=True, slots=True)
class Event:
    """``what``: ``taken`` or ``left``, of a stream, ``answered``, of the answers but for what a memory gives, or ``level``, of a plain
    output; ``step``: number of the step that was under way; ``cycle``: when; ``payload``: item as the bench has it, or level."""

    what: str
    name: str
    step: int
    cycle: int
    payload: Any


class _Ports:
    """The unit's ports in the order of their numbers."""

    def __init__(self, emitted: Emitted, surroundings: Surroundings):
        self.surroundings, self.bus_bits = surroundings, emitted.sidecar["config"].get("bus_bits", 32)
        streams = emitted.sidecar["streams"]
        self.inputs = [each for each in streams if each["direction"] == "in"]
        self.outputs = [each for each in streams if each["direction"] == "out"]
        parts = {f"{each['name']}__{part}" for each in streams for part in ("payload", "valid", "ready")}
        plain = [port for port in emitted.sidecar["ports"] if port["name"] not in parts]
        self.plain_inputs = [port["name"] for port in plain if port["direction"] == "in"]
        self.plain_outputs = [port["name"] for port in plain if port["direction"] == "out"]
        around = self.surroundings
        named = {"in": {*around.inputs()}, "out": {*around.answers, *(around.fetch or ())[:1], *(around.write or ())[:2]}}
        for direction, known in (("in", self.inputs), ("out", self.outputs)):
            if unknown := named[direction] - {each["name"] for each in known}:
                raise ValueError(f"surroundings must name {direction}put streams of {emitted.name}, not {', '.join(sorted(unknown))}")
        self.codecs = {each["name"]: Codec(each["payload"], each["name"]) for each in streams}
        if max(codec.width for codec in self.codecs.values()) > 32 * WORDS:
            raise ValueError(f"payloads of {emitted.name} must have at most {32 * WORDS} bits")

    def header(self) -> str:
        """Macros that name the ports to the player."""
        free = [each["name"] for each in self.outputs if each["always_ready"]]
        lines = [f"#define FOR_EACH_{group}(DO) " + " ".join(f"DO({k}, {_flat(name)})" for k, name in enumerate(names))
                 for group, names in (("PLAIN_INPUT", self.plain_inputs), ("PLAIN_OUTPUT", self.plain_outputs))]
        lines.append("#define FOR_EACH_INPUT(DO) " + " ".join(
            f"DO({k}, {_flat(each['name'])}, {self.codecs[each['name']].width})" for k, each in enumerate(self.inputs)))
        for group, wanted in (("STALLED_OUTPUT", False), ("FREE_OUTPUT", True)):
            lines.append(f"#define FOR_EACH_{group}(DO) " + " ".join(
                f"DO({k}, {_flat(each['name'])})" for k, each in enumerate(self.outputs) if (each["name"] in free) == wanted))
        return "\n".join(("#pragma once", f"constexpr unsigned OUTPUTS = {len(self.outputs)};", *lines, *self._around(), ""))

    def _around(self) -> list[str]:
        around, shares = self.surroundings, self.surroundings.inputs()
        inputs, outputs = ([each["name"] for each in streams] for streams in (self.inputs, self.outputs))
        answers = list(shares)
        numbers = {"FETCH": outputs.index(around.fetch[0]) if around.fetch else -1,
                   "FETCHED": answers.index(around.fetch[1]) if around.fetch else -1,
                   "WRITE": outputs.index(around.write[0]) if around.write else -1,
                   "WRITE_WORDS": outputs.index(around.write[1]) if around.write else -1,
                   "WRITTEN": answers.index(around.write[2]) if around.write else -1}
        answer_of = [answers.index(around.answers[name][0]) if name in around.answers else -1 for name in outputs]
        return [f"constexpr unsigned ANSWERS = {len(answers)}, BUS_BITS = {self.bus_bits};",
                "constexpr int " + ", ".join(f"{name} = {number}" for name, number in numbers.items()) + ";",
                f"constexpr int ANSWER_OF[] = {{{', '.join(map(str, answer_of))}}};",
                "#define FOR_EACH_ANSWER(DO) " + " ".join(f"DO({k}, {inputs.index(name)}u, {_flat(name)}, {share})"
                                                         for k, (name, share) in enumerate(shares.items()))]


def _flat(name: str) -> str:
    """Verilator spells double underscores in another way."""
    return name.replace("__", "_")


def _wrapper(emitted: Emitted) -> str:
    ports = [*emitted.sidecar["ports"], *({"name": name, "direction": "in", "width": 1} for name in ("clk", "rst"))]
    declared = ",\n".join(f"  {port['direction']}put wire [{port['width'] - 1}:0] {_flat(port['name'])}" for port in ports)
    connected = ",\n".join(f"    .{port['name']}({_flat(port['name'])})" for port in ports)
    return f"module played (\n{declared}\n);\n  {emitted.name} unit (\n{connected}\n  );\nendmodule\n"


def compiled_player(emitted: Emitted, header: str, source: Path) -> Path:
    """A program around the unit (class ``Vplayed``, ports without double underscores, ``header`` as interface.h); one that was built
    before is reused. Raises ``BuildError``."""
    texts = {"unit.sv": emitted.verilog, "wrapper.sv": _wrapper(emitted), "interface.h": header, "player.cpp": source.read_text()}
    key = hashlib.sha256(repr((texts, version("verilator"))).encode()).hexdigest()[:24]
    folder = build_root() / "sim" / "traces" / key
    program = folder / "player"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if program.is_file():
            return program
        work = folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        for name, text in texts.items():
            (work / name).write_text(text)
        command = [str(VERILATOR), "--cc", "--exe", "--top-module", "played", "--prefix", "Vplayed", "-Wno-fatal", "--noassert",
                   "-CFLAGS", "-std=c++20", "--Mdir", str(work), "-I" + str(work), str(work / "unit.sv"), str(work / "wrapper.sv"),
                   str(work / "player.cpp"), "-o", str(work / "player")]
        build_simulator(command, "Vplayed", work, runtime_folder(), folder / "build.log", quick_environment("player"))
        os.replace(work / "player", program)
        shutil.rmtree(work)
    return program


def play(emitted: Emitted, steps: Iterable[Step], *, seed: int, source: int = 256, sink: int = 256,
         surroundings: Surroundings | None = None) -> list[Event]:
    """What happens when ``steps`` are played, in order.

    ``source`` and ``sink``: of 256 cycles, in how many an item is offered and taken. Raises ``PlayError`` if a payload changes or a
    ``valid`` falls while stalled, or nothing moves any more.
    """
    ports = _Ports(emitted, surroundings or Surroundings())
    numbers = {**{each["name"]: k for k, each in enumerate(ports.inputs)}, **{name: k for k, name in enumerate(ports.plain_inputs)}}
    trace = bytearray()
    for step in steps:
        if isinstance(step, Offer):
            kind, port, bits = 0, numbers[step.stream], ports.codecs[step.stream].pack(step.payload)[0]
        elif isinstance(step, Set):
            kind, port, bits = 1, numbers[step.port], step.value
        elif isinstance(step, Answer):
            kind, port, bits = 3, numbers[step.stream], ports.codecs[step.stream].pack(step.payload)[0]
        else:
            kind, port, bits = 2, 0, step.cycles
        trace += kind.to_bytes(4, "little") + port.to_bytes(4, "little") + bits.to_bytes(4 * WORDS, "little")
    program = compiled_player(emitted, ports.header(), SOURCE)
    with tempfile.TemporaryDirectory() as folder:
        path, log = Path(folder) / "trace", Path(folder) / "log"
        path.write_bytes(trace)
        done = subprocess.run([str(program), str(path), str(log), str(seed), str(source), str(sink)], capture_output=True, text=True,
                              check=False)
        if done.returncode:
            raise PlayError(f"{emitted.name}: {done.stderr.strip() or 'the player crashed'}")
        events = np.fromfile(log, EVENT)
    names = {"taken": [each["name"] for each in ports.inputs], "left": [each["name"] for each in ports.outputs],
             "level": ports.plain_outputs}
    names["answered"] = names["taken"]
    return [_event(ports, names, *each) for each in zip(*(events[field].tolist() for field in ("what", "port", "step", "cycle")),
                                                        (row.tobytes() for row in events["words"]), strict=True)]


def _event(ports: _Ports, names: dict[str, list[str]], what: int, port: int, step: int, cycle: int, words: bytes) -> Event:
    kind, bits = WHAT[what], int.from_bytes(words, "little")
    name = names[kind][port]
    return Event(kind, name, step, cycle, bits if kind == "level" else ports.codecs[name].unpack(bits))
