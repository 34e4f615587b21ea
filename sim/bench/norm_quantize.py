"""Benches of norm + quantize and of the scale computation in it."""

import random
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from ...accelerators.config import AcceleratorConfig
from ..golden.elementwise import INVERSE_LEVELS, norm_quantize
from ..golden.numerics import Scalar
from .numerics import random_scalar, scalar_fields, scalar_of
from .trace import Trace
from .unit import Items, UnitBench

__all__ = ["NormQuantizeBench", "StepScaleBench"]

INT32 = (-(1 << 31), (1 << 31) - 1)
INT16 = (-(1 << 15), (1 << 15) - 1)

Vector = tuple[np.ndarray, np.ndarray]
"""Elements and gains."""


def _command(rng: random.Random, *, norm: bool, wide: bool, once: bool = False,
             zero_scale: bool = False) -> dict[str, Any]:
    zero = Scalar(0, 0)
    return {"scale": scalar_fields(zero if zero_scale else random_scalar(rng, -60, 0)),
            "gain_exponent": rng.randint(-128, 127), "norm": int(norm), "wide": int(wide), "once": int(once),
            "inverse_length": scalar_fields(random_scalar(rng, -40, -24)),
            "epsilon": scalar_fields(rng.choice((zero, random_scalar(rng, -60, -30))))}


class NormQuantizeBench(UnitBench):
    """Vectors of several sizes and magnitudes, each sent twice or (short ones) once."""

    def __init__(self, config: AcceleratorConfig):
        super().__init__(config)
        self.lanes = config.vector_lanes
        self.slot_words = config.max_head_dim // self.lanes

    def _words(self, x: np.ndarray, gain: np.ndarray) -> list[dict[str, Any]]:
        return [{"x": x[k:k + self.lanes], "gain": gain[k:k + self.lanes], "last": int(k + self.lanes >= len(x))}
                for k in range(0, len(x), self.lanes)]

    def _items(self, rng: random.Random, vectors: list[Vector], once: Sequence[bool] | None = None, *,
               modes: int = 4) -> Items:
        """Items for (x, gain) pairs; ``modes`` of norm and wide in turn; who is sent once, nobody by default."""
        items: Items = {"i": [], "i_command": []}
        for number, (x, gain) in enumerate(vectors):
            mode, alone = number % modes, once is not None and once[number]
            items["i_command"].append(_command(rng, norm=not mode & 1, wide=bool(mode & 2), once=alone,
                                               zero_scale=rng.random() < 0.1))
            items["i"] += self._words(x, gain) * (1 if alone else 2)
        return items

    def _random(self, rng: random.Random, words: int) -> Vector:
        generator = np.random.default_rng(rng.getrandbits(32))
        size = words * self.lanes
        x = generator.integers(*INT32, size, endpoint=True) >> rng.choice((0, 0, 8, 16, 24, 30))
        gain = generator.integers(*INT16, size, endpoint=True) >> rng.choice((0, 0, 4, 12))
        if rng.random() < 0.2:
            gain = np.ones(size, np.int64)
        return x, gain

    def stimulus(self, rng: random.Random, case: str) -> Items:
        """Long and short vectors in any order, most of the short ones sent once."""
        short = [1, 1, 2, self.slot_words, *(rng.randint(1, self.slot_words) for _ in range(6))]
        sizes = [1, 3, rng.randint(4, 30), rng.randint(4, 30), *short]
        if rng.random() < 0.5:
            rng.shuffle(sizes)
        once = [size <= self.slot_words and rng.random() < 0.75 for size in sizes]
        return self._items(rng, [self._random(rng, size) for size in sizes], once)

    def boundary(self) -> Items:
        """Zeros, a single 1, extremes of x and gain, ties, each twice and once; the longest vector at full scale; one that
        is too long for its slot."""
        rng = random.Random(0)
        lanes = self.lanes
        size = 2 * lanes

        def alone(x: int, gain: int) -> Vector:
            vector = np.zeros(size, np.int64)
            vector[rng.randrange(size)] = x
            return vector, np.full(size, gain)

        full = self.config.max_vector // lanes * lanes
        vectors = [alone(x, gain) for x in (0, 1, -1, *INT32) for gain in (0, 1, *INT16)]
        vectors += [(np.full(lanes, x), np.full(lanes, gain)) for x in INT32 for gain in INT16]
        ties = np.zeros(size, np.int64)
        ties[:4 if lanes > 2 else 2] = [254, 127, -127, 1][:4 if lanes > 2 else 2]
        ties[-2:] = [-1, 3]
        vectors.append((ties, np.ones(size, np.int64)))
        once = [False, True] * len(vectors)
        vectors = [vector for vector in vectors for _ in range(2)]
        vectors += [self._random(rng, self.slot_words + 3), self._random(rng, 1), self._random(rng, 2)]
        once += [True, True, True]
        vectors += [(np.full(full, x), np.full(full, INT16[0])) for x in INT32]
        return self._items(rng, vectors, [*once, False, False])

    def expected(self, stimulus: Items) -> Items:
        out: Items = {"o": [], "o_scale": []}
        words = iter(stimulus["i"])
        for command in stimulus["i_command"]:
            for _ in range(1 if command["once"] else 2):
                vector = [next(words)]
                while not vector[-1]["last"]:
                    vector.append(next(words))
            q, scale = norm_quantize(
                np.concatenate([word["x"] for word in vector]),
                np.concatenate([word["gain"] for word in vector]), scalar_of(command["scale"]),
                gain_exponent=command["gain_exponent"], norm=bool(command["norm"] and not command["once"]),
                wide=bool(command["wide"]), inverse_length=scalar_of(command["inverse_length"]),
                epsilon=scalar_of(command["epsilon"]))
            if command["once"]:
                q = q[:self.slot_words * self.lanes]
            out["o"] += [{"q": q[k:k + self.lanes], "last": int(k + self.lanes >= len(q))}
                         for k in range(0, len(q), self.lanes)]
            out["o_scale"].append({"scale": scalar_fields(scale)})
        return out

    words = 20
    repeats = 8

    def _short(self) -> list[int]:
        """Words of the vectors sent once whose interval is measured."""
        return sorted({1, self.slot_words // 2, 3 * self.slot_words // 4, self.slot_words})

    def latency_stimulus(self) -> Items:
        """Two long vectors, then several short ones of each length without norm, then a long one again."""
        rng = random.Random(0)
        sizes = [self.words, self.words, *(size for size in self._short() for _ in range(self.repeats)), self.words]
        once = [False, False, *[True] * (len(sizes) - 3), False]
        items = self._items(rng, [self._random(rng, size) for size in sizes], once, modes=1)
        for command, alone in zip(items["i_command"], once, strict=True):
            command["norm"] = int(not alone)
        return items

    def measure(self, trace: Trace) -> dict[str, int]:
        """Two vectors sent once are measured in the steady state, between the last ones of each length."""
        accepted, last = trace.accepted["i"], self.words - 1
        found = {"latency": trace.latency("i", "o", last), "turn": accepted[last + 1] - accepted[last],
                 "word": max(b - a for a, b in pairwise(accepted[:self.words]))}
        lengths = [size for size in self._short() for _ in range(self.repeats)]
        ends = [accepted[end - 1] for end in accumulate(lengths, initial=4 * self.words)][1:]
        for k, size in enumerate(self._short()):
            end = (k + 1) * self.repeats - 1
            found[f"two of {size} words"] = ends[end] - ends[end - 2]
        return found

    def figures(self, attributes: Mapping[str, Any]) -> Mapping[str, int]:
        interval = attributes["interval"]
        short = {f"two of {size} words": max(2 * (size + 1), interval["turn"] + size - 1, 2 * interval["division"])
                 for size in self._short()}
        return {"latency": attributes["latency"], "turn": interval["turn"], "word": interval["word"], **short}


class StepScaleBench(UnitBench):
    """Peaks, commands and sums of squares against the formula in golden pseudo-floats."""

    def _items(self, rng: random.Random, count: int, *, norms: int = 2) -> Items:
        limit = self.config.max_vector << 32
        items: Items = {"i": [], "i_squares": []}
        for number in range(count):
            command = _command(rng, norm=bool(number % norms), wide=bool(rng.getrandbits(1)), once=bool(rng.getrandbits(1)),
                               zero_scale=number % 7 == 6)
            peak = Scalar(0, 0) if number % 5 == 4 else random_scalar(rng, -23, 23)
            items["i"].append({"command": command, "peak": scalar_fields(peak)})
            if command["norm"]:
                squares = rng.choice((0, limit, rng.randrange(limit), rng.getrandbits(20)))
                items["i_squares"].append({"squares": squares, "halvings": rng.randint(0, 16)})
        return items

    def stimulus(self, rng: random.Random, case: str) -> Items:
        return self._items(rng, 10)

    def expected(self, stimulus: Items) -> Items:
        out, squares = [], iter(stimulus["i_squares"])
        for item in stimulus["i"]:
            command = item["command"]
            scale = scalar_of(command["scale"])
            step = (scalar_of(item["peak"]) * scale) * INVERSE_LEVELS[command["wide"]]
            if command["norm"]:
                sum_ = next(squares)
                mean = Scalar.of(sum_["squares"]) * scalar_of(command["inverse_length"])
                mean = (mean.shifted(2 * sum_["halvings"]) * scale) * scale + scalar_of(command["epsilon"])
                step = step * mean.rsqrt()
            out.append({"scale": scalar_fields(step.shifted(command["gain_exponent"]))})
        return {"o": out}

    def latency_stimulus(self) -> Items:
        """One vector without norm, one with, one more to see the last interval."""
        return self._items(random.Random(1), 3)

    def measure(self, trace: Trace) -> dict[str, int]:
        accepted, delivered = trace.accepted["i"], trace.delivered["o"]
        return {f"{name} {what}": cycles for k, name in enumerate(("plain", "norm"))
                for what, cycles in (("latency", delivered[k] - accepted[k]),
                                     ("interval", accepted[k + 1] - accepted[k]))}

    def figures(self, attributes: Mapping[str, Any]) -> Mapping[str, int]:
        return {f"{name} {what}": attributes[what][name]
                for name in ("plain", "norm") for what in ("latency", "interval")}
