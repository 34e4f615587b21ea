"""An accelerator behind a host link: the right version, an image in its memory, tokens out of it."""

import time
import zlib
from collections.abc import Callable, Iterator, Sequence

from ..accelerators.control.errors import ERROR_TEXT, ErrorCause
from ..accelerators.control.regmap import check_core, register_map
from ..rtl_gen.image import Image
from ..sim.native.run import Sampling, setup_registers
from .host_link import HostLink, LinkError

__all__ = ["Device", "DeviceError"]

WATCHDOG = 1 << 24


class DeviceError(RuntimeError):
    """The accelerator is another one than the image is for, or stopped with an error."""


class Device:
    """One accelerator on a board.

    Parameters
    ----------
    link : HostLink
    image : Image
        ``DeviceError`` if the accelerator is not the one that it was compiled for.
    """

    def __init__(self, link: HostLink, image: Image) -> None:
        if image.config.cache == "paged":
            raise ValueError(f"{image.config.name!r} runs batches, not prompts")
        self.link, self.image = link, image
        self._map = register_map(image.config)
        self._bits = {field.name: field.mask for name in ("CONTROL", "STATUS") for field in self._map[name].fields}
        try:
            check_core(lambda offset: link.read_register(offset), image.config)
        except ValueError as error:
            raise DeviceError(str(error)) from None

    def read(self, name: str) -> int:
        """Value of a register."""
        return self.link.read_register(self._map.offsets[name])

    def write(self, name: str, value: int) -> None:
        self.link.write_register(self._map.offsets[name], value & 0xFFFFFFFF)

    def load(self, progress: Callable[[int, bool], None] = lambda count, sent: None) -> int:
        """Bring the image to memory; returns the bytes that were not there (``HostLink.load``)."""
        self.stop()
        return self.link.load(self.image.data.tobytes(), zlib.crc32, progress)

    def stop(self) -> None:
        """End what a host that has left may have begun, and forget its tokens."""
        while self.read("STATUS") & self._bits["busy"]:
            self.write("CONTROL", self._bits["stop"])
            self.link.tokens()
        while self.link.tokens():
            pass

    def generate(self, prompt: Sequence[int], count: int, *, eos: int | None = None, sampling: Sampling = Sampling(),
                 poll: float = 0.0) -> Iterator[tuple[int, int]]:
        """Up to ``count`` pairs of token and value (largest logit) after ``prompt``, as they come.

        ``poll``: seconds between two questions that no token answers. ``DeviceError`` if the accelerator stops with an error.
        """
        image, word = self.image, self.image.config.bus_bytes
        if not prompt or len(prompt) + count - 1 > image.positions:
            raise ValueError(f"prompt and tokens must be at least 1 and at most {image.positions}, not {len(prompt)} + {count}")
        self.stop()
        self.write("CONTROL", self._bits["clear_errors"])
        self.link.write(image.prompt_address, b"".join(token.to_bytes(4, "little").ljust(word, b"\0") for token in prompt))
        values = setup_registers(image, sampling, "ideal", WATCHDOG) | {
            "PROMPT_LENGTH": len(prompt), "START_POSITION": 0, "MAX_NEW_TOKENS": count, "EOS_TOKEN": eos or 0}
        for name, value in values.items():
            self.write(name, value)
        self.write("CONTROL", self._bits["greedy"] * sampling.greedy | self._bits["ignore_eos"] * (eos is None) | self._bits["start"])
        received = 0
        while True:
            tokens = self.link.tokens()
            received += len(tokens)
            for token, value, last in tokens:
                yield token, value
                if last:
                    return
            if not tokens:
                self._check(received)
                time.sleep(poll)

    def _check(self, received: int) -> None:
        status = self.read("STATUS")
        if status & self._bits["error_pending"]:
            cause, info = ErrorCause(self.read("ERROR_CAUSE")), self.read("ERROR_INFO")
            raise DeviceError(f"the accelerator stopped with {cause.name}: {ERROR_TEXT[cause]} (info {info:#x}, operation "
                              f"{self.read('OPERATION')})")
        if status & self._bits["done"] and self.read("TOKENS_GENERATED") <= received:
            raise LinkError("the accelerator is done, but none of its tokens was the last one")
