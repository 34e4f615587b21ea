"""Builds the C++ driver around the emitted accelerator with Verilator; kept under the hash of everything that enters."""

import fcntl
import hashlib
import os
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

from ...rtl_gen.emit import Emitted
from ...rtl_gen.verilator import VERILATOR, verilator_environment
from ...rtl_gen.yowasp import build_root

__all__ = ["BuildError", "build_driver"]

SOURCES = Path(__file__).parent


class BuildError(RuntimeError):
    """Verilator or the compiler failed; the message holds the end of its output and the log's path."""


def build_driver(emitted: Emitted, bus_bits: int, *, waves: bool = False, fast: bool = True) -> Path:
    """Path of the executable for ``emitted``.

    Parameters
    ----------
    emitted : Emitted
        The accelerator; its top module has the ports of ``top.Accelerator``.
    bus_bits : int
        Width of the memory port.
    waves : bool
        With FST tracing (slower).
    fast : bool
        Compile for speed (``-O2``); False compiles quickly.

    Raises ``BuildError`` when a tool fails. A build that was done before is reused.
    """
    defines = [f"-DBUS_BYTES={bus_bits // 8}"]
    for port in emitted.sidecar["ports"]:
        if port["name"] == "observe_elements":
            defines.append(f"-DOBSERVE_BYTES={port['width'] // 8}")
    flags = ["--cc", "--exe", "--build", "-j", "2", "-O3", "--x-assign", "fast", "--x-initial", "fast", "--noassert",
             "--top-module", emitted.name, "--prefix", "Vaccelerator", "-Wno-fatal", "--output-split", "20000",
             *(["--trace-fst"] if waves else []), "-CFLAGS", " ".join(["-std=c++17", *defines])]
    optimize = dict(OPT_FAST="-O2" if fast else "-O1", OPT_SLOW="-O0", OPT_GLOBAL="-O2")
    key = hashlib.sha256(repr((emitted.verilog, flags, optimize, version("verilator"))).encode())
    for source in ("driver.cpp", "memory.h"):
        key.update((SOURCES / source).read_bytes())
    folder = build_root() / "sim" / "native" / key.hexdigest()[:24]
    program = folder / "Vaccelerator"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if program.is_file():
            return program
        work = folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        (work / "accelerator.sv").write_text(emitted.verilog)
        log = folder / "build.log"
        environment = {**os.environ, **verilator_environment(**optimize)}
        command = [str(VERILATOR), *flags, "--Mdir", str(work), "-I" + str(SOURCES), str(work / "accelerator.sv"),
                   str(SOURCES / "driver.cpp"), "-o", str(work / "Vaccelerator")]
        with open(log, "w") as output:
            done = subprocess.run(command, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False)
        if done.returncode:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
            raise BuildError(f"building the simulator failed (log: {log}):\n{tail}")
        os.replace(work / "Vaccelerator", program)
        shutil.rmtree(work)
    return program
