"""Commands of the executor to the units."""

from amaranth.hdl import Module
from amaranth.lib import wiring

from ..control.rows import rows_layout
from ..streams import Queue
from ..streams.route import buffered, pass_fields
from .parts import COMMANDS, Parts

__all__ = ["give_commands"]

ROWS_AHEAD = 64
"""Runs of K/V rows that the front end may be ahead of the executor."""


def give_commands(m: Module, core: wiring.Component, parts: Parts) -> None:
    """Units may keep a command until its packet has passed, so each has a queue."""
    executor, vectors, attention, cache = parts.executor, parts.vectors, parts.attention, parts.cache
    limits, owners, runs = parts.limits, parts.owners, core.config.attention_runs
    for name, sink in (("o_gains", parts.gains.i_command), ("o_table", parts.table.i_command), ("o_norm", parts.norm.i_command),
                       ("o_embedding", parts.embedding.i_command), ("o_residual", parts.residual.i_command),
                       ("o_glu", parts.glu.i_command), ("o_engine", parts.engine.i_command),
                       ("o_attention", attention.i_command), ("o_head", parts.head.i_command),
                       ("o_sums", vectors.i_sums_access),
                       *([] if parts.tokens is None else [("o_deviate", parts.tokens.i_command)]),
                       *([] if parts.means is None else [("o_means", parts.means.i_command), ("o_count", parts.retrieval.i_count),
                                                         ("o_retrieve", parts.retrieval.i_command)])):
        source = getattr(executor, name)
        m.submodules[f"commands_{name[2:]}"] = commands = Queue(source.p.shape(), COMMANDS)
        wiring.connect(m, source, commands.i)
        pass_fields(m, commands.o, sink)
    for name, sink, others in (("o_sampler", parts.sampler.i_command, {"greedy": core.greedy, "k": core.top_k}),
                               *([] if parts.paged or parts.evict else [("o_request", cache.i_request, {"write": 1, "count": 1})])):
        source = getattr(executor, name)
        command = buffered(m, source, f"command_{name[2:]}")
        pass_fields(m, command.o, sink, **others)
    if parts.evict:  # weights of a layer may still come when the next one appends
        m.submodules.requests = requests = Queue(executor.o_request.p.shape(), COMMANDS)
        wiring.connect(m, executor.o_request, requests.i)
        pass_fields(m, requests.o, cache.i_request, write=~requests.o.p.scores, count=1,
                    budget=core.kv_capacity[:len(cache.i_request.p.budget)])
        wiring.connect(m, buffered(m, attention.o_weights, "row_weights").o, cache.i_weights)
    for name, queue in (("o_read", parts.reads), ("o_write", parts.writes)):
        # Many states of the executor make these.
        wiring.connect(m, buffered(m, getattr(executor, name), f"command_{name[2:]}").o, queue.i)
    wiring.connect(m, parts.reads.o, vectors.i_read)
    wiring.connect(m, parts.writes.o, vectors.i_write_access)
    lane = executor.o_lane
    m.d.comb += [
        limits.i.p.limit.eq(lane.p.limit), limits.i.valid.eq(lane.valid & owners.i.ready),
        owners.i.p.token.eq(lane.p.token), owners.i.p.head.eq(lane.p.head),
        owners.i.valid.eq(lane.valid & limits.i.ready & lane.p.ends if runs else lane.valid & limits.i.ready),
        lane.ready.eq(limits.i.ready & owners.i.ready),
    ]
    if runs:
        m.submodules.rows = rows = Queue(rows_layout(core.config), ROWS_AHEAD)
        wiring.connect(m, parts.frontend.o_rows, rows.i)
        wiring.connect(m, rows.o, executor.i_rows)
        m.d.comb += [limits.i.p.start.eq(lane.p.start), attention.i_lane.p.start.eq(limits.o.p.start),
                     *([executor.window.eq(core.kv_window)] if parts.window else [])]
