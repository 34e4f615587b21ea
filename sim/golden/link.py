"""What the host link answers: requests one after another, against memory, registers and tokens."""

import zlib
from collections import deque
from collections.abc import Callable

from ...accelerators.link.protocol import MAX_DATA_BYTES, TOKEN, VERSION, Frame, Identity, Kind, Status

__all__ = ["LinkModel"]

WINDOW = 1 << 12
MAX_WORDS = 1 << 24


class LinkModel:
    """One host link.

    Parameters
    ----------
    memory : bytearray
        From address 0 on; what is outside answers with an error, reads as 0 and is not written.
    bus_bytes, data_bytes, clock_hz, baud : int
        As in ``HostLink``.
    read_register : function of the address, gives the value, or ``None`` for an error
    write_register : function of address and value, gives whether it was accepted

    Members
    -------
    tokens : deque of (token, value, last)
        That wait.
    """

    def __init__(self, memory: bytearray, *, bus_bytes: int, data_bytes: int = 1024, clock_hz: int = 0, baud: int = 0,
                 read_register: Callable[[int], int | None] = lambda address: None,
                 write_register: Callable[[int, int], bool] = lambda address, value: False) -> None:
        self.memory, self.bus_bytes, self.data_bytes = memory, bus_bytes, data_bytes
        self.clock_hz, self.baud = clock_hz, baud
        self.read_register, self.write_register = read_register, write_register
        self.tokens: deque[tuple[int, int, int]] = deque()
        self.dropped = self.overruns = 0
        self._reply: Frame | None = None

    def answer(self, request: Frame) -> Frame | None:
        """The reply; ``None`` for a request that is too long for the link."""
        if len(request.data) > min(self.data_bytes, MAX_DATA_BYTES):
            return None
        before = self._reply
        if before is not None and Kind.IDENTIFY not in (before.kind, request.kind) and before.sequence == request.sequence:
            return before
        status, data = self._execute(request) if request.status == 0 else (Status.BAD_REQUEST, b"")
        self._reply = Frame(request.kind, request.sequence, request.address, data, status)
        return self._reply

    def _execute(self, request: Frame) -> tuple[Status, bytes]:
        address, data = request.address, request.data
        refused = Status.BAD_REQUEST, b""
        is_register = address % 4 == 0 and address < WINDOW
        if request.kind == Kind.IDENTIFY and not data:
            return Status.OK, Identity(VERSION, self.data_bytes, self.bus_bytes, self.clock_hz, self.baud, self.dropped,
                                       self.overruns).encode()
        if request.kind == Kind.READ_REGISTER and is_register and not data:
            value = self.read_register(address)
            return (Status.OK, value.to_bytes(4, "little")) if value is not None else (Status.BUS_ERROR, bytes(4))
        if request.kind == Kind.WRITE_REGISTER and is_register and len(data) == 4:
            accepted = self.write_register(address, int.from_bytes(data, "little"))
            return Status.OK if accepted else Status.BUS_ERROR, b""
        if request.kind in (Kind.READ_MEMORY, Kind.HASH) and len(data) == 4 and address % self.bus_bytes == 0:
            count, hashes = int.from_bytes(data, "little"), request.kind == Kind.HASH
            if not count or count % self.bus_bytes or count >= MAX_WORDS * self.bus_bytes or (count > self.data_bytes and not hashes):
                return refused
            status, read = self._read(address, count)
            return status, zlib.crc32(read).to_bytes(4, "little") if hashes else read
        if request.kind == Kind.WRITE_MEMORY and data and len(data) % self.bus_bytes == 0 and address % self.bus_bytes == 0:
            inside = data[:max(0, len(self.memory) - address)]
            self.memory[address:address + len(inside)] = inside
            return Status.OK if inside == data else Status.BUS_ERROR, b""
        if request.kind == Kind.TOKENS and not data:
            count = min(len(self.tokens), self.data_bytes // TOKEN.size)
            return Status.OK, b"".join(TOKEN.pack(*self.tokens.popleft()) for _ in range(count))
        return refused

    def _read(self, address: int, count: int) -> tuple[Status, bytes]:
        inside = bytes(self.memory[address:address + count])
        return Status.OK if len(inside) == count else Status.BUS_ERROR, inside.ljust(count, b"\0")
