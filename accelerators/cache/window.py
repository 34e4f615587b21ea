"""KV cache of attention sinks and a ring of recent positions."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
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
        Slots of either kind, together at most ``max_context``; ``recent`` at least 1. They change only with ``clear``, while no
        request is under way.
    length : In(20)
        Positions of the text so far, those included for which slots are written next; stands from the cycle after a request was
        taken until its last command has left, or the next request was taken with that.
    record_beats, head_stride : In; error : Out(1), clear : In(1)
        See ``ContiguousCache``; an error is a request beyond ``length`` or for positions whose slots have been taken by later
        ones. Nothing is issued for it. After ``clear`` no slot is known but that of the ring's first position, ``sinks``.

    Latency (a dictionary): ``near`` cycles from a request to its first command if it begins with a sink, or in the ring less than
    ``recent`` positions from those of the latest request there: as those of a text do; ``far`` else: its slot is a remainder.
    ``again`` if it is for the positions of the latest command, at the same length: those of the next head, or of the next layer.
    Interval: ``interval`` cycles between requests of the latter kind, 3 between others, and two for each run behind the first.

    So an append takes at most two cycles more than its beats: the addresses of the r records of a token take ``2 * r + 1`` cycles.
    """

    interval = 2

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        self._rows = RowAddresses(config, config.max_context, {name: read_layout(config).members[name]
                                                               for name in ("position", "count", "last")})
        self.latency = {"again": 2 + self._rows.latency, "near": 3 + self._rows.latency,
                        "far": 5 + POSITION_BITS + self._rows.latency}
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
        give(m, rows, self.o_read, self.o_write)
        offered, sent = self.i_request.p, rows.i
        request = Signal(data.StructLayout({name: offered.shape().members[name] for name in ("write", "base", "head")}))
        run, slot = Signal.like(sent.p.passed), Signal.like(sent.p.position)  # what was found last
        m.d.comb += [rows.record_beats.eq(self.record_beats), rows.head_stride.eq(self.head_stride),
                     *(sent.p[name].eq(request[name]) for name in request.shape().members),
                     sent.p.position.eq(slot), sent.p.count.eq(run.count), sent.p.passed.eq(run)]

        # What is still to come of a request, its first position that is not a sink's, and its end.
        position, left = Signal(POSITION_BITS), Signal.like(offered.count)
        first, end, at_sinks = Signal(POSITION_BITS), Signal(POSITION_BITS + 1), Signal()
        # The slots up to the sinks' or the ring's end. The ring begins anew with position ``lap``; its end is so many positions ahead.
        lap, to_lap = Signal(POSITION_BITS), Signal(signed(POSITION_BITS + 1))
        room, in_lap, ring_end = Signal.like(self.recent), Signal(), Signal.like(self.recent)
        # The run is that of an earlier request, if the length is; and whether it must not be sent.
        again, same, same_length, refused = Signal(), Signal(), Signal.like(self.length), Signal()
        beyond, oldest = Signal(), Signal(POSITION_BITS)
        m.d.sync += [oldest.eq(Mux(self.length > self.recent, self.length - self.recent, 0)), ring_end.eq(self.sinks + self.recent)]
        forgets = Signal(init=1)
        m.d.sync += forgets.eq(self.clear)
        with m.If(self.clear):
            m.d.sync += self.error.eq(0)

        def accept() -> None:
            """In a state: the request before has no more runs."""
            m.d.comb += self.i_request.ready.eq(~forgets)
            m.d.sync += [*(request[name].eq(offered[name]) for name in request.shape().members),
                         position.eq(offered.position), left.eq(offered.count), end.eq(offered.position + offered.count),
                         first.eq(Mux(offered.position < self.sinks, self.sinks, offered.position)),
                         at_sinks.eq(offered.position < self.sinks), to_lap.eq(lap - offered.position),
                         same.eq(again & (offered.position == run.position) & (offered.count == run.count))]
            with m.If(self.i_request.valid & ~forgets):
                m.next = "CHECK"

        # Slots are found by restoring division, a bit of the quotient per cycle, if the ring was not near there before.
        remainder, dividend, step = Signal(len(self.recent) + 1), Signal(POSITION_BITS), Signal(range(POSITION_BITS))
        doubled = Cat(dividend[-1], remainder)
        with m.FSM():
            with m.State("IDLE"):
                accept()
            with m.State("CHECK"):  # ``length`` may come with the request, and ``oldest`` is a register behind it
                behind = to_lap <= 0
                m.d.sync += [beyond.eq(end > self.length), in_lap.eq(~at_sinks & behind),
                             room.eq(Mux(at_sinks, self.sinks - position, Mux(behind, to_lap + self.recent, to_lap))),
                             dividend.eq(position - self.sinks), remainder.eq(0), step.eq(0)]
                m.next = "DIVIDE"
                with m.If(same & (self.length == same_length)):
                    m.next = "SEND"
                with m.Elif(left == 0):
                    m.next = "IDLE"
                with m.Elif(at_sinks | ((to_lap <= self.recent) & (to_lap + self.recent > 0))):
                    m.next = "FIND"
            with m.State("DIVIDE"):
                m.d.sync += [remainder.eq(Mux(doubled >= self.recent, doubled - self.recent, doubled)),
                             dividend.eq(dividend << 1), step.eq(step + 1), same.eq(0)]
                with m.If(step == POSITION_BITS - 1):
                    m.next = "REMAINDER"
            with m.State("REMAINDER"):
                m.d.sync += [lap.eq(position - remainder), to_lap.eq(-remainder)]
                m.next = "CHECK"
            with m.State("FIND"):
                last = left <= room
                m.d.sync += [slot.eq(Mux(at_sinks, self.sinks, ring_end) - room),
                             run.position.eq(position), run.count.eq(Mux(last, left, room)), run.last.eq(last),
                             again.eq(1), same_length.eq(self.length),
                             refused.eq(beyond | (~(at_sinks & last) & (first < oldest)))]
                with m.If(in_lap & (left >= room) & ~beyond):  # what comes next is in the lap behind it
                    m.d.sync += lap.eq(lap + self.recent)
                m.next = "SEND"
            with m.State("SEND"):
                m.d.comb += sent.valid.eq(~refused)
                with m.If(refused):
                    m.d.sync += [self.error.eq(1), again.eq(0)]
                    m.next = "IDLE"
                with m.Elif(sent.ready & run.last):
                    m.next = "IDLE"
                    accept()
                with m.Elif(sent.ready):  # the ring, from its first slot on
                    m.d.sync += [position.eq(position + run.count), left.eq(left - run.count), room.eq(self.recent),
                                 at_sinks.eq(0), in_lap.eq(0)]
                    m.next = "FIND"
        with m.If(forgets):
            m.d.sync += [lap.eq(self.sinks), again.eq(0)]
        return m
