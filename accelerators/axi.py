"""AXI4, AXI4-Lite and AXI4-Stream signatures with the standard signal names.

All are seen from the master (source): declare ``Out(AXI4Signature(...))`` on a master and ``In(...)`` on a
slave. Ports flatten to ``m_axi__araddr``; the wrapper of a core renames them to ``m_axi_<name>_araddr``.
"""

from enum import IntEnum
from typing import Any

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .checks import check_int

__all__ = ["AXI4LiteSignature", "AXI4Signature", "AXI4StreamSignature", "Burst", "Response", "drive_bursts",
           "is_error", "merge_channels"]

CACHE_BUFFERABLE = 0b0011
"""Normal, non-cacheable, bufferable: what memory controllers take without slowing down."""


class Burst(IntEnum):
    FIXED = 0
    INCR = 1
    WRAP = 2


class Response(IntEnum):
    OKAY = 0
    EXOKAY = 1
    SLVERR = 2
    DECERR = 3


def is_error(response: Any) -> Any:
    """Whether a two-bit response is SLVERR or DECERR."""
    return response[1]


def _check_widths(data_bits: int, address_bits: int, narrowest: int, widest: int) -> None:
    check_int("data_bits", data_bits, narrowest, widest, power_of_two=True)
    check_int("address_bits", address_bits, 1, 64)


def _address_channel(prefix: str, address_bits: int, id_bits: int) -> dict[str, Any]:
    return ({f"{prefix}id": Out(id_bits)} if id_bits else {}) | {
        f"{prefix}addr": Out(address_bits), f"{prefix}len": Out(8), f"{prefix}size": Out(3),
        f"{prefix}burst": Out(2), f"{prefix}cache": Out(4), f"{prefix}prot": Out(3),
        f"{prefix}valid": Out(1), f"{prefix}ready": In(1)}


class AXI4Signature(wiring.Signature):
    """AXI4 without the optional lock, QoS, region and user signals.

    Parameters
    ----------
    data_bits : int
        Width of read and write data, 8 to 1024, a power of two.
    address_bits : int
        1 to 64.
    id_bits : int
        Width of the transaction IDs, 0 to 16; 0 leaves them out.
    read, write : bool
        Which channels there are; at least one.
    """

    def __init__(self, data_bits: int, *, address_bits: int = 32, id_bits: int = 0, read: bool = True,
                 write: bool = True):
        _check_widths(data_bits, address_bits, 8, 1024)
        check_int("id_bits", id_bits, 0, 16)
        if not (read or write):
            raise ValueError("read or write must be true, not both false")
        self.data_bits, self.address_bits, self.id_bits = data_bits, address_bits, id_bits
        self.read, self.write = bool(read), bool(write)
        members: dict[str, Any] = {}
        if read:
            members |= _address_channel("ar", address_bits, id_bits)
            members |= ({"rid": In(id_bits)} if id_bits else {}) | {
                "rdata": In(data_bits), "rresp": In(2), "rlast": In(1), "rvalid": In(1), "rready": Out(1)}
        if write:
            members |= _address_channel("aw", address_bits, id_bits)
            members |= {"wdata": Out(data_bits), "wstrb": Out(data_bits // 8), "wlast": Out(1),
                        "wvalid": Out(1), "wready": In(1)}
            members |= ({"bid": In(id_bits)} if id_bits else {}) | {
                "bresp": In(2), "bvalid": In(1), "bready": Out(1)}
        super().__init__(members)


class AXI4LiteSignature(wiring.Signature):
    """AXI4-Lite.

    Parameters
    ----------
    data_bits : 32 or 64
    address_bits : int
        1 to 64.
    """

    def __init__(self, data_bits: int = 32, *, address_bits: int = 12):
        _check_widths(data_bits, address_bits, 32, 64)
        self.data_bits, self.address_bits = data_bits, address_bits
        super().__init__({
            "awaddr": Out(address_bits), "awprot": Out(3), "awvalid": Out(1), "awready": In(1),
            "wdata": Out(data_bits), "wstrb": Out(data_bits // 8), "wvalid": Out(1), "wready": In(1),
            "bresp": In(2), "bvalid": In(1), "bready": Out(1),
            "araddr": Out(address_bits), "arprot": Out(3), "arvalid": Out(1), "arready": In(1),
            "rdata": In(data_bits), "rresp": In(2), "rvalid": In(1), "rready": Out(1),
        })


class AXI4StreamSignature(wiring.Signature):
    """AXI4-Stream.

    Parameters
    ----------
    data_bits : int
        A multiple of 8, 8 to 4096.
    last, keep : bool
        Whether there are ``tlast`` and ``tkeep``.
    """

    def __init__(self, data_bits: int, *, last: bool = True, keep: bool = False):
        check_int("data_bits", data_bits, 8, 4096, multiple_of=8)
        self.data_bits, self.last, self.keep = data_bits, bool(last), bool(keep)
        super().__init__({
            "tdata": Out(data_bits), **({"tkeep": Out(data_bits // 8)} if keep else {}),
            **({"tlast": Out(1)} if last else {}), "tvalid": Out(1), "tready": In(1),
        })


def drive_bursts(m: Module, port: Any) -> None:
    """Drive what is constant on a master's address channels: full-width INCR bursts of normal memory."""
    signature = port.signature
    for prefix in ("ar",) * signature.read + ("aw",) * signature.write:
        m.d.comb += [
            getattr(port, f"{prefix}size").eq((signature.data_bits // 8).bit_length() - 1),
            getattr(port, f"{prefix}burst").eq(Burst.INCR),
            getattr(port, f"{prefix}cache").eq(CACHE_BUFFERABLE),
        ]


def merge_channels(m: Module, port: Any, *, read: Any, write: Any) -> None:
    """Connect the read channels of one master and the write channels of another to one AXI4 port.

    Parameters
    ----------
    port : interface of AXI4Signature
        Master port of the component under construction, with read and write channels.
    read, write : interfaces of AXI4Signature
        Master ports of its parts. A master without IDs uses ID 0; narrower IDs are extended with zeros.

    Raises
    ------
    ValueError
        If data or address widths differ, or IDs are wider than those of ``port``.
    """
    for name, master, prefix in (("read", read, "ar"), ("write", write, "aw")):
        for key in ("data_bits", "address_bits"):
            have, want = getattr(master.signature, key), getattr(port.signature, key)
            if have != want:
                raise ValueError(f"{key} of {name} must be that of port, {want}, not {have}")
        if master.signature.id_bits > port.signature.id_bits:
            raise ValueError(f"id_bits of {name} must be at most that of port, {port.signature.id_bits}, "
                             f"not {master.signature.id_bits}")
        channels = AXI4Signature(port.signature.data_bits, address_bits=port.signature.address_bits,
                                 id_bits=master.signature.id_bits, read=prefix == "ar", write=prefix == "aw")
        for key, member in channels.members.items():
            here, there = getattr(port, key), getattr(master, key)
            m.d.comb += here.eq(there) if member.flow is Out else there.eq(here)
