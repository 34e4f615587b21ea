"""KV cache of contiguous rows: addresses and bounds."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import POSITION_BITS, AcceleratorConfig
from ..memory.bursts import ADDRESS_BITS, BURST_COMMAND
from ..streams import StreamBuffer, connect
from .addresses import HEAD_BITS, RowAddresses

__all__ = ["ContiguousCache", "give", "read_layout", "request_layout"]


def request_layout(config: AcceleratorConfig, rows: int | None = None) -> data.StructLayout:
    """``count`` rows from ``position`` on, of K/V head ``head`` of the layer whose rows start at ``base``; at most ``rows``
    (``max_context``)."""
    positions = range((config.max_context if rows is None else rows) + 1)
    return data.StructLayout({"write": 1, "base": ADDRESS_BITS, "head": HEAD_BITS, "position": positions,
                              "count": positions})


def read_layout(config: AcceleratorConfig) -> data.StructLayout:
    """Of a controller whose requests may need several bursts: one of them, the positions whose rows it reads (``count`` from
    ``position`` on), and whether it is the request's last one."""
    return data.StructLayout({**BURST_COMMAND.members, "position": POSITION_BITS, "count": request_layout(config).members["count"],
                              "last": 1})


class ContiguousCache(wiring.Component):
    """Turns rows of a K/V head into one burst command.

    ::

        base -> head 0: record 0 | record 1 | ... | record capacity - 1
                head 1: record 0 | ...          (head_stride bytes further on)

        address = base + head * head_stride + position * record_beats * bus_bits / 8
        beats   = count * record_beats

    ``RowAddresses`` makes the products, a request per cycle: so addresses keep ahead of records of any length. Registers lie in
    front: positions and counts are sums where requests are made, and the registers of the other inputs may be far from the multipliers.

    Parameters
    ----------
    config : AcceleratorConfig
        Of it: ``bus_bits``, ``kv_bits``, ``max_context``, ``max_head_dim``.

    Members
    -------
    i_request : In(stream.Signature({write: 1, base: 32, head: 8, position, count}))
        ``position`` and ``count`` hold 0 to ``max_context``; ``base`` is a multiple of the bus word.
    o_read, o_write : Out(stream.Signature({address: 32, beats: 24}))
        One command on one of them for every request within bounds, in order; a request of no rows gives one
        of no beats.
    capacity : In(range(max_context + 1))
        Rows of a head.
    record_beats : In(...)
        Bus words of a record, up to that of ``max_head_dim``.
    head_stride : In(32)
        Bytes from one head to the next, a multiple of the bus word.
    error : Out(1)
        Sticky: a request went beyond ``capacity``; nothing was issued for it.
    clear : In(1)
        Clears ``error``.

    Latency: 6 cycles. Interval: 1 cycle, of requests out of bounds too. ``capacity``, ``record_beats`` and ``head_stride`` are read
    in a cycle behind that in which a request is taken; they stand while there are requests. Addresses are modulo 2**32.
    """

    latency, interval = StreamBuffer.latency + RowAddresses.latency, RowAddresses.interval

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__({
            "i_request": In(stream.Signature(request_layout(config))),
            "o_read": Out(stream.Signature(BURST_COMMAND)),
            "o_write": Out(stream.Signature(BURST_COMMAND)),
            "capacity": In(range(config.max_context + 1)),
            "record_beats": In(range(config.max_record_beats + 1)),
            "head_stride": In(ADDRESS_BITS),
            "error": Out(1),
            "clear": In(1),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "ContiguousCache":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        m.submodules.requests = requests = StreamBuffer(self.i_request.p.shape())
        connect(m, wiring.flipped(self.i_request), requests.i)
        request, sent = requests.o, Signal()
        m.submodules.addresses = addresses = RowAddresses(self.config, self.config.max_context)
        m.d.comb += [
            sent.eq(request.p.position + request.p.count <= self.capacity),
            addresses.i.valid.eq(request.valid & sent), request.ready.eq(addresses.i.ready),
            *(addresses.i.p[name].eq(request.p[name]) for name in request.p.shape().members),
        ]
        m.d.sync += [addresses.record_beats.eq(self.record_beats), addresses.head_stride.eq(self.head_stride)]
        give(m, addresses, self.o_read, self.o_write)
        with m.If(self.clear):
            m.d.sync += self.error.eq(0)
        with m.If(request.valid & request.ready & ~sent):
            m.d.sync += self.error.eq(1)
        return m


def give(m: Module, addresses: RowAddresses, o_read, o_write) -> None:
    """Commands to ``o_read``, with what came with them, or to ``o_write``."""
    command = addresses.o
    for port, wanted in ((o_read, ~command.p.write), (o_write, command.p.write)):
        m.d.comb += [port.valid.eq(command.valid & wanted), *(port.p[name].eq(command.p[name]) for name in BURST_COMMAND.members)]
    m.d.comb += [*(o_read.p[name].eq(command.p.passed[name]) for name in addresses.passed),
                 command.ready.eq(Mux(command.p.write, o_write.ready, o_read.ready))]
