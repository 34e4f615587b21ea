"""Processes that wait for cycles and for each other."""

from collections import deque
from collections.abc import Generator
from heapq import heappop, heappush
from typing import Generic, TypeVar

__all__ = ["Kernel", "Mailbox", "Process", "Signal", "Waits"]

Item = TypeVar("Item")
Result = TypeVar("Result")


class Signal:
    """Wakes all processes that wait for it."""

    def __init__(self, kernel: "Kernel") -> None:
        self.kernel = kernel
        self.waiting: list[Process] = []

    def fire(self) -> None:
        waiting, self.waiting = self.waiting, []
        for process in waiting:
            self.kernel.resume(process, self.kernel.now)


Waits = Generator[float | Signal, None, Result]
"""Part of a process, with a result. It yields the cycle in which it goes on (or a past one: at once), or a signal that wakes it."""

Process = Waits[None]


class Kernel:
    """Runs processes in the order of time; those of the same cycle in the order in which they asked for it."""

    def __init__(self) -> None:
        self.now = 0.0
        self._queue: list[tuple[float, int, Process]] = []
        self._count = 0

    def resume(self, process: Process, time: float) -> None:
        """Go on with ``process`` at ``time``."""
        self._count += 1
        heappush(self._queue, (max(time, self.now), self._count, process))

    def run(self) -> None:
        """Until nothing is left to do."""
        while self._queue:
            self.now, _, process = heappop(self._queue)
            wanted = next(process, None)
            if isinstance(wanted, Signal):
                wanted.waiting.append(process)
            elif wanted is not None:
                self.resume(process, wanted)


class Mailbox(Generic[Item]):
    """Items from one process to another, ``depth`` at most (0: any number)."""

    def __init__(self, kernel: Kernel, depth: int = 0) -> None:
        self.items: deque[Item] = deque()
        self.depth, self.changed = depth, Signal(kernel)

    def room(self) -> Process:
        """Wait until there is room."""
        while self.depth and len(self.items) >= self.depth:
            yield self.changed

    def empty(self) -> Process:
        """Wait until all items were taken."""
        while self.items:
            yield self.changed

    def add(self, item: Item) -> None:
        """Add ``item``; there is room."""
        self.items.append(item)
        self.changed.fire()

    def first(self) -> Waits[Item]:
        """Wait for the oldest item, and leave it there."""
        while not self.items:
            yield self.changed
        return self.items[0]

    def take(self) -> Waits[Item]:
        """Wait for the oldest item, and take it."""
        item = yield from self.first()
        self.items.popleft()
        self.changed.fire()
        return item
