"""A simulated accelerator that runs batch after batch, as a serving host drives it."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from ...accelerators.control.regmap import register_map
from ...rtl_gen.image import Image
from .run import Run, Sampling, check_memory, driver_arguments, driver_command, read_results, setup_registers

__all__ = ["Session"]


class Session:
    """An accelerator with a paged KV cache that stands ready; a context manager.

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
    memory_model, clock_mhz, memory :
        See ``simulate``.
    """

    def __init__(self, program: Path, image: Image, image_file: Path, *, sampling: Sampling = Sampling(), cycle_limit: int = 0,
                 memory_model: str = "ideal", clock_mhz: float = 250.0, watchdog: int = 1 << 20, **memory: int) -> None:
        check_memory(memory_model, clock_mhz, memory)
        self._image = image
        self._longest = (image.kv_address - image.prompt_address) // image.config.bus_bytes
        offsets = register_map(image.config).offsets
        self._length, self._control = offsets["PROMPT_LENGTH"], offsets["CONTROL"]
        bits = {each.name: 1 << each.low for each in register_map(image.config)["CONTROL"].fields}
        self._start = bits["greedy"] * sampling.greedy | bits["start"]
        arguments = driver_arguments(image, image_file, cycle_limit, memory_model, clock_mhz, {**memory, "steps": 1})
        command = driver_command(program, image, arguments, memory_model)
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
        if len(batch) > self._longest:
            raise ValueError(f"a batch has at most {self._longest} words, not {len(batch)}")
        assert self._process.stdin is not None and self._process.stdout is not None
        words = " ".join(map(str, batch))
        self._process.stdin.write(f"{words} {self._length}={len(batch)} {self._control}={self._start}\n")
        self._process.stdin.flush()
        return read_results(self._process.stdout, self._image)
