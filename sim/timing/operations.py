"""Cycles of every operation: what the units promise, put together as ``accelerators/core.py`` connects them.

``start`` is the cycle in which the executor begins an operation (its BEGIN state), the result the cycle of the last event
that the executor waits for. Memory data come from a ``Reader``; all else is arithmetic. Where figures depend on the data
(divisions, rescaling in attention, candidates of the sampler), the usual case counts.
"""

from collections.abc import Callable
from math import log2

from ...accelerators.attention.finish import RECIPROCAL_BITS
from ...accelerators.attention.mix import AHEAD
from ...accelerators.cache.contiguous import ContiguousCache
from ...accelerators.config import AcceleratorConfig
from ...accelerators.control.commands import MULTIPLY
from ...accelerators.control.isa import Flag, Opcode
from ...accelerators.elementwise.align import Align
from ...accelerators.elementwise.embedding import Embedding
from ...accelerators.elementwise.glu import Glu
from ...accelerators.elementwise.norm_quantize import NormQuantize
from ...accelerators.elementwise.residual import ResidualAdd
from ...accelerators.elementwise.rope import Rope
from ...accelerators.elementwise.step_scale import StepScale
from ...accelerators.integers import ceil_div
from ...accelerators.memory.replay import ReplayBuffer
from ...accelerators.memory.vector import VectorMemory
from ...accelerators.memory.writer import BurstWriter
from ...accelerators.streams import Relay, StreamBuffer
from .kernel import Waits
from .memory import Memory, Reader
from .promises import promised, queue_latency
from .records import Operation

__all__ = ["COMMAND_QUEUE", "Operations"]

COMMAND_QUEUE = queue_latency(4)
"""From the executor to a unit: all commands pass a short queue."""

STRIPED_WRITE = 3
"""What a write takes longer through ``PortStripe``."""

LIKELY_SUM = 0.75
"""Unnormalized probability of a row whose logit is near the running maximum: the maximum is rounded up to a whole power of two."""

NEAR_ROWS = 8
"""Rows whose logits are near the maximum; with more rows the sum hardly grows."""


class Operations:
    """Cycle counts of one configuration.

    Parameters
    ----------
    config : AcceleratorConfig
    memory : Memory
    data : Reader
        Of everything but weights and program.
    record_beats : int
        Beats of a K/V record.
    """

    def __init__(self, config: AcceleratorConfig, memory: Memory, data: Reader, record_beats: int) -> None:
        self.config, self.data, self.record_beats = config, data, record_beats
        norm = promised(NormQuantize(config))
        self.norm, self.turn, self.quantized = norm, norm.interval["turn"], norm.latency + StreamBuffer.latency
        self.division = norm.interval["division"]
        self.scale = promised(StepScale(config)).latency
        self.squares = 7 + (config.vector_lanes - 1).bit_length()
        """From the last word of a second pass until the scale unit has the sum of its squares, and gives the scale on."""
        # From a read command of the executor to the first word at a unit, and at the norm.
        self.read = COMMAND_QUEUE + promised(VectorMemory(config)).latency + StreamBuffer.latency + promised(Relay(1)).latency
        self.aligned = self.read + Align.latency + StreamBuffer.latency
        self.loaded = 2 * StreamBuffer.latency
        """From a beat of memory data, around its gearbox, to the unit."""
        self.written = StreamBuffer.latency
        """From a unit's result to vector memory."""
        packer_queue = max(3, 4 * ceil_div(config.max_head_dim, config.kv_lanes))
        self.record_written = 2 + queue_latency(packer_queue) + StreamBuffer.latency + BurstWriter.latency + memory.latency - 1
        if config.memory_ports > 1:
            self.record_written += STRIPED_WRITE
        self.record_interval = promised(ContiguousCache(config)).interval
        self.latency = {Opcode.ROPE: promised(Rope(config)).latency,
                        Opcode.RESIDUAL: promised(ResidualAdd(config)).latency, Opcode.GLU: Glu.latency}
        self.runs: dict[Opcode, Callable[[Operation, float], Waits[float]]] = {
            Opcode.EMBED: self.embed, Opcode.ROPE: self.rope, Opcode.APPEND: self.append, Opcode.ATTEND: self.attend,
            Opcode.RESIDUAL: self.pairs, Opcode.GLU: self.pairs}

    def once(self, words: int) -> float:
        """Cycles per vector that the norm unit quantizes in one pass."""
        return max(words + 1, (self.turn + words - 1) / 2, self.division)

    def embed(self, operation: Operation, start: float) -> Waits[float]:
        """Rows pass through at the rate of their 16-bit words."""
        words = self.config.bus_bits // (16 * self.config.vector_lanes)
        end = yield from self.data.take(operation.tokens * operation.instruction.beats, start + 2, words)
        return end + self.loaded + Embedding.latency + self.written

    def normalize(self, operation: Operation, start: float) -> Waits[tuple[float, float]]:
        """Cycle of the last quantized word, and of the last event."""
        op, config = operation.instruction, self.config
        first = start + 3 + self.aligned
        if op.flags & Flag.GAIN:
            words = config.bus_bits // (16 * config.vector_lanes)
            loaded = yield from self.data.take(op.beats, start + 2, words)
            first = max(first, max(loaded, start + 3 + op.beats * words) + self.loaded + ReplayBuffer.latency + 1)
        tokens = 1 if op.flags & Flag.TO_HEAD else operation.tokens
        scale = 0.0
        for _ in range(tokens):
            measured = first + op.words - 1
            launched = max(measured + self.turn - self.norm.divider.latency - 1, scale)
            second = max(measured + self.turn, launched + 2)
            last = second + op.words - 1
            scale = launched + self.scale["plain"]
            if op.flags & Flag.NORMALIZE:
                scale = max(scale, last + self.squares + self.scale["norm"] - self.scale["plain"])
            first = last + 2
        quantized = last + self.quantized - self.turn
        return quantized, max(quantized, scale)

    def rope(self, operation: Operation, start: float) -> Waits[float]:
        """The table row of a token, then all heads; the next row is loaded when the last head has passed."""
        op, config = operation.instruction, self.config
        beat_words = config.bus_bits / (32 * config.vector_lanes)
        table_words = op.words // 2
        heads = op.count * (op.words + 1) - 2
        end = yield from self.data.take(op.beats, start + 2, max(1, beat_words))
        first = max(start + 2 + self.read, max(end, start + 3 + table_words) + self.loaded + ReplayBuffer.latency)
        for _ in range(operation.tokens - 1):
            end = yield from self.data.take(op.beats, first, max(1, beat_words))
            first = max(first + heads + table_words + 1, end + self.loaded + ReplayBuffer.latency)
        return first + heads + self.written + self.latency[Opcode.ROPE]

    def append(self, operation: Operation, start: float) -> Waits[float]:
        """Vectors are quantized one after another; the last record is in memory when its response is there."""
        op = operation.instruction
        first = start + 2 * MULTIPLY + 2 + self.aligned + op.words - 1 + self.quantized - 2
        record = max(2 * self.once(op.words), self.record_interval, self.record_beats + 2)
        last = first + (operation.tokens * op.count - 1) * record + self.once(op.words) + op.words - 1
        return last + self.record_written
        yield  # a generator, as all others

    def attend(self, operation: Operation, start: float) -> Waits[float]:
        """Per KV head and tile of tokens: queries are quantized, rows stream, lanes are divided one after another. The parts
        of different heads overlap; the queries of two are inside at a time."""
        op, config = operation.instruction, self.config
        per_lane = max(self.once(op.words), 4 + MULTIPLY / op.group)
        cycles = self.record_beats
        header = cycles - 2 * op.beats
        queries = start + 2 * MULTIPLY + self.aligned + op.words - 1 + self.quantized - 2 + op.words - 1 - per_lane
        taken, keys_end, free, last = 0.0, 0.0, start + 2, 0.0
        for _ in range(op.count):
            for first_token in range(0, operation.tokens, op.tiles):
                tokens = min(op.tiles, operation.tokens - first_token)
                lanes, rows = tokens * op.group, operation.position + first_token + tokens
                queries = max(queries, taken) + lanes * per_lane
                taken = max(queries + 2, keys_end + 2)
                turns, groups = ceil_div(lanes, config.mix_lanes), ceil_div(lanes, config.softmax_ways)
                row = max(cycles, groups, config.least_row_cycles, turns * op.beats)
                pace = row / self.record_beats
                end = yield from self.data.take(rows * self.record_beats, max(free, taken - header), pace)
                keys_end = end - row + cycles - op.beats - 1 + StreamBuffer.latency
                free = end + 1
                division = RECIPROCAL_BITS + 3 + self._zero_steps(rows)
                results = max(self._first_result(keys_end, groups, turns * op.beats, rows), last + division - op.words + 1)
                drain = op.beats * (AHEAD + 2) + op.words
                last = results + (lanes - 1) * max(division, drain) + op.words - 1
        return last + self.written

    def _zero_steps(self, rows: int) -> int:
        """Steps in which leading zeros of a sum of probabilities are shifted out: four or one at a time."""
        zeros = self.config.max_context.bit_length() - 1 - int(log2(LIKELY_SUM * min(rows, NEAR_ROWS) * 2) // 1 - 1)
        return zeros // 4 + zeros % 4

    def _first_result(self, keys_end: float, groups: int, mix_beats: int, rows: int) -> float:
        """From the last beat of the last key: as the latency of ``Attention``, for these lanes (groups of them) and rows."""
        tree = (self.config.kv_lanes - 1).bit_length()
        return keys_end + tree + max(49 + groups + mix_beats, 60 + self._zero_steps(rows))

    def pairs(self, operation: Operation, start: float) -> Waits[float]:
        """RESIDUAL and GLU: words of two vectors in turn, token after token."""
        op = operation.instruction
        issue = MULTIPLY + 3
        if op.opcode is Opcode.GLU:
            issue = (3 if op.flags & Flag.SILU else 4) * MULTIPLY + 5
        interval = max(2 * op.words + 1, issue)
        return start + 2 + MULTIPLY + self.read + operation.tokens * interval - 2 + self.written + self.latency[op.opcode]
        yield  # a generator, as all others
