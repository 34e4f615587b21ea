"""The memory behind the command pins of an expert unit: bank bundles with a timing checker."""

import hashlib
from collections.abc import Callable
from typing import Any

from ...accelerators.experts.config import SLOTS, ExpertConfig
from ...accelerators.experts.dram_commands import BUNDLE_BANKS, Command, data_cycles, granule_bits, slot_layout
from ..bench.agents import BenchFailure, Model
from ..golden.dram import TimingChecker, granule_address

__all__ = ["BundleMemory", "hashed_granule", "word_of"]


def hashed_granule(config: ExpertConfig, address: int) -> int:
    """Contents for tests: a hash of the granule's number."""
    size = granule_bits(config) // 8
    return int.from_bytes(hashlib.blake2b(address.to_bytes(8, "little"), digest_size=size).digest(), "little")


def word_of(config: ExpertConfig, granule: Callable[[int], int], bundle: int, row: int, column: int, word: int) -> int:
    """Word ``word`` of a read of all banks; ``granule``: contents by address."""
    width, first = granule_bits(config), granule_address(config, bundle, row, column, 0)
    per_word = 8 * config.word_bytes // width
    return sum(granule(first + word * per_word + k) << k * width for k in range(per_word))


class BundleMemory(Model):
    """Answers commands with data, and fails at the first one that breaks a rule of ``TimingChecker``. Without data pins hold nonsense.

    Parameters
    ----------
    ports : dict of str to handle
        Ports of the unit.
    config : ExpertConfig
    contents : callable
        Granule by address (``granule_address``).

    Attributes
    ----------
    checker : TimingChecker
    """

    name = "command"

    def __init__(self, ports: dict[str, Any], config: ExpertConfig, contents: Callable[[int], int]):
        self.config = config
        self._ports = ports
        self._contents = contents
        self._layout = {name: (field.offset, (1 << field.width) - 1) for name, field in slot_layout(config)}
        self._slot_bits = slot_layout(config).size
        self._names = {command.value: command.name for command in Command}
        self.clear()

    def clear(self) -> None:
        self.checker = TimingChecker(self.config.timing, self.config.bundles, self.config.activate_limits)
        self._due: dict[str, dict[int, int]] = {"data": {}, "normal_data": {}}
        self._now = 0
        self.drive()

    def drive(self) -> None:
        for name, due in self._due.items():
            if name in self._ports:
                width = len(self._ports[name])
                self._ports[name].value = due.pop(self._now, (1 << width) // 3 * 2)

    def sample(self, cycle: int) -> bool:
        text = str(self._ports["command"].value)
        if set(text) - {"0", "1"}:
            raise BenchFailure(f"command is {text} after reset")
        pins, moved = int(text, 2), False
        for slot in range(SLOTS):
            bits = pins >> slot * self._slot_bits
            fields = {name: bits >> offset & mask for name, (offset, mask) in self._layout.items()}
            name = self._names[fields.pop("command")]
            if name == "NONE":
                continue
            tck, moved = SLOTS * self._now + slot, True
            broken = self.checker.command(tck, name, **fields)
            if broken:
                raise BenchFailure(f"tCK {tck}: {name} {fields} breaks {', '.join(sorted(broken))}")
            self._read(name, **fields)
        self._now += 1
        return moved

    def _read(self, name: str, bundle: int, bank: int, row: int, column: int) -> None:
        first = self._now + data_cycles(self.config)
        if name == "ALL_READ":
            for word in range(self.config.timing.ccd // SLOTS):
                self._due["data"][first + word] = word_of(self.config, self._contents, bundle, row, column, word)
        elif name == "READ":
            self._due["normal_data"][first] = self._contents(granule_address(self.config, bundle, row, column, bank % BUNDLE_BANKS))

    def pending(self) -> str | None:
        return "data on its way" if any(self._due.values()) else None
