"""What a serving host decides: which tokens of which requests go through the accelerator in the next step.

Every running request that waits for its next token is in every step (continuous batching, as in Orca), the first ones if they are more
than the token budget; what is left of it goes to prompts, in chunks, in the order of arrival (Sarathi-Serve, arXiv:2403.02310). A
request begins with what its prompt has in common with one that runs and is in the cache (vLLM, arXiv:2309.06180); it waits while
another one is about to write more blocks of it. If no block is left for a request, the latest one behind it gives back its own and
begins anew later; if there is none, it waits. Where the cache swaps, that one leaves with what it has, if there is room for it, and
comes back as soon as there are blocks, before any other begins (FastSwitch, arXiv:2411.18424).

Requests of a step that share blocks are put into groups where attention then reads fewer rows (Hydragen, arXiv:2402.05099).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..accelerators.control.entries import SEQUENCE_BITS, SWAP_IN, SWAP_OUT, Entry, EntryKind
from ..sim.golden.batch import Row, parts_of_tiles
from ..sim.golden.paged import PagedTables
from ..sim.golden.swap import SwapTables

__all__ = ["Request", "Scheduler", "Step"]

MAX_MEMBERS = (1 << SEQUENCE_BITS) - 1
"""Entries of a group."""


@dataclass
class Request:
    """A prompt, and how many tokens are to follow at most.

    Attributes
    ----------
    ids : list of int
        Prompt, then generated tokens.
    written : int
        Of them, those whose keys and values are in the cache.
    sequence : int or None
        Of the accelerator, while it runs. ``fed``: the accelerator has its latest token.
    shared : int
        Positions that it found in the cache when it began (the last time).
    preempted, swapped : int
        How often it gave back its blocks to begin anew, or left to come back.
    """

    name: str
    prompt: list[int]
    count: int
    arrival: int = 0
    ids: list[int] = field(default_factory=list)
    written: int = 0
    sequence: int | None = None
    fed: bool = False
    shared: int = 0
    preempted: int = 0
    swapped: int = 0

    def __post_init__(self) -> None:
        self.ids = list(self.prompt)

    @property
    def generated(self) -> list[int]:
        return self.ids[len(self.prompt):]


@dataclass
class Chunk:
    """Tokens of a request in a step: the entry, their ids (none, if it feeds), position of the first one, and the whole blocks that the
    sequence had before."""

    request: Request
    entry: Entry
    ids: list[int]
    position: int
    blocks: list[int]


@dataclass
class Step:
    """A batch: its words, the requests in it with what they had written before, their chunks in the order of the batch, tokens that go
    through the model, and rows that attention reads for each K/V head, and would read without groups."""

    words: list[int] = field(default_factory=list)
    written: dict[str, int] = field(default_factory=dict)
    chunks: list[Chunk] = field(default_factory=list)
    tokens: int = 0
    rows: int = 0
    rows_apart: int = 0

    @property
    def sampled(self) -> list[Request]:
        """Whose token each of the new ones is."""
        return [chunk.request for chunk in self.chunks if chunk.entry.sample]


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common beginning."""
    for k, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return k
    return min(len(a), len(b))


def _rows_read(chunks: Sequence[Chunk], prefix: int, tile: int) -> int:
    """Rows that attention reads for each K/V head, for chunks that have the first ``prefix`` positions in common."""
    batch: list[Row] = []
    for chunk in chunks:
        end = len(batch) + chunk.entry.count
        batch += [Row(0, chunk.entry.sequence, chunk.position + k, end, end, prefix) for k in range(chunk.entry.count)]
    for row in batch if prefix else ():
        row.stop = len(batch)
    return sum(part.count for _, _, parts in parts_of_tiles(batch, tile) for part in parts)


class Scheduler:
    """Makes the batches.

    Parameters
    ----------
    requests : sequence of Request
        Names differ.
    tables : PagedTables or SwapTables
        What the accelerator's cache does: the same commands go to both.
    budget : int
        Tokens of a step at most. Requests that are past their prompts come first.
    eos : int or None
        Token that ends a request.
    share : bool
        Whether prefixes are shared.
    tile : int
        Tokens for which attention reads a row at once: ``query_lanes`` by heads that share a K/V head.
    group : bool
        Whether there are groups.

    Raises ``ValueError`` for a request that is longer than a sequence can be, or needs more blocks than there are.
    """

    def __init__(self, requests: Sequence[Request], tables: PagedTables | SwapTables, budget: int, eos: int | None = None,
                 share: bool = True, tile: int = 1, group: bool = True) -> None:
        self.tables, self.budget, self.eos, self.share, self.tile = tables, budget, eos, share, tile
        self.group = group and not isinstance(tables, SwapTables)
        self.waiting = sorted(requests, key=lambda request: request.arrival)
        self.running: list[Request] = []
        self.out: list[Request] = []
        self._to_free: list[int] = []
        for request in requests:
            length = len(request.prompt) + request.count - 1
            room = min(tables.max_context, tables.pool.blocks * tables.block_size)
            if not request.prompt or request.count < 1:
                raise ValueError(f"request {request.name!r} needs a prompt and at least one token to generate, "
                                 f"not {len(request.prompt)} and {request.count}")
            if length > room:
                raise ValueError(f"request {request.name!r}: prompt of {len(request.prompt)} and {request.count} tokens need {length} "
                                 f"positions, a sequence has {room}")

    @property
    def active(self) -> bool:
        """Whether anything is left to do, blocks to be given back included."""
        return bool(self.waiting or self.running or self.out or self._to_free)

    def step(self, number: int) -> Step:
        """The batch of step ``number``; no words if every request is still to arrive."""
        step = Step()
        for sequence in self._to_free:
            self._command(step, Entry(EntryKind.FREE, sequence))
        self._to_free = []
        while self.out and self._comes_back(step, self.out[0]):
            pass
        # Tokens of requests that are past their prompt, then chunks of prompts, in the order in which requests began.
        for decodes in (True, False):
            for request in list(self.running):
                if request in self.running and (len(request.ids) - request.written == 1 and bool(request.generated)) == decodes:
                    self._advance(step, request)
        while (self.waiting and not self.out and self.waiting[0].arrival <= number and step.tokens < self.budget
               and self._begin(step, self.waiting[0])):
            pass
        self._groups(step)
        return step

    def finish(self, step: Step, tokens: Sequence[int]) -> None:
        """Take the tokens that the accelerator made of a step. What it has written has no copy elsewhere any more."""
        if isinstance(self.tables, SwapTables):
            for chunk in step.chunks:
                self.tables.request(chunk.entry.sequence, chunk.position, chunk.entry.count, write=True)
        for request, token in zip(step.sampled, tokens, strict=True):
            request.ids.append(token)
            request.fed = True
            if len(request.generated) == request.count or token == self.eos:
                self._leave(request)

    def _leave(self, request: Request) -> None:
        assert request.sequence is not None
        self._to_free.append(request.sequence)
        self.running.remove(request)
        request.sequence = None

    def _command(self, step: Step, entry: Entry) -> bool:
        """An entry without tokens, here and there; whether it is not refused: swaps may be."""
        if entry.kind is EntryKind.FREE and entry.other and isinstance(self.tables, SwapTables):
            moved = self.tables.swap_out(entry.sequence) if entry.other == SWAP_OUT else self.tables.swap_in(entry.sequence)
            if moved.error:
                return False
            self.tables.finish()
        elif entry.kind is EntryKind.FREE:
            self.tables.free(entry.sequence)
        else:
            assert not self.tables.fork(entry.sequence, entry.other, entry.count).error
        step.words.append(entry.encode())
        return True

    def _advance(self, step: Step, request: Request) -> None:
        """As many tokens of a request as the budget has; others may have to make room."""
        count = min(self.budget - step.tokens, len(request.ids) - request.written)
        while count and not self._has_room(request, count):
            later = self.running[self.running.index(request) + 1:]
            idle = [other for other in later if other.name not in step.written]
            kept = [other for other in self.out if self.tables.sequences[other.sequence or 0].blocks]
            if idle:
                self._preempt(step, idle[-1])
            elif kept and len(self.running) == 1:  # prefixes that they share stay when they leave
                self.out.remove(kept[-1])
                self._restart(step, kept[-1])
            else:
                return  # it waits for blocks of those that came before, or are in this step
        if not count:
            return
        assert request.sequence is not None
        step.written[request.name] = request.written
        assert not self.tables.extend(request.sequence, count)[0].error
        feeds = request.fed and count == 1
        entry = Entry(EntryKind.TOKENS, request.sequence, count, sample=request.written + count == len(request.ids), feed=feeds)
        whole = self.tables.sequences[request.sequence].blocks[:request.written // self.tables.block_size]
        step.chunks.append(Chunk(request, entry, [] if feeds else request.ids[request.written:request.written + count],
                                 request.written, whole))
        request.written += count
        step.tokens += count

    def _groups(self, step: Step) -> None:
        """The chunks' words, behind all others. In the order in which those that share most lie side by side, the cut into groups with
        which attention reads the fewest rows."""
        step.rows = step.rows_apart = sum(_rows_read([chunk], 0, self.tile) for chunk in step.chunks)
        chunks, size = sorted(step.chunks, key=lambda chunk: chunk.blocks), self.tables.block_size
        best: list[tuple[int, int, int]] = [(0, 0, 0)]  # of the first chunks: rows, first of the last group, its common positions
        for end in range(1, len(chunks) + 1):
            found = []
            for begin in range(max(0, end - MAX_MEMBERS), end):
                prefix = _common(chunks[begin].blocks, chunks[end - 1].blocks) * size if end - begin > 1 else 0
                if prefix or end - begin == 1:
                    found.append((best[begin][0] + _rows_read(chunks[begin:end], prefix, self.tile), begin, prefix))
            best.append(min(found, key=lambda each: (each[0], -each[1])))
        cuts: list[tuple[list[Chunk], int]] = []
        end = len(chunks)
        while end:
            _, begin, prefix = best[end]
            cuts.insert(0, (chunks[begin:end], prefix))
            end = begin
        if not self.group or best[-1][0] == step.rows_apart:
            cuts = [(step.chunks, 0)]
        else:
            step.rows, step.chunks = best[-1][0], chunks
        for members, prefix in cuts:
            if prefix:
                step.words.append(Entry(EntryKind.GROUP, 0, prefix, len(members)).encode())
            for chunk in members:
                step.words += [chunk.entry.encode(), *chunk.ids]

    def _has_room(self, request: Request, count: int) -> bool:
        """Whether there are blocks for so many tokens more. No block is shared that is not whole, but in the step of a fork."""
        assert request.sequence is not None
        size, sequence = self.tables.block_size, self.tables.sequences[request.sequence]
        return -(-(sequence.length + count) // size) - len(sequence.blocks) <= self.tables.pool.free

    def _preempt(self, step: Step, request: Request) -> None:
        """Its blocks back, which are not being written in this step. It leaves with what it has; or it begins again before those that
        have not begun."""
        assert request.sequence is not None
        self.running.remove(request)
        if isinstance(self.tables, SwapTables) and self._command(step, Entry(EntryKind.FREE, request.sequence, other=SWAP_OUT)):
            self.out.append(request)
            request.swapped += 1
            return
        self._restart(step, request)

    def _restart(self, step: Step, request: Request) -> None:
        assert request.sequence is not None
        self._command(step, Entry(EntryKind.FREE, request.sequence))
        request.sequence, request.written, request.fed = None, 0, False
        request.preempted += 1
        self.waiting.insert(0, request)

    def _comes_back(self, step: Step, request: Request) -> bool:
        """If there are blocks for what it has and its next token; one that can never come back, as nothing runs, begins anew."""
        assert isinstance(self.tables, SwapTables) and request.sequence is not None
        size, here = self.tables.block_size, self.tables.sequences[request.sequence].blocks
        if -(-(request.written + 1) // size) - len(here) <= self.tables.pool.free:
            assert self._command(step, Entry(EntryKind.FREE, request.sequence, other=SWAP_IN))
            self.running.append(self.out.pop(0))
            return True
        if not self.running:
            self._restart(step, self.out.pop(0))
        return False

    def _begin(self, step: Step, request: Request) -> bool:
        """Give a request a sequence, if there is one and room for a token."""
        taken = {other.sequence for other in (*self.running, *self.out)} | set(self._to_free)
        free = [k for k in range(len(self.tables.sequences)) if k not in taken]
        if not free:
            return False
        size, source, shared = self.tables.block_size, None, 0
        for other in self.running if self.share else ():
            common = min(_common(request.ids, other.ids), len(request.ids) - 1)
            there = min(common, step.written.get(other.name, other.written))  # in memory before this step
            if common // size > there // size:
                return False
            if there > shared:
                source, shared = other, there
        count = min(self.budget - step.tokens, len(request.ids) - shared)
        if -(-(shared + count) // size) - shared // size > self.tables.pool.free:  # a block that is not whole will be copied
            return False
        request.sequence, request.written, request.shared = free[0], shared, shared
        if source is not None:
            assert source.sequence is not None
            self._command(step, Entry(EntryKind.FORK, request.sequence, shared, source.sequence))
        self.waiting.pop(0)
        self.running.append(request)
        self._advance(step, request)
        return True
