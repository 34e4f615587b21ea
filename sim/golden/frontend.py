"""Golden model of the front end: what it reads and queues, in order, for a program, a prompt and sampled tokens."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NoReturn

from ...accelerators.config import AcceleratorConfig
from ...accelerators.control.errors import ErrorCause
from ...accelerators.control.isa import INSTRUCTION_BYTES, RANGE_UNIT, Flag, Instruction, Opcode, opcodes
from .cache import contiguous_command
from .select import SHARES, compared_rows
from .window import window_commands

__all__ = ["FrontEnd", "Operation", "Read", "Settings", "Stopped"]


@dataclass(frozen=True)
class Settings:
    """Registers that the front end reads; see ``accelerators/control/frontend.py``."""

    program_address: int
    prompt_address: int
    prompt_length: int
    start_position: int
    max_new_tokens: int
    eos_token: int
    ignore_eos: int
    kv_capacity: int
    kv_record_beats: int
    kv_head_stride: int
    kv_sinks: int = 0
    kv_window: int = 0
    kv_positions: int = 0
    kv_threshold: int = 0


@dataclass(frozen=True)
class Read:
    """A burst. ``appends``: APPEND operations, of all since reset, that must be in memory first."""

    address: int
    beats: int
    appends: int = 0


@dataclass(frozen=True)
class Operation:
    """A queued operation. ``chunk``: which of those in flight it works on; ``reads``, ``matrices``: data reads and matrices of
    the operations before it, since reset; ``final``: a token is sampled at the end of its chunk."""

    instruction: Instruction
    tokens: int
    position: int
    chunk: int
    reads: int
    matrices: int
    final: bool


class Stopped(Exception):
    """Nothing more leaves the front end."""


@dataclass
class FrontEnd:
    """All that leaves the front end since reset. ``error`` and ``info`` say what stopped it for good."""

    config: AcceleratorConfig
    program: list[Read] = field(default_factory=list)
    data: list[Read] = field(default_factory=list)
    weights: list[tuple[int, int, int]] = field(default_factory=list)
    """(address, beats, head)"""
    operations: list[Operation] = field(default_factory=list)
    tokens: list[tuple[int, int, int]] = field(default_factory=list)
    """(token, value, last)"""
    error: ErrorCause = ErrorCause.NONE
    info: int = 0
    position: int = 0
    generated: int = 0
    appends: int = 0
    attends: int = 0
    rows: list[dict[str, int]] = field(default_factory=list)
    """Runs of rows that attention reads, where the cache makes runs."""
    lists: list[list[int]] = field(default_factory=list)
    """Blocks that each RETRIEVE has listed."""

    def generate(self, settings: Settings, program: bytes, prompt: Sequence[int], sampled: Iterator[tuple[int, int]],
                 stop_after: int | None = None, listed: Sequence[tuple[int, int]] = (),
                 retrieve: Callable[[int, int], list[int]] | None = None, passed: Callable[[int], bool] = lambda _: False) -> None:
        """One generation; ``sampled`` gives (token, value), ``listed`` is what a program with DEVIATE gives instead: (index, last).
        ``stop`` rises when ``stop_after`` tokens have left. ``retrieve`` lists some (the second number) of so many blocks;
        ``passed`` says of an ATTEND, by its number of all since reset, whether a lane was above its unified maximum."""
        self.settings, self.code, self.retrieve, self.passed = settings, program, retrieve, passed
        self.before: int | None = None
        self.position, self.generated = settings.start_position, 0
        with suppress(Stopped):
            self._generate(prompt, sampled, stop_after, listed)

    def _fail(self, cause: ErrorCause, info: int) -> NoReturn:
        self.error, self.info = cause, info
        raise Stopped

    def _generate(self, prompt: Sequence[int], sampled: Iterator[tuple[int, int]], stop_after: int | None,
                  listed: Sequence[tuple[int, int]]) -> None:
        capacity, lanes = min(self.settings.kv_capacity, self.config.max_context), self.config.token_lanes
        slots, windowed = self.settings.kv_sinks + self.settings.kv_window, self.config.cache == "window"
        evicts, self.rows_there = self.config.cache == "evict", capacity
        self.ring, capacity = capacity - self.settings.kv_sinks, self.settings.kv_positions if windowed or evicts else capacity
        length = self.settings.prompt_length
        if not (length and self.settings.max_new_tokens):
            self._fail(ErrorCause.EMPTY_PROMPT, length)
        if self.position + length > capacity:
            self._fail(ErrorCause.PROMPT_TOO_LONG, self.position + length)
        if windowed and (self.settings.kv_window == 0 or self.ring < self.settings.kv_window):
            self._fail(ErrorCause.CACHE_FULL, slots)
        if evicts and (slots >= self.rows_there or self.rows_there > self.config.max_budget):
            self._fail(ErrorCause.CACHE_FULL, slots)
        start = 0
        while start < length:
            chunks: list[Sequence[int]] = []
            while start < length and len(chunks) < self.config.chunks:
                most = max(1, min(lanes, self.rows_there - self.position)) if evicts else lanes
                chunks.append(prompt[start:min(start + most, length)])
                self.program.append(Read(self.settings.prompt_address + start * self.config.bus_bytes, len(chunks[-1])))
                start += len(chunks[-1])
            self._chunks(chunks, start >= length)
        if self.ends_with_list:
            for index, last in listed:
                self.generated += 1
                self.tokens.append((index, self.first + index, last))
            return
        while True:
            token, value = next(sampled)
            self.generated += 1
            last = (self.generated == self.settings.max_new_tokens
                    or (stop_after is not None and self.generated > stop_after)
                    or (token == self.settings.eos_token and not self.settings.ignore_eos))
            self.tokens.append((token, value, int(last)))
            if last:
                return
            if self.position >= capacity:
                self._fail(ErrorCause.CONTEXT_FULL, self.position)
            self._chunks([[token]], True)

    def _fetch(self, offset: int) -> None:
        self.program.append(Read(self.settings.program_address + offset, INSTRUCTION_BYTES // self.config.bus_bytes))

    def _chunks(self, chunks: Sequence[Sequence[int]], final: bool) -> None:
        """One chunk, or a pair whose programs alternate after every matrix; of a pair, the second may be ``final``."""
        positions = [self.position, self.position + len(chunks[0])]
        offsets, last, fetching = [0, 0], len(chunks) - 1, 0
        self._fetch(0)
        self.ends_with_list = self.gives = False
        while True:
            chunk = fetching
            tokens, position, is_final = chunks[chunk], positions[chunk], final and chunk == last
            try:
                op = Instruction.decode(self.code[offsets[chunk]:offsets[chunk] + INSTRUCTION_BYTES])
            except ValueError:
                self._fail(ErrorCause.ILLEGAL_INSTRUCTION, offsets[chunk])
            if op.opcode not in opcodes(self.config):
                self._fail(ErrorCause.ILLEGAL_INSTRUCTION, offsets[chunk])
            offsets[chunk] += INSTRUCTION_BYTES
            ends = op.opcode is Opcode.END
            if last and op.opcode in (Opcode.LINEAR, Opcode.END):
                fetching = 1 - chunk
            if not (ends and chunk == last):
                self._fetch(offsets[fetching])
            if Flag.LAST_CHUNK in op.flags and not is_final and not ends:
                continue
            if op.fallback:
                if self.operations[-1].instruction.opcode is not Opcode.ATTEND:
                    self._fail(ErrorCause.ILLEGAL_INSTRUCTION, offsets[chunk] - INSTRUCTION_BYTES)
                if not self.passed(self.attends - 1):
                    continue
            self._check_list(op, position + len(tokens), offsets[chunk] - INSTRUCTION_BYTES)
            if self._without_blocks(op, position, len(tokens), offsets[chunk] - INSTRUCTION_BYTES):
                continue
            self.operations.append(Operation(op, len(tokens), position, chunk, len(self.data), len(self.weights), is_final))
            self.appends += op.opcode is Opcode.APPEND
            self.attends += op.opcode is Opcode.ATTEND
            self._read(op, tokens, position)
            self.appends += op.opcode is Opcode.MEANS
            if ends and chunk == last:
                self.position = position + len(tokens)
                return

    def _check_list(self, op: Instruction, length: int, offset: int) -> None:
        """A list that cannot be, or something that a run gives too many; ``length``: positions so far."""
        if not self.config.selective_recompute:
            return
        deviates = op.opcode is Opcode.DEVIATE
        gives = deviates or op.opcode is Opcode.HEAD
        sound = op.count and op.words and op.beats and op.tiles <= SHARES and 1 <= op.rows <= length and Flag.LAST_CHUNK in op.flags
        if (gives and self.gives) or (deviates and not sound):
            self._fail(ErrorCause.ILLEGAL_INSTRUCTION, offset)
        self.gives |= gives
        if deviates:
            self.ends_with_list, self.first = True, length - op.rows

    def _without_blocks(self, op: Instruction, position: int, tokens: int, offset: int) -> bool:
        """Whether an operation has no block to work on, and is left out. ``before``: blocks that a list is of (0: all positions are
        seen), ``None`` where there is no list."""
        if not self.config.block_retrieval:
            return False
        retrieves, size = op.opcode is Opcode.RETRIEVE, self.config.block_size
        if (retrieves and not (op.rows and op.other)) or (op.opcode is Opcode.ATTEND and op.other and self.before is None):
            self._fail(ErrorCause.ILLEGAL_INSTRUCTION, offset)
        if op.opcode in (Opcode.LINEAR, Opcode.END):
            self.before = None
        if retrieves:
            scored = max(0, position + 1 - op.other) // size
            self.before = scored if scored > op.rows else 0
            self.blocks: list[int] = []
            return not self.before
        return op.opcode is Opcode.MEANS and position // size == (position + tokens) // size

    def _rows_of(self, base: int, head: int, position: int, count: int) -> Read:
        command = contiguous_command(base, head, position, count, capacity=self.config.max_context,
                                     record_beats=self.settings.kv_record_beats, head_stride=self.settings.kv_head_stride,
                                     bus_bits=self.config.bus_bits)
        assert command is not None
        return Read(command.address, command.beats, self.appends)

    def _read_blocks(self, op: Instruction, tokens: int, position: int) -> None:
        """Rows of MEANS, means of RETRIEVE, runs of ATTEND."""
        size, ends = self.config.block_size, [min(first + op.tiles, tokens) for first in range(0, tokens, max(op.tiles, 1))]
        first = position // size * size
        if op.opcode is Opcode.MEANS:
            rows = (position + tokens) // size * size - first
            self.data += [self._rows_of(op.address, head, first, rows) for head in range(op.count)]
        elif op.opcode is Opcode.RETRIEVE:
            assert self.before is not None and self.retrieve is not None
            self.data += [self._rows_of(op.address, head, 0, self.before) for head in range(op.count) for _ in ends]
            self.blocks = self.retrieve(self.before, op.rows)
            self.lists.append(self.blocks)
        else:
            before = 0
            runs: list[tuple[int, int]] = []
            if op.other:
                assert self.before is not None
                before = self.before * size
                for block in self.blocks:
                    if runs and sum(runs[-1]) == block * size:
                        runs[-1] = (runs[-1][0], runs[-1][1] + size)
                    else:
                        runs.append((block * size, size))
            for head in range(op.count):
                for begin, end in zip([0, *ends], ends, strict=False):
                    here = [*runs, (before, position + end - before)]
                    for number, (start, rows) in enumerate(here):
                        self.data.append(self._rows_of(op.address, head, start, rows))
                        self.rows.append({"position": start, "rows": rows, "tokens": end - begin, "sinks": 0,
                                          "begins": int(number == 0), "ends": int(number == len(here) - 1)})

    def _compare(self, op: Instruction) -> None:
        """Reused rows, counted from 0, and new ones in turns."""
        most = compared_rows(self.config)
        for head in range(op.count):
            for done in range(0, op.rows, most):
                for base, begin in ((op.source | op.destination << 16, 0), (op.address, self.first)):
                    self.data.append(self._rows_of(base, head, begin + done, min(most, op.rows - done)))

    def _read(self, op: Instruction, tokens: Sequence[int], position: int) -> None:
        """Data reads of one operation."""
        row = op.beats * self.config.bus_bytes
        if op.opcode is Opcode.EMBED:
            for token in tokens:
                if token >= op.rows:
                    self._fail(ErrorCause.TOKEN_OUT_OF_RANGE, token)
                self.data.append(Read((op.address + token * row) % (1 << 32), op.beats))
        elif op.opcode is Opcode.ROPE:
            last = op.rows - 1 if op.rows and self.config.cache == "window" else self.config.max_positions
            self.data += [Read((op.address + min(position + t, last) * row) % (1 << 32), op.beats) for t in range(len(tokens))]
        elif op.opcode in (Opcode.LINEAR, Opcode.HEAD):
            self.weights.append((op.address, op.beats, int(op.opcode is Opcode.HEAD)))
        elif op.opcode is Opcode.NORM and Flag.GAIN in op.flags:
            self.data.append(Read(op.address, op.beats))
        elif op.opcode is Opcode.DEVIATE:
            self._compare(op)
        elif self.config.block_retrieval and op.opcode in (Opcode.MEANS, Opcode.RETRIEVE, Opcode.ATTEND):
            self._read_blocks(op, len(tokens), position)
        elif op.opcode is Opcode.ATTEND:
            for head in range(op.count):
                for first in range(0, len(tokens), op.tiles):
                    rows = position + min(first + op.tiles, len(tokens))
                    if self.config.cache == "window":
                        seen = (op.first * RANGE_UNIT, op.end * RANGE_UNIT) if self.config.attention_modes else (0, 0)
                        self._read_window(op.address, head, position + first, rows, position + len(tokens), *seen)
                        continue
                    if self.config.cache == "evict":
                        rows = min(rows, self.rows_there)
                    self.data.append(self._rows_of(op.address, self._head(op, head), 0, rows))

    def _head(self, op: Instruction, head: int) -> int:
        """Number of a head of an operation among those behind its address."""
        return (op.other + head) % (1 << 8) if self.config.cache == "evict" else head

    def _read_window(self, base: int, head: int, first: int, end: int, length: int, seen_from: int, seen_end: int) -> None:
        """Runs of the tokens ``first`` to ``end - 1``: the sinks, then what the first one sees and the others; of them what is from
        ``seen_from`` on and before ``seen_end`` (0: all), or the last token's row, which is read in vain."""
        sinks, stop = self.settings.kv_sinks, min(end, seen_end or end)
        lowest, sink = max(sinks, first + 1 - self.settings.kv_window, seen_from), min(seen_from, sinks)
        parts = [(sink, max(0, min(sinks, stop) - sink), 1), (lowest, max(0, stop - lowest), 0)]
        if not any(count for _, count, _ in parts):
            parts = [(end - 1, 1, 0)]
        begins, last = 1, max(position + count for position, count, _ in parts if count)
        for position, count, is_sinks in parts:
            for each in window_commands(base, head, position, count, sinks=sinks, recent=self.ring, length=length,
                                        capacity=self.config.max_context, record_beats=self.settings.kv_record_beats,
                                        head_stride=self.settings.kv_head_stride, bus_bits=self.config.bus_bits):
                if each is None:
                    self._fail(ErrorCause.CACHE_FULL, self.position)
                command, where = each
                self.data.append(Read(command.address, command.beats, self.appends))
                self.rows.append({"position": where["position"], "rows": where["count"], "tokens": end - first, "sinks": is_sinks,
                                  "begins": begins, "ends": int(where["position"] + where["count"] == last)})
                begins = 0
