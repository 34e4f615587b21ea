"""The memory of the expert unit, simulated for ``docs/RESULTS.md``: the streams of the reference data, and the policies."""

from collections.abc import Callable
from pathlib import Path

from ..sim.memory.commands import Log, command_log
from ..sim.memory.dram_streams import BANK_PEAK, BUNDLE_PEAK, Stream, config_for, gb_per_second, read_streams, reads_of_run, simulate
from ..sim.traces.player import PlayError
from .report import Book, Measurement

__all__ = ["POLICIES", "STREAMS", "run_expert_memory"]

STREAMS, POLICIES = "expert_streams", "expert_policies"
"""Topics."""

REFERENCE = Path(__file__).parent.parent.parent / "shared" / "reference" / "duplex" / "dram_stream.csv"
COMMAND = "llmrtl bench --only expert_memory"
READS = 16384
"""Of the policies: 4 MiB."""

_BYTES = {"bundle": 256, "bank": 32}
_SHOWN = {"single_bundle": (96, 2868, 16384), "interleaved_1pch": (256, 5120, 22944), "interleaved_2pch": (256, 5120, 22944),
          "one_bank": (256, 5120, 22944)}


def run_expert_memory(book: Book, say: Callable[[str], None]) -> list[str]:
    """Add topics ``STREAMS`` and ``POLICIES``; returns what went wrong."""
    errors: list[str] = []
    streams = read_streams(REFERENCE) if REFERENCE.is_file() else []
    book.add(STREAMS, [] if streams else [
        Measurement("all/cycles", None, "cycles", "measured", COMMAND, "needs the reference data, not part of the repository")])
    for stream in streams:
        if stream.requests in _SHOWN.get(stream.pattern, ()):
            say(f"memory of the expert unit: {stream.name}")
            logs = _logs(lambda stream=stream: simulate(stream), stream.name, errors)  # type: ignore[misc]
            if logs:
                book.add(STREAMS, _of_stream(stream, max(log.cycles for log in logs)))
    for name, ping_pong, limits in (("single", False, False), ("single-limits", False, True), ("ping-pong", True, False),
                                    ("ping-pong-limits", True, True)):
        for refresh in (False, True):
            config = config_for(refresh=refresh, ping_pong=ping_pong, activate_limits=limits)
            policy = f"{name}-{'refresh' if refresh else 'plain'}"
            say(f"memory of the expert unit: {policy}")
            logs = _logs(lambda config=config: [command_log(config, reads_of_run(config, READS), normal=False)],  # type: ignore[misc]
                         policy, errors)
            if logs:
                book.add(POLICIES, _of_policy(policy, logs[0]))
    for topic in (STREAMS, POLICIES):
        book.save(topic)
    return errors


def _logs(run: Callable[[], list[Log]], name: str, errors: list[str]) -> list[Log]:
    """What ``run`` gives, if it breaks no rule."""
    try:
        logs = run()
    except PlayError as error:
        errors.append(f"{name}: {error}")
        return []
    for log in logs:
        errors += [f"{name}: tCK {tck}: {command} breaks {rule}" for tck, command, rule in log.broken[:1]]
    return logs


def _bandwidth(name: str, cycles: int, reads: int, unit: str) -> list[Measurement]:
    rate = gb_per_second(reads * _BYTES[unit], cycles)
    peak = BUNDLE_PEAK if unit == "bundle" else BANK_PEAK
    return [Measurement(f"{name}/cycles", cycles, "cycles", "measured", COMMAND),
            Measurement(f"{name}/gb_s", rate, "GB/s", "derived", COMMAND, "bytes / cycles at 1.3 GHz"),
            Measurement(f"{name}/share", rate / peak, "%", "derived", COMMAND, f"of {peak} GB/s per pseudo channel")]


def _of_stream(stream: Stream, cycles: int) -> list[Measurement]:
    unit = "bundle" if stream.pattern == "single_bundle" else "bank"
    return [*_bandwidth(stream.name, cycles, stream.requests, unit),
            Measurement(f"{stream.name}/reference", stream.reference, "cycles", "measured", COMMAND, "reference data"),
            Measurement(f"{stream.name}/deviation", cycles / stream.reference - 1, "%", "derived", COMMAND, "cycles / reference - 1")]


def _of_policy(name: str, log: Log) -> list[Measurement]:
    return [*_bandwidth(name, log.cycles, READS, "bundle"),
            *(Measurement(f"{name}/{counter}", log.counters[counter], "", "measured", COMMAND)
              for counter in ("activates", "refreshes", "row", "refresh"))]
