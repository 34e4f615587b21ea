"""What is common to the traces of cache controllers: memory by record, operations and what must come of them."""

import random
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...rtl_gen.emit import Emitted
from .player import Event, Offer, Set, Settle, Step, Surroundings, play

__all__ = ["Judgement", "Place", "Trace", "Wrong"]


class Wrong(AssertionError):
    """The unit did what it must not; the message names the operation."""


@dataclass(frozen=True)
class Place:
    """Where the rows of a K/V head of a layer lie: row r at ``base + head * stride + r * record``, in bytes."""

    base: int
    head: int
    stride: int
    record: int

    def address(self, row: int) -> int:
        return (self.base + self.head * self.stride + row * self.record) % (1 << 32)


class Judgement:
    """Goes through what left the unit, operation after operation, and plays the memory behind it.

    Memory knows records by their address, and nothing of positions, slots or blocks: what a read gives is what was written there
    last. It is compared with what was written for that position last.
    """

    def __init__(self, events: Sequence[Event]):
        self.left: dict[str, deque[Event]] = {}
        for event in events:
            if event.what != "taken":
                self.left.setdefault(event.name, deque()).append(event)
        self.memory: dict[int, Any] = {}
        self.cycles: list[int] = []
        self.operation = ""

    def check(self, condition: bool, message: str) -> None:
        if not condition:
            raise Wrong(f"{self.operation}: {message}")

    def event(self, stream: str) -> Event:
        """The next item that left ``stream``, the next answer on it, or its next level."""
        items = self.left.get(stream)
        if not items:
            raise Wrong(f"{self.operation}: nothing left on {stream}")
        return items.popleft()

    def next(self, stream: str) -> Any:
        return self.event(stream).payload

    def rows(self, stream: str, place: Place, position: int, count: int) -> list[int]:
        """Addresses of the rows of one operation, of as many commands as it takes; ``cycles``: when the command of each row left."""
        addresses: list[int] = []
        self.cycles = []
        while len(addresses) < count:
            event, at = self.event(stream), position + len(addresses)
            command = event.payload
            rows, rest = divmod(command["beats"] * self.bytes_per_beat, place.record)
            self.check(not command.get("error"), f"refused on {stream}")
            self.check(rest == 0 and 0 < rows <= count - len(addresses), f"{command['beats']} beats on {stream}")
            if "last" in command:
                self.check((command["position"], command["count"], command["last"]) == (at, rows, int(len(addresses) + rows == count)),
                           f"{stream} tells {command}, not position {at}, {rows} rows")
            addresses += [(command["address"] + k * place.record) % (1 << 32) for k in range(rows)]
            self.cycles += [event.cycle] * rows
        return addresses

    def refused(self, stream: str) -> None:
        """The answer to a request that is refused."""
        answer = self.next(stream)
        self.check(answer["error"] == 1 and not answer["beats"] and answer.get("last", 1) == 1 and not answer.get("count"),
                   f"{stream} tells {answer}, not that the request is refused")

    bytes_per_beat = 1

    def written(self, addresses: Sequence[int], tokens: Sequence[Any]) -> None:
        self.memory.update(zip(addresses, tokens, strict=True))

    def read(self, addresses: Sequence[int], tokens: Sequence[Any]) -> None:
        for k, (address, token) in enumerate(zip(addresses, tokens, strict=True)):
            self.check(self.memory.get(address) == token, f"row {k} at {address:#x} holds {self.memory.get(address)}, not {token}")

    def finish(self) -> None:
        self.operation = "end"
        for stream, events in self.left.items():
            self.check(not events, f"{len(events)} items more on {stream}")


class Trace:
    """Random operations on a unit, and for each what must come of it.

    Parameters
    ----------
    emitted : Emitted
        The controller.
    seed : int
    quiet : int
        Cycles without output after which all is done.

    A failure names the seed, which makes the same trace again. Subclasses add steps with ``request``, ``set`` and ``settle``, and
    with each a function that is called with the ``Judgement`` when its turn has come.
    """

    surroundings = Surroundings()

    def __init__(self, emitted: Emitted, seed: int, quiet: int):
        self.emitted, self.seed, self.quiet = emitted, seed, quiet
        self.random = random.Random(seed)
        self.steps: list[Step] = []
        self.judges: list[tuple[str, Callable[[Judgement], None]]] = []
        self.operations = self.tokens = 0
        self.bytes_per_beat = emitted.sidecar["config"]["bus_bits"] // 8
        self.fails = False
        self.cycles = 0
        self.seen: Counter[str] = Counter()
        """What the trace has of each kind."""

    def token(self) -> int:
        """A number that no record has had."""
        self.tokens += 1
        return self.tokens

    def judge(self, name: str, function: Callable[[Judgement], None]) -> None:
        self.judges.append((f"operation {self.operations}, {name}, seed {self.seed}", function))

    def request(self, stream: str, payload: Mapping[str, int], function: Callable[[Judgement], None]) -> None:
        self.operations += 1
        self.steps.append(Offer(stream, payload))
        self.judge(f"{stream} {payload}", function)

    def set(self, **values: int) -> None:
        self.steps += [Set(port, value) for port, value in values.items()]

    def settle(self, **levels: int) -> None:
        """Everything leaves; ``error`` is as high as an operation since the last time has failed, and cleared; other outputs have
        these levels."""
        expected = {"error": int(self.fails), **levels}

        def look(judgement: Judgement) -> None:
            for name, value in expected.items():
                judgement.check((level := judgement.next(name)) == value, f"{name} is {level}, not {value}")

        self.steps.append(Settle(self.quiet))
        self.judge("when all is done", look)
        if self.fails:
            self.set(clear=1)
            self.set(clear=0)
        self.fails = False

    def play(self, *, source: int = 256, sink: int = 256) -> list[Event]:
        return play(self.emitted, self.steps, seed=self.seed, source=source, sink=sink, surroundings=self.surroundings)

    def check(self, events: Sequence[Event]) -> None:
        """Raise ``Wrong`` unless all is as it must be."""
        judgement = Judgement(events)
        self.cycles = events[-1].cycle
        judgement.bytes_per_beat = self.bytes_per_beat
        for name, function in self.judges:
            judgement.operation = name
            function(judgement)
        judgement.finish()
