"""Benches of the scores of an evict + merge cache and of the weights that they are made of."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..golden.evict import GLOBAL_MAX, Entry, Scores
from ..golden.weights import attention_weights
from .trace import Trace
from .unit import Items, UnitBench

__all__ = ["AttentionWeightsBench", "EvictScoresBench"]

UPDATE, VICTIM, MERGE, PLACE = range(4)


class EvictScoresBench(UnitBench):
    """Random commands for a few heads, whose scores the golden model has; large weights saturate them."""

    HEADS = 3

    def __init__(self, config: Any):
        super().__init__(config)
        self.slots = max(4, 1 << (config.max_context // 4).bit_length() - 1)
        self.weight_bits = 16 + config.query_lanes.bit_length()
        self.sinks = 2

    def constants(self) -> Mapping[str, int]:
        return {"sinks": self.sinks}

    def _command(self, command: int, head: int, *, slot: int = 0, source: int = 0, rows: int = 0, position: int = 0) -> dict[str, int]:
        return {"command": command, "head": head, "slot": slot, "source": source, "rows": rows, "position": position}

    def _packet(self, weights: list[int]) -> list[dict[str, int]]:
        return [{"weight": weight, "last": int(k == len(weights) - 1)} for k, weight in enumerate(weights)]

    def stimulus(self, rng: random.Random, case: str) -> Items:
        commands, weights = [], []
        rows = [rng.randint(3, 12) for _ in range(self.HEADS)]
        heads = rng.sample(range(self.config.max_heads), self.HEADS)
        for number in range(self.HEADS):
            commands += [self._command(PLACE, heads[number], slot=slot, position=slot) for slot in range(rows[number])]
        for position in range(20, 20 + rng.randint(20, 40)):
            number, bits = rng.randrange(self.HEADS), rng.choice((1, 8, 17, self.weight_bits))
            head, count = heads[number], rows[number]
            kind = rng.choices((UPDATE, VICTIM, MERGE, PLACE), (4, 3, 2, 2))[0]
            slot, source = rng.sample(range(count), 2)
            if kind == UPDATE:
                commands.append(self._command(UPDATE, head, rows=rng.choice((count, count, rng.randint(0, count))), position=rng.choice(
                    (position, position - 3, 6, 0))))
                weights += self._packet([rng.getrandbits(bits) for _ in range(rng.choice((count, count, rng.randint(1, count))))])
            elif kind == VICTIM:
                commands.append(self._command(VICTIM, head, rows=count, position=rng.choice((position, position - 3, 6, 0))))
            else:
                commands.append(self._command(kind, head, slot=slot, source=source, position=position))
        commands += [self._command(VICTIM, head, rows=count, position=100) for head, count in zip(heads, rows, strict=True)]
        return {"i_command": commands, "i_weights": weights}

    def boundary(self) -> Items:
        """Saturation of both scores, the last head and row, a packet that is too long, equal scores, no row that may go."""
        head, last, top = self.config.max_heads - 1, self.slots - 1, (1 << self.weight_bits) - 1
        commands = [self._command(PLACE, head, slot=slot, position=slot + 5) for slot in range(self.slots)]
        commands += [self._command(VICTIM, head, rows=self.slots, position=(1 << 20) - 1),
                     self._command(UPDATE, head, rows=self.slots, position=self.slots + 5)]
        weights = self._packet([top] * (self.slots + 3))
        commands += [self._command(MERGE, head, slot=last, source=last - 1) for _ in range(3)]
        for _ in range(2):  # rows 0 and 1 grow like Fibonacci's numbers
            commands += [self._command(UPDATE, head)] * 20
            weights += self._packet([top] * 3) * 20
            commands += [self._command(MERGE, head, slot=slot, source=1 - slot) for slot in (0, 1)] * 5
        commands += [self._command(VICTIM, head, rows=rows, position=position) for rows, position in (
            (self.slots, self.slots + 5), (3, 99), (1, 99), (0, 99), (self.slots, 5), (self.slots, 6))]
        commands += [self._command(MERGE, head, slot=0, source=1)]
        stimulus = {"i_command": commands, "i_weights": weights}
        entries = self._run(stimulus)[1][head].entries
        assert entries[0].global_score == GLOBAL_MAX and entries[0].local_score == (1 << self.weight_bits + 4) - 1
        return stimulus

    def expected(self, stimulus: Items) -> Items:
        return {"o": self._run(stimulus)[0]}

    def _run(self, stimulus: Items) -> tuple[list[dict[str, Any]], dict[int, Scores]]:
        """What comes out, and the scores of each head at the end."""
        heads: dict[int, Scores] = {}
        packets: list[list[int]] = [[]]
        for item in stimulus["i_weights"]:
            packets[-1].append(item["weight"])
            if item["last"]:
                packets.append([])
        packet = iter(packets)
        results: list[dict[str, Any]] = []
        for command in stimulus["i_command"]:
            scores = heads.setdefault(command["head"], Scores(self.weight_bits))
            entries, slot = scores.entries, command["slot"]
            if command["command"] == UPDATE:
                updated = next(packet)
                scores.update(updated)
                results.append(self._victim(scores, command, len(updated)))
            elif command["command"] == PLACE:
                scores.place(slot, command["position"])
            elif command["command"] == MERGE:
                results.append(self._result(scores, slot, entries[slot]))
                scores.merge(slot, command["source"])
            else:
                results.append(self._victim(scores, command, self.slots))
        return results, heads

    def _victim(self, scores: Scores, command: dict[str, int], seen: int) -> dict[str, Any]:
        """What goes, if all rows that may go are among the first ``seen``."""
        first = Scores(self.weight_bits)
        first.entries = scores.entries[:command["rows"]]
        victim = first.victim(self.sinks, command["position"]) if command["rows"] <= seen else None
        return ({"slot": None, "tokens": None, "score": None, "found": 0} if victim is None
                else self._result(scores, victim, scores.entries[victim]))

    def _result(self, scores: Scores, slot: int, entry: Entry) -> dict[str, int]:
        return {"slot": slot, "tokens": entry.tokens, "score": scores.score(entry), "found": 1}

    def latency_stimulus(self) -> Items:
        commands = [self._command(PLACE, 1, slot=slot, position=slot) for slot in range(self.slots)]
        self.measured = len(commands)
        return {"i_command": [*commands, self._command(VICTIM, 1, rows=self.slots, position=99),
                              self._command(MERGE, 1, slot=2, source=3), self._command(UPDATE, 1, rows=3, position=99)],
                "i_weights": self._packet([1, 2, 3])}

    def measure(self, trace: Trace) -> dict[str, int]:
        given, asked = trace.delivered["o"], trace.accepted["i_command"][self.measured:]
        return {"victim": given[0] - asked[0], "merge": given[1] - asked[1], "update": given[2] - trace.accepted["i_weights"][-1]}

    def figures(self, attributes: Mapping[str, Any]) -> Mapping[str, int]:
        return attributes["latency"]


class AttentionWeightsBench(UnitBench):
    """Operations of few and many rows whose maxima rise fast, slowly, not at all; lanes that see only some rows, or none."""

    def __init__(self, config: Any):
        super().__init__(config)
        self.rows = max(4, 1 << (config.max_context // 4).bit_length() - 1)

    def _operation(self, rng: random.Random, rows: int, lanes: int) -> tuple[np.ndarray, np.ndarray]:
        one = 1 << self.config.probability_bits
        p, maxima = np.zeros((rows, lanes), np.int64), np.zeros((rows, lanes), np.int64)
        for lane in range(lanes):
            maximum, rise, sees = rng.randint(-50, 50), rng.choice((0.0, 0.1, 0.9)), rng.choice((1.0, 1.0, 0.5, 0.0))
            for row in range(rows):
                maximum += (rng.random() < rise) * rng.randint(1, 3)
                maxima[row, lane] = maximum
                p[row, lane] = (rng.random() < sees) * (rng.randint(0, one) >> rng.choice((0, 0, 4, 12)))
        return p, maxima

    def _items(self, operations: list[tuple[np.ndarray, np.ndarray]]) -> Items:
        self.operations = operations
        return {"i": [{"p": p[row, lane], "maximum": maxima[row, lane], "lane": lane, "last": int((row + 1, lane + 1) == p.shape)}
                      for p, maxima in operations for row in range(len(p)) for lane in range(p.shape[1])]}

    def stimulus(self, rng: random.Random, case: str) -> Items:
        most = self.config.query_lanes
        return self._items([self._operation(rng, rng.choice((1, 2, rng.randint(1, 20))), rng.choice((1, most, rng.randint(1, most))))
                            for _ in range(7)])

    def boundary(self) -> Items:
        rng, one, lanes = random.Random(4), 1 << self.config.probability_bits, self.config.query_lanes
        shape = (self.rows, lanes)
        rise = np.linspace(-4096, 4095, self.rows).astype(int)[:, None] * np.ones(lanes, int)
        return self._items([(np.full(shape, one), np.zeros(shape, int)), (np.full(shape, one), rise),
                            (np.zeros((3, lanes), int), rise[:3]), (np.full((1, 1), one), np.full((1, 1), -4096)),
                            (np.full((2, 1), 1), np.full((2, 1), 7)),
                            self._operation(rng, self.rows + 3, lanes), self._operation(rng, 5, lanes)])

    def expected(self, stimulus: Items) -> Items:
        items = []
        for p, maxima in self.operations:
            weights = attention_weights(p[:self.rows], maxima[:self.rows])
            items += [{"weight": weight, "last": int(k == len(weights) - 1)} for k, weight in enumerate(weights)]
        return {"o": items}

    LATENCY_ROWS = 11

    def latency_stimulus(self) -> Items:
        return self._items([self._operation(random.Random(5), self.LATENCY_ROWS, self.config.query_lanes)])

    def measure(self, trace: Trace) -> dict[str, int]:
        return {"latency": trace.delivered["o"][0] - trace.accepted["i"][-1]}

    def figures(self, attributes: Mapping[str, Any]) -> Mapping[str, int]:
        latency, lanes = attributes["latency"], self.config.query_lanes
        return {"latency": lanes * (self.LATENCY_ROWS + latency["lane"]) + latency["fixed"]}
