"""Driver and monitor of a stream, the protocol checker, and the patterns of gaps.

All three are stepped once a cycle by ``Environment``: ``drive`` after the falling edge of the clock,
``sample`` just before the rising one, when everything has settled.
"""

import random
from collections import deque
from collections.abc import Callable
from typing import Any

from .layout import Codec

__all__ = ["BenchFailure", "Model", "Pattern", "Sink", "Source", "always", "bursts", "never"]

Pattern = Callable[[], bool]


class BenchFailure(Exception):
    """The unit broke a rule; the message says which and where."""


def always() -> bool:
    return True


def never() -> bool:
    return False


def bursts(rng: random.Random, share: float) -> Pattern:
    """True in about ``share`` of the cycles, in runs of random length (1 to 8, sometimes much longer)."""
    left, value = 0, True

    def step() -> bool:
        nonlocal left, value
        if not left:
            value = rng.random() < share
            left = rng.choice((1, 1, 1, 2, 3, 8, 8, 40)) if rng.random() < 0.5 else 1
        left -= 1
        return value

    return step


def _bit(handle: Any, name: str) -> bool:
    """Level of a one-bit port; fails on X and Z."""
    text = str(handle.value)
    if text == "1":
        return True
    if text == "0":
        return False
    raise BenchFailure(f"{name} is {text} after reset")


class Model:
    """Plays what lies behind plain ports of the unit (an AXI memory, a bus master). Stepped like the streams.

    Attributes
    ----------
    name : str
    """

    name: str

    @property
    def transfers(self) -> list[int]:
        """Cycles in which anything moved."""
        return []

    def clear(self) -> None:
        """Reset: forget everything, drive idle levels."""

    def begin(self, sources: Pattern, sinks: Pattern) -> None:
        """A run starts, after ``UnitBench.begin``: when to offer (``sources``) and to accept (``sinks``)."""

    def drive(self) -> None:
        """Set ports, after the falling edge of the clock."""

    def sample(self, cycle: int) -> bool:
        """Look at ports, just before the rising edge; whether anything moved."""
        return False

    def pending(self) -> str | None:
        """What must still happen before the run may end, or ``None``."""
        return None

    def finish(self) -> None:
        """The run is over: raise ``BenchFailure`` if something is not as it should be."""


class Source:
    """Drives an input stream. Once offered, an item stays until the unit takes it.

    Without an item the payload is the complement of the last one, so that a unit that looks at the
    payload while ``valid`` is down fails.
    """

    def __init__(self, name: str, shape: dict[str, Any], ports: dict[str, Any]):
        self.name = name
        self.codec = Codec(shape, name)
        self._payload = ports.get(f"{name}__payload")
        self._valid = ports.get(f"{name}__valid")
        self._ready = ports.get(f"{name}__ready")
        self.clear()

    def clear(self) -> None:
        """Forget all items and stop driving."""
        self.items: deque[int] = deque()
        self.accepted: list[int] = []
        self.pattern: Pattern = always
        self.offered = False
        self._idle = True
        self._put(0)
        if self._valid is not None:
            self._valid.value = 0

    def _put(self, bits: int) -> None:
        self._driven = bits
        if self._payload is not None:
            self._payload.value = bits

    def append(self, payload: Any) -> None:
        self.items.append(self.codec.pack(payload)[0])

    def drive(self) -> None:
        if not self.offered and self.items and self.pattern():
            self.offered = True
            self._put(self.items[0])
            if self._valid is not None:
                self._valid.value = 1
                self._idle = False
        elif not self.offered and not self._idle and self._valid is not None:
            self._put(~self._driven & (1 << self.codec.width) - 1)
            self._valid.value = 0
            self._idle = True

    def sample(self, cycle: int) -> bool:
        """Whether an item went in."""
        ready = self._ready is None or _bit(self._ready, f"{self.name}__ready")
        if not (self.offered and ready):
            return False
        self.items.popleft()
        self.accepted.append(cycle)
        self.offered = False
        return True


class Sink:
    """Takes items from an output stream and checks the protocol on it."""

    def __init__(self, name: str, shape: dict[str, Any], ports: dict[str, Any]):
        self.name = name
        self.codec = Codec(shape, name)
        self._payload = ports.get(f"{name}__payload")
        self._valid = ports.get(f"{name}__valid")
        self._ready = ports.get(f"{name}__ready")
        self.clear()

    def clear(self) -> None:
        self.delivered: list[int] = []
        self.raised: int | None = None
        self.pattern: Pattern = always
        self._taking: bool | None = None
        self._held: str | None = None  # payload of a stalled item
        self.drive()

    def drive(self) -> None:
        taking = self.pattern()
        if self._ready is not None and taking != self._taking:
            self._ready.value = int(taking)
        self._taking = taking

    def sample(self, cycle: int) -> int | None:
        """Bits of the item that came out, if one did."""
        valid = self._valid is None or _bit(self._valid, f"{self.name}__valid")
        if not valid:
            if self._held is not None:
                raise BenchFailure(f"{self.name}__valid was dropped before {self.name}__ready")
            return None
        if self.raised is None:
            self.raised = cycle
        bits = "0" if self._payload is None else str(self._payload.value)
        if self._held is not None and bits != self._held:
            raise BenchFailure(f"{self.name}__payload changed while stalled, from {self._held} to {bits}")
        if not (self._taking or self._ready is None):
            self._held = bits
            return None
        self._held = None
        self.delivered.append(cycle)
        try:
            return int(bits, 2)
        except ValueError:
            raise BenchFailure(f"{self.name}__payload is {bits} while {self.name}__valid is up") from None
