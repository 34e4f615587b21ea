"""Benches of what an evict + merge cache does with records: the most similar key, the merge of two."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...accelerators.integers import ceil_div
from ...accelerators.kv_records import INT4_STEP
from ..golden.cache import kept, pack_record, record_beats, stored, stored_scale
from ..golden.evict import ONE, Record, merged_record, most_similar, reaches
from ..golden.numerics import Scalar
from .trace import Trace
from .unit import Items, UnitBench

__all__ = ["RecordMergeBench", "SimilarKeyBench", "random_record"]


def random_record(rng: random.Random, head_dim: int, kind: str = "") -> tuple[np.ndarray, np.ndarray, Scalar, Scalar]:
    """Key, value and scales, as ``pack_record`` takes them."""
    kind = kind or rng.choice(("full", "full", "small", "sparse", "zero", "extreme"))

    def vector() -> np.ndarray:
        most = {"full": 127, "small": 3, "sparse": 1, "zero": 0, "extreme": 0}[kind]
        if kind == "extreme":
            return np.array([rng.choice((-128, -127, 127)) for _ in range(head_dim)])
        return np.array([rng.randint(-most, most) for _ in range(head_dim)])

    def scale() -> Scalar:
        return Scalar(0, 0) if kind == "zero" else Scalar(rng.randrange(1 << 23, 1 << 24), rng.randint(-40, -34))

    return vector(), vector(), scale(), scale()


class RecordBench(UnitBench):
    """Records of a head of ``head_dim`` elements, as words of the bus."""

    def __init__(self, config: Any):
        super().__init__(config)
        self.resize(min(config.max_head_dim, 2 * config.kv_lanes))

    def resize(self, head_dim: int) -> None:
        config = self.config
        self.head_dim, self.beats = head_dim, ceil_div(head_dim, config.kv_lanes)
        self.record_beats = record_beats(self.head_dim, kv_bits=config.stored_kv_bits, bus_bits=config.bus_bits)

    def constants(self) -> Mapping[str, int]:
        return {"beats": self.beats, "words": self.head_dim // self.config.vector_lanes}

    def pack(self, record: tuple[np.ndarray, np.ndarray, Scalar, Scalar]) -> list[int]:
        key, value, key_scale, value_scale = record
        key, value = (stored(vector, self.config).tolist() for vector in (key, value))
        return pack_record(key, value, key_scale, value_scale, kv_bits=self.config.stored_kv_bits, bus_bits=self.config.bus_bits)

    def kept(self, vector: np.ndarray) -> np.ndarray:
        """What is left of elements that were stored."""
        return kept(vector, self.config)


class SimilarKeyBench(RecordBench):
    """Candidates among rows that are alike, opposite, multiples of each other, zero."""

    def __init__(self, config: Any):
        super().__init__(config)
        self.slots = max(4, 1 << (config.max_context // 4).bit_length() - 1)

    def constants(self) -> Mapping[str, int]:
        return {**super().constants(), "threshold": self.threshold}

    threshold = ONE * 3 // 4

    def _items(self, searches: list[tuple[np.ndarray, list[np.ndarray], int]]) -> Items:
        self.searches = searches
        ones, scale = np.ones(self.head_dim, np.int64), Scalar(1 << 23, -30)
        return {"i_command": [{"rows": len(keys), "skip": skip} for _, keys, skip in searches],
                "i": [word for candidate, keys, _ in searches for key in (candidate, *keys)
                      for word in self.pack((key, ones, scale, scale))]}

    def stimulus(self, rng: random.Random, case: str) -> Items:
        searches = []
        for _ in range(4):
            candidate = random_record(rng, self.head_dim, rng.choice(("full", "small", "sparse")))[0]
            spread = rng.choice((0, 3, 40, 127))
            keys = []
            for _ in range(rng.choice((1, 2, rng.randint(1, 9)))):
                near = np.clip(candidate + [rng.randint(-spread, spread) for _ in range(self.head_dim)], -127, 127)
                other = random_record(rng, self.head_dim)[0]
                keys.append(rng.choice((near, near, -near, near // 2, np.clip(2 * near, -127, 127), other)))
            searches.append((candidate, keys, rng.choice((0, len(keys) - 1, self.slots - 1))))
        return self._items(searches)

    def boundary(self) -> Items:
        """Largest sums; ties; no row; one that does not count; a cosine that is the threshold; all slots."""
        top, zero = np.full(self.head_dim, -128), np.zeros(self.head_dim, np.int64)
        three, five, other = zero.copy(), zero.copy(), zero.copy()
        three[:2], five[:2] = (3, 0), (3, 4)  # cosine 3/5
        other[:3] = (7, 0, 0)
        at = zero.copy()
        at[:8] = (3, 2, 1, 1, 1, 0, 0, 0) if self.head_dim >= 8 else 1  # (3, 0 ..) against it: 3/4
        three, five, other, at = (vector * INT4_STEP for vector in (three, five, other, at))
        last = [top if slot == self.slots - 1 else -top - 1 if slot else zero for slot in range(self.slots)]
        return self._items([
            (top, [top, top, -1 * top - 1, top], 0), (top, [top, top // 2, top], 3), (zero, [top, top], 0), (top, [zero, zero], 1),
            (top, [], 0),
            (three, [five, five], 3), (three, [at], 3), (three, [five, at, other, three], 3), (other, [at], 2), (top, [top], 0),
            (top, last, 0)])

    def expected(self, stimulus: Items) -> Items:
        items = []
        for candidate, keys, skip in self.searches:
            candidate, keys = self.kept(candidate), [self.kept(key) for key in keys]
            slot = most_similar(candidate, np.array(keys).reshape(len(keys), self.head_dim), skip)
            similar = slot is not None and reaches(candidate, keys[slot], self.threshold)
            items.append({"slot": slot if similar else None, "similar": int(similar)})
        return {"o": items}

    def latency_stimulus(self) -> Items:
        key = np.arange(1, self.head_dim + 1) % 128
        return self._items([(key, [*[-key] * 8, key], 3)])

    def measure(self, trace: Trace) -> dict[str, int]:
        return {"latency": trace.delivered["o"][0] - trace.accepted["i"][-1 - self.beats]}

    def figures(self, attributes: Mapping[str, Any]) -> Mapping[str, int]:
        return {"latency": attributes["latency"]}


class RecordMergeBench(RecordBench):
    """Candidates that are dropped and that are merged: near and far scales, few and many tokens, opposite and zero vectors."""

    MOST = (1 << 20) - 1
    modules = ("llmrtl.sim.bench.menu", "llmrtl.sim.bench.merge_cases")

    def items(self, pairs: list[tuple[Any, Any, tuple[int, int] | None]], rng: random.Random, *, ahead: bool = False) -> Items:
        """Candidate, record kept, tokens of the record kept and the candidate (``None``: dropped). ``ahead``: up to three candidates
        come before the record kept of another."""
        self.pairs, most = pairs, 3 if ahead else 0
        records = []
        kept: list[tuple[int, Any]] = []
        for number, (candidate, other, tokens) in enumerate(pairs):
            while kept and (number - kept[0][0] > most or rng.random() < 0.4):
                records.append((kept.pop(0)[1], 1))
            records.append((candidate, 0))
            kept += [(number, other)] if tokens else []
        records += [(other, 1) for _, other in kept]
        return {"i": [word for record, _ in records for word in self.pack(record)],
                "i_kind": [{"kept": is_kept} for _, is_kept in records],
                "i_command": [{"merges": int(tokens is not None), "kept": tokens[0] if tokens else 0,
                               "candidate": tokens[1] if tokens else 0} for _, _, tokens in pairs]}

    def stimulus(self, rng: random.Random, case: str) -> Items:
        return self.merges(rng, 7)

    def merges(self, rng: random.Random, count: int) -> Items:
        return self.items([(random_record(rng, self.head_dim), random_record(rng, self.head_dim), rng.choice((
            None, (1, 1), (rng.randint(1, 20), rng.randint(1, 20)), (rng.randint(1, self.MOST // 2), rng.randint(1, self.MOST // 2)))))
            for _ in range(count)], rng, ahead=rng.random() < 0.5)

    def boundary(self) -> Items:
        def record(element: int, exponent: int) -> tuple[np.ndarray, np.ndarray, Scalar, Scalar]:
            elements, scale = np.full(self.head_dim, element), Scalar(0xFFFFFF, exponent)
            return elements, np.minimum(-elements, 127), scale, scale
        zero = (np.zeros(self.head_dim, np.int64),) * 2 + (Scalar(0, 0),) * 2
        one = np.zeros(self.head_dim, np.int64)
        one[-1] = 1
        single = (one, one, Scalar(1 << 23, -30), Scalar(1 << 23, 3))
        return self.items([
            (record(-128, 0), record(-128, 0), (self.MOST - 1, 1)), (record(127, 5), record(-127, 5), (1, 1)), (zero, zero, (1, 1)),
            (zero, record(127, -9), (3, 2)), (record(127, -9), zero, (3, 2)), (single, record(99, -60), (1, 1)),
            (single, record(99, -46), (1, 1)), (single, record(99, -45), (1, 1)), (single, single, (1, self.MOST - 1)),
            (single, zero, None)], random.Random(1), ahead=True)

    def expected(self, stimulus: Items) -> Items:
        words = []
        for candidate, other, tokens in self.pairs:
            if tokens:
                records = [Record(self.kept(key), self.kept(value), stored_scale(key_scale), stored_scale(value_scale))
                           for key, value, key_scale, value_scale in (other, candidate)]
                packet = self.pack(merged_record(records[0], records[1], tokens))
                words += [{"data": word, "last": int(k == len(packet) - 1)} for k, word in enumerate(packet)]
        return {"o": words}

    def latency_stimulus(self) -> Items:
        return self.full(1)

    def full(self, count: int) -> Items:
        """So many merges, of records without zeros, one after another."""
        rng = random.Random(1)
        return self.items([(random_record(rng, self.head_dim, "full"), random_record(rng, self.head_dim, "full"), (3, 2))
                           for _ in range(count)], rng)

    def measure(self, trace: Trace) -> dict[str, int]:
        return {"latency": trace.delivered["o"][0] - trace.accepted["i_command"][0]}

    def figures(self, attributes: Mapping[str, Any]) -> Mapping[str, int]:
        latency = attributes["latency"]
        return {"latency": latency["command"] + latency["word"] * (self.head_dim // self.config.vector_lanes)}
