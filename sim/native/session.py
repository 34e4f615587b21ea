"""A simulated accelerator that runs batch after batch, or prompt after prompt, as a host drives it."""

import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from ...accelerators.control.regmap import register_map
from ...rtl_gen.image import Image
from .run import Run, Sampling, check_memory, driver_arguments, driver_command, read_results, setup_registers

__all__ = ["Session"]


class Session:
    """An accelerator that stands ready and keeps its memory: for batches of a paged KV cache, or for prompts; a context manager.

    Parameters
    ----------
    program : Path
        Of ``build_driver``.
    image, image_file : Image, Path
        The compiled model and its ``.bin`` file.
    sampling : Sampling
        Of all tokens: its random numbers go from one to the next, in the order in which tokens come.
    cycle_limit : int
        Of a step (0: none).
    preload : sequence of (int, Path)
        Files that are copied into memory at these byte addresses, which may be behind those of the image: other programs. For prompts.
    memory_model, clock_mhz, memory :
        See ``simulate``.
    """

    def __init__(self, program: Path, image: Image, image_file: Path, *, sampling: Sampling = Sampling(), cycle_limit: int = 0,
                 preload: Sequence[tuple[int, Path]] = (), memory_model: str = "ideal", clock_mhz: float = 250.0,
                 watchdog: int = 1 << 20, **memory: int) -> None:
        check_memory(memory_model, clock_mhz, memory)
        if preload and image.config.cache == "paged":
            raise ValueError(f"preload goes with prompts; {image.config.name!r} runs batches")
        self._longest = (image.kv_address - image.prompt_address) // image.config.bus_bytes
        ends = [address + path.stat().st_size for address, path in preload]
        self._image = image = replace(image, memory_bytes=max([image.memory_bytes, *ends]))
        self._offsets = offsets = register_map(image.config).offsets
        self._bits = bits = {each.name: 1 << each.low for each in register_map(image.config)["CONTROL"].fields}
        self._start = bits["greedy"] * sampling.greedy | bits["start"]
        arguments = driver_arguments(image, image_file, cycle_limit, memory_model, clock_mhz, {**memory, "steps": 1})
        command = driver_command(program, image, arguments, memory_model)
        for address, path in preload:
            command += ["preload", f"{address}:{path}"]
        for name, value in setup_registers(image, sampling, memory_model, watchdog).items():
            command += ["write", f"{offsets[name]}={value & 0xFFFFFFFF}"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        if kind is not None:
            self._process.kill()
        self._process.stdout.close()
        if self._process.wait() and kind is None:
            raise RuntimeError(f"the simulator ended with status {self._process.returncode}")

    def step(self, batch: Sequence[int]) -> Run:
        """Run a batch (words of ``control/entries.py``). Its words on the token output, also those that tell of refused entries, are
        the run's tokens. ``ValueError`` for a batch that is longer than its place in memory."""
        return self._run(batch, {"CONTROL": self._start})

    def prompt(self, tokens: Sequence[int], count: int = 1, *, start_position: int = 0, program_address: int | None = None) -> Run:
        """Generate ``count`` tokens after ``tokens``, which lie from ``start_position`` on, by the image's program or another one."""
        if self._image.config.cache == "paged":
            raise ValueError(f"{self._image.config.name!r} runs batches, not prompts")
        program = self._image.program_address if program_address is None else program_address
        return self._run(tokens, {"PROGRAM_ADDRESS": program, "START_POSITION": start_position, "MAX_NEW_TOKENS": count,
                                  "CONTROL": self._start | self._bits["ignore_eos"]})

    def _run(self, words: Sequence[int], registers: dict[str, int]) -> Run:
        """Run with ``words`` where the prompt is; the last register starts it."""
        if len(words) > self._longest:
            what = "batch has at most {} words" if self._image.config.cache == "paged" else "prompt has at most {} tokens"
            raise ValueError(f"a {what.format(self._longest)}, not {len(words)}")
        assert self._process.stdin is not None and self._process.stdout is not None
        writes = (f"{self._offsets[name]}={value}" for name, value in ({"PROMPT_LENGTH": len(words)} | registers).items())
        self._process.stdin.write(" ".join((*map(str, words), *writes)) + "\n")
        self._process.stdin.flush()
        return read_results(self._process.stdout, self._image)
