"""Host link: a serial line on one side, memory, registers and tokens on the other."""

from .link import HostLink
from .uart import UartReceiver, UartTransmitter

__all__ = ["HostLink", "UartReceiver", "UartTransmitter"]
