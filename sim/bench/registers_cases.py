"""Cases of the register block: every kind of access."""

import json
import os
from pathlib import Path
from typing import Any

import cocotb

from .agents import bursts
from .registers import OKAY, SLVERR, begin, check

START = 1


@cocotb.test()
async def reset_values(dut: Any) -> None:
    """Every register of the map answers with its reset value, everything else with SLVERR."""
    bus = await begin(dut)
    mapped = {register.offset: register for register in bus.map}
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
    writable = [register for register in bus.map
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
            check(field.name, bus.get(field.name), model[register.name] >> field.low)
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
            done: set[str] = {channel for channel in ("ar", "aw", "w")
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
async def queued_writes(dut: Any) -> None:
    """A second write offered before the response to the first is taken: each gets its own response."""
    bus = await begin(dut)
    rng = bus.env.rng("queued_writes")
    for stall in range(6):
        pending = [("IDENTITY", SLVERR), ("EOS_TOKEN", OKAY), ("POSITION", SLVERR), ("EOS_TOKEN", OKAY)]
        addresses, words = list(pending), list(pending)
        answers: list[int] = []
        value, cycle = rng.getrandbits(20), 0
        while len(answers) < len(pending) and cycle < 200:
            ready = cycle >= stall and rng.random() < 0.5
            bus.drive(awvalid=bool(addresses), wvalid=bool(words), wdata=value, wstrb=15, bready=ready,
                      awaddr=bus.offsets[addresses[0][0]] if addresses else 0)
            taken = [queue for name, queue in (("aw", addresses), ("w", words))
                     if queue and bus.bus(f"{name}ready")]
            if ready and bus.bus("bvalid"):
                answers.append(bus.bus("bresp"))
            await bus.step()
            cycle += 1
            for queue in taken:
                queue.pop(0)
        bus.drive(awvalid=0, wvalid=0, bready=1)
        await bus.idle(5)
        bus.drive(bready=0)
        check("responses", answers, [response for _, response in pending])
        check("eos_token", bus.get("eos_token"), value)


@cocotb.test()
async def refused(dut: Any) -> None:
    """Writes to nowhere, to read-only registers and to bits without a field change nothing."""
    bus = await begin(dut)
    mapped = {register.offset: register for register in bus.map}
    for offset in range(0, 1 << 12, 4):
        if offset not in mapped or not mapped[offset].writable:
            check(f"write to {offset:#x}", await bus.write(offset, 0xFFFF_FFFF), SLVERR)
    for name, word in (("TOP_K", 0x1_05), ("PROMPT_LENGTH", 1 << 20), ("CONTROL", START | 1 << 31),
                       ("INVERSE_TEMPERATURE_MANTISSA", 1 << 24)):
        check(f"write of {word:#x} to {name}", await bus.write(name, word), SLVERR)
        await bus.expect(name, bus.map[name].reset)
    await bus.put("TOP_K", 0x1_05, 0b0001)  # the strobe masks the bit without a field
    await bus.expect("TOP_K", 5)
    check("pulses", set(bus.pulses.values()), {0})


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
    for kind in ("read", "write"):
        check(f"{kind} latency", set(found[kind]), {promised[kind]})
    count = max(bus.map.counters.values()) + 1
    most = max(found["counter"])
    check(f"counter latency {most} within {3 + count}", most <= 3 + count, True)
    figures = dict(promised)
    for kind, drive, answer in (
            ("write", {"awaddr": 0x80, "wdata": 1, "wstrb": 15, "awvalid": 1, "wvalid": 1, "bready": 1}, "b"),
            ("read", {"araddr": 0x80, "arvalid": 1, "rready": 1}, "r")):
        bus.drive(**drive)
        await bus.idle(10)
        answers = 0
        for _ in range(60):
            answers += bus.bus(f"{answer}valid")
            await bus.step()
        interval = bus.env.sidecar["interval"][kind]
        check(f"{kind} accesses in 60 cycles", answers, 60 // interval)
        figures[f"{kind}_interval"] = interval
        bus.drive(awvalid=0, wvalid=0, arvalid=0)
        await bus.idle(10)
    Path(os.environ["LLMRTL_FIGURES"]).write_text(json.dumps(figures))
