"""What a core tells of itself: errors, events of its units, progress, and the words that the golden model traces."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring

from ..config import AcceleratorConfig
from ..control.errors import ErrorCause
from ..control.isa import Opcode
from .parts import Parts, Running

__all__ = ["observe_layout", "watch"]


def observe_layout(config: AcceleratorConfig) -> data.StructLayout:
    """One word of an operation's result: operation tag and signed 32-bit elements.

    Vector words (EMBED, ROPE, ATTEND, RESIDUAL, GLU) and quantized words (NORM, APPEND) have ``vector_lanes`` elements in the
    order of the vectors; LINEAR words hold the row groups of all token lanes (token-major); HEAD words hold a logit,
    low and high half.
    """
    elements = max(config.vector_lanes, config.token_lanes * config.table_rows, 2)
    return data.StructLayout({"elements": data.ArrayLayout(signed(32), elements), "tag": 16, "valid": 1})


def watch(m: Module, core: wiring.Component, parts: Parts, running: Running, quantized) -> None:
    """Errors, events, progress, and results; ``quantized``: the stream of ``quantize``."""
    frontend, vectors, cache = parts.frontend, parts.vectors, parts.cache
    if parts.window or parts.evict:
        m.d.comb += [core.error.eq(Mux(cache.error & (frontend.error == 0), ErrorCause.CACHE_FULL, frontend.error)),
                     core.error_info.eq(Mux(frontend.error == 0, frontend.position, frontend.error_info))]
    else:
        m.d.comb += [core.error.eq(frontend.error), core.error_info.eq(frontend.error_info)]
    clamped = [(unit.saturated, unit.o.valid & unit.o.ready) for unit in (parts.residual, parts.embedding)]
    m.d.comb += core.saturations.eq(sum((Mux(taken, count, 0) for count, taken in clamped), start=0))
    _events(m, core, parts, running, quantized)
    _results(m, core, parts, running.op, quantized)
    moving = [core.i_data, core.i_weights, core.i_program, core.o_record_data, quantized, vectors.i, parts.engine.o_sums,
              parts.attention.o_exponent, parts.head.o, core.o_token, parts.operations.o]
    moved = Signal(len(moving) + 1)
    m.d.sync += [moved.eq(Cat(core.start, *(port.valid & port.ready for port in moving))), core.progress.eq(moved.any())]


def _events(m: Module, core: wiring.Component, parts: Parts, running: Running, quantized) -> None:
    """Which unit is busy, starved, stalled."""
    op, engine, norm, attention, head = running.op, parts.engine, parts.norm, parts.attention, parts.head
    rope, residual, glu, embedding, sampler = parts.rope, parts.residual, parts.glu, parts.embedding, parts.sampler
    watched = {
        "engine": (running.linear, engine.i_weights, engine.o_sums),
        "norm_quantize": (running.quantizes, norm.i, quantized), "rope": (op[Opcode.ROPE], rope.i, rope.o),
        "residual": (op[Opcode.RESIDUAL], residual.i, residual.o), "glu": (op[Opcode.GLU], glu.i, glu.o),
        "attention": (op[Opcode.ATTEND], attention.i_rows, attention.o), "head": (op[Opcode.HEAD], head.i_weights, head.o),
        "sampler": (op[Opcode.HEAD], sampler.i, sampler.o), "embedding": (op[Opcode.EMBED], embedding.i, embedding.o),
        "cache": (op[Opcode.APPEND], parts.packer.i, core.o_record_data),
    }
    for i, name in enumerate(core.UNITS):
        runs, source, sink = watched[name]
        m.d.sync += [core.events[i].busy.eq(runs), core.events[i].starved.eq(runs & source.ready & ~source.valid),
                     core.events[i].stalled.eq(runs & sink.valid & ~sink.ready)]


def _results(m: Module, core: wiring.Component, parts: Parts, op: dict[Opcode, Signal], quantized) -> None:
    """What the golden model traces."""
    executor, vectors, head, lanes = parts.executor, parts.vectors, parts.head, core.config.vector_lanes
    word = core.observe.elements
    m.d.comb += [
        core.observe_sums.tag.eq(executor.linear_tag),
        core.observe_sums.valid.eq(vectors.i_sums.valid & vectors.i_sums.ready),
        *(core.observe_sums.elements[i].eq(value) for i, value in enumerate(vectors.i_sums.p.sums)),
        core.observe.tag.eq(executor.tag),
    ]
    with m.If(op[Opcode.NORM] | op[Opcode.APPEND]):
        m.d.comb += [core.observe.valid.eq(quantized.valid & quantized.ready),
                     *(word[i].eq(quantized.p.q[i]) for i in range(lanes))]
    with m.Elif(op[Opcode.HEAD]):
        value = head.o.p.value.as_unsigned()
        m.d.comb += [core.observe.valid.eq(head.o.valid & head.o.ready), word[0].eq(value[:32].as_signed()),
                     word[1].eq(head.o.p.value >> 32)]
    with m.Else():
        m.d.comb += [core.observe.valid.eq(vectors.i.valid & vectors.i.ready),
                     *(word[i].eq(vectors.i.p.x[i]) for i in range(lanes))]
