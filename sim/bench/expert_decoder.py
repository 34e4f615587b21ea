"""Bench of the instruction decoder."""

import random
from dataclasses import replace
from typing import Any

from ...accelerators.experts.instructions import Descriptor, Kind, Start
from ..golden.instructions import decode_descriptor
from .expert_gemm import ExpertBench
from .trace import Trace
from .unit import Items

__all__ = ["InstructionDecoderBench"]


class InstructionDecoderBench(ExpertBench):
    """Good descriptors among some with one thing wrong, or at a limit."""

    def _start(self, rng: random.Random) -> Start:
        config = self.config
        row_bytes, read = config.row_words * config.word_bytes, config.word_bytes * config.timing.ccd // 2
        return Start(rng.randrange(config.bundles), rng.randrange(config.rows // 2), rng.randrange(0, row_bytes, read))

    def _good(self, rng: random.Random) -> Descriptor:
        config, lanes = self.config, self.config.lanes
        intermediate, group = lanes * rng.randrange(1, 5), rng.randrange(1, config.token_lanes + 1)
        return Descriptor(rng.choice(list(Kind)), lanes * rng.randrange(1, 5), intermediate,
                          self._start(rng), self._start(rng), rng.randrange(config.experts), bool(rng.randrange(2)),
                          rng.getrandbits(16), tuple((rng.randrange(1, 65536), rng.randrange(-128, 128)) for _ in range(3)),  # type: ignore[arg-type]
                          rng.randrange(1, intermediate + 1), rng.getrandbits(26), rng.randrange(config.max_tokens - group + 1), group)

    def _changed(self, rng: random.Random, good: Descriptor) -> Descriptor:
        config, name = self.config, rng.choice(("first", "second"))
        start, lanes = getattr(good, name), config.lanes
        row_bytes = config.row_words * config.word_bytes
        scales = list(good.scales)
        scales[rng.randrange(3)] = (0, 5)
        return replace(good, **rng.choice([
            {"kind": rng.choice([0, 4, 255])}, {"expert": rng.choice([config.experts, 255])}, {"scales": tuple(scales)},
            {rng.choice(("hidden", "intermediate")): rng.choice([
                0, lanes + 1, 1 << 31, config.max_hidden + lanes, config.max_intermediate + lanes, config.max_hidden])},
            {name: replace(start, offset=rng.choice([1, row_bytes - 1, row_bytes, 65535, config.word_bytes]))},
            {name: replace(start, bundle=rng.choice([config.bundles - 1, config.bundles, 255]))},
            {name: replace(start, row=rng.choice([config.rows, config.rows - 1, 65535]) & 65535)},
            {"positions": rng.choice([0, good.intermediate, good.intermediate + 1, 1 << 31])},
            {"softmax_scale": rng.choice([(1 << 26) - 1, 1 << 26, 1 << 31])},
            {"group": rng.choice([0, config.token_lanes + 1, 65535])},
            {"query": rng.choice([config.max_tokens - good.group, config.max_tokens - good.group + 1, 65535])},
        ]))

    def _items(self, packets: list[list[int]]) -> Items:
        return {"i": [{"word": word, "last": int(k == len(words) - 1)} for words in packets for k, word in enumerate(words)]}

    def stimulus(self, rng: random.Random, case: str) -> Items:
        packets = []
        for _ in range(24):
            good = self._good(rng)
            words = (self._changed(rng, good) if rng.randrange(2) else good).words()
            if rng.randrange(8) == 0:
                words = rng.choice([words[:-1], [*words, 0], words[:1], words * 2, [*words[:-1], words[-1] ^ 1 << rng.randrange(32)]])
            packets.append(words)
        return self._items(packets)

    def boundary(self) -> Items:
        """Matrices that just fit, and those of one word more or one row later."""
        config, packets = self.config, []
        row_bytes, read = config.row_words * config.word_bytes, config.word_bytes * config.timing.ccd // 2
        for hidden, intermediate in ((config.max_hidden, config.max_intermediate), (config.lanes, config.lanes)):
            for kind, rows in ((Kind.EXPERT, 2 * intermediate), (Kind.ATTENTION, intermediate), (Kind.ATTENTION, 1)):
                for bundle in range(config.bundles):
                    turns = 2 if config.ping_pong else 1
                    words = hidden * rows // config.lanes
                    place = turns * config.rows * config.row_words - words  # of a matrix that ends with the memory
                    for change in (-read, 0, read):
                        at = place * config.word_bytes + change
                        stretch, offset = at // row_bytes, at % row_bytes
                        row = stretch // turns
                        start = Start(bundle - bundle % turns + stretch % turns, row & 65535, offset)
                        packets.append(Descriptor(kind, hidden, intermediate, start, positions=rows, group=1).words())
        return self._items(packets)

    def latency_stimulus(self) -> Items:
        return self._items([Descriptor(Kind.EXPERT, self.config.lanes, self.config.lanes, Start()).words()])

    def measure(self, trace: Trace) -> dict[str, int]:
        return {"latency": trace.latency("i", "o", 15)}

    def expected(self, stimulus: Items) -> Items:
        results, words = [], []
        for item in stimulus["i"]:
            words.append(item["word"])
            if item["last"]:
                results.append(dict.fromkeys(operation_fields(self.config)) | decode_descriptor(self.config, words))
                words = []
        return {"o": results}


def operation_fields(config: Any) -> list[str]:
    """Of what the decoder gives."""
    return ["kind", "cause", "tag", "expert", "begin", "gate_up", "down", "hidden_words", "slice_words",
            *([] if config.format.exponent_bits else ["scales"]),
            *(["positions", "softmax_scale", "query", "group"] if config.attention else [])]
