"""Vectors between their memory and the units."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring

from ..control.isa import Flag, Opcode
from ..streams.route import buffer_before, buffered, merge, pass_fields, scatter
from .parts import Parts, Running

__all__ = ["fetch_vectors", "quantize", "store_results"]


def fetch_vectors(m: Module, parts: Parts, running: Running) -> None:
    """Vectors from memory to the elementwise units, which may be far away on the device."""
    op, executor, align, exponents = running.op, parts.executor, parts.align, parts.exponents
    fetched = scatter(m, parts.vectors.o, "fetched", {"rope": op[Opcode.ROPE], "residual": op[Opcode.RESIDUAL],
                                                      "glu": op[Opcode.GLU], "align": running.quantizes})
    for name, unit in (("rope", parts.rope), ("residual", parts.residual), ("glu", parts.glu)):
        wiring.connect(m, fetched[name], unit.i)
    aligned, words = Signal(), fetched["align"]
    m.d.comb += [
        aligned.eq(op[Opcode.NORM] & (executor.flags & Flag.ALIGN).any()),
        align.i.valid.eq(words.valid), align.i.p.x.eq(words.p.x), align.i.p.last.eq(words.p.last),
        words.ready.eq(align.i.ready),
        align.i.p.shift.eq(Mux(aligned, exponents.shift, 0)),
        exponents.words.eq(executor.group), exponents.restart.eq(running.started),
        exponents.clear.eq(running.attends),
        exponents.word_taken.eq(align.i.valid & align.i.ready), exponents.vector_end.eq(align.i.p.last),
    ]
    wiring.connect(m, parts.table.o, parts.rope.i_table)


def quantize(m: Module, parts: Parts, running: Running):
    """Norm and quantization, gains or ones beside the vector; returns the stream of results."""
    op, executor, norm, align, attention = running.op, parts.executor, parts.norm, parts.align, parts.attention
    engine, head, packer, limits, retrieval = parts.engine, parts.head, parts.packer, parts.limits, parts.retrieval
    config = norm.config
    gained = Signal()
    gain, scaled = buffered(m, parts.gains.o, "gain"), buffer_before(m, norm.i, "scaled")
    m.d.comb += [
        gained.eq(op[Opcode.NORM] & (executor.flags & Flag.GAIN).any()),
        scaled.valid.eq(align.o.valid & (gain.o.valid | ~gained)), scaled.p.x.eq(align.o.p.x),
        scaled.p.last.eq(align.o.p.last), align.o.ready.eq(scaled.ready & (gain.o.valid | ~gained)),
        gain.o.ready.eq(gained & scaled.ready & align.o.valid),
        *(scaled.p.gain[i].eq(Mux(gained, gain.o.p[i], 1)) for i in range(config.vector_lanes)),
    ]
    quantized = buffered(m, norm.o, "quantized").o
    token = Signal(range(config.token_lanes + 1))
    with m.If(running.started):
        m.d.sync += token.eq(0)
    with m.Elif(quantized.valid & quantized.ready & quantized.p.last):
        m.d.sync += token.eq(token + 1)
    activations = buffer_before(m, engine.i_activations, "activations")
    targets = ((activations, op[Opcode.NORM] & ~running.to_head),
               (buffer_before(m, head.i_activations, "head_activations"), op[Opcode.NORM] & running.to_head),
               (buffer_before(m, packer.i, "records"), op[Opcode.APPEND]),
               (buffer_before(m, attention.i_query, "queries"), op[Opcode.ATTEND]),
               *([] if retrieval is None else [(buffer_before(m, retrieval.i_query, "block_queries"), op[Opcode.RETRIEVE])]))
    for sink, condition in targets:
        m.d.comb += [sink.valid.eq(quantized.valid & condition), sink.p.last.eq(quantized.p.last),
                     *(sink.p.q[i].eq(quantized.p.q[i]) for i in range(config.vector_lanes))]
        with m.If(condition):
            m.d.comb += quantized.ready.eq(sink.ready)
    m.d.comb += [activations.p.token.eq(token),
                 executor.vector_quantized.eq(quantized.valid & quantized.ready & quantized.p.last)]

    scale = norm.o_scale
    m.d.comb += [
        executor.i_scale.valid.eq(scale.valid & op[Opcode.NORM]), executor.i_scale.payload.eq(scale.p.scale),
        packer.i_scale.valid.eq(scale.valid & op[Opcode.APPEND]), packer.i_scale.p.scale.eq(scale.p.scale),
        attention.i_lane.valid.eq(scale.valid & op[Opcode.ATTEND] & limits.o.valid),
        attention.i_lane.p.scale.eq(scale.p.scale), attention.i_lane.p.limit.eq(limits.o.p.limit),
        limits.o.ready.eq(scale.valid & op[Opcode.ATTEND] & attention.i_lane.ready),
        executor.scale_stored.eq(executor.i_scale.valid & executor.i_scale.ready),
    ]
    with m.If(op[Opcode.NORM]):
        m.d.comb += scale.ready.eq(executor.i_scale.ready)
    with m.Elif(op[Opcode.APPEND]):
        m.d.comb += scale.ready.eq(packer.i_scale.ready)
    with m.Elif(op[Opcode.ATTEND]):
        m.d.comb += scale.ready.eq(attention.i_lane.ready & limits.o.valid)
    if retrieval is not None:
        m.d.comb += [retrieval.i_lane.valid.eq(scale.valid & op[Opcode.RETRIEVE]), retrieval.i_lane.p.scale.eq(scale.p.scale)]
        with m.If(op[Opcode.RETRIEVE]):
            m.d.comb += scale.ready.eq(retrieval.i_lane.ready)
    return quantized


def store_results(m: Module, core: wiring.Component, parts: Parts, running: Running) -> None:
    """Results back to vector memory."""
    op, executor, vectors, attention = running.op, parts.executor, parts.vectors, parts.attention
    exponents, owners = parts.exponents, parts.owners
    merge(m, [(parts.embedding.o, op[Opcode.EMBED]), (parts.rope.o, op[Opcode.ROPE]), (parts.residual.o, op[Opcode.RESIDUAL]),
              (parts.glu.o, op[Opcode.GLU]), (attention.o, op[Opcode.ATTEND])], buffer_before(m, vectors.i, "results"))
    pass_fields(m, parts.engine.o_sums, vectors.i_sums)
    m.d.comb += [
        executor.vector_written.eq(vectors.i.valid & vectors.i.ready & vectors.i.p.last),
        executor.sums_written.eq(vectors.sums_done),
        exponents.i.valid.eq(attention.o_exponent.valid & owners.o.valid),
        exponents.i.p.exponent.eq(attention.o_exponent.p.exponent),
        exponents.i.p.token.eq(owners.o.p.token), exponents.i.p.head.eq(owners.o.p.head),
        attention.o_exponent.ready.eq(exponents.i.ready & owners.o.valid),
        owners.o.ready.eq(exponents.i.ready & attention.o_exponent.valid),
        executor.exponent_stored.eq(exponents.i.valid & exponents.i.ready),
    ]

    if core.config.attention_modes:
        m.d.comb += [core.attention_missed.eq(attention.missed), core.attention_passed.eq(attention.passed)]
