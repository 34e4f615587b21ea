"""The streams of the reference data on the emitted memory controller: cycles, bandwidth."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ...accelerators.experts.config import EXPERT_PRESETS, ExpertConfig
from ..golden.dram import GROUPS, stretches
from .commands import Log, command_log

__all__ = ["Stream", "bank_reads", "config_for", "gb_per_second", "read_streams", "reads_of_run", "simulate"]

CLOCK_GHZ = 1.3
NEVER = 1 << 29  # tREFI without refresh
NARROW_BYTES = 8  # a word: the commands do not depend on it

BUNDLE_PEAK, BANK_PEAK = 83.2, 20.8
"""GB/s of a pseudo channel."""


@dataclass(frozen=True)
class Stream:
    """A line of ``dram_stream.csv``; ``reference``: legal cycles."""

    pattern: str
    requests: int
    refresh: bool
    reference: int

    @property
    def name(self) -> str:
        return f"{self.pattern}-{self.requests}-{'refresh' if self.refresh else 'plain'}"


def read_streams(path: Path) -> list[Stream]:
    with open(path) as file:
        return [Stream(line["pattern"], int(line["requests_per_pch"]), line["refresh"] == "on",
                       int(line["cycles_legal_refresh"] or line["cycles_total"])) for line in csv.DictReader(file)]


def config_for(*, refresh: bool = True, ping_pong: bool = False, activate_limits: bool = False) -> ExpertConfig:
    config = EXPERT_PRESETS["duplex"]
    timing = config.timing if refresh else replace(config.timing, refi=NEVER)
    return replace(config, word_bytes=NARROW_BYTES, timing=timing, ping_pong=ping_pong, activate_limits=activate_limits)


def reads_of_run(config: ExpertConfig, reads: int) -> list[dict[str, int]]:
    """Stretches of a run from row 0 of bundle 0 on."""
    run = {"bundle": 0, "row": 0, "column": 0, "words": reads * config.timing.ccd // 2, "tiles": 1}
    return [{"bundle": each.bundle, "row": each.row, "column": each.column, "last": each.column + each.reads - 1}
            for each in stretches(config, run)]


def bank_reads(config: ExpertConfig, pattern: str, count: int) -> Iterator[dict[str, int]]:
    """Requests of the normal path; ``interleaved``: rank changes fastest, then bank group, bank, column, row."""
    for k in range(count):
        rank, group, bank = (k % 2, k // 2 % GROUPS, k // 8 % 4) if pattern != "one_bank" else (0, 0, 0)
        column = k // 32 if pattern != "one_bank" else k
        yield {"bundle": bank // 2 + 2 * rank, "bank": group + GROUPS * (bank % 2), "row": column // config.columns,
               "column": column % config.columns, "tag": k % 256}


def simulate(stream: Stream) -> list[Log]:
    """A log per pseudo channel: two of them own a slot of each logic cycle each."""
    if stream.pattern in ("single_bundle", "two_bundles_same_rank"):
        config = config_for(refresh=stream.refresh, ping_pong=stream.pattern != "single_bundle")
        return [command_log(config, reads_of_run(config, stream.requests), normal=False)]
    config = config_for(refresh=stream.refresh)
    requests = list(bank_reads(config, stream.pattern, stream.requests))
    return [command_log(config, [], requests, slots=slots) for slots in ((1, 2) if stream.pattern == "interleaved_2pch" else (3,))]


def gb_per_second(read_bytes: int, cycles: int) -> float:
    return read_bytes * CLOCK_GHZ / cycles
