"""Host link: answers the requests that come over a serial line."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.crc.catalog import CRC32_ISO_HDLC
from amaranth.lib.wiring import In, Out

from ..axi import AXI4LiteSignature, AXI4Signature, is_error, merge_channels
from ..checks import check_int
from ..config import AcceleratorConfig
from ..memory.bursts import ADDRESS_BITS
from ..memory.reader import BurstReader
from ..memory.writer import BurstWriter
from ..streams import Queue, connect
from .frames import HEADER, FrameReceiver, FrameSender
from .protocol import MAX_DATA_BYTES, VERSION, Identity, Kind, Status
from .protocol import TOKEN as TOKEN_BYTES
from .uart import UartReceiver, UartTransmitter, receiver_latency

__all__ = ["TOKEN", "HostLink"]

REGISTER_BITS = 12
BURST_BEATS = 16
LATENCY = 7
TOKEN = data.StructLayout({"token": 32, "value": 64, "last": 1})


class HostLink(wiring.Component):
    """What a host on a serial line sees of an accelerator and its memory (``protocol`` has the frames)::

        rx -> UART -> queue -> frames -> one request at a time -> memory, registers, token queue
                                                 |
        tx <- UART <----------- frames <- reply, kept for a request that comes again

    Nothing waits for a byte: a frame is looked at when its end is there, and its end is a delimiter. So lost, added and wrong bytes
    cost the frames that they are in, never more; who asked asks again. A request is executed before the next one is
    looked at; meanwhile 64 bytes wait, more are lost and counted.

    Parameters
    ----------
    bus_bits : int
        Width of the memory port, 32 to 512, a power of two.
    clock_hz, baud : int
        Line rate, ``clock_hz`` / 65536 to ``clock_hz`` / 4.
    data_bytes : int
        Most bytes of data in a frame, 64 to 4096, a power of two.
    token_depth : int
        Tokens that wait for the host to ask, 3 to 2**20; then the accelerator waits.

    Members
    -------
    rx : In(1), tx : Out(1)
        Serial line, 8N1, idle high; ``rx`` is asynchronous.
    m_axi : Out(AXI4Signature(bus_bits))
        Memory. No IDs, 32-bit addresses.
    m_axi_csr : Out(AXI4LiteSignature(32, address_bits=12))
        Registers of the accelerator.
    i_token : In(stream of {token: 32, value: 64, last: 1})
        Tokens of the accelerator (``tdata``, ``tuser``, ``tlast``).

    Latency: from the falling edge of the start bit of a request's last byte to that of the reply's first one, for a request
    without data that needs neither memory nor register. Others take 1 cycle per byte more, and what memory and registers take.
    Interval: memory is read, written and hashed at 1 byte per cycle at most, plus some cycles per word.
    """

    interval = None

    def __init__(self, bus_bits: int, *, clock_hz: int, baud: int, data_bytes: int = 1024, token_depth: int = 32):
        check_int("bus_bits", bus_bits, 32, 512, power_of_two=True)
        check_int("data_bytes", data_bytes, 64, MAX_DATA_BYTES, power_of_two=True)
        self.latency = receiver_latency(clock_hz, baud) + LATENCY
        self.bus_bits, self.clock_hz, self.baud = bus_bits, clock_hz, baud
        self.data_bytes, self.token_depth = data_bytes, token_depth
        super().__init__({
            "rx": In(1), "tx": Out(1, init=1),
            "m_axi": Out(AXI4Signature(bus_bits, address_bits=ADDRESS_BITS)),
            "m_axi_csr": Out(AXI4LiteSignature(32, address_bits=REGISTER_BITS)),
            "i_token": In(stream.Signature(TOKEN)),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "HostLink":
        """A line of 4 clock cycles per bit."""
        return cls(config.bus_bits, clock_hz=12_000_000, baud=3_000_000, data_bytes=256)

    def elaborate(self, platform):
        m = Module()
        m.submodules.uart_rx = uart_rx = UartReceiver(self.clock_hz, self.baud)
        m.submodules.uart_tx = uart_tx = UartTransmitter(self.clock_hz, self.baud)
        m.submodules.receiver = receiver = FrameReceiver(self.data_bytes)
        m.submodules.sender = sender = FrameSender(self.data_bytes)
        m.submodules.reader = reader = BurstReader(self.bus_bits, burst_beats=BURST_BEATS, outstanding=2, buffer_beats=2 * BURST_BEATS)
        m.submodules.writer = writer = BurstWriter(self.bus_bits, burst_beats=BURST_BEATS, outstanding=2)
        m.submodules.tokens = tokens = Queue(TOKEN, self.token_depth)
        m.d.comb += [uart_rx.rx.eq(self.rx), self.tx.eq(uart_tx.tx)]
        connect(m, uart_rx.o, receiver.i)
        connect(m, sender.o, uart_tx.i)
        connect(m, wiring.flipped(self.i_token), tokens.i)
        merge_channels(m, self.m_axi, read=reader.m_axi, write=writer.m_axi)

        dropped, overruns = Signal(16), Signal(16)
        for count, event in ((dropped, receiver.dropped), (overruns, uart_rx.overrun)):
            m.d.sync += count.eq(count + (event & (count != 0xFFFF)))
        identity = Identity(VERSION, self.data_bytes, self.bus_bits // 8, self.clock_hz, self.baud).encode()
        fixed = Const(int.from_bytes(identity, "little"), 8 * len(identity))

        self._execute(m, receiver, sender, reader, writer, tokens, Cat(fixed[:-32], dropped, overruns))
        return m

    def _execute(self, m, receiver, sender, reader, writer, tokens, identity):
        bus, bus_bytes = self.m_axi_csr, self.bus_bits // 8
        log_bytes = bus_bytes.bit_length() - 1
        m.submodules.hash = crc = CRC32_ISO_HDLC(data_width=8).create()
        request, reply = receiver.o.p, Signal(HEADER)
        before, known = Signal(8), Signal()  # sequence of the request before, if that matters
        word, left = Signal(max(len(identity), self.bus_bits)), Signal(range(max(len(identity), self.bus_bits) // 8 + 1))
        operand = Signal(32)
        fill = Signal(range(self.data_bytes + 1))  # bytes of the reply
        place, step = Signal(range(self.data_bytes)), Signal()  # byte of the request that ``receiver.data`` shows
        words = Signal(range(self.data_bytes // bus_bytes + 1))  # of the request, yet to be written
        final, hashing, failed = Signal(), Signal(), Signal()
        to_reader, address_sent, data_sent = Signal(), Signal(), Signal()
        aligned, is_register, in_bus = Signal(), Signal(), Signal()
        m.d.comb += [
            receiver.data_address.eq(place + step), sender.i.p.eq(reply),
            sender.data_address.eq(fill), sender.data.eq(word[:8]), crc.data.eq(word[:8]),
            reader.i_command.p.address.eq(request.address), reader.i_command.p.beats.eq(operand >> log_bytes),
            writer.i_command.p.address.eq(request.address), writer.i_command.p.beats.eq(request.length >> log_bytes),
            writer.i.p.data.eq(word), writer.o_done.ready.eq(1),
            bus.araddr.eq(request.address), bus.awaddr.eq(request.address), bus.wdata.eq(operand), bus.wstrb.eq(0b1111),
            is_register.eq((request.address[:2] == 0) & (request.address[REGISTER_BITS:] == 0)),
            aligned.eq(request.address[:log_bytes] == 0),
            in_bus.eq((operand != 0) & (operand[:log_bytes] == 0) & (operand[24 + log_bytes:] == 0)),
        ]
        m.d.sync += place.eq(place + step)

        def put(value, count):
            """Send ``count`` bytes of ``value``, or hash them."""
            m.d.sync += [word.eq(value), left.eq(count)]
            m.next = "PUT"

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += crc.start.eq(1)
                m.d.sync += [place.eq(0), hashing.eq(0), failed.eq(0)]
                with m.If(receiver.o.valid & sender.i.ready):
                    m.next = "SEND"  # again
                    with m.If(~known | (request.sequence != before) | (request.kind == Kind.IDENTIFY)):
                        m.d.sync += [reply.eq(request), reply.status.eq(Status.OK), reply.length.eq(0), fill.eq(0)]
                        m.next = "CHECK"
            with m.State("CHECK"):
                m.d.sync += [before.eq(request.sequence), known.eq(request.kind != Kind.IDENTIFY), left.eq(4),
                             words.eq(request.length >> log_bytes)]
                m.next = "REFUSE"
                with m.If(request.status == 0):
                    with m.Switch(request.kind):
                        with m.Case(Kind.IDENTIFY):
                            with m.If(request.length == 0):
                                put(identity, len(identity) // 8)
                        with m.Case(Kind.READ_REGISTER):
                            with m.If((request.length == 0) & is_register):
                                m.next = "READ_REGISTER"
                        with m.Case(Kind.WRITE_REGISTER):
                            with m.If((request.length == 4) & is_register):
                                m.next = "OPERAND"
                        with m.Case(Kind.READ_MEMORY, Kind.HASH):
                            with m.If((request.length == 4) & aligned):
                                m.next = "OPERAND"
                        with m.Case(Kind.WRITE_MEMORY):
                            with m.If((request.length != 0) & (request.length[:log_bytes] == 0) & aligned):
                                m.next = "BEGIN_WRITE"
                        with m.Case(Kind.TOKENS):
                            with m.If(request.length == 0):
                                m.next = "TOKENS"
            with m.State("REFUSE"):
                m.d.sync += reply.status.eq(Status.BAD_REQUEST)
                m.next = "SEND"

            with m.State("OPERAND"):  # four bytes of the request
                m.d.comb += step.eq(1)
                m.d.sync += [operand.eq(Cat(operand[8:], receiver.data)), left.eq(left - 1)]
                with m.If(left == 1):
                    m.next = "USE_OPERAND"
            with m.State("USE_OPERAND"):
                m.d.sync += hashing.eq(request.kind == Kind.HASH)
                m.next = "REFUSE"
                with m.If(request.kind == Kind.WRITE_REGISTER):
                    m.next = "WRITE_REGISTER"
                with m.Elif(in_bus & ((request.kind == Kind.HASH) | (operand <= self.data_bytes))):
                    m.next = "BEGIN_READ"

            with m.State("READ_REGISTER"):
                m.d.comb += [bus.arvalid.eq(~address_sent), bus.rready.eq(1)]
                with m.If(bus.arready):
                    m.d.sync += address_sent.eq(1)
                with m.If(bus.rvalid):
                    m.d.sync += [address_sent.eq(0), failed.eq(is_error(bus.rresp))]
                    put(bus.rdata, 4)
            with m.State("WRITE_REGISTER"):
                m.d.comb += [bus.awvalid.eq(~address_sent), bus.wvalid.eq(~data_sent), bus.bready.eq(1)]
                with m.If(bus.awready):
                    m.d.sync += address_sent.eq(1)
                with m.If(bus.wready):
                    m.d.sync += data_sent.eq(1)
                with m.If(bus.bvalid):
                    m.d.sync += [address_sent.eq(0), data_sent.eq(0), failed.eq(is_error(bus.bresp))]
                    m.next = "FINISH"

            with m.State("BEGIN_READ"):
                m.d.comb += reader.i_command.valid.eq(1)
                with m.If(reader.i_command.ready):
                    m.next = "READ"
            with m.State("READ"):
                m.d.comb += reader.o.ready.eq(1)
                m.d.sync += final.eq(reader.o.p.last)
                with m.If(reader.o.valid):
                    put(reader.o.p.data, bus_bytes)
            with m.State("TOKENS"):
                m.next = "FINISH"
                with m.If(tokens.o.valid & (fill <= self.data_bytes - TOKEN_BYTES.size)):
                    m.d.comb += tokens.o.ready.eq(1)
                    put(tokens.o.p, TOKEN_BYTES.size)
            with m.State("PUT"):
                m.d.comb += [sender.data_enable.eq(~hashing), crc.valid.eq(hashing)]
                m.d.sync += [word.eq(word >> 8), left.eq(left - 1), fill.eq(fill + ~hashing)]
                with m.If(left == 1):
                    m.next = "FINISH"
                    with m.If(request.kind == Kind.TOKENS):
                        m.next = "TOKENS"
                    with m.If(to_reader & ~final):
                        m.next = "READ"
                    with m.If(hashing & final):
                        m.next = "HASHED"
            with m.State("HASHED"):
                m.d.sync += hashing.eq(0)
                put(crc.crc, 4)

            with m.State("BEGIN_WRITE"):
                m.d.comb += writer.i_command.valid.eq(1)
                m.d.sync += left.eq(bus_bytes)
                with m.If(writer.i_command.ready):
                    m.next = "GATHER"
            with m.State("GATHER"):  # a word from bytes of the request
                m.d.comb += step.eq(1)
                m.d.sync += [word.eq(Cat(word[8:self.bus_bits], receiver.data)), left.eq(left - 1)]
                with m.If(left == 1):
                    m.d.sync += words.eq(words - 1)
                    m.next = "WRITE"
            with m.State("WRITE"):
                m.d.comb += writer.i.valid.eq(1)
                m.d.sync += left.eq(bus_bytes)
                with m.If(writer.i.ready):
                    m.next = "GATHER"
                    with m.If(words == 0):
                        m.next = "WRITTEN"
            with m.State("WRITTEN"):
                with m.If(writer.o_done.valid):
                    m.d.sync += failed.eq(writer.o_done.p.error)
                    m.next = "FINISH"

            with m.State("FINISH"):
                m.d.comb += [reader.clear.eq(1), writer.clear.eq(1)]
                m.d.sync += [reply.status.eq(Mux(failed | reader.error, Status.BUS_ERROR, Status.OK)), reply.length.eq(fill)]
                m.next = "SEND"
            with m.State("SEND"):
                m.d.comb += [sender.i.valid.eq(1), receiver.o.ready.eq(1)]
                m.next = "IDLE"  # the sender was ready, and so is it now
        m.d.comb += to_reader.eq((request.kind == Kind.READ_MEMORY) | (request.kind == Kind.HASH))
