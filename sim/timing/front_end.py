"""Front end: descriptors, operations and reads, in the states of ``accelerators/control/frontend.py``."""

from collections.abc import Sequence
from typing import NamedTuple

from ...accelerators.cache.contiguous import ContiguousCache
from ...accelerators.config import AcceleratorConfig
from ...accelerators.control.isa import INSTRUCTION_BYTES, Flag, Instruction, Opcode
from ...accelerators.core import OPERATIONS
from ...accelerators.integers import ceil_div
from ...accelerators.memory.bursts import BurstSplitter, default_burst_beats
from ...accelerators.streams import StreamBuffer
from .kernel import Kernel, Mailbox, Process, Signal, Waits
from .memory import Port, Reader, split
from .promises import promised, queue_latency
from .records import Layout, Operation, Run

__all__ = ["FrontEnd"]

FIRST_CYCLE = 1
"""The first chunk's state begins in this cycle after the start was written."""


class Descriptor(NamedTuple):
    """One that was fetched, and from when it can be taken."""

    ready: float
    chunk: int
    instruction: Instruction


class Read(NamedTuple):
    """A data read in its queue: from when it can leave, and the appends that must be in memory first."""

    ready: float
    address: int
    beats: int
    appends: int


class FrontEnd:
    """Walks the program for chunk after chunk.

    Members
    -------
    operations : Mailbox of (cycle from which it can be taken, Operation)
        To the executor.
    token : Mailbox of cycles
        From the sampler.
    """

    def __init__(self, kernel: Kernel, config: AcceleratorConfig, program: Sequence[Instruction], layout: Layout, port: Port,
                 data: Reader, weights: Reader, run: Run) -> None:
        self.kernel, self.config, self.program, self.layout = kernel, config, program, layout
        self.port, self.data, self.weights, self.result = port, data, weights, run
        self.operations: Mailbox[tuple[float, Operation]] = Mailbox(kernel, OPERATIONS)
        self.token: Mailbox[float] = Mailbox(kernel)
        self.reads: Mailbox[Read] = Mailbox(kernel, max(16, config.max_heads * ceil_div(config.token_lanes, config.query_lanes)))
        self.descriptor: Mailbox[Descriptor] = Mailbox(kernel, 1)
        self.appends_pushed = self.appends_done = 0
        self.appended = Signal(kernel)
        self.row_address = promised(ContiguousCache(config)).latency

    def append_done(self) -> None:
        """The rows of an APPEND are in memory."""
        self.appends_done += 1
        self.appended.fire()

    def generate(self, prompt_length: int, count: int, position: int) -> Process:
        """The main machine: prefill, then ``count`` tokens."""
        kernel, remaining, prompt = self.kernel, prompt_length, self.layout.prompt_address
        yield FIRST_CYCLE
        while len(self.result.tokens) < count:
            # Tokens of one chunk, or of as many as can be in flight.
            tokens: list[int] = []
            while not tokens or (remaining and len(tokens) < self.config.chunks):
                tokens.append(min(remaining, self.config.token_lanes) or 1)
                yield kernel.now + 1
                if remaining:
                    last = yield from self._read_program(prompt, tokens[-1])
                    prompt += tokens[-1] * self.config.bus_bytes
                    remaining -= tokens[-1]
                    yield last + 1
            kernel.resume(self._fetch(len(tokens)), kernel.now + 1)
            final = not remaining
            yield from self._chunks(tokens, position, final)
            position += sum(tokens)
            if final:
                yield (yield from self.token.take()) + 1
                self.result.tokens.append(kernel.now + 1)
                self.result.read_beats.append(self.port.beats)
                yield kernel.now + 1

    def data_reads(self) -> Process:
        """Reads leave their queue, those of K/V rows when the appends before them are in memory."""
        while True:
            read = yield from self.reads.first()
            yield read.ready
            while self.appends_done < read.appends:
                yield self.appended
            yield from self.data.offer(read.address, read.beats)
            yield from self.reads.take()
            yield self.kernel.now + 1

    def _read_program(self, address: int, beats: int) -> Waits[float]:
        """Cycle of the last beat; the command is taken now."""
        longest = min(16, default_burst_beats(self.config.bus_bits))
        due, end = self.kernel.now + BurstSplitter.latency, 0.0
        for length in split(address, beats, longest, self.config.bus_bytes):
            yield due
            end = self.port.ask(self.kernel.now, length) + (length - 1) * self.port.spacing
            due = self.kernel.now + 1
        self.result.beats["program"] += beats
        return end + queue_latency(max(32, 2 * longest))

    def _fetch(self, chunks: int) -> Process:
        """Descriptors, one ahead of the main machine; those of two chunks take turns after every matrix."""
        at, chunk, ended = [0] * chunks, 0, False
        while not ended:
            address = self.layout.program_address + at[chunk] * INSTRUCTION_BYTES
            last = yield from self._read_program(address, INSTRUCTION_BYTES // self.config.bus_bytes)
            instruction = self.program[at[chunk]]
            at[chunk] += 1
            self.descriptor.add(Descriptor(last + 1, chunk, instruction))
            yield from self.descriptor.empty()
            ended = instruction.opcode is Opcode.END and chunk == chunks - 1
            if instruction.opcode in (Opcode.LINEAR, Opcode.END):
                chunk = (chunk + 1) % chunks
            yield self.kernel.now + 1

    def _chunks(self, tokens: Sequence[int], position: int, final: bool) -> Process:
        """Operations of all chunks in flight; ``final`` if the last one ends the prompt, or is a generated token."""
        positions = [position + sum(tokens[:chunk]) for chunk in range(len(tokens))]
        last, ended = len(tokens) - 1, False
        while not ended:
            yield (yield from self.descriptor.first()).ready
            _, chunk, op = yield from self.descriptor.take()
            skipped = op.flags & Flag.LAST_CHUNK and not (final and chunk == last)
            yield self.kernel.now + 2
            if not skipped:
                yield from self._push(Operation(op, tokens[chunk], positions[chunk], chunk))
            ended = op.opcode is Opcode.END and chunk == last

    def _push(self, operation: Operation) -> Process:
        """Queue an operation, then its reads."""
        op, kernel, beats = operation.instruction, self.kernel, self.result.beats
        yield from self.operations.room()
        self.operations.add((kernel.now + queue_latency(OPERATIONS), operation))
        yield kernel.now + 1
        if op.opcode is Opcode.APPEND:
            self.appends_pushed += 1
        elif op.opcode in (Opcode.EMBED, Opcode.ROPE):
            for row in range(operation.tokens):
                yield kernel.now + 3
                # Which rows are embedded does not matter: they lie anywhere.
                index = operation.position + row if op.opcode is Opcode.ROPE else row
                yield from self._read(op.address + index * op.beats * self.config.bus_bytes, op.beats, "data")
        elif op.opcode is Opcode.NORM and op.flags & Flag.GAIN:
            yield from self._read(op.address, op.beats, "data")
        elif op.opcode in (Opcode.LINEAR, Opcode.HEAD):
            yield from self.weights.offer(op.address, op.beats)
            beats["weights" if op.opcode is Opcode.LINEAR else "head"] += op.beats
            yield kernel.now + 1
        elif op.opcode is Opcode.ATTEND:
            for head in range(op.count):
                for first in range(0, operation.tokens, op.tiles):
                    rows = operation.position + min(first + op.tiles, operation.tokens)
                    yield kernel.now + self.row_address + (1 if head or first else 0)
                    yield from self._read(op.address + head * self.layout.kv_head_stride, rows * self.layout.kv_record_beats,
                                          "cache", self.appends_pushed)

    def _read(self, address: int, beats: int, kind: str, appends: int = 0) -> Process:
        yield from self.reads.room()
        self.reads.add(Read(self.kernel.now + 2 * StreamBuffer.latency + queue_latency(self.reads.depth), address, beats, appends))
        self.result.beats[kind] += beats
        yield self.kernel.now + 1
