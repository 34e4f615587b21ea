"""Both ends of a serial line: a pin that says bytes, a pin that is listened to."""

from collections import deque
from typing import Any

from .agents import BenchFailure

__all__ = ["LineReceiver", "LineSender"]

BITS = 10


class LineSender:
    """Drives a pin, 8N1.

    Parameters
    ----------
    pin : handle
    period : float
        Cycles of a bit.

    Members
    -------
    bytes : deque of int
        To be sent; 256 and more is a byte with a stop bit that is low.
    wait : int
        Cycles to stay idle before the next byte.
    """

    def __init__(self, pin: Any, period: float):
        self.pin, self.period = pin, period
        self.clear()

    def clear(self) -> None:
        self.bytes: deque[int] = deque()
        self.wait = 0
        self._levels: list[int] = []  # of the byte under way, cycle after cycle, the last first
        self._level = 1
        self.pin.value = 1

    @property
    def idle(self) -> bool:
        return not (self.bytes or self._levels)

    def drive(self) -> bool:
        """One cycle; whether a byte begins."""
        begins = False
        if not self._levels and self.wait:
            self.wait -= 1
        elif not self._levels and self.bytes:
            begins = True
            byte = self.bytes.popleft()
            bits = (byte & 255) << 1 | (byte < 256) << BITS - 1
            self._levels = [bits >> int(k / self.period) & 1 for k in range(round(BITS * self.period))][::-1]
            if byte > 255:
                self._levels[:0] = [1] * round(self.period)
        level = self._levels.pop() if self._levels else 1
        if level != self._level:
            self.pin.value = self._level = level
        return begins


class LineReceiver:
    """Listens to a pin, 8N1. ``BenchFailure`` for a stop bit that is low."""

    def __init__(self, pin: Any, period: float, name: str = "tx"):
        self.pin, self.period, self.name = pin, period, name
        self.clear()

    def clear(self) -> None:
        self._age, self._bit, self._byte = -1, 0, 0
        self.began: int | None = None  # cycle of the latest start bit

    def sample(self, cycle: int) -> int | None:
        """One cycle; the byte that ends in it."""
        level = str(self.pin.value)
        if level not in "01":
            raise BenchFailure(f"{self.name} is {level} after reset")
        if self._age < 0:
            if level == "0":
                self._age, self._bit, self._byte, self.began = 0, 0, 0, cycle
            return None
        self._age += 1
        if self._age < int((self._bit + 0.5) * self.period):
            return None
        self._bit += 1
        if self._bit == 1 and level == "1":
            raise BenchFailure(f"{self.name} was low for less than half a bit")
        if self._bit == BITS:
            if level == "0":
                raise BenchFailure(f"{self.name}: the stop bit is low")
            self._age = -1
            return self._byte & 255
        self._byte |= int(level) << self._bit - 2 if self._bit > 1 else 0
        return None
