"""Golden model of the weight streamer, and the rules of the memory behind it.

``TimingChecker`` knows commands and banks only: what it forbids follows from the rules of HBM per bank, bank group and pseudo channel,
not from what a controller does. Times are in tCK.
"""

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["BANKS", "GROUPS", "Stretch", "TimingChecker", "given_words", "granule_address", "stretches"]

BANKS, GROUPS = 8, 4
"""Banks of a bundle: bank ``group + GROUPS * bank[0]``."""

LONG_AGO = -(1 << 40)


@dataclass(frozen=True)
class Stretch:
    """What lies of a run in one bundle row: ``words`` words from ``column`` on, in ``reads`` reads."""

    bundle: int
    row: int
    column: int
    words: int
    reads: int


def stretches(config: Any, run: Mapping[str, int]) -> Iterator[Stretch]:
    """A run cut at the ends of rows (``WeightStreamer``)."""
    per_read = config.timing.ccd // 2
    bundle, row, column, words = run["bundle"], run["row"], run["column"], run["words"] if run["tiles"] else 0
    while words:
        here = min(words, (config.columns - column) * per_read)
        yield Stretch(bundle, row, column, here, -(-here // per_read))
        words, column = words - here, 0
        if bundle % 2 or not config.ping_pong:
            row = (row + 1) % config.rows
        bundle ^= int(config.ping_pong)


def given_words(config: Any, run: Mapping[str, int]) -> Iterator[tuple[tuple[int, int, int, int], int, int]]:
    """``((bundle, row, column, word of the read), tile, end)`` of all that a run gives."""
    per_read = config.timing.ccd // 2
    for each in stretches(config, run):
        for tile in range(run["tiles"]):
            for k in range(each.words):
                yield (each.bundle, each.row, each.column + k // per_read, k % per_read), tile, int(k == each.words - 1)


def granule_address(config: Any, bundle: int, row: int, column: int, bank: int) -> int:
    """Number of a granule (32 bytes in duplex) of the pseudo channel in the published map. From the low bits: bank group, bank[0],
    column, row, bank[1], rank; bank[1] and rank are the bundle."""
    return ((bundle * config.rows + row) * config.columns + column) * BANKS + bank


@dataclass
class _Bank:
    row: int | None = None
    activated: int = LONG_AGO
    precharged: int = LONG_AGO
    read: int = LONG_AGO  # on the normal path
    read_all: int = LONG_AGO


@dataclass
class TimingChecker:
    """Every command against every rule, as the memory sees it.

    Parameters
    ----------
    timing : HbmTiming
    bundles : int
    limits : bool
        tRRD and tFAW hold for activates of bundles too.

    Attributes
    ----------
    broken : list of (tCK, command, rule)
    seen : Counter
        Commands.
    """

    timing: Any
    bundles: int = 4
    limits: bool = False
    broken: list[tuple[int, str, str]] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.banks = {(bundle, bank): _Bank() for bundle in range(self.bundles) for bank in range(BANKS)}
        self.activates: deque[tuple[int, int, int]] = deque(maxlen=BANKS)  # tCK, rank, group
        self.reads: dict[tuple[int, int], int] = {}  # last read of a bank group, normal path
        self.last_read = self.last_all = self.last = LONG_AGO
        self.refreshed = self.refresh_due = 0
        self.blocked = LONG_AGO

    def command(self, now: int, name: str, bundle: int = 0, bank: int = 0, row: int = 0, column: int = 0) -> set[str]:
        """The rules that this command breaks. Commands come in order of time."""
        self.seen[name] += 1
        broken: set[str] = set()

        def after(rule: str, since: int, least: int) -> None:
            if now - since < least:
                broken.add(rule)
        after("slot", self.last, 1)
        self.last = now
        timing, all_banks = self.timing, [(b, k) for b in range(self.bundles) for k in range(BANKS)]
        after("tRFC", self.blocked, timing.rfc)
        match name:
            case "ALL_ACTIVATE":
                for k in range(BANKS):
                    self._activate(now, bundle, k, row, broken, self.limits)
            case "HALF_ACTIVATE":
                if bank % GROUPS:
                    broken.add("half")
                for k in range(GROUPS):
                    self._activate(now + k * timing.rrd, bundle, bank + k & BANKS - 1, row, broken, True)
            case "ACTIVATE":
                self._activate(now, bundle, bank, row, broken, True)
            case "ALL_READ":
                after("tCCD", self.last_all, timing.ccd)
                self.last_all = now
                for k in range(BANKS):
                    self._opened(now, self.banks[bundle, k], row, broken)
                    self.banks[bundle, k].read_all = now
            case "READ":
                group = bundle // 2, bank % GROUPS
                after("tCCD_S", self.last_read, timing.ccd_s)
                after("tCCD_L", self.reads.get(group, LONG_AGO), timing.ccd)
                self.last_read = self.reads[group] = now
                self._opened(now, self.banks[bundle, bank], row, broken)
                self.banks[bundle, bank].read = now
            case "ALL_PRECHARGE":
                self._precharge(now, [(bundle, k) for k in range(BANKS)], broken)
            case "PRECHARGE":
                self._precharge(now, [(bundle, bank)], broken)
            case "PRECHARGE_CHANNEL":
                self._precharge(now, all_banks, broken)
            case "REFRESH":
                for each in all_banks:
                    if self.banks[each].row is not None:
                        broken.add("open")
                    after("tRP", self.banks[each].precharged, timing.rp)
                    after("tRC", self.banks[each].activated, timing.rc)
                self.refreshed = self.blocked = now
            case _:
                raise ValueError(f"unknown command {name!r}")
        # A refresh may be put off, as far as the banks need to be closed, not longer.
        if name != "REFRESH" and now - self.refreshed > 2 * timing.refi:
            broken.add("tREFI")
        self.broken += [(now, name, rule) for rule in sorted(broken)]
        return broken

    def _activate(self, now: int, bundle: int, bank: int, row: int, broken: set[str], limited: bool) -> None:
        timing, state = self.timing, self.banks[bundle, bank]
        if state.row is not None:
            broken.add("open")
        for rule, since, least in (("tRP", state.precharged, timing.rp), ("tRC", state.activated, timing.rc)):
            if now - since < least:
                broken.add(rule)
        if limited:
            for then, rank, group in self.activates:
                if now - then < (timing.rrd_l if (rank, group) == (bundle // 2, bank % GROUPS) else timing.rrd):
                    broken.add("tRRD")
            if len(self.activates) >= 4 and now - self.activates[-4][0] < timing.faw:
                broken.add("tFAW")
            self.activates.append((now, bundle // 2, bank % GROUPS))
        state.row, state.activated = row, now

    def _opened(self, now: int, state: _Bank, row: int, broken: set[str]) -> None:
        if state.row != row:
            broken.add("closed" if state.row is None else "row")
        if now - state.activated < self.timing.rcd:
            broken.add("tRCD")

    def _precharge(self, now: int, banks: list[tuple[int, int]], broken: set[str]) -> None:
        """A bank that is closed is precharged without effect."""
        timing = self.timing
        for each in banks:
            state = self.banks[each]
            if state.row is None:
                continue
            for rule, since, least in (("tRAS", state.activated, timing.ras), ("tRTP", state.read_all, timing.rtp),
                                       ("tRTP", state.read, timing.rtp_bank)):
                if now - since < least:
                    broken.add(rule)
            state.row, state.precharged = None, now
