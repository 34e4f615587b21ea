"""Host link on a bad line, beside the common menu."""

from typing import Any

import cocotb

from .agents import always
from .environment import Environment
from .link import TIMEOUT, HostLinkBench


@cocotb.test()
async def faults(dut: Any) -> None:
    """Bytes on the line get lost, come twice, change, have no stop bit: the host asks again, and all is done once. Then on a good
    line, without a reset, everything works at once."""
    env = Environment(dut)
    bench, rng = env.bench, env.rng("faults")
    assert isinstance(bench, HostLinkBench)
    bench.faults = 0.03
    await env.run(bench.stimulus(rng, "faults"))
    host = bench.host
    assert host.repeats > 2 and host.splitter.dropped > 0, "the line was too good"
    for _ in range(40_000):  # the last reply may have come while its request was being repeated: that ends, and is answered
        if host.quiet > TIMEOUT:
            break
        await env.step(None)
    assert host.quiet > TIMEOUT, "the line does not fall quiet"
    bench.faults = 0.0
    host.clear()
    bench.script, bench.tokens = [bench.request(rng, 77), bench.request(rng, 99)], []
    host.begin(always, always)
    for _ in range(40_000):
        await env.step(None)
        if not host.pending():
            break
    assert not host.pending(), host.pending()
    assert host.repeats == 0, "a request on a good line had no reply"
