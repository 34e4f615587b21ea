"""Executor: runs queued operations one after another by issuing commands to the units; touches no data itself."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig
from ..memory.vector import access_layout
from ..numerics import SCALAR
from .isa import Flag, Opcode
from .operation import operation_layout

__all__ = ["Executor", "command_layouts"]


def command_layouts(config: AcceleratorConfig) -> dict[str, data.StructLayout]:
    """Output port of the executor -> layout of its commands."""
    tokens, context = range(config.token_lanes + 1), range(config.max_context + 1)
    return {
        "o_read": access_layout(config),
        "o_write": access_layout(config),
        "o_sums": data.StructLayout({"base": 16, "split": 16}),
        "o_gains": data.StructLayout({"words": 16, "times": 16}),
        "o_table": data.StructLayout({"words": 16, "times": 16}),
        "o_norm": data.StructLayout({"scale": SCALAR, "gain_exponent": signed(8), "norm": 1, "wide": 1,
                                     "inverse_length": SCALAR, "epsilon": SCALAR}),
        "o_embedding": data.StructLayout({"shift": signed(8)}),
        "o_residual": data.StructLayout({"scale": SCALAR}),
        "o_glu": data.StructLayout({"silu": 1, "gate_bits": 6, "up_bits": 6, "scale": SCALAR}),
        "o_engine": data.StructLayout({"tiles": 16, "block_rows": 16, "rows": 24, "tokens": tokens}),
        "o_request": data.StructLayout({"base": 32, "head": 8, "position": context}),
        "o_attention": data.StructLayout({"lanes": range(config.query_lanes + 1), "rows": context, "beats": 16,
                                          "words": 16}),
        "o_lane": data.StructLayout({"limit": context, "token": range(max(config.token_lanes, 2)), "head": 8}),
        "o_head": data.StructLayout({"rows": 24, "words": 16}),
        "o_sampler": data.StructLayout({"scale": SCALAR}),
    }


class Executor(wiring.Component):
    """Issues the commands of each operation, waits until everything they cause has happened, and takes the next.

    Within an operation the units work as a pipeline: commands go into the units' queues as fast as they are taken.

    Members
    -------
    i_operation : In(stream of operation_layout)
    o_* : Out(streams of command_layouts)
        Commands; a vector that is quantized is read twice, so it has two ``o_read``.
    i_scale : In(stream of SCALAR)
        Scales of the activations that NORM produced, token after token.
    magnitudes : In, per token {first: 6, second: 6}
        Bit lengths of the latest matrix result.
    top_exponents : In, per token signed(16)
        Largest exponent of a token's attention outputs.
    inverse_temperature : In(SCALAR)
    data_packets : Out(8)
        Packets of memory data that the operation still takes; the data gate is open while it is not 0.
    packet_taken, vector_written, vector_quantized, scale_stored, sums_written, exponent_stored, record_written,
    token_sampled : In(1)
        One pulse for each completed item.
    opcode, flags, tokens, group, tag : Out
        Of the operation under way; route the data streams. ``opcode`` is 0 when there is none.
    operation_start, append_done : Out(1)
        Pulses; ``next_opcode`` is the operation that starts.

    Latency: 2 cycles from an operation to its first command, and 3 for each product of scales in front of a command. Interval:
    one command per cycle besides those products; the next operation is taken 2 cycles after the last item was reported.
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
            "magnitudes": In(data.ArrayLayout(data.StructLayout({"first": 6, "second": 6}), lanes)),
            "top_exponents": In(data.ArrayLayout(signed(16), lanes)),
            "inverse_temperature": In(SCALAR),
            "data_packets": Out(8),
            **dict.fromkeys(self.EVENTS, In(1)),
            "opcode": Out(8), "flags": Out(8), "tokens": Out(range(lanes + 1)), "group": Out(16), "tag": Out(16),
            "next_opcode": Out(8), "operation_start": Out(1), "append_done": Out(1),
        })

    EVENTS = ("packet_taken", "vector_written", "vector_quantized", "scale_stored", "sums_written", "exponent_stored",
              "record_written", "token_sampled")

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "Executor":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        config = self.config
        lanes = config.token_lanes
        operation = Signal(operation_layout(config))
        op = operation.instruction
        token, head, sub = Signal(range(lanes + 1)), Signal(8), Signal(16)
        tile, tile_end = Signal(range(lanes + 1)), Signal(range(lanes + 1))
        group_offset, offset, first_head, lane_head = Signal(16), Signal(16), Signal(8), Signal(8)
        scales = Array([Signal(SCALAR, name=f"scale_{i}") for i in range(lanes)])
        products = Array([Signal(SCALAR, name=f"product_{i}") for i in range(lanes)])
        second = Signal()
        result = Signal(SCALAR)
        key_scale = Signal(SCALAR)
        flag = {each: Signal(name=f"is_{each.name.lower()}") for each in Flag}
        m.d.comb += [signal.eq((op.flags & each).any()) for each, signal in flag.items()]

        # Outstanding items; the operation ends when all have happened.
        launched = {name: Signal(name=f"launch_{name}") for name in self.EVENTS}
        outstanding = []
        for name in self.EVENTS:
            count = self.data_packets if name == "packet_taken" else Signal(8, name=f"outstanding_{name}")
            m.d.sync += count.eq(count + launched[name] - getattr(self, name))
            outstanding.append(count)
        drained = Signal()
        m.d.comb += drained.eq(~Cat(outstanding).any())

        # Product of two pseudo-floats, truncated: operands, product, normalization.
        left, right, product = Signal(SCALAR), Signal(SCALAR), Signal(48)
        exponent = Signal(signed(18))
        m.d.sync += [product.eq(left.mantissa * right.mantissa), exponent.eq(left.exponent + right.exponent)]
        normalized = Signal(SCALAR)
        with m.If(product[47]):
            m.d.comb += [normalized.mantissa.eq(product[24:]), normalized.exponent.eq(exponent + 24)]
        with m.Elif(product[46]):
            m.d.comb += [normalized.mantissa.eq(product[23:]), normalized.exponent.eq(exponent + 23)]

        def send(name: str, after: str, launches: tuple[str, ...] = (), **fields):
            """Offer a command; when it is taken, count what it launches and go on. Returns that condition."""
            port = getattr(self, name)
            m.d.comb += [port.valid.eq(1), *(port.p[field].eq(value) for field, value in fields.items())]
            with m.If(port.ready):
                m.d.comb += [launched[event].eq(1) for event in launches]
                m.next = after
            return port.ready

        def multiply(state: str, a, b, after: str, destination=result, shift=0) -> None:
            """States that store ``a * b * 2**shift`` in ``destination``."""
            with m.State(state):
                m.d.sync += [left.eq(a), right.eq(b)]
                m.next = state + "_MULTIPLY"
            with m.State(state + "_MULTIPLY"):
                m.next = state + "_NORMALIZE"
            with m.State(state + "_NORMALIZE"):
                m.d.sync += [destination.mantissa.eq(normalized.mantissa),
                             destination.exponent.eq(Mux(normalized.mantissa == 0, 0, normalized.exponent + shift))]
                m.next = after

        # Activation scales of NORM come back in token order.
        scale_token = Signal(range(lanes + 1))
        m.d.comb += self.i_scale.ready.eq(1)
        with m.If(self.i_scale.valid):
            m.d.sync += [scales[scale_token].eq(self.i_scale.p), scale_token.eq(scale_token + 1)]

        last_token = Signal()
        m.d.comb += [
            last_token.eq(token + 1 == operation.tokens),
            tile_end.eq(Mux(tile + op.tiles < operation.tokens, tile + op.tiles, operation.tokens)),
            self.flags.eq(op.flags), self.tokens.eq(operation.tokens), self.group.eq(op.group), self.tag.eq(op.tag),
            self.next_opcode.eq(op.opcode),
        ]
        scale = scales[token]
        kv_wide = int(config.kv_bits == 16)

        with m.FSM() as fsm:
            with m.State("IDLE"):
                m.d.comb += self.i_operation.ready.eq(1)
                with m.If(self.i_operation.valid):
                    m.d.sync += operation.eq(self.i_operation.p)
                    m.next = "BEGIN"
            with m.State("BEGIN"):
                m.d.comb += self.operation_start.eq(1)
                m.d.sync += [token.eq(0), head.eq(0), sub.eq(0), tile.eq(0), group_offset.eq(0), offset.eq(0),
                             first_head.eq(0), lane_head.eq(0), second.eq(0)]
                with m.Switch(op.opcode):
                    for opcode, state in ((Opcode.EMBED, "EMBED"), (Opcode.NORM, "NORM"), (Opcode.LINEAR, "LINEAR"),
                                          (Opcode.ROPE, "ROPE"), (Opcode.APPEND, "APPEND"), (Opcode.ATTEND, "ATTEND"),
                                          (Opcode.RESIDUAL, "RESIDUAL"), (Opcode.GLU, "GLU"), (Opcode.HEAD, "HEAD")):
                        with m.Case(opcode):
                            m.next = state
                    with m.Default():
                        m.next = "IDLE"
                with m.If(op.opcode == Opcode.NORM):
                    m.d.sync += scale_token.eq(Mux(flag[Flag.TO_HEAD], operation.tokens - 1, 0))
                    with m.If(flag[Flag.TO_HEAD]):
                        m.d.sync += token.eq(operation.tokens - 1)
                with m.If(op.opcode == Opcode.HEAD):
                    m.d.sync += token.eq(operation.tokens - 1)
            with m.State("DRAIN"):
                with m.If(drained):
                    m.d.comb += self.append_done.eq(op.opcode == Opcode.APPEND)
                    m.next = "IDLE"

            def next_token(again: str) -> None:
                m.d.sync += token.eq(token + 1)
                m.next = again
                with m.If(last_token):
                    m.next = "DRAIN"

            # EMBED: one row per token.
            with m.State("EMBED"):
                send("o_embedding", "EMBED_WRITE", ("packet_taken",), shift=op.shift)
            with m.State("EMBED_WRITE"):
                with m.If(send("o_write", "EMBED", ("vector_written",), token=token, base=op.destination, words=op.words)):
                    next_token("EMBED")

            # NORM: gains once, then every token's vector twice.
            with m.State("NORM"):
                m.next = "NORM_HEAD"
                with m.If(flag[Flag.GAIN]):
                    m.next = "NORM"
                    times = Mux(flag[Flag.TO_HEAD], 2, operation.tokens << 1)
                    send("o_gains", "NORM_HEAD", ("packet_taken",), words=op.words, times=times)
            with m.State("NORM_HEAD"):
                m.next = "READ_1"
                with m.If(flag[Flag.TO_HEAD]):
                    m.next = "NORM_HEAD"
                    send("o_head", "READ_1", rows=op.rows, words=op.words)

            # A vector into norm + quantize: statistics pass, command, quantization pass.
            source = Mux(second, op.destination, op.source) + offset
            with m.State("READ_1"):
                send("o_read", "QUANTIZE", token=token, base=source, words=op.words)
            with m.State("QUANTIZE"):
                is_norm = op.opcode == Opcode.NORM
                norm_scale = Signal(SCALAR)
                m.d.comb += norm_scale.eq(result)
                with m.If(is_norm):
                    m.d.comb += norm_scale.eq(op.scalar_a)
                    with m.If(flag[Flag.ALIGN]):
                        m.d.comb += norm_scale.exponent.eq(op.scalar_a.exponent + Array(self.top_exponents)[token])
                    with m.If(flag[Flag.PRODUCT]):
                        m.d.comb += norm_scale.eq(products[token])
                with m.Elif((op.opcode == Opcode.APPEND) & ~second):
                    m.d.comb += norm_scale.eq(key_scale)
                with m.If(is_norm & self.o_norm.ready):
                    m.d.comb += launched["scale_stored"].eq(1)
                send("o_norm", "READ_2", ("vector_quantized",), scale=norm_scale,
                     gain_exponent=Mux(is_norm & flag[Flag.GAIN], op.shift, 0), norm=is_norm & flag[Flag.NORMALIZE],
                     wide=Mux(is_norm, flag[Flag.WIDE], kv_wide), inverse_length=op.scalar_b, epsilon=op.scalar_c)
            with m.State("READ_2"):
                with m.If(send("o_read", "DRAIN", token=token, base=source, words=op.words)):
                    with m.Switch(op.opcode):
                        with m.Case(Opcode.NORM):
                            next_token("READ_1")
                        with m.Case(Opcode.APPEND):
                            m.d.sync += second.eq(~second)
                            m.next = "READ_1"
                            with m.If(second):
                                m.d.sync += [head.eq(head + 1), offset.eq(offset + op.words)]
                                m.next = "APPEND_REQUEST"
                                with m.If(head + 1 == op.count):
                                    m.d.sync += [head.eq(0), offset.eq(0)]
                                    next_token("APPEND")
                        with m.Default():
                            m.next = "ATTEND_WRITE"

            # LINEAR: the matrix for all tokens of the chunk at once.
            with m.State("LINEAR"):
                send("o_sums", "LINEAR_ENGINE", ("sums_written",), base=op.destination, split=op.other)
            with m.State("LINEAR_ENGINE"):
                send("o_engine", "DRAIN", ("packet_taken",), tiles=op.tiles, block_rows=op.block_rows, rows=op.rows,
                     tokens=operation.tokens)

            # ROPE: table row of the position once, then every head.
            half = op.words >> 1
            with m.State("ROPE"):
                send("o_table", "ROPE_READ", ("packet_taken",), words=half, times=op.count)
            rotary = dict(token=token, base=op.source + offset, words=half, offset=half, paired=1)
            with m.State("ROPE_READ"):
                send("o_read", "ROPE_WRITE", **rotary)
            with m.State("ROPE_WRITE"):
                with m.If(send("o_write", "ROPE_READ", ("vector_written",), **rotary)):
                    m.d.sync += [offset.eq(offset + op.words), head.eq(head + 1)]
                    with m.If(head + 1 == op.count):
                        m.d.sync += [offset.eq(0), head.eq(0)]
                        next_token("ROPE")

            # APPEND: per token and KV head a record of K and V.
            multiply("APPEND", scale, op.scalar_a, "APPEND_VALUE", destination=key_scale)
            multiply("APPEND_VALUE", scale, op.scalar_b, "APPEND_REQUEST")
            with m.State("APPEND_REQUEST"):
                send("o_request", "READ_1", ("record_written",), base=op.address, head=head,
                     position=operation.position + token)

            # ATTEND: per KV head and tile of tokens, one lane per (token, query head).
            with m.State("ATTEND"):
                m.d.sync += [token.eq(tile), offset.eq(group_offset), lane_head.eq(first_head), sub.eq(0)]
                send("o_attention", "ATTEND_SCALE", ("packet_taken",), lanes=(tile_end - tile) * op.group[:8],
                     rows=operation.position + tile_end, beats=op.beats, words=op.words)
            multiply("ATTEND_SCALE", scale, op.scalar_a, "ATTEND_LANE")
            with m.State("ATTEND_LANE"):
                send("o_lane", "READ_1", ("exponent_stored",), limit=operation.position + token + 1, token=token,
                     head=lane_head)
            with m.State("ATTEND_WRITE"):
                with m.If(send("o_write", "ATTEND_LANE", ("vector_written",), token=token, base=op.destination + offset,
                               words=op.words)):
                    m.d.sync += [sub.eq(sub + 1), offset.eq(offset + op.words), lane_head.eq(lane_head + 1)]
                    with m.If(sub + 1 == op.group):
                        m.d.sync += [sub.eq(0), token.eq(token + 1), offset.eq(group_offset), lane_head.eq(first_head)]
                        m.next = "ATTEND_SCALE"
                        with m.If(token + 1 == tile_end):
                            m.d.sync += tile.eq(tile_end)
                            m.next = "ATTEND"
                            with m.If(tile_end == operation.tokens):
                                m.d.sync += [tile.eq(0), head.eq(head + 1), group_offset.eq(offset + op.words),
                                             first_head.eq(lane_head + 1)]
                                with m.If(head + 1 == op.count):
                                    m.next = "DRAIN"

            # RESIDUAL.
            multiply("RESIDUAL", scale, op.scalar_a, "RESIDUAL_COMMAND")
            with m.State("RESIDUAL_COMMAND"):
                send("o_residual", "RESIDUAL_READ", scale=result)
            with m.State("RESIDUAL_READ"):
                send("o_read", "RESIDUAL_WRITE", token=token, base=op.source, words=op.words, paired=1,
                     offset=op.destination - op.source)
            with m.State("RESIDUAL_WRITE"):
                with m.If(send("o_write", "RESIDUAL", ("vector_written",), token=token, base=op.destination, words=op.words)):
                    next_token("RESIDUAL")

            # GLU: the product's scale is s * s [* s] * scalar_b, shifted by what the unit normalizes away.
            bits = Array(self.magnitudes)[token]
            multiply("GLU", scale, op.scalar_a, "GLU_COMMAND")
            with m.State("GLU_COMMAND"):
                send("o_glu", "GLU_READ", silu=flag[Flag.SILU], gate_bits=bits.first, up_bits=bits.second, scale=result)
            with m.State("GLU_READ"):
                send("o_read", "GLU_WRITE", token=token, base=op.source, words=op.words, paired=1,
                     offset=op.other - op.source)
            with m.State("GLU_WRITE"):
                send("o_write", "GLU_SQUARE", ("vector_written",), token=token, base=op.destination, words=op.words)
            multiply("GLU_SQUARE", scale, scale, "GLU_POWER")
            with m.State("GLU_POWER"):
                m.next = "GLU_CUBE"
                with m.If(flag[Flag.SILU]):
                    m.next = "GLU_PRODUCT"
            multiply("GLU_CUBE", result, scale, "GLU_PRODUCT")
            shift = Mux(flag[Flag.SILU], bits.first, bits.first << 1) + bits.second - 31
            multiply("GLU_PRODUCT", result, op.scalar_b, "GLU_NEXT", destination=products[token], shift=shift)
            with m.State("GLU_NEXT"):
                next_token("GLU")

            # HEAD: weights of the LM head; its activations went ahead with NORM.
            multiply("HEAD", scale, op.scalar_a, "HEAD_TEMPERATURE")
            multiply("HEAD_TEMPERATURE", result, self.inverse_temperature, "HEAD_SAMPLER")
            with m.State("HEAD_SAMPLER"):
                send("o_sampler", "DRAIN", ("packet_taken", "token_sampled"), scale=result)
        with m.If(~(fsm.ongoing("IDLE") | fsm.ongoing("BEGIN"))):
            m.d.comb += self.opcode.eq(op.opcode)
        return m
