"""Cases of the register block: everything that hardware does to a register."""

from typing import Any

import cocotb

from ...accelerators.control.counters import Counters
from ...accelerators.control.errors import OUTSIDE_SHIFT, STALLED_SHIFT, ErrorCause
from ...accelerators.control.registers import RegisterBlock
from ...accelerators.control.regmap import COUNTERS, UNIT_EVENTS, UNIT_NAMES
from .registers import SLVERR, begin, check

START, STOP, CLEAR, GREEDY = 1, 2, 4, 0x100


@cocotb.test()
async def commands(dut: Any) -> None:
    """Pulses last one cycle; a start is refused while busy or with an error; stop holds until the end."""
    bus = await begin(dut)
    await bus.put("CONTROL", START | GREEDY)
    await bus.idle(3)
    check("pulses", bus.pulses, {"start": 1, "clear_errors": 0, "reseed": 0})
    await bus.expect("CONTROL", GREEDY)
    await bus.put("CONTROL", STOP)
    check("stop without a run", bus.get("stop"), 0)
    bus.set(busy=1)
    await bus.expect("STATUS", 1)
    check("start while busy", await bus.write("CONTROL", START), SLVERR)
    check("greedy", bus.get("greedy"), 0)
    await bus.put("CONTROL", STOP)
    await bus.idle(5)
    check("stop", bus.get("stop"), 1)
    bus.set(busy=0)
    await bus.idle(2)
    check("stop after the run", bus.get("stop"), 0)
    bus.set(raise_error=ErrorCause.CACHE_FULL)
    await bus.step()
    bus.set(raise_error=0)
    check("start with an error", await bus.write("CONTROL", START), SLVERR)
    await bus.put("CONTROL", CLEAR)
    await bus.put("CONTROL", START, 0b1110)  # the strobe masks it
    await bus.put("SEED", 5, 0)
    check("seed", bus.get("seed"), 0)
    await bus.put("SEED", 77)
    await bus.idle(3)
    check("pulses", bus.pulses, {"start": 1, "clear_errors": 1, "reseed": 1})
    await bus.put("CONTROL", START)
    await bus.idle(2)
    check("starts", bus.pulses["start"], 2)


@cocotb.test()
async def done_and_interrupt(dut: Any) -> None:
    """STATUS.done and irq: set when done rises, cleared by writing 1 and by a start."""
    bus = await begin(dut)
    for clear in ("write", "start"):
        bus.set(done=1)
        await bus.idle(2)
        await bus.expect("STATUS", 2)
        check("irq", bus.get("irq"), 1)
        await bus.put("STATUS", 0)
        await bus.put("STATUS", 2, 0b1110)
        await bus.expect("STATUS", 2)
        await (bus.put("STATUS", 7) if clear == "write" else bus.put("CONTROL", START))
        await bus.idle(1)
        await bus.expect("STATUS", 0)  # although done is still high
        check("irq", bus.get("irq"), 0)
        bus.set(done=0)
        await bus.idle(2)


@cocotb.test()
async def errors(dut: Any) -> None:
    """The first error is kept with its info; a clear makes room for the next."""
    bus = await begin(dut)
    for cause in ErrorCause:
        if cause is ErrorCause.NONE:
            continue
        bus.set(raise_error=cause, raise_info=0xABCD_0000 + cause)
        await bus.step()
        bus.set(raise_error=ErrorCause.WATCHDOG, raise_info=1)
        await bus.step()
        bus.set(raise_error=0)
        await bus.expect("ERROR_CAUSE", cause)
        await bus.expect("ERROR_INFO", 0xABCD_0000 + cause)
        await bus.expect("STATUS", 4)
        check("error_pending and irq", (bus.get("error_pending"), bus.get("irq")), (1, 1))
        await bus.put("CONTROL", CLEAR)
        await bus.idle(1)
        await bus.expect("ERROR_CAUSE", 0)
        await bus.expect("ERROR_INFO", 0)
        check("error_pending", bus.get("error_pending"), 0)


@cocotb.test()
async def watchdog(dut: Any) -> None:
    """Counts busy cycles without progress; 0 turns it off."""
    bus = await begin(dut)
    width = len(UNIT_EVENTS)
    bus.set(events=0b011 << width * 1 | 0b101 << width * 3, outside_waits=0b10010001)  # unit 1 waits for input, unit 3 for its output
    await bus.put("WATCHDOG_LIMIT", 50)
    await bus.idle(120)
    check("error while idle", bus.get("error_pending"), 0)
    bus.set(busy=1)
    for _ in range(5):
        await bus.idle(49)
        bus.set(progress=1)
        await bus.step()
        bus.set(progress=0)
    check("error in spite of progress", bus.get("error_pending"), 0)
    await bus.idle(52)
    check("error after 52 cycles", bus.get("error_pending"), 0)
    await bus.step()
    check("error after 53 cycles", bus.get("error_pending"), 1)
    await bus.expect("ERROR_CAUSE", ErrorCause.WATCHDOG)
    await bus.expect("ERROR_INFO", 1 << 1 | 1 << STALLED_SHIFT + 3 | 0b10010001 << OUTSIDE_SHIFT)
    await bus.put("WATCHDOG_LIMIT", 0)
    await bus.put("CONTROL", CLEAR)
    await bus.idle(300)
    check("error with limit 0", bus.get("error_pending"), 0)


@cocotb.test()
async def live_values(dut: Any) -> None:
    """What is shown follows the inputs; the high half belongs to the low half that was read."""
    bus = await begin(dut)
    rng = bus.env.rng("live_values")
    for _ in range(20):
        values = {"position": rng.getrandbits(20), "tokens_generated": rng.getrandbits(20),
                  "operation": rng.getrandbits(16), "last_token": rng.getrandbits(32)}
        value, later = rng.getrandbits(64), rng.getrandbits(64)
        bus.set(**values, last_value=value)
        for name, want in values.items():
            await bus.expect(name.upper(), want)
        await bus.expect("LAST_VALUE_LO", value & 0xFFFF_FFFF)
        bus.set(last_value=later)
        await bus.expect("LAST_VALUE_HI", value >> 32)
        await bus.expect("LAST_VALUE_LO", later & 0xFFFF_FFFF)
        await bus.expect("LAST_VALUE_HI", later >> 32)


@cocotb.test()
async def counters(dut: Any) -> None:
    """Every counter counts its own event, only while busy, exactly when STATUS has shown the end; a start clears all."""
    bus = await begin(dut)
    rng = bus.env.rng("counters")
    events = [name for name in COUNTERS if name != "cycles"]
    units = [f"{unit}_{event}" for unit in UNIT_NAMES for event in UNIT_EVENTS]
    saturated_max = (1 << len(bus.env.ports["saturated"])) - 1
    for _ in range(3):
        model = dict.fromkeys((*COUNTERS, *units), 0)
        clamped = 0
        await bus.put("CONTROL", START)
        await bus.idle(1)
        for _ in range(400):
            busy, saturated = rng.random() < 0.8, rng.randint(0, saturated_max)
            ports = {name: rng.getrandbits(1) for name in events}
            bits = rng.getrandbits(len(units)) if rng.random() < 0.9 else (1 << len(units)) - 1
            bus.set(**ports, events=bits, busy=busy, saturated=saturated)
            if busy:
                clamped += saturated
                model["cycles"] += 1
                for name, bit in ports.items():
                    model[name] += bit
                for index, name in enumerate(units):
                    model[name] += bits >> index & 1
            await bus.step()
        bus.set(busy=0)
        await bus.expect("STATUS", 0)
        for name in [*rng.sample(list(model), 12), "cycles"]:
            check(name, await bus.wide(name.upper()), model[name])
        await bus.expect("SATURATIONS", clamped)
    check("all differ", len(set(model.values())) > 10, True)


@cocotb.test()
async def running_counter(dut: Any) -> None:
    """A counter that is read while it counts, the read begun in every cycle of the counters' round.

    What is shown may lack the ``RegisterBlock.COUNTER_LAG`` cycles before the request, and none more.
    """
    bus = await begin(dut)
    await bus.put("CONTROL", START)
    await bus.idle(1)
    bus.set(busy=1)
    start, lags = bus.cycle, []
    for pause in range(Counters.for_config(bus.env.bench.config).count):
        before = bus.cycle - start
        got = await bus.wide("CYCLES")
        check(f"CYCLES = {got} <= {bus.cycle - start}", got <= bus.cycle - start, True)
        lags.append(before - got)
        await bus.idle(pause)
    check("most cycles that a total lacks", max(lags), RegisterBlock.COUNTER_LAG)
