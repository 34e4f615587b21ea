"""Cases of reader and writer beyond the menu: failing memory, bad addresses, ``clear``."""

from typing import Any

import cocotb

from ..memory.axi_memory import Fault
from .agents import BenchFailure, bursts
from .environment import Environment

__all__: list[str] = []


def _stimulus(env: Environment, rng: Any, commands: list[dict[str, int]]) -> Any:
    with_data = getattr(env.bench, "with_data", None)
    return {"i_command": commands} if with_data is None else with_data(rng, commands)


async def _clear(env: Environment) -> None:
    """``clear`` for one cycle takes the error away."""
    if not env.level("error"):
        raise BenchFailure("error is 0 after a failure")
    env.ports["clear"].value = 1
    await env.step(None)
    env.ports["clear"].value = 0
    await env.step(None)
    if env.level("error"):
        raise BenchFailure("error is 1 after clear")


@cocotb.test()
async def failing_memory(dut: Any) -> None:
    """Part of the memory answers SLVERR or DECERR: all commands complete, the first failure is kept."""
    env = Environment(dut)
    rng = env.rng("failing_memory")
    bench: Any = env.bench
    for response in (2, 3):
        bench.turn_knobs(rng, "failing_memory")
        bench.memory.faults = [Fault(0x3000, 0x3400, response), Fault(0x9010, 0x9020, response)]
        commands = [{"address": 0x2800, "beats": 40}, {"address": 0x3400 - 16 * bench.bus_bytes, "beats": 80},
                    {"address": 0x9000, "beats": 20}, {"address": 0x100, "beats": 5}]
        await env.run(_stimulus(env, rng, commands), sources=bursts(rng, 0.7), sinks=bursts(rng, 0.7))
        await _clear(env)


@cocotb.test()
async def outside_of_memory(dut: Any) -> None:
    """Commands that run off the end of memory."""
    env = Environment(dut)
    rng = env.rng("outside_of_memory")
    bench: Any = env.bench
    end = len(bench.data)
    await env.run(_stimulus(env, rng, [{"address": end - 2 * bench.bus_bytes, "beats": 6},
                                       {"address": 0, "beats": 2}]))
    await _clear(env)


@cocotb.test()
async def unaligned_command(dut: Any) -> None:
    """An address that is no multiple of the bus word: an error; commands around it are unharmed."""
    env = Environment(dut)
    rng = env.rng("unaligned_command")
    bench: Any = env.bench
    for offset in (1, bench.bus_bytes - 1):
        commands = [{"address": 0x200, "beats": 3}, {"address": 0x400 + offset, "beats": 100},
                    {"address": 0x400, "beats": 3}]
        await env.run(_stimulus(env, rng, commands))
        await _clear(env)
