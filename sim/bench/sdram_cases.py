"""Cases of the SDRAM controller beyond the menu: latency, bandwidth, what was written read back."""

import json
import os
from pathlib import Path
from typing import Any

import cocotb

from .agents import BenchFailure, always, bursts
from .environment import Environment

__all__: list[str] = []

LEAST_SHARE = 0.85


async def _ready(env: Environment) -> None:
    await env.reset()
    while not env.level("ready"):
        await env.step(None)
    for _ in range(20):
        await env.step(None)


async def _run(env: Environment, reads: list[Any], writes: list[Any]) -> tuple[int, int]:
    """Requests to a chip that is ready; cycles of the first address and of the last answer."""
    bench: Any = env.bench
    master = bench.master
    start = env.cycle
    master.reads.extend(reads)
    master.writes.extend(writes)
    master.begin(always, always)
    idle = 0
    while master.pending():
        idle = 0 if await env.step(None) else idle + 1
        if idle > bench.patience:
            raise BenchFailure(master.pending())
    return start, env.cycle


@cocotb.test()
async def first_beat(dut: Any) -> None:
    """Cycles from AR to R in a closed bank and in an open row, as promised."""
    env = Environment(dut)
    bench: Any = env.bench
    promised = env.sidecar["latency"]
    for number in range(6):
        await _ready(env)
        for kind in ("closed", "open"):
            port = bench.master.port
            for transfers in port.transfers.values():
                transfers.clear()
            port.raised.clear()
            address = number * 0x5000 + (64 if kind == "open" else 0)
            await _run(env, [bench.read(env.rng("first_beat"), address, 1)], [])
            measured = port.raised["r"] - port.transfers["ar"][0]
            if measured != promised[kind]:
                raise BenchFailure(f"the first beat of a {kind} row comes {measured} cycles after AR, but the component promises "
                                   f"{promised[kind]}")


@cocotb.test()
async def bandwidth(dut: Any) -> None:
    """Sequential bursts, one direction at a time, refreshes included: at least 85 % of a word per cycle."""
    env = Environment(dut)
    bench: Any = env.bench
    rng = env.rng("bandwidth")
    bench.master.outstanding = 8
    beats = bench.burst_beats
    figures = {}
    least = 1 << 15
    for direction in ("read", "write"):
        await _ready(env)
        bench.memory.want = bench.memory.contents.copy()
        requests = [getattr(bench, direction)(rng, address, beats) for address in range(0, least, beats * bench.bus_bytes)]
        start, end = await _run(env, requests if direction == "read" else [], requests if direction == "write" else [])
        for _ in range(20):
            await env.step(None)
        bench.memory.finish()
        figures[f"{direction}_share"] = least / 2 / (end - start)
        if figures[f"{direction}_share"] < LEAST_SHARE:
            raise BenchFailure(f"sequential {direction}s reach {figures[f'{direction}_share']:.1%} of the data bus, at least "
                               f"{LEAST_SHARE:.0%} are promised")
    if os.environ.get("LLMRTL_FIGURES"):
        path = Path(os.environ["LLMRTL_FIGURES"])
        known = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps(known | figures))


@cocotb.test()
async def read_back(dut: Any) -> None:
    """Reads after the answers of writes see what was written, byte by byte; reads and writes of the same rows mix."""
    env = Environment(dut)
    bench: Any = env.bench
    rng = env.rng("read_back")
    await _ready(env)
    bench.memory.want = bench.memory.contents.copy()
    for _ in range(6):
        addresses = [(rng.randrange(8) * 4096 + rng.randrange(64) * bench.bus_bytes, rng.randint(1, 64)) for _ in range(6)]
        await _run(env, [], [bench.write(rng, *request) for request in addresses])
        await _run(env, [bench.read(rng, *request, contents=bench.memory.want) for request in addresses], [])
    bench.memory.finish()


@cocotb.test()
async def slow_writer(dut: Any) -> None:
    """A write whose data are late holds up no read."""
    env = Environment(dut)
    bench: Any = env.bench
    rng = env.rng("slow_writer")
    await _ready(env)
    bench.memory.want = bench.memory.contents.copy()
    master = bench.master
    master.writes.append(bench.write(rng, bench.size // 2, 16))
    master.begin(bursts(rng, 1.0), always)
    data, master._data = master._data, type(master._data)()  # the address alone
    for _ in range(20):
        await env.step(None)
    if master.writes:
        raise BenchFailure("the address of a write waits for its data")
    master.reads.extend(bench.read(rng, 4096 * k, 8) for k in range(8))
    for _ in range(1000):
        await env.step(None)
    if len(master.port.transfers["r"]) != 64:
        raise BenchFailure(f"{len(master.port.transfers['r'])} of 64 beats were read while a write waited for its data")
    master._data = data
    await _run(env, [], [])
    for _ in range(20):
        await env.step(None)
    bench.memory.finish()
