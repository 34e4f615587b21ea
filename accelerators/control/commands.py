"""Commands that the executor issues to the units, and the registers and states with which it does so."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, ValueLike, signed
from amaranth.lib import data, wiring

from ..attention.formats import command_layout as attention_command
from ..cache.means import means_command
from ..cache.retrieval import block_rows, retrieval_command
from ..cache.token_list import token_list_command
from ..config import AcceleratorConfig
from ..memory.bursts import BURST_COMMAND
from ..memory.vector import access_layout
from ..numerics import SCALAR
from ..numerics.pipelined import unsigned_product
from ..pipeline import Pipeline
from .isa import Flag, Opcode
from .operation import operation_layout
from .rows import rows_layout
from .steps import Steps

__all__ = ["MULTIPLY", "Issue", "command_layouts"]

PRODUCT_LATENCY = 3
MULTIPLY = 2 + PRODUCT_LATENCY
"""Cycles of a product of two scales: operands, product, normalization."""


def command_layouts(config: AcceleratorConfig) -> dict[str, data.StructLayout]:
    """Output port of the executor -> layout of its commands."""
    tokens, context = range(config.token_lanes + 1), range(config.max_context + 1)
    runs = config.attention_runs
    return {
        "o_read": access_layout(config),
        "o_write": access_layout(config),
        "o_sums": data.StructLayout({"base": 16, "split": 16, "chunk": range(max(config.chunks, 2))}),
        "o_gains": data.StructLayout({"words": 16, "times": 16}),
        "o_table": data.StructLayout({"words": 16, "times": 16}),
        "o_norm": data.StructLayout({"scale": SCALAR, "gain_exponent": signed(8), "norm": 1, "wide": 1, "once": 1,
                                     "inverse_length": SCALAR, "epsilon": SCALAR}),
        "o_embedding": data.StructLayout({"shift": signed(8)}),
        "o_residual": data.StructLayout({"scale": SCALAR}),
        "o_glu": data.StructLayout({"silu": 1, "gate_bits": 6, "up_bits": 6, "scale": SCALAR}),
        "o_engine": data.StructLayout({"tiles": 16, "block_rows": 16, "rows": 24, "tokens": tokens}),
        # The front end makes those of several sequences.
        **({} if config.cache == "paged" else {
            "o_request": data.StructLayout({**({"scores": 1} if config.cache == "evict" else {}), "base": 32, "head": 8,
                                            "position": range(config.max_positions + 1)})}),
        "o_attention": attention_command(config),
        "o_lane": data.StructLayout({**({"start": context, "ends": 1} if runs else {}), "limit": context,
                                     "token": range(max(config.token_lanes, 2)), "head": 8}),
        **({"o_given": BURST_COMMAND, "o_part": BURST_COMMAND} if config.attention_modes else {}),
        "o_head": data.StructLayout({"rows": 24, "words": 16}),
        "o_sampler": data.StructLayout({"scale": SCALAR}),
        **({"o_deviate": token_list_command(config)} if config.selective_recompute else {}),
        **({"o_means": means_command(config), "o_retrieve": retrieval_command(config),
            "o_count": data.StructLayout({"count": range(block_rows(config) + 1)})} if config.block_retrieval else {}),
    }


class Issue:
    """What the sequences of all operations share: the operation, loop registers, and ways to make states.

    Parameters
    ----------
    m : Module
    steps : Steps
        The machine that is under construction when ``send``, ``multiply`` and ``next_token`` are called.
    executor : component with the ports of ``command_layouts``
    launched : dict of str to Signal
        High in the cycle in which an item begins that the event of this name will report.

    Members
    -------
    operation, op : View
        The operation under way, its instruction.
    token, head, sub, tile, tile_end : Signal
        Loops over the tokens of the chunk, heads, heads of a group, tiles of tokens. ``next_tile`` moves on from a tile.
    slot : Signal
        Vector-memory slot of ``token``.
    position : Value
        Position of ``token``.
    offset, group_offset, first_head, lane_head, second : Signal
        Word offsets and numbers of heads; second of two passes.
    last_token, last_head, last_sub, last_of_tile, last_tile : Signal
        The loops are at their end.
    bits : View
        ``magnitudes`` of ``slot``. Like the ends of loops a register late: a state lies between a step and its use.
    scales, products : Array of SCALAR, per slot
        Scales of the activations that NORM produced, of the products that GLU produced.
    is_norm, is_append : Signal
        Kind of the operation, from the second cycle after it was taken.
    is_retrieve : Signal
        Likewise; ``None`` where programs choose no blocks.
    result, key_scale : SCALAR
        Latest result of ``multiply``; the kept one of a key.
    rows : View, sinks : Signal
        The run of rows under way, where attention takes runs, and whether the queries for sinks are at hand; ``None`` elsewhere.
    part : Signal
        Bytes from the operation's first part in memory to that of the lane at hand; ``None`` where there are none.
    """

    def __init__(self, m: Module, steps: Steps, executor: wiring.Component, config: AcceleratorConfig,
                 launched: dict[str, Signal]):
        lanes = config.token_lanes
        self.m, self.steps, self.executor, self.config, self.launched = m, steps, executor, config, launched
        self.operation = Signal(operation_layout(config))
        self.op = self.operation.instruction
        self.token, self.head, self.sub = Signal(range(lanes + 1)), Signal(8), Signal(16)
        self.tile, self.tile_end = Signal(range(lanes + 1)), Signal(range(lanes + 1))
        self.group_offset, self.offset = Signal(16), Signal(16)
        self.first_head, self.lane_head, self.second = Signal(8), Signal(8), Signal()
        self.slot = Signal(range(max(config.token_slots, 2)))
        several = config.cache == "paged"
        self.position = self.operation.positions[self.token] if several else self.operation.position + self.token
        self.scales = Array([Signal(SCALAR, name=f"scale_{i}") for i in range(config.token_slots)])
        self.products = Array([Signal(SCALAR, name=f"product_{i}") for i in range(lanes)])
        self.result, self.key_scale = Signal(SCALAR), Signal(SCALAR)
        self.rows: data.View | None = None
        self.sinks: Signal | None = None
        if config.attention_runs:
            self.rows, self.sinks = Signal(rows_layout(config)), Signal(name="sinks")
        self.part = Signal(32, name="part") if config.attention_modes else None
        self.flag = {each: Signal(name=f"is_{str(each.name).lower()}") for each in Flag}
        m.d.comb += [
            *(signal.eq((self.op.flags & each).any()) for each, signal in self.flag.items()),
            self.slot.eq(self.token + Mux(self.operation.chunk, lanes, 0)),
        ]
        self.last_token, self.last_head, self.last_sub, self.last_of_tile, self.last_tile = (Signal(name=name) for name in (
            "last_token", "last_head", "last_sub", "last_of_tile", "last_tile"))
        self.bits = Signal.like(executor.magnitudes[0])
        self.is_norm, self.is_append = Signal(name="is_norm"), Signal(name="is_append")
        last_token = self.token + 1 == self.operation.tokens
        if several:  # what goes to the LM head is one token, and it may be any
            last_token |= self.is_norm & self.flag[Flag.TO_HEAD]
        m.d.sync += [
            self.last_token.eq(last_token), self.last_head.eq(self.head + 1 == self.op.count),
            self.last_sub.eq(self.sub + 1 == self.op.group), self.last_of_tile.eq(self.token + 1 == self.tile_end),
            self.last_tile.eq(self.tile_end == self.operation.tokens),
            self.bits.eq(executor.magnitudes[self.slot]),
            self.is_norm.eq(self.op.opcode == Opcode.NORM), self.is_append.eq(self.op.opcode == Opcode.APPEND),
        ]
        self.is_retrieve = Signal(name="is_retrieve") if config.block_retrieval else None
        if self.is_retrieve is not None:
            m.d.sync += self.is_retrieve.eq(self.op.opcode == Opcode.RETRIEVE)
        self._product()

    def _product(self) -> None:
        """Product of two pseudo-floats, truncated: operands, product, normalization."""
        m = self.m
        self._left, self._right, exponent = Signal(SCALAR), Signal(SCALAR), Signal(signed(18))
        product, latency = unsigned_product(Pipeline(m), self._left.mantissa, self._right.mantissa,
                                            self.config.multiplier_bits)
        assert latency == PRODUCT_LATENCY
        self._multiply, self._shift, self._multiplying = Signal(), Signal(signed(9)), Signal(1 + latency)
        m.d.sync += [exponent.eq(self._left.exponent + self._right.exponent + self._shift),
                     self._multiplying.eq(Cat(self._multiply, self._multiplying))]
        self._normalized = normalized = Signal(SCALAR)
        with m.If(product[47]):
            m.d.comb += [normalized.mantissa.eq(product[24:]), normalized.exponent.eq(exponent + 24)]
        with m.Elif(product[46]):
            m.d.comb += [normalized.mantissa.eq(product[23:]), normalized.exponent.eq(exponent + 23)]
        with m.If(self._multiplying[-1]):
            m.d.sync += self.result.eq(normalized)

    def restart(self) -> None:
        """Clear the loop registers at the start of an operation."""
        for register in (self.token, self.head, self.sub, self.group_offset, self.offset, self.first_head, self.lane_head,
                         self.second, *([] if self.sinks is None else [self.sinks]), *([] if self.part is None else [self.part])):
            self.steps.set(register, 0)

    def next_tile(self, begin: ValueLike) -> None:
        """Make the tile the one from token ``begin`` on: 0 or ``tile_end``. A run of rows tells where it ends."""
        if self.rows is not None:
            self.steps.set(self.tile, begin)
            return
        end = begin + self.op.tiles
        self.steps.set(self.tile, begin)
        self.steps.set(self.tile_end, Mux(end < self.operation.tokens, end, self.operation.tokens))

    def send(self, name: str, after: str | None, launches: tuple[str, ...] = (), **fields) -> Signal:
        """Offer a command; when it is taken, count what it launches and go on. Returns that condition."""
        m, port = self.m, getattr(self.executor, name)
        command = Signal.like(port.p, name=f"{name[2:]}_command")
        m.d.comb += [command[field].eq(fields.pop(field, 0)) for field in port.p.shape().members]
        assert not fields, f"{name} has no {', '.join(fields)}"
        self.steps.drive(port.valid, 1)
        self.steps.drive(port.p, command)
        with m.If(port.ready):
            for event in launches:
                self.steps.drive(self.launched[event], 1)
            if after is not None:
                self.steps.go(after)
        return port.ready

    def multiply(self, state: str, a, b, after: str, store: data.View | None = None, shift=0) -> None:
        """States that put ``a * b * 2**shift`` into ``result`` and, where it is to stay, ``store`` it."""
        m, steps = self.m, self.steps
        with steps.state(state):
            steps.set(self._left, a)
            steps.set(self._right, b)
            steps.set(self._shift, shift)
            steps.drive(self._multiply, 1)
            steps.go(state + "_MULTIPLY")
        with steps.state(state + "_MULTIPLY"):
            with m.If(self._multiplying[-1]):
                if store is not None:
                    m.d.sync += store.eq(self._normalized)
                steps.go(after)

    def next_token(self, again: str) -> None:
        """Go on with the next token of the chunk, if there is one."""
        self.steps.set(self.token, self.token + 1)
        with self.m.If(self.last_token):
            self.steps.go("DRAIN")
        with self.m.Else():
            self.steps.go(again)
