"""Benches of norm + quantize and of the scale computation in it."""

import random
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from ..golden.elementwise import INVERSE_LEVELS, norm_quantize
from ..golden.numerics import Scalar
from .numerics import random_scalar, scalar_fields, scalar_of
from .trace import Trace
from .unit import Items, UnitBench

__all__ = ["NormQuantizeBench", "StepScaleBench"]

INT32 = (-(1 << 31), (1 << 31) - 1)
INT16 = (-(1 << 15), (1 << 15) - 1)


def _command(rng: random.Random, *, norm: bool, wide: bool, zero_scale: bool = False) -> dict[str, Any]:
    zero = Scalar(0, 0)
    return {"scale": scalar_fields(zero if zero_scale else random_scalar(rng, -60, 0)),
            "gain_exponent": rng.randint(-128, 127), "norm": int(norm), "wide": int(wide),
            "inverse_length": scalar_fields(random_scalar(rng, -40, -24)),
            "epsilon": scalar_fields(rng.choice((zero, random_scalar(rng, -60, -30))))}


class NormQuantizeBench(UnitBench):
    """Vectors of several sizes and magnitudes, each sent twice."""

    def _items(self, rng: random.Random, vectors: list[tuple[np.ndarray, np.ndarray]], *,
               modes: int = 4) -> Items:
        """Items for (x, gain) pairs; ``modes`` of norm and wide in turn."""
        lanes = self.config.vector_lanes
        items: Items = {"i": [], "i_command": []}
        for number, (x, gain) in enumerate(vectors):
            mode = number % modes
            items["i_command"].append(_command(rng, norm=not mode & 1, wide=bool(mode & 2),
                                               zero_scale=rng.random() < 0.1))
            words = [{"x": x[k:k + lanes], "gain": gain[k:k + lanes], "last": int(k + lanes >= len(x))}
                     for k in range(0, len(x), lanes)]
            items["i"] += words + words
        return items

    def _random(self, rng: random.Random, words: int) -> tuple[np.ndarray, np.ndarray]:
        generator = np.random.default_rng(rng.getrandbits(32))
        size = words * self.config.vector_lanes
        x = generator.integers(*INT32, size, endpoint=True) >> rng.choice((0, 0, 8, 16, 24, 30))
        gain = generator.integers(*INT16, size, endpoint=True) >> rng.choice((0, 0, 4, 12))
        if rng.random() < 0.2:
            gain = np.ones(size, np.int64)
        return x, gain

    def stimulus(self, rng: random.Random, case: str) -> Items:
        sizes = [1, 1, 2, 1, 3, 5, rng.randint(4, 30), rng.randint(4, 30)]
        rng.shuffle(sizes)
        return self._items(rng, [self._random(rng, size) for size in sizes])

    def boundary(self) -> Items:
        """Zeros, a single 1, extremes of x and gain, ties, the longest vector at full scale."""
        rng = random.Random(0)
        lanes = self.config.vector_lanes
        size = 3 * lanes

        def alone(x: int, gain: int) -> tuple[np.ndarray, np.ndarray]:
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
        vectors += [(np.full(full, x), np.full(full, INT16[0])) for x in INT32]
        return self._items(rng, vectors)

    def expected(self, stimulus: Items) -> Items:
        lanes = self.config.vector_lanes
        out: Items = {"o": [], "o_scale": []}
        words = iter(stimulus["i"])
        for command in stimulus["i_command"]:
            passes = []
            for _ in range(2):
                vector = [next(words)]
                while not vector[-1]["last"]:
                    vector.append(next(words))
                passes.append(vector)
            q, scale = norm_quantize(
                np.concatenate([word["x"] for word in passes[1]]),
                np.concatenate([word["gain"] for word in passes[1]]), scalar_of(command["scale"]),
                gain_exponent=command["gain_exponent"], norm=bool(command["norm"]),
                wide=bool(command["wide"]), inverse_length=scalar_of(command["inverse_length"]),
                epsilon=scalar_of(command["epsilon"]))
            out["o"] += [{"q": q[k:k + lanes], "last": int(k + lanes >= len(q))}
                         for k in range(0, len(q), lanes)]
            out["o_scale"].append({"scale": scalar_fields(scale)})
        return out

    words = 20

    def latency_stimulus(self) -> Items:
        """Two vectors: the interval within a pass, and from one pass to the next, of the first one."""
        rng = random.Random(0)
        return self._items(rng, [self._random(rng, self.words) for _ in range(2)], modes=1)

    def measure(self, trace: Trace) -> dict[str, int]:
        accepted, last = trace.accepted["i"], self.words - 1
        return {"latency": trace.latency("i", "o", last), "turn": accepted[last + 1] - accepted[last],
                "word": max(b - a for k, (a, b) in enumerate(pairwise(accepted))
                            if k not in (last, last + 2 * self.words))}

    def figures(self, attributes: Mapping[str, Any]) -> Mapping[str, int]:
        return {"latency": attributes["latency"], **attributes["interval"]}


class StepScaleBench(UnitBench):
    """Peaks, commands and sums of squares against the formula in golden pseudo-floats."""

    def _items(self, rng: random.Random, count: int, *, norms: int = 2) -> Items:
        limit = self.config.max_vector << 32
        items: Items = {"i": [], "i_squares": []}
        for number in range(count):
            command = _command(rng, norm=bool(number % norms), wide=bool(rng.getrandbits(1)),
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
