"""Runs a compiled model on the emitted accelerator and collects what it said: tokens, cycles, counters, errors."""

import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntFlag
from pathlib import Path

from ...accelerators.checks import check_int
from ...accelerators.config import AcceleratorConfig
from ...accelerators.control.errors import ERROR_TEXT, ErrorCause, waiting_streams
from ...accelerators.control.isa import Flag, decode_program
from ...accelerators.control.regmap import UNIT_NAMES, check_core, register_map
from ...accelerators.integers import ceil_div
from ...rtl_gen.image import Image
from ..golden.numerics import Scalar
from .dram import DramReport

__all__ = ["CLOCK_MHZ", "MEMORY_MODELS", "MEMORY_OPTIONS", "Channel", "Generated", "Run", "Sampling", "check_memory",
           "driver_arguments", "driver_command", "port_bases", "read_results", "setup_registers", "simulate"]

MEMORY_MODELS = {"ideal": "a fixed latency, one beat per port and cycle", "ddr4": "DDR4-2400 with 64 data lines (sim/native/dram.h)"}
MEMORY_OPTIONS = {"latency": (0, 100_000), "stall": (0, 99)}
"""Smallest and largest value of what ``simulate`` tells its memory; anything else is at least 0."""

CLOCK_MHZ = 1, 1200
CORE = {"IDENTITY", "VERSION", "CONFIG_HASH"}
"""Registers that tell whether the core is one for the image."""
REGION_ALIGNMENT = 1 << 20
BANK_STRIDE = 16 << 10  # addresses of one row in all bank groups of dram.h: the next one is in the next bank


class Channel(IntFlag):
    """What can be made to stand still (``Channel`` of simulation.h): channels of all memory ports, and the token output."""

    READ_ADDRESS = 1
    READ_DATA = 2
    WRITE_ADDRESS = 4
    WRITE_DATA = 8
    WRITE_RESPONSE = 16
    TOKENS = 32


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
    """One token as it left the accelerator; ``cycle``, ``read_beats`` and ``write_beats`` count from the start. ``hidden`` is
    the digest of the final hidden state before it (``golden.machine.hidden_digest``), if it was asked for and seen whole."""

    token: int
    value: int
    cycle: int
    read_beats: int
    write_beats: int
    hidden: int | None = None


@dataclass
class Run:
    """What a simulation did. ``registers`` holds every readable register at the end (64-bit pairs joined); ``port_beats`` the
    data beats (read, written) of each memory port in ``cycles``; ``dram`` what a DRAM model reported; ``foreign`` why the core is
    not one for the image, if it is not; ``refused`` the register write, if any, that kept the run from beginning; ``before`` is the
    first run when a second one followed."""

    tokens: list[Generated] = field(default_factory=list)
    registers: dict[str, int] = field(default_factory=dict)
    violation: str | None = None
    foreign: str | None = None
    refused: tuple[str, int] | None = None
    ended: bool = False
    before: "Run | None" = None
    cycles: int = 0
    port_beats: list[tuple[int, int]] = field(default_factory=list)
    dram: DramReport | None = None

    @property
    def cause(self) -> ErrorCause:
        return ErrorCause(self.registers.get("ERROR_CAUSE", 0))

    @property
    def error(self) -> str | None:
        """A sentence when the accelerator stopped with an error or the run did not end, else ``None``."""
        if self.foreign:
            return self.foreign
        if self.violation:
            return f"bus protocol violated by the accelerator: {self.violation}"
        if self.refused:
            return f"register {self.refused[0]} refuses {self.refused[1]}"
        if self.cause:
            info = self.registers["ERROR_INFO"]
            text = f"{self.cause.name}: {ERROR_TEXT[self.cause]} (info {info:#x}, operation {self.registers['OPERATION']})"
            if self.cause is ErrorCause.WATCHDOG:
                waiting = waiting_streams(info, UNIT_NAMES) or ["no stream waits: control does"]
                text = f"WATCHDOG: no progress in operation {self.registers['OPERATION']}: {'; '.join(waiting)}"
            return text
        return None if self.ended else "the simulation ended before the accelerator was done"


def port_bases(config: AcceleratorConfig, memory_bytes: int, memory_model: str = "ideal") -> list[int]:
    """Byte address of word 0 behind each memory port: regions one after another, for a DRAM model one bank apart, so that
    the ports, which read the slices of one word after another, keep to different banks.

    Raises ``ValueError`` if the regions do not fit 32-bit addresses.
    """
    region = ceil_div(memory_bytes, config.memory_ports * REGION_ALIGNMENT) * REGION_ALIGNMENT
    skew = BANK_STRIDE if memory_model != "ideal" else 0
    if config.memory_ports * (region + skew) > 1 << 32:
        raise ValueError(f"memory must be at most 4 GiB, not {memory_bytes:,} bytes on {config.memory_ports} ports")
    return [port * (region + skew) for port in range(config.memory_ports)]


def simulate(program: Path, image: Image, image_file: Path, prompt: Sequence[int], count: int, *,
             eos: int | None = None, sampling: Sampling = Sampling(), on_token: Callable[[Generated], None] | None = None,
             wave: Path | None = None, observe: Path | None = None, cycle_limit: int = 0, watchdog: int = 1 << 20,
             registers: dict[str, int] | None = None, again: bool = False, start_position: int = 0,
             preload: Sequence[tuple[int, Path]] = (), dump: Sequence[tuple[int, Path]] = (), read_trace: Path | None = None,
             timeline: Path | None = None, hidden: bool = False, memory_model: str = "ideal", clock_mhz: float = 250.0,
             **memory: int) -> Run:
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
        Waveform file (needs a driver that was built for it).
    observe : Path
        File of operation results (needs an accelerator with ``observe``); see ``sim/native/locate.py``.
    cycle_limit : int
        Stop after so many cycles (0: never).
    registers : dict
        Overrides of register values, for tests of bad input.
    again : bool
        After the run (which may have failed) clear errors and run once more without overrides, error ranges and stopped channels.
    start_position : int
        Tokens that are in the K/V cache already (see ``preload``).
    preload : sequence of (int, Path)
        Files that are copied into memory before the run, at these byte addresses.
    dump : sequence of (int, Path)
        Files that memory is written to after the run, each from a byte address on to the end.
    read_trace : Path
        CSV file of all read bursts as they are accepted: ``cycle,port,address,bytes``; cycles from the start of the run,
        addresses as on the port.
    timeline : Path
        CSV file of what was busy when (needs an accelerator with ``trace``); see ``sim/native/timeline.py``.
    hidden : bool
        Tokens come with the digest of their final hidden state (needs an accelerator with ``observe``).
    memory_model : str
        One of ``MEMORY_MODELS``.
    clock_mhz : float
        Clock of the accelerator, 1 to 1200, for DRAM models, whose own clock is that of the device.
    memory :
        ``latency`` (cycles, 0 to 100,000; with a DRAM model those of controller and interconnect, on top of the device's),
        ``stall`` (percent of cycles in which each channel hesitates, 0 to 99), ``seed``, ``token_stall``, ``error_begin`` and
        ``error_end`` (byte range that answers with errors), ``error_response`` (2 SLVERR, 3 DECERR), ``stop_channels`` (bits of
        ``Channel`` that stand still) and ``stop_at`` (from this cycle on), ``reset_at`` (cycle).
    """
    check_memory(memory_model, clock_mhz, memory)
    check_int("count", count, 1, (1 << 32) - 1)
    if image.config.cache == "paged":
        raise ValueError(f"{image.config.name!r} runs batches, not prompts: see Session")
    map_ = register_map(image.config)
    offsets = map_.offsets
    bits = {each.name: 1 << each.low for each in map_["CONTROL"].fields}
    values = setup_registers(image, sampling, memory_model, watchdog) | {
        "PROMPT_LENGTH": len(prompt), "START_POSITION": start_position, "MAX_NEW_TOKENS": count, "EOS_TOKEN": eos or 0}
    mode = bits["greedy"] * sampling.greedy | bits["ignore_eos"] * (eos is None)
    go = [("CONTROL", mode | bits["start"])]
    arguments = driver_arguments(image, image_file, cycle_limit, memory_model, clock_mhz, memory)
    if hidden:
        operations = decode_program(image.data[image.program_address:].tobytes())
        arguments |= {"hidden_tag": next(op.tag for op in operations if Flag.TO_HEAD in op.flags),
                      "hidden_lanes": image.config.vector_lanes, "hidden_elements": image.model.hidden_size}
    command = driver_command(program, image, arguments, memory_model)
    for name, path in (("wave", wave), ("observe", observe), ("read_trace", read_trace), ("timeline", timeline)):
        if path is not None:
            command += [name, str(path)]
    for address, path in preload:
        command += ["preload", f"{address}:{path}"]
    for address, path in dump:
        command += ["dump", f"{address}:{path}"]
    for name, value in [*{**values, **(registers or {})}.items(), *go]:
        command += ["write", f"{offsets[name]}={value & 0xFFFFFFFF}"]
    for name, value in [("CONTROL", mode | bits["clear_errors"]), *values.items(), *go] if again else ():
        command += ["rewrite", f"{offsets[name]}={value & 0xFFFFFFFF}"]
    for token in prompt:
        command += ["token", str(token)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        run = read_results(process.stdout, image, on_token)
    if process.returncode:
        raise RuntimeError(f"the simulator ended with status {process.returncode}")
    return run


def check_memory(memory_model: str, clock_mhz: float, memory: dict[str, int]) -> None:
    """``ValueError`` for what the driver's memory cannot be."""
    if memory_model not in MEMORY_MODELS:
        raise ValueError(f"memory_model must be one of {', '.join(MEMORY_MODELS)}, not {memory_model!r}")
    if not CLOCK_MHZ[0] <= clock_mhz <= CLOCK_MHZ[1]:
        raise ValueError(f"clock_mhz must be in {CLOCK_MHZ[0]}..{CLOCK_MHZ[1]}, not {clock_mhz}")
    for name, setting in memory.items():
        check_int(name, setting, *MEMORY_OPTIONS.get(name, (0, (1 << 63) - 1)))


def setup_registers(image: Image, sampling: Sampling, memory_model: str, watchdog: int) -> dict[str, int]:
    """Values of the registers that stay as they are from run to run."""
    scale = sampling.inverse_temperature
    values = {
        "PROGRAM_ADDRESS": image.program_address, "PROMPT_ADDRESS": image.prompt_address,
        "KV_CAPACITY": image.kv_capacity, "KV_RECORD_BEATS": image.kv_record_beats,
        "KV_HEAD_STRIDE": image.kv_head_stride, "SEED": sampling.seed, "TOP_K": sampling.top_k,
        "INVERSE_TEMPERATURE_MANTISSA": scale.mantissa, "INVERSE_TEMPERATURE_EXPONENT": scale.exponent & 0xFFFF,
        "WATCHDOG_LIMIT": watchdog,
    }
    if image.window is not None:
        values |= {"KV_SINKS": image.window.sinks, "KV_WINDOW": image.window.recent, "KV_POSITIONS": image.window.positions}
    if image.eviction is not None:
        kept = image.eviction
        values |= {"KV_SINKS": kept.sinks, "KV_WINDOW": kept.recent, "KV_POSITIONS": kept.positions, "KV_THRESHOLD": kept.threshold}
    if image.config.cache == "paged":
        values |= {"KV_ADDRESS": image.kv_address, "KV_HEADS": image.model.layers * image.model.kv_heads}
    if image.config.swap_slots:
        values |= {"KV_SWAP_ADDRESS": image.kv_swap_address, "KV_SWAP_STRIDE": image.kv_swap_stride}
    if image.config.memory_ports > 1:
        bases = port_bases(image.config, image.memory_bytes, memory_model)
        values |= {f"MEMORY_BASE_{port}": base for port, base in enumerate(bases)}
    return values


def driver_arguments(image: Image, image_file: Path, cycle_limit: int, memory_model: str, clock_mhz: float, memory: dict[str, int]
                     ) -> dict[str, object]:
    """Options of the driver that every run needs."""
    map_ = register_map(image.config)
    status = {each.name: 1 << each.low for each in map_["STATUS"].fields}
    return {"image": image_file, "memory": image.memory_bytes, "prompt": image.prompt_address, "limit": cycle_limit,
            "status": map_.offsets["STATUS"], "done_mask": status["done"] | status["error_pending"], "busy_mask": status["busy"],
            "model": memory_model, "clock_khz": round(1000 * clock_mhz), **memory}


def driver_command(program: Path, image: Image, arguments: dict[str, object], memory_model: str) -> list[str]:
    """The command line for ``arguments``, with what tells the driver the memory's regions and the registers to read at the end."""
    command = [str(program)]
    for name, value in arguments.items():
        command += [name, str(value)]
    for base in port_bases(image.config, image.memory_bytes, memory_model):
        command += ["base", str(base)]
    for register in register_map(image.config):
        if register.name in CORE or any(each.access in ("ro", "w1c") for each in register.fields):
            command += ["read", str(register.offset)]
    return command


def read_results(lines: Iterable[str], image: Image, on_token: Callable[[Generated], None] | None = None) -> Run:
    """What the driver prints of a run, up to ``end``."""
    map_ = register_map(image.config)
    names = {offset: name for name, offset in map_.offsets.items()}
    run = Run()
    for line in lines:
        keyword, *fields = line.split()
        if keyword == "token":
            run.tokens.append(Generated(*map(int, fields[1:])))
            if on_token is not None:
                on_token(run.tokens[-1])
        elif keyword == "cycles":
            run.cycles = int(fields[0])
        elif keyword == "port":
            run.port_beats.append((int(fields[1]), int(fields[2])))
        elif keyword == "dram":
            run.dram = DramReport.begin(fields)
        elif keyword in ("timing", "statistic"):
            assert run.dram is not None
            run.dram.add(keyword, fields)
        elif keyword == "register":
            run.registers[names[int(fields[0])]] = int(fields[1])
        elif keyword == "refused":
            run.refused = names[int(fields[0])], int(fields[1])
        elif keyword == "violation":
            run.violation = " ".join(fields)
        elif keyword == "reset":
            run.tokens.clear()
        elif keyword == "again":
            run = Run(before=run)
        elif keyword == "end":
            break
    done = sum(1 << each.low for each in map_["STATUS"].fields if each.name in ("done", "error_pending"))
    for each in (run, run.before):
        if each is not None:
            each.foreign = _foreign(each.registers, image.config)
            _join_halves(each.registers)
            each.ended = bool(each.registers.get("STATUS", 0) & done)
    return run


def _foreign(registers: dict[str, int], config: AcceleratorConfig) -> str | None:
    """Why the core is not one for ``config``, if it is not."""
    if not registers.keys() >= CORE:
        return None
    values = {offset: registers[name] for name, offset in register_map(config).offsets.items() if name in CORE}
    try:
        check_core(values.__getitem__, config)
    except ValueError as error:
        return str(error)
    return None


def _join_halves(registers: dict[str, int]) -> None:
    for name in [name for name in registers if name.endswith("_LO")]:
        stem = name.removesuffix("_LO")
        registers[stem] = registers.pop(name) | registers.pop(stem + "_HI") << 32
