"""Bench of the executor: the units around it take commands and report every item they cause, sooner or later."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...accelerators.control.commands import MULTIPLY
from ...accelerators.control.isa import Flag, Instruction, Opcode, opcodes
from ..golden.executor import Command, Executor, Inputs, scalar_fields
from ..golden.numerics import Scalar
from .agents import BenchFailure, Model
from .frontend import instruction_fields, random_parts
from .trace import Trace
from .unit import Items, UnitBench

__all__ = ["ExecutorBench"]

INVERSE_TEMPERATURE = Scalar.from_float(1.4)
WINDOW, BUDGET = 9, 40
ENDS = {"append_done": (Opcode.APPEND, Opcode.MEANS), "attended": (Opcode.ATTEND,)}
"""Pulse -> operations of which each gives one at its end."""
EVENTS = ("packet_taken", "vector_written", "vector_quantized", "scale_stored", "exponent_stored", "record_written",
          "token_sampled")


class Units(Model):
    """Reports the items under way, each after a while, and looks at the plain outputs."""

    name = "units"

    def __init__(self, ports: dict[str, Any]):
        self.ports = ports
        self.ends = {name: those for name, those in ENDS.items() if name in ports}
        self._transfers: list[int] = []
        self.plan([], random.Random(0), 1.0)

    @property
    def transfers(self) -> list[int]:
        return self._transfers

    def plan(self, inputs: Sequence[Inputs], rng: random.Random, share: float) -> None:
        """``share``: chance of an item under way to be reported in a cycle."""
        self.inputs, self.rng, self.share = inputs, rng, share
        self.under_way: Counter[str] = Counter()
        self.held: Counter[str] = Counter()  # of these, not to be reported yet
        self.matrices: list[Inputs] = []  # LINEAR operations whose sums are to come, in order
        self.started, self.ended = 0, dict.fromkeys(self.ends, 0)

    def clear(self) -> None:
        self._transfers = []
        self.plan([], random.Random(0), 1.0)

    def drive(self) -> None:
        self._reported = [event for event in EVENTS
                          if self.under_way[event] > self.held[event] and self.rng.random() < self.share]
        for event in EVENTS:
            self.ports[event].value = int(event in self._reported)
        self._sums_written = bool(self.matrices) and self.rng.random() < self.share
        self.ports["sums_written"].value = int(self._sums_written)
        if 0 < self.started <= len(self.inputs):
            inputs = self.inputs[self.started - 1]
            first_slot = inputs.chunk * len(inputs.magnitudes)
            self.ports["magnitudes"].value = sum((first | second << 6) << 12 * (first_slot + token)
                                                 for token, (first, second) in enumerate(inputs.magnitudes))
            self.ports["top_exponents"].value = sum((top & 0xFFFF) << 16 * token for token, top in enumerate(inputs.tops))

    def level(self, name: str) -> int:
        return int(str(self.ports[name].value), 2)

    def sample(self, cycle: int) -> bool:
        if self.level("data_packets") != self.under_way["packet_taken"]:
            raise BenchFailure(f"data_packets is {self.level('data_packets')} with {self.under_way['packet_taken']} "
                               "to be taken")
        busy = any(self.under_way.values())
        for name, those in self.ends.items():
            if self.level(name):
                if busy or self.inputs[self.started - 1].op.opcode not in those:
                    raise BenchFailure(f"{name} in operation {self.started - 1}, items under way: {dict(self.under_way)}")
                self.ended[name] += 1
        if self.level("linear") != bool(self.matrices):
            raise BenchFailure(f"linear is {self.level('linear')} with {len(self.matrices)} matrices under way")
        if self.matrices and self.level("linear_tag") != self.matrices[0].op.tag:
            raise BenchFailure(f"linear_tag is {self.level('linear_tag')}, expected {self.matrices[0].op.tag}")
        if self.level("operation_start"):
            chunk = self.inputs[self.started].chunk
            if any(matrix.chunk == chunk for matrix in self.matrices):
                raise BenchFailure(f"operation {self.started} starts before the sums of its chunk, {chunk}, are written")
            if busy:
                raise BenchFailure(f"operation {self.started} starts, items under way: {dict(self.under_way)}")
            if self.level("next_opcode") != self.inputs[self.started].op.opcode:
                raise BenchFailure(f"next_opcode is {self.level('next_opcode')} for operation {self.started}")
            self.started += 1
        for event in self._reported:
            self.under_way[event] -= 1
        if self._sums_written:
            self.matrices.pop(0)
        if self._reported or self._sums_written:
            self._transfers.append(cycle)
        return bool(self._reported or self._sums_written)

    def check_operation(self) -> None:
        """The outputs that route the data are those of the operation under way."""
        inputs = self.inputs[self.started - 1]
        want: dict[str, int] = {"opcode": inputs.op.opcode, "flags": inputs.op.flags, "tokens": inputs.tokens,
                                "group": inputs.op.group, "tag": inputs.op.tag,
                                **({"beats": inputs.op.beats, "words": inputs.op.words} if "beats" in self.ports else {})}
        for name, value in want.items():
            if self.level(name) != value:
                raise BenchFailure(f"{name} is {self.level(name)} in operation {self.started - 1}, expected {value:d}")

    def pending(self) -> str | None:
        due = {name: sum(inputs.op.opcode in those for inputs in self.inputs) for name, those in self.ends.items()}
        if any(self.under_way.values()) or self.matrices or self.started < len(self.inputs) or self.ended != due:
            return (f"{self.started} of {len(self.inputs)} operations started, pulses {self.ended} of {due}, items "
                    f"under way: {dict(self.under_way)}, {len(self.matrices)} matrices")
        return None


class ExecutorBench(UnitBench):
    """Operations in any order. Commands of all ports come in the golden order; an operation starts when all items of the one
    before it have been reported, but for matrices of the other chunk in flight."""

    def __init__(self, config: Any):
        super().__init__(config)
        self.inputs: list[Inputs] = []

    def constants(self) -> Mapping[str, int]:
        window = {"window": {"window": WINDOW}, "evict": {"budget": BUDGET}}.get(self.config.cache, {})
        return {"inverse_temperature": INVERSE_TEMPERATURE.mantissa | (INVERSE_TEMPERATURE.exponent & 0xFFFF) << 24, **window}

    def models(self, ports: Mapping[str, Any]) -> Sequence[Model]:
        self.units = Units(dict(ports))
        return [self.units]

    # Operations.

    def _scalar(self, rng: random.Random) -> Scalar:
        if rng.random() < 0.05:
            return Scalar(0, 0)
        return Scalar(rng.choice((1 << 23, (1 << 24) - 1, rng.randint(1 << 23, (1 << 24) - 1))), rng.randint(-300, 300))

    def operation(self, rng: random.Random, opcode: Opcode, flags: Flag | None = None) -> Inputs:
        config = self.config
        if flags is None:
            flags = Flag(rng.getrandbits(8))
            if flags & Flag.ALIGN:
                flags &= ~Flag.PRODUCT
        fields: dict[str, Any] = {name: rng.getrandbits(16) for name in ("source", "destination", "other", "tag", "block_rows")}
        group = rng.choice([k for k in (1, 2, 3, 4) if k <= config.query_lanes])
        tokens = rng.randint(1, config.token_lanes)
        words = rng.randint(1, 40)
        scalars = {name: self._scalar(rng) for name in ("scalar_a", "scalar_b", "scalar_c")}
        if flags & Flag.ALIGN and not scalars["scalar_a"].mantissa:
            scalars["scalar_a"] = Scalar(1 << 23, -23)
        scalar_words: dict[str, Any] = {name: (value.mantissa, value.exponent) for name, value in scalars.items()}
        op = Instruction(
            opcode, flags, **fields, address=rng.getrandbits(32), beats=rng.getrandbits(16), count=rng.randint(1, 3),
            words=2 * words if opcode is Opcode.ROPE else words, group=group,
            rows=rng.randint(1, config.max_context) if opcode is Opcode.DEVIATE else rng.getrandbits(24), shift=rng.randint(-128, 127),
            tiles=(rng.randint(1, config.query_lanes // group) if opcode in (Opcode.ATTEND, Opcode.RETRIEVE) else
                   rng.randint(0, 256) if opcode is Opcode.DEVIATE else rng.getrandbits(16)),
            **scalar_words, **(random_parts(rng, opcode, config.max_positions) if config.attention_modes else {}))
        lanes, position = range(config.token_lanes), rng.randint(0, config.max_positions - tokens)
        if config.cache == "evict" and rng.random() < 0.5:
            position = rng.randint(0, 2 * BUDGET)
        if opcode is Opcode.MEANS:  # a block is completed
            end = rng.randint(1, config.max_context // config.block_size) * config.block_size
            tokens = min(tokens, end)
            position = max(0, min(end - rng.randint(1, tokens), config.max_context - tokens))
        if opcode is Opcode.RETRIEVE:  # there are more blocks than are listed
            position = rng.randint(2 * config.block_size, config.max_context - tokens)
            other = rng.randint(1, position + 1 - 2 * config.block_size)
            op = replace(op, other=other, rows=rng.randint(1, (position + 1 - other) // config.block_size - 1))
        rows: list[list[dict[str, int]]] = []
        several: dict[str, Any] = {}
        if config.cache == "paged":
            several = {"positions": [rng.randint(0, config.max_context - 1) for _ in lanes], "sampled": rng.randrange(tokens)}
        if opcode is Opcode.ATTEND and config.attention_runs:
            tiles, first = [], 0  # positions of each tile's tokens
            while first < tokens:
                size = min(op.tiles, tokens - first)
                if several:
                    size = rng.randint(1, size)
                    begin = rng.randint(0, config.max_context - size)
                    several["positions"][first:first + size] = range(begin, begin + size)
                else:
                    begin = position + first
                tiles.append((begin, begin + size))
                first += size
            rows = [self._runs(rng, *tile, 0 if several else rng.choice((0, 1, 4))) for _ in range(op.count) for tile in tiles]
        return Inputs(op, tokens, position, [self._scalar(rng) for _ in lanes],
                      [(rng.randint(0, 32), rng.randint(0, 32)) for _ in lanes], [rng.randint(-1024, 300) for _ in lanes],
                      rng.randrange(config.chunks), rows, **several)

    def _runs(self, rng: random.Random, first: int, end: int, sinks: int) -> list[dict[str, int]]:
        """Runs of a tile of tokens at ``first`` to ``end - 1``: sinks or not, then one or two of the latest positions."""
        lowest = max(sinks, first + 1 - WINDOW) if self.config.cache == "window" else 0
        cut = rng.randint(min(lowest, end), end)
        parts = [(0, min(sinks, end), 1), (lowest, cut - lowest, 0), (max(cut, lowest), end - max(cut, lowest), 0)]
        runs = [{"position": position, "rows": rows, "tokens": end - first, "sinks": is_sinks, "begins": 0, "ends": 0}
                for position, rows, is_sinks in parts if rows > 0]
        runs[0]["begins"] = runs[-1]["ends"] = 1
        if self.config.cache == "paged":
            for run in runs:
                run["first_token"] = rng.choice((0, rng.randrange(end - first)))
                run["tokens_end"] = rng.choice((end - first, rng.randint(run["first_token"] + 1, end - first)))
        return runs

    def stimulus(self, rng: random.Random, case: str) -> Items:
        others = [*opcodes(self.config), Opcode.NORM, Opcode.NORM, Opcode.NORM, Opcode.GLU, Opcode.ATTEND]
        rng.shuffle(others)
        # Scales, then everything that uses them; the products of GLU at the end.
        first = [Opcode.NORM, *others, Opcode.GLU]
        return self._plan([*(self.operation(rng, opcode) for opcode in first),
                           self.operation(rng, Opcode.NORM, Flag.PRODUCT | Flag.GAIN)])

    def boundary(self) -> Items:
        """Every operation with a chunk of one token and with a full one."""
        rng = random.Random(0)
        found: list[Inputs] = []
        every = opcodes(self.config)
        while len(found) < 2 * len(every):
            inputs = self.operation(rng, every[len(found) // 2])
            if inputs.tokens == (1, self.config.token_lanes)[len(found) % 2]:
                found.append(inputs)
        return self._plan(found)

    def _plan(self, inputs: list[Inputs]) -> Items:
        self.inputs = inputs
        runs = {"i_rows": [run for each in inputs for tile in each.rows for run in tile]} if self.config.attention_runs else {}
        return {**runs, "i_operation": [{"instruction": instruction_fields(each.op, self.config), "tokens": each.tokens,
                                         "chunk": each.chunk, **self._where(each)} for each in inputs]}

    @staticmethod
    def _where(inputs: Inputs) -> dict[str, Any]:
        if inputs.sampled is None:
            return {"position": inputs.position}
        return {"positions": list(inputs.positions), "sampled": inputs.sampled}

    # The world around the executor.

    def _golden(self) -> list[tuple[int, Command]]:
        """All commands, each with the number of its operation."""
        golden = Executor(self.config, INVERSE_TEMPERATURE, WINDOW, BUDGET)
        return [(number, command) for number, inputs in enumerate(self.inputs) for command in golden.commands(inputs)]

    def begin(self, stimulus: Items) -> None:
        rng = random.Random(len(stimulus["i_operation"]))
        self.commands = self._golden()
        self.issued = 0
        self.units.plan(self.inputs, rng, 1.0 if len(self.inputs) == 2 else rng.choice((1.0, 0.3, 0.05)))

    def react(self, stream: str, payload: Any) -> Items:
        if self.issued == len(self.commands):
            raise BenchFailure(f"extra command on {stream}")
        number, command = self.commands[self.issued]
        self.issued += 1
        if command.port != stream or number != self.units.started - 1:
            raise BenchFailure(f"command {self.issued - 1} comes on {stream} in operation {self.units.started - 1}, "
                               f"expected on {command.port} in operation {number}")
        self.units.check_operation()
        self.units.under_way.update(event for event in command.launches if event != "sums_written")
        if "sums_written" in command.launches:
            self.units.matrices.append(self.inputs[number])
        if "scale_stored" in command.launches:
            self.units.held["scale_stored"] += 1
            inputs = self.inputs[number]
            done = sum("scale_stored" in other.launches for n, other in self.commands[:self.issued] if n == number)
            token = inputs.last if Flag.TO_HEAD in inputs.op.flags else done - 1
            return {"i_scale": [scalar_fields(inputs.scales[token])]}
        return {}

    def accepted(self, stream: str, payload: Any) -> Items:
        if stream == "i_scale":
            self.units.held["scale_stored"] -= 1
        return {}

    def expected(self, stimulus: Items) -> Items:
        items: Items = {}
        for _, command in self._golden():
            items.setdefault(command.port, []).append(command.fields)
        return items

    # Figures.

    def latency_stimulus(self) -> Items:
        rng = random.Random(0)
        return self._plan([self.operation(rng, Opcode.ROPE), self.operation(rng, Opcode.RESIDUAL)])

    def measure(self, trace: Trace) -> dict[str, int]:
        rope, residual = trace.accepted["i_operation"]
        return {"latency": trace.raised["o_table"] - rope, "scaled": trace.raised["o_residual"] - residual,
                "turnaround": residual - max(cycle for cycle in trace.delivered["units"] if cycle < residual)}

    def figures(self, attributes: Mapping[str, Any]) -> Mapping[str, int]:
        return {"latency": attributes["latency"], "scaled": attributes["latency"] + MULTIPLY, "turnaround": 3}
