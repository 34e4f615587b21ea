"""Bench of the controller of an evict + merge cache: it plays the reader and the writer of a memory."""

import random
from collections import deque
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from ..golden.cache import BurstCommand, kept
from ..golden.evict import ONE, Record, loaded_scale
from ..golden.evict_cache import EvictController
from .evict import RecordBench
from .trace import Trace
from .unit import Items

__all__ = ["EvictCacheBench"]

ADDED, MERGED, DROPPED, REFUSED = range(4)

HELD = 300
"""Cycles that the last word of a packet may be late: longer than a decision and a write take."""


class EvictCacheBench(RecordBench):
    """Texts in a few heads, each with a budget of its own, whose keys come back now and then; reads, weights, requests that are
    refused."""

    BASE = 1 << 16
    threshold = ONE * 9 // 10

    def __init__(self, config: Any):
        super().__init__(config)
        self.slots = max(4, 1 << (config.max_context // 4).bit_length() - 1)
        self.weight_bits = 16 + config.query_lanes.bit_length()
        self.rules = {"sinks": 1, "recent": 2, "threshold": self.threshold}
        self.head_stride = (self.slots + 3) * self.record_beats * config.bus_bytes

    def constants(self) -> Mapping[str, int]:
        return {**super().constants(), **self.rules, "record_beats": self.record_beats, "head_stride": self.head_stride}

    def _request(self, head: int, position: int, count: int = 1, *, write: int = 0, scores: int = 0, budget: int = 0) -> dict[str, int]:
        return {"write": write, "scores": scores, "base": self.BASE, "head": head, "position": position, "count": count,
                "budget": budget}

    def _record(self, rng: random.Random, keys: list[np.ndarray]) -> Record:
        if not keys or rng.random() < 0.5:
            keys.append(np.array([rng.randint(-127, 127) for _ in range(self.head_dim)]))
        noise = [rng.randint(-9, 9) for _ in range(self.head_dim)]
        key = np.clip(rng.choice(keys[-4:]) // rng.choice((1, 2)) + noise, -127, 127)
        scales = [(rng.randrange(1 << 15, 1 << 16), rng.randint(-30, -27)) for _ in range(2)]
        value = np.array([rng.randint(-127, 127) for _ in range(self.head_dim)])
        return Record(self.kept(key), self.kept(value), scales[0], scales[1])

    def _trace(self, rng: random.Random, steps: int, budgets: Mapping[int, int]) -> Items:
        """Each step: a token in one of the heads, perhaps a read, weights, something refused."""
        requests, weights = [], []
        self.records: list[Record] = []
        keys: dict[int, list[np.ndarray]] = {head: [] for head in budgets}
        length = dict.fromkeys(budgets, 0)

        def append(head: int, position: int, **options: int) -> None:
            requests.append(self._request(head, position, write=1, **options))
            self.records.append(self._record(rng, keys.setdefault(head, [])))

        for head, budget in budgets.items():
            append(head, 0, budget=budget)
            length[head] = 1
        for _ in range(steps):
            head = rng.choice(list(budgets))
            if rng.random() < 0.03:
                length[head] = 0
            append(head, length[head], budget=budgets[head] if not length[head] else rng.randrange(self.slots))
            length[head] += 1
            there = min(length[head], budgets[head])
            if rng.random() < 0.3:
                first = rng.randint(0, there)
                requests.append(self._request(head, first, rng.randint(0, there - first)))
            if rng.random() < 0.6:
                requests.append(self._request(head, 0, scores=1))
                weights += [{"weight": rng.getrandbits(rng.choice((4, 16))), "last": int(row == there - 1)} for row in range(there)]
            if rng.random() < 0.1:
                append(head, length[head] + rng.choice((-1, 1)) or 2, budget=9)
            if rng.random() < 0.1:
                requests.append(self._request(head, rng.randint(0, there), there + 1))
        return {"i_request": requests, "i_weights": weights, "i_record": self._packets(self.records)}

    def _packets(self, records: list[Record]) -> list[dict[str, int]]:
        return [{"data": word, "last": int(k == self.record_beats - 1)}
                for record in records for k, word in enumerate(self._words(record))]

    def _words(self, record: Record) -> list[int]:
        return self.pack((record.key, record.value, loaded_scale(record.key_scale), loaded_scale(record.value_scale)))

    def stimulus(self, rng: random.Random, case: str) -> Items:
        self.held = rng.choice((0, 0, HELD))
        self.failing = {rng.randrange(30) for _ in range(rng.choice((0, 2)))}
        heads = rng.sample(range(self.config.max_heads), 3)
        return self._trace(rng, 24, {heads[0]: 4, heads[1]: rng.randint(4, 7), heads[2]: self.slots})

    def boundary(self) -> Items:
        """The largest budget, reached; budgets, heads and counts that are not legal; a key of zeros."""
        rng, last, self.held = random.Random(3), self.config.max_heads - 1, HELD
        self.failing = {1}
        items = self._trace(rng, self.slots + 6, {last: self.slots})
        for head, position, options in ((last, 0, {"budget": 3}), (last, 0, {"budget": self.slots + 1}), (last + 1, 0, {"budget": 8}),
                                        (last, 0, {"budget": 8, "count": 2}), (0, 0, {"budget": 4})):
            items["i_request"].append(self._request(head, position, write=1, **options))
            self.records.append(self._record(rng, []))
        zeros = np.zeros(self.head_dim, np.int64)
        for position in range(1, 9):
            items["i_request"].append(self._request(0, position, write=1))
            self.records.append(Record(zeros, zeros, (0, 0), (0, 0)))
        items["i_request"] += [self._request(last + 1, 0), self._request(last + 1, 0, scores=1), self._request(0, 0, 4)]
        items["i_weights"] += [{"weight": 5, "last": 0}, {"weight": 5, "last": 1}]
        items["i_record"] = self._packets(self.records)
        return items

    def begin(self, stimulus: Items) -> None:
        self.memory: dict[int, int] = {}
        self.open: list[tuple[int, int]] = []  # writes that have not ended: next address, words left
        self.due: deque[list] = deque()  # words of memory: cycles until they come, behind those before; word
        self.writes = self.packets = self.fetched = self.answered = 0
        self.last_packet: dict[int, int] = {}  # of each append at the budget, as they have been fetched

    def offers(self) -> Items:
        words = []
        while self.due and not self.due[0][0]:
            words.append(self.due.popleft()[1])
        if self.due:
            self.due[0][0] -= 1
        return {"i_data": words}

    def accepted(self, stream: str, payload: Any) -> Items:
        self.packets += stream == "i_data" and payload["last"]
        return {}

    def react(self, stream: str, payload: Any) -> Items:
        step = self.config.bus_bytes
        if stream == "o_fetch":
            address, beats = payload["address"], payload["beats"]
            self.last_packet[self._fetched(BurstCommand(address, beats))] = self.fetched
            self.fetched += 1
            for k in range(beats):
                last = int(k == beats - 1)
                self.due.append([last * self.held, {"data": self.memory[address + k * step], "last": last}])
        if stream == "o_append" and payload["outcome"] in (MERGED, DROPPED):
            assert self.packets > self.last_packet[self.answered], f"{payload} while words that it reads are due"
            self.answered += 1
        if stream == "o_write":
            self.open.append((payload["address"], payload["beats"]))
        if stream == "o_data":
            address, left = self.open.pop(0)
            self.memory[address] = payload["data"]
            if left > 1:
                self.open.insert(0, (address + step, left - 1))
            else:
                self.writes += 1
                return {"i_written": [{"error": int(self.writes - 1 in self.failing)}]}
        return {}

    def _fetched(self, command: BurstCommand) -> int:
        """For which append at the budget it is. Searches come in order, and so do targets: each behind its own search, and before the
        second search behind that."""
        number, targets = self.targets[0] if self.targets else (len(self.searches), [])
        if targets and self.searched > 2 * number + 1 and command == targets[0]:
            self.targets.pop(0)
            return number
        assert self.searched < len(self.searches) and self.searched < 2 * number + 4, f"{command} is not the next target, {targets}"
        assert command == self.searches[self.searched], f"{command} is neither {self.searches[self.searched]} nor a target, {targets}"
        self.searched += 1
        return (self.searched - 1) // 2

    def expected(self, stimulus: Items) -> Items:
        golden = EvictController(self.config.max_heads, self.slots, record_beats=self.record_beats, head_stride=self.head_stride,
                                 bus_bits=self.config.bus_bits, weight_bits=self.weight_bits, kept=partial(kept, config=self.config),
                                 **self.rules)
        items: Items = {name: [] for name in ("o_read", "o_fetch", "o_write", "o_data", "o_append")}
        records, weights = iter(self.records), iter(stimulus["i_weights"])
        self.error = 0
        self.searches: list[BurstCommand] = []  # two of each append
        self.targets: list[tuple[int, list[BurstCommand]]] = []  # of those that are merged, number of the search
        self.searched = 0

        def give(stream: str, commands: list[BurstCommand]) -> None:
            items[stream] += [{"address": command.address, "beats": command.beats} for command in commands]

        for request in stimulus["i_request"]:
            base, head, position, count = (request[name] for name in ("base", "head", "position", "count"))
            if request["scores"]:
                packet = [next(weights)]
                while not packet[-1]["last"]:
                    packet.append(next(weights))
                self.error |= not golden.score(head, [item["weight"] for item in packet])
            elif not request["write"]:
                command = golden.read(base, head, position, count)
                self.error |= command is None
                give("o_read", [command] if command else [])
            else:
                done = golden.append(base, head, position, count, request["budget"], next(records))
                if done is None:
                    self.error = 1
                    items["o_append"].append({"head": head, "outcome": REFUSED, "slot": None, "target": None, "tokens": 0, "error": 0})
                    continue
                append, first = done.append, len(items["o_write"])
                outcome = ADDED if not append.tokens else DROPPED if append.target is None else MERGED
                if done.targets:
                    self.targets.append((len(self.searches) // 2, done.targets))
                self.searches += done.searches
                items["o_fetch"] += [{"address": None, "beats": None}] * len([*done.searches, *done.targets])
                give("o_write", done.writes)
                items["o_data"] += self._packets(done.records)
                items["o_append"].append({
                    "head": head, "outcome": outcome, "slot": append.slot, "target": append.target, "tokens": append.tokens,
                    "error": int(any(first <= number < len(items["o_write"]) for number in self.failing))})
        return items

    def levels(self, stimulus: Items) -> Mapping[str, int]:
        return {"error": int(self.error)}

    def latency_stimulus(self) -> Items:
        self.failing, self.held = set(), 0
        self.records = [Record(np.arange(self.head_dim), np.arange(self.head_dim), (1 << 15, 0), (1 << 15, 0))]
        return {"i_request": [self._request(0, 0, write=1, budget=4), self._request(0, 0), self._request(0, 0)], "i_weights": [],
                "i_record": self._packets(self.records)}

    def measure(self, trace: Trace) -> dict[str, int]:
        requests = trace.accepted["i_request"]
        return {"append": trace.delivered["o_write"][0] - requests[0], "read": trace.delivered["o_read"][1] - requests[2]}

    def figures(self, attributes: Mapping[str, Any]) -> Mapping[str, int]:
        return attributes["latency"]
