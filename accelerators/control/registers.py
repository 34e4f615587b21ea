"""The register block: AXI4-Lite in front of everything that a host sets, starts and reads."""

from collections.abc import Sequence

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..axi import AXI4LiteSignature, Response
from ..config import AcceleratorConfig
from ..integers import ceil_div
from ..numerics import SCALAR
from .counters import Counters
from .errors import CAUSE_BITS, OUTSIDE_SHIFT, OUTSIDE_STREAMS, STALLED_SHIFT, ErrorCause
from .regmap import (
    COUNTER_BASE,
    COUNTERS,
    UNIT_EVENTS,
    UNIT_NAMES,
    WINDOW_BITS,
    Field,
    Register,
    register_map,
)

__all__ = ["RegisterBlock"]

WORD = 32
GROUP_BITS = 3
"""A read chooses one of 8 registers of every group, then the group."""
_INSIDE = {"error_pending", "error_cause", "error_info", "saturations"}  # read-only, but kept here


class RegisterBlock(wiring.Component):
    """One AXI4-Lite slave of 4 KiB with all registers of ``register_map``.

    Address and data of a write may come in any order; byte strobes are honoured. SLVERR answers, and nothing
    else happens on: an offset without a register, a write to a read-only register, a write of 1 to a bit that
    belongs to no field, and a start while ``busy`` or with an error pending. The two lowest address bits are
    ignored.

    Parameters
    ----------
    config : AcceleratorConfig
        Is read back through the ``const`` registers.
    units : sequence of str
        Names of the units with counters, in the order of ``events``.

    Members
    -------
    s_axi_csr : In(AXI4LiteSignature(32, address_bits=12))
    <field> : Out(width of the field)
        One for each ``rw`` and ``wo`` field of the map: ``program_address``, ``greedy``, ``top_k``, ``seed``
        and so on; ``inverse_temperature : Out(SCALAR)`` for its two registers. ``memory_base_<port> : Out(20)``, the
        pages of 4 KiB at which the memory ports begin, if there are several.
    start, clear_errors, reseed : Out(1)
        Pulses in the cycle after the write: a start that is not refused; a clear; a write to SEED.
    stop : Out(1)
        High from the write until the run has ended.
    busy : In(1), done : In(1)
        ``busy`` is high in a run, from the cycle after ``start`` on. STATUS.done is set when ``done``
        rises and cleared by ``start`` and by writing 1.
    position, tokens_generated, operation, last_token : In(width of the field), last_value : In(64)
        Shown as they are.
    raise_error : In(8), raise_info : In(32)
        While not 0, the cause of an error; the first one since the last clear is kept.
    error_pending : Out(1), irq : Out(1)
        An error is kept; STATUS.done or an error is pending.
    progress : In(1)
        Restarts the watchdog, which raises WATCHDOG after WATCHDOG_LIMIT busy cycles without it, and two until they are counted.
    outside_waits : In(8)
        A bit for each of ``OUTSIDE_STREAMS`` that waits: with the units' events, the info of WATCHDOG.
    saturated : In(range(vector_lanes + 1))
        Elements clamped in this cycle.
    read_beats, write_beats, read_stall, read_idle : In(1); events : In(array of {busy, starved, stalled})
        Counted in cycles in which ``busy`` is high. What a read shows may lack the ``COUNTER_LAG`` cycles before its
        address: who reads STATUS first has all of a run.

    Latency (a dictionary): a read takes 3 cycles from the address to ``rvalid``, a write 4 from the later of address and
    data to ``bvalid``; the low half of a performance counter up to ``3 + Counters.count``. Interval: 4 cycles
    for either, both at the same time.
    """

    latency = {"read": 3, "write": 4}
    interval = {"read": 4, "write": 4}
    COUNTER_LAG = 2

    def __init__(self, config: AcceleratorConfig, units: Sequence[str] = UNIT_NAMES):
        self.map, self.units = register_map(config, units), tuple(units)
        ports: dict = {}
        for register in self.map:
            for field in register.fields:
                if field.access in ("rw", "wo") and not field.name.startswith("inverse_temperature"):
                    ports[field.name] = Out(field.width, init=field.reset)
                elif field.access == "ro" and field.name not in _INSIDE and register.counter is None:
                    ports[field.name] = In(2 * WORD if register.half is not None else field.width)
        super().__init__(ports | {
            "s_axi_csr": In(AXI4LiteSignature(WORD, address_bits=WINDOW_BITS)),
            "inverse_temperature": Out(SCALAR),
            "start": Out(1), "stop": Out(1), "clear_errors": Out(1), "reseed": Out(1), "done": In(1),
            "raise_error": In(CAUSE_BITS), "raise_info": In(WORD), "error_pending": Out(1),
            "irq": Out(1), "progress": In(1), "outside_waits": In(len(OUTSIDE_STREAMS)),
            "saturated": In(range(config.vector_lanes + 1)),
            **{name: In(1) for name in COUNTERS if name != "cycles"},
            "events": In(data.ArrayLayout(data.StructLayout(dict.fromkeys(UNIT_EVENTS, 1)), len(units))),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "RegisterBlock":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        numbers = self.map.counters
        m.submodules.counters = counters = Counters(max(numbers.values()) + 1)
        events = {"cycles": Const(1), **{name: getattr(self, name) for name in COUNTERS if name != "cycles"}}
        for unit, ports in zip(self.units, self.events, strict=True):
            events |= {f"{unit}_{event}": ports[event] for event in UNIT_EVENTS}
        m.d.comb += counters.clear.eq(self.start)
        m.d.sync += [counters.events[number].eq(self.busy & events[name]) for name, number in numbers.items()]
        values = self._storage(m)
        self._write_channel(m, values)
        self._errors(m, values)
        self._read_channel(m, values, counters)

        done_before = Signal()
        m.d.sync += done_before.eq(self.done)
        with m.If(self.done & ~done_before):
            m.d.sync += values["done"].eq(1)
        with m.If(~self.busy):
            m.d.sync += self.stop.eq(0)
        with m.If(self.start):
            m.d.sync += values["done"].eq(0)
        saturations = Signal(WORD + 1)  # the top bit stays
        m.d.sync += values["saturations"].eq(saturations[:WORD] | saturations[WORD].replicate(WORD))
        with m.If(self.start):
            m.d.sync += saturations.eq(0)
        with m.Elif(~saturations[WORD]):
            m.d.sync += saturations.eq(saturations + Mux(self.busy, self.saturated, 0))
        m.d.comb += [
            self.inverse_temperature.mantissa.eq(values["inverse_temperature_mantissa"]),
            self.inverse_temperature.exponent.eq(values["inverse_temperature_exponent"]),
            self.irq.eq(values["done"] | self.error_pending),
        ]
        return m

    def _storage(self, m: Module) -> dict:
        """What each field holds: a port, a register of its own, or a constant; 0 for one that reads as 0."""
        values: dict = {}
        for register in self.map:
            for field in register.fields:
                if field.access == "const":
                    values[field.name] = Const(field.reset, field.width)
                elif field.access == "pulse":
                    values[field.name] = Const(0, field.width)
                elif field.access == "w1c" or field.name in ("error_cause", "error_info", "saturations"):
                    values[field.name] = Signal(field.width, name=f"{field.name}_kept")
                elif field.name.startswith("inverse_temperature"):
                    values[field.name] = Signal(field.width, name=field.name, init=field.reset)
                elif register.counter is None:
                    values[field.name] = getattr(self, field.name)
        return values

    def _write_channel(self, m: Module, values: dict) -> None:
        bus = self.s_axi_csr
        address, word, strobe = Signal(WINDOW_BITS - 2), Signal(WORD), Signal(WORD // 8)
        has_address, has_word, refused = Signal(), Signal(), Signal(init=1)
        bits = Cat(s.replicate(8) for s in strobe)
        m.d.comb += [bus.awready.eq(~has_address), bus.wready.eq(~has_word)]
        m.d.sync += [self.start.eq(0), self.clear_errors.eq(0), self.reseed.eq(0)]
        with m.If(bus.awvalid & bus.awready):
            m.d.sync += [address.eq(bus.awaddr[2:]), has_address.eq(1)]
        with m.If(bus.wvalid & bus.wready):
            m.d.sync += [word.eq(bus.wdata), strobe.eq(bus.wstrb), has_word.eq(1)]
        with m.If(bus.bready):
            m.d.sync += bus.bvalid.eq(0)
        # One cycle finds the register, one decides, the next one writes.
        found, decided = Signal(), Signal()
        writable = {register.name: register for register in self.map if register.writable}
        chosen = {name: Signal(name=f"writes_{name.lower()}") for name in writable}
        forbidden = Signal(WORD)
        unwelcome = word[0] & strobe[0] & (self.busy | self.start | self.error_pending)
        m.d.sync += [
            found.eq(has_address & has_word & ~bus.bvalid & ~found & ~decided), decided.eq(found), forbidden.eq(~0),
            *(signal.eq(address == writable[name].offset // 4) for name, signal in chosen.items()),
            refused.eq((word & bits & forbidden).any() | ~Cat(chosen.values()).any() | (chosen["CONTROL"] & unwelcome)),
        ]
        with m.Switch(address):
            for register in writable.values():
                with m.Case(register.offset // 4):
                    m.d.sync += forbidden.eq(~register.mask)
        with m.If(decided):
            m.d.sync += [
                bus.bvalid.eq(1),
                bus.bresp.eq(Mux(refused, Response.SLVERR, Response.OKAY)),
                has_address.eq(0),
                has_word.eq(0),
            ]
        for name, signal in chosen.items():
            with m.If(decided & ~refused & signal):
                for field in writable[name].fields:
                    self._write_field(m, field, values[field.name], word, strobe)

    def _write_field(self, m: Module, field: Field, value, word, strobe) -> None:
        if field.name == "seed":
            m.d.sync += self.reseed.eq(strobe.any())
        for lane in range(field.low // 8, ceil_div(field.low + field.width, 8)):
            low, high = max(field.low, 8 * lane), min(field.low + field.width, 8 * lane + 8)
            part, bits = slice(low - field.low, high - field.low), word[low:high]
            with m.If(strobe[lane]):
                if field.name == "stop":
                    with m.If(bits & self.busy):
                        m.d.sync += self.stop.eq(1)
                elif field.access == "pulse":
                    m.d.sync += getattr(self, field.name).eq(bits)
                elif field.access == "w1c":
                    m.d.sync += value[part].eq(value[part] & ~bits)
                elif field.writable:
                    m.d.sync += value[part].eq(bits)

    def _errors(self, m: Module, values: dict) -> None:
        quiet, waits, expired = Signal(WORD), Signal(), Signal()
        limit = self.watchdog_limit
        m.d.comb += self.error_pending.eq(values["error_cause"] != ErrorCause.NONE)
        m.d.sync += [waits.eq(self.busy & ~self.progress), quiet.eq(Mux(waits & ~expired, quiet + 1, 0)),
                     expired.eq((limit != 0) & (quiet == limit) & ~expired)]
        cause, info = values["error_cause"], values["error_info"]
        with m.If(self.clear_errors):
            m.d.sync += [cause.eq(ErrorCause.NONE), info.eq(0)]
        with m.Elif(~self.error_pending):
            with m.If(self.raise_error != ErrorCause.NONE):
                m.d.sync += [cause.eq(self.raise_error), info.eq(self.raise_info)]
            with m.Elif(expired):
                starved, stalled = (Cat(getattr(self.events[k], name) for k in range(len(self.units)))
                                    for name in ("starved", "stalled"))
                m.d.sync += [cause.eq(ErrorCause.WATCHDOG),
                             info.eq(starved | stalled << STALLED_SHIFT | self.outside_waits << OUTSIDE_SHIFT)]

    def _read_channel(self, m: Module, values: dict, counters: Counters) -> None:
        bus = self.s_axi_csr
        address = Signal(WINDOW_BITS - 2)
        high_half = Signal(WORD)  # of the 64-bit value whose low half was read last
        words = COUNTER_BASE.bit_length() - 3  # bits of a word number below the counters
        number, is_high = address[1:words], address[0]
        present = Signal()
        index, value = Signal.like(counters.index), Signal.like(counters.value)
        m.d.sync += [index.eq(counters.index), value.eq(counters.value)]
        known = sum(1 << number for number in self.map.counters.values())
        m.d.comb += present.eq(Const(known, 1 << len(number)).bit_select(number, 1))

        def word_of(register: Register):
            word, width = [], 0
            for field in register.fields:
                shown = values[field.name] if field.access != "wo" else Const(0, field.width)
                word += [Const(0, field.low - width), shown]
                width = field.low + field.width
            return Cat(word)

        # One cycle chooses within every group, the next one among the groups: what is read comes from far away on the device.
        groups = Array([Signal(data.StructLayout({"low": WORD, "high": WORD, "known": 1, "wide": 1}), name=f"group_{k}")
                        for k in range(1 << words - GROUP_BITS)])
        group = groups[address[GROUP_BITS:words]]
        for k, chosen in enumerate(groups):
            m.d.sync += chosen.eq(0)
            with m.Switch(address[:GROUP_BITS]):
                for register in self.map:
                    place = register.offset // 4
                    if register.counter is not None or place >> GROUP_BITS != k:
                        continue
                    with m.Case(place % (1 << GROUP_BITS)):
                        m.d.sync += [chosen.known.eq(1), chosen.wide.eq(register.half == 0)]
                        if register.half == 0:
                            m.d.sync += Cat(chosen.low, chosen.high).eq(values[register.fields[0].name])
                        else:
                            m.d.sync += chosen.low.eq(high_half if register.half else word_of(register))

        with m.FSM():
            with m.State("ADDRESS"):
                m.d.comb += bus.arready.eq(1)
                m.d.sync += address.eq(bus.araddr[2:])
                with m.If(bus.arvalid):
                    m.next = "READ"
            with m.State("READ"):
                m.next = "CHOOSE"
            with m.State("CHOOSE"):
                m.d.sync += [bus.rresp.eq(Mux(group.known & (address[words:] == 0), Response.OKAY, Response.SLVERR)),
                             bus.rdata.eq(Mux(address[words:] == 0, group.low, 0))]
                m.next = "DATA"
                with m.If((address[words:] == 0) & group.wide):
                    m.d.sync += high_half.eq(group.high)
                with m.If((address[words:] == 1) & present):
                    m.d.sync += [bus.rresp.eq(Response.OKAY), bus.rdata.eq(high_half)]
                    with m.If(~is_high):
                        m.next = "COUNTER"
            with m.State("COUNTER"):
                m.d.sync += Cat(bus.rdata, high_half).eq(value)
                with m.If(index == number):
                    m.next = "DATA"
            with m.State("DATA"):
                m.d.comb += bus.rvalid.eq(1)
                with m.If(bus.rready):
                    m.next = "ADDRESS"

