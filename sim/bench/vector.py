"""Benches of the vector memory and of the replay buffer."""

import random
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

from ...accelerators.memory.layout import VectorLayout
from ..golden.vector import Access, VectorBanks
from .agents import BenchFailure
from .trace import Trace
from .unit import Items, UnitBench

__all__ = ["ReplayBufferBench", "ResultCollectorBench", "VectorMemoryBench"]

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


class _Read(NamedTuple):
    """A read, and what must have happened before it starts: events so far, by name."""

    access: Access
    event: str
    events: int


class _ResultsBench(UnitBench):
    """Matrix results go in; when each ends and how large its magnitudes are is checked in every cycle."""

    ACCESS, BUSY, DONE = "i_sums_access", "sums_busy", "sums_done"

    def __init__(self, config: Any):
        super().__init__(config)
        self.depth = config.vector_memory // config.vector_lanes
        self.groups = config.vector_lanes // config.table_rows
        self.largest = 127 * config.max_vector

    def begin(self, stimulus: Items) -> None:
        self.events: Counter[str] = Counter()
        self.done: list[int] = []
        self.results = self._results(VectorBanks(self.config), stimulus)
        self.magnitudes = [[(0, 0)] * self.config.token_lanes for _ in range(self.config.chunks)]

    def _result(self, items: Items, rng: random.Random, chunk: int, base: int, words: int, again: int = 0) -> None:
        groups = words * self.groups
        split = rng.choice((0, 1, groups, 65535, rng.randint(0, groups)))
        items[self.ACCESS] += [{"chunk": chunk, "base": base, "split": split}] * (1 + again)
        count = self.config.token_lanes * self.config.table_rows
        size = [1 << rng.randint(0, self.largest.bit_length() - 2) for _ in range(count)]
        items["i_sums"] += _packet([[rng.choice((-k, rng.randint(-k, k - 1))) for k in size] for _ in range(groups)],
                                   "sums") * (1 + again)

    def _results(self, banks: VectorBanks, stimulus: Items) -> list[tuple[int, list[tuple[int, int]]]]:
        """Chunk and magnitudes of every result."""
        packets = _packets(stimulus.get("i_sums", []), "sums")
        return [(access["chunk"], banks.write_sums(access["chunk"], access["base"], access["split"], groups))
                for access, groups in zip(stimulus.get(self.ACCESS, []), packets, strict=True)]

    def accepted(self, stream: str, payload: Any) -> Items:
        self.events[stream] += payload["last"] if stream in ("i", "i_sums") else 1
        return {}

    def control(self, cycle: int, level: Callable[[str], int]) -> Mapping[str, int]:
        """Ends and magnitudes of results, as they come."""
        finished, announced = self.events["done"], self.events[self.ACCESS]
        busy = announced != finished
        if level(self.BUSY) != busy:
            raise BenchFailure(f"{self.BUSY} is {level('sums_busy')} after {finished} of {announced} results")
        bits = level("magnitude_bits")
        for chunk, magnitudes in enumerate(self.magnitudes):
            if busy and self.results[finished][0] == chunk:
                continue
            found = bits >> 12 * self.config.token_lanes * chunk & (1 << 12 * self.config.token_lanes) - 1
            want = self._packed(magnitudes)
            if found != want:
                raise BenchFailure(f"magnitude_bits of chunk {chunk} after {finished} results is {found:#x}, expected {want:#x}")
        if level(self.DONE):
            if self.events["i_sums"] != finished + 1:
                raise BenchFailure(f"{self.DONE} number {finished + 1} after {self.events['i_sums']} results")
            self.events["done"] += 1
            self.done.append(cycle)
            chunk, self.magnitudes[chunk] = self.results[finished]
        return {}

    @staticmethod
    def _packed(magnitudes: list[tuple[int, int]]) -> int:
        return sum((first | second << 6) << 12 * token for token, (first, second) in enumerate(magnitudes))


class VectorMemoryBench(_ResultsBench):
    """Writes and matrix results go in as they like; each is read back as soon as it, and what overlaps it, is in memory.

    Some are written once more with the same values, and read meanwhile: so a read may meet the word that is being written.
    """

    RESULT = 24
    """Vector words of the result that is measured."""

    def stimulus(self, rng: random.Random, case: str) -> Items:
        self.free = 0
        items: Items = {"i_write_access": [], "i": [], "i_sums_access": [], "i_sums": []}
        for _ in range(3):
            for paired in (0, 1):
                for extra in (0, rng.randint(1, 6), -1):
                    self._span(items, rng, rng.randint(2, 9), paired, extra)
            words = rng.randint(2, 20)
            access = Access(rng.randrange(self.config.token_slots), self._take(words), words)
            self._write(items, rng, access, words, again=1)
        for again in (0, 1, 0, 1, 0, 0):
            words = rng.randint(1, 12)
            self._result(items, rng, rng.randrange(self.config.chunks), self._take(words), words, again)
        return items

    def _take(self, words: int) -> int:
        self.free += words
        return self.free - words

    def _span(self, items: Items, rng: random.Random, words: int, paired: int, extra: int) -> None:
        """A packet over a whole span, and one of ``extra`` words too many (or one too few) into a part of it."""
        token = rng.randrange(self.config.token_slots)
        base = self._take(2 * words + 8)
        self._write(items, rng, Access(token, base, 2 * words + 8), 2 * words + 8)
        offset = rng.choice((words, words + 3, -words)) % (1 << 16) if paired else rng.getrandbits(16)
        start = base + words + 1 if offset == -words % (1 << 16) else base + 1
        length = words * (1 + paired) + extra
        self._write(items, rng, Access(token, start, words, paired, offset), length)

    def _write(self, items: Items, rng: random.Random, access: Access, length: int, again: int = 0) -> None:
        items["i_write_access"] += [vars(access)] * (1 + again)
        items["i"] += _packet([[rng.randint(*INT32) for _ in range(self.config.vector_lanes)] for _ in range(length)],
                              "x") * (1 + again)

    def boundary(self) -> Items:
        lanes, tokens, slots, rows = (self.config.vector_lanes, self.config.token_lanes, self.config.token_slots,
                                      self.config.table_rows)
        accesses = [Access(slots - 1, 0, 1, 0, 65535), Access(0, self.depth - 1, 1),
                    Access(slots - 1, 1, 1, 1, self.depth - 3)]
        words = [[low] * lanes for low in INT32]
        items: Items = {"i_write_access": [], "i": [], "i_sums_access": [], "i_sums": []}
        for slot in range(slots):
            self._write(items, random.Random(slot), Access(slot, 40, 12), 12, again=1)
        items["i_write_access"] += [vars(access) for access in accesses]
        items["i"] += _packet(words[:1], "x") + _packet(words[1:], "x") + _packet(words, "x")
        for n, value in enumerate((0, -1, 1, self.largest, -self.largest, -(1 << self.largest.bit_length() - 1))):
            items["i_sums_access"].append({"chunk": n % self.config.chunks, "base": 16 + n, "split": 1})
            items["i_sums"] += _packet([[value] * (tokens * rows)] * self.groups, "sums")
        return items

    def _reads(self, stimulus: Items) -> list[_Read]:
        """All reads in order. What is written once more is read when that begins, all else when all is written."""
        writes = [Access(**access) for access in stimulus.get("i_write_access", [])]
        touched = [{(access.token, address) for address in access.addresses()} for access in writes]
        reads = []
        for n, access in enumerate(writes):
            if writes[n + 1:n + 2] == [access]:
                reads.append(_Read(access, "i_write_access", n + 2))
            else:
                reads.append(_Read(access, "i", 1 + max(m for m, other in enumerate(touched) if other & touched[n])))
        announced, place = stimulus.get("i_sums_access", []), 2
        for n, (access, groups) in enumerate(zip(announced, _packets(stimulus.get("i_sums", []), "sums"), strict=True)):
            again = announced[n + 1:n + 2] == [access]
            for lane in range(self.config.token_lanes):
                target = Access(access["chunk"] * self.config.token_lanes + lane, access["base"], len(groups) // self.groups)
                reads.insert(place, _Read(target, "i_sums_access", n + 2) if again else _Read(target, "done", n + 1))
                place += 1
            place += 2
        return reads

    def begin(self, stimulus: Items) -> None:
        super().begin(stimulus)
        self.reads = self._reads(stimulus)
        self.released = 0

    def offers(self) -> Items:
        first = self.released
        while self.released < len(self.reads) and self.events[self.reads[self.released].event] >= self.reads[self.released].events:
            self.released += 1
        return {"i_read": [vars(read.access) for read in self.reads[first:self.released]]}

    def expected(self, stimulus: Items) -> Items:
        banks = VectorBanks(self.config)
        for access, packet in zip(stimulus.get("i_write_access", []), _packets(stimulus.get("i", []), "x"), strict=True):
            banks.write(Access(**access), packet)
        self._results(banks, stimulus)
        return {"o": [item for read in self._reads(stimulus) for item in _packet(banks.read(read.access), "x")]}

    def levels(self, stimulus: Items) -> dict[str, int]:
        return {"sums_busy": 0, "write_busy": 0, "sums_done": 0}

    def latency_stimulus(self) -> Items:
        items: Items = {"i_write_access": [], "i": [], "i_sums_access": [], "i_sums": []}
        for base in (0, 20):
            self._write(items, random.Random(0), Access(0, base, 20), 20)
        self._result(items, random.Random(0), self.config.chunks - 1, 64, self.RESULT)
        return items

    def measure(self, trace: Trace) -> dict[str, int]:
        words = [trace.accepted["i"][:20], trace.delivered["o"][:20], trace.accepted["i_sums"]]
        return {"latency": trace.latency("i_read", "o"), "interval": max(b - a for each in words for a, b in pairwise(each)),
                "access": trace.accepted["i"][20] - trace.accepted["i"][19],
                "done": self.done[0] - trace.accepted["i_sums"][-1],
                "wait": trace.accepted["i"][0] - trace.accepted["i_sums"][0]}

    def figures(self, attributes: Mapping[str, Any]) -> Mapping[str, int]:
        """A write waits for a result of its own chunk, not of another."""
        done = VectorLayout(self.config).done
        wait = self.RESULT * self.groups + done if self.config.chunks == 1 else 0
        return {**attributes, "access": 2, "done": done, "wait": wait}


class ResultCollectorBench(_ResultsBench):
    """Every word of every result is written once, where the layout of the vector memory has it."""

    ACCESS, BUSY, DONE = "i_access", "busy", "done"

    def __init__(self, config: Any):
        super().__init__(config)
        self.layout = VectorLayout(config)

    def stimulus(self, rng: random.Random, case: str) -> Items:
        items: Items = {"i_access": [], "i_sums": []}
        free = 0
        for _ in range(8):
            words = rng.randint(1, 12)
            self._result(items, rng, rng.randrange(self.config.chunks), free, words)
            free += words
        return items

    def boundary(self) -> Items:
        items: Items = {"i_access": [], "i_sums": []}
        self._result(items, random.Random(0), self.config.chunks - 1, self.depth - 1, 1)
        self._result(items, random.Random(1), 0, 0, 2)
        for n, value in enumerate((0, -1, 1, self.largest, -self.largest, -(1 << self.largest.bit_length() - 1))):
            items["i_access"].append({"chunk": n % self.config.chunks, "base": 16 + n, "split": 1})
            items["i_sums"] += _packet([[value] * (self.config.token_lanes * self.config.table_rows)] * self.groups, "sums")
        return items

    def expected(self, stimulus: Items) -> Items:
        return {}

    def begin(self, stimulus: Items) -> None:
        super().begin(stimulus)
        self.written: dict[tuple[int, int], list[int]] = {}  # (slot, address) -> elements
        self.first_word: int | None = None

    def control(self, cycle: int, level: Callable[[str], int]) -> Mapping[str, int]:
        into, turn = level("into"), level("turn")
        if into:
            if self.first_word is None:
                self.first_word = cycle
            if into.bit_count() != 1 or turn.bit_count() != 1 or into >> level("chunk") != 1:
                raise BenchFailure(f"into is {into:b} and turn {turn:b} for chunk {level('chunk')}")
            self._collect(level("chunk"), turn.bit_length() - 1, level("address"), level("words"))
        return super().control(cycle, level)

    def _collect(self, chunk: int, turn: int, address: int, words: int) -> None:
        """One word for each bank."""
        lanes, bits = self.config.vector_lanes, self.config.sum_bits
        for bank in range(self.layout.banks):
            if turn >= len(self.layout.lanes(bank)):
                continue
            slot = chunk * self.config.token_lanes + self.layout.lanes(bank)[turn]
            place = slot, address - turn * self.layout.words
            if place in self.written:
                raise BenchFailure(f"word {place[1]} of slot {slot} is written twice")
            elements = (words >> (bank * lanes + lane) * bits & (1 << bits) - 1 for lane in range(lanes))
            self.written[place] = [value - (value >> bits - 1 << bits) for value in elements]

    def levels(self, stimulus: Items) -> dict[str, int]:
        banks = VectorBanks(self.config)
        self._results(banks, stimulus)
        slots = range(self.config.token_slots)
        want = {(slot, address): words[0] for slot in slots for address in range(self.depth)
                if None not in (words := banks.read(Access(slot, address, 1)))[0]}
        if wrong := [place for place in sorted({*want, *self.written}) if want.get(place) != self.written.get(place)]:
            slot, address = wrong[0]
            raise BenchFailure(f"{len(wrong)} wrong words; word {address} of slot {slot} is {self.written.get(wrong[0])}, expected "
                               f"{want.get(wrong[0])}")
        return {"busy": 0, "done": 0}

    def latency_stimulus(self) -> Items:
        items: Items = {"i_access": [], "i_sums": []}
        for base in (0, 20):
            self._result(items, random.Random(base), self.config.chunks - 1, base, 20)
        return items

    def measure(self, trace: Trace) -> dict[str, int]:
        sums, groups = trace.accepted["i_sums"], 20 * self.groups
        assert self.first_word is not None
        return {"latency": self.first_word - sums[self.groups - 1], "interval": max(b - a for a, b in pairwise(sums[:groups])),
                "done": self.done[0] - sums[groups - 1], "next": sums[groups] - sums[groups - 1]}

    def figures(self, attributes: Mapping[str, Any]) -> Mapping[str, int]:
        return {**attributes, "done": self.layout.done, "next": self.layout.done + 2}


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
