"""Golden model of the front end of several sequences: what it reads, writes and queues, in order, for batches and sampled tokens."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from ...accelerators.config import AcceleratorConfig
from ...accelerators.control.entries import FEED, KIND, OTHER, REFUSED, SAMPLE, SEQUENCE, EntryKind
from ...accelerators.control.errors import ErrorCause
from ...accelerators.control.isa import INSTRUCTION_BYTES, Flag, Instruction, Opcode
from .frontend import FrontEnd, Operation, Read, Settings, Stopped
from .paged import PagedTables

__all__ = ["BatchFrontEnd", "BatchOperation"]


@dataclass(frozen=True)
class BatchOperation(Operation):
    """``positions`` of all token lanes (0 for those that never had a token), and the token that is ``sampled``."""

    positions: tuple[int, ...] = ()
    sampled: int = 0


@dataclass
class _Row:
    token: int
    sequence: int
    position: int
    end: int


class BatchFrontEnd(FrontEnd):
    """All that leaves it since reset. ``records`` are the writes of APPEND."""

    def __init__(self, config: AcceleratorConfig) -> None:
        super().__init__(config)
        self.records: list[Read] = []
        self.tables = PagedTables(sequences=config.sequences, max_context=config.max_context, block_size=config.block_size,
                                  blocks=config.blocks)
        self.latest = [0] * config.sequences
        self.positions = [0] * config.token_lanes
        self.sampled = 0

    def step(self, settings: Settings, program: bytes, words: Sequence[int], sampled: Iterator[tuple[int, int]]) -> None:
        """One step; ``sampled`` gives (token, value)."""
        self.settings, self.code, self.generated, self.position = settings, program, 0, settings.start_position
        with suppress(Stopped):
            if not settings.prompt_length:
                self._fail(ErrorCause.EMPTY_PROMPT, 0)
            self.program.append(Read(settings.prompt_address, settings.prompt_length))
            self.batch: list[_Row] = []
            self.samples: list[int] = []
            self._entries(list(words))
            if self.batch:
                self._program(sampled)

    def _entries(self, words: list[int]) -> None:
        lanes, size = self.config.token_lanes, self.config.block_size
        while words:
            entry = words.pop(0)
            kind, sequence, count = entry >> KIND, entry >> SEQUENCE & 63, entry & (1 << OTHER) - 1
            tokens, other, feed = kind == EntryKind.TOKENS, entry >> OTHER & 63, entry >> FEED & 1
            end = len(self.batch) + count
            legal = sequence < self.config.sequences and (
                count > 0 and end <= lanes and (not feed or count == 1) if tokens else
                other < self.config.sequences and count % size == 0 and count <= self.config.max_context
                if kind == EntryKind.FORK else kind == EntryKind.FREE)
            if not legal:
                self._fail(ErrorCause.ILLEGAL_BATCH, entry)
            if tokens:
                result, copy = self.tables.extend(sequence, count)
                assert copy is None
            else:
                result = self.tables.fork(sequence, other, count) if kind == EntryKind.FORK else self.tables.free(sequence)
            if result.error:
                self.tokens.append((REFUSED | result.error << 16 | sequence, 0, 0))
            ids = [self.latest[sequence]]
            if tokens and not feed:
                ids, words = words[:count], words[count:]
            if tokens and not result.error:
                for k, token in enumerate(ids):
                    self.batch.append(_Row(token, sequence, result.length - count + k, end))
                    self.positions[len(self.batch) - 1] = self.batch[-1].position
            if tokens and len(ids) < count:
                self._fail(ErrorCause.ILLEGAL_BATCH, entry)
            if tokens and not result.error and entry >> SAMPLE & 1:
                self.samples.append(end - 1)

    def _program(self, sampled: Iterator[tuple[int, int]]) -> None:
        offset, tail = 0, 0
        for number, row in enumerate(self.samples or [0]):
            self.sampled = row
            offset = tail
            while True:
                self._fetch(offset)
                try:
                    op = Instruction.decode(self.code[offset:offset + INSTRUCTION_BYTES])
                except ValueError:
                    self._fail(ErrorCause.ILLEGAL_INSTRUCTION, offset)
                ends, last = op.opcode is Opcode.END, Flag.LAST_CHUNK in op.flags
                if last and not tail:
                    tail = offset
                offset += INSTRUCTION_BYTES
                if not last or ends or self.samples:
                    self.operations.append(BatchOperation(op, len(self.batch), 0, 0, len(self.data), len(self.weights),
                                                          bool(self.samples), tuple(self.positions), row))
                    self.appends += op.opcode is Opcode.APPEND
                    self._read_batch(op, offset)
                if ends:
                    break
            if self.samples:
                token, value = next(sampled)
                self.generated += 1
                self.tokens.append((token, value, int(number == len(self.samples) - 1)))
                self.latest[self.batch[row].sequence] = token

    def _read_batch(self, op: Instruction, following: int) -> None:
        """Data reads and record writes of one operation. Before an error stops it, the next descriptor is fetched."""
        row = op.beats * self.config.bus_bytes
        place = dict(record_beats=self.settings.kv_record_beats, head_stride=self.settings.kv_head_stride,
                     bus_bits=self.config.bus_bits)
        if op.opcode is Opcode.ROPE:
            self.data += [Read((op.address + each.position * row) % (1 << 32), op.beats) for each in self.batch]
        elif op.opcode is Opcode.APPEND:
            for each in self.batch:
                for head in range(op.count):
                    (found,) = self.tables.commands(each.sequence, op.address, head, each.position, 1, write=True, **place)
                    if found is None:
                        self._fetch(following)
                        self._fail(ErrorCause.CACHE_FULL, self.position)
                    self.records.append(Read(found[0].address, found[0].beats))
        elif op.opcode is Opcode.ATTEND:
            for head in range(op.count):
                first = 0
                while first < len(self.batch):
                    end = min(first + op.tiles, self.batch[first].end)
                    begins, length = 1, self.batch[end - 1].position + 1
                    for found in self.tables.commands(self.batch[first].sequence, op.address, head, 0, length, write=False, **place):
                        assert found is not None
                        burst, where = found
                        self.data.append(Read(burst.address, burst.beats, self.appends))
                        self.rows.append({"position": where["position"], "rows": where["count"], "tokens": end - first, "sinks": 0,
                                          "begins": begins, "ends": where["last"]})
                        begins = 0
                    first = end
        else:
            if op.opcode is Opcode.EMBED and any(each.token >= op.rows for each in self.batch):
                self._fetch(following)
            self._read(op, [each.token for each in self.batch], 0)
