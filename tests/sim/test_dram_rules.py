"""The timing checker of bank bundles: each rule broken on purpose, by one tCK; and the command logs of the reference data."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
from llmrtl.accelerators.experts.config import EXPERT_PRESETS, HbmTiming
from llmrtl.sim.golden.dram import TimingChecker, given_words, granule_address, stretches

TIMING = HbmTiming()
REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference" / "duplex"
NAMES = {"ALL-ACT": "ALL_ACTIVATE", "ALL-RD": "ALL_READ", "ALL-PRE": "ALL_PRECHARGE", "PREA": "PRECHARGE_CHANNEL", "REFab": "REFRESH",
         "ACT": "ACTIVATE", "RD": "READ", "PRE": "PRECHARGE"}


def broken(commands, *, limits=False, timing=TIMING):
    """Rules broken by the last command; those before it must be legal."""
    checker = TimingChecker(timing, limits=limits)
    *before, last = commands
    for now, name, *place in before:
        assert checker.command(now, name, *place) == set(), (now, name)
    now, name, *place = last
    return checker.command(now, name, *place)


def close(*commands):
    return [(0, "ALL_ACTIVATE", 0), (19, "ALL_READ", 0), (45, "ALL_PRECHARGE", 0), *commands]


LAST_READ = [(0, "ALL_ACTIVATE", 0), (60, "ALL_READ", 0)]
BANKS = [(2 * k, "ACTIVATE", 0, k) for k in range(4)]
# Commands, the last of them as early as it may come; its rule.
CASES = {
    "tRCD of a bundle": ([(0, "ALL_ACTIVATE", 1), (19, "ALL_READ", 1)], "tRCD"),
    "tRCD of a bank": ([(0, "ACTIVATE", 1, 5), (19, "READ", 1, 5)], "tRCD"),
    "tCCD of bundles": ([(0, "ALL_ACTIVATE", 1), (1, "ALL_ACTIVATE", 0), (30, "ALL_READ", 1), (34, "ALL_READ", 0)], "tCCD"),
    "tCCD_S": ([*BANKS, (30, "READ", 0, 0), (32, "READ", 0, 1)], "tCCD_S"),
    "tCCD_L": ([*BANKS[:2], (5, "ACTIVATE", 1, 4), (30, "READ", 0, 0), (34, "READ", 1, 4)], "tCCD_L"),
    "tRAS of a bundle": ([(0, "ALL_ACTIVATE", 3), (45, "ALL_PRECHARGE", 3)], "tRAS"),
    "tRAS of a bank": ([(0, "ACTIVATE", 3, 7), (45, "PRECHARGE", 3, 7)], "tRAS"),
    "tRAS of the channel": ([(0, "ACTIVATE", 3, 7), (45, "PRECHARGE_CHANNEL")], "tRAS"),
    "tRTP of a bundle": ([*LAST_READ, (66, "ALL_PRECHARGE", 0)], "tRTP"),
    "tRTP of the channel": ([*LAST_READ, (66, "PRECHARGE_CHANNEL")], "tRTP"),
    "tRTP of a bank": ([(0, "ACTIVATE", 0, 0), (60, "READ", 0, 0), (68, "PRECHARGE", 0, 0)], "tRTP"),
    "tRP of a bundle": (close((64, "ALL_ACTIVATE", 0)), "tRP"),
    "tRP of a bank": (close((64, "ACTIVATE", 0, 3)), "tRP"),
    "tRP before a refresh": (close((64, "REFRESH")), "tRP"),
    "tRFC": ([(0, "REFRESH"), (586, "ALL_ACTIVATE", 0)], "tRFC"),
    "tRRD_S": ([(0, "ACTIVATE", 0, 0), (2, "ACTIVATE", 0, 1)], "tRRD"),
    "tRRD_L": ([(0, "ACTIVATE", 0, 0), (4, "ACTIVATE", 1, 0)], "tRRD"),
    "tFAW": ([*BANKS, (39, "ACTIVATE", 1, 0)], "tFAW"),
    "tFAW of both ranks": ([*BANKS, (39, "ACTIVATE", 2, 0)], "tFAW"),
    "tFAW of halves": ([(0, "HALF_ACTIVATE", 0, 0), (39, "HALF_ACTIVATE", 0, 4)], "tFAW"),
    "tRCD of the last of a half": ([(0, "HALF_ACTIVATE", 0, 0), (39, "HALF_ACTIVATE", 0, 4), (64, "ALL_READ", 0)], "tRCD"),
}


@pytest.mark.parametrize("name", CASES)
def test_one_tck_too_early(name):
    commands, rule = CASES[name]
    assert broken(commands) == set()
    *before, (now, *rest) = commands
    assert broken([*before, (now - 1, *rest)]) == {rule}


def test_trc():
    """It is kept by tRAS and tRP with the reference timing."""
    timing = replace(TIMING, rc=70)
    for last in ("ALL_ACTIVATE", "REFRESH"):
        assert broken(close((70, last)), timing=timing) == set()
        assert broken(close((69, last)), timing=timing) == {"tRC"}


@pytest.mark.parametrize("commands, rule", [
    ([(0, "ALL_READ", 0)], "closed"), ([(0, "ACTIVATE", 0, 0), (30, "READ", 0, 1)], "closed"),
    ([(0, "ALL_ACTIVATE", 0, 0, 5), (30, "ALL_READ", 0, 0, 6)], "row"), (close((200, "READ", 0, 3)), "closed"),
    ([(0, "ALL_ACTIVATE", 0), (90, "ALL_ACTIVATE", 0)], "open"), ([(0, "ACTIVATE", 0, 7), (90, "ALL_ACTIVATE", 0)], "open"),
    ([(0, "ACTIVATE", 0, 7), (90, "REFRESH")], "open"), ([(0, "HALF_ACTIVATE", 0, 2)], "half"),
    ([(5, "ALL_ACTIVATE", 0), (5, "ALL_ACTIVATE", 1)], "slot"), ([(2 * 5070 + 1, "ALL_ACTIVATE", 0)], "tREFI"),
])
def test_what_is_never_allowed(commands, rule):
    assert broken(commands) == {rule}


def test_the_bundle_activate_is_exempt_or_not():
    """Eight banks at once break tRRD and tFAW."""
    assert broken([(0, "ALL_ACTIVATE", 0)]) == set()
    assert broken([(0, "ALL_ACTIVATE", 0)], limits=True) == {"tFAW", "tRRD"}
    assert broken([*BANKS, (20, "ALL_ACTIVATE", 1)]) == set()
    assert broken([*BANKS, (20, "HALF_ACTIVATE", 1, 0)], limits=True) == {"tFAW"}


def test_an_unknown_command():
    with pytest.raises(ValueError, match="unknown command 'WRITE'"):
        TimingChecker(TIMING).command(0, "WRITE")


def log(name):
    path = REFERENCE / f"dram_commands_{name}.csv"
    if not path.is_file():
        pytest.skip(f"no reference data at {path}")
    with open(path) as file:
        return list(csv.DictReader(file))


def at(entry):
    """Bundle and bank of a line; the reference counts the banks of a rank from 0 to 3 in each bank group."""
    rank, bundle, group, bank = (int(entry[name]) for name in ("rank", "bundle", "bank_group", "bank"))
    return max(2 * rank + (bundle if bundle >= 0 else bank >> 1), 0), max(group + 4 * (bank & 1), 0) if bank >= 0 else 0


@pytest.mark.parametrize("name", ["logic_24KB", "logic_288KB_refresh", "logic_288KB_refresh_legal", "xpu_8KB", "xpu_onebank_3KB"])
def test_reference_logs(name):
    """The same rules are found broken, in the same lines: none in logs that are legal."""
    checker, found = TimingChecker(TIMING), 0
    for entry in log(name):
        if entry["pseudo_channel"] != "0":
            continue
        expected = {"t" + rule[1:] for rule in entry["rule_break"].split()}
        assert checker.command(int(entry["cycle"]), NAMES[entry["command"]], *at(entry), int(entry["row"]),
                               int(entry["column"])) == expected, entry
        found += bool(expected)
    assert found == (2 if name == "logic_288KB_refresh" else 0)


def test_stretches():
    config = EXPERT_PRESETS["duplex"]
    run = {"bundle": 2, "row": config.rows - 1, "column": 30, "words": 133, "tiles": 2}
    cut = [(each.bundle, each.row, each.column, each.words, each.reads) for each in stretches(config, run)]
    assert cut == [(2, 16383, 30, 4, 2), (3, 16383, 0, 64, 32), (2, 0, 0, 64, 32), (3, 0, 0, 1, 1)]
    assert [each.row for each in stretches(replace(config, ping_pong=False), run)] == [16383, 0, 1, 2]
    words = list(given_words(config, run))
    assert len(words) == 266 and words[4:8] == [((2, 16383, 30 + k // 2, k % 2), 1, int(k == 3)) for k in range(4)]
    assert not list(stretches(config, run | {"tiles": 0}))


def test_the_published_address_map():
    """From the low bits, in granules: bank group, bank[0], column, row, bank[1], rank."""
    config = EXPERT_PRESETS["duplex"]
    for group, low, column, row, high, rank in ((1, 0, 0, 0, 0, 0), (3, 1, 31, 0, 0, 0), (2, 0, 5, 16383, 1, 0), (0, 1, 7, 9, 0, 1)):
        address = group | low << 2 | column << 3 | row << 8 | high << 22 | rank << 23
        assert granule_address(config, high + 2 * rank, row, column, group + 4 * low) == address
