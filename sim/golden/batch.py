"""Golden model of the front end of several sequences: what it reads, writes and queues, in order, for batches and sampled tokens."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from ...accelerators.config import AcceleratorConfig
from ...accelerators.control.entries import FEED, KIND, OTHER, REFUSED, SAMPLE, SEQUENCE, SWAP_IN, SWAP_OUT, EntryKind
from ...accelerators.control.errors import ErrorCause
from ...accelerators.control.isa import INSTRUCTION_BYTES, Flag, Instruction, Opcode, opcodes
from .frontend import FrontEnd, Operation, Read, Settings, Stopped
from .paged import Copy, PagedTables, SequenceResult
from .swap import Move, SwapTables

__all__ = ["BatchFrontEnd", "BatchOperation", "Part", "Row", "paged_tables", "parts_of_tiles"]


def paged_tables(config: AcceleratorConfig, max_context: int) -> PagedTables | SwapTables:
    """The cache of several sequences that an accelerator has, empty."""
    sizes = {"sequences": config.sequences, "max_context": max_context, "block_size": config.block_size, "blocks": config.blocks}
    return SwapTables(**sizes, slots=config.swap_slots) if config.swap_slots else PagedTables(**sizes)


@dataclass(frozen=True)
class BatchOperation(Operation):
    """``positions`` of all token lanes (0 for those that never had a token), and the token that is ``sampled``."""

    positions: tuple[int, ...] = ()
    sampled: int = 0


@dataclass
class Row:
    """A token of a batch: its entry ends in front of token ``end``; the tile may end in front of ``stop``, and all sequences up to
    there have the first ``prefix`` positions in common."""

    token: int
    sequence: int
    position: int
    end: int
    stop: int
    prefix: int = 0


@dataclass(frozen=True)
class Part:
    """Positions of a sequence that attention reads, and the tokens ``begin`` to ``end - 1`` of the batch that see them."""

    sequence: int
    position: int
    count: int
    begin: int
    end: int


def parts_of_tiles(batch: Sequence[Row], tile_tokens: int) -> Iterator[tuple[int, int, list[Part]]]:
    """First token, end and parts of each tile: positions that all its sequences have in common, if it has several entries, then what
    each of them has alone."""
    first = 0
    while first < len(batch):
        lead = batch[first]
        end = min(first + tile_tokens, lead.stop)
        prefix = lead.prefix if end > lead.end else 0
        parts = [Part(lead.sequence, 0, prefix, first, end)] if prefix else []
        begin = first
        while begin < end:
            row, last = batch[begin], min(batch[begin].end, end)
            parts.append(Part(row.sequence, prefix, batch[last - 1].position + 1 - prefix, begin, last))
            begin = last
        yield first, end, parts
        first = end


class BatchFrontEnd(FrontEnd):
    """All that leaves it since reset. ``records`` are the writes of APPEND, ``copies`` what is copied before a sequence goes on,
    ``moves`` what is swapped."""

    def __init__(self, config: AcceleratorConfig) -> None:
        super().__init__(config)
        self.records: list[Read] = []
        self.copies: list[Copy] = []
        self.moves: list[Move] = []
        self.tables = paged_tables(config, config.max_context)
        self.latest = [0] * config.sequences
        self.positions = [0] * config.token_lanes
        self.sampled = 0
        self.leader: int | None = None  # first sequence of the group at hand, and number of its first token
        self.leader_row = 0

    def step(self, settings: Settings, program: bytes, words: Sequence[int], sampled: Iterator[tuple[int, int]]) -> None:
        """One step; ``sampled`` gives (token, value)."""
        self.settings, self.code, self.generated, self.position = settings, program, 0, settings.start_position
        with suppress(Stopped):
            if not settings.prompt_length:
                self._fail(ErrorCause.EMPTY_PROMPT, 0)
            self.program.append(Read(settings.prompt_address, settings.prompt_length))
            self.batch: list[Row] = []
            self.samples: list[int] = []
            self._entries(list(words))
            if self.batch:
                self._program(sampled)

    def _entries(self, words: list[int]) -> None:
        lanes, size, members, prefix = self.config.token_lanes, self.config.block_size, 0, 0
        while words:
            entry = words.pop(0)
            kind, sequence, count = EntryKind(entry >> KIND), entry >> SEQUENCE & 63, entry & (1 << OTHER) - 1
            other, feed = entry >> OTHER & 63, entry >> FEED & 1
            possible = count <= self.config.max_context
            legal = sequence < self.config.sequences and {
                EntryKind.TOKENS: 0 < count <= lanes - len(self.batch) and (not feed or count == 1),
                EntryKind.FORK: other < self.config.sequences and possible and not self.batch, EntryKind.FREE: True,
                EntryKind.GROUP: count > 0 and count % size == 0 and possible and not members and not self.config.swap_slots}[kind]
            if not legal:
                self._fail(ErrorCause.ILLEGAL_BATCH, entry)
            if kind is EntryKind.TOKENS:
                self._tokens(entry, sequence, count, words, prefix if members else 0)
                members -= members > 0
            elif kind is EntryKind.GROUP:
                members, prefix, self.leader = other, count, None
            elif isinstance(self.tables, SwapTables) and kind is EntryKind.FREE and other in (SWAP_OUT, SWAP_IN):
                self._swap(self.tables, sequence, other == SWAP_OUT)
            else:
                self._told(self.tables.fork(sequence, other, count) if kind is EntryKind.FORK else self.tables.free(sequence), sequence)

    def _swap(self, tables: SwapTables, sequence: int, out: bool) -> None:
        result = tables.swap_out(sequence) if out else tables.swap_in(sequence)
        self._told(result, sequence)
        if not result.error:
            assert tables.swap is not None
            self.moves += tables.swap.moves
            tables.finish()

    def _told(self, result: SequenceResult, sequence: int) -> None:
        if result.error:
            self.tokens.append((REFUSED | result.error << 16 | sequence, 0, 0))

    def _tokens(self, entry: int, sequence: int, count: int, words: list[int], prefix: int) -> None:
        """An entry with tokens, which takes them off ``words``; ``prefix``: what its group has in common, 0 without one."""
        begin, end, feed = len(self.batch), len(self.batch) + count, entry >> FEED & 1
        result, copy = self.tables.extend(sequence, count)
        if copy is not None:
            self.copies.append(copy)
        self._told(result, sequence)
        if not result.error and prefix:
            assert isinstance(self.tables, PagedTables)
            if self.leader is None:
                self.leader, self.leader_row = sequence, begin
            if self.tables.compare(sequence, self.leader, prefix).error or result.length - count < prefix:
                self._fail(ErrorCause.ILLEGAL_BATCH, entry)
        ids = [self.latest[sequence]] if feed else words[:count]
        if not feed:
            del words[:count]
        if not result.error:
            for k, token in enumerate(ids):
                self.batch.append(Row(token, sequence, result.length - count + k, end, end, prefix))
                self.positions[len(self.batch) - 1] = self.batch[-1].position
        if len(ids) < count:
            self._fail(ErrorCause.ILLEGAL_BATCH, entry)
        if not result.error:
            for row in self.batch[self.leader_row:begin] if prefix else ():
                row.stop = end
            if entry >> SAMPLE & 1:
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
                if op.opcode not in opcodes(self.config):
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
                for first, tile_end, parts in parts_of_tiles(self.batch, op.tiles):
                    for part in parts:
                        for found in self.tables.commands(part.sequence, op.address, head, part.position, part.count, write=False,
                                                          **place):
                            assert found is not None
                            burst, where = found
                            self.data.append(Read(burst.address, burst.beats, self.appends))
                            self.rows.append({
                                "position": where["position"], "rows": where["count"], "tokens": tile_end - first, "sinks": 0,
                                "begins": int(where["position"] == 0), "ends": int(where["last"] and part is parts[-1]),
                                "first_token": part.begin - first, "tokens_end": part.end - first})
        else:
            if op.opcode is Opcode.EMBED and any(each.token >= op.rows for each in self.batch):
                self._fetch(following)
            self._read(op, [each.token for each in self.batch], 0)
