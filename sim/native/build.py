"""Builds the C++ driver around the emitted accelerator with Verilator; kept under the hash of everything that enters."""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

from ...rtl_gen.emit import Emitted
from ...rtl_gen.verilator import QUICK_SPLIT, VERILATOR, keep_runtime, quick_environment, take_runtime, verilator_environment
from ...rtl_gen.yowasp import build_root

__all__ = ["BuildError", "build_driver", "build_simulator", "runtime_folder"]

SOURCES = Path(__file__).parent
TOP = "driven_accelerator"
PORT = re.compile(r"m_axi_gmem\d*_rdata")
FST_HEADERS = ("lz4.h", "zlib.h")
VERILATOR_TYPES = {"CData": 8, "SData": 16, "IData": 32, "QData": 64}


class BuildError(RuntimeError):
    """Verilator or the compiler failed; the message holds the end of its output and the log's path."""


def _fast_environment(main: str) -> dict[str, str]:
    return verilator_environment(OPT_FAST="-O2", OPT_SLOW="-O0", OPT_GLOBAL="-O2")


SPEED = {True: (_fast_environment, ("--output-split", "20000")), False: (quick_environment, QUICK_SPLIT)}
"""Environment and arguments of Verilator, for what runs long and for what does not."""


def _interface(emitted: Emitted) -> str:
    """The header that tells the driver the accelerator's ports."""
    widths = {port["name"]: port["width"] for port in emitted.sidecar["ports"]}
    ports = sorted(name.removesuffix("_rdata") for name in widths if PORT.fullmatch(name))
    width = {widths[f"{port}_rdata"] for port in ports}
    if len(width) != 1:
        raise ValueError(f"the memory ports of {emitted.name} must have one width, not {sorted(width)}")
    port_bytes = width.pop() // 8
    strobe = next(name for name, bits in VERILATOR_TYPES.items() if port_bytes <= bits)
    lines = ["#pragma once", f"constexpr unsigned MEMORY_PORTS = {len(ports)}, PORT_BYTES = {port_bytes};",
             f"using Strobe = {strobe};", "#define FOR_EACH_PORT(DO) " + " ".join(f"DO({port})" for port in ports)]
    if f"{ports[0]}_arid" in widths:
        lines.append("#define PORT_IDS")
    if "observe_elements" in widths:
        lines.append(f"#define OBSERVE_BYTES {widths['observe_elements'] // 8}")
    if "observe_sums_elements" in widths:
        lines.append("#define OBSERVE_SUMS")
    if "trace_busy" in widths:
        lines.append("#define TRACE_UNITS")
    return "\n".join(lines) + "\n"


def _wrapper(emitted: Emitted) -> str:
    """A top module whose inputs but the clock are taken at the falling edge.

    The driver changes inputs there anyway. Verilator evaluates everything that follows from an input at every call, at the
    rising edge too, where no input has changed; what follows from a register is evaluated at that register's edge only. That
    is a fifth of the time.
    """
    declared, held, connected = [], [], []
    for port in emitted.sidecar["ports"]:
        name, bits = port["name"], f"[{port['width'] - 1}:0]"
        taken = port["direction"] == "in" and name != "aclk"
        declared.append(f"  {port['direction']}put wire {bits if port['width'] > 1 else ''} {name}")
        if taken:
            held.append((bits, name))
        connected.append(f"    .{name}({name}{'_held' * taken})")
    lines = [f"module {TOP} (", ",\n".join(declared), ");", *(f"  reg {bits} {name}_held;" for bits, name in held),
             "  always @(negedge aclk) begin", *(f"    {name}_held <= {name};" for _, name in held), "  end",
             f"  {emitted.name} accelerator (", ",\n".join(connected), "  );", "endmodule"]
    return "\n".join(lines) + "\n"


def _check_fst_headers() -> None:
    includes = "".join(f"#include <{header}>\n" for header in FST_HEADERS)
    done = subprocess.run(["g++", "-E", "-x", "c++", "-"], input=includes, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError("FST waveforms need the headers of lz4 and zlib (Debian: liblz4-dev, zlib1g-dev); a file whose name ends "
                         f"in .vcd needs neither:\n{done.stderr.strip()}")


def runtime_folder(*trace: str) -> Path:
    """Where programs in C++20 (``trace``: with these options of Verilator) have its library from."""
    return build_root() / "sim" / "native" / "-".join(("runtime", version("verilator"), *(each.removeprefix("--") for each in trace)))


def build_simulator(command: list[str], prefix: str, work: Path, runtime: Path, log: Path, environment: dict[str, str]) -> None:
    """Run Verilator's ``command``, which writes to ``work``, and then ``make`` there; what they print goes to ``log``. Verilator's own
    library comes from folder ``runtime``, for builds with the same flags."""
    def run(command: list[str]) -> None:
        with open(log, "a") as output:
            done = subprocess.run(command, env=os.environ | environment, stdout=output, stderr=subprocess.STDOUT, check=False)
        if done.returncode:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
            raise BuildError(f"building the simulator failed (log: {log}):\n{tail}")
    log.unlink(missing_ok=True)
    run(command)
    take_runtime(runtime, work)
    run(["make", "-C", str(work), "-f", f"{prefix}.mk", "-j", "2"])
    keep_runtime(runtime, work)


def build_driver(emitted: Emitted, *, wave: Path | None = None, fast: bool = True) -> Path:
    """Path of the executable for ``emitted``.

    Parameters
    ----------
    emitted : Emitted
        The accelerator; its top module has the ports of ``top.Accelerator``.
    wave : Path or None
        The waveform file that a run will write (slower): FST, which needs lz4 and zlib, if its name ends in ``.fst``, else VCD.
    fast : bool
        Compile for speed; False compiles quickly.

    Raises ``BuildError`` when a tool fails. A build that was done before is reused.
    """
    interface, wrapper = _interface(emitted), _wrapper(emitted)
    trace = [] if wave is None else ["--trace-fst" if wave.suffix == ".fst" else "--trace-vcd"]
    choose, split = SPEED[fast]
    environment = choose("driver")
    flags = ["--cc", "--exe", "-O3", "--x-assign", "fast", "--x-initial", "fast", "--noassert", "--top-module", TOP,
             "--prefix", "Vaccelerator", "-Wno-fatal", *split, *trace, "-CFLAGS", "-std=c++20"]
    key = hashlib.sha256(repr((emitted.verilog, wrapper, interface, flags, environment["MAKEFLAGS"], version("verilator"))).encode())
    for source in (SOURCES / "driver.cpp", *sorted(SOURCES.glob("*.h"))):
        key.update(source.name.encode() + b"\0" + source.read_bytes())
    folder = build_root() / "sim" / "native" / key.hexdigest()[:24]
    program = folder / "Vaccelerator"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if program.is_file():
            return program
        if "--trace-fst" in trace:
            _check_fst_headers()
        work = folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        (work / "accelerator.sv").write_text(emitted.verilog)
        (work / "wrapper.sv").write_text(wrapper)
        (work / "interface.h").write_text(interface)
        log = folder / "build.log"
        command = [str(VERILATOR), *flags, "--Mdir", str(work), "-I" + str(SOURCES), str(work / "accelerator.sv"),
                   str(work / "wrapper.sv"), str(SOURCES / "driver.cpp"), "-o", str(work / "Vaccelerator")]
        build_simulator(command, "Vaccelerator", work, runtime_folder(*trace), log, environment)
        os.replace(work / "Vaccelerator", program)
        shutil.rmtree(work)
    return program
