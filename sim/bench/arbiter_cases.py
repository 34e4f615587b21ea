"""Cases of the read arbiter beyond the menu: who is granted, and whose the errors are."""

from collections import Counter
from itertools import pairwise
from typing import Any

import cocotb

from ..memory.axi_memory import Fault
from .agents import BenchFailure
from .environment import Environment

__all__: list[str] = []


@cocotb.test()
async def round_robin(dut: Any) -> None:
    """With all clients asking all the time, each is granted in turn."""
    env = Environment(dut)
    bench: Any = env.bench
    bench.memory.depth = 64
    for client in bench.clients:
        client.outstanding = 64
    bench.requests = [[(4096 * k, 1) for k in range(12)] for _ in bench.clients]
    await env.run({})
    asked = [client.port.transfers["ar"] for client in bench.clients]
    order = [client for _, client in sorted((cycle, client) for client, cycles in enumerate(asked)
                                            for cycle in cycles)]
    if any(after != (before + 1) % len(asked) for before, after in pairwise(order)):
        raise BenchFailure(f"clients were granted in the order {order}")


@cocotb.test()
async def errors_reach_their_client(dut: Any) -> None:
    """Only the client that reads from a failing address sees an error response."""
    env = Environment(dut)
    bench: Any = env.bench
    bench.turn_knobs(env.rng("errors"), "errors")
    bench.memory.faults = [Fault(0x5000, 0x5010)]
    bench.requests = [[(0x5000 if k == len(bench.clients) - 1 else 0x6000, 8)] * 4
                      for k, _ in enumerate(bench.clients)]
    await env.run({})
    failed = Counter(k for k, client in enumerate(bench.clients) if 2 in client.responses)
    if list(failed) != [len(bench.clients) - 1]:
        raise BenchFailure(f"clients {sorted(failed)} saw errors, not only {len(bench.clients) - 1}")
