"""Benches of the vector memory and of the replay buffer."""

import random
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

from ..golden.vector import Access, VectorBanks
from .agents import BenchFailure
from .trace import Trace
from .unit import Items, UnitBench

__all__ = ["ReplayBufferBench", "VectorMemoryBench"]

INT32 = (-(1 << 31), (1 << 31) - 1)


def _packets(items: list[dict[str, Any]], key: str) -> list[list[Any]]:
    """Values of ``key``, one list per packet."""
    found: list[list[Any]] = [[]]
    for item in items:
        found[-1].append(item[key])
        if item["last"]:
            found.append([])
    return found[:-1]


def _packet(values: list[Any], key: str) -> list[dict[str, Any]]:
    return [{key: value, "last": int(k == len(values) - 1)} for k, value in enumerate(values)]


class VectorMemoryBench(UnitBench):
    """Writes and matrix results go in as they like; each is read back as soon as it, and what overlaps it, is in memory."""

    def __init__(self, config: Any):
        super().__init__(config)
        self.depth = config.vector_memory // config.vector_lanes
        self.largest = 127 * config.max_vector

    def stimulus(self, rng: random.Random, case: str) -> Items:
        self.free = 0
        items: Items = {"i_write_access": [], "i": [], "i_sums_access": [], "i_sums": []}
        for _ in range(3):
            for paired in (0, 1):
                for extra in (0, rng.randint(1, 6), -1):
                    self._span(items, rng, rng.randint(2, 9), paired, extra)
        for _ in range(6):
            self._result(items, rng, rng.randint(1, 12 * self.config.vector_lanes // self.config.table_rows))
        return items

    def _take(self, words: int) -> int:
        self.free += words
        return self.free - words

    def _span(self, items: Items, rng: random.Random, words: int, paired: int, extra: int) -> None:
        """A packet over a whole span, and one of ``extra`` words too many (or one too few) into a part of it."""
        token = rng.randrange(self.config.token_lanes)
        base = self._take(2 * words + 8)
        self._write(items, rng, Access(token, base, 2 * words + 8), 2 * words + 8)
        offset = rng.choice((words, words + 3, -words)) % (1 << 16) if paired else rng.getrandbits(16)
        start = base + words + 1 if offset == -words % (1 << 16) else base + 1
        length = words * (1 + paired) + extra
        self._write(items, rng, Access(token, start, words, paired, offset), length)

    def _write(self, items: Items, rng: random.Random, access: Access, length: int) -> None:
        items["i_write_access"].append(vars(access))
        items["i"] += _packet([[rng.randint(*INT32) for _ in range(self.config.vector_lanes)] for _ in range(length)], "x")

    def _result(self, items: Items, rng: random.Random, groups: int) -> None:
        base = self._take(-(-groups * self.config.table_rows // self.config.vector_lanes))
        items["i_sums_access"].append({"base": base, "split": rng.choice((0, 1, groups, 65535, rng.randint(0, groups)))})
        count = self.config.token_lanes * self.config.table_rows
        size = [1 << rng.randint(0, self.largest.bit_length() - 2) for _ in range(count)]
        items["i_sums"] += _packet([[rng.choice((-k, rng.randint(-k, k - 1))) for k in size] for _ in range(groups)], "sums")

    def boundary(self) -> Items:
        lanes, tokens, rows = self.config.vector_lanes, self.config.token_lanes, self.config.table_rows
        accesses = [Access(tokens - 1, 0, 1, 0, 65535), Access(0, self.depth - 1, 1),
                    Access(tokens - 1, 1, 1, 1, self.depth - 3)]
        words = [[low] * lanes for low in INT32]
        items: Items = {"i_write_access": [vars(access) for access in accesses],
                        "i": _packet(words[:1], "x") + _packet(words[1:], "x") + _packet(words, "x"),
                        "i_sums_access": [], "i_sums": []}
        full = lanes // rows
        for n, value in enumerate((0, -1, 1, self.largest, -self.largest, -(1 << self.largest.bit_length() - 1))):
            items["i_sums_access"].append({"base": 16 + n, "split": 1})
            items["i_sums"] += _packet([[value] * (tokens * rows)] * full, "sums")
        return items

    def _reads(self, stimulus: Items) -> list[tuple[int, int, Access]]:
        """All reads, each with the number of writes and of results that it must wait for."""
        lanes, rows = self.config.vector_lanes, self.config.table_rows
        writes = [Access(**access) for access in stimulus.get("i_write_access", [])]
        touched = [{(access.token, address) for address in access.addresses()} for access in writes]
        reads = [(1 + max(m for m, other in enumerate(touched) if other & touched[n]), 0, access)
                 for n, access in enumerate(writes)]
        results = _packets(stimulus.get("i_sums", []), "sums")
        for n, (access, groups) in enumerate(zip(stimulus.get("i_sums_access", []), results, strict=True)):
            words = -(-len(groups) * rows // lanes)
            for token in range(self.config.token_lanes):
                reads.insert(3 * n + 2, (0, n + 1, Access(token, access["base"], words)))
        return reads

    def begin(self, stimulus: Items) -> None:
        self.reads = self._reads(stimulus)
        self.released = self.written = self.announced = self.finished = 0
        self.magnitudes = self._results(VectorBanks(self.config), stimulus)

    @staticmethod
    def _results(banks: VectorBanks, stimulus: Items) -> list[list[tuple[int, int]]]:
        return [banks.write_sums(access["base"], access["split"], groups)
                for access, groups in zip(stimulus.get("i_sums_access", []), _packets(stimulus.get("i_sums", []), "sums"),
                                          strict=True)]

    def accepted(self, stream: str, payload: Any) -> Items:
        self.written += stream == "i" and payload["last"]
        self.announced += stream == "i_sums_access"
        self.finished += stream == "i_sums" and payload["last"]
        released = []
        while self.released < len(self.reads):
            writes, results, access = self.reads[self.released]
            if writes > self.written or results > self.finished:
                break
            released.append(vars(access))
            self.released += 1
        return {"i_read": released}

    def expected(self, stimulus: Items) -> Items:
        banks = VectorBanks(self.config)
        for access, packet in zip(stimulus.get("i_write_access", []), _packets(stimulus.get("i", []), "x"), strict=True):
            banks.write(Access(**access), packet)
        self._results(banks, stimulus)
        return {"o": [item for _, _, access in self._reads(stimulus) for item in _packet(banks.read(access), "x")]}

    def control(self, cycle: int, level: Callable[[str], int]) -> Mapping[str, int]:
        busy = self.announced != self.finished
        if level("sums_busy") != busy:
            raise BenchFailure(f"sums_busy is {level('sums_busy')} after {self.finished} of {self.announced} results")
        if not busy and self.finished:
            want = self._packed(self.magnitudes[self.finished - 1])
            if level("magnitude_bits") != want:
                raise BenchFailure(f"magnitude_bits of result {self.finished - 1} is {level('magnitude_bits'):#x}, "
                                   f"expected {want:#x}")
        return {}

    @staticmethod
    def _packed(magnitudes: list[tuple[int, int]]) -> int:
        return sum((first | second << 6) << 12 * token for token, (first, second) in enumerate(magnitudes))

    def levels(self, stimulus: Items) -> dict[str, int]:
        return {"sums_busy": 0, "write_busy": 0}

    def latency_stimulus(self) -> Items:
        items: Items = {"i_write_access": [], "i": []}
        for base in (0, 20):
            self._write(items, random.Random(0), Access(0, base, 20), 20)
        return items

    def measure(self, trace: Trace) -> dict[str, int]:
        words = [trace.accepted["i"][:20], trace.delivered["o"][:20]]
        return {"latency": trace.latency("i_read", "o"), "interval": max(b - a for each in words for a, b in pairwise(each)),
                "access": trace.accepted["i"][20] - trace.accepted["i"][19]}

    def figures(self, attributes: Mapping[str, Any]) -> Mapping[str, int]:
        return {**attributes, "access": 2}


class ReplayBufferBench(UnitBench):
    """Tables of all lengths, with and without words to drop, repeated."""

    def __init__(self, config: Any):
        super().__init__(config)
        self.depth = -(-config.max_vector // config.vector_lanes)

    def _items(self, rng: random.Random, tables: list[tuple[int, int, int]]) -> Items:
        """For each (words, words to drop, times)."""
        items: Items = {"i_command": [], "i": []}
        for words, extra, times in tables:
            items["i_command"].append({"words": words, "times": times})
            items["i"] += _packet([[rng.getrandbits(16) for _ in range(self.config.vector_lanes)]
                                   for _ in range(words + extra)], "data")
        return items

    def stimulus(self, rng: random.Random, case: str) -> Items:
        return self._items(rng, [(1, 0, 1), (1, 0, 5), (2, 1, 1), (3, 0, 2), (1, 3, 3),
                                 *((rng.randint(1, 20), rng.choice((0, 0, 1, 4)), rng.randint(1, 5)) for _ in range(8))])

    def boundary(self) -> Items:
        return self._items(random.Random(0), [(self.depth, 0, 2), (self.depth, 2, 1), (1, self.depth + 1, 300)])

    def expected(self, stimulus: Items) -> Items:
        words = []
        for command, table in zip(stimulus["i_command"], _packets(stimulus["i"], "data"), strict=True):
            words += table[:command["words"]] * command["times"]
        return {"o": words}

    def latency_stimulus(self) -> Items:
        return self._items(random.Random(0), [(8, 0, 4), (1, 0, 1)])

    def measure(self, trace: Trace) -> dict[str, int]:
        words = trace.delivered["o"][:32]
        return {"latency": trace.latency("i", "o", 7), "interval": max(b - a for a, b in pairwise(words)),
                "reload": trace.accepted["i"][8] - words[-1]}

    def figures(self, attributes: Mapping[str, Any]) -> Mapping[str, int]:
        return {**attributes, "reload": 1}
