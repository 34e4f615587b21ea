"""What readers and writers promise, with a memory that answers what it was asked for and nothing else. While it owes an answer, nothing
is asked of them."""

from amaranth.hdl import Assert, Assume, Mux, Signal

from ...accelerators.memory.bursts import ADDRESS_BITS
from ...accelerators.memory.reader import BurstReader
from ...accelerators.memory.writer import BurstWriter
from .contract import StreamContract

__all__ = ["SHORT", "ReaderContract", "WriterContract"]

NARROW = {"bus_bits": 32, "burst_beats": 2, "outstanding": 2}
SHORT = {"i_command__payload": ADDRESS_BITS + 2}  # commands of up to 3 beats


class ReaderContract(StreamContract):
    """No burst without a command, or beyond the limit; ``rready`` never falls, and what is asked for and not yet given fits the
    queue."""

    def __init__(self, **bounds):
        super().__init__(BurstReader(**NARROW, buffer_beats=4), **bounds)

    def elaborate(self, platform):
        m = super().elaborate(platform)
        reader, axi = self.component, self.component.m_axi
        bursts, beats, inside, commands = Signal(4), Signal(5), Signal(5), Signal(4)
        asks, comes, leaves = axi.arvalid & axi.arready, axi.rvalid & axi.rready, reader.o.valid & reader.o.ready
        offered, limit = Signal(), Signal.like(reader.limit, init=reader.outstanding)  # a cycle ago
        m.d.sync += [
            offered.eq(axi.arvalid & ~axi.arready), limit.eq(reader.limit),
            bursts.eq(bursts + asks - (comes & axi.rlast)), beats.eq(beats + Mux(asks, axi.arlen + 1, 0) - comes),
            inside.eq(inside + Mux(asks, axi.arlen + 1, 0) - leaves),
            commands.eq(commands | (reader.i_command.valid & reader.i_command.ready)),
        ]
        m.d.comb += [
            # A burst ends with its last beat: never all of them before it, and no beat behind the last one's end.
            Assume(~axi.rvalid | ((bursts != 0) & (beats != 0))), Assume(~axi.rvalid | (axi.rlast == (beats == 1)) | (bursts > 1)),
            Assume(~axi.rvalid | axi.rlast | (beats > bursts)), Assume(~axi.rvalid | ~axi.rlast | (bursts > 1) | (beats == 1)),
            Assert(axi.rready), Assert(axi.arlen < reader.burst_beats), Assert(inside <= reader.buffer_beats),
            Assert(bursts <= reader.outstanding), Assert(~axi.arvalid | (commands != 0)),
            Assert(~axi.arvalid | offered | (bursts < limit)),
            self.outside.eq(((bursts != 0) & ~axi.rvalid) | (limit < reader.outstanding)),
        ]
        return m


class WriterContract(StreamContract):
    """No burst and no beat without a command; a burst has the beats it was announced with; a command is reported when its bursts are
    answered."""

    def __init__(self, **bounds):
        super().__init__(BurstWriter(**NARROW), **bounds)

    def elaborate(self, platform):
        m = super().elaborate(platform)
        writer, axi = self.component, self.component.m_axi
        commands, unanswered, reports = Signal(4), Signal(4), Signal(4)
        starts, answers = axi.awvalid & axi.awready, axi.bvalid & axi.bready
        ends, written = axi.wvalid & axi.wready & axi.wlast, Signal(4)
        m.d.sync += [
            commands.eq(commands + (writer.i_command.valid & writer.i_command.ready)), unanswered.eq(unanswered + starts - answers),
            written.eq(written + ends - answers), reports.eq(reports + (writer.o_done.valid & writer.o_done.ready)),
        ]
        m.d.comb += [
            Assume(~axi.bvalid | ((unanswered != 0) & (written != 0))),
            Assert(~(axi.awvalid | axi.wvalid) | (commands != 0)), Assert(axi.awlen < writer.burst_beats),
            Assert(unanswered <= writer.outstanding), Assert(reports + writer.o_done.valid <= commands),
        ]
        # Beats that commands want: without one, data wait for the next command.
        wanted = Signal(6)
        m.d.sync += wanted.eq(wanted + Mux(writer.i_command.valid & writer.i_command.ready, writer.i_command.p.beats, 0)
                              - (writer.i.valid & writer.i.ready))
        refuses = writer.i_command.valid & ~writer.i_command.ready
        m.d.comb += self.outside.eq(((written != 0) & ~axi.bvalid) | Mux(wanted == 0, ~refuses, ~writer.i.valid))
        return m
