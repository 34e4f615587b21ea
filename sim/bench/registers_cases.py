"""Cases of the register block: every kind of access, and everything that hardware does to a register."""

import json
import os
from pathlib import Path
from typing import Any

import cocotb

from ...accelerators.control.errors import ErrorCause
from ...accelerators.control.regmap import COUNTERS, UNIT_EVENTS, UNIT_NAMES
from .agents import BenchFailure, bursts
from .environment import Environment
from .registers import OKAY, SLVERR, AxiLiteMaster

START, STOP, CLEAR, GREEDY = 1, 2, 4, 0x100


async def begin(dut: Any) -> AxiLiteMaster:
    env = Environment(dut)
    await env.reset()
    return AxiLiteMaster(env)


def check(what: str, got: Any, want: Any) -> None:
    if got != want:
        raise BenchFailure(f"{what} is {got}, expected {want}")


@cocotb.test()
async def reset_values(dut: Any) -> None:
    """Every register of the map answers with its reset value, everything else with SLVERR."""
    bus = await begin(dut)
    mapped = {register.offset: register for register in bus.env.bench.map}
    for offset in range(0, 1 << 12, 4):
        want = (mapped[offset].reset, OKAY) if offset in mapped else (0, SLVERR)
        check(f"read of {offset:#x}", await bus.read(offset), want)
    check("IDENTITY", (await bus.value("IDENTITY")).to_bytes(4, "little"), b"LRTL")
    check("read of an odd address", await bus.value(0x43), await bus.value(0x40))


@cocotb.test()
async def strobes(dut: Any) -> None:
    """Random words and strobes to all rw and wo fields, against a model; ports follow."""
    bus = await begin(dut)
    rng = bus.env.rng("strobes")
    writable = [register for register in bus.env.bench.map
                if register.writable and register.name not in ("CONTROL", "STATUS")]
    model = {register.name: register.reset for register in writable}
    for _ in range(300):
        register = rng.choice(writable)
        word, strobe = rng.getrandbits(32) & register.mask, rng.randrange(16)
        await bus.put(register.name, word, strobe)
        bits = sum(0xFF << 8 * lane for lane in range(4) if strobe >> lane & 1)
        model[register.name] = (model[register.name] & ~bits) | (word & bits)
        field = register.fields[0]
        await bus.expect(register.name, 0 if field.access == "wo" else model[register.name])
        if not field.name.startswith("inverse_temperature"):
            check(field.name, bus.get(field.name), model[register.name])
    check("inverse_temperature", bus.get("inverse_temperature"),
          model["INVERSE_TEMPERATURE_MANTISSA"] | model["INVERSE_TEMPERATURE_EXPONENT"] << 24)


@cocotb.test()
async def orders(dut: Any) -> None:
    """Address before data, data before address, both at once; responses taken late."""
    bus = await begin(dut)
    rng = bus.env.rng("orders")
    for address_after in range(4):
        for data_after in range(4):
            for share in (1.0, 0.3):
                value = rng.getrandbits(32)
                await bus.put("PROGRAM_ADDRESS", value, address_after=address_after, data_after=data_after,
                              taken=bursts(rng, share))
                data, _ = await bus.read("PROGRAM_ADDRESS", taken=bursts(rng, share))
                check("PROGRAM_ADDRESS", data, value)


@cocotb.test()
async def both_channels(dut: Any) -> None:
    """Reads and writes at the same time, with back-pressure on both."""
    bus = await begin(dut)
    rng = bus.env.rng("both_channels")
    await bus.put("PROMPT_ADDRESS", 0x1234_5678)
    reads = 0
    for round_ in range(40):
        values = {"araddr": bus.offsets["PROMPT_ADDRESS"], "arvalid": 1, "awvalid": 1, "wvalid": 1,
                  "awaddr": bus.offsets["PROGRAM_ADDRESS"], "wdata": round_, "wstrb": 15}
        pending = {"ar", "aw", "w", "r", "b"}
        while pending:
            ready = {"r": rng.random() < 0.5, "b": rng.random() < 0.5}
            bus.drive(**{name: value for name, value in values.items() if not name.endswith("valid")},
                      **{f"{channel}valid": channel in pending for channel in ("ar", "aw", "w")},
                      rready=ready["r"], bready=ready["b"])
            done = {channel for channel in ("ar", "aw", "w")
                    if channel in pending and bus.bus(f"{channel}ready")}
            for channel in ("r", "b"):
                if ready[channel] and bus.bus(f"{channel}valid"):
                    done.add(channel)
            if "r" in done:
                check("rdata", bus.bus("rdata"), 0x1234_5678)
                reads += 1
            await bus.step()
            pending -= done
        check("program_address", bus.get("program_address"), round_)
    check("reads", reads, 40)


@cocotb.test()
async def refused(dut: Any) -> None:
    """Writes to nowhere, to read-only registers and to bits without a field change nothing."""
    bus = await begin(dut)
    mapped = {register.offset: register for register in bus.env.bench.map}
    for offset in range(0, 1 << 12, 4):
        if offset not in mapped or not mapped[offset].writable:
            check(f"write to {offset:#x}", await bus.write(offset, 0xFFFF_FFFF), SLVERR)
    for name, word in (("TOP_K", 0x1_05), ("PROMPT_LENGTH", 1 << 20), ("CONTROL", START | 1 << 31),
                       ("INVERSE_TEMPERATURE_MANTISSA", 1 << 24)):
        check(f"write of {word:#x} to {name}", await bus.write(name, word), SLVERR)
        await bus.expect(name, bus.env.bench.map[name].reset)
    await bus.put("TOP_K", 0x1_05, 0b0001)  # the strobe masks the bit without a field
    await bus.expect("TOP_K", 5)
    check("pulses", set(bus.pulses.values()), {0})


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
    bus.set(operation=0x77)
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
    await bus.idle(50)
    check("error after 50 cycles", bus.get("error_pending"), 0)
    await bus.step()
    check("error after 51 cycles", bus.get("error_pending"), 1)
    await bus.expect("ERROR_CAUSE", ErrorCause.WATCHDOG)
    await bus.expect("ERROR_INFO", 0x77)
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
    """Every counter counts its own event, only while busy, exactly; a start clears all."""
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
        for name in [*rng.sample(list(model), 12), "cycles"]:
            check(name, await bus.wide(name.upper()), model[name])
        await bus.expect("SATURATIONS", clamped)
    check("all differ", len(set(model.values())) > 10, True)


@cocotb.test()
async def running_counter(dut: Any) -> None:
    """A counter that is read while it counts: what is shown is a value between request and answer."""
    bus = await begin(dut)
    await bus.put("CONTROL", START)
    await bus.idle(1)
    bus.set(busy=1)
    start = bus.cycle
    for _ in range(20):
        before = bus.cycle - start
        got = await bus.wide("CYCLES")
        check(f"{before} <= CYCLES = {got} <= {bus.cycle - start}", before <= got <= bus.cycle - start, True)
        await bus.idle(bus.env.rng("running_counter").randint(0, 60))


@cocotb.test()
async def reset_mid_access(dut: Any) -> None:
    """A reset between address and data, or before the response: the next access is a fresh one."""
    bus = await begin(dut)
    for stage in ("aw", "w", "ar", "b"):
        bus.drive(awaddr=bus.offsets["EOS_TOKEN"], wdata=5, wstrb=15, araddr=0,
                  awvalid=stage in ("aw", "b"), wvalid=stage in ("w", "b"), arvalid=stage == "ar")
        await bus.idle(3)
        await bus.env.reset(1)
        bus._held.clear()
        await bus.expect("EOS_TOKEN", 0)
        await bus.put("EOS_TOKEN", 9)
        await bus.expect("EOS_TOKEN", 9)


@cocotb.test()
async def latency(dut: Any) -> None:
    """Cycles per access as promised."""
    bus = await begin(dut)
    found: dict[str, list[int]] = {"read": [], "write": [], "counter": []}
    for _ in range(50):
        for kind, access in (("read", bus.value("POSITION")), ("write", bus.put("SEED", 1)),
                             ("counter", bus.value("HEAD_BUSY_LO"))):
            before = bus.cycle
            await access
            found[kind].append(bus.cycle - before - 1)  # the last cycle takes the response
        await bus.idle(bus.env.rng("latency").randint(0, 40))
    promised = bus.env.sidecar["latency"]
    check("read latency", set(found["read"]), {promised})
    check("write latency", set(found["write"]), {promised})
    count = max(bus.env.bench.map.counters.values()) + 1
    most = max(found["counter"])
    check(f"counter latency {most} within {2 + count}", most <= 2 + count, True)
    figures = {"latency": promised}
    for kind, drive, answer, interval in (
            ("write", {"awaddr": 0x80, "wdata": 1, "wstrb": 15, "awvalid": 1, "wvalid": 1, "bready": 1}, "b", 2),
            ("read", {"araddr": 0x80, "arvalid": 1, "rready": 1}, "r", 3)):
        bus.drive(**drive)
        await bus.idle(10)
        answers = 0
        for _ in range(60):
            answers += bus.bus(f"{answer}valid")
            await bus.step()
        check(f"{kind} accesses in 60 cycles", answers, 60 // interval)
        figures[f"{kind}_interval"] = interval
        bus.drive(awvalid=0, wvalid=0, arvalid=0)
        await bus.idle(10)
    Path(os.environ["LLMRTL_FIGURES"]).write_text(json.dumps(figures))
