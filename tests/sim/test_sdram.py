"""The SDRAM model finds every broken rule of the data sheet, and takes what keeps them."""

import random
from dataclasses import replace

import pytest
from llmrtl.accelerators.memory.sdram_chips import CHIPS
from llmrtl.sim.memory.sdram import COMMANDS, Chip

SHEET = replace(CHIPS["AS4C16M16SA-7"], row_bits=11, column_bits=8, power_up_ns=300, refresh_ns=20_000, ras_most=30_000)
MHZ = 100.0  # 10 ns
RC, RFC, RAS, RCD, RP, RRD, WR, MRD = 7, 7, 5, 3, 3, 2, 2, 2  # clocks of 10 ns for 63, 63, 42, 21, 21, 14, 14, 14 ns
LATENCY, LENGTH = 2, 4
ALL = 1 << 10


class Player:
    """Sends commands at given distances."""

    def __init__(self, sheet=SHEET, mhz=MHZ):
        self.chip = Chip(sheet, mhz)
        self.words = []  # (clock at which it is valid, word)
        self.clock = 0

    def step(self, name="NOP", bank=0, address=0, **pins):
        self.clock += 1
        word = self.chip.step(COMMANDS[name], bank=bank, address=address, **pins)
        if word is not None:
            self.words.append((self.clock + 1, word))
        return self

    def wait(self, clocks):
        for _ in range(clocks):
            self.step()
        return self

    def after(self, clocks, name, bank=0, address=0, **pins):
        """A command ``clocks`` after the one before."""
        return self.wait(clocks - 1).step(name, bank, address, **pins)

    def start(self, *, mode=LATENCY << 4 | 2, refreshes=8):
        self.wait(31).step("PRECHARGE", address=ALL).after(RP, "REFRESH")
        for _ in range(refreshes - 1):
            self.after(RFC, "REFRESH")
        return self.after(RFC, "MODE", address=mode).wait(MRD - 1)

    def write(self, words, *, bank=0, address=0, dqm=0):
        self.step("WRITE", bank, address, dq=words[0], dqm=dqm)
        for word in words[1:]:
            self.step(dq=word, dqm=dqm)
        return self


def violation(play):
    player = Player()
    play(player)
    return player.chip.violation


def started():
    return Player().start()


def test_what_keeps_the_rules_passes():
    player = started()
    player.step("ACTIVE", 0, 5).after(RRD, "ACTIVE", 1, 6).wait(RCD - 1).write([1, 2, 3, 4], bank=1, address=8)
    player.step("READ", 1, 8)
    player.after(LATENCY + LENGTH + 1, "NOP").write([5, 6, 7, 8], address=4)
    player.step("READ", 0, 6).after(LENGTH, "PRECHARGE", 0).after(RP, "ACTIVE", 0, 7).after(max(RAS, RCD), "PRECHARGE", address=ALL)
    player.after(RP, "REFRESH").after(RFC, "ACTIVE", 3, 9).after(RCD, "READ", 3, 0).wait(10)
    assert player.chip.violation == ""
    assert [word for _, word in player.words[:4]] == [1, 2, 3, 4]
    assert [word for _, word in player.words[4:8]] == [7, 8, 5, 6]  # the burst wraps within its block
    assert player.chip.counts == {"active": 4, "precharge": 3, "refresh": 9, "read": 3, "write": 2}


def test_data_come_after_the_cas_latency():
    for latency in (2, 3):
        player = Player().start(mode=latency << 4 | 1)
        player.step("ACTIVE").after(RCD, "READ")
        issued = player.clock
        player.wait(8)
        assert [clock for clock, _ in player.words] == [issued + latency, issued + latency + 1]
        assert player.chip.violation == ""


def test_masks():
    player = started()
    player.chip.words[:4] = 0xABCD
    player.step("ACTIVE").wait(RCD - 1).write([0x1111] * 4, dqm=1)
    assert player.chip.words[:4].tolist() == [0x11CD] * 4
    player.step("READ").step(dqm=3).wait(8)
    seen = [word for _, word in player.words]
    assert seen[0] == seen[2] == 0x11CD  # the mask was up a clock after READ: it hides the word two clocks later
    assert seen[1] != 0x11CD


# What is done, and words of the violation. Each is one clock short of the rule, or does what is not allowed.
BROKEN = {
    "power-up": (lambda p: p.wait(20).step("PRECHARGE", address=ALL), "after power-up"),
    "first precharge": (lambda p: p.wait(31).step("REFRESH"), "before the first PRECHARGE"),
    "one bank precharged": (lambda p: p.wait(31).step("PRECHARGE").after(RP, "REFRESH"), "before the first PRECHARGE"),
    "no mode": (lambda p: p.wait(31).step("PRECHARGE", address=ALL).after(RP, "REFRESH").after(RFC, "REFRESH").after(RFC, "ACTIVE"),
                "is initialized"),
    "one refresh": (lambda p: p.start(refreshes=1).step("ACTIVE"), "is initialized"),
    "tMRD": (lambda p: p.wait(31).step("PRECHARGE", address=ALL).after(RP, "REFRESH").after(RFC, "REFRESH")
             .after(RFC, "MODE", address=0x22).after(MRD - 1, "ACTIVE"), "tMRD"),
    "tRFC": (lambda p: p.start().step("REFRESH").after(RFC - 1, "ACTIVE"), "tRFC"),
    "tRFC to refresh": (lambda p: p.start().step("REFRESH").after(RFC - 1, "REFRESH"), "tRFC"),
    "tRCD of read": (lambda p: p.start().step("ACTIVE").after(RCD - 1, "READ"), "tRCD"),
    "tRCD of write": (lambda p: p.start().step("ACTIVE").after(RCD - 1, "WRITE", dq=0), "tRCD"),
    "tRAS": (lambda p: p.start().step("ACTIVE").after(RAS - 1, "PRECHARGE"), "tRAS"),
    "tRAS of all": (lambda p: p.start().step("ACTIVE", 2).after(RAS - 1, "PRECHARGE", address=ALL), "tRAS"),
    "tRP": (lambda p: p.start().step("ACTIVE").after(RAS, "PRECHARGE").after(RP - 1, "ACTIVE"), "tRP"),
    "tRP before REFRESH": (lambda p: p.start().step("ACTIVE").after(RAS, "PRECHARGE").after(RP - 1, "REFRESH"), "tRP"),
    "tRRD": (lambda p: p.start().step("ACTIVE").after(RRD - 1, "ACTIVE", 1), "tRRD"),
    "tWR": (lambda p: p.start().step("ACTIVE").wait(RCD - 1).write([0] * 4).after(WR - 1, "PRECHARGE"), "tWR"),
    "longest tRAS": (lambda p: p.start().step("ACTIVE").wait(3010), "longest tRAS"),
    "late refresh": (lambda p: p.start().wait(9 * 2000 + 10), "refreshes are due"),
    "open twice": (lambda p: p.start().step("ACTIVE").after(RC, "ACTIVE"), "which is open"),
    "read of a closed bank": (lambda p: p.start().step("READ"), "which is closed"),
    "write to a closed bank": (lambda p: p.start().step("ACTIVE").after(RCD, "WRITE", 1, dq=0), "which is closed"),
    "refresh of an open bank": (lambda p: p.start().step("ACTIVE").after(RC, "REFRESH"), "which is open"),
    "mode with an open bank": (lambda p: p.start().step("ACTIVE").after(RC, "MODE", address=0x22), "which is open"),
    "read interrupts": (lambda p: p.start().step("ACTIVE").after(RCD, "READ").after(LENGTH - 1, "READ"), "interrupts a burst"),
    "write interrupts": (lambda p: p.start().step("ACTIVE").after(RCD, "WRITE", dq=0).step("WRITE", dq=0), "interrupts a burst"),
    "precharge cuts a read": (lambda p: p.start().step("ACTIVE").after(RAS, "READ").after(LENGTH - 1, "PRECHARGE"),
                              "interrupts a READ"),
    "turnaround": (lambda p: p.start().step("ACTIVE").after(RCD, "READ").after(LATENCY + LENGTH, "WRITE", dq=0), "no clock between"),
    "both drive": (lambda p: p.start().step("ACTIVE").after(RCD, "READ").step().step(dq=1), "while the chip does"),
    "no data": (lambda p: p.start().step("ACTIVE").after(RCD, "WRITE", dq=0).step(), "does not drive"),
    "auto precharge": (lambda p: p.start().step("ACTIVE").after(RCD, "READ", address=ALL), "auto precharge"),
    "burst stop": (lambda p: p.start().step("STOP"), "BURST STOP"),
    "no such row": (lambda p: p.start().step("ACTIVE", address=1 << 11), "row that does not exist"),
    "no such column": (lambda p: p.start().step("ACTIVE").after(RCD, "READ", address=1 << 8), "column that does not exist"),
    "CKE": (lambda p: p.start().step(cke=0), "CKE"),
    "full page": (lambda p: p.start(mode=0x27), "mode that is not modelled"),
    "latency 1": (lambda p: p.start(mode=0x12), "CAS latency"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_rule_is_found(name):
    play, said = BROKEN[name]
    found = violation(play)
    assert said in found, f"{name}: {found!r}"


def test_clock_too_fast_for_the_latency():
    player = Player(mhz=140.0)
    player.wait(45).step("PRECHARGE", address=ALL).after(5, "REFRESH").after(10, "REFRESH").after(10, "MODE", address=0x22)
    assert "too fast" in player.chip.violation


def test_row_cycle_longer_than_open_and_closed():
    for clocks, broken in ((10, False), (9, True)):
        player = Player(replace(SHEET, rc=100)).start()
        player.step("ACTIVE").after(RAS, "PRECHARGE").after(clocks - RAS, "ACTIVE")
        assert ("tRC" in player.chip.violation) is broken


def test_rules_in_clocks():
    sheet = replace(SHEET, rrd=0, rrd_clocks=2, wr=0, wr_clocks=2)
    player = Player(sheet).start()
    player.step("ACTIVE").step("ACTIVE", 1)
    assert "tRRD is 1 clocks" in player.chip.violation
    player = Player(sheet).start()
    player.step("ACTIVE").wait(RCD - 1).write([0] * 4).step("PRECHARGE")
    assert "tWR is 1 clocks" in player.chip.violation


def test_random_words_come_back():
    rng = random.Random(3)
    player, want = started(), {}
    for _ in range(40):
        bank, row, column = rng.randrange(4), rng.randrange(1 << 11), 4 * rng.randrange(64)
        words = [rng.getrandbits(16) for _ in range(4)]
        player.step("ACTIVE", bank, row).wait(RCD - 1).write(words, bank=bank, address=column)
        player.after(WR, "PRECHARGE", bank).wait(RC)
        want[bank, row, column] = words
        player.step("REFRESH").wait(RFC)
    for (bank, row, column), words in want.items():
        player.words.clear()
        player.step("ACTIVE", bank, row).after(RCD, "READ", bank, column).wait(8).step("PRECHARGE", bank).wait(RC)
        assert [word for _, word in player.words] == words
        player.step("REFRESH").wait(RFC)
    assert player.chip.violation == ""
