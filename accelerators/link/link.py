"""Host link: answers the requests that come over a serial line."""

from amaranth.hdl import Module
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..axi import AXI4LiteSignature, AXI4Signature
from ..config import check_int
from .protocol import MAX_DATA_BYTES
from .uart import bit_period

__all__ = ["TOKEN", "HostLink"]

ADDRESS_BITS = 32
REGISTER_BITS = 12
TOKEN = data.StructLayout({"token": 32, "value": 64, "last": 1})


class HostLink(wiring.Component):
    """What a host on a serial line sees of an accelerator and its memory (``protocol`` has the frames).

    Parameters
    ----------
    bus_bits : int
        Width of the memory port, 32 to 512, a power of two.
    clock_hz, baud : int
        Line rate, ``clock_hz`` / 65536 to ``clock_hz`` / 4.
    data_bytes : int
        Most bytes of data in a frame, 64 to 4096, a power of two.
    token_depth : int
        Tokens that wait for the host to ask, 3 to 2**20.

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
    """

    latency = None
    interval = None

    def __init__(self, bus_bits: int, *, clock_hz: int, baud: int, data_bytes: int = 1024, token_depth: int = 32):
        check_int("bus_bits", bus_bits, 32, 512, power_of_two=True)
        check_int("data_bytes", data_bytes, 64, MAX_DATA_BYTES, power_of_two=True)
        bit_period(clock_hz, baud)
        self.bus_bits, self.clock_hz, self.baud = bus_bits, clock_hz, baud
        self.data_bytes, self.token_depth = data_bytes, token_depth
        super().__init__({
            "rx": In(1), "tx": Out(1, init=1),
            "m_axi": Out(AXI4Signature(bus_bits, address_bits=ADDRESS_BITS)),
            "m_axi_csr": Out(AXI4LiteSignature(32, address_bits=REGISTER_BITS)),
            "i_token": In(stream.Signature(TOKEN)),
        })

    def elaborate(self, platform):
        return Module()
