"""Trace of the evict + merge cache, and what judges it: lists of positions, and means in floating point."""

import itertools
import struct
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from ...accelerators.cache.evict_cache import EvictCache
from ...accelerators.cache.evict_formats import Outcome
from ...accelerators.config import THRESHOLD_FRACTION, AcceleratorConfig
from ...accelerators.kv_records import INT4_STEP
from ...rtl_gen.emit import emit
from .player import Answer, Offer, Surroundings
from .records import Judgement, Place, Trace, Wrong

__all__ = ["EvictTrace", "ListModel", "ListRow", "StoredRecord", "merge_error", "real"]

MOST_GLOBAL = 2 ** 32 - 1

SAME = Fraction(1, 20_000)
"""Squared cosines that differ by less, in parts of them, may be the same to a cache, but for those of equal keys: six logarithms that
are off by less than 2**-17."""
HEADER = struct.Struct("<HhHh")


def check(condition: Any, message: str) -> None:
    if not condition:
        raise Wrong(message)


def real(elements: Any, scale: tuple[int, int]) -> Any:
    return elements * (scale[0] * 2.0 ** scale[1])


def merge_error(scale: float, scales: Sequence[tuple[int, int]], tokens: Sequence[int], step: int = 1) -> float:
    """Most that an element of a merged vector may be off the mean of both: half a step of the new scale, half of ``step`` of these if
    it is stored so, and what is truncated."""
    truncated = max(count * real(1, each) for each, count in zip(scales, tokens, strict=True)) / sum(tokens) / 128
    return (0.51 + step // 2) * scale + truncated


@dataclass(frozen=True, eq=False)
class StoredRecord:
    """Elements of a row, and scales as 16-bit mantissa and exponent; in memory these come first, in words of the bus. Elements are
    multiples of ``step``; if that is not 1, 4 bits say of which."""

    key: np.ndarray
    value: np.ndarray
    key_scale: tuple[int, int]
    value_scale: tuple[int, int]
    step: int = 1

    def words(self, bus_bytes: int) -> tuple[int, ...]:
        elements = np.concatenate([self.key, self.value]) // self.step
        if self.step != 1:
            elements = (elements[::2] & 15) + 16 * elements[1::2]
        image = HEADER.pack(*self.key_scale, *self.value_scale) + elements.astype(np.int8).tobytes()
        return tuple(int.from_bytes(image[k:k + bus_bytes], "little") for k in range(0, len(image), bus_bytes))

    @classmethod
    def of_words(cls, words: Sequence[int], bus_bytes: int, step: int = 1) -> "StoredRecord":
        image = b"".join(word.to_bytes(bus_bytes, "little") for word in words)
        scales, elements = HEADER.unpack(image[:HEADER.size]), np.frombuffer(image[HEADER.size:], np.int8).astype(np.int64)
        if step != 1:
            high = elements >> 4
            elements = np.stack([(elements - 16 * high + 8) % 16 - 8, high], axis=1).reshape(-1) * step
        half = len(elements) // 2
        return cls(elements[:half], elements[half:], scales[:2], scales[2:], step)


class ListRow:
    """The positions that a row stands for, the one it is at, its scores, real key and value, how far those stored may be."""

    def __init__(self, position: int, record: Any):
        self.members, self.position, self.total, self.late, self.record = [position], position, 0, 0, record
        self.means = [real(record.key, record.key_scale), real(record.value, record.value_scale)]
        self.bounds = [0.0, 0.0]


class ListModel:
    """A head as lists of positions, exact cosines and means in floating point; it judges what a cache has done with each token.

    Records have ``key``, ``value``, ``key_scale`` and ``value_scale``. Raises ``Wrong``.

    Parameters
    ----------
    budget, sinks, recent : int
        Rows; first and last positions that stay.
    threshold : int
        Cosine from which on rows are merged, 12 fraction bits.
    most_local : int
        Where the local score saturates.
    step : int
        Of what elements are stored in multiples.
    """

    def __init__(self, budget: int, *, sinks: int, recent: int, threshold: int, most_local: int, step: int = 1):
        self.budget, self.sinks, self.recent, self.threshold = budget, sinks, recent, threshold
        self.most_local, self.step = most_local, step
        self.rows: list[ListRow] = []
        self.gone: list[int] = []
        self.appended = 0

    def weights(self, weights: Sequence[int]) -> None:
        """Of the first rows, one each."""
        for row, weight in zip(self.rows, weights, strict=False):
            row.total = min(row.total + weight, MOST_GLOBAL)
            row.late = row.late - row.late // 16 + weight

    def append(self, new: Any, slot: int, tokens: int, target: int | None, stored: Any) -> None:
        """The next token took ``slot``, whose ``tokens`` tokens went into ``target``, which is now ``stored``, or nowhere."""
        position = self.appended
        self.appended += 1
        if len(self.rows) < self.budget:
            check((slot, tokens, target) == (len(self.rows), 0, None), f"row {len(self.rows)} is new, not {slot}, {tokens}, {target}")
            self.rows.append(ListRow(position, new))
            return
        loose = [row for row in self.rows if self.sinks <= row.position < position - self.recent]
        scores = [row.total + 16 * row.late for row in loose]
        victim = loose[scores.index(min(scores))]
        check(self.rows[slot] is victim, f"row {slot} goes, not {self.rows.index(victim)}")
        check(tokens == len(victim.members), f"{tokens} tokens go, not {len(victim.members)}")
        key = victim.record.key.astype(np.int64)
        keys = np.array([row.record.key for row in self.rows], np.int64)
        dots, norms = (keys @ key).tolist(), (keys * keys).sum(axis=1).tolist()
        squares = [Fraction(dot * dot, norm) if dot > 0 and row is not victim else Fraction(0)
                   for dot, norm, row in zip(dots, norms, self.rows, strict=True)]  # cosines, times the candidate's length
        best, limit = max(squares), Fraction(max(self.threshold, 1) ** 2 * int(key @ key), 4 ** THRESHOLD_FRACTION)
        reachable = self.threshold <= 1 << THRESHOLD_FRACTION
        if target is None:
            itself = reachable and any(row is not victim and np.array_equal(row.record.key, key) for row in self.rows)
            check(not best or (best * (1 - SAME) < limit and not itself), f"row {slot} is dropped, {squares.index(best)} is similar")
            self.gone += victim.members
        else:
            near = squares[target] * (1 + SAME)
            check(squares[target] and near >= best, f"row {slot} goes into {target}, {squares.index(best)} is more similar")
            check(near >= limit and reachable, f"row {slot} goes into {target}, which is not similar")
            first = list(zip(dots, norms, squares, strict=True)).index((dots[target], norms[target], squares[target]))
            check(target == first, f"row {slot} goes into {target}, {first} is as similar")
            self.merge(self.rows[target], victim, stored)
        self.rows[slot] = ListRow(position, new)

    def merge(self, target: ListRow, victim: ListRow, stored: Any) -> None:
        counts = len(target.members), len(victim.members)
        target.members += victim.members
        target.total, target.late = min(target.total + victim.total, MOST_GLOBAL), min(target.late + victim.late, self.most_local)
        old = target.record, victim.record
        target.record = stored
        for k, (elements, scale) in enumerate(((stored.key, stored.key_scale), (stored.value, stored.value_scale))):
            scales = [each.key_scale if k == 0 else each.value_scale for each in old]
            target.means[k] = (counts[0] * target.means[k] + counts[1] * victim.means[k]) / sum(counts)
            target.bounds[k] = (counts[0] * target.bounds[k] + counts[1] * victim.bounds[k]) / sum(counts)
            target.bounds[k] += merge_error(real(1, scale), scales, counts, self.step)
            error = np.abs(real(elements, scale) - target.means[k]).max()
            check(error <= target.bounds[k], f"a merged row is {error} off its mean, more than {target.bounds[k]}")

    def check_tokens(self) -> None:
        """Each token is in one row or dropped."""
        kept = [position for row in self.rows for position in row.members]
        check(sorted(kept + self.gone) == list(range(self.appended)), "a token is in no row and was not dropped, or is there twice")


class EvictTrace(Trace):
    """Texts in a few heads, each with a budget of its own, and attention over them; a memory behind the cache.

    The model has for each head a list of rows. Which row goes, whether it is merged, and into which, is compared with what the cache
    says it did, and so is every burst that it reads or writes. A token must be in memory bit by bit, a merged row be the mean of
    its tokens; what a read gives must be the rows of the model, in their order.
    """

    surroundings = Surroundings(fetch=("o_fetch", "i_data"), write=("o_write", "o_data", "i_written"))
    BASE = 0x1000

    def __init__(self, config: AcceleratorConfig, seed: int, operations: int, *, heads: int = 5, slots: int = 16,
                 component: type[EvictCache] = EvictCache):
        super().__init__(emit(component(config, heads=heads, slots=slots), "traced_evict_cache", config), seed, quiet=256)
        self.config, self.heads, self.slots = config, heads, slots
        self.step = INT4_STEP if config.kv_storage == "int4" else 1
        self.numbers = np.random.default_rng(seed)
        one = 1 << THRESHOLD_FRACTION
        self.thresholds = itertools.cycle((one // 2, one * 9 // 10, one, one + 1))
        self.weight_bits = 16 + config.query_lanes.bit_length()
        self.records: deque[tuple[int, list[Offer]]] = deque()  # of tokens, that are not offered yet
        self.needed = 0  # so many of them are what the last request waits for
        while self.operations < operations:
            self.phase(min(operations, self.operations + self.random.choice((200, 500, 800))))
        self.settle()

    def phase(self, until: int) -> None:
        """New texts in all heads; what stands still while they are under way is new."""
        rng, lanes, bus_bytes = self.random, self.config.kv_lanes, self.config.bus_bytes
        self.settle()
        most = self.config.max_head_dim // lanes
        self.head_dim = lanes * rng.choice((2, 2, 2, 4, most)) if most >= 4 else lanes * most
        self.record = HEADER.size + 2 * self.head_dim * self.config.stored_kv_bits // 8
        self.sinks, self.recent = rng.randint(0, 3), rng.randint(0, 6)
        self.rules = {"sinks": self.sinks, "recent": self.recent, "threshold": next(self.thresholds)}
        self.stride = (self.slots + rng.randint(0, 3)) * self.record
        self.set(**self.rules, record_beats=self.record // bus_bytes, head_stride=self.stride, beats=self.head_dim // lanes,
                 words=self.head_dim // self.config.vector_lanes)
        self.centres = self.numbers.integers(-90, 91, (8, self.head_dim))
        self.length, self.budget = [0] * self.heads, [0] * self.heads
        self.models: list[ListModel | None] = [None] * self.heads  # judged
        self.judge("new texts", self._forget)
        used = rng.sample(range(self.heads), 3)
        for head in used:
            self.begin(head)
        while self.operations < until:
            head = rng.choice(used)
            kind = rng.choices(("append", "scores", "read", "begin", "bad", "settle"), (10, 7, 3, 0.2, 1.5, 0.3))[0]
            if kind == "append":
                self.append(head, self.length[head])
            elif kind == "settle":
                self.settle()
            else:
                {"scores": self.scores, "read": self.read, "begin": self.begin, "bad": self.bad}[kind](head)

    def _forget(self, judgement: Judgement) -> None:
        judgement.memory.clear()
        self.models = [None] * self.heads

    # What a user may do. Records come late, so that requests are looked up while tokens before them are written.

    def request(self, stream: str, payload: Mapping[str, int], function: Callable[[Judgement], None]) -> None:
        self.offer_records(max(self.needed, len(self.records) - self.random.randint(0, 3)))
        super().request(stream, payload, function)
        of_head = [number for number, (head, _) in enumerate(self.records) if head == payload["head"]]
        self.needed = max(of_head, default=-1) + 1

    def offer_records(self, count: int) -> None:
        """Those that have waited longest."""
        for _ in range(count):
            self.steps += self.records.popleft()[1]

    def settle(self, **levels: int) -> None:
        self.offer_records(len(self.records))
        self.needed = 0
        super().settle(**levels)

    def begin(self, head: int) -> None:
        least = self.sinks + self.recent + 1
        self.budget[head] = self.random.choice((least, self.random.randint(least, min(least + 6, self.slots)), self.slots))
        self.append(head, 0, budget=self.budget[head])

    def there(self, head: int) -> int:
        return min(self.length[head], self.budget[head])

    def _request(self, **values: int) -> dict[str, int]:
        return {"write": 0, "scores": 0, "base": self.BASE, "head": 0, "position": 0, "count": 1, "budget": 0, **values}

    def _record(self) -> StoredRecord:
        """Keys come back, alike or the same."""
        rng = self.random
        key = rng.choice(self.centres) // rng.choice((1, 1, 2)) + self.numbers.integers(-20, 21, self.head_dim) * rng.choice((0, 1))
        if rng.random() < 0.03:
            key = 0 * key
        scales = [(rng.randrange(1 << 15, 1 << 16), rng.randint(-18, -15)) for _ in range(2)]
        key, value = (vector - np.fmod(vector, self.step) for vector in (key, self.numbers.integers(-127, 128, self.head_dim)))
        return StoredRecord(key, value, scales[0], scales[1], self.step)

    def _place(self, head: int) -> Place:
        return Place(self.BASE, head, self.stride, self.record)

    def append(self, head: int, position: int, *, count: int = 1, budget: int = 0) -> None:
        """A token, which is refused if it is not the next one, or begins a text with a budget that must not be."""
        rng, begins = self.random, position == 0
        allowed = head < self.heads and count == 1 and (
            self.sinks + self.recent < budget <= self.slots if begins else position == self.length[head])
        record, place = self._record(), self._place(head)
        words = record.words(self.config.bus_bytes)
        rules = {**self.rules, "most_local": (1 << self.weight_bits + 4) - 1, "step": self.step}
        if allowed:
            self.length[head] = position + 1
        else:
            self.fails = True
            self.seen["refused"] += 1
        errors = rng.choice(([1], [0, 1])) if allowed and rng.random() < 0.02 else []

        def judge(judgement: Judgement) -> None:
            if begins and allowed:
                self.models[head] = ListModel(budget, **rules)
            self.judge_append(judgement, head, place, record, words, allowed)

        self.request("i_request", self._request(write=1, head=head, position=position, count=count, budget=budget), judge)
        self.steps += [Answer("i_written", {"error": error}) for error in errors]
        offers = [Offer("i_record", {"data": word, "last": int(k == len(words) - 1)}) for k, word in enumerate(words)]
        self.records.append((head, offers))
        if not allowed:
            self.needed = len(self.records)

    def scores(self, head: int) -> None:
        """Weights of all rows, or of the first ones."""
        rng, there, known = self.random, self.slots, head < self.heads
        if known:
            there = rng.choice((self.there(head),) * 3 + (rng.randint(1, self.there(head)),))
        bits = rng.choice((2, 8, 16, self.weight_bits))
        weights = [rng.getrandbits(bits) for _ in range(there)]
        self.fails |= not known
        self.seen["weights" if known else "refused"] += 1

        def judge(judgement: Judgement) -> None:
            if known and (model := self.models[head]):
                model.weights(weights)

        self.request("i_request", self._request(scores=1, head=head), judge)
        self.steps += [Offer("i_weights", {"weight": weight, "last": int(k == there - 1)}) for k, weight in enumerate(weights)]

    def read(self, head: int) -> None:
        rng, place, there = self.random, self._place(head), self.there(head)
        first = rng.choice((0, rng.randint(0, there)))
        count = rng.choice((there - first, rng.randint(0, there - first)))
        self.seen["read"] += 1

        def judge(judgement: Judgement) -> None:
            model = self.models[head]
            assert model
            if not count:
                judgement.check(judgement.next("o_read")["beats"] == 0, "beats of no rows")
                return
            self.burst(judgement, "o_read", place, first, count)
            judgement.read([place.address(slot) for slot in range(first, first + count)],
                           [row.record.words(self.config.bus_bytes) for row in model.rows[first:first + count]])

        self.request("i_request", self._request(head=head, position=first, count=count), judge)

    def bad(self, head: int) -> None:
        """What is not there, tokens out of order, budgets, heads and counts that must not be."""
        rng, there, length, stranger = self.random, self.there(head), self.length[head], self.random.randrange(self.heads, 256)
        kind = rng.randrange(6)
        if kind < 2:
            self.fails = True
            self.seen["refused"] += 1
            position = rng.randint(0, there)
            beyond = {"head": stranger, "position": 0, "count": 1} if kind else {
                "head": head, "position": position, "count": there - position + rng.randint(1, self.slots - there + 1)}
            self.request("i_request", self._request(**beyond), lambda judgement: None)
        elif kind == 2:
            self.append(head, rng.choice((length + 1, length - 1, length + 256)) or 2)
        elif kind == 3:
            self.append(head, 0, budget=rng.choice((0, self.sinks + self.recent, self.slots + 1)))
        elif kind == 4:
            self.append(*rng.choice(((stranger, 0), (stranger, 3))), budget=self.slots)
            self.scores(stranger)
        else:
            self.append(head, length, count=rng.choice((0, 2)))

    # The judge.

    def burst(self, judgement: Judgement, stream: str, place: Place, row: int, count: int = 1, *, ahead: int = 0) -> None:
        """The next burst of a stream, or one of those behind it that it may come ``ahead`` of."""
        commands = [event.payload for event in itertools.islice(judgement.left.get(stream, ()), ahead + 1)]
        expected = {"address": place.address(row), "beats": count * place.record // self.config.bus_bytes}
        judgement.check(expected in commands, f"{stream} has {commands}, not {expected}")
        del judgement.left[stream][commands.index(expected)]

    def written(self, judgement: Judgement, place: Place, row: int) -> tuple[tuple[int, ...], int]:
        """Words of a record that is written to ``row``, and whether that failed."""
        self.burst(judgement, "o_write", place, row)
        items = [judgement.next("o_data") for _ in range(place.record // self.config.bus_bytes)]
        judgement.check([item["last"] for item in items] == [0] * (len(items) - 1) + [1], "a packet of another length")
        words = tuple(item["data"] for item in items)
        judgement.memory[place.address(row)] = words
        return words, judgement.next("i_written")["error"]

    def judge_append(self, judgement: Judgement, head: int, place: Place, record: StoredRecord, words: tuple[int, ...],
                     allowed: bool) -> None:
        done, bus_bytes = judgement.next("o_append"), self.config.bus_bytes
        outcome, slot = done["outcome"], done["slot"]
        judgement.check(done["head"] == head and (outcome == Outcome.REFUSED) == (not allowed), f"answered {done}")
        if not allowed:
            judgement.check((done["tokens"], done["error"]) == (0, 0), f"answered {done}")
            return
        model, target, merged, error = self.models[head], None, None, 0
        assert model
        if outcome != Outcome.ADDED:
            self.burst(judgement, "o_fetch", place, slot)
            self.burst(judgement, "o_fetch", place, 0, model.budget)
        if outcome == Outcome.MERGED:
            target = done["target"]
            self.burst(judgement, "o_fetch", place, target, ahead=2)  # of candidate and rows of the next one
            mean, error = self.written(judgement, place, target)
            merged = StoredRecord.of_words(mean, bus_bytes, self.step)
        stored, late_error = self.written(judgement, place, slot)
        judgement.check(stored == words, "the token's record is another one")
        judgement.check(done["error"] == error | late_error, f"answered {done}, errors were {error}, {late_error}")
        try:
            model.append(record, slot, done["tokens"], target, merged)
            if model.appended % 16 == 0:
                model.check_tokens()
        except Wrong as wrong:
            judgement.check(False, str(wrong))
        self.seen[Outcome(outcome).name] += 1
        self.seen["failed writes"] += done["error"]
