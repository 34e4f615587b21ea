"""Cycle of every transfer of a run."""

from dataclasses import dataclass, field
from itertools import pairwise

__all__ = ["Trace"]


@dataclass
class Trace:
    """When items went in and out.

    Attributes
    ----------
    accepted : dict of str to list of int
        Cycles in which each input stream transferred an item.
    delivered : dict of str to list of int
        Cycles in which each output stream transferred an item.
    raised : dict of str to int
        Cycle in which each output stream first had ``valid`` up.
    """

    accepted: dict[str, list[int]] = field(default_factory=dict)
    delivered: dict[str, list[int]] = field(default_factory=dict)
    raised: dict[str, int] = field(default_factory=dict)

    def latency(self, source: str, sink: str, index: int = 0) -> int:
        """Cycles from acceptance of item ``index`` of ``source`` until ``sink`` first raises valid."""
        return self.raised[sink] - self.accepted[source][index]

    def interval(self, stream: str) -> int:
        """Most cycles between two transfers in a row of ``stream``."""
        cycles = self.accepted.get(stream) or self.delivered[stream]
        return max((b - a for a, b in pairwise(cycles)), default=1)

    def figures(self) -> dict[str, int]:
        """Latency from first input to first output, and interval of the busiest input."""
        found: dict[str, int] = {}
        firsts = [cycles[0] for cycles in self.accepted.values() if cycles]
        if firsts and self.raised:
            found["latency"] = min(self.raised.values()) - min(firsts)
        busiest = max(self.accepted, key=lambda name: len(self.accepted[name]), default=None)
        if busiest is not None and len(self.accepted[busiest]) > 1:
            found["interval"] = self.interval(busiest)
        return found
