"""Benches of the register block (an AXI4-Lite master with control over every cycle) and of its performance counters."""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...accelerators.control.regmap import register_map
from .agents import BenchFailure, Model, Pattern, always
from .environment import Environment
from .trace import Trace
from .unit import Items, UnitBench

__all__ = ["OKAY", "SLVERR", "AxiLiteMaster", "CountersBench", "RegisterBlockBench", "begin", "check"]

OKAY, SLVERR = 0, 2
PREFIX = "s_axi_csr__"
PATIENCE = 200
"""Cycles until an access must have been answered, besides those in which the master does not take the answer."""


class RegisterBlockBench(UnitBench):
    """No streams: the cases are in ``registers_cases`` and ``registers_events``."""

    modules = ("llmrtl.sim.bench.registers_cases", "llmrtl.sim.bench.registers_events")

    def stimulus(self, rng, case: str) -> Items:
        return {}

    def expected(self, stimulus: Items) -> Items:
        return {}

    def constants(self) -> Mapping[str, int]:
        """All inputs low."""
        return dict.fromkeys((PREFIX + name for name in (
            "awaddr", "awprot", "awvalid", "wdata", "wstrb", "wvalid", "bready", "araddr", "arprot",
            "arvalid", "rready")), 0) | dict.fromkeys((
                "busy", "done", "position", "tokens_generated", "operation", "last_token", "last_value",
                "raise_error", "raise_info", "progress", "outside_waits", "saturated", "read_beats", "write_beats",
                "read_stall", "read_idle", "events"), 0)


class CountersBench(UnitBench):
    """No streams: random events and clears, and every total that comes by is compared."""

    ALL_AT_ONCE = 0.5
    """Share of the rounds in which every counter counts in every cycle."""

    def stimulus(self, rng: random.Random, case: str) -> Items:
        self.rng, self.share = rng, 1.0 if rng.random() < self.ALL_AT_ONCE else rng.random()
        return {}

    def boundary(self) -> Items:
        self.rng, self.share = random.Random(0), 1.0
        return {}

    def expected(self, stimulus: Items) -> Items:
        return {}

    def models(self, ports: Mapping[str, Any]) -> Sequence[Model]:
        self.counts = _Counts(ports, self)
        return (self.counts,)

    def measure(self, trace: Trace) -> dict[str, int]:
        return {"latency": self.counts.round, "interval": 1}


class _Counts(Model):
    """Drives the events of ``CountersBench``, and knows every total."""

    name = "counts"
    DELAY = 4
    """Cycles from an event to the total that has it."""
    CYCLES = 400

    def __init__(self, ports: Mapping[str, Any], bench: CountersBench):
        self._ports, self._bench = ports, bench
        self._count = len(ports["events"])

    def clear(self) -> None:
        self._events: list[int] = []  # of every cycle since the last reset
        self._begin = 0  # first cycle that counts
        self._left = 0
        self._moved: list[int] = []
        self._seen: dict[int, int] = {}  # number -> cycle in which it came by
        self.round = 0
        self._ports["events"].value = self._ports["clear"].value = 0

    def begin(self, sources: Pattern, sinks: Pattern) -> None:
        self._left = self.CYCLES

    @property
    def transfers(self) -> list[int]:
        return self._moved

    def drive(self) -> None:
        rng, share = self._bench.rng, self._bench.share
        events = sum((rng.random() < share) << k for k in range(self._count)) if self._left else 0
        clears = rng.random() < 0.01
        if clears:
            self._begin = len(self._events) + 1
        self._events.append(events)
        self._ports["events"].value, self._ports["clear"].value = events, int(clears)

    def sample(self, cycle: int) -> bool:
        index, value = (self._ports[name].value for name in ("index", "value"))
        if not (index.is_resolvable and value.is_resolvable):
            raise BenchFailure(f"index is {index}, value {value}")
        number, now = int(index), len(self._events) - 1
        if self._begin <= now:  # a clear acts in the next cycle
            want = sum(each >> number & 1 for each in self._events[self._begin:max(now - self.DELAY + 1, self._begin)])
            if int(value) != want:
                raise BenchFailure(f"counter {number} is {int(value)} in cycle {now}, expected {want}")
        self.round = now - self._seen.get(number, now)
        self._seen[number] = now
        self._moved.append(cycle)
        self._left -= self._left > 0
        return self._left > 0

    def pending(self) -> str | None:
        return f"{self._left} cycles of events to come" if self._left else None


class AxiLiteMaster:
    """Reads and writes of one AXI4-Lite slave, checked for the rules of the bus.

    ``valid`` and payload of the slave must hold until taken, and its outputs never be X. Handshakes
    of the slave's ``ready`` outputs must not depend on inputs of the same cycle.
    """

    def __init__(self, env: Environment):
        self.env = env
        self.map = register_map(env.bench.config)
        self.offsets = self.map.offsets
        self.cycle = 0
        self.pulses: dict[str, int] = dict.fromkeys(("start", "clear_errors", "reseed"), 0)
        self._held: dict[str, str] = {}
        self._driven: dict[str, int] = {"bready": 0, "rready": 0}

    def set(self, **values: int) -> None:
        """Drive plain inputs."""
        for name, value in values.items():
            self.env.ports[name].value = value

    def get(self, name: str) -> int:
        """Level of a plain output."""
        value = self.env.ports[name].value
        if not value.is_resolvable:
            raise BenchFailure(f"{name} is {value}")
        return int(value)

    def drive(self, **values: int) -> None:
        """Drive signals of the bus."""
        self._driven |= values
        self.set(**{PREFIX + name: int(value) for name, value in values.items()})

    def bus(self, name: str) -> int:
        """Level of an output of the bus."""
        return self.get(PREFIX + name)

    async def step(self) -> None:
        """One cycle; counts pulses and checks that responses hold."""
        for name in self.pulses:
            self.pulses[name] += self.get(name)
        for channel, payload in (("b", ("bresp",)), ("r", ("rdata", "rresp"))):
            shown = str([self.bus(name) for name in payload]) if self.bus(f"{channel}valid") else ""
            if self._held.get(channel) and shown != self._held[channel]:
                raise BenchFailure(f"{channel} channel changed from {self._held[channel]} to "
                                   f"{shown or 'nothing'} before it was taken")
            self._held[channel] = "" if self._driven[f"{channel}ready"] else shown
        await self.env.step(None)
        self.cycle += 1

    async def idle(self, cycles: int) -> None:
        for _ in range(cycles):
            await self.step()

    def address(self, register: str | int) -> int:
        return self.offsets[register] if isinstance(register, str) else register

    async def write(self, register: str | int, value: int, strobe: int = 0xF, *, address_after: int = 0,
                    data_after: int = 0, taken: Callable[[], bool] = always) -> int:
        """Write; address and data are offered after so many cycles. Returns the response."""
        waiting = {"aw": address_after, "w": data_after}
        self.drive(awaddr=self.address(register), wdata=value & 0xFFFF_FFFF, wstrb=strobe)
        waited = 0
        while waited < PATIENCE:
            ready = taken()
            waited += ready
            offered = [channel for channel, delay in waiting.items() if delay <= 0]
            self.drive(awvalid="aw" in offered, wvalid="w" in offered, bready=ready)
            accepted = [channel for channel in offered if self.bus(f"{channel}ready")]
            response = self.bus("bresp") if self.bus("bvalid") else None
            await self.step()
            waiting = {channel: delay - 1 for channel, delay in waiting.items() if channel not in accepted}
            if response is not None:
                if waiting:
                    raise BenchFailure(f"the write was answered before {' and '.join(waiting)} was taken")
                if ready:
                    self.drive(awvalid=0, wvalid=0, bready=0)
                    return response
        raise BenchFailure(f"write of {register} was not answered within {PATIENCE} cycles")

    async def read(self, register: str | int, *, taken: Callable[[], bool] = always) -> tuple[int, int]:
        """Read: ``(data, response)``."""
        self.drive(araddr=self.address(register), arvalid=1)
        waiting, waited = True, 0
        while waited < PATIENCE:
            ready = taken()
            waited += ready
            self.drive(arvalid=waiting, rready=ready)
            accepted = waiting and self.bus("arready")
            answer = (self.bus("rdata"), self.bus("rresp")) if self.bus("rvalid") else None
            await self.step()
            waiting = waiting and not accepted
            if answer is not None and ready:
                self.drive(arvalid=0, rready=0)
                return answer
        raise BenchFailure(f"read of {register} was not answered within {PATIENCE} cycles")

    async def value(self, register: str | int) -> int:
        """Data of a read that must succeed."""
        data, response = await self.read(register)
        if response != OKAY:
            raise BenchFailure(f"read of {register} gave response {response}")
        return data

    async def put(self, register: str | int, value: int, strobe: int = 0xF, **options: Any) -> None:
        """A write that must succeed."""
        response = await self.write(register, value, strobe, **options)
        if response != OKAY:
            raise BenchFailure(f"write of {value:#x} to {register} gave response {response}")

    async def expect(self, register: str | int, want: int) -> None:
        got = await self.value(register)
        if got != want:
            raise BenchFailure(f"{register} is {got:#x}, expected {want:#x}")

    async def wide(self, name: str) -> int:
        """A 64-bit value: low half, then high half."""
        return await self.value(f"{name}_LO") | await self.value(f"{name}_HI") << 32


async def begin(dut: Any) -> AxiLiteMaster:
    """A master on the block after reset."""
    env = Environment(dut)
    await env.reset()
    return AxiLiteMaster(env)


def check(what: str, got: Any, want: Any) -> None:
    """Fail unless ``got`` is ``want``."""
    if got != want:
        raise BenchFailure(f"{what} is {got}, expected {want}")
