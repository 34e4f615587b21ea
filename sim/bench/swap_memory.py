"""Bench of the paged cache that swaps, with a mover: contents of memory. It plays readers and writers."""

from bisect import bisect
from collections import deque
from typing import Any

from ..golden.mover import move_bursts
from .agents import BenchFailure
from .swap import EXTEND, FORK, FREE, SWAP_IN, SwapControllerBench
from .unit import Items

__all__ = ["LongSwapMemoryBench", "SwapMemoryBench"]


class SwapMemoryBench(SwapControllerBench):
    """Rows have contents, by sequence, position and head; what is read must be what was written, wherever it has been.

    Of a component that is a ``SwapController`` and its ``RowMover``, whose streams begin with ``move_``. Commands wait until what
    was asked for before them has been read or written.
    """

    HEADS = 2

    def __init__(self, config: Any):
        super().__init__(config)
        row = self.beats * config.bus_bytes
        self.base = (64 * config.bus_bytes, (1 << 31) + 32 * config.bus_bytes)
        self.stride = (self.head_stride, self.head_stride + 3 * row)

    def constants(self) -> dict[str, int]:
        return {**super().constants(), "heads": self.HEADS, "move_base": self.base[0] | self.base[1] << 32,
                "move_head_stride": self.stride[0] | self.stride[1] << 32}

    def _start(self) -> None:
        super()._start()
        self.content: list[list[list[int | None]]] = [[] for _ in range(self.sequences)]
        self.values = 0
        self.rows: dict[str, list[list[int | None]]] = {"o_read": [], "o_write": []}  # of each burst
        self.asked: list[int] = []  # places of requests in the script, and bursts after each
        self.due: list[int] = []
        self.failing_writes: set[int] = set()
        self.targets_of: dict[int, list[tuple[int, int]]] = {}  # place of a SWAP_IN -> first words and beats of what comes
        self.items |= {name: [] for name in ("o_move_read", "o_move_write", "o_move_data")}

    def command(self, command: int, sequence: int, other: int = 0, count: int = 0) -> None:
        super().command(command, sequence, other, count)
        if not self.items["o_done"][-1]["error"]:
            if command == EXTEND:
                length = len(self.content[sequence])
                self.content[sequence] += [[None] * self.HEADS for _ in range(count)]
                self.request(1, sequence, 0, 0, length, count)
            elif command == FORK and count:
                self.content[sequence] = [list(each) for each in self.content[other][:count]]
            elif command == FREE:
                self.content[sequence] = []

    def swap(self, command: int, sequence: int, fails: bool = False) -> int | None:
        first, targets = len(self.items["o_move"]), self.targets_of.setdefault(len(self.script), [])
        result = super().swap(command, sequence, fails)
        for number, move in enumerate(self.items["o_move"][first:], first):
            if number in self.failing:
                self.failing_writes.add(len(self.items["o_move_write"]))
            for source, target, beats in move_bursts(**move, base=self.base, head_stride=self.stride, heads=self.HEADS,
                                                     record_beats=self.beats, bus_bytes=self.config.bus_bytes):
                self.items["o_move_read"].append({"address": source, "beats": beats})
                self.items["o_move_write"].append({"address": target, "beats": beats})
                if command == SWAP_IN:
                    targets.append((target // self.config.bus_bytes, beats))
                self.items["o_move_data"] += [{"data": None, "last": int(k == beats - 1)} for k in range(beats)]
        if command == SWAP_IN and result is not None and len(self.items["o_swapped"]) % 2:
            self.request(0, sequence, 0, 0, 0, len(self.content[sequence]))
        return result

    def request(self, write: int, sequence: int, base: int, head: int, position: int, count: int) -> None:
        stream = "o_write" if write else "o_read"
        for each in range(self.HEADS):
            first, at = len(self.items[stream]), position
            super().request(write, sequence, self.base[0], each, position, count)
            for burst in self.items[stream][first:]:
                rows = self.content[sequence][at:at + burst["beats"] // self.beats]
                at += len(rows)
                if write:
                    for row in rows:
                        self.values += 1
                        row[each] = self.values
                self.rows[stream].append([row[each] for row in rows])
            self.asked.append(len(self.script))
            self.due.append(sum(map(len, self.rows.values())))

    def begin(self, stimulus: Items) -> None:
        super().begin(stimulus)
        self.memory: dict[int, int] = {}  # by number of a bus word
        self.bursts = {"o_read": 0, "o_write": 0}
        self.targets: deque[tuple[int, int]] = deque()
        self.words: deque[int] = deque()
        self.written = 0

    def _holds(self) -> bool:
        place = bisect(self.asked, self.place)
        return place > 0 and sum(self.bursts.values()) < self.due[place - 1]

    def accepted(self, stream: str, payload: Any) -> Items:
        """What comes back is not there yet, though the blocks may have held it before."""
        if stream == "i_command":
            for first, beats in self.targets_of.get(self.place, ()):
                for k in range(beats):
                    self.memory.pop(first + k, None)
        return super().accepted(stream, payload)

    def _words(self, address: int, rows: list[int | None]) -> list[tuple[int, int | None]]:
        """Numbers and values of the bus words of rows; ``None``: never written."""
        first, mask = address // self.config.bus_bytes, (1 << self.config.bus_bits) - 1
        return [(first + k * self.beats + beat, None if value is None else value * 0x9E3779B97F4A7C15 + beat & mask)
                for k, value in enumerate(rows) for beat in range(self.beats)]

    def react(self, stream: str, payload: Any) -> Items:
        items: Items = super().react(stream, payload)
        width = self.config.bus_bytes
        if stream in self.bursts:
            for number, value in self._words(payload["address"], self.rows[stream][self.bursts[stream]]):
                if stream == "o_write":
                    assert value is not None
                    self.memory[number] = value
                elif value is not None and self.memory.get(number) != value:
                    raise BenchFailure(f"read {self.bursts[stream]}: word {number:#x} holds {self.memory.get(number)}, not {value:#x}")
            self.bursts[stream] += 1
        elif stream == "o_copy":
            words = self.block_size * self.beats
            for head in range(self.HEADS):
                region = (self.base[0] + head * self.stride[0]) // width
                for k in range(payload["rows"] * self.beats):
                    self.memory[region + payload["target"] * words + k] = self.memory.get(region + payload["source"] * words + k, 0)
        elif stream == "o_move_read":
            first, beats = payload["address"] // width, payload["beats"]
            items["i_move_data"] = [{"data": self.memory.get(first + k, 0), "last": int(k == beats - 1)} for k in range(beats)]
        elif stream == "o_move_write":
            self.targets.append((payload["address"] // width, payload["beats"]))
        elif stream == "o_move_data":
            self.words.append(payload["data"])
        while self.targets and len(self.words) >= self.targets[0][1]:
            first, beats = self.targets.popleft()
            words, fails = [self.words.popleft() for _ in range(beats)], self.written in self.failing_writes
            if not fails:
                self.memory.update(enumerate(words, first))
            self.written += 1
            items.setdefault("i_move_written", []).append({"error": int(fails)})
        return items

    def expected(self, stimulus: Items) -> Items:
        return {name: items for name, items in self.items.items() if name != "o_move"}


class LongSwapMemoryBench(SwapMemoryBench):
    """The same for longer."""

    steps = 250
