"""Benches of the elementwise units that take a vector once."""

import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..golden.elementwise import align, embed, glu, residual_add, rope
from ..golden.numerics import Scalar
from .numerics import LARGEST, SMALLEST, random_scalar, scalar_fields, scalar_of
from .trace import Trace
from .unit import Items, UnitBench

__all__ = ["AlignBench", "EmbeddingBench", "GluBench", "ResidualAddBench", "RopeBench"]

INT32 = (-(1 << 31), (1 << 31) - 1)


class _VectorBench(UnitBench):
    """Packs and unpacks vectors; the sizes of the packets are common to all."""

    def words(self, *vectors: np.ndarray) -> list[dict[str, Any]]:
        """One packet: the words of the vectors in turn."""
        lanes = self.config.vector_lanes
        items = [{"x": vector[k:k + lanes], "last": 0} for k in range(0, len(vectors[0]), lanes)
                 for vector in vectors]
        items[-1]["last"] = 1
        return items

    def packets(self, items: list[dict[str, Any]], field: str = "x") -> list[np.ndarray]:
        """The packets as arrays of words, one row per word."""
        found: list[np.ndarray] = []
        words: list[Any] = []
        for item in items:
            words.append(item[field])
            if item["last"]:
                found.append(np.array(words))
                words = []
        return found

    def sizes(self, rng: random.Random, case: str) -> list[int]:
        """Packet lengths in words (of each vector)."""
        if case == "latency":
            return [30]
        sizes = [1, 1, 2, 1, 3, *(rng.randint(1, 20) for _ in range(4))]
        rng.shuffle(sizes)
        return sizes

    def random_vector(self, rng: random.Random, words: int, magnitude: int) -> np.ndarray:
        """Elements in ``-magnitude..magnitude``, the extremes among them now and then."""
        generator = np.random.default_rng(rng.getrandbits(32))
        vector = generator.integers(-magnitude, magnitude, words * self.config.vector_lanes, endpoint=True)
        extreme = generator.random(vector.size)
        vector[extreme < 0.03] = magnitude
        vector[extreme > 0.97] = -magnitude
        return vector

    @property
    def sum_limit(self) -> int:
        """Largest magnitude of a ternary linear's sum."""
        return 127 * self.config.max_vector


class RopeBench(_VectorBench):
    """Heads rotated by random angles."""

    def _angles(self, angles: np.ndarray) -> list[dict[str, Any]]:
        lanes = self.config.vector_lanes
        cos, sin = (np.round((1 << 14) * f(angles)).astype(int) for f in (np.cos, np.sin))
        return [{"cos": cos[k:k + lanes], "sin": sin[k:k + lanes]} for k in range(0, len(angles), lanes)]

    def stimulus(self, rng: random.Random, case: str) -> Items:
        items: Items = {"i": [], "i_table": []}
        for size in self.sizes(rng, case):
            low, high = (self.random_vector(rng, size, self.sum_limit >> rng.choice((0, 4, 12)))
                         for _ in range(2))
            items["i"] += self.words(low, high)
            items["i_table"] += self._angles(np.array([rng.uniform(0, 2 * np.pi) for _ in low]))
        return items

    def boundary(self) -> Items:
        """Extremes of both elements at every quarter and eighth turn; small odd numbers for ties."""
        lanes = self.config.vector_lanes
        items: Items = {"i": [], "i_table": []}
        for turn in range(8):
            for low in (-self.sum_limit, self.sum_limit, 0, 1, -1, 3):
                for high in (-self.sum_limit, self.sum_limit, 0, 1, -1, 3):
                    items["i"] += self.words(np.full(lanes, low), np.full(lanes, high))
                    items["i_table"] += self._angles(np.full(lanes, turn * np.pi / 4))
        return items

    def expected(self, stimulus: Items) -> Items:
        cos, sin = (np.array([word[name] for word in stimulus["i_table"]]) for name in ("cos", "sin"))
        items, start = [], 0
        for packet in self.packets(stimulus["i"]):
            end = start + len(packet) // 2
            low, high = rope(packet[::2], packet[1::2], cos[start:end], sin[start:end])
            items += self.words(low.reshape(-1), high.reshape(-1))
            start = end
        return {"o": items}


class ResidualAddBench(_VectorBench):
    """Sums with scales from tiny to far too large."""

    def _items(self, cases: list[tuple[np.ndarray, np.ndarray, Scalar]]) -> Items:
        items: Items = {"i": [], "i_command": []}
        for sums, residual, scale in cases:
            items["i"] += self.words(sums, residual)
            items["i_command"].append({"scale": scalar_fields(scale)})
        return items

    def stimulus(self, rng: random.Random, case: str) -> Items:
        cases = []
        for size in self.sizes(rng, case):
            # Exponents around those that bring the product near the ends of int32.
            scale = random_scalar(rng, -55, 2) if rng.random() < 0.3 else random_scalar(rng, -30, -5)
            cases.append((self.random_vector(rng, size, self.sum_limit),
                          self.random_vector(rng, size, rng.choice((INT32[1], 1 << 20))), scale))
        return self._items(cases)

    def boundary(self) -> Items:
        """Extreme sums and residuals; every exponent; ties; a zero scale."""
        lanes, limit = self.config.vector_lanes, self.sum_limit
        cases = [(np.full(lanes, sums), np.full(lanes, residual), Scalar(mantissa, exponent))
                 for sums in (-limit, limit, -1, 1, 0) for residual in (*INT32, 0)
                 for mantissa, exponent in ((SMALLEST, -24), (LARGEST, -48), (LARGEST, -25), (SMALLEST, 0),
                                            (SMALLEST, 1), (LARGEST, 32767), (LARGEST, -32768), (0, 0))]
        cases += [(np.arange(lanes) * 2 + 1 - lanes, np.full(lanes, 7), Scalar(SMALLEST, -exponent))
                  for exponent in range(64)]
        return self._items(cases)

    def expected(self, stimulus: Items) -> Items:
        items = []
        for packet, command in zip(self.packets(stimulus["i"]), stimulus["i_command"], strict=True):
            x, _ = residual_add(packet[::2], packet[1::2], scalar_of(command["scale"]))
            items += self.words(x.reshape(-1))
        return {"o": items}

    def measure(self, trace: Trace) -> dict[str, int]:
        return {"latency": trace.latency("i", "o", 1), "interval": trace.interval("i")}


class GluBench(_VectorBench):
    """Gates and ups of all magnitudes, both activations."""

    def _items(self, cases: list[tuple[np.ndarray, np.ndarray, bool, Scalar]]) -> Items:
        items: Items = {"i": [], "i_command": []}
        for gate, up, silu, scale in cases:
            items["i"] += self.words(gate, up)
            items["i_command"].append({
                "silu": int(silu), "gate_bits": int(np.abs(gate).max()).bit_length(),
                "up_bits": int(np.abs(up).max()).bit_length(), "scale": scalar_fields(scale)})
        return items

    def stimulus(self, rng: random.Random, case: str) -> Items:
        cases = []
        for number, size in enumerate(self.sizes(rng, case)):
            gate, up = (self.random_vector(rng, size, self.sum_limit >> rng.randrange(12)) for _ in range(2))
            bits = int(np.abs(gate).max()).bit_length()
            # The largest |z| around 2**-4 .. 2**8.
            cases.append((gate, up, bool(number & 1), random_scalar(rng, -28 - bits, -16 - bits)))
        return self._items(cases)

    def boundary(self) -> Items:
        """Zeros, extremes, and scales from nothing to saturation."""
        lanes, limit = self.config.vector_lanes, self.sum_limit
        values = (0, 1, -1, min(limit, 0xFFFF), limit, -limit)
        cases = [(np.full(lanes, gate), np.full(lanes, up), silu, scale)
                 for gate in values for up in values for silu in (False, True)
                 for scale in (Scalar(SMALLEST, -36), Scalar(LARGEST, -100))]
        ramp = np.arange(-20 * lanes, 20 * lanes) * (limit // (20 * lanes))
        cases += [(ramp, ramp[::-1], True, Scalar(mantissa, exponent))
                  for mantissa, exponent in ((SMALLEST, -40), (LARGEST, -36), (SMALLEST, -32), (LARGEST, 0),
                                             (SMALLEST, 32767), (SMALLEST, -32768), (0, 0))]
        return self._items(cases)

    def expected(self, stimulus: Items) -> Items:
        items = []
        for packet, command in zip(self.packets(stimulus["i"]), stimulus["i_command"], strict=True):
            x = glu(packet[::2], packet[1::2], silu=bool(command["silu"]), gate_bits=command["gate_bits"],
                    up_bits=command["up_bits"], scale=scalar_of(command["scale"]))
            items += self.words(x.reshape(-1))
        return {"o": items}

    def measure(self, trace: Trace) -> dict[str, int]:
        return {"latency": trace.latency("i", "o", 1), "interval": trace.interval("i")}


class AlignBench(_VectorBench):
    """Words with random shifts."""

    def _items(self, vectors: list[np.ndarray], shift: Callable[[], int]) -> Items:
        return {"i": [{**word, "shift": shift()} for vector in vectors for word in self.words(vector)]}

    def stimulus(self, rng: random.Random, case: str) -> Items:
        return self._items([self.random_vector(rng, size, INT32[1] >> rng.randrange(20))
                            for size in self.sizes(rng, case)], lambda: rng.randrange(64) >> rng.randrange(5))

    def boundary(self) -> Items:
        lanes = self.config.vector_lanes
        shifts = iter([shift for _ in range(5) for shift in range(64)])
        return self._items([np.full(lanes * 64, value) for value in (*INT32, 3, -3, 0x55555555)],
                           lambda: next(shifts))

    def expected(self, stimulus: Items) -> Items:
        return {"o": [{"x": align(item["x"], item["shift"]), "last": item["last"]} for item in stimulus["i"]]}


class EmbeddingBench(_VectorBench):
    """Rows of stored elements, shifted both ways."""

    def _items(self, cases: list[tuple[np.ndarray, int]]) -> Items:
        items: Items = {"i": [], "i_command": []}
        lanes, stored = self.config.vector_lanes, np.dtype(f"<i{self.config.embedding_bits // 8}")
        for row, shift in cases:
            data = row.astype(stored).view("<i2").astype(int)
            items["i"] += [{"data": data[k:k + lanes], "last": int(k + lanes >= len(data))}
                           for k in range(0, len(data), lanes)]
            items["i_command"].append({"shift": shift})
        return items

    @property
    def limit(self) -> int:
        return (1 << (self.config.embedding_bits - 1)) - 1

    def stimulus(self, rng: random.Random, case: str) -> Items:
        return self._items([(self.random_vector(rng, size, self.limit >> rng.randrange(10)),
                             rng.randint(-32, 31) >> rng.randrange(3)) for size in self.sizes(rng, case)])

    def boundary(self) -> Items:
        lanes = self.config.vector_lanes
        return self._items([(np.full(lanes, value), shift) for shift in range(-32, 32)
                            for value in (-self.limit - 1, self.limit, -1, 1, 0, 3, -3)])

    def expected(self, stimulus: Items) -> Items:
        items = []
        stored = np.dtype(f"<i{self.config.embedding_bits // 8}")
        packets = self.packets(stimulus["i"], "data")
        for packet, command in zip(packets, stimulus["i_command"], strict=True):
            row = packet.astype("<i2").reshape(-1).view(stored).astype(np.int64)
            items += self.words(embed(row, command["shift"])[0])
        return {"o": items}

    def measure(self, trace: Trace) -> dict[str, int]:
        completing = self.config.embedding_bits // 16 - 1
        return {"latency": trace.latency("i", "o", completing), "interval": trace.interval("i")}

    def figures(self, attributes: Mapping[str, Any]) -> Mapping[str, int]:
        return {"latency": attributes["latency"], "interval": attributes["interval"]}
