"""Compares what came out with the golden model, item by item, in order."""

from typing import Any

from .agents import BenchFailure, Sink

__all__ = ["Scoreboard"]


class Scoreboard:
    """Expected items of every output stream and how many of them have come."""

    def __init__(self, sinks: dict[str, Sink], expected: dict[str, list[Any]]):
        unknown = expected.keys() - sinks.keys()
        if unknown:
            raise BenchFailure(f"the golden model has items for {', '.join(sorted(unknown))}, but the "
                               f"outputs are {', '.join(sorted(sinks))}")
        self._sinks = sinks
        self._expected = {name: [sinks[name].codec.pack(item) for item in expected.get(name, [])]
                          for name in sinks}
        self.received = {name: 0 for name in sinks}

    @property
    def complete(self) -> bool:
        return all(self.received[name] >= len(items) for name, items in self._expected.items())

    def check(self, name: str, bits: int) -> None:
        """Fail unless ``bits`` is the next item of stream ``name``."""
        position = self.received[name]
        items = self._expected[name]
        unpack = self._sinks[name].codec.unpack
        if position >= len(items):
            raise BenchFailure(f"extra output on {name}: item {position} is {unpack(bits)}, but only "
                               f"{len(items)} were expected")
        want, mask = items[position]
        if (bits ^ want) & mask:
            raise BenchFailure(f"wrong value on {name}: item {position} of {len(items)} is {unpack(bits)}, "
                               f"expected {unpack(want)}")
        self.received[name] += 1

    def missing(self) -> list[str]:
        """One phrase for each output that lacks items."""
        return [f"{name} has given {self.received[name]} of {len(items)} items"
                for name, items in self._expected.items() if self.received[name] < len(items)]
