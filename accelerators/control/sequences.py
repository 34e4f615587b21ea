"""The commands of every operation, as states of the executor's machine. The state that an operation begins with has the
name of its opcode; all end in DRAIN, but LINEAR, which lets the next operation begin."""

from amaranth.hdl import Array, Const, Mux, Signal, signed

from ..numerics import SCALAR
from ..numerics.pipelined import adder_tree
from .commands import Issue
from .isa import Flag, Opcode

__all__ = ["add_sequences", "vector_scale"]


def vector_scale(x: Issue) -> Signal:
    """Real value of one unit of the vector that goes into norm + quantize, a register late: a read lies between a step and its use."""
    m, op = x.m, x.op
    unaligned, top, scale = Signal(SCALAR), Signal(signed(16)), Signal(SCALAR)
    m.d.sync += [unaligned.eq(x.result), top.eq(0)]
    with m.If(op.opcode == Opcode.NORM):
        m.d.sync += unaligned.eq(op.scalar_a)
        with m.If(x.flag[Flag.PRODUCT]):
            m.d.sync += unaligned.eq(x.products[x.token])
        with m.Elif(x.flag[Flag.ALIGN]):
            m.d.sync += top.eq(Array(x.executor.top_exponents)[x.token])
    with m.Elif((op.opcode == Opcode.APPEND) & ~x.second):
        m.d.sync += unaligned.eq(x.key_scale)
    m.d.comb += [scale.mantissa.eq(unaligned.mantissa), scale.exponent.eq(unaligned.exponent + top)]
    return scale


def add_sequences(x: Issue, scale: Signal) -> None:
    """All states, in the order of ``Opcode``; ``scale`` is ``vector_scale``."""
    _embed(x)
    _norm(x)
    _quantize(x, scale)
    _linear(x)
    _rope(x)
    _append(x)
    _attend(x)
    _residual(x)
    _glu(x)
    _head(x)


def _embed(x: Issue) -> None:
    """One row per token."""
    m, op = x.m, x.op
    with m.State("EMBED"):
        x.send("o_embedding", "EMBED_WRITE", ("packet_taken",), shift=op.shift)
    with m.State("EMBED_WRITE"):
        with m.If(x.send("o_write", "EMBED", ("vector_written",), token=x.slot, base=op.destination, words=op.words)):
            x.next_token("EMBED")


def _norm(x: Issue) -> None:
    """Gains once, then every token's vector twice."""
    m, op = x.m, x.op
    with m.State("NORM"):
        m.next = "NORM_HEAD"
        with m.If(x.flag[Flag.GAIN]):
            m.next = "NORM"
            times = Mux(x.flag[Flag.TO_HEAD], 2, x.operation.tokens << 1)
            x.send("o_gains", "NORM_HEAD", ("packet_taken",), words=op.words, times=times)
    with m.State("NORM_HEAD"):
        m.next = "READ"
        with m.If(x.flag[Flag.TO_HEAD]):
            m.next = "NORM_HEAD"
            x.send("o_head", "READ", rows=op.rows, words=op.words)


def _quantize(x: Issue, scale: Signal) -> None:
    """A vector into norm + quantize: statistics pass, command, quantization pass. A head of K, V or Q passes once."""
    m, op, flag = x.m, x.op, x.flag
    kv_wide = int(x.config.kv_bits == 16)
    is_norm = op.opcode == Opcode.NORM
    access = dict(token=x.slot, base=Mux(x.second, op.destination, op.source) + x.offset, words=op.words)
    with m.State("READ"):
        x.send("o_read", "QUANTIZE", **access)
    with m.State("QUANTIZE"):
        with m.If(is_norm & x.executor.o_norm.ready):
            m.d.comb += x.launched["scale_stored"].eq(1)
        taken = x.send("o_norm", "READ_AGAIN", ("vector_quantized",), scale=scale, once=~is_norm,
                       gain_exponent=Mux(is_norm & flag[Flag.GAIN], op.shift, 0), norm=is_norm & flag[Flag.NORMALIZE],
                       wide=Mux(is_norm, flag[Flag.WIDE], kv_wide), inverse_length=op.scalar_b, epsilon=op.scalar_c)
        with m.If(taken & ~is_norm):
            m.next = "ATTEND_WRITE"
            with m.If(op.opcode == Opcode.APPEND):
                m.d.sync += x.second.eq(~x.second)
                m.next = "READ"
                with m.If(x.second):
                    m.d.sync += [x.head.eq(x.head + 1), x.offset.eq(x.offset + op.words)]
                    m.next = "APPEND_REQUEST"
                    with m.If(x.last_head):
                        m.d.sync += [x.head.eq(0), x.offset.eq(0)]
                        x.next_token("APPEND")
    with m.State("READ_AGAIN"):
        with m.If(x.send("o_read", "READ", **access)):
            x.next_token("READ")


def _linear(x: Issue) -> None:
    """The matrix for all tokens of the chunk at once."""
    m, op = x.m, x.op
    with m.State("LINEAR"):
        x.send("o_sums", "LINEAR_ENGINE", base=op.destination, split=op.other, chunk=x.operation.chunk)
    with m.State("LINEAR_ENGINE"):
        x.send("o_engine", "IDLE", ("sums_written",), tiles=op.tiles, block_rows=op.block_rows, rows=op.rows,
               tokens=x.operation.tokens)


def _rope(x: Issue) -> None:
    """Table row of the position once, then every head."""
    m, op = x.m, x.op
    half = op.words >> 1
    rotary = dict(token=x.slot, base=op.source + x.offset, words=half, offset=half, paired=1)
    with m.State("ROPE"):
        x.send("o_table", "ROPE_READ", ("packet_taken",), words=half, times=op.count)
    with m.State("ROPE_READ"):
        x.send("o_read", "ROPE_WRITE", **rotary)
    with m.State("ROPE_WRITE"):
        with m.If(x.send("o_write", "ROPE_READ", ("vector_written",), **rotary)):
            m.d.sync += [x.offset.eq(x.offset + op.words), x.head.eq(x.head + 1)]
            with m.If(x.last_head):
                m.d.sync += [x.offset.eq(0), x.head.eq(0)]
                x.next_token("ROPE")


def _append(x: Issue) -> None:
    """Per token and KV head a record of K and V."""
    m, op = x.m, x.op
    scale = x.scales[x.slot]
    x.multiply("APPEND", scale, op.scalar_a, "APPEND_VALUE", destination=x.key_scale)
    x.multiply("APPEND_VALUE", scale, op.scalar_b, "APPEND_REQUEST")
    with m.State("APPEND_REQUEST"):
        x.send("o_request", "READ", ("record_written",), base=op.address, head=x.head,
               position=x.operation.position + x.token)


def _attend(x: Issue) -> None:
    """Per KV head and tile of tokens, one lane per (token, query head)."""
    m, op, operation, token = x.m, x.op, x.operation, x.token
    count = range(x.config.query_lanes + 1)
    tile_tokens, group, lanes = Signal(count), Signal(count), Signal(count)
    m.d.comb += [tile_tokens.eq(x.tile_end - x.tile), group.eq(op.group),
                 lanes.eq(adder_tree([Mux(bit, tile_tokens << k, 0) for k, bit in enumerate(group)]))]  # too small for a multiplier
    with m.State("ATTEND"):
        m.d.sync += [token.eq(x.tile), x.offset.eq(x.group_offset), x.lane_head.eq(x.first_head), x.sub.eq(0)]
        x.send("o_attention", "ATTEND_SCALE", ("packet_taken",), lanes=lanes,
               rows=operation.position + x.tile_end, beats=op.beats, words=op.words)
    x.multiply("ATTEND_SCALE", x.scales[x.slot], op.scalar_a, "ATTEND_LANE")
    with m.State("ATTEND_LANE"):
        x.send("o_lane", "READ", ("exponent_stored",), limit=operation.position + token + 1, token=token, head=x.lane_head)
    with m.State("ATTEND_WRITE"):
        with m.If(x.send("o_write", "ATTEND_LANE", ("vector_written",), token=x.slot, base=op.destination + x.offset,
                         words=op.words)):
            m.d.sync += [x.sub.eq(x.sub + 1), x.offset.eq(x.offset + op.words), x.lane_head.eq(x.lane_head + 1)]
            with m.If(x.last_sub):
                m.d.sync += [x.sub.eq(0), token.eq(token + 1), x.offset.eq(x.group_offset), x.lane_head.eq(x.first_head)]
                m.next = "ATTEND_SCALE"
                with m.If(x.last_of_tile):
                    m.d.sync += x.next_tile(x.tile_end)
                    m.next = "ATTEND"
                    with m.If(x.last_tile):
                        m.d.sync += [*x.next_tile(Const(0)), x.head.eq(x.head + 1), x.group_offset.eq(x.offset + op.words),
                                     x.first_head.eq(x.lane_head + 1)]
                        with m.If(x.last_head):
                            m.next = "DRAIN"


def _residual(x: Issue) -> None:
    """Sums and residual of every token in turn."""
    m, op = x.m, x.op
    x.multiply("RESIDUAL", x.scales[x.slot], op.scalar_a, "RESIDUAL_COMMAND")
    with m.State("RESIDUAL_COMMAND"):
        x.send("o_residual", "RESIDUAL_READ", scale=x.result)
    with m.State("RESIDUAL_READ"):
        x.send("o_read", "RESIDUAL_WRITE", token=x.slot, base=op.source, words=op.words, paired=1,
               offset=op.destination - op.source)
    with m.State("RESIDUAL_WRITE"):
        with m.If(x.send("o_write", "RESIDUAL", ("vector_written",), token=x.slot, base=op.destination, words=op.words)):
            x.next_token("RESIDUAL")


def _glu(x: Issue) -> None:
    """The product's scale is s * s [* s] * scalar_b, shifted by what the unit normalizes away."""
    m, op, flag = x.m, x.op, x.flag
    scale, bits = x.scales[x.slot], x.bits
    x.multiply("GLU", scale, op.scalar_a, "GLU_COMMAND")
    with m.State("GLU_COMMAND"):
        x.send("o_glu", "GLU_READ", silu=flag[Flag.SILU], gate_bits=bits.first, up_bits=bits.second, scale=x.result)
    with m.State("GLU_READ"):
        x.send("o_read", "GLU_WRITE", token=x.slot, base=op.source, words=op.words, paired=1, offset=op.other - op.source)
    with m.State("GLU_WRITE"):
        x.send("o_write", "GLU_SQUARE", ("vector_written",), token=x.slot, base=op.destination, words=op.words)
    x.multiply("GLU_SQUARE", scale, scale, "GLU_POWER")
    with m.State("GLU_POWER"):
        m.next = "GLU_CUBE"
        with m.If(flag[Flag.SILU]):
            m.next = "GLU_PRODUCT"
    x.multiply("GLU_CUBE", x.result, scale, "GLU_PRODUCT")
    shift = Mux(flag[Flag.SILU], bits.first, bits.first << 1) + bits.second - 31
    x.multiply("GLU_PRODUCT", x.result, op.scalar_b, "GLU_NEXT", destination=x.products[x.token], shift=shift)
    with m.State("GLU_NEXT"):
        x.next_token("GLU")


def _head(x: Issue) -> None:
    """Scale of the logits for the sampler; the LM head has its activations and its command from NORM."""
    m, op = x.m, x.op
    x.multiply("HEAD", x.scales[x.slot], op.scalar_a, "HEAD_TEMPERATURE")
    x.multiply("HEAD_TEMPERATURE", x.result, x.executor.inverse_temperature, "HEAD_SAMPLER")
    with m.State("HEAD_SAMPLER"):
        x.send("o_sampler", "DRAIN", ("token_sampled",), scale=x.result)
