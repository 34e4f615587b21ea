"""The DDR4 model alone: JEDEC's figures, every command against every timing rule, bandwidth of known patterns."""

import csv
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from llmrtl.sim.native.dram import measure

PORT_GB_S = 4 * 16 * 0.25  # four ports of 16 bytes at 250 MHz
BURST_CLOCKS = 4
JEDEC = {  # JESD79-4B, DDR4-2400T, 8 Gb, clocks of 1200 MHz; row to row and four activates are those of 2 KiB pages (x16)
    "tCL": 17, "tCWL": 12, "tRCD": 17, "tRP": 17, "tRAS": 39, "tRC": 56, "tRRD_S": 7, "tRRD_L": 8, "tFAW": 36, "tCCD_S": 4,
    "tCCD_L": 6, "tWTR_S": 3, "tWTR_L": 9, "tRTP": 9, "tWR": 18, "tREFI": 9360, "tRFC": 420,
    "tRTW": 17 - 12 + BURST_CLOCKS + 2,
}
JEDEC_X8 = JEDEC | {"tRRD_S": 4, "tRRD_L": 6, "tFAW": 26}  # 1 KiB pages
PATTERNS = {
    "sequential": dict(pattern="sequential"),
    "same bank": dict(pattern="sequential", spread=False),
    "random 64": dict(pattern="random", burst_bytes=64),
    "random mixed": dict(pattern="random", burst_bytes=256, writes=40),
    "sequential mixed": dict(pattern="sequential", burst_bytes=512, writes=30),
    "hot": dict(pattern="hot", burst_bytes=64, writes=30),
    "writes": dict(pattern="sequential", writes=100),
    "x8": dict(pattern="random", burst_bytes=128, writes=25, device="ddr4-x8"),
}


@dataclass
class Bank:
    row: int | None = None
    activated: int = -10**6
    precharged: int = -10**6
    read: int = -10**6
    written: int = -10**6  # end of the data


@dataclass
class Checker:
    """Every command of a log against the rules of JESD79-4, written from the point of view of the device."""

    timing: dict[str, int]
    banks: dict[int, Bank] = field(default_factory=lambda: defaultdict(Bank))
    activates: dict[int, int] = field(default_factory=dict)  # group -> last
    recent: deque = field(default_factory=lambda: deque(maxlen=4))
    columns: dict[tuple[str, int], int] = field(default_factory=dict)  # (command, group) -> last
    data_end: int = -10**6
    refreshed: int = 0
    refresh_end: int = 0
    clock: int = -1
    seen: Counter = field(default_factory=Counter)

    def at_least(self, now, since, name):
        assert now - since >= self.timing[name], f"clock {now}: {name} of {self.timing[name]} clocks, {now - since} were kept"

    def command(self, now, name, group, bank, row):
        assert now > self.clock, f"clock {now}: two commands"
        self.clock = now
        self.seen[name] += 1
        assert now >= self.refresh_end, f"clock {now}: {name} during a refresh"
        getattr(self, name.lower())(now, group, self.banks[bank], row)

    def act(self, now, group, bank, row):
        assert bank.row is None
        self.at_least(now, bank.activated, "tRC")
        self.at_least(now, bank.precharged, "tRP")
        for other, last in self.activates.items():
            self.at_least(now, last, "tRRD_L" if other == group else "tRRD_S")
        if len(self.recent) == 4:
            self.at_least(now, self.recent[0], "tFAW")
        self.recent.append(now)
        self.activates[group] = bank.activated = now
        bank.row = row

    def pre(self, now, group, bank, row):
        assert bank.row == row
        self.at_least(now, bank.activated, "tRAS")
        self.at_least(now, bank.read, "tRTP")
        self.at_least(now, bank.written, "tWR")
        bank.row, bank.precharged = None, now

    def prea(self, now, group, bank, row):
        for each in self.banks.values():
            if each.row is not None:
                self.pre(now, group, each, each.row)

    def ref(self, now, group, bank, row):
        for each in self.banks.values():
            assert each.row is None
            self.at_least(now, each.precharged, "tRP")
        assert now - self.refreshed <= 9 * self.timing["tREFI"]
        self.refreshed, self.refresh_end = now, now + self.timing["tRFC"]

    def rd(self, now, group, bank, row):
        self.column(now, "RD", group, bank, row, self.timing["tCL"])
        bank.read = now

    def wr(self, now, group, bank, row):
        self.column(now, "WR", group, bank, row, self.timing["tCWL"])
        bank.written = now + self.timing["tCWL"] + BURST_CLOCKS

    def column(self, now, name, group, bank, row, latency):
        assert bank.row == row
        self.at_least(now, bank.activated, "tRCD")
        for (other, other_group), last in self.columns.items():
            same = "L" if other_group == group else "S"
            if other == name:
                self.at_least(now, last, f"tCCD_{same}")
            elif name == "RD":
                self.at_least(now, last + self.timing["tCWL"] + BURST_CLOCKS, f"tWTR_{same}")
            else:
                self.at_least(now, last, "tRTW")
        assert now + latency >= self.data_end, f"clock {now}: two bursts on the data bus"
        self.data_end = now + latency + BURST_CLOCKS
        self.columns[name, group] = now


def check(path, timing):
    checker = Checker(timing)
    with open(path, newline="") as file:
        for clock, name, group, bank, row, _ in csv.reader(file):
            checker.command(int(clock), name, int(group), int(bank), int(row))
    return checker


@pytest.mark.parametrize("device, expected", [("ddr4", JEDEC), ("ddr4-x8", JEDEC_X8)])
def test_timing_is_jedecs(device, expected):
    dram = measure("sequential", cycles=100, device=device).dram
    assert {name: clocks for name, (clocks, _) in dram.timing.items()} == expected
    assert dram.peak_gb_s == pytest.approx(19.2)
    for name, (clocks, ns) in dram.timing.items():
        assert clocks >= ns * 1.2 - 1e-6, name


@pytest.mark.parametrize("name", PATTERNS)
def test_every_command_keeps_every_rule(name, tmp_path):
    options = PATTERNS[name]
    measured = measure(**options, cycles=40_000, commands=tmp_path / "commands")
    checker = check(tmp_path / "commands", JEDEC_X8 if options.get("device") == "ddr4-x8" else JEDEC)
    statistics = measured.dram.statistics
    assert checker.seen["RD"] == statistics["read_bursts"] and checker.seen["WR"] == statistics["write_bursts"]
    assert checker.seen["ACT"] == statistics["activates"] and checker.seen["REF"] == statistics["refreshes"]
    assert checker.seen["PRE"] + checker.seen["PREA"] == statistics["precharges"]
    assert (checker.seen["WR"] > 1000) == bool(options.get("writes"))
    served = statistics["row_hits"] + statistics["row_misses"] + statistics["row_conflicts"]
    assert served == statistics["read_bursts"] + statistics["write_bursts"] > 10_000


@pytest.mark.parametrize("rule", ["tRCD", "tRP", "tRAS", "tRC", "tRRD_S", "tRRD_L", "tFAW", "tCCD_S", "tCCD_L", "tWTR_S", "tWTR_L",
                                  "tRTW", "tRTP", "tWR", "tRFC"])
def test_the_checker_notices(rule, tmp_path):
    """The model works at the limit of each rule somewhere, so that a rule one clock stricter is broken."""
    for options in (PATTERNS["random mixed"], PATTERNS["random 64"], PATTERNS["sequential mixed"], PATTERNS["x8"]):
        timing = JEDEC_X8 if options.get("device") == "ddr4-x8" else JEDEC
        measure(**options, cycles=20_000, commands=tmp_path / "commands")
        try:
            check(tmp_path / "commands", timing | {rule: timing[rule] + 1})
        except AssertionError:
            return
    pytest.fail(f"{rule} is never met exactly")


def test_four_streams_are_bound_by_the_ports():
    measured = measure("sequential")
    assert 0.85 * PORT_GB_S <= measured.gb_s <= PORT_GB_S
    assert measured.dram.statistics["row_hits"] > 0.95 * measured.dram.statistics["read_bursts"]


def test_one_stream_is_bound_by_its_port():
    assert 0.85 * PORT_GB_S / 4 <= measure("sequential", streams=1).gb_s <= PORT_GB_S / 4


@pytest.mark.parametrize("options", [dict(pattern="sequential"), dict(pattern="sequential", burst_bytes=256, writes=50),
                                     dict(pattern="random")])
def test_never_above_the_device(options):
    """At a clock at which the ports could take 64 GB/s the device is the bound; refresh takes its share of it."""
    measured = measure(**options, clock_mhz=1000, cycles=400_000)
    assert measured.gb_s <= measured.dram.sustained_gb_s * 1.001 < measured.dram.peak_gb_s
    if options == dict(pattern="sequential"):
        assert measured.gb_s >= 0.9 * measured.dram.sustained_gb_s


def test_refreshes():
    measured = measure("random", cycles=250_000)
    assert measured.dram.statistics["refreshes"] == 250_000 * 4.8 // JEDEC["tREFI"]
    assert measured.dram.refresh_share == pytest.approx(350 / 7800, rel=1e-3)


def test_small_random_reads_are_bound_by_activates():
    """Four rows per tFAW, one burst of 64 bytes from each."""
    measured = measure("random", burst_bytes=64)
    bound = 4 * 64 / (JEDEC["tFAW"] / 1.2) * (1 - measured.dram.refresh_share)
    assert 0.8 * bound <= measured.gb_s <= bound * 1.02 < 0.6 * PORT_GB_S
    assert measured.dram.statistics["row_hits"] < 0.02 * measured.dram.statistics["read_bursts"]
    assert measure("random", burst_bytes=256).gb_s > 1.5 * measured.gb_s


def test_bursts_below_64_bytes_waste_the_rest():
    measured = measure("random", burst_bytes=16)
    assert measured.dram.statistics["read_bursts"] >= measured.read_bytes // 16
    assert measured.gb_s < 0.3 * measure("random", burst_bytes=64).gb_s


def test_streams_in_one_bank_cost_rows():
    apart, together = measure("sequential"), measure("sequential", spread=False)
    assert together.dram.statistics["row_conflicts"] > 3 * apart.dram.statistics["row_conflicts"]
    assert together.gb_s < apart.gb_s


def test_writes_are_drained_in_batches(tmp_path):
    measured = measure("sequential", writes=50, cycles=40_000, commands=tmp_path / "commands")
    assert measured.read_bytes and measured.written_bytes > 0.5 * measured.read_bytes
    with open(tmp_path / "commands", newline="") as file:
        columns = [row[1] for row in csv.reader(file) if row[1] in ("RD", "WR")]
    batches = 1 + sum(before != after for before, after in pairwise(columns))
    assert len(columns) > 16 * batches


def test_reads_wait_for_queued_writes_of_the_same_bytes():
    assert measure("sequential", writes=30).dram.statistics["collisions"] == 0
    measured = measure(**PATTERNS["hot"])
    assert measured.dram.statistics["collisions"] > 1000
    assert measured.dram.statistics["write_bursts"] < measured.written_bytes // 64  # some combined in the queue


def test_one_result_for_one_input():
    first, second = (measure("random", burst_bytes=128, writes=30, cycles=20_000) for _ in range(2))
    assert first == second
