"""The host's end of the link: asks, asks again when no reply comes, checks every reply."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from ..accelerators.link.protocol import TOKEN, VERSION, Frame, Identity, Kind, Splitter, Status

__all__ = ["HostLink", "Line", "LinkError", "RefusedError"]

ATTEMPTS = 12
WINDOW = 4
"""Writes that are sent before the first is answered."""
HASH_BLOCK = 1 << 16


class LinkError(RuntimeError):
    """No answer, or one that makes no sense: the message says to what."""


class RefusedError(LinkError):
    """The link answered that the request is wrong or that memory or register refused it."""


class Line(Protocol):
    """What is needed of a ``serial.Serial``; its ``timeout`` must be short."""

    def read(self, size: int) -> bytes: ...

    def write(self, data: bytes) -> Any: ...


class HostLink:
    """Memory, registers and tokens behind a serial line.

    Parameters
    ----------
    line : Line
    patience : float
        Seconds to wait for a reply, beside the time that the bytes themselves need.
    slowness : float
        How many times slower than its clock the other side is: for simulations.
    attempts : int
        How often a request is sent before ``LinkError``.

    Members
    -------
    identity : Identity
        What the link said when it was opened. ``LinkError`` if nobody answers or the protocol is of another version.
    repeats : int
        Requests that were sent again.
    """

    def __init__(self, line: Line, *, patience: float = 0.2, slowness: float = 1.0, attempts: int = ATTEMPTS) -> None:
        self._line, self._patience, self._slowness, self._attempts = line, patience, slowness, attempts
        self._splitter, self._sequence, self.repeats = Splitter(), time.monotonic_ns() & 255, 0
        self._byte_seconds = 1e-4  # a slow line, until it is known
        self._cycle_seconds = 0.0
        (reply,) = self._exchange([self._frame(Kind.IDENTIFY)])
        identity = Identity.decode(reply.data)
        if identity is None:
            raise LinkError("what answers on the line is no host link of llmrtl")
        if identity.version[0] != VERSION[0]:
            raise LinkError(f"the core's host link speaks protocol version {_version(identity.version)}, this program version "
                            f"{_version(VERSION)}: build the bitstream again, or use the program that came with it")
        self.identity = identity
        self._byte_seconds, self._cycle_seconds = 10 / max(identity.baud, 1), 1 / max(identity.clock_hz, 1)

    def read_register(self, address: int) -> int:
        return int.from_bytes(self._ask(Kind.READ_REGISTER, address).data, "little")

    def write_register(self, address: int, value: int) -> None:
        """``RefusedError`` if the register refuses the value."""
        self._ask(Kind.WRITE_REGISTER, address, value.to_bytes(4, "little"))

    def tokens(self) -> list[tuple[int, int, bool]]:
        """Token, value and whether it is the last of its run, of all that have come since the last call (as many as a frame holds)."""
        return [(token, value, bool(last)) for token, value, last in TOKEN.iter_unpack(self._ask(Kind.TOKENS).data)]

    def read(self, address: int, count: int) -> bytes:
        """``count`` bytes; address and count are multiples of ``identity.word_bytes``."""
        self._check_range(address, count)
        step, result = self.identity.data_bytes, bytearray()
        for at in range(0, count, step):
            length = min(step, count - at)
            data = self._ask(Kind.READ_MEMORY, address + at, length.to_bytes(4, "little")).data
            if len(data) != length:
                raise LinkError(f"{length} bytes at {address + at:#x} were asked for, {len(data)} came")
            result += data
        return bytes(result)

    def write(self, address: int, data: bytes, progress: Callable[[int], None] = lambda count: None) -> None:
        """Write; address and length are multiples of ``identity.word_bytes``. ``progress`` is told bytes as they are acknowledged."""
        self._check_range(address, len(data))
        step = self.identity.data_bytes
        frames = [(Kind.WRITE_MEMORY, address + at, data[at:at + step]) for at in range(0, len(data), step)]
        for first in range(0, len(frames), WINDOW):
            several = frames[first:first + WINDOW]
            self._replies([self._frame(*each) for each in several])
            progress(sum(len(each[2]) for each in several))

    def hash(self, address: int, count: int) -> int:
        """CRC-32 of ``count`` bytes of memory, computed where they are."""
        self._check_range(address, count)
        reply = self._ask(Kind.HASH, address, count.to_bytes(4, "little"), cycles=2 * count)
        return int.from_bytes(reply.data, "little")

    def load(self, data: bytes, crc: Callable[[bytes], int], progress: Callable[[int, bool], None] = lambda count, sent: None) -> int:
        """Make memory from address 0 on hold ``data``; returns the bytes that were sent.

        Block after block: what has the right hash already is left alone, so a transfer that broke goes on where it was; what was
        sent is hashed again. ``progress`` is told bytes, and whether they were sent.
        """
        word, sent = self.identity.word_bytes, 0
        data = bytes(data) + bytes(-len(data) % word)
        for at in range(0, len(data), HASH_BLOCK):
            block = data[at:at + HASH_BLOCK]
            want = crc(block)
            if self.hash(at, len(block)) == want:
                progress(len(block), False)
                continue
            self.write(at, block, lambda count: progress(count, True))
            sent += len(block)
            found = self.hash(at, len(block))
            if found != want:
                raise LinkError(f"memory at {at:#x}..{at + len(block):#x} has CRC {found:#010x} after it was written, must have "
                                f"{want:#010x}: the memory does not keep what is written to it")
        return sent

    def _check_range(self, address: int, count: int) -> None:
        word = self.identity.word_bytes
        if address < 0 or count < 1 or address % word or count % word or address + count > 1 << 32:
            raise ValueError(f"address and count must be multiples of {word} within 4 GiB, not {address:#x} and {count}")

    def _frame(self, kind: Kind, address: int = 0, data: bytes = b"") -> Frame:
        self._sequence = (self._sequence + 1) & 255
        return Frame(kind, self._sequence, address, data)

    def _ask(self, kind: Kind, address: int = 0, data: bytes = b"", *, cycles: int = 0) -> Frame:
        return self._replies([self._frame(kind, address, data)], cycles)[0]

    def _replies(self, requests: Sequence[Frame], cycles: int = 0) -> list[Frame]:
        """``_exchange``, and ``RefusedError`` for a status."""
        replies = self._exchange(requests, cycles)
        for request, reply in zip(requests, replies, strict=True):
            if reply.status != Status.OK:
                what = "refuses" if reply.status == Status.BAD_REQUEST else "had an error on its bus from"
                raise RefusedError(f"the link {what} {Kind(request.kind).name} at {request.address:#x} ({len(request.data)} bytes)")
        return replies

    def _exchange(self, requests: Sequence[Frame], cycles: int = 0) -> list[Frame]:
        """The replies; those that do not come are asked for again."""
        missing = {frame.sequence: frame for frame in requests}
        replies: dict[int, Frame] = {}
        for attempt in range(self._attempts):
            self.repeats += len(missing) * bool(attempt)
            self._line.write(b"".join(frame.encode() for frame in missing.values()))
            for reply in self._received(missing, cycles):
                request = missing.get(reply.sequence)
                if request is not None and (reply.kind, reply.address) == (request.kind, request.address):
                    replies[reply.sequence] = reply
                    del missing[reply.sequence]
                if not missing:
                    return [replies[frame.sequence] for frame in requests]
        request = next(iter(missing.values()))
        raise LinkError(f"no answer to {Kind(request.kind).name} at {request.address:#x} after {self._attempts} attempts: is the board "
                        f"configured, and is the line rate the same on both sides?")

    def _received(self, missing: dict[int, Frame], cycles: int) -> Iterator[Frame]:
        """Frames as they come, until none comes in time."""
        line_bytes = sum(2 * len(frame.data) + 64 for frame in missing.values())
        line_bytes += max((2 * int.from_bytes(frame.data, "little") for frame in missing.values() if frame.kind == Kind.READ_MEMORY),
                          default=2048)
        wait = self._patience + self._slowness * (line_bytes * self._byte_seconds + cycles * self._cycle_seconds)
        end = time.monotonic() + wait
        while time.monotonic() < end:
            yield from self._splitter.feed(self._line.read(4096))


def _version(version: Sequence[int]) -> str:
    return ".".join(map(str, version))
