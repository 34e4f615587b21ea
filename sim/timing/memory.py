"""Memory port and burst readers, burst by burst; see ``accelerators/memory``."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from ...accelerators.config import AcceleratorConfig
from ...accelerators.memory.arbiter import ReadArbiter
from ...accelerators.memory.bursts import BurstSplitter
from ...accelerators.memory.reader import BurstReader
from ...accelerators.memory.stripe import PortStripe
from .kernel import Kernel, Process, Signal, Waits
from .promises import promised

__all__ = ["Memory", "Port", "Reader"]


@dataclass(frozen=True)
class Memory:
    """Behind the port.

    Parameters
    ----------
    latency : int
        Cycles from an address until its first beat, and from the last beat of a write until its response.
    efficiency : float
        Beats per cycle while it is asked for more than it can give, above 0 up to 1: 1 for an ideal memory; what a DRAM
        loses by refresh, turns and row changes comes off.
    """

    latency: int = 20
    efficiency: float = 1.0

    def __post_init__(self) -> None:
        if not self.latency >= 1:
            raise ValueError(f"latency must be at least 1 cycle, not {self.latency}")
        if not 0 < self.efficiency <= 1:
            raise ValueError(f"efficiency must be above 0 and at most 1, not {self.efficiency}")


class Port:
    """The read port: an address per cycle, data in the order of the addresses, a beat per cycle at most."""

    def __init__(self, config: AcceleratorConfig, memory: Memory) -> None:
        stripe = promised(PortStripe.for_config(config)).latency if config.memory_ports > 1 else 0
        self.latency = 2 * ReadArbiter.latency + stripe + memory.latency
        self.spacing = 1 / memory.efficiency
        self.granted = self.free = -1.0
        self.beats = 0

    def ask(self, now: float, beats: int) -> float:
        """Take a burst's address; when its first beat comes out of the arbiter."""
        self.granted = max(now, self.granted + 1)
        first = max(self.granted + self.latency, self.free)
        self.free = first + beats * self.spacing
        self.beats += beats
        return first


def split(address: int, beats: int, longest: int, bus_bytes: int) -> Iterator[int]:
    """Beats of the bursts of a command: they end at multiples of ``longest`` words."""
    room = longest - address // bus_bytes % longest
    while beats > 0:
        yield min(room, beats)
        beats -= room
        room = longest


class Reader:
    """A burst reader: commands to bursts, as long as its queue has room for them, and the beats that leave the queue.

    ``offer`` is a process that ends when the command is taken. ``take`` is the consumer; several bursts ahead of it, the
    times at which beats arrive are known. Times of beats are those at the reader's output.
    """

    def __init__(self, kernel: Kernel, port: Port, bus_bytes: int, reader: BurstReader) -> None:
        self.kernel, self.port, self.bus_bytes = kernel, port, bus_bytes
        self.longest, self.outstanding, self.depth = reader.burst_beats, reader.outstanding, reader.buffer_beats
        self.queue_latency = reader.latency - BurstSplitter.latency - 1
        self.command: tuple[float, int, int] | None = None
        self.offered, self.freed, self.asked, self.left = (Signal(kernel) for _ in range(4))
        self.bursts: deque[list[float]] = deque()  # asked for and not yet taken: next beat comes at, beats
        self.asked_beats = 0
        self.left_beats = 0.0
        self.leaving: deque[tuple[float, float, float]] = deque()  # beats that have left at the end of a part, when, cycles per beat
        kernel.resume(self._run(), 0)

    def offer(self, address: int, beats: int) -> Process:
        """Wait until the splitter takes a command."""
        while self.command is not None:
            yield self.freed
        self.command = self.kernel.now, address, beats
        self.offered.fire()

    def _run(self) -> Process:
        ends: deque[float] = deque()
        while True:
            while self.command is None:
                yield self.offered
            accepted, address, beats = self.command
            lengths = list(split(address, beats, self.longest, self.bus_bytes))
            due = accepted + BurstSplitter.latency
            for number, length in enumerate(lengths):
                if number == len(lengths) - 1:
                    yield max(accepted + 2, self.kernel.now + 1)
                    self.command = None
                    self.freed.fire()
                yield due
                if len(ends) == self.outstanding:
                    yield ends.popleft() + 1
                needed = self.asked_beats - self.depth + self.longest
                while self.left_beats < needed:
                    yield self.left
                yield self._when_left(needed) + 2
                first = self.port.ask(self.kernel.now, length)
                ends.append(first + (length - 1) * self.port.spacing)
                self.asked_beats += length
                self.bursts.append([first + self.queue_latency, length])
                self.asked.fire()
                due = self.kernel.now + 1

    def _when_left(self, beats: float) -> float:
        """When so many beats had left, of which that is known."""
        while self.leaving and self.leaving[0][0] < beats:
            self.leaving.popleft()
        if not self.leaving or beats <= 0:
            return 0.0
        count, end, pace = self.leaving[0]
        return end - (count - beats) * pace

    def take(self, beats: float, start: float, pace: float = 1.0) -> Waits[float]:
        """Take ``beats`` from ``start`` on, a beat in ``pace`` cycles at best; returns when the next one could leave."""
        spacing = self.port.spacing
        while beats > 1e-6:
            while not self.bursts:
                yield self.asked
            burst = self.bursts[0]
            count = min(beats, burst[1])
            end = max(max(start, burst[0]) + count * pace, burst[0] + (count - 1) * spacing + pace)
            self.left_beats += count
            self.leaving.append((self.left_beats, end - pace, pace))
            burst[0] += count * spacing
            burst[1] -= count
            if burst[1] <= 1e-6:
                self.bursts.popleft()
            beats -= count
            start = end
            self.left.fire()
        return start
