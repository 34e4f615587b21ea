"""Runs a compiled model on the emitted accelerator and collects what it said: tokens, cycles, counters, errors."""

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...accelerators.control.errors import ERROR_TEXT, ErrorCause, waiting_streams
from ...accelerators.control.regmap import UNIT_NAMES, register_map
from ...rtl_gen.image import Image
from ..golden.numerics import Scalar

__all__ = ["Generated", "Run", "Sampling", "simulate"]


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen: greedy, or among the best ``top_k`` at ``temperature`` with a seeded generator."""

    greedy: bool = True
    top_k: int = 1
    temperature: float = 1.0
    seed: int = 1

    @property
    def inverse_temperature(self) -> Scalar:
        return Scalar.from_float(1.0 / self.temperature)


@dataclass(frozen=True)
class Generated:
    """One token as it left the accelerator; ``cycle``, ``read_beats`` and ``write_beats`` count from the start."""

    token: int
    value: int
    cycle: int
    read_beats: int
    write_beats: int


@dataclass
class Run:
    """What a simulation did. ``registers`` holds every readable register at the end (64-bit pairs joined); ``before`` is the
    first run when a second one followed."""

    tokens: list[Generated] = field(default_factory=list)
    registers: dict[str, int] = field(default_factory=dict)
    violation: str | None = None
    ended: bool = False
    before: "Run | None" = None

    @property
    def cause(self) -> ErrorCause:
        return ErrorCause(self.registers.get("ERROR_CAUSE", 0))

    @property
    def error(self) -> str | None:
        """A sentence when the accelerator stopped with an error or the run did not end, else ``None``."""
        if self.violation:
            return f"bus protocol violated by the accelerator: {self.violation}"
        if self.cause:
            info = self.registers["ERROR_INFO"]
            text = f"{self.cause.name}: {ERROR_TEXT[self.cause]} (info {info:#x}, operation {self.registers['OPERATION']})"
            if self.cause is ErrorCause.WATCHDOG:
                waiting = waiting_streams(info, UNIT_NAMES) or ["no unit waits: memory or control do"]
                text = f"WATCHDOG: no progress in operation {self.registers['OPERATION']}: {'; '.join(waiting)}"
            return text
        return None if self.ended else "the simulation ended before the accelerator was done"


def simulate(program: Path, image: Image, image_file: Path, prompt: Sequence[int], count: int, *,
             eos: int | None = None, sampling: Sampling = Sampling(), on_token: Callable[[Generated], None] | None = None,
             wave: Path | None = None, observe: Path | None = None, cycle_limit: int = 0, watchdog: int = 1 << 20,
             registers: dict[str, int] | None = None, again: bool = False, **memory: int) -> Run:
    """Generate up to ``count`` tokens after ``prompt``.

    Parameters
    ----------
    program : Path
        Of ``build_driver``.
    image, image_file : Image, Path
        The compiled model and its ``.bin`` file, mapped by the driver.
    eos : int or None
        Token that ends the run early.
    on_token : callable
        Called as each token is printed.
    wave : Path
        FST file (needs a driver built with ``waves``).
    observe : Path
        File of operation results (needs an accelerator with ``observe``); see ``sim/native/locate.py``.
    cycle_limit : int
        Stop after so many cycles (0: never).
    registers : dict
        Overrides of register values, for tests of bad input.
    again : bool
        After the run (which may have failed) clear errors and run once more without overrides and error ranges.
    memory :
        ``latency`` (cycles), ``stall`` (percent of cycles in which each channel hesitates), ``seed``, ``token_stall``,
        ``error_begin`` and ``error_end`` (byte range that answers with errors), ``reset_at`` (cycle).
    """
    map_ = register_map(image.config)
    offsets = map_.offsets
    control = map_["CONTROL"]
    bits = {each.name: 1 << each.low for each in control.fields}
    scale = sampling.inverse_temperature
    values = {
        "PROGRAM_ADDRESS": image.program_address, "PROMPT_ADDRESS": image.prompt_address,
        "PROMPT_LENGTH": len(prompt), "START_POSITION": 0, "MAX_NEW_TOKENS": count, "EOS_TOKEN": eos or 0,
        "KV_CAPACITY": image.kv_capacity, "KV_RECORD_BEATS": image.kv_record_beats,
        "KV_HEAD_STRIDE": image.kv_head_stride, "SEED": sampling.seed, "TOP_K": sampling.top_k,
        "INVERSE_TEMPERATURE_MANTISSA": scale.mantissa, "INVERSE_TEMPERATURE_EXPONENT": scale.exponent & 0xFFFF,
        "WATCHDOG_LIMIT": watchdog,
    }
    mode = bits["greedy"] * sampling.greedy | bits["ignore_eos"] * (eos is None)
    go = [("CONTROL", mode | bits["start"])]
    status = {each.name: 1 << each.low for each in map_["STATUS"].fields}
    done_mask = status["done"] | status["error_pending"]
    arguments = {"image": image_file, "memory": image.memory_bytes, "prompt": image.prompt_address,
                 "limit": cycle_limit, "status": offsets["STATUS"],
                 "done_mask": done_mask, **memory}
    command = [str(program)]
    for name, value in arguments.items():
        command += [name, str(value)]
    for name, path in (("wave", wave), ("observe", observe)):
        if path is not None:
            command += [name, str(path)]
    for name, value in [*{**values, **(registers or {})}.items(), *go]:
        command += ["write", f"{offsets[name]}={value & 0xFFFFFFFF}"]
    for name, value in [("CONTROL", mode | bits["clear_errors"]), *values.items(), *go] if again else ():
        command += ["rewrite", f"{offsets[name]}={value & 0xFFFFFFFF}"]
    for token in prompt:
        command += ["token", str(token)]
    readable = [register for register in map_ if any(each.access in ("ro", "w1c") for each in register.fields)]
    for register in readable:
        command += ["read", str(register.offset)]
    names = {register.offset: register.name for register in readable}
    run = Run()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            keyword, *fields = line.split()
            if keyword == "token":
                _, token, value, cycle, read_beats, write_beats = map(int, fields)
                run.tokens.append(Generated(token, value, cycle, read_beats, write_beats))
                if on_token is not None:
                    on_token(run.tokens[-1])
            elif keyword == "register":
                run.registers[names[int(fields[0])]] = int(fields[1])
            elif keyword == "violation":
                run.violation = " ".join(fields)
            elif keyword == "reset":
                run.tokens.clear()
            elif keyword == "again":
                run = Run(before=run)
    if process.returncode:
        raise RuntimeError(f"the simulator ended with status {process.returncode}")
    for each in (run, run.before):
        if each is not None:
            _join_halves(each.registers)
            each.ended = bool(each.registers.get("STATUS", 0) & done_mask)
    return run


def _join_halves(registers: dict[str, int]) -> None:
    for name in [name for name in registers if name.endswith("_LO")]:
        stem = name.removesuffix("_LO")
        registers[stem] = registers.pop(name) | registers.pop(stem + "_HI") << 32
