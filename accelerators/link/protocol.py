"""The protocol of the host link, declared once: hardware, golden model and host library are made from it. Plain Python.

A frame, requests and replies alike, least significant byte first::

    7E | kind | sequence | length (2) | address (4) | data (length) | CRC-32 (4) | 7E

    kind      bits 0..3 what is asked (``Kind``), bits 4..7 how it went (``Status``; 0 in a request)
    sequence  of the request; its reply has the same
    length    bytes of data
    CRC-32    of everything from kind to the end of data, as ``zlib.crc32`` has it

Between the delimiters a byte 7E or 7D is sent as 7D and the byte with bit 5 inverted, as in HDLC (RFC 1662), so a 7E on the line is
always a delimiter: whatever was lost or added, the next delimiter begins afresh. What is between two delimiters and is no whole frame
with a right CRC is dropped.

The host asks, the link answers, one reply for each request it took. A request whose sequence is that of the request before
is not executed again: the reply is sent again. ``IDENTIFY`` is always executed, and after it any sequence is new.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

__all__ = ["CRC_BYTES", "DELIMITER", "ESCAPE", "FLIP", "HEADER_BYTES", "IDENTITY", "MAX_DATA_BYTES", "TOKEN", "VERSION", "Frame",
           "Identity", "Kind", "Splitter", "Status"]

DELIMITER, ESCAPE, FLIP = 0x7E, 0x7D, 0x20
VERSION = (1, 0)
IDENTITY = int.from_bytes(b"LRHL", "little")
CRC_BYTES = 4
MAX_DATA_BYTES = 4096
_HEADER = struct.Struct("<BBHI")
HEADER_BYTES = _HEADER.size
TOKEN = struct.Struct("<IqI")
"""A token in the reply to ``TOKENS``: id, value (largest logit), 1 if it is the last of its run."""


class Kind(IntEnum):
    """What a request asks; in parentheses the data of request and reply."""

    IDENTIFY = 1        # (none; ``Identity``)
    READ_REGISTER = 2   # address (none; 4 bytes)
    WRITE_REGISTER = 3  # address (4 bytes; none)
    READ_MEMORY = 4     # address (4 bytes: count; count bytes)
    WRITE_MEMORY = 5    # address (the bytes; none)
    HASH = 6            # address (4 bytes: count; 4 bytes: CRC-32 of count bytes)
    TOKENS = 7          # (none; ``TOKEN`` of each that has come since, up to ``data_bytes``)


class Status(IntEnum):
    """How a request went."""

    OK = 0
    BAD_REQUEST = 1  # unknown kind, wrong length, address or count; nothing was done
    BUS_ERROR = 2    # memory or register answered with an error; other bytes of the request may have been written


@dataclass(frozen=True)
class Frame:
    """One request or reply."""

    kind: Kind | int
    sequence: int
    address: int = 0
    data: bytes = b""
    status: Status | int = Status.OK

    def packet(self) -> bytes:
        """What is between the delimiters, before escapes."""
        body = _HEADER.pack(self.kind | self.status << 4, self.sequence, len(self.data), self.address) + self.data
        return body + zlib.crc32(body).to_bytes(CRC_BYTES, "little")

    def encode(self) -> bytes:
        """The bytes on the line."""
        escaped = bytearray()
        for byte in self.packet():
            escaped += bytes((ESCAPE, byte ^ FLIP)) if byte in (DELIMITER, ESCAPE) else bytes((byte,))
        return bytes((DELIMITER, *escaped, DELIMITER))

    @classmethod
    def decode(cls, packet: bytes) -> "Frame | None":
        """The frame of a packet without escapes; ``None`` if it is none."""
        if len(packet) < HEADER_BYTES + CRC_BYTES:
            return None
        kind, sequence, length, address = _HEADER.unpack_from(packet)
        body, crc = packet[:-CRC_BYTES], int.from_bytes(packet[-CRC_BYTES:], "little")
        if len(body) != HEADER_BYTES + length or zlib.crc32(body) != crc:
            return None
        return cls(kind & 15, sequence, address, body[HEADER_BYTES:], kind >> 4)


class Splitter:
    """Finds frames in the bytes of a line.

    Members
    -------
    dropped : int
        Stretches between delimiters that were no frame.
    """

    def __init__(self) -> None:
        self.dropped = 0
        self._packet, self._escaped, self._bad = bytearray(), False, False

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that end in ``data``."""
        for byte in data:
            if byte == DELIMITER:
                frame = None if self._bad or self._escaped else Frame.decode(bytes(self._packet))
                if self._packet or self._escaped or self._bad:
                    self.dropped += frame is None
                self._packet, self._escaped, self._bad = bytearray(), False, False
                if frame is not None:
                    yield frame
            elif byte == ESCAPE:
                self._bad |= self._escaped
                self._escaped = True
            else:
                self._packet.append(byte ^ FLIP if self._escaped else byte)
                self._escaped = False
                self._bad |= len(self._packet) > HEADER_BYTES + MAX_DATA_BYTES + CRC_BYTES
                if self._bad:
                    self._packet.clear()


@dataclass(frozen=True)
class Identity:
    """What the link says about itself: version of the protocol, most bytes of data in a frame, bytes of a memory word (addresses and
    counts are multiples of it), clock and line rate in Hz, frames dropped, bytes lost before they were looked at."""

    version: tuple[int, int]
    data_bytes: int
    word_bytes: int
    clock_hz: int
    baud: int
    dropped: int = 0
    overruns: int = 0

    _LAYOUT = struct.Struct("<IBBHIIIHH")

    def encode(self) -> bytes:
        major, minor = self.version
        return self._LAYOUT.pack(IDENTITY, minor, major, self.data_bytes, self.word_bytes, self.clock_hz, self.baud,
                                 self.dropped, self.overruns)

    @classmethod
    def decode(cls, data: bytes) -> "Identity | None":
        """``None`` if it is not a host link of this project. Later versions may have more behind."""
        if len(data) < cls._LAYOUT.size or int.from_bytes(data[:4], "little") != IDENTITY:
            return None
        _, minor, major, *rest = cls._LAYOUT.unpack_from(data)
        return cls((major, minor), *rest)
