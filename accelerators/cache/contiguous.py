"""KV cache of contiguous rows: addresses and bounds."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import POSITION_BITS, AcceleratorConfig
from ..memory.bursts import ADDRESS_BITS, BURST_COMMAND
from .addresses import HEAD_BITS, RowAddresses, check_rows

__all__ = ["ContiguousCache", "give", "read_layout", "request_layout"]

BEATS_BITS = BURST_COMMAND["beats"].width


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

    The products are made one binary digit per cycle, or with ``pipelined`` by multipliers (``RowAddresses``), a request per cycle.

    Parameters
    ----------
    config : AcceleratorConfig
        Of it: ``bus_bits``, ``kv_bits``, ``max_context``, ``max_head_dim``.
    rows : int
        Most rows of a head, ``max_context`` by default; with the longest record they must take fewer than 2**24 beats.
    pipelined : bool
        Multipliers: where records are so short, or come so fast, that a request per 10 or more cycles is too slow.

    Members
    -------
    i_request : In(stream.Signature({write: 1, base: 32, head: 8, position, count}))
        ``position`` and ``count`` hold 0 to ``rows``; ``base`` is a multiple of the bus word.
    o_read, o_write : Out(stream.Signature({address: 32, beats: 24}))
        One command on one of them for every request within bounds, in order; a request of no rows gives one
        of no beats. Registered.
    capacity : In(range(rows + 1))
        Rows of a head.
    record_beats : In(...)
        Bus words of a record, up to that of ``max_head_dim``.
    head_stride : In(32)
        Bytes from one head to the next, a multiple of the bus word.
    error : Out(1)
        Sticky: a request went beyond ``capacity``; nothing was issued for it.
    clear : In(1)
        Clears ``error``.

    Latency: 1 cycle and one for every bit of ``position`` (at least 8). Interval: 1 cycle more. With ``pipelined``: 5 cycles and
    1 cycle. A request out of bounds takes 1 cycle. ``capacity``, ``record_beats`` and ``head_stride`` are read when a request is
    taken. Addresses are modulo 2**32.
    """

    def __init__(self, config: AcceleratorConfig, rows: int | None = None, *, pipelined: bool = False):
        rows = config.max_context if rows is None else rows
        check_rows(config, rows)
        self.config, self.pipelined, self.rows = config, pipelined, rows
        self.steps = max(HEAD_BITS, rows.bit_length())
        self.latency = RowAddresses.latency if pipelined else self.steps + 1
        self.interval = RowAddresses.interval if pipelined else self.steps + 2
        super().__init__({
            "i_request": In(stream.Signature(request_layout(config, rows))),
            "o_read": Out(stream.Signature(BURST_COMMAND)),
            "o_write": Out(stream.Signature(BURST_COMMAND)),
            "capacity": In(range(rows + 1)),
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
        if self.pipelined:
            self._multiply(m)
            return m
        request = self.i_request
        word = (self.config.bus_bits // 8).bit_length() - 1
        write = Signal()
        address = Signal(ADDRESS_BITS - word)  # in bus words
        beats = Signal(BEATS_BITS)
        head = Signal(HEAD_BITS)
        position, count = Signal.like(request.p.position), Signal.like(request.p.count)
        stride, record = Signal.like(address), Signal.like(address)  # doubled in every step
        step = Signal(range(self.steps))
        for port in (self.o_read, self.o_write):
            m.d.comb += [port.p.address.eq(address << word), port.p.beats.eq(beats)]
        with m.If(self.clear):
            m.d.sync += self.error.eq(0)

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += request.ready.eq(1)
                m.d.sync += [
                    write.eq(request.p.write),
                    address.eq(request.p.base[word:]),
                    beats.eq(0),
                    head.eq(request.p.head),
                    position.eq(request.p.position),
                    count.eq(request.p.count),
                    stride.eq(self.head_stride[word:]),
                    record.eq(self.record_beats),
                ]
                with m.If(request.valid):
                    with m.If(request.p.position + request.p.count > self.capacity):
                        m.d.sync += self.error.eq(1)
                    with m.Else():
                        m.next = "MULTIPLY"
            with m.State("MULTIPLY"):
                m.d.sync += [
                    address.eq(address + Mux(head[0], stride, 0) + Mux(position[0], record, 0)),
                    beats.eq(beats + Mux(count[0], record[:BEATS_BITS], 0)),
                    head.eq(head >> 1),
                    position.eq(position >> 1),
                    count.eq(count >> 1),
                    stride.eq(stride << 1),
                    record.eq(record << 1),
                    step.eq(step + 1),
                ]
                with m.If(step == self.steps - 1):
                    m.d.sync += [step.eq(0), self.o_read.valid.eq(~write), self.o_write.valid.eq(write)]
                    m.next = "ISSUE"
            with m.State("ISSUE"):
                with m.If((self.o_read.ready & ~write) | (self.o_write.ready & write)):
                    m.d.sync += [self.o_read.valid.eq(0), self.o_write.valid.eq(0)]
                    m.next = "IDLE"
        return m

    def _multiply(self, m: Module) -> None:
        request, sent = self.i_request, Signal()
        m.submodules.addresses = addresses = RowAddresses(self.config, self.rows)
        m.d.comb += [
            sent.eq(request.p.position + request.p.count <= self.capacity),
            addresses.i.valid.eq(request.valid & sent), request.ready.eq(addresses.i.ready),
            *(addresses.i.p[name].eq(request.p[name]) for name in request.p.shape().members),
            addresses.record_beats.eq(self.record_beats), addresses.head_stride.eq(self.head_stride),
        ]
        give(m, addresses, self.o_read, self.o_write)
        with m.If(self.clear):
            m.d.sync += self.error.eq(0)
        with m.If(request.valid & request.ready & ~sent):
            m.d.sync += self.error.eq(1)


def give(m: Module, addresses: RowAddresses, o_read, o_write) -> None:
    """Commands to ``o_read``, with what came with them, or to ``o_write``."""
    command = addresses.o
    for port, wanted in ((o_read, ~command.p.write), (o_write, command.p.write)):
        m.d.comb += [port.valid.eq(command.valid & wanted), *(port.p[name].eq(command.p[name]) for name in BURST_COMMAND.members)]
    m.d.comb += [*(o_read.p[name].eq(command.p.passed[name]) for name in addresses.passed),
                 command.ready.eq(Mux(command.p.write, o_write.ready, o_read.ready))]
