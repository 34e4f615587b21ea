"""Frames from bytes and bytes from frames: delimiters, escapes, CRC (``protocol``)."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.crc.catalog import CRC32_ISO_HDLC
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ..checks import check_int
from .protocol import CRC_BYTES, DELIMITER, ESCAPE, FLIP, HEADER_BYTES, MAX_DATA_BYTES
from .uart import RECEIVED

__all__ = ["BYTE", "HEADER", "FrameReceiver", "FrameSender"]

HEADER = data.StructLayout({"kind": 4, "status": 4, "sequence": 8, "length": 16, "address": 32})
BYTE = data.StructLayout({"byte": 8})


def _needs_escape(byte):
    return (byte == DELIMITER) | (byte == ESCAPE)


class FrameReceiver(wiring.Component):
    """Keeps a frame whose CRC is right, drops everything else.

    Parameters
    ----------
    data_bytes : int
        Most bytes of data in a frame, 64 to 4096, a power of two. A longer frame is dropped.

    Members
    -------
    i : In(stream of {byte, bad})
        Taken in every cycle while there is no frame. A frame with a ``bad`` byte is dropped.
    o : Out(stream of HEADER)
        The frame that is there; its data stay until it is taken.
    data_address : In, data : Out(8)
        A byte of its data, a cycle after its address.
    dropped : Out(1)
        In this cycle a stretch between two delimiters was dropped.

    Latency: 1 cycle from the final delimiter to ``o``. Interval: 1 cycle per byte.
    """

    latency = None
    interval = None

    def __init__(self, data_bytes: int):
        check_int("data_bytes", data_bytes, 64, MAX_DATA_BYTES, power_of_two=True)
        self.data_bytes = data_bytes
        super().__init__({
            "i": In(stream.Signature(RECEIVED)), "o": Out(stream.Signature(HEADER)),
            "data_address": In(range(data_bytes)), "data": Out(8), "dropped": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.storage = storage = Memory(shape=8, depth=self.data_bytes, init=[])
        write, read = storage.write_port(), storage.read_port()
        m.submodules.checksum = crc = CRC32_ISO_HDLC(data_width=8).create()
        longest = HEADER_BYTES + self.data_bytes + CRC_BYTES
        count, due = Signal(range(longest + 1)), Signal(17)  # bytes seen; bytes of the whole frame
        escaped, bad = Signal(), Signal()
        header = Signal(HEADER)
        taken, delimiter, escape, takes = Signal(), Signal(), Signal(), Signal()
        byte, offset = Signal(8), Signal.like(count)
        m.d.comb += [
            self.i.ready.eq(~self.o.valid), taken.eq(self.i.valid & self.i.ready),
            delimiter.eq(self.i.p.byte == DELIMITER), escape.eq(self.i.p.byte == ESCAPE),
            takes.eq(taken & ~delimiter & ~escape), byte.eq(self.i.p.byte ^ Mux(escaped, FLIP, 0)),
            crc.data.eq(byte), crc.valid.eq(takes), crc.start.eq(taken & delimiter),
            offset.eq(count - HEADER_BYTES), write.addr.eq(offset), write.data.eq(byte),
            write.en.eq(takes & (count >= HEADER_BYTES) & (offset < self.data_bytes)),
            read.addr.eq(self.data_address), self.data.eq(read.data), self.o.p.eq(header),
        ]
        m.d.sync += due.eq(header.length + HEADER_BYTES + CRC_BYTES)
        with m.If(taken):
            m.d.sync += [escaped.eq(escape & ~escaped), bad.eq(bad | self.i.p.bad | (escape & escaped) | (takes & (count == longest)))]
        with m.If(takes):
            with m.If(count != longest):
                m.d.sync += count.eq(count + 1)
            with m.If(count < HEADER_BYTES):
                m.d.sync += header.eq(Cat(header.as_value()[8:], byte))
        with m.If(taken & delimiter):
            whole = ~bad & ~self.i.p.bad & ~escaped & (count == due) & crc.match_detected
            m.d.comb += self.dropped.eq(~whole & ((count != 0) | escaped | bad))
            m.d.sync += [self.o.valid.eq(whole), count.eq(0), bad.eq(self.i.p.bad)]
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        return m


class FrameSender(wiring.Component):
    """Sends a frame.

    Parameters
    ----------
    data_bytes : int
        Most bytes of data in a frame, 64 to 4096, a power of two.

    Members
    -------
    i : In(stream of HEADER)
        Taken when the frame begins. The next one is taken when it has left: while ``i.ready`` is low the data must stay.
    data_address : In, data : In(8), data_enable : In(1)
        Writes a byte of data.
    o : Out(stream of {byte})

    Latency: 1 cycle from ``i`` to ``o``. Interval: 5 cycles per byte, 6 with an escape.
    """

    latency = None
    interval = None

    def __init__(self, data_bytes: int):
        check_int("data_bytes", data_bytes, 64, MAX_DATA_BYTES, power_of_two=True)
        self.data_bytes = data_bytes
        super().__init__({
            "i": In(stream.Signature(HEADER)), "o": Out(stream.Signature(BYTE)),
            "data_address": In(range(data_bytes)), "data": In(8), "data_enable": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.storage = storage = Memory(shape=8, depth=self.data_bytes, init=[])
        write, read = storage.write_port(), storage.read_port()
        m.submodules.checksum = crc = CRC32_ISO_HDLC(data_width=8).create()
        count, length = Signal(range(HEADER_BYTES + self.data_bytes + 1)), Signal(range(self.data_bytes + 1))
        shift = Signal(8 * HEADER_BYTES)  # header, then CRC
        in_data, in_crc = Signal(), Signal()
        byte = Signal(8)
        m.d.comb += [
            write.addr.eq(self.data_address), write.data.eq(self.data), write.en.eq(self.data_enable), read.addr.eq(count),
            crc.data.eq(byte),
        ]
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [self.i.ready.eq(1), crc.start.eq(1)]
                m.d.sync += [shift.eq(self.i.p), length.eq(self.i.p.length), count.eq(0), in_data.eq(0), in_crc.eq(0)]
                with m.If(self.i.valid):
                    m.next = "BEGIN"
            with m.State("BEGIN"):
                m.d.comb += [self.o.valid.eq(1), self.o.p.byte.eq(DELIMITER)]
                with m.If(self.o.ready):
                    m.next = "FETCH"
            with m.State("FETCH"):  # the byte of data at ``count``, and the CRC of all before
                with m.If(~in_data & ~in_crc & (count == HEADER_BYTES)):
                    m.d.sync += [count.eq(0), in_data.eq(1)]
                with m.Elif(in_data & (count == length)):
                    m.d.sync += [count.eq(0), in_data.eq(0), in_crc.eq(1), shift.eq(crc.crc)]
                with m.Elif(in_crc & (count == CRC_BYTES)):
                    m.next = "END"
                with m.Else():
                    m.next = "TAKE"
            with m.State("TAKE"):  # block memory is slow to give it
                m.d.sync += [byte.eq(Mux(in_data, read.data, shift)), shift.eq(shift >> 8), count.eq(count + 1)]
                m.next = "HASH"
            with m.State("HASH"):
                m.d.comb += crc.valid.eq(~in_crc)
                m.next = "ESCAPE"
            with m.State("ESCAPE"):
                m.d.comb += [self.o.valid.eq(_needs_escape(byte)), self.o.p.byte.eq(ESCAPE)]
                with m.If(~_needs_escape(byte)):
                    m.next = "SEND"
                with m.Elif(self.o.ready):
                    m.d.sync += byte.eq(byte ^ FLIP)
                    m.next = "SEND"
            with m.State("SEND"):
                m.d.comb += [self.o.valid.eq(1), self.o.p.byte.eq(byte)]
                with m.If(self.o.ready):
                    m.next = "FETCH"
            with m.State("END"):
                m.d.comb += [self.o.valid.eq(1), self.o.p.byte.eq(DELIMITER)]
                with m.If(self.o.ready):
                    m.next = "IDLE"
        return m
