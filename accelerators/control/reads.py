"""What the front end reads beside program and weights: the queue of those reads, and rows of the tables by token or position."""

from collections.abc import Callable

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, wiring

from ..config import TOKEN_BITS, AcceleratorConfig
from ..integers import ceil_div
from ..numerics.pipelined import unsigned_product
from ..pipeline import Pipeline
from ..streams import Queue, StreamBuffer
from ..streams.route import buffered
from .errors import ErrorCause
from .isa import Opcode

__all__ = ["data_reads", "table_rows"]

APPEND_BITS = 8


def data_reads(m: Module, config: AcceleratorConfig, frontend: wiring.Component, push_append: Signal) -> wiring.PureInterface:
    """Input stream {address, beats, fenced} of the queue in front of ``o_data`` of ``frontend``, with room for a read of every tile and
    head of an operation (with runs there may be more, and the front end waits); a fenced read leaves it when all appends before
    it, each told by ``push_append``, have been done."""
    tiles = ceil_div(config.token_lanes, config.query_lanes)
    layout = data.StructLayout({"address": 32, "beats": 24, "fenced": 1, "due": APPEND_BITS})
    m.submodules.read = offered = StreamBuffer(layout)  # many states of the main machine make these
    m.submodules.reads = queue = Queue(layout, max(16, config.max_heads * tiles))
    wiring.connect(m, offered.o, queue.i)
    following = buffered(m, queue.o, "next_read").o
    pushed, appended, behind = Signal(APPEND_BITS), Signal(APPEND_BITS), Signal(APPEND_BITS)
    opened = Signal()
    m.d.sync += [pushed.eq(pushed + push_append), appended.eq(appended + frontend.append_done)]
    m.d.comb += [
        offered.i.p.due.eq(pushed),
        behind.eq(appended - following.p.due),  # modulo 2**APPEND_BITS: negative while some are missing
        opened.eq(~following.p.fenced | ~behind[-1]),
        frontend.o_data.valid.eq(following.valid & opened), following.ready.eq(frontend.o_data.ready & opened),
        frontend.o_data.p.address.eq(following.p.address), frontend.o_data.p.beats.eq(following.p.beats),
    ]
    return offered.i


def table_rows(m: Module, config: AcceleratorConfig, op: data.View, token: Value, place: Value, row: Signal, count: Value,
               reads: wiring.PureInterface, fail: Callable[[ErrorCause, Value, Value], None]) -> None:
    """States from ROW to DECODE: a read for each of ``count`` tokens, of row ``token`` of EMBED's table, or of row ``place`` of ROPE's;
    both are those of token ``row`` of the chunk. ``address + index * beats * bus_bytes``: index, products of its limbs, and product are
    registered."""
    named, index = Signal(32, name="token"), Signal(TOKEN_BITS, name="row_index")
    offset, outside = Signal(32, name="row_offset"), Signal()
    m.d.sync += [named.eq(token), index.eq(Mux(op.opcode == Opcode.EMBED, token, place))]
    product, latency = unsigned_product(Pipeline(m), index, op.beats[:16])
    assert latency == 2
    m.d.comb += offset.eq(product << (config.bus_bytes.bit_length() - 1))
    with m.State("ROW"):
        m.next = "ROW_PRODUCT"
    with m.State("ROW_PRODUCT"):
        m.d.sync += outside.eq((op.opcode == Opcode.EMBED) & (named >= op.rows))
        m.next = "ROW_SUM"
    with m.State("ROW_SUM"):
        m.next = "ROW_COMMAND"
        fail(ErrorCause.TOKEN_OUT_OF_RANGE, outside, named)
    with m.State("ROW_COMMAND"):
        m.d.comb += [reads.valid.eq(1), reads.p.address.eq(op.address + offset), reads.p.beats.eq(op.beats)]
        with m.If(reads.ready):
            m.d.sync += row.eq(row + 1)
            m.next = "ROW"
            with m.If(row + 1 == count):
                m.next = "DECODE"
