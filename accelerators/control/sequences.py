"""The commands of every operation, as states of the executor's machine. The state that an operation begins with has the
name of its opcode; all end in DRAIN, but LINEAR, which lets the next operation begin."""

from collections.abc import Callable

from amaranth.hdl import Array, Mux, Signal, Value, signed

from ..config import POSITION_BITS
from ..numerics import SCALAR
from ..numerics.pipelined import adder_tree
from .block_sequences import means, retrieve
from .commands import Issue
from .isa import RANGE_UNIT, Flag

__all__ = ["add_sequences"]


def _vector_scale(x: Issue) -> Signal:
    """Real value of one unit of the vector that goes into norm + quantize, a register late: a read lies between a step and its use."""
    m, op = x.m, x.op
    unaligned, top, scale = Signal(SCALAR), Signal(signed(16)), Signal(SCALAR)
    m.d.sync += [unaligned.eq(x.result), top.eq(0)]
    with m.If(x.is_norm):
        m.d.sync += unaligned.eq(op.scalar_a)
        with m.If(x.flag[Flag.PRODUCT]):
            m.d.sync += unaligned.eq(x.products[x.token])
        with m.Elif(x.flag[Flag.ALIGN]):
            m.d.sync += top.eq(Array(x.executor.top_exponents)[x.token])
    with m.Elif(x.is_append & ~x.second):
        m.d.sync += unaligned.eq(x.key_scale)
    m.d.comb += [scale.mantissa.eq(unaligned.mantissa), scale.exponent.eq(unaligned.exponent + top)]
    return scale


def add_sequences(x: Issue) -> None:
    """All states, in the order of ``Opcode``."""
    _embed(x)
    _norm(x)
    _quantize(x, _vector_scale(x))
    _linear(x)
    _rope(x)
    _append(x)
    lanes = _attend(x)
    _residual(x)
    _glu(x)
    _head(x)
    if x.config.selective_recompute:
        _deviate(x)
    if x.config.block_retrieval:
        means(x)
        retrieve(x, lanes)


def _embed(x: Issue) -> None:
    """One row per token."""
    m, op, steps = x.m, x.op, x.steps
    with steps.state("EMBED"):
        x.send("o_embedding", "EMBED_WRITE", ("packet_taken",), shift=op.shift)
    with steps.state("EMBED_WRITE"):
        with m.If(x.send("o_write", None, ("vector_written",), token=x.slot, base=op.destination, words=op.words)):
            x.next_token("EMBED")


def _norm(x: Issue) -> None:
    """Gains once, then every token's vector twice."""
    m, op, steps = x.m, x.op, x.steps
    with steps.state("NORM"):
        with m.If(x.flag[Flag.GAIN]):
            times = Mux(x.flag[Flag.TO_HEAD], 2, x.operation.tokens << 1)
            x.send("o_gains", "NORM_HEAD", ("packet_taken",), words=op.words, times=times)
        with m.Else():
            steps.go("NORM_HEAD")
    with steps.state("NORM_HEAD"):
        with m.If(x.flag[Flag.TO_HEAD]):
            x.send("o_head", "READ", rows=op.rows, words=op.words)
        with m.Else():
            steps.go("READ")


def _quantize(x: Issue, scale: Signal) -> None:
    """A vector into norm + quantize: statistics pass, command, quantization pass. A head of K, V or Q passes once."""
    m, op, steps, flag = x.m, x.op, x.steps, x.flag
    kv_wide = int(x.config.kv_bits == 16)
    is_norm = x.is_norm
    source = op.source if x.sinks is None else Mux(x.sinks, op.other, op.source)
    access = dict(token=x.slot, base=Mux(x.second, op.destination, source) + x.offset, words=op.words)
    with steps.state("READ"):
        x.send("o_read", "QUANTIZE", **access)
    with steps.state("QUANTIZE"):
        taken = x.send("o_norm", None, ("vector_quantized",), scale=scale, once=~is_norm,
                       gain_exponent=Mux(is_norm & flag[Flag.GAIN], op.shift, 0), norm=is_norm & flag[Flag.NORMALIZE],
                       wide=Mux(is_norm, flag[Flag.WIDE], kv_wide), inverse_length=op.scalar_b, epsilon=op.scalar_c)
        with m.If(taken):
            with m.If(is_norm):
                steps.drive(x.launched["scale_stored"], 1)
                steps.go("READ_AGAIN")
            if x.is_retrieve is not None:
                with m.Elif(x.is_retrieve):
                    steps.go("RETRIEVE_NEXT")
            with m.Elif(~x.is_append):
                ends = "ATTEND_WRITE" if x.part is None else "ATTEND_GIVEN"
                if x.rows is None:
                    steps.go(ends)
                else:
                    with m.If(x.rows.ends):
                        steps.go(ends)
                    with m.Else():
                        steps.go("ATTEND_NEXT")
            with m.Else():
                steps.set(x.second, ~x.second)
                with m.If(~x.second):
                    steps.go("READ")
                with m.Else():
                    steps.set(x.head, Mux(x.last_head, 0, x.head + 1))
                    steps.set(x.offset, Mux(x.last_head, 0, x.offset + op.words))
                    with m.If(x.last_head):
                        x.next_token("APPEND")
                    with m.Else():
                        steps.go("APPEND_REQUEST")
    with steps.state("READ_AGAIN"):
        with m.If(x.send("o_read", None, **access)):
            x.next_token("READ")


def _linear(x: Issue) -> None:
    """The matrix for all tokens of the chunk at once."""
    op, steps = x.op, x.steps
    with steps.state("LINEAR"):
        x.send("o_sums", "LINEAR_ENGINE", base=op.destination, split=op.other, chunk=x.operation.chunk)
    with steps.state("LINEAR_ENGINE"):
        x.send("o_engine", "IDLE", ("sums_written",), tiles=op.tiles, block_rows=op.block_rows, rows=op.rows,
               tokens=x.operation.tokens)


def _rope(x: Issue) -> None:
    """Table row of the position once, then every head."""
    m, op, steps = x.m, x.op, x.steps
    half = op.words >> 1
    rotary = dict(token=x.slot, words=half, offset=half, paired=1)
    target = op.source if x.rows is None else op.destination
    with steps.state("ROPE"):
        x.send("o_table", "ROPE_READ", ("packet_taken",), words=half, times=op.count)
    with steps.state("ROPE_READ"):
        x.send("o_read", "ROPE_WRITE", base=op.source + x.offset, **rotary)
    with steps.state("ROPE_WRITE"):
        with m.If(x.send("o_write", None, ("vector_written",), base=target + x.offset, **rotary)):
            steps.set(x.head, Mux(x.last_head, 0, x.head + 1))
            steps.set(x.offset, Mux(x.last_head, 0, x.offset + op.words))
            with m.If(x.last_head):
                x.next_token("ROPE")
            with m.Else():
                steps.go("ROPE_READ")


def _append(x: Issue) -> None:
    """Per token and KV head a record of K and V."""
    op, steps = x.op, x.steps
    scale = x.scales[x.slot]
    begin = "APPEND"
    if x.part is not None:  # a state, as the position and ``last_token`` are a register late
        begin, first, end, kept = "APPEND_KEY", *(bound * RANGE_UNIT for bound in (op.first, op.end)), Signal(name="kept")
        x.m.d.sync += kept.eq((x.position >= first) & ((end == 0) | (x.position < end)))
        with steps.state("APPEND"):
            steps.go("APPEND_KEPT")
        with steps.state("APPEND_KEPT"):
            with x.m.If(kept):
                steps.go(begin)
            with x.m.Else():
                x.next_token("APPEND")
    x.multiply(begin, scale, op.scalar_a, "APPEND_VALUE", store=x.key_scale)
    x.multiply("APPEND_VALUE", scale, op.scalar_b, "APPEND_REQUEST")
    with steps.state("APPEND_REQUEST"):
        if x.config.cache == "paged":
            steps.drive(x.launched["record_written"], 1)
            steps.go("READ")
        else:
            head = op.other + x.head if x.config.cache == "evict" else x.head
            x.send("o_request", "READ", ("record_written",), base=op.address, head=head, position=x.position)


def _attend(x: Issue) -> Signal:
    """Per KV head and tile of tokens, one lane per (token, query head); where attention takes runs, per run of rows. Returns the lanes
    of the tile at hand."""
    m, op, steps, operation, token = x.m, x.op, x.steps, x.operation, x.token
    count = range(x.config.query_lanes + 1)
    tile_tokens, group, lanes = Signal(count), Signal(count), Signal(count)
    m.d.comb += [tile_tokens.eq(x.tile_end - x.tile), group.eq(op.group),
                 lanes.eq(adder_tree([Mux(bit, tile_tokens << k, 0) for k, bit in enumerate(group)]))]  # too small for a multiplier
    position, evict = x.position + 1, x.config.cache == "evict"
    if evict:
        # Registers, as there are more rows than positions sooner or later: a state lies between a change of the tile and its use.
        budget, end = x.executor.budget, operation.position + x.tile_end
        there, limit = Signal(range(x.config.max_context + 1)), Signal(range(x.config.max_context + 1))
        m.d.sync += [there.eq(Mux(end < budget, end, budget)), limit.eq(Mux(position < budget, position, budget))]
        run, bounds = {"rows": there}, {"limit": limit}
    elif x.rows is None:
        run, bounds = {"rows": operation.position + x.tile_end}, {"limit": position}
    else:
        # Registers: states lie between a change of the token or of the run and the lane.
        rows, seen, start, limit = x.rows, Signal(signed(POSITION_BITS + 2)), Signal.like(x.rows.rows), Signal.like(x.rows.rows)
        hidden = seen < 0
        if x.config.cache == "paged":  # a tile may have several sequences
            others = Signal(name="others_see_it")
            m.d.sync += others.eq((token < x.tile + rows.first_token) | (token >= x.tile + rows.tokens_end))
            hidden |= others
        if x.part is None:
            m.d.sync += [seen.eq(position - rows.position), limit.eq(Mux(hidden, 0, Mux(seen > rows.rows, rows.rows, seen)))]
            if x.config.cache == "window":
                window = x.executor.window
                m.d.sync += start.eq(Mux(x.sinks | (seen < window), 0, seen - window))
        else:
            _range(x, seen, start, limit)
        run = {"rows": rows.rows, "begins": rows.begins, "ends": rows.ends}
        bounds = {"start": start, "limit": limit, "ends": rows.ends if x.part is None else rows.ends & ~op.partial}
        if x.config.attention_modes:
            run |= {"unified": op.rows != 0, "phi": op.shift}
        if x.part is not None:
            run |= {"merge": op.merge, "partial": op.partial}
    begin = "ATTEND" if x.rows is None and not evict else "ATTEND_RUN"
    if evict:
        with steps.state("ATTEND"):
            x.send("o_request", begin, scores=1, base=op.address, head=op.other + x.head)
    if x.rows is not None:
        with steps.state("ATTEND"):
            steps.drive(x.executor.i_rows.ready, 1)
            with m.If(x.executor.i_rows.valid):
                steps.set(x.rows, x.executor.i_rows.p)
                steps.set(x.sinks, x.executor.i_rows.p.sinks)
                steps.set(x.tile_end, x.tile + x.executor.i_rows.p.tokens)
                steps.go(begin)
    with steps.state(begin):
        for register, value in ((token, x.tile), (x.offset, x.group_offset), (x.lane_head, x.first_head), (x.sub, 0)):
            steps.set(register, value)
        x.send("o_attention", "ATTEND_SCALE", ("packet_taken",), lanes=lanes, beats=op.beats, words=op.words, **run)
    x.multiply("ATTEND_SCALE", x.scales[x.slot], op.scalar_a, "ATTEND_LANE")
    with steps.state("ATTEND_LANE"):
        launches = ("exponent_stored",) if x.rows is None else ()
        taken = x.send("o_lane", "READ", launches, token=token, head=x.lane_head, **bounds)
        if x.rows is not None:
            with m.If(taken & bounds["ends"]):
                steps.drive(x.launched["exponent_stored"], 1)

    def next_tile() -> None:
        x.next_tile(Mux(x.last_tile, 0, x.tile_end))
        with m.If(x.last_tile):
            steps.set(x.head, x.head + 1)
            steps.set(x.group_offset, x.offset + op.words)
            steps.set(x.first_head, x.lane_head + 1)
        with m.If(x.last_tile & x.last_head):
            steps.go("DRAIN")
        with m.Else():
            steps.go("ATTEND")

    def next_lane(end_of_tile) -> None:
        if x.part is not None:
            with m.If(rows.ends):
                steps.set(x.part, x.part + (_part_beats(x) << x.config.bus_bytes.bit_length() - 1))
        steps.set(x.sub, Mux(x.last_sub, 0, x.sub + 1))
        steps.set(x.offset, Mux(x.last_sub, x.group_offset, x.offset + op.words))
        steps.set(x.lane_head, Mux(x.last_sub, x.first_head, x.lane_head + 1))
        with m.If(~x.last_sub):
            steps.go("ATTEND_LANE")
        with m.Else():
            steps.set(token, token + 1)
            with m.If(~x.last_of_tile):
                steps.go("ATTEND_SCALE")
            with m.Else():
                end_of_tile()

    if x.part is not None:
        _parts(x, lambda: next_lane(next_tile))
    with steps.state("ATTEND_WRITE"):
        with m.If(x.send("o_write", None, ("vector_written",), token=x.slot, base=op.destination + x.offset, words=op.words)):
            next_lane(next_tile)
    if x.rows is not None:
        with steps.state("ATTEND_NEXT"):
            next_lane(lambda: steps.go("ATTEND"))  # the tile's next run
    return lanes


def _range(x: Issue, seen: Signal, start: Signal, limit: Signal) -> None:
    """Rows of the run that a lane sees, of a range of positions: those from ``first`` on, before ``end``, of the window's."""
    op, rows, window = x.op, x.rows, x.executor.window
    assert rows is not None
    position, (first, end) = x.position + 1, (bound * RANGE_UNIT for bound in (op.first, op.end))
    before, behind = Signal.like(seen), Signal.like(seen)  # rows of the run before the range; up to its end
    recent = Mux(x.sinks | (seen < window), 0, seen - window)

    def within(value):
        return Mux(value < 0, 0, Mux(value > rows.rows, rows.rows, value))
    x.m.d.sync += [seen.eq(position - rows.position), before.eq(first - rows.position),
                   behind.eq(Mux((end != 0) & (end < position), end, position) - rows.position),
                   limit.eq(within(behind)), start.eq(within(Mux(before > recent, before, recent)))]


def _part_beats(x: Issue) -> Value:
    """Bus words of a lane's part (``part_beats`` of the configuration)."""
    words, each, bus = x.op.words + 1, x.config.part_word_bits, x.config.bus_bits
    if each >= bus:
        return words << (each // bus).bit_length() - 1
    return (words + (bus // each - 1)) >> (bus // each).bit_length() - 1


def _parts(x: Issue, next_lane: Callable[[], None]) -> None:
    """A lane's part from memory, its part to memory instead of its results to ``destination``."""
    m, op, steps = x.m, x.op, x.steps
    burst = dict(address=op.parts + x.part, beats=_part_beats(x))
    with steps.state("ATTEND_GIVEN"):
        with m.If(op.merge):
            x.send("o_given", "ATTEND_PART", **burst)
        with m.Else():
            steps.go("ATTEND_PART")
    with steps.state("ATTEND_PART"):
        with m.If(op.partial):
            with m.If(x.send("o_part", None, ("record_written",), **burst)):
                next_lane()
        with m.Else():
            steps.go("ATTEND_WRITE")


def _residual(x: Issue) -> None:
    """Sums and residual of every token in turn."""
    m, op, steps = x.m, x.op, x.steps
    x.multiply("RESIDUAL", x.scales[x.slot], op.scalar_a, "RESIDUAL_COMMAND")
    with steps.state("RESIDUAL_COMMAND"):
        x.send("o_residual", "RESIDUAL_READ", scale=x.result)
    with steps.state("RESIDUAL_READ"):
        x.send("o_read", "RESIDUAL_WRITE", token=x.slot, base=op.source, words=op.words, paired=1,
               offset=op.destination - op.source)
    with steps.state("RESIDUAL_WRITE"):
        with m.If(x.send("o_write", None, ("vector_written",), token=x.slot, base=op.destination, words=op.words)):
            x.next_token("RESIDUAL")


def _glu(x: Issue) -> None:
    """The product's scale is s * s [* s] * scalar_b, shifted by what the unit normalizes away."""
    m, op, steps, flag = x.m, x.op, x.steps, x.flag
    scale, bits = x.scales[x.slot], x.bits
    x.multiply("GLU", scale, op.scalar_a, "GLU_COMMAND")
    with steps.state("GLU_COMMAND"):
        x.send("o_glu", "GLU_READ", silu=flag[Flag.SILU], gate_bits=bits.first, up_bits=bits.second, scale=x.result)
    with steps.state("GLU_READ"):
        x.send("o_read", "GLU_WRITE", token=x.slot, base=op.source, words=op.words, paired=1, offset=op.other - op.source)
    with steps.state("GLU_WRITE"):
        x.send("o_write", "GLU_SQUARE", ("vector_written",), token=x.slot, base=op.destination, words=op.words)
    x.multiply("GLU_SQUARE", scale, scale, "GLU_POWER")
    with steps.state("GLU_POWER"):
        with m.If(flag[Flag.SILU]):
            steps.go("GLU_PRODUCT")
        with m.Else():
            steps.go("GLU_CUBE")
    x.multiply("GLU_CUBE", x.result, scale, "GLU_PRODUCT")
    shift = Mux(flag[Flag.SILU], bits.first, bits.first << 1) + bits.second - 31
    x.multiply("GLU_PRODUCT", x.result, op.scalar_b, "GLU_NEXT", store=x.products[x.token], shift=shift)
    with steps.state("GLU_NEXT"):
        x.next_token("GLU")


def _head(x: Issue) -> None:
    """Scale of the logits for the sampler; the LM head has its activations and its command from NORM."""
    op, steps = x.op, x.steps
    x.multiply("HEAD", x.scales[x.slot], op.scalar_a, "HEAD_TEMPERATURE")
    x.multiply("HEAD_TEMPERATURE", x.result, x.executor.inverse_temperature, "HEAD_SAMPLER")
    with steps.state("HEAD_SAMPLER"):
        x.send("o_sampler", "DRAIN", ("token_sampled",), scale=x.result)


def _deviate(x: Issue) -> None:
    """One command: the list is made without the executor."""
    op, steps = x.op, x.steps
    with steps.state("DEVIATE"):
        x.send("o_deviate", "DRAIN", ("token_sampled",), heads=op.count, rows=op.rows, beats=op.beats, words=op.words, share=op.tiles,
               exponent=op.scalar_a.exponent)
