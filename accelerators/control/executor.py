"""Executor: runs queued operations one after another by issuing commands to the units; touches no data itself."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import POSITION_BITS, AcceleratorConfig
from ..numerics import SCALAR
from .commands import Issue, command_layouts
from .isa import Flag, Opcode, opcodes
from .operation import operation_layout
from .rows import rows_layout
from .sequences import add_sequences
from .steps import Steps

__all__ = ["Executor"]

ITEM_BITS = 12


class Executor(wiring.Component):
    """Issues the commands of each operation, waits until everything they cause has happened, and takes the next.

    Within an operation the units work as a pipeline: commands go into the units' queues as fast as they are taken. After
    LINEAR it does not wait: operations of the other chunk in flight begin while the engine multiplies; one of the same
    chunk begins when the sums are in vector memory.

    Members
    -------
    i_operation : In(stream of operation_layout)
    o_* : Out(streams of command_layouts)
        Commands; a long vector that is quantized is read twice, so it has two ``o_read``.
    i_scale : In(stream of SCALAR)
        Scales of the activations that NORM produced, token after token.
    i_rows : In(stream of rows_layout), window : In(20)
        Where attention takes runs: those of ATTEND, tile after tile; with a window, the latest positions that a token sees.
    words : Out(16)
        Where programs may split an attention: that field of the operation. ``o_given`` and ``o_part`` then are reads and writes of
        partial results, lane after lane; each write is reported by ``record_written``.
    budget : In(20); beats, words : Out(16)
        With a budget of rows per K/V head: the budget, and those fields of the operation. ``o_request`` then also has a request with
        ``scores`` for each attention of a head: its weights count for the rows of the head.
    magnitudes : In, per slot {first: 6, second: 6}
        Bit lengths of the latest matrix result.
    top_exponents : In, per token signed(16)
        Largest exponent of a token's attention outputs.
    inverse_temperature : In(SCALAR)
    data_packets : Out(12)
        Packets of memory data (not of matrices) that the operation still takes; the data gate is open while it is not 0.
    packet_taken, vector_written, vector_quantized, scale_stored, exponent_stored, record_written, token_sampled : In(1)
        One pulse for each completed item; a list of tokens or of blocks counts as a token.
    sums_written : In(1)
        One pulse for each completed matrix, in the order of the commands.
    opcode, flags, tokens, group, tag : Out
        Of the operation under way; route the data streams. ``opcode`` is 0 when there is none. While an operation waits for a
        matrix, ``tag`` is the matrix's.
    linear : Out(1), linear_tag : Out(16)
        A matrix is under way; tag of the operation whose sums come next.
    operation_start, append_done : Out(1)
        Pulses; ``next_opcode`` is the operation that starts. An APPEND has been done, or a MEANS.
    attended : Out(1)
        With ``attention_modes``, a pulse: an ATTEND has been done.

    Latency: 2 cycles from an operation to its first command, and 5 for each product of scales in front of a command. Interval:
    one command per cycle besides those products; the next operation is taken 3 cycles after the last item was reported.
    """

    latency = 2
    interval = None

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        lanes = config.token_lanes
        super().__init__({
            "i_operation": In(stream.Signature(operation_layout(config))),
            **{name: Out(stream.Signature(layout)) for name, layout in command_layouts(config).items()},
            "i_scale": In(stream.Signature(SCALAR)),
            **({"i_rows": In(stream.Signature(rows_layout(config)))} if config.attention_runs else {}),
            **({"window": In(POSITION_BITS)} if config.cache == "window" else {}),
            **({"budget": In(POSITION_BITS), "beats": Out(16), "words": Out(16)} if config.cache == "evict" else {}),
            **({"words": Out(16), "attended": Out(1)} if config.attention_modes else {}),
            "magnitudes": In(data.ArrayLayout(data.StructLayout({"first": 6, "second": 6}), config.token_slots)),
            "top_exponents": In(data.ArrayLayout(signed(16), lanes)),
            "inverse_temperature": In(SCALAR),
            "data_packets": Out(ITEM_BITS),
            **dict.fromkeys((*self.EVENTS, "sums_written"), In(1)),
            "opcode": Out(8), "flags": Out(8), "tokens": Out(range(lanes + 1)), "group": Out(16), "tag": Out(16),
            "linear": Out(1), "linear_tag": Out(16),
            "next_opcode": Out(8), "operation_start": Out(1), "append_done": Out(1),
        })

    EVENTS = ("packet_taken", "vector_written", "vector_quantized", "scale_stored", "exponent_stored", "record_written",
              "token_sampled")

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "Executor":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        launched = {name: Signal(name=f"launch_{name}") for name in (*self.EVENTS, "sums_written")}
        with Steps(m, "IDLE") as steps:
            self._build(m, Issue(m, steps, self, self.config, launched))
        return m

    def _build(self, m: Module, issue: Issue) -> None:
        operation, op, steps, launched = issue.operation, issue.op, issue.steps, issue.launched

        # Outstanding items; the operation ends when all have happened. But for the data gate they are counted a register late.
        outstanding = []
        for name in self.EVENTS[1:]:  # the first one is ``packet_taken``
            count, begun, ended = (Signal(bits, name=f"{what}_{name}") for what, bits in
                                   (("outstanding", ITEM_BITS), ("begun", 1), ("ended", 1)))
            m.d.sync += [begun.eq(launched[name]), ended.eq(getattr(self, name)), count.eq(count + begun - ended)]
            outstanding += [begun, count]
        m.d.sync += self.data_packets.eq(self.data_packets + launched["packet_taken"] - self.packet_taken)
        outstanding.append(self.data_packets)
        drained = Signal()
        m.d.comb += drained.eq(~Cat(outstanding).any())
        waiting = Signal()
        pending = self._matrices(m, operation, op.tag, launched["sums_written"])

        # Activation scales of NORM come back in token order.
        scale_slot = Signal.like(issue.slot)
        m.d.comb += self.i_scale.ready.eq(1)
        with m.If(self.i_scale.valid):
            m.d.sync += [issue.scales[scale_slot].eq(self.i_scale.p), scale_slot.eq(scale_slot + 1)]
        m.d.comb += [
            self.flags.eq(op.flags), self.tokens.eq(operation.tokens), self.group.eq(op.group),
            self.tag.eq(Mux(waiting, self.linear_tag, op.tag)),
            self.next_opcode.eq(op.opcode),
        ]

        if issue.config.cache == "evict":
            m.d.comb += [self.beats.eq(op.beats), self.words.eq(op.words)]
        if issue.config.attention_modes:
            m.d.comb += self.words.eq(op.words)

        last = operation.sampled if issue.config.cache == "paged" else operation.tokens - 1
        from_last = (op.opcode == Opcode.HEAD) | ((op.opcode == Opcode.NORM) & issue.flag[Flag.TO_HEAD])
        with steps.state("IDLE"):
            m.d.comb += self.i_operation.ready.eq(1)
            with m.If(self.i_operation.valid):
                m.d.sync += operation.eq(self.i_operation.p)
                issue.restart()
                steps.go("BEGIN")
        with steps.state("BEGIN"):
            m.d.comb += waiting.eq(pending.bit_select(operation.chunk, 1))
            with m.If(~waiting):
                m.d.comb += self.operation_start.eq(1)
                issue.next_tile(Const(0))
                m.d.sync += scale_slot.eq(issue.slot)
                with m.If(from_last):
                    steps.set(issue.token, last)
                    m.d.sync += scale_slot.eq(issue.slot + last)
                with m.Switch(op.opcode):
                    for opcode in opcodes(self.config):
                        if opcode is not Opcode.END:
                            with m.Case(opcode):
                                steps.go(opcode.name)
                    with m.Default():
                        steps.go("IDLE")
        with steps.state("DRAIN"):
            with m.If(drained):
                m.d.comb += self.append_done.eq(issue.is_append | (op.opcode == Opcode.MEANS) if self.config.block_retrieval else
                                                issue.is_append)
                if self.config.attention_modes:
                    m.d.comb += self.attended.eq(op.opcode == Opcode.ATTEND)
                steps.go("IDLE")
        add_sequences(issue)
        with m.If(~(steps.ongoing("IDLE") | steps.ongoing("BEGIN"))):
            m.d.comb += self.opcode.eq(op.opcode)

    def _matrices(self, m: Module, operation, tag, begins: Signal) -> Signal:
        """Which chunks have a matrix under way; they end in the order in which they began."""
        pending, oldest = Signal(2), Signal()
        tags = Signal(data.ArrayLayout(16, 2))
        with m.If(self.sums_written):
            m.d.sync += [pending.bit_select(oldest, 1).eq(0), oldest.eq(~oldest)]
        with m.If(begins):
            m.d.sync += [pending.bit_select(operation.chunk, 1).eq(1), tags[operation.chunk].eq(tag)]
            with m.If(~pending.any()):
                m.d.sync += oldest.eq(operation.chunk)
        m.d.comb += [self.linear.eq(pending.any()), self.linear_tag.eq(tags[oldest])]
        return pending
