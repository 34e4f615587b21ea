"""Controller of an SDR SDRAM behind an AXI4 port."""

from enum import IntEnum
from functools import reduce
from operator import or_

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..axi import AXI4Signature, Response
from ..streams import Queue
from .bursts import ADDRESS_BITS
from .sdram_chips import SdramConfig
from .sdram_requests import ANSWERS, LONGEST_BURST, SEGMENT_BEATS, SdramRequests, segment_layout

__all__ = ["SdramController", "SdramSignature"]

BANKS = 4
READ_BEATS = 64
START_REFRESHES = 8
PRECHARGE_ALL = 1 << 10


class Command(IntEnum):
    """RAS#, CAS#, WE# of a command, with CS# low."""

    LOAD_MODE = 0b000
    REFRESH = 0b001
    PRECHARGE = 0b010
    ACTIVE = 0b011
    WRITE = 0b100
    READ = 0b101
    NOP = 0b111


class SdramSignature(wiring.Signature):
    """The pins of a 16-bit SDRAM but its clock, seen from the controller; ``dq`` as output, output enable and input.

    Parameters
    ----------
    row_bits : int
        Address pins.
    """

    def __init__(self, row_bits: int):
        super().__init__({"cke": Out(1), **{name: Out(1, init=1) for name in ("cs_n", "ras_n", "cas_n", "we_n")}, "ba": Out(2),
                          "a": Out(row_bits), "dqm": Out(2), "dq_o": Out(16), "dq_oe": Out(1), "dq_i": In(16)})


class SdramController(wiring.Component):
    """Reads and writes an SDR SDRAM of 16 bits and four banks; rows stay open, and the next row opens while data move.

    ::

        AR ----------------------+--> requests --> segments --> prepare bank --> pending --> current --> READ, WRITE
        AW --> queue --(data in)-+                                |                            |
        W  --> 256 beats -------------------------------- PRECHARGE, ACTIVE --------- WRITE <--+
        R  <-- 64 beats <-- words of the pads <--------------------------------------- READ <--+
        B  <-- queue <---------------------------------------------------------- last WRITE <--+

    A bus word is one burst of the chip. A request is cut into segments that end at multiples of 16 beats. Addresses count columns
    first, then banks, then rows, so that a sequential stream goes from bank to bank: while segments of one page are moved, PRECHARGE
    and ACTIVE of the next go into the free command slots. READ and WRITE have a slot of their own every ``burst`` cycles, so the data
    bus has no gaps. Requests are served in their order; reads and writes take turns. A write is taken into that order when all its
    data are here, a segment of a read goes on when R has room for all of it: no segment waits for a master.
    A refresh is due every ``refresh`` cycles and done between two segments; all rows are closed for it.

    Parameters
    ----------
    config : SdramConfig

    Members
    -------
    s_axi : In(AXI4Signature(bus_bits, id_bits=id_bits))
        Full-width INCR bursts within 4 KiB; ``size``, ``burst``, ``cache`` and ``prot`` are ignored. Answers come in the order of
        the requests of each direction; write strobes become DQM.
    pins : Out(SdramSignature)
        All outputs from registers. Data of a READ must be on ``dq_i`` ``cas_latency + pad_cycles`` cycles after the cycle in which
        the command is on the pins.
    ready : Out(1)
        The chip is initialized. Requests that came before wait.

    Latency, from AR to the first beat on R: ``latency["closed"]`` cycles in a closed bank and ``latency["open"]`` in an open row.
    Interval: ``burst`` cycles per beat.

    Bad input: bursts beyond the chip's capacity are answered DECERR and reach no chip.
    """

    def __init__(self, config: SdramConfig):
        self.config = config
        chip = config.data_sheet
        self.timing = timing = chip.cycles(config.clock_mhz)
        self.interval = config.burst
        opened = 9 + config.cas_latency + config.pad_cycles + config.burst
        self.latency = {"open": opened, "closed": opened + 1 + self._opening}
        # Cycles after a READ or WRITE until PRECHARGE: its data, and the row has been open for long enough.
        open_since = timing.ras - timing.rcd
        self._read_hold = max(config.burst + config.cas_latency - 2, open_since)
        self._write_hold = max(config.burst - 1 + timing.wr, open_since)
        super().__init__({
            "s_axi": In(AXI4Signature(config.bus_bits, address_bits=ADDRESS_BITS, id_bits=config.id_bits)),
            "pins": Out(SdramSignature(chip.row_bits)),
            "ready": Out(1),
        })

    @property
    def _opening(self) -> int:
        """Cycles from ACTIVE to the segment's going on; READ follows three cycles after ACTIVE at the earliest, ACTIVE four."""
        return max(1, self.timing.rcd - 2, self.timing.rrd - 3)

    @classmethod
    def for_config(cls, config: SdramConfig) -> "SdramController":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.beats = beats = Queue(data.StructLayout({"data": config.bus_bits, "strobes": config.bus_bytes}), LONGEST_BURST)
        axi = self.s_axi
        m.d.comb += [beats.i.p.data.eq(axi.wdata), beats.i.p.strobes.eq(axi.wstrb), beats.i.valid.eq(axi.wvalid),
                     axi.wready.eq(beats.i.ready)]
        m.submodules.requests = requests = SdramRequests(config)
        for channel, request in (("ar", requests.i_read), ("aw", requests.i_write)):
            m.d.comb += [request.p.id.eq(getattr(axi, f"{channel}id")), request.p.address.eq(getattr(axi, f"{channel}addr")),
                         request.p.length.eq(getattr(axi, f"{channel}len")), request.valid.eq(getattr(axi, f"{channel}valid")),
                         getattr(axi, f"{channel}ready").eq(request.ready)]
        m.d.comb += [requests.beat.eq(axi.wvalid & axi.wready), requests.answered.eq(axi.bvalid & axi.bready)]
        segment, taken = requests.o, requests.o.ready
        prepared = Signal()  # the segment goes on, to ``pending``

        # Room for the answers of a segment of a read, taken when it goes on. The next segment comes two cycles later.
        credits, affordable, left = Signal(range(READ_BEATS + 1), init=READ_BEATS), Signal(init=1), Signal()
        reserved = Signal(range(SEGMENT_BEATS + 1))
        m.d.comb += left.eq(axi.rvalid & axi.rready)
        m.d.sync += [reserved.eq(Mux(prepared & ~segment.p.write, segment.p.length + 1, 0)),
                     credits.eq(credits - reserved + left), affordable.eq(credits - reserved >= SEGMENT_BEATS)]

        # Where a segment is transferred: pending, then current.
        current, pending = Signal(segment_layout(config)), Signal(segment_layout(config))
        active, waiting = Signal(), Signal()
        access, finished = Signal(), Signal()  # READ or WRITE (or what stands for it outside of the chip) now; the last of its segment
        with m.If(~active | finished):
            m.d.sync += [current.eq(pending), active.eq(waiting), waiting.eq(prepared)]
        with m.Elif(prepared):
            m.d.sync += waiting.eq(1)
        with m.If(prepared):
            m.d.sync += pending.eq(segment.p)
        with m.If(access & ~finished):
            m.d.sync += [current.column.eq(current.column + 1), current.length.eq(current.length - 1)]
        m.d.comb += finished.eq(access & (current.length == 0))
        free = Signal()
        m.d.comb += free.eq(~waiting | ~active | finished)

        self._prepare(m, segment, taken, current, active, pending, waiting, affordable, free, prepared, access)
        self._transfer(m, current, active, access, finished, beats)
        return m

    def _prepare(self, m, segment, taken, current, active, pending, waiting, affordable, free, prepared, access):
        """Start-up, refreshes, and an open row for each segment; gives the command and address of all cycles."""
        timing, pins = self.timing, self.pins
        command, address, bank = Signal(3), Signal(len(pins.a)), Signal(2)
        m.d.comb += [command.eq(Command.NOP), bank.eq(segment.p.bank)]
        opened, rows = Signal(BANKS), Array(Signal(len(segment.p.row), name=f"row_{number}") for number in range(BANKS))

        holds = Array(Signal(range(max(self._read_hold, self._write_hold) + 1), name=f"hold_{number}") for number in range(BANKS))
        for number, hold in enumerate(holds):
            with m.If(access & ~current.outside & (current.bank == number)):
                m.d.sync += hold.eq(Mux(current.write, self._write_hold - 1, self._read_hold - 1))
            with m.Elif(hold.any()):
                m.d.sync += hold.eq(hold - 1)
        quiet, still = Signal(), Signal()
        m.d.comb += quiet.eq(~active & ~waiting)
        m.d.sync += still.eq(quiet & ~reduce(or_, (hold.any() for hold in holds)))
        in_use, held = Signal(), Signal()
        m.d.comb += [
            in_use.eq((active & ~current.outside & (current.bank == segment.p.bank))
                      | (waiting & ~pending.outside & (pending.bank == segment.p.bank))),
            held.eq(holds[segment.p.bank].any()),
        ]

        until_refresh, owed = Signal(range(timing.refresh), init=timing.refresh - 1), Signal(4)
        refreshed, elapsed = Signal(), Signal()
        m.d.comb += elapsed.eq(self.ready & (until_refresh == 0))
        m.d.sync += [until_refresh.eq(Mux(until_refresh == 0, timing.refresh - 1, until_refresh - 1)),
                     owed.eq(owed + elapsed - (refreshed & self.ready))]

        # Cycles until the next command. The first wait is the pause after power-up.
        wait, ended = Signal(range(timing.power_up), init=timing.power_up - 1), Signal()
        with m.If(wait.any()):
            m.d.sync += [wait.eq(wait - 1), ended.eq(wait == 1)]

        def pause(cycles):
            """The next command comes ``cycles`` after this one, or later."""
            m.d.sync += [wait.eq(cycles - 1), ended.eq(cycles == 1)]

        starts = Signal(range(START_REFRESHES + 1), init=START_REFRESHES)
        hit, other = Signal(), Signal()
        with m.FSM():
            with m.State("CLOSE"):
                with m.If(ended & still & ~access):
                    m.d.comb += [command.eq(Command.PRECHARGE), address.eq(PRECHARGE_ALL)]
                    m.d.sync += opened.eq(0)
                    pause(timing.rp)
                    m.next = "REFRESH"
            with m.State("REFRESH"):
                with m.If(ended):
                    m.d.comb += [command.eq(Command.REFRESH), refreshed.eq(1)]
                    pause(timing.rfc)
                    with m.If(self.ready):
                        m.next = "LOOK"
                    with m.Else():
                        m.d.sync += starts.eq(starts - 1)
                        with m.If(starts == 1):
                            m.next = "MODE"
            with m.State("MODE"):
                with m.If(ended):
                    m.d.comb += [command.eq(Command.LOAD_MODE), bank.eq(0),
                                 address.eq(self.config.cas_latency << 4 | self.config.burst.bit_length() - 1)]
                    m.d.sync += self.ready.eq(1)
                    pause(timing.mrd)
                    m.next = "LOOK"
            with m.State("LOOK"):
                m.d.sync += [hit.eq(opened.bit_select(segment.p.bank, 1) & (rows[segment.p.bank] == segment.p.row)),
                             other.eq(opened.bit_select(segment.p.bank, 1))]
                with m.If(ended):
                    with m.If(owed.any()):
                        m.next = "CLOSE"
                    with m.Elif(segment.valid & (segment.p.write | affordable)):
                        m.next = "JUDGE"
            with m.State("JUDGE"):
                with m.If(segment.p.outside | hit):
                    with m.If(free):
                        m.d.comb += [prepared.eq(1), taken.eq(1)]
                        m.next = "LOOK"
                with m.Elif(other):
                    m.next = "PRECHARGE"
                with m.Else():
                    m.next = "ACTIVE"
            with m.State("PRECHARGE"):
                with m.If(~access & ~in_use & ~held):
                    m.d.comb += command.eq(Command.PRECHARGE)
                    pause(timing.rp)
                    m.next = "ACTIVE"
            with m.State("ACTIVE"):
                with m.If(ended & ~access):
                    m.d.comb += [command.eq(Command.ACTIVE), address.eq(segment.p.row)]
                    m.d.sync += [opened.bit_select(segment.p.bank, 1).eq(1), rows[segment.p.bank].eq(segment.p.row)]
                    pause(self._opening)
                    m.next = "OPENED"
            with m.State("OPENED"):
                with m.If(ended & free):
                    m.d.comb += [prepared.eq(1), taken.eq(1)]
                    m.next = "LOOK"

        burst = self.config.burst.bit_length() - 1
        m.d.sync += [pins.cke.eq(1), pins.cs_n.eq(0), Cat(pins.we_n, pins.cas_n, pins.ras_n).eq(command), pins.a.eq(address),
                     pins.ba.eq(bank)]
        with m.If(access & ~current.outside):
            m.d.sync += [Cat(pins.we_n, pins.cas_n, pins.ras_n).eq(Mux(current.write, Command.WRITE, Command.READ)),
                         pins.a.eq(current.column << burst), pins.ba.eq(current.bank)]

    def _transfer(self, m, current, active, access, finished, beats):
        """READ and WRITE of the current segment, a bus word each; data, answers."""
        config, pins, axi = self.config, self.pins, self.s_axi
        burst = config.burst

        # Slots: cycles until the next READ, and until the next WRITE, which waits until the chip has left the data bus.
        turnaround = config.cas_latency + burst + 1
        read_wait, write_wait = Signal(range(burst)), Signal(range(turnaround))
        for counter, after_read in ((read_wait, burst), (write_wait, turnaround)):
            with m.If(access):
                m.d.sync += counter.eq(Mux(current.write, burst - 1, after_read - 1))
            with m.Elif(counter.any()):
                m.d.sync += counter.eq(counter - 1)
        reads = Signal()
        m.d.comb += [
            access.eq(active & Mux(current.write, ~write_wait.any() & beats.o.valid, ~read_wait.any())),
            reads.eq(access & ~current.write), beats.o.ready.eq(access & current.write),
        ]

        # Write: a word now, the others from a register.
        words, strobes = Signal(config.bus_bits), Signal(config.bus_bytes)
        driven = Signal(burst - 1)  # a bit per word to come
        m.d.sync += [words.eq(words >> 16), strobes.eq(strobes >> 2), driven.eq(driven >> 1), pins.dq_o.eq(words),
                     pins.dqm.eq(Mux(driven[0], ~strobes[:2], 0)), pins.dq_oe.eq(driven[0])]
        with m.If(access & current.write):
            m.d.sync += [words.eq(beats.o.p.data >> 16), strobes.eq(beats.o.p.strobes >> 2), driven.eq((1 << burst - 1) - 1),
                         pins.dq_o.eq(beats.o.p.data)]
            with m.If(~current.outside):
                m.d.sync += [pins.dqm.eq(~beats.o.p.strobes[:2]), pins.dq_oe.eq(1)]
            with m.Else():
                m.d.sync += driven.eq(0)
        m.submodules.answers = answers = Queue(data.StructLayout({"id": config.id_bits, "outside": 1}), ANSWERS)
        m.d.comb += [
            answers.i.valid.eq(finished & current.write & current.last), answers.i.p.id.eq(current.id),
            answers.i.p.outside.eq(current.outside),
            axi.bvalid.eq(answers.o.valid), answers.o.ready.eq(axi.bready), axi.bid.eq(answers.o.p.id),
            axi.bresp.eq(Mux(answers.o.p.outside, Response.DECERR, Response.OKAY)),
        ]

        # Read: what is known of a beat waits until its words have come.
        beat = data.StructLayout({"id": config.id_bits, "outside": 1, "last": 1})
        stages = config.cas_latency + config.pad_cycles + burst
        under_way, coming = Signal(stages), [Signal(beat, reset_less=True, name=f"beat_{number}") for number in range(stages)]
        for number, stage in enumerate(coming[1:]):
            m.d.sync += stage.eq(coming[number])
        m.d.sync += [under_way.eq(Cat(reads, under_way)), coming[0].id.eq(current.id), coming[0].outside.eq(current.outside),
                     coming[0].last.eq(finished & current.last)]
        received = Signal(config.bus_bits)
        m.d.sync += received.eq(Cat(received[16:], pins.dq_i))
        m.submodules.answered = answered = Queue(data.StructLayout({"data": config.bus_bits, "beat": beat}), READ_BEATS)
        arrived = Signal()
        complete = Signal(beat, reset_less=True)
        m.d.sync += [arrived.eq(under_way[-1]), complete.eq(coming[-1])]
        m.d.comb += [
            answered.i.valid.eq(arrived), answered.i.p.beat.eq(complete), answered.i.p.data.eq(Mux(complete.outside, 0, received)),
            axi.rvalid.eq(answered.o.valid), answered.o.ready.eq(axi.rready), axi.rdata.eq(answered.o.p.data),
            axi.rid.eq(answered.o.p.beat.id), axi.rlast.eq(answered.o.p.beat.last),
            axi.rresp.eq(Mux(answered.o.p.beat.outside, Response.DECERR, Response.OKAY)),
        ]
