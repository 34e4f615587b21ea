"""Cases of the port stripe beyond the menu: ports that stand still, errors of one port, other bases."""

from typing import Any

import cocotb

from ..memory.axi_memory import Fault
from ..memory.axi_port import AxiPort
from .agents import BenchFailure, always, bursts, never
from .environment import Environment
from .stripe import PAGE_BYTES, PORT_PAGES, SLICE_PAGES

__all__: list[str] = []


async def _until(env: Environment, scoreboard: Any, port: AxiPort, **transfers: int) -> None:
    """Step until each channel has raised valid and made so many transfers."""
    for _ in range(env.bench.patience):
        waiting = [channel for channel, count in transfers.items()
                   if channel not in port.raised or len(port.transfers[channel]) < count]
        if not waiting:
            return
        await env.step(scoreboard)
    raise BenchFailure(f"{port.prefix}: no valid, or too few transfers, on {', '.join(waiting).upper()} within "
                       f"{env.bench.patience} cycles")


@cocotb.test()
async def valid_does_not_wait(dut: Any) -> None:
    """No port is ready for anything: all raise their valid outputs. Then all goes through."""
    env = Environment(dut)
    bench: Any = env.bench
    stimulus = bench.stimulus(env.rng("valid_does_not_wait"), "back_to_back")
    bench.master.data_ahead = 1
    await env.reset()
    scoreboard = env.load(stimulus)
    for memory in bench.memories:
        memory.accepts = never
    for memory in bench.memories:
        await _until(env, scoreboard, memory.port, ar=0, aw=0, w=0)
    for memory in bench.memories:
        memory.accepts = always
    await env.finish(scoreboard)


@cocotb.test()
async def ports_run_apart(dut: Any) -> None:
    """One port takes no address and no data: the others ask for two bursts and take as much data as they can hold."""
    env = Environment(dut)
    bench: Any = env.bench
    for stopped in bench.memories:
        others = [memory for memory in bench.memories if memory is not stopped]
        bench.turn_knobs(env.rng("ports_run_apart"), "back_to_back")
        whole = [(page * PAGE_BYTES, bench.burst_beats) for page in range(4)]
        await env.reset()
        scoreboard = env.load(bench.ask(whole, whole))
        stopped.accepts = never
        for memory in others:
            await _until(env, scoreboard, memory.port, ar=2, aw=2, r=bench.skew_beats)
        for _ in range(100):
            await env.step(scoreboard)
        for memory in others:
            if len(memory.port.transfers["r"]) != bench.skew_beats:
                raise BenchFailure(f"{memory.name} gave {len(memory.port.transfers['r'])} beats while {stopped.name} "
                                   f"stood still, not {bench.skew_beats}")
        if bench.master.port.raised.keys() & {"r", "b"}:
            raise BenchFailure(f"an answer came while {stopped.name} stood still")
        stopped.accepts = always
        await env.finish(scoreboard)


@cocotb.test()
async def errors_of_one_port(dut: Any) -> None:
    """Part of one port's memory fails: exactly the words with a slice there have its response."""
    env = Environment(dut)
    rng = env.rng("errors_of_one_port")
    bench: Any = env.bench
    for number, memory in enumerate(bench.memories):
        for response in (2, 3):
            bench.turn_knobs(rng, "back_to_back")
            first = bench.pages[number] * PAGE_BYTES
            size = memory.port.bus_bytes
            written = first + SLICE_PAGES // 2 * PAGE_BYTES
            memory.faults = [Fault(first + 3 * size, first + 5 * size, response), Fault(written, written + 1, response)]
            near = [(0, 8), (5 * bench.bus_bytes, 4), (bench.bus_bytes, 2)] * 2
            await env.run(bench.ask(near, near), sources=bursts(rng, 0.7), sinks=bursts(rng, 0.7))
            if bench.master.responses != {0, response}:
                raise BenchFailure(f"responses were {sorted(bench.master.responses)}, expected 0 and {response}")


@cocotb.test()
async def other_bases(dut: Any) -> None:
    """Slices anywhere; the lowest 12 bits of a base count for nothing."""
    env = Environment(dut)
    rng = env.rng("other_bases")
    bench: Any = env.bench
    for low in (0, 1, 0xFFF):
        bench.pages = [rng.randrange(PORT_PAGES - SLICE_PAGES + 1) for _ in bench.memories]
        bench.base_low = low
        await env.run(bench.stimulus(rng, "other_bases"))
