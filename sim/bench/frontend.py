"""Bench of the front end: a memory with programs and prompts, appends that take their time, tokens as if sampled."""

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ...accelerators.cache.contiguous import ContiguousCache
from ...accelerators.config import AcceleratorConfig
from ...accelerators.control.isa import (
    FIELDS,
    INSTRUCTION_BYTES,
    PART_FIELDS,
    RANGE_UNIT,
    SCALARS,
    Flag,
    Instruction,
    Opcode,
    encode_program,
)
from ..golden.cache import record_beats
from ..golden.frontend import FrontEnd, Settings
from .agents import BenchFailure
from .trace import Trace
from .unit import Items, UnitBench

__all__ = ["FrontEndBench", "Generation", "instruction_fields", "random_parts"]

VOCABULARY = 300
EOS = VOCABULARY - 1
OWNERS = dict.fromkeys(("kv_sinks", "kv_window", "kv_positions"), ("window", "evict")) | {"kv_threshold": ("evict",)}
"""Settings that some caches have only, and which."""


def instruction_fields(op: Instruction, config: AcceleratorConfig) -> dict[str, Any]:
    """An instruction as a payload."""
    values: dict[str, Any] = {name: int(getattr(op, name)) for name in FIELDS if config.attention_modes or name not in PART_FIELDS}
    return values | {name: dict(zip(("mantissa", "exponent"), getattr(op, name), strict=True)) for name in SCALARS}


def random_parts(rng: random.Random, opcode: Opcode, positions: int) -> dict[str, Any]:
    """What an instruction says about parts: a range, or none, of a text of ``positions``, and what goes only with an ATTEND."""
    first, end = sorted(rng.choice((0, rng.randint(0, positions // RANGE_UNIT))) for _ in range(2))
    ways = [way for way in itertools.product((0, 1), repeat=3) if not all(way)] if opcode is Opcode.ATTEND else [(0, 0, 0)]
    merge, partial, fallback = rng.choice(ways)
    return {"first": first, "end": rng.choice((0, end)), "merge": merge, "partial": partial, "fallback": fallback,
            "parts": rng.getrandbits(32)}


def passed(attend: int) -> bool:
    """Whether a lane of an ATTEND, by its number, was above its unified maximum."""
    return bool(random.Random(attend).getrandbits(1))


@dataclass
class Generation:
    """One run of the front end: from ``start`` to the final token or an error."""

    settings: Settings
    program: bytes
    prompt: list[int]
    sampled: list[tuple[int, int]]
    stop_after: int | None = None
    lists: bool = False
    listed: list[tuple[int, int]] = field(default_factory=list)
    """What a program that ``lists`` gives instead: (index, last)."""


class FrontEndBench(UnitBench):
    """Generations one after another without a reset between.

    In the order in which things leave the unit: an operation before its data reads and its matrix; a read of the cache when
    the appends before it are in memory; nothing of a step before the token of the previous one.
    """

    modules = ("llmrtl.sim.bench.menu", "llmrtl.sim.bench.frontend_cases")

    def __init__(self, config: Any):
        super().__init__(config)
        self.generations: list[Generation] = []
        self.longest = "kv_positions" if config.cache in ("window", "evict") else "kv_capacity"
        """Setting that ends the text."""

    # Generations.

    def program(self, rng: random.Random, layers: int = 1) -> list[Instruction]:
        """The operations of a small model, with fields at random where the front end does not mind."""
        def op(opcode: Opcode, flags: Flag = Flag(0), **fields: int) -> Instruction:
            values: dict[str, Any] = {
                name: rng.getrandbits(width) if width > 0 else rng.randint(-(1 << -width - 1), (1 << -width - 1) - 1)
                for name, (_, _, width) in FIELDS.items() if name not in ("opcode", "flags", *PART_FIELDS)}
            if self.config.attention_modes:
                values |= random_parts(rng, opcode, self.config.max_positions)
            values |= {name: (rng.getrandbits(24), rng.randint(-(1 << 15), (1 << 15) - 1)) for name in SCALARS}
            values |= {"address": rng.getrandbits(20) * self.config.bus_bytes, "beats": rng.randint(1, 40)}
            return Instruction(opcode, flags, **(values | fields))

        def attention(cache: int) -> list[Instruction]:
            shape: dict[str, Any] = {"address": cache, "count": rng.randint(1, 3), "tiles": rng.randint(1, self.config.token_lanes + 1)}
            if self.config.attention_modes:  # fallbacks of it, and of its fallback
                found = [op(Opcode.ATTEND, **shape, fallback=0)]
                while rng.random() < 0.5:
                    found.append(op(Opcode.ATTEND, **shape, merge=0, fallback=1))
                return found
            if not self.config.block_retrieval:
                return [op(Opcode.ATTEND, **shape)]
            listed, means = rng.random() < 0.8, op(Opcode.MEANS, count=rng.randint(1, 3))
            scores = [op(Opcode.RETRIEVE, count=rng.randint(1, 3), tiles=rng.randint(1, self.config.token_lanes + 1),
                         rows=rng.choice((1, 2, 5)), other=rng.choice((1, self.config.block_size, rng.randint(1, 100))))]
            return [*([means] if rng.random() < 0.5 else []), *(scores if listed else []),
                    op(Opcode.ATTEND, **shape, other=rng.choice((1, 1 << 15)) if listed else 0), means]

        ops = [op(Opcode.EMBED, rows=VOCABULARY)]
        for _ in range(layers):
            cache = rng.getrandbits(20) * self.config.bus_bytes
            ops += [op(Opcode.NORM, Flag.NORMALIZE | rng.choice((Flag.GAIN, Flag(0)))), op(Opcode.LINEAR), op(Opcode.ROPE),
                    op(Opcode.APPEND, address=cache), *attention(cache),
                    op(Opcode.NORM, Flag.NORMALIZE | Flag.GAIN | Flag.ALIGN), op(Opcode.LINEAR), op(Opcode.RESIDUAL),
                    op(Opcode.GLU, rng.choice((Flag.SILU, Flag(0))))]
        return [*ops, op(Opcode.NORM, Flag.LAST_CHUNK | Flag.GAIN | Flag.TO_HEAD), op(Opcode.HEAD, Flag.LAST_CHUNK),
                op(Opcode.END, rng.choice((Flag.LAST_CHUNK, Flag(0))))]

    def generation(self, rng: random.Random, length: int, steps: int,
                   program: Sequence[Instruction] | None = None) -> Generation:
        """A prompt of ``length`` tokens and ``steps`` new ones, the last of them by ``max_new_tokens``."""
        config = self.config
        code = encode_program(self.program(rng) if program is None else program)
        base = rng.randint(1, 1000) * INSTRUCTION_BYTES
        room = (1 << 20) - 1 if config.cache in ("window", "evict") and rng.random() < 0.3 else config.max_context
        start = rng.randint(0, room - length - steps) if rng.random() < 0.7 else 0
        beats = record_beats(config.max_head_dim, kv_bits=config.stored_kv_bits, bus_bits=config.bus_bits)
        capacity, window = rng.randint(start + length + steps, (1 << 20) - 1), {}
        if config.cache == "window":
            sinks = rng.choice((0, 1, 4))
            slots = rng.randint(sinks + config.token_lanes, config.max_context)
            window = {"kv_sinks": sinks, "kv_window": rng.randint(1, slots - sinks - config.token_lanes + 1), "kv_positions": capacity}
            capacity = slots if rng.random() < 0.8 else rng.randint(config.max_context, (1 << 20) - 1)
        if config.cache == "evict":
            budget = rng.randint(2, config.max_budget)
            sinks = rng.randrange(budget)
            window = {"kv_sinks": sinks, "kv_window": rng.randrange(budget - sinks), "kv_positions": capacity,
                      "kv_threshold": rng.getrandbits(13)}
            if rng.random() < 0.5:
                start = max(0, min(start, budget - rng.randint(0, length)))
            capacity = budget
        settings = Settings(
            program_address=base, prompt_address=base + len(code), prompt_length=length, start_position=start,
            max_new_tokens=steps, eos_token=EOS, ignore_eos=0, kv_capacity=capacity,
            kv_record_beats=rng.randint(1, beats), kv_head_stride=rng.getrandbits(20) * config.bus_bytes, **window)
        return Generation(settings, code, [rng.randrange(VOCABULARY) for _ in range(length)],
                          [(rng.randrange(VOCABULARY - 1), rng.getrandbits(64)) for _ in range(steps)])

    def listing_program(self, rng: random.Random, rows: int) -> list[Instruction]:
        """The same with a list of the latest ``rows`` tokens instead of a sampled one."""
        *ops, _, head, end = self.program(rng)
        return [*ops, replace(head, opcode=Opcode.DEVIATE, source=rng.getrandbits(16) // self.config.bus_bytes * self.config.bus_bytes,
                              count=rng.randint(1, 3), words=rng.randint(1, 9), rows=rows, tiles=rng.randint(0, 256)), end]

    def listing(self, rng: random.Random, length: int, rows: int) -> Generation:
        """A prompt whose run gives a list of some of its latest ``rows`` tokens, or of tokens before it as well."""
        found = self.generation(rng, length, 1, self.listing_program(rng, rows))
        start = max(found.settings.start_position, rows - length)
        found.settings = replace(found.settings, start_position=start, kv_capacity=max(found.settings.kv_capacity, start + length))
        chosen = [index for index in range(rows) if rng.random() < 0.5]
        found.lists = True
        found.listed = [(index, int(index == chosen[-1])) for index in chosen]
        return found

    def stimulus(self, rng: random.Random, case: str) -> Items:
        lanes = self.config.token_lanes
        first = self.generation(rng, rng.randint(1, 4 * lanes + 1), rng.randint(1, 3))
        if self.config.selective_recompute and rng.random() < 0.7:
            first = self.listing(rng, rng.randint(1, 4 * lanes + 1), rng.randint(1, 9))
        second = self.generation(rng, rng.randint(1, lanes), 4)
        cut = rng.randrange(4)
        if rng.random() < 0.5:
            second.sampled[cut] = (EOS, 5)
            second.settings = replace(second.settings, ignore_eos=rng.getrandbits(1))
        else:
            second.stop_after = cut
        return self.plan(first, second)

    def boundary(self) -> Items:
        """Lengths of the prompt around all numbers of chunks up to four; to the end of the cache; all ways to end."""
        rng = random.Random(0)
        lanes = self.config.token_lanes
        lengths = sorted({lanes * chunks + more for chunks in range(5) for more in (-1, 0, 1)} - {-1, 0} | {2})
        found = [self.generation(rng, length, 2) for length in lengths]
        for each, capacity in ((found[1], self.config.max_context), (found[-1], self.config.max_context - 1)):
            start = capacity - len(each.prompt) - len(each.sampled) + 1
            each.settings = replace(each.settings, start_position=start, **{self.longest: capacity})
        for ignore in (0, 1):
            found.append(self.generation(rng, 1, 3))
            found[-1].settings = replace(found[-1].settings, ignore_eos=ignore)
            found[-1].sampled[1] = (EOS, 0)
        for cut in (0, 1):
            found.append(self.generation(rng, 1, 3))
            found[-1].stop_after = cut
        if self.config.selective_recompute:  # one token, all of a prompt, more than it, all positions
            found += [self.listing(rng, length, rows) for length, rows in ((1, 1), (5, 5), (2, 9), (3, self.config.max_context))]
        return self.plan(*found)

    def plan(self, *generations: Generation) -> Items:
        """Make these the next stimulus."""
        self.generations = list(generations)
        return {}

    def golden(self) -> FrontEnd:
        golden = FrontEnd(self.config)
        for each in self.generations:
            rng = random.Random(each.settings.kv_head_stride)

            def retrieve(blocks: int, count: int, rng: random.Random = rng) -> list[int]:
                return sorted(rng.sample(range(blocks), count))
            golden.generate(each.settings, each.program, each.prompt, iter(each.sampled), each.stop_after, each.listed, retrieve,
                            passed)
        return golden

    # The world around the front end.

    def begin(self, stimulus: Items) -> None:
        self.reference = self.golden()
        self.rng = random.Random(len(self.reference.data))
        self.running = -1
        self.tokens = self.sampled = self.reads = self.matrices = self.queued = self.appended = self.retrieved = 0
        self.appends: list[int] = []  # remaining cycles of the appends under way
        self.attends: list[int] = []  # of the attentions
        self.attended = 0
        self.quick = False

    def control(self, cycle: int, level: Callable[[str], int]) -> Mapping[str, int]:
        busy = level("busy")
        if busy and level("done"):
            raise BenchFailure("done is high while busy")
        ports = {"start": 0, "append_done": 0}
        if self.appends:
            self.appends[0] -= 1
            if not self.appends[0]:
                self.appends.pop(0)
                self.appended += 1
                ports["append_done"] = 1
        if self.config.attention_modes:
            ports |= {"attended": 0, "passed": self.rng.getrandbits(1)}
        if self.attends:
            self.attends[0] -= 1
            if not self.attends[0]:
                self.attends.pop(0)
                ports |= {"attended": 1, "passed": int(passed(self.attended))}
                self.attended += 1
        if busy:
            ports["start"] = int(self.rng.random() < 0.02 and not self.quick)  # ignored
        elif self.running < 0 or (level("done") and self.running + 1 < len(self.generations)):
            self.running += 1
            self.tokens = self.sampled = 0
            values = asdict(self.generations[self.running].settings)
            ports |= {name: value for name, value in values.items() if self.config.cache in OWNERS.get(name, (self.config.cache,))}
            ports["start"] = 1
            self.start_cycle = cycle
        if self.running >= 0:
            stop_after = self.generations[self.running].stop_after
            ports["stop"] = int(stop_after is not None and self.tokens >= stop_after)
        return ports

    def react(self, stream: str, payload: Any) -> Items:
        each = self.generations[self.running]
        if stream == "o_program":
            return {"i_program": self._memory(each, payload["address"], payload["beats"])}
        if stream == "o_data":
            needed = self.reference.data[self.reads].appends
            if needed > self.appended:
                raise BenchFailure(f"data read {self.reads} comes after {self.appended} of {needed} appends")
            self._after_operation("data read", self.reads, "reads")
            self.reads += 1
        if stream == "o_weights":
            self._after_operation("matrix", self.matrices, "matrices")
            self.matrices += 1
        if stream == "o_token":
            self.tokens += 1
        if stream == "o_operation":
            queued = self.reference.operations[self.queued]
            self.queued += 1
            if queued.instruction.opcode is Opcode.RETRIEVE:
                listed = self.reference.lists[self.retrieved]
                self.retrieved += 1
                return {"i_blocks": [{"index": block, "last": int(block == listed[-1])} for block in listed]}
            if queued.instruction.opcode in (Opcode.APPEND, Opcode.MEANS):
                self.appends.append(1 if self.quick else self.rng.choice((1, 2, 10, 80)))
            if self.config.attention_modes and queued.instruction.opcode is Opcode.ATTEND:
                self.attends.append(1 if self.quick else self.rng.choice((1, 2, 10, 80)))
            if queued.instruction.opcode is Opcode.END and queued.final and each.lists:
                none = [{"index": 0, "last": 1, "none": 1}]
                return {"i_list": [{"index": index, "last": last, "none": 0} for index, last in each.listed] or none}
            if queued.instruction.opcode is Opcode.END and queued.final:
                token, value = each.sampled[self.sampled]
                self.sampled += 1
                return {"i_token": [{"token": token, "value": value}]}
        return {}

    def _after_operation(self, what: str, number: int, before: str) -> None:
        """Item ``number`` of its kind must not come before the operation that it belongs to."""
        if self.queued < len(self.reference.operations) and number >= getattr(self.reference.operations[self.queued], before):
            raise BenchFailure(f"{what} {number} comes before its operation, {self.queued}")

    def _memory(self, each: Generation, address: int, beats: int) -> list[dict[str, int]]:
        size = self.config.bus_bytes
        noise = self.rng.getrandbits(8 * size) >> 32 << 32  # beside the token ids
        contents = each.program + b"".join((token | noise).to_bytes(size, "little") for token in each.prompt)
        start = address - each.settings.program_address
        if start < 0 or start + beats * size > len(contents) or address % size:
            raise BenchFailure(f"read of {beats} bus words at {address:#x}, outside of program and prompt")
        words = [contents[start + k * size:start + (k + 1) * size] for k in range(beats)]
        return [{"data": int.from_bytes(word, "little"), "last": int(k == beats - 1)} for k, word in enumerate(words)]

    def expected(self, stimulus: Items) -> Items:
        golden = self.golden()
        return {
            "o_program": [{"address": read.address, "beats": read.beats} for read in golden.program],
            "o_data": [{"address": read.address, "beats": read.beats} for read in golden.data],
            "o_weights": [dict(zip(("address", "beats", "head"), matrix, strict=True)) for matrix in golden.weights],
            "o_operation": [{"instruction": instruction_fields(queued.instruction, self.config), "tokens": queued.tokens,
                             "position": queued.position, "chunk": queued.chunk} for queued in golden.operations],
            "o_token": [{"token": token, "value": value, "last": last} for token, value, last in golden.tokens],
            **({"o_rows": golden.rows} if self.config.attention_runs else {}),
        }

    def levels(self, stimulus: Items) -> dict[str, int]:
        golden = self.golden()
        return {"busy": 0, "done": int(not golden.error), "error": golden.error, "error_info": golden.info,
                "position": golden.position, "generated": golden.generated}

    # Figures.

    def latency_stimulus(self) -> Items:
        """A long run of operations without reads, then many rows, then many tiles, all for a full chunk."""
        rng = random.Random(0)
        lanes = self.config.token_lanes
        embed, *others, end = self.program(rng)
        attend, residual = (next(op for op in others if op.opcode is opcode) for opcode in (Opcode.ATTEND, Opcode.RESIDUAL))
        if self.config.block_retrieval:
            attend = replace(attend, other=0)
        program = [residual] * 5 + [replace(embed, beats=3), replace(attend, count=4, tiles=lanes), end]
        return self.plan(self.generation(rng, lanes, 1, program))

    def measure(self, trace: Trace) -> dict[str, int]:
        lanes, data, operations = self.config.token_lanes, trace.delivered["o_data"], trace.delivered["o_operation"]
        found = {"start": trace.raised["o_program"] - self.start_cycle, "instruction": operations[4] - operations[3]}
        if not self.config.attention_runs and self.config.cache == "contiguous":  # others read a tile in several runs
            found["tile"] = data[lanes + 1] - data[lanes]
        return found if lanes == 1 else found | {"row": data[1] - data[0]}

    def figures(self, attributes: Mapping[str, Any]) -> Mapping[str, int]:
        found = {"start": 4, "instruction": 2 + 512 // self.config.bus_bits}
        if self.config.attention_runs and self.config.cache == "contiguous":
            pass
        elif self.config.cache == "contiguous":
            found["tile"] = ContiguousCache.latency + 2
        else:
            found["start"] += 2 if self.config.cache == "evict" else 1
        return found if self.config.token_lanes == 1 else found | {"row": 4}
