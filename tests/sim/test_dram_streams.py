"""The memory controller's commands and cycles against the reference data of the public simulator and of its legal variant."""

import random
from dataclasses import replace
from itertools import pairwise

import pytest
from llmrtl.sim.golden.dram import BANKS
from llmrtl.sim.memory.commands import command_log
from llmrtl.sim.memory.dram_streams import bank_reads, config_for, read_streams, reads_of_run, simulate

from .test_dram_rules import NAMES, REFERENCE, at, log

PATH = REFERENCE / "dram_stream.csv"
STREAMS = read_streams(PATH) if PATH.is_file() else []
BUNDLES = ("single_bundle", "two_bundles_same_rank")
pytestmark = pytest.mark.bench


def commands(entries):
    return [(int(entry["cycle"]), NAMES[entry["command"]], *at(entry), max(int(entry["row"]), 0), max(int(entry["column"]), 0))
            for entry in entries if entry["pseudo_channel"] == "0"]


def given(found):
    return [(each.tck - found.given[0].tck + 1, each.command, each.bundle, each.bank, each.row, each.column) for each in found.given]


def test_three_rows_command_by_command():
    config = config_for(refresh=False)
    found = command_log(config, reads_of_run(config, 96), normal=False)
    assert given(found) == commands(log("logic_24KB")) and found.cycles == 501 and not found.broken
    activates = [each.tck for each in found.given if each.command == "ALL_ACTIVATE"]
    assert [b - a for a, b in pairwise(activates)] == [168, 168]


def test_a_refresh_command_by_command():
    config = config_for()
    found = command_log(config, reads_of_run(config, 36 * 32), normal=False)
    assert given(found) == commands(log("logic_288KB_refresh_legal")) and found.cycles == 6683 and not found.broken


def test_one_bank_command_by_command():
    config = config_for(refresh=False)
    found = command_log(config, [], list(bank_reads(config, "one_bank", 96)))
    assert given(found) == commands(log("xpu_onebank_3KB")) and not found.broken


@pytest.mark.skipif(not STREAMS, reason=f"no reference data at {PATH}")
@pytest.mark.parametrize("stream", STREAMS, ids=[each.name for each in STREAMS])
def test_cycles_of_every_stream(stream):
    """Within 1 % of the legal cycles. Fewer only where the reference does not give the least: bundles of a rank have rules of their
    own, interleaved banks depend on how far ahead and in which slots a controller looks; never fewer than data and refreshes take."""
    found = simulate(stream)
    cycles = max(each.cycles for each in found)
    print(f"{stream.name}: {cycles} of {stream.reference}, {cycles / stream.reference - 1:+.2%}")
    assert not any(each.broken for each in found)
    assert sum(each.command in ("ALL_READ", "READ") for log in found for each in log.given) == stream.requests * len(found)
    assert cycles <= 1.01 * stream.reference
    timing, first = config_for(refresh=stream.refresh).timing, found[0]
    bundles = stream.pattern in BUNDLES
    data = stream.requests * (timing.ccd if bundles or stream.pattern == "one_bank" else timing.ccd_s)
    assert cycles >= data + timing.rcd + first.counters["refreshes"] * timing.rfc
    if stream.pattern not in ("two_bundles_same_rank", "interleaved_2pch"):
        assert cycles >= (0.98 if stream.pattern == "interleaved_1pch" else 0.99) * stream.reference
    if stream.pattern == "two_bundles_same_rank" and not stream.refresh:
        # README of the reference data: per-bundle rules, tCCD_L on the shared data path.
        assert cycles == 4 * stream.requests + 37


@pytest.mark.parametrize("limits", [False, True])
def test_ping_pong_reaches_85_percent_of_the_peak(limits):
    config = config_for(ping_pong=True, activate_limits=limits)
    found = command_log(config, reads_of_run(config, 16384), normal=False)
    share = 16384 * config.timing.ccd / found.cycles
    print(f"{share:.2%} of the peak, {found.counters}")
    assert share >= 0.85 and not found.broken
    assert found.counters["bytes"] == 16384 * 16 and found.counters["activates"] >= 512


@pytest.mark.parametrize("limits", [False, True])
def test_both_paths_at_random(limits):
    """Bundles and banks that meet: nothing is lost, no rule is broken, also with slots of its own."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    config = config_for(ping_pong=True, activate_limits=limits)
    config = replace(config, timing=replace(config.timing, refi=1500, rfc=151))
    for slots in (3, 1, 2):
        stretches = [{"bundle": rng.randrange(4), "row": rng.randrange(2), "column": (first := rng.randrange(32)),
                      "last": rng.randrange(first, 32)} for _ in range(300)]
        requests = [{"bundle": rng.randrange(4), "bank": rng.randrange(BANKS), "row": rng.randrange(2), "column": rng.randrange(32),
                     "tag": k % 256} for k in range(3000)]
        found = command_log(config, stretches, requests, slots=slots)
        assert not found.broken
        reads = [(each.bundle, each.row, each.column) for each in found.given if each.command == "ALL_READ"]
        assert reads == [(each["bundle"], each["row"], column) for each in stretches
                         for column in range(each["column"], each["last"] + 1)]
        single = [(each.bundle, each.bank, each.row, each.column) for each in found.given if each.command == "READ"]
        assert sorted(single) == sorted((each["bundle"], each["bank"], each["row"], each["column"]) for each in requests)
        for bank in {place[:2] for place in single}:  # those of a bank stay in order
            assert [place for place in single if place[:2] == bank] == [
                place for each in requests if (place := (each["bundle"], each["bank"], each["row"], each["column"]))[:2] == bank]


def test_different_bundles_run_together():
    """A stream of bundle rows, and one of single banks of the other rank, take hardly longer than each alone."""
    config = config_for(refresh=False)
    stretches = reads_of_run(config, 2048)
    requests = [each | {"bundle": each["bundle"] | 2} for each in bank_reads(config, "interleaved_1pch", 4000)]
    both = command_log(config, stretches, requests)
    alone = command_log(config, stretches), command_log(config, [], requests)
    assert not both.broken and both.cycles <= 1.05 * max(each.cycles for each in alone)
    last = [each.tck for each in both.given if each.command == "ALL_READ"][-1]
    assert last <= 1.02 * alone[0].cycles
