"""The accelerator as processes: front end, executor and matrix units around the memory port; see ``accelerators/core.py``."""

from collections.abc import Sequence

from ...accelerators.config import AcceleratorConfig
from ...accelerators.control.commands import MULTIPLY
from ...accelerators.control.isa import Flag, Instruction, Opcode
from ...accelerators.elementwise.head import HeadMatvec
from ...accelerators.elementwise.sampler import Sampler
from ...accelerators.integers import ceil_div
from ...accelerators.memory.layout import VectorLayout
from ...accelerators.memory.reader import BurstReader
from ...accelerators.streams.gearbox import Gearbox
from ...accelerators.ternary.timing import TernaryTiming
from .front_end import FrontEnd
from .kernel import Kernel, Mailbox, Process, Signal, Waits
from .memory import Memory, Port, Reader
from .operations import COMMAND_QUEUE, Operations
from .promises import promised
from .records import Layout, Operation, Run, Span

__all__ = ["Machine"]

TURN = 4
"""From the last event of an operation until the next one begins: register, counter, DRAIN, IDLE."""


class Machine:
    """One generation.

    Parameters
    ----------
    config : AcceleratorConfig
    program : sequence of Instruction
        As the compiler makes it; scales and shifts do not matter.
    layout : Layout
    memory : Memory
    """

    def __init__(self, config: AcceleratorConfig, program: Sequence[Instruction], layout: Layout, memory: Memory) -> None:
        self.config, self.layout, self.result = config, layout, Run()
        self.kernel = kernel = Kernel()
        port = Port(config, memory)
        data = Reader(kernel, port, config.bus_bytes, promised(BurstReader.for_config(config, config.data_beats)))
        self.weights = Reader(kernel, port, config.bus_bytes, promised(BurstReader.for_config(config)))
        self.front_end = FrontEnd(kernel, config, program, layout, port, data, self.weights, self.result)
        self.operations = Operations(config, memory, data, layout.kv_record_beats)
        self.timing, self.vectors, self.head = TernaryTiming(config), VectorLayout(config), promised(HeadMatvec(config))
        self.gearbox = promised(Gearbox.for_config(config))
        # LINEAR, or the NORM before HEAD, and from when on its command and activations are in.
        self.matrices: Mailbox[tuple[Operation, float]] = Mailbox(kernel)
        self.sampler_ready: Mailbox[float] = Mailbox(kernel)
        self.sampled: Mailbox[float] = Mailbox(kernel)
        self.sums_done: list[float | None] = [0.0] * config.chunks  # None while the chunk's matrix is under way
        self.matrix_done = Signal(kernel)

    def generate(self, prompt_length: int, count: int, position: int = 0) -> Run:
        """Prefill ``prompt_length`` tokens from ``position`` on and generate ``count``. Once per machine."""
        for process in (self.front_end.generate(prompt_length, count, position), self.front_end.data_reads(), self._executor(),
                        self._matrix_units()):
            self.kernel.resume(process, 0)
        self.kernel.run()
        return self.result

    def _executor(self) -> Process:
        """Operations one after another, but the other chunk's while the engine multiplies."""
        idle = 0.0
        while True:
            due, _ = yield from self.front_end.operations.first()
            yield max(due, idle)
            _, operation = yield from self.front_end.operations.take()
            begin = self.kernel.now + 1
            while (sums_done := self.sums_done[operation.chunk]) is None:
                yield self.matrix_done
            begin = max(begin, sums_done + 1)
            yield begin
            if operation.instruction.opcode is Opcode.END:
                idle = begin + 1
                continue
            end = yield from self._execute(operation, begin)
            self.result.spans.append(Span(operation, begin, end))
            idle = end + TURN - 1

    def _execute(self, operation: Operation, begin: float) -> Waits[float]:
        """Cycle of the last event."""
        op = operation.instruction
        if op.opcode is Opcode.LINEAR:
            self.sums_done[operation.chunk] = None
            self.matrices.add((operation, begin + 2 + COMMAND_QUEUE))
            return begin + 1  # the next one begins behind the second command
        if op.opcode is Opcode.HEAD:
            self.sampler_ready.add(begin + 2 * MULTIPLY + 2)
            return (yield from self.sampled.take())
        if op.opcode is Opcode.NORM:
            quantized, end = yield from self.operations.normalize(operation, begin)
            if op.flags & Flag.TO_HEAD:
                self.matrices.add((operation, quantized + 1))
        else:
            end = yield from self.operations.runs[op.opcode](operation, begin)
        self.result.busy[op.opcode] += end - begin
        if op.opcode is Opcode.APPEND:
            yield end + 1
            self.front_end.append_done()
            self.result.beats["written"] += operation.tokens * op.count * self.layout.kv_record_beats
        return end

    def _matrix_units(self) -> Process:
        """Ternary engine and LM head, which take the weight stream in the order of the program."""
        end = last_sweep = done = 0.0
        while True:
            operation, ready = yield from self.matrices.take()
            if operation.instruction.opcode is Opcode.LINEAR:
                begin = max(end, max(ready, last_sweep) + self.timing.start)
                end, last_sweep = yield from self._multiply(operation.instruction, begin, end)
                begun = max(done, ready - COMMAND_QUEUE)
                done = end - 1 + self.timing.latency + self.vectors.done
                self.result.busy[Opcode.LINEAR] += done - begun
                self.sums_done[operation.chunk] = done
                self.matrix_done.fire()
            else:
                yield from self._logits(operation.instruction, ready)

    def _multiply(self, op: Instruction, begin: float, free: float) -> Waits[tuple[float, float]]:
        """Lane words, sweep after sweep: cycle behind the last word, and of the first word of the last sweep. The stages of the
        gearbox fill from ``free`` on; all but one are ahead of the stream when the first word is taken, if beats come in time."""
        word_beats = self.config.lane_bits / self.config.bus_bits
        sweeps = [min(op.block_rows, op.rows - first) for first in range(0, op.rows, op.block_rows) for _ in range(op.tiles)]
        taken = min(self.gearbox.latency - 1, sweeps[0]) * word_beats
        begin = max(begin, (yield from self.weights.take(taken, free)) - taken + word_beats)
        words, end = 0, begin
        for number, sweep in enumerate(sweeps):
            words += sweep
            last = number == len(sweeps) - 1
            beats = op.beats if last else words * word_beats
            end = max(begin + sweep, (yield from self.weights.take(beats - taken, begin)))
            taken = beats
            if not last:
                begin = max(end, begin + self.timing.build)
        return end, begin

    def _logits(self, norm: Instruction, ready: float) -> Process:
        """Rows of the LM head, as many ahead of the sampler as its queue holds."""
        row = ceil_div(norm.words * self.config.vector_lanes, self.head.lanes)
        total = norm.rows * row + ceil_div(norm.rows, self.config.bus_bits // 16)  # with the row scales
        ahead = min(total, self.head.places * row)
        end = yield from self.weights.take(ahead, ready)
        start = yield from self.sampler_ready.take()
        end = yield from self.weights.take(total - ahead, max(end, start))
        sampled = max(end - 1 + self.head.latency, start) + Sampler.latency
        self.result.busy[Opcode.HEAD] += end - ready
        self.front_end.token.add(sampled)
        self.sampled.add(sampled)
