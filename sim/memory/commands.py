"""Commands of an emitted bank-bundle controller for given reads: simulated in Verilator, checked by ``TimingChecker``."""

import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from ...accelerators.experts.bundle_controller import COUNTERS, BundleController
from ...accelerators.experts.bundle_path import stretch_layout
from ...accelerators.experts.config import ExpertConfig
from ...accelerators.experts.dram_commands import Command, slot_layout
from ...rtl_gen.emit import Emitted, emit
from ..bench.layout import Codec
from ..golden.dram import TimingChecker
from ..traces.player import PlayError, compiled_player

__all__ = ["Given", "Log", "command_log"]

GIVEN = np.dtype([("slot", "<u8"), ("bits", "<u8")])


@dataclass(frozen=True)
class Given:
    """A command and its slot, tCK from reset; places that it does not have are 0."""

    tck: int
    command: str
    bundle: int
    bank: int
    row: int
    column: int


@dataclass(frozen=True)
class Log:
    """What was given, up to the last read, what the timing checker says to it, and the counters at the end."""

    given: list[Given]
    broken: list[tuple[int, str, str]]
    counters: dict[str, int]
    timing: object

    @property
    def cycles(self) -> int:
        """tCK from the first command until the last data have come, as the reference data count them."""
        reads = [each.tck for each in self.given if each.command in ("ALL_READ", "READ")]
        return reads[-1] - self.given[0].tck + 1 + self.timing.cl + self.timing.bl  # type: ignore[attr-defined]


@cache
def _emitted(config: ExpertConfig, normal: bool) -> Emitted:
    return emit(BundleController(config, normal=normal), "commanded", config)


def _header(config: ExpertConfig, normal: bool) -> str:
    """What the program has to know of the layouts."""
    stretch = dict(iter(stretch_layout(config)))
    lines = [f"constexpr unsigned SLOT_BITS = {slot_layout(config).size}, COUNTER_BITS = {COUNTERS.size};",
             f"constexpr unsigned LAST_AT = {stretch['last'].offset}, COLUMN_AT = {stretch['column'].offset};",
             f"constexpr unsigned COLUMN_MASK = {config.columns - 1};",
             f"constexpr unsigned ALL_READ = {Command.ALL_READ.value}, READ = {Command.READ.value};"]
    return "\n".join(("#pragma once", *lines, *["#define NORMAL"] * normal, ""))


def command_log(config: ExpertConfig, stretches: Sequence[Mapping[str, int]], requests: Sequence[Mapping[str, int]] = (), *,
                normal: bool = True, slots: int = 3, delay: int = 0) -> Log:
    """The commands for ``stretches`` of bundle rows and ``requests`` of the normal path, all offered from the start.

    Parameters
    ----------
    normal : bool
        The controller has a normal path.
    slots : int
        Bits of the command slots that may be used in each logic cycle.
    delay : int
        Logic cycles from reset until the first is offered.

    Raises ``PlayError`` if reads are missing.
    """
    emitted = _emitted(config, normal)
    codecs = {each["name"]: Codec(each["payload"], each["name"]) for each in emitted.sidecar["streams"]}
    program = compiled_player(emitted, _header(config, normal), Path(__file__).parent / "commands.cpp")
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("stretches", "requests", "log")]
        for path, name, items in ((paths[0], "i", stretches), (paths[1], "i_normal", requests)):
            path.write_bytes(np.array([codecs[name].pack(item)[0] for item in items], "<u8").tobytes())
        done = subprocess.run([str(program), *map(str, paths), str(slots), str(delay)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise PlayError(f"the controller: {done.stderr.strip() or 'its program crashed'}")
        records = np.fromfile(paths[2], GIVEN)
    end = records["slot"] == np.uint64(0xFFFF_FFFF_FFFF_FFFF)
    words = records["bits"][end].tolist()
    counters = COUNTERS.size
    bits = sum(word << 16 * k for k, word in enumerate(words)) & (1 << counters) - 1
    layout = {name: (field.offset, field.width) for name, field in slot_layout(config)}
    records, checker, given = records[~end], TimingChecker(config.timing, config.bundles, config.activate_limits), []
    columns = {name: (records["bits"] >> np.uint64(at) & np.uint64((1 << width) - 1)).tolist() for name, (at, width) in layout.items()}
    names = {each.value: each.name for each in Command}
    fields = (columns[name] for name in ("command", "bundle", "bank", "row", "column"))
    for slot, command, *place in zip(records["slot"].tolist(), *fields, strict=True):
        given.append(Given(slot, names[command], *place))
        checker.command(slot, names[command], *place)
    return Log(given, checker.broken, {name: bits >> field.offset & (1 << field.width) - 1 for name, field in COUNTERS}, config.timing)
