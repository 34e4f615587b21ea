"""Benches of the packer and the splitter of fp16 records."""

import random

import numpy as np

from ..golden.cache import pack_fp16, unpack_fp16
from .trace import Trace
from .unit import Items, UnitBench

__all__ = ["CORNERS", "Fp16PackerBench", "Fp16SplitterBench"]

CORNERS = (0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x83FF, 0x0400, 0x3C00, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7C01, 0xFD55, 0x7E00,
           0xFE00, 0x7FFF, 0xFFFF)
"""Zeros of both signs, subnormals, the smallest and largest normal numbers, infinities, signalling and quiet NaN with payloads."""


def _vectors(rng: random.Random, length: int) -> tuple[np.ndarray, np.ndarray]:
    key, value = (np.array([rng.choice(CORNERS) if rng.random() < 0.5 else rng.getrandbits(16) for _ in range(length)], np.uint16)
                  for _ in range(2))
    return key, value


class Fp16PackerBench(UnitBench):
    """Records of heads of different lengths."""

    def _items(self, records: list[tuple[np.ndarray, np.ndarray]]) -> Items:
        lanes = self.config.vector_lanes
        return {"i": [{"x": vector[at:at + lanes].tolist(), "last": int(at + lanes >= len(vector))}
                      for record in records for vector in record for at in range(0, len(vector), lanes)]}

    def stimulus(self, rng: random.Random, case: str) -> Items:
        lanes, words = self.config.vector_lanes, self.config.max_head_dim // self.config.vector_lanes
        return self._items([_vectors(rng, lanes * rng.choice((1, 2, 3, words, rng.randint(1, words)))) for _ in range(10)])

    def boundary(self) -> Items:
        """Every corner in every lane of a beat."""
        size = self.config.max_head_dim
        corners = np.array(CORNERS, np.uint16)
        return self._items([(np.resize(np.roll(corners, k), size), np.resize(np.roll(corners, -k), size)) for k in range(len(CORNERS))])

    def expected(self, stimulus: Items) -> Items:
        vectors: list[list[int]] = [[]]
        for item in stimulus["i"]:
            vectors[-1] += item["x"]
            if item["last"]:
                vectors.append([])
        beats: Items = {"o": []}
        for key, value in zip(vectors[:-1:2], vectors[1::2], strict=True):
            record = pack_fp16(np.array(key, np.uint16), np.array(value, np.uint16), self.config.bus_bits)
            beats["o"] += [{"data": word, "last": int(n == len(record) - 1)} for n, word in enumerate(record)]
        return beats

    def measure(self, trace: Trace) -> dict[str, int]:
        """From the word that completes the first beat."""
        words = self.config.bus_bits // (16 * self.config.vector_lanes)
        return {"latency": trace.latency("i", "o", words - 1), "interval": trace.interval("i")}

    def latency_stimulus(self) -> Items:
        rng = random.Random(0)
        return self._items([_vectors(rng, self.config.max_head_dim) for _ in range(3)])


class Fp16SplitterBench(UnitBench):
    """Commands of several records each."""

    def _items(self, rng: random.Random, shapes: list[tuple[int, int]]) -> Items:
        """(rows, elements per vector) of each command."""
        bits, items = self.config.bus_bits, Items({"i_command": [], "i": []})
        for rows, length in shapes:
            records = [pack_fp16(*_vectors(rng, length), bits) for _ in range(rows)]
            items["i_command"].append({"rows": rows, "beats": len(records[0]) // 2})
            items["i"] += [beat for record in records for beat in record]
        return items

    def stimulus(self, rng: random.Random, case: str) -> Items:
        longest = self.config.max_head_dim
        return self._items(rng, [(rng.randint(1, 5), rng.choice((1, 2, 5, rng.randint(1, longest)))) for _ in range(8)])

    def boundary(self) -> Items:
        """As many rows as there can be, and the longest vector."""
        return self._items(random.Random(0), [(self.config.max_context, 1), (1, self.config.max_head_dim), (1, 1)])

    def expected(self, stimulus: Items) -> Items:
        out: Items = {"o_keys": [], "o_values": []}
        beats, bits = iter(stimulus["i"]), self.config.bus_bits
        word = bits // 8
        for command in stimulus["i_command"]:
            size = command["beats"]
            for _ in range(command["rows"]):
                vectors = unpack_fp16([next(beats) for _ in range(2 * size)], size * bits // 16, bits)
                for port, vector in zip(out, vectors, strict=True):
                    raw = vector.tobytes()
                    out[port] += [{"data": int.from_bytes(raw[at:at + word], "little"), "last": int(at + word == len(raw))}
                                  for at in range(0, len(raw), word)]
        return out

    def latency_stimulus(self) -> Items:
        return self._items(random.Random(0), [(4, self.config.max_head_dim)])

    def measure(self, trace: Trace) -> dict[str, int]:
        return {"latency": trace.latency("i", "o_keys"), "interval": trace.interval("i")}
