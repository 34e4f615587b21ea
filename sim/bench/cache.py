"""Benches of the record packer, of row addresses, of the contiguous cache and the window cache."""

import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..golden.cache import contiguous_command, pack_record, record_beats, stored
from ..golden.numerics import Scalar
from ..golden.window import window_commands
from .trace import Trace
from .unit import Items, UnitBench

__all__ = ["ContiguousCacheBench", "RecordPackerBench", "RowAddressesBench", "WindowCacheBench"]


def _random_scale(rng: random.Random) -> Scalar:
    if rng.random() < 0.1:
        return Scalar(0, 0)
    return Scalar(rng.randrange(1 << 23, 1 << 24), rng.choice((0, -30, rng.randint(-100, 100))))


class RecordPackerBench(UnitBench):
    """Records of heads of different lengths."""

    def __init__(self, config: Any):
        super().__init__(config)
        self.lanes, self.bits = config.vector_lanes, config.kv_bits

    def _items(self, records: list[tuple[list[int], list[int], Scalar, Scalar]]) -> Items:
        items: Items = {"i": [], "i_scale": []}
        for *vectors, key_scale, value_scale in records:
            for vector in vectors:
                for start in range(0, len(vector), self.lanes):
                    items["i"].append({"q": vector[start:start + self.lanes],
                                       "last": int(start + self.lanes >= len(vector))})
            items["i_scale"] += [{"scale": {"mantissa": scale.mantissa, "exponent": scale.exponent}}
                                 for scale in (key_scale, value_scale)]
        return items

    def _vector(self, rng: random.Random, length: int) -> list[int]:
        half = 1 << self.bits - 1
        return [rng.randrange(-half, half) for _ in range(length)]

    def stimulus(self, rng: random.Random, case: str) -> Items:
        words = self.config.max_head_dim // self.lanes
        records = []
        for _ in range(10):
            length = self.lanes * rng.choice((1, 2, 3, words, words, rng.randint(1, words)))
            records.append((self._vector(rng, length), self._vector(rng, length), _random_scale(rng),
                            _random_scale(rng)))
        return self._items(records)

    def boundary(self) -> Items:
        half, full = 1 << self.bits - 1, self.config.max_head_dim
        corners = [Scalar(0, 0), Scalar(1 << 23, -(1 << 15)), Scalar((1 << 24) - 1, 32759),
                   Scalar((1 << 24) - 1, 32767), Scalar(1 << 23, -9), Scalar(0xFFFFFF, -8)]
        return self._items([([-half] * full, [half - 1] * full, scale, corners[-1 - k])
                            for k, scale in enumerate(corners)]
                           + [([0] * self.lanes, [-1] * self.lanes, corners[4], corners[5])])

    def expected(self, stimulus: Items) -> Items:
        vectors: list[list[int]] = [[]]
        for item in stimulus["i"]:
            vectors[-1] += item["q"]
            if item["last"]:
                vectors.append([])
        scales = [Scalar(**item["scale"]) for item in stimulus["i_scale"]]
        beats = []
        for k in range(0, len(scales), 2):
            key, value = (stored(np.array(vector), self.config).tolist() for vector in vectors[k:k + 2])
            record = pack_record(key, value, scales[k], scales[k + 1], kv_bits=self.config.stored_kv_bits,
                                 bus_bits=self.config.bus_bits)
            beats += [{"data": word, "last": int(n == len(record) - 1)} for n, word in enumerate(record)]
        return {"o": beats}

    def latency_stimulus(self) -> Items:
        rng = random.Random(0)
        length = self.config.max_head_dim
        return self._items([(self._vector(rng, length), self._vector(rng, length), _random_scale(rng),
                             _random_scale(rng)) for _ in range(4)])

    def measure(self, trace: Trace) -> dict[str, int]:
        """From the V scale or, where the header may lie behind K, from the cycle after K's last word."""
        start = trace.accepted["i_scale"][1]
        if self.config.header_words:
            start = max(start, trace.accepted["i"][self.config.max_head_dim // self.lanes - 1] + 1)
        return {"latency": trace.raised["o"] - start, "interval": trace.interval("i")}


class ContiguousCacheBench(UnitBench):
    """Requests inside and outside of the bounds."""

    def __init__(self, config: Any):
        super().__init__(config)
        self.capacity = config.max_context - 3
        self.beats = record_beats(config.max_head_dim, kv_bits=config.stored_kv_bits, bus_bits=config.bus_bits)
        self.head_stride = self.capacity * self.beats * config.bus_bytes

    def constants(self) -> Mapping[str, int]:
        return {"capacity": self.capacity, "record_beats": self.beats, "head_stride": self.head_stride}

    def stimulus(self, rng: random.Random, case: str) -> Items:
        requests = []
        for _ in range(60):
            position = rng.randint(0, self.config.max_context)
            count = rng.randint(0, self.config.max_context)
            if rng.random() < 0.7:
                position = min(position, self.capacity)
                count = rng.randint(0, self.capacity - position)
            requests.append(self._request(rng.getrandbits(1), rng.getrandbits(20) * self.config.bus_bytes,
                                          rng.getrandbits(8), position, count))
        return {"i_request": requests}

    @staticmethod
    def _request(write: int, base: int, head: int, position: int, count: int) -> dict[str, int]:
        return {"write": write, "base": base, "head": head, "position": position, "count": count}

    def boundary(self) -> Items:
        top = (1 << 32) - self.config.bus_bytes
        return {"i_request": [
            self._request(write, base, head, position, count)
            for write in (0, 1) for base in (0, top) for head in (0, 255)
            for position, count in ((0, 0), (0, self.capacity), (self.capacity, 0), (self.capacity - 1, 1),
                                    (self.capacity, 1), (self.config.max_context, self.config.max_context))]}

    def expected(self, stimulus: Items) -> Items:
        commands: Items = {"o_read": [], "o_write": []}
        for request in stimulus["i_request"]:
            command = self._command(request)
            if command is not None:
                commands["o_write" if request["write"] else "o_read"].append(
                    {"address": command.address, "beats": command.beats})
        return commands

    def _command(self, request: dict[str, int]) -> Any:
        return contiguous_command(
            request["base"], request["head"], request["position"], request["count"], capacity=self.capacity,
            record_beats=self.beats, head_stride=self.head_stride, bus_bits=self.config.bus_bits)

    def levels(self, stimulus: Items) -> dict[str, int]:
        return {"error": int(any(self._command(request) is None for request in stimulus["i_request"]))}

    def latency_stimulus(self) -> Items:
        return {"i_request": [self._request(k & 1, 4096 * k, k, k, 1) for k in range(10)]}


class RowAddressesBench(ContiguousCacheBench):
    """Rows within a head, with numbers that must come through."""

    def __init__(self, config: Any):
        super().__init__(config)
        self.capacity = config.max_context

    def constants(self) -> Mapping[str, int]:
        return {"record_beats": self.beats, "head_stride": self.head_stride}

    def _rows(self, requests: Items) -> Items:
        inside = [request for request in requests["i_request"] if self._command(request) is not None]
        return {"i": [request | {"passed": {"number": 37 * k % 256}} for k, request in enumerate(inside)]}

    def stimulus(self, rng: random.Random, case: str) -> Items:
        return self._rows(super().stimulus(rng, case))

    def boundary(self) -> Items:
        return self._rows(super().boundary())

    def expected(self, stimulus: Items) -> Items:
        return {"o": [{"write": rows["write"], **vars(self._command(rows)), "passed": rows["passed"]} for rows in stimulus["i"]]}

    def levels(self, stimulus: Items) -> dict[str, int]:
        return {}

    def latency_stimulus(self) -> Items:
        return self._rows(super().latency_stimulus())


class WindowCacheBench(UnitBench):
    """Requests for what is there and for what is not, at one length of the text per run."""

    def __init__(self, config: Any):
        super().__init__(config)
        self.beats = record_beats(config.max_head_dim, kv_bits=config.stored_kv_bits, bus_bits=config.bus_bits)
        self.head_stride = config.max_context * self.beats * config.bus_bytes
        self.sinks = self.recent = self.length = 1

    def constants(self) -> Mapping[str, int]:
        return {"record_beats": self.beats, "head_stride": self.head_stride}

    def control(self, cycle: int, level: Callable[[str], int]) -> Mapping[str, int]:
        return {"sinks": self.sinks, "recent": self.recent, "length": self.length}

    def _at(self, sinks: int, recent: int, length: int) -> None:
        self.sinks, self.recent, self.length = sinks, recent, length

    def _request(self, write: int, position: int, count: int, base: int = 0, head: int = 0) -> dict[str, int]:
        return {"write": write, "base": base, "head": head, "position": position, "count": count}

    def stimulus(self, rng: random.Random, case: str) -> Items:
        most = self.config.max_context
        sinks = rng.choice((0, 1, 4, rng.randrange(most)))
        recent = rng.choice((1, most - sinks, rng.randint(1, most - sinks)))
        self._at(sinks, recent, rng.choice((rng.randint(0, most), rng.randint(0, 10 * most), rng.getrandbits(20))))
        oldest = max(self.sinks, self.length - self.recent)
        requests = []
        for _ in range(40):
            first = rng.choice((0, rng.randint(0, self.sinks), oldest, rng.randint(oldest, max(oldest, self.length)), oldest - 1))
            first = max(0, min(first, (1 << 20) - 1))
            there = max(0, (self.length if first >= oldest or oldest == self.sinks else self.sinks) - first)
            count = min(rng.choice((there, there, rng.randint(0, there), there + 1, 0, 1)), most)
            requests.append(self._request(rng.getrandbits(1), first, count, rng.getrandbits(20) * self.config.bus_bytes,
                                          rng.getrandbits(8)))
        return {"i_request": requests}

    def boundary(self) -> Items:
        most, last = self.config.max_context, (1 << 20) - 1
        self._at(4, most - 4, last)
        return {"i_request": [self._request(write, first, count, (1 << 32) - self.config.bus_bytes, 255)
                              for write in (0, 1) for first, count in (
                                  (0, 4), (3, 1), (3, 2), (0, 0), (last - most + 4, most - 4), (last - most + 3, 1), (last - 1, 1),
                                  (last - 1, 2), (last, 0), (last, 1), (last, most), (4, 1))]}

    def _commands(self, stimulus: Items) -> list[tuple[int, Any]]:
        return [(request["write"], command) for request in stimulus["i_request"] for command in window_commands(
            *(request[name] for name in ("base", "head", "position", "count")), sinks=self.sinks, recent=self.recent,
            length=self.length, capacity=self.config.max_context, record_beats=self.beats, head_stride=self.head_stride,
            bus_bits=self.config.bus_bits)]

    def expected(self, stimulus: Items) -> Items:
        commands: Items = {"o_read": [], "o_write": []}
        for write, command in self._commands(stimulus):
            if command is not None:
                burst, rows = command
                words = {"address": burst.address, "beats": burst.beats}
                commands["o_write" if write else "o_read"].append(words if write else words | rows)
        return commands

    def levels(self, stimulus: Items) -> dict[str, int]:
        return {"error": int(any(command is None for _, command in self._commands(stimulus)))}

    def latency_stimulus(self) -> Items:
        self._at(4, 20, 1000)
        return {"i_request": [self._request(0, 0, 4), self._request(0, 990, 1), *(self._request(0, 990, 1, head=k) for k in (1, 2)),
                              self._request(0, 999, 1), self._request(0, 980, 1)]}

    def measure(self, trace: Trace) -> dict[str, int]:
        """No command waits for the one before it: that has left before the next one is known."""
        near, far, again, _, *others = (command - request for command, request in zip(
            trace.delivered["o_read"], trace.accepted["i_request"], strict=True))
        assert others == [near, near]
        return {"near": near, "far": far, "again": again, "interval": trace.accepted["i_request"][3] - trace.accepted["i_request"][2]}

    def figures(self, attributes: Mapping[str, Any]) -> Mapping[str, int]:
        return {**attributes["latency"], "interval": attributes["interval"]}
