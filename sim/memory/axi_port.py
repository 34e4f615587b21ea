"""Protocol checker of one AXI4 port, whoever of master and slave is under test."""

from collections import deque
from typing import Any

from ..bench.agents import BenchFailure

__all__ = ["CHANNELS", "AxiPort", "burst_problem"]

CHANNELS = {
    "ar": ("id", "addr", "len", "size", "burst", "cache", "prot"),
    "r": ("id", "data", "resp", "last"),
    "aw": ("id", "addr", "len", "size", "burst", "cache", "prot"),
    "w": ("data", "strb", "last"),
    "b": ("id", "resp"),
}
PAGE_BYTES = 4096


def burst_problem(address: int, beats: int, size: int, burst: int, bus_bytes: int) -> str | None:
    """What is wrong with the burst, or ``None``. Only full-width INCR bursts are expected here."""
    if burst != 1:
        return f"burst type is {burst}, not INCR"
    if 1 << size != bus_bytes:
        return f"size is {1 << size} bytes on a bus of {bus_bytes}"
    if address % bus_bytes:
        return f"address {address:#x} is not aligned to {bus_bytes} bytes"
    if address // PAGE_BYTES != (address + beats * bus_bytes - 1) // PAGE_BYTES:
        return f"burst of {beats} beats from {address:#x} crosses 4 KiB"
    return None


class AxiPort:
    """Watches a port: what was transferred in each cycle, and whether both sides keep the rules.

    Checked: no X on valid, ready or a payload; valid and payload kept until ready; bursts are full-width
    INCR within 4 KiB; RLAST and WLAST exactly on the final beat; read data only for a burst that was asked
    for; one write response per burst, after its final beat.

    Parameters
    ----------
    ports : dict of str to handle
        Ports of the design.
    prefix : str
        ``m_axi`` for ``m_axi__araddr``.

    Attributes
    ----------
    bus_bytes : int
    transfers : dict of str to list of int
        Cycles of the transfers on each channel.
    raised : dict of str to int
        Cycle in which each channel first had valid up.
    stalls : dict of str to int
        Cycles in which each channel had valid up and ready down.
    most_outstanding : int
        Most read bursts that were open at once.
    """

    def __init__(self, ports: dict[str, Any], prefix: str = "m_axi"):
        self.prefix = prefix
        self.channels = {
            channel: {name: ports[f"{prefix}__{channel}{name}"]
                      for name in (*fields, "valid", "ready") if f"{prefix}__{channel}{name}" in ports}
            for channel, fields in CHANNELS.items() if f"{prefix}__{channel}valid" in ports}
        if not self.channels:
            raise ValueError(f"prefix must be that of an AXI4 port, not {prefix!r}")
        data = self.channels.get("r") or self.channels["w"]
        self.bus_bytes = len(data["data"]) // 8
        self.clear()

    def clear(self) -> None:
        self.transfers: dict[str, list[int]] = {channel: [] for channel in self.channels}
        self.raised: dict[str, int] = {}
        self.stalls: dict[str, int] = dict.fromkeys(self.channels, 0)
        self.most_outstanding = 0
        self._held: dict[str, dict[str, str]] = {}
        self._reads: dict[int, deque[int]] = {}  # beats left of the open bursts, by ID
        self._writes: deque[tuple[int, int]] = deque()  # ID and beats of write bursts without all data
        self._sent: deque[int] = deque()  # beats of finished data bursts without an address
        self._beats = 0  # of the data burst under way
        self._unanswered: dict[int, int] = {}

    def set(self, channel: str, **values: int) -> None:
        """Drive signals of a channel; those that the port lacks are left out."""
        signals = self.channels[channel]
        for name, value in values.items():
            if name in signals:
                signals[name].value = value

    def sample(self, cycle: int) -> dict[str, dict[str, int]]:
        """The payloads transferred in this cycle, by channel."""
        seen: dict[str, dict[str, int]] = {}
        for channel in self.channels:
            payload = self._channel(channel, cycle)
            if payload is not None:
                seen[channel] = payload
        for channel in ("ar", "aw", "w", "r", "b"):
            if channel in seen:
                getattr(self, f"_check_{channel}")(seen[channel])
        return seen

    def _channel(self, channel: str, cycle: int) -> dict[str, int] | None:
        signals = self.channels[channel]
        valid, ready = str(signals["valid"].value), str(signals["ready"].value)
        for name, level in (("valid", valid), ("ready", ready)):
            if level not in "01":
                self._fail(channel, f"{name} is {level} after reset")
        held = self._held.pop(channel, None)
        if valid == "0":
            if held is not None:
                self._fail(channel, "valid was dropped before ready")
            return None
        self.raised.setdefault(channel, cycle)
        payload = {name: str(handle.value) for name, handle in signals.items()
                   if name not in ("valid", "ready")}
        if held is not None and held != payload:
            changed = ", ".join(f"{name} from {held[name]} to {payload[name]}" for name in held
                                if held[name] != payload[name])
            self._fail(channel, f"the payload changed before ready: {changed}")
        if ready == "0":
            self._held[channel] = payload
            self.stalls[channel] += 1
            return None
        self.transfers[channel].append(cycle)
        try:
            return {name: int(bits, 2) for name, bits in payload.items()}
        except ValueError:
            self._fail(channel, f"the payload is {payload}")
        return None

    def _fail(self, channel: str, what: str) -> None:
        raise BenchFailure(f"{self.prefix} {channel.upper()} channel: {what}")

    def _check_address(self, channel: str, burst: dict[str, int]) -> None:
        problem = burst_problem(burst["addr"], burst["len"] + 1, burst["size"], burst["burst"],
                                self.bus_bytes)
        if problem:
            self._fail(channel, problem)

    def _check_ar(self, burst: dict[str, int]) -> None:
        self._check_address("ar", burst)
        self._reads.setdefault(burst.get("id", 0), deque()).append(burst["len"] + 1)
        self.most_outstanding = max(self.most_outstanding, sum(map(len, self._reads.values())))

    def _check_r(self, beat: dict[str, int]) -> None:
        bursts = self._reads.get(beat.get("id", 0))
        if not bursts:
            self._fail("r", f"a beat for ID {beat.get('id', 0)}, which has no open burst")
            return
        bursts[0] -= 1
        if beat["last"] != (bursts[0] == 0):
            self._fail("r", f"last is {beat['last']} with {bursts[0]} beats left")
        if beat["last"]:
            bursts.popleft()

    def _check_aw(self, burst: dict[str, int]) -> None:
        self._check_address("aw", burst)
        self._writes.append((burst.get("id", 0), burst["len"] + 1))
        self._match()

    def _check_w(self, beat: dict[str, int]) -> None:
        self._beats += 1
        if beat["last"]:
            self._sent.append(self._beats)
            self._beats = 0
        elif self._writes and self._beats >= self._writes[0][1]:
            self._fail("w", f"last is 0 on beat {self._beats} of {self._writes[0][1]}")
        self._match()

    def _match(self) -> None:
        while self._writes and self._sent:
            (name, beats), sent = self._writes.popleft(), self._sent.popleft()
            if beats != sent:
                self._fail("w", f"last came on beat {sent} of a burst of {beats}")
            self._unanswered[name] = self._unanswered.get(name, 0) + 1

    def _check_b(self, response: dict[str, int]) -> None:
        name = response.get("id", 0)
        if not self._unanswered.get(name):
            self._fail("b", f"a response for ID {name}, which has no finished burst")
        self._unanswered[name] -= 1

    def pending(self) -> str | None:
        """What is still open, or ``None``."""
        reads = sum(map(len, self._reads.values()))
        open_bursts = {"read bursts": reads, "write bursts without all data": len(self._writes),
                       "data bursts without an address": len(self._sent) + bool(self._beats),
                       "write responses": sum(self._unanswered.values())}
        text = ", ".join(f"{count} {name}" for name, count in open_bursts.items() if count)
        return f"{self.prefix} has open {text}" if text else None
