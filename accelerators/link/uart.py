"""Serial line: 8 data bits, no parity, one stop bit, idle high."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

from ..checks import check_int
from ..config import AcceleratorConfig
from ..streams import Queue, connect

__all__ = ["RECEIVED", "UartReceiver", "UartTransmitter", "bit_period", "receiver_latency"]

FRACTION = 8  # bits of a clock cycle in which times are counted
RECEIVED = data.StructLayout({"byte": 8, "bad": 1})


def bit_period(clock_hz: int, baud: int) -> int:
    """Time of a bit in 1/256 cycles. ``ValueError`` for a line that is too fast for the clock."""
    check_int("clock_hz", clock_hz, 1, 1 << 31)
    check_int("baud", baud, 1, 1 << 31)
    if not 4 * baud <= clock_hz <= 65536 * baud:
        raise ValueError(f"baud must be in clock_hz / 65536 .. clock_hz / 4, not {baud} at clock_hz {clock_hz}")
    return round((clock_hz << FRACTION) / baud)


def receiver_latency(clock_hz: int, baud: int) -> int:
    """Cycles from the falling edge of a start bit to the byte."""
    return (19 * bit_period(clock_hz, baud) // 2 >> FRACTION) + 7


class UartReceiver(wiring.Component):
    """Bytes from a serial line.

    The line is sampled in every cycle; a bit is the majority of the three samples around its middle. Its middle is counted from the
    falling edge of the start bit in 1/256 cycles, so that clock and baud need no common divisor: the time of a bit is off
    by ``1 / (512 * clock_hz / baud)`` at most.

    The sender's rate may differ by ``(0.5 - 2.5 / N) / 9.5`` of it, N = ``clock_hz / baud``: 2.0 % at N = 8, 4.0 % at 20. With N
    below 8 both sides must have one clock.

    Parameters
    ----------
    clock_hz, baud : int
        Line rate, ``clock_hz`` / 65536 to ``clock_hz`` / 4.
    depth : int
        Bytes that wait, 3 to 2**20.

    Members
    -------
    rx : In(1)
        Idle high. Asynchronous: two registers follow.
    o : Out(stream of {byte, bad})
        ``bad``: the stop bit was low (a break, or another line rate). The receiver then waits until the line is high.
    overrun : Out(1)
        A byte was lost in this cycle because ``depth`` others wait.

    Latency: 9.5 bits and 7 cycles from the falling edge of the start bit to ``o``. Interval: 10 bits.
    """

    interval = None

    def __init__(self, clock_hz: int, baud: int, depth: int = 64):
        self.period = bit_period(clock_hz, baud)
        self.latency = receiver_latency(clock_hz, baud)
        self._queue = Queue(RECEIVED, depth)
        super().__init__({"rx": In(1), "o": Out(stream.Signature(RECEIVED)), "overrun": Out(1)})

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "UartReceiver":
        """3 Mbaud at 25 MHz."""
        return cls(25_000_000, 3_000_000)

    def elaborate(self, platform):
        m = Module()
        m.submodules.queue = queue = self._queue
        connect(m, queue.o, wiring.flipped(self.o))
        line = Signal(init=1)
        m.submodules.synchronizer = FFSynchronizer(self.rx, line, init=1)
        samples = Signal(3, init=0b111)  # the latest first
        level = Signal(init=1)
        m.d.sync += samples.eq(Cat(line, samples[:2]))
        m.d.comb += level.eq((samples[0] & samples[1]) | (samples[1] & samples[2]) | (samples[0] & samples[2]))

        cycle = 1 << FRACTION
        time = Signal(range(2 * self.period + cycle))  # to the sample
        due = Signal()
        m.d.comb += due.eq(time[FRACTION:] == 0)
        byte, left = Signal(8), Signal(range(10))
        m.d.sync += time.eq(time - cycle)
        m.d.comb += [queue.i.p.byte.eq(byte), self.overrun.eq(queue.i.valid & ~queue.i.ready)]
        with m.FSM():
            with m.State("IDLE"):
                # The majority is that around samples[1], so this cycle counts for nothing.
                m.d.sync += [time.eq(self.period // 2), left.eq(9)]
                with m.If(~samples[0]):
                    m.next = "BITS"
            with m.State("BITS"):
                with m.If(due):
                    m.d.sync += [time.eq(time + self.period - cycle), left.eq(left - 1), byte.eq(Cat(byte[1:], level))]
                    with m.If((left == 9) & level):
                        m.next = "IDLE"  # not a start bit
                    with m.If(left == 0):
                        m.d.comb += [queue.i.valid.eq(1), queue.i.p.bad.eq(~level)]
                        m.d.sync += byte.eq(byte)
                        m.next = "IDLE"
                        with m.If(~level):
                            m.next = "BREAK"
            with m.State("BREAK"):
                with m.If(level):
                    m.next = "IDLE"
        return m


class UartTransmitter(wiring.Component):
    """Bytes to a serial line.

    Parameters
    ----------
    clock_hz, baud : int
        Line rate, ``clock_hz`` / 65536 to ``clock_hz`` / 4. Bits end at the cycle after the exact time: a bit is off by a cycle at
        most, a byte by no more than one.

    Members
    -------
    i : In(stream of {byte})
    tx : Out(1)
        From a register. Idle high.

    Latency: 1 cycle from a byte to its start bit. Interval: 10 bits, rounded up to whole cycles, and one cycle.
    """

    latency = 1

    def __init__(self, clock_hz: int, baud: int):
        self.period = bit_period(clock_hz, baud)
        self.interval = -(-10 * self.period >> FRACTION) + 1
        super().__init__({"i": In(stream.Signature(data.StructLayout({"byte": 8}))), "tx": Out(1, init=1)})

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "UartTransmitter":
        """3 Mbaud at 25 MHz."""
        return cls(25_000_000, 3_000_000)

    def elaborate(self, platform):
        m = Module()
        cycle = 1 << FRACTION
        bits, left = Signal(9, init=0x1FF), Signal(range(11))
        time = Signal(range(self.period + cycle))
        m.d.comb += self.i.ready.eq(left == 0)
        with m.If(left == 0):
            m.d.sync += time.eq(self.period - 1)
            with m.If(self.i.valid):
                m.d.sync += [self.tx.eq(0), bits.eq(Cat(self.i.p.byte, 1)), left.eq(10)]
        with m.Else():
            m.d.sync += time.eq(time - cycle)
            with m.If(time[FRACTION:] == 0):
                m.d.sync += [time.eq(time + self.period - cycle), self.tx.eq(bits[0]), bits.eq(Cat(bits[1:], 1)), left.eq(left - 1)]
        return m
