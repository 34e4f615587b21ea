"""KV cache of attention sinks and a ring of recent positions."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import POSITION_BITS, AcceleratorConfig
from ..memory.bursts import ADDRESS_BITS, BURST_COMMAND
from .addresses import RowAddresses
from .contiguous import give, read_layout, request_layout

__all__ = ["WindowCache", "window_request"]


def window_request(config: AcceleratorConfig) -> data.StructLayout:
    """As ``request_layout``, with positions in the text."""
    return data.StructLayout({**request_layout(config).members, "position": POSITION_BITS})


class WindowCache(wiring.Component):
    """Turns positions of a text into rows of a cache that keeps the first ones (the sinks) and the latest ones (StreamingLLM,
    arXiv:2309.17453): ``slot(j) = j`` below ``sinks``, else ``sinks + (j - sinks) mod recent``.

    A key stays where it was written, rotated for its absolute position, until its slot is needed; nothing is ever moved::

        slots   0 .. sinks - 1 | sinks .. sinks + recent - 1
        hold    0 .. sinks - 1 | the last ``recent`` positions, from the oldest one's slot on, around the end

    Parameters
    ----------
    config : AcceleratorConfig
        As for ``ContiguousCache``; ``max_context`` is the most slots.

    Members
    -------
    i_request : In(stream of window_request)
        Positions ``position`` to ``position + count - 1`` of a K/V head.
    o_read : Out(stream of read_layout), o_write : Out(stream of BURST_COMMAND)
        One command for each run of slots, in the order of the positions: sinks, ring up to its end, ring from its begin; those
        that lie one behind the other are not joined.
    sinks, recent : In(range(max_context + 1))
        Slots of either kind, together at most ``max_context``; ``recent`` at least 1. They change only with ``clear``.
    length : In(20)
        Positions of the text so far, those included for which slots are written next; stands from the cycle after a request was
        taken until its last command has left.
    record_beats, head_stride : In; error : Out(1), clear : In(1)
        See ``ContiguousCache``; an error is a request beyond ``length`` or for positions whose slots have been taken by later
        ones. Nothing is issued for it. ``clear`` also forgets the slot that was found last.

    Latency (a dictionary): ``sinks`` cycles from a request to its command if it begins with a sink, or in the ring at the position
    of the latest request there or the one behind it; ``recent`` else: its slot is a remainder; ``again`` if it is for the
    positions of the request before it, which were one run, at the same length: those of the next head, or of the next layer.
    Interval: ``interval`` cycles between such requests; others are taken when the commands of the one before are on their way, two
    cycles for each run behind the first. So the r records of a token, one after the other, take ``3 * r + 3`` cycles, if those of
    the position before were the latest ones.
    """

    interval = 3

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        self._rows = RowAddresses(config, config.max_context, {name: read_layout(config).members[name]
                                                               for name in ("position", "count", "last")})
        self.latency = {"again": 2 + self._rows.latency, "sinks": 5 + self._rows.latency,
                        "recent": 5 + POSITION_BITS + self._rows.latency}
        slots = range(config.max_context + 1)
        super().__init__({
            "i_request": In(stream.Signature(window_request(config))),
            "o_read": Out(stream.Signature(read_layout(config))),
            "o_write": Out(stream.Signature(BURST_COMMAND)),
            "sinks": In(slots), "recent": In(slots, init=1), "length": In(POSITION_BITS),
            "record_beats": In(range(config.max_record_beats + 1)),
            "head_stride": In(ADDRESS_BITS),
            "error": Out(1),
            "clear": In(1),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "WindowCache":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        m.submodules.rows = rows = self._rows
        request = Signal.like(self.i_request.p)
        give(m, rows, self.o_read, self.o_write)
        sent = rows.i
        m.d.comb += [rows.record_beats.eq(self.record_beats), rows.head_stride.eq(self.head_stride),
                     *(sent.p[name].eq(request[name]) for name in ("write", "base", "head"))]

        # What is still to come; a slot is found by restoring division, a bit of the quotient per cycle. The one that was found
        # last is remembered: the rows of a position are written head after head, those of an operation are read so.
        position, left = Signal(POSITION_BITS), Signal.like(request.count)
        remainder, dividend, step = Signal(len(self.recent) + 1), Signal(POSITION_BITS), Signal(range(POSITION_BITS))
        doubled = Cat(dividend[-1], remainder)
        oldest, first, end = Signal(POSITION_BITS + 1), Signal(POSITION_BITS), Signal(POSITION_BITS + 1)
        m.d.sync += oldest.eq(Mux(self.length > self.recent, self.length - self.recent, 0))
        known, known_remainder, remembers = Signal(POSITION_BITS), Signal.like(self.recent), Signal()
        following = Signal.like(self.recent)
        m.d.sync += following.eq(Mux(known_remainder + 1 == self.recent, 0, known_remainder + 1))
        again, same, same_length = Signal(), Signal(), Signal.like(self.length)  # the whole request, if it was one run
        with m.If(self.clear):
            m.d.sync += [self.error.eq(0), remembers.eq(0), again.eq(0)]

        # The next run of slots, and whether the ring's end is behind it.
        run, slot, around = Signal.like(sent.p.passed), Signal.like(sent.p.position), Signal()
        at_sinks, is_known, is_next, beyond, gone = Signal(), Signal(), Signal(), Signal(), Signal()

        def prepare(where, most, to_ring_end: bool) -> None:
            """The rows from ``where`` on, at most ``most``."""
            m.d.sync += [slot.eq(where), run.position.eq(position), run.count.eq(Mux(left < most, left, most)),
                         run.last.eq(left <= most), around.eq(to_ring_end)]
            m.next = "SEND"

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.i_request.ready.eq(1)
                m.d.sync += [end.eq(self.i_request.p.position + self.i_request.p.count),
                             first.eq(Mux(self.i_request.p.position < self.sinks, self.sinks, self.i_request.p.position))]
                m.d.sync += same.eq(again & (self.i_request.p.position == request.position) & (self.i_request.p.count == request.count))
                with m.If(self.i_request.valid):
                    m.d.sync += request.eq(self.i_request.p)
                    m.next = "SETTLE"
            with m.State("SETTLE"):  # ``length`` may come with the request, and ``oldest`` is a register behind it
                m.next = "CHECK"
                with m.If(same & (self.length == same_length) & ~self.clear):
                    m.next = "SEND"
            with m.State("CHECK"):
                m.d.sync += [again.eq(~self.clear), same_length.eq(self.length),
                             position.eq(request.position), left.eq(request.count), dividend.eq(request.position - self.sinks),
                             remainder.eq(0), step.eq(0),
                             at_sinks.eq(request.position < self.sinks), is_known.eq(remembers & (request.position == known)),
                             is_next.eq(remembers & (request.position - 1 == known)),
                             beyond.eq(end > self.length), gone.eq((end > self.sinks) & (first < oldest))]
                m.next = "FIND"
                with m.If(request.count == 0):
                    m.d.sync += again.eq(0)
                    m.next = "IDLE"
            with m.State("FIND"):
                m.next = "DIVIDE"
                with m.If(beyond | gone):
                    m.d.sync += [self.error.eq(1), again.eq(0)]
                    m.next = "IDLE"
                with m.Elif(at_sinks):
                    m.next = "SINKS"
                with m.Elif(is_known):
                    m.d.sync += remainder.eq(known_remainder)
                    m.next = "RING"
                with m.Elif(is_next):
                    m.d.sync += remainder.eq(following)
                    m.next = "RING"
            with m.State("SINKS"):
                prepare(position, self.sinks - position, False)
            with m.State("DIVIDE"):
                m.d.sync += [remainder.eq(Mux(doubled >= self.recent, doubled - self.recent, doubled)),
                             dividend.eq(dividend << 1), step.eq(step + 1)]
                with m.If(step == POSITION_BITS - 1):
                    m.next = "RING"
            with m.State("RING"):
                m.d.sync += [known.eq(position), known_remainder.eq(remainder), remembers.eq(~self.clear)]
                prepare(self.sinks + remainder, (self.recent - remainder)[:len(self.recent)], True)
            with m.State("AROUND"):
                prepare(self.sinks, self.recent, True)
            with m.State("SEND"):
                m.d.comb += [sent.valid.eq(1), sent.p.position.eq(slot), sent.p.count.eq(run.count), sent.p.passed.eq(run)]
                with m.If(sent.ready):
                    m.d.sync += [position.eq(position + run.count), left.eq(left - run.count)]
                    with m.If(run.last):
                        m.next = "IDLE"
                    with m.Else():
                        m.d.sync += again.eq(0)
                        m.next = "RING"  # from its first slot on
                        with m.If(around):
                            m.next = "AROUND"
        return m
