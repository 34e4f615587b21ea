"""The register map, declared once: hardware, driver, C header and SystemRDL are made from it. Plain Python.

A 4 KiB window of 32-bit registers. Offsets depend on the list of units only, never on the configuration, so
one driver serves every accelerator; the configuration can be read back. MEMORY_BASE_0 and so on exist where memory
has several ports, as many as CONFIG_MEMORY says; KV_SINKS, KV_WINDOW and KV_POSITIONS where the KV cache keeps a window or a budget
of rows, KV_THRESHOLD with the latter; KV_FREE_BLOCKS, KV_ADDRESS and KV_HEADS where it is paged: there a prompt is a batch
(``entries``); KV_SWAP_ADDRESS and those behind it where it swaps. CONFIG_CACHE tells which, and is not there for a cache of all
positions of one sequence. DEVIATION_SATURATED exists where programs may list tokens to compute again.
"""

import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..config import POSITION_BITS, THRESHOLD_FRACTION, TOKEN_BITS, AcceleratorConfig
from ..rules import CACHES
from .errors import CAUSE_BITS, STALLED_SHIFT

__all__ = ["ACCESS", "COUNTERS", "COUNTER_BASE", "IDENTITY", "UNIT_EVENTS", "UNIT_NAMES", "VERSION",
           "WINDOW_BITS", "Field", "Register", "RegisterMap", "check_core", "config_hash", "register_map"]

WINDOW_BITS = 12
IDENTITY = int.from_bytes(b"LRTL", "little")
VERSION = (0, 1, 0)
PAGE_BITS = 12  # a memory port begins at a page of 4 KiB
COUNTER_BASE = 0x200
FIRST_UNIT_COUNTER = 8
MAX_UNITS = STALLED_SHIFT  # two bits of ERROR_INFO each
UNIT_NAMES = ("engine", "norm_quantize", "rope", "residual", "glu", "attention", "head", "sampler",
              "embedding", "cache")
UNIT_EVENTS = {
    "busy": "the unit works on an operation",
    "starved": "the unit is ready for input that does not come",
    "stalled": "the unit offers output that is not taken",
}
COUNTERS = {
    "cycles": "the accelerator is busy",
    "read_beats": "a beat of read data is taken",
    "write_beats": "a beat of write data is taken",
    "read_stall": "read data is offered and not taken",
    "read_idle": "reads are outstanding and no data is offered",
}
ACCESS = {
    "const": "read-only, fixed when the accelerator is generated",
    "ro": "read-only",
    "rw": "read and write",
    "wo": "write-only, reads as 0",
    "w1c": "set by hardware, cleared by writing 1",
    "pulse": "writing 1 acts once, reads as 0",
}
_WRITABLE = {"rw", "wo", "w1c", "pulse"}


@dataclass(frozen=True)
class Field:
    """Bits ``low .. low + width - 1`` of a register. ``reset`` is also the value of a ``const``."""

    name: str
    access: str
    doc: str
    low: int = 0
    width: int = 32
    reset: int = 0

    def __post_init__(self) -> None:
        if self.access not in ACCESS:
            raise ValueError(f"{self.name}: access must be one of {', '.join(ACCESS)}, not {self.access!r}")
        if self.low < 0 or self.width < 1 or self.low + self.width > 32:
            raise ValueError(f"{self.name}: low and width must keep it in bits 0..31, not "
                             f"{self.low} and {self.width}")
        if not 0 <= self.reset < 1 << self.width:
            raise ValueError(f"{self.name}: reset must be in 0..{(1 << self.width) - 1}, not {self.reset}")

    @property
    def mask(self) -> int:
        return ((1 << self.width) - 1) << self.low

    @property
    def writable(self) -> bool:
        return self.access in _WRITABLE


@dataclass(frozen=True)
class Register:
    """One 32-bit word.

    ``half`` 0 and 1 are the low and the high word of a 64-bit value: reading the low word holds the high word
    for the next read of it. ``counter`` is the number of the performance counter that the value comes from.
    """

    name: str
    offset: int
    doc: str
    fields: tuple[Field, ...]
    half: int | None = None
    counter: int | None = None

    @property
    def writable(self) -> bool:
        return any(field.writable for field in self.fields)

    @property
    def mask(self) -> int:
        """Bits that belong to a field."""
        return sum(field.mask for field in self.fields)

    @property
    def reset(self) -> int:
        """Value after reset, as far as it does not come from outside."""
        return sum(field.reset << field.low for field in self.fields if field.access != "wo")


@dataclass(frozen=True)
class RegisterMap:
    """All registers; ``ValueError`` for an overlap or a name that occurs twice."""

    registers: tuple[Register, ...]

    def __post_init__(self) -> None:
        offsets: set[int] = set()
        names: set[str] = set()
        for register in self.registers:
            if register.offset % 4 or not 0 <= register.offset < 1 << WINDOW_BITS:
                raise ValueError(f"{register.name}: offset must be a word of the window, "
                                 f"not {register.offset:#x}")
            if register.offset in offsets:
                raise ValueError(f"{register.name}: offset {register.offset:#x} is taken")
            offsets.add(register.offset)
            used = 0
            for field in register.fields:
                if used & field.mask:
                    raise ValueError(f"{register.name}: bits of {field.name} are taken")
                used |= field.mask
            for name in (register.name, *(f.name for f in register.fields if register.half != 1)):
                if name in names:
                    raise ValueError(f"{name} occurs twice")
                names.add(name)

    def __getitem__(self, name: str) -> Register:
        return next(register for register in self.registers if register.name == name)

    def __iter__(self) -> Iterator[Register]:
        return iter(self.registers)

    @property
    def offsets(self) -> dict[str, int]:
        """Name -> byte offset: all that a driver needs."""
        return {register.name: register.offset for register in self.registers}

    @property
    def counters(self) -> dict[str, int]:
        """Name -> number of the 64-bit performance counters."""
        return {register.fields[0].name: register.counter for register in self.registers
                if register.counter is not None}


def check_core(read: Callable[[int], int], config: AcceleratorConfig) -> None:
    """Read (``read`` takes an offset) what a core says of itself; ``ValueError`` if it is not what a driver for ``config`` expects.

    The first two numbers of the register map's version must be the same; the third one is free.
    """
    offsets = register_map(config).offsets
    identity, version, found = (read(offsets[name]) for name in ("IDENTITY", "VERSION", "CONFIG_HASH"))
    if identity != IDENTITY:
        raise ValueError(f"there is no llmrtl accelerator: its identity must be {IDENTITY:#010x}, not {identity:#010x}")
    have = version >> 16 & 255, version >> 8 & 255, version & 255
    if have[:2] != VERSION[:2]:
        raise ValueError(f"the core's register map has version {'.'.join(map(str, have))}, this driver is for version "
                         f"{'.'.join(map(str, VERSION))}: generate the core again, or use the driver that came with it")
    if found != config_hash(config):
        raise ValueError(f"the core's configuration has hash {found:#010x}, the image is for {config.name!r} with hash "
                         f"{config_hash(config):#010x}: compile the image for the preset of the core")


def config_hash(config: AcceleratorConfig) -> int:
    """CRC-32 of the configuration's JSON with sorted keys: tells a driver whether an image fits."""
    return zlib.crc32(json.dumps(config.to_json(), sort_keys=True, separators=(",", ":")).encode())


class _Builder:
    """Lays registers out one after another from ``offset``."""

    def __init__(self) -> None:
        self.offset = 0
        self.registers: list[Register] = []

    def add(self, name: str, doc: str, *fields: Field, **options: Any) -> None:
        self.registers.append(Register(name, self.offset, doc, fields, **options))
        self.offset += 4

    def single(self, name: str, access: str, doc: str, reset: int = 0, width: int = 32) -> None:
        """A register with one field of its own name."""
        self.add(name, doc, Field(name.lower(), access, doc, 0, width, reset))

    def pair(self, name: str, doc: str, counter: int | None = None) -> None:
        """A 64-bit value."""
        for half, bits in enumerate(("Bits 0..31; reading it holds bits 32..63.",
                                     "Bits 32..63 at the last read of the low half.")):
            self.add(f"{name}_{('LO', 'HI')[half]}", f"{doc} {bits}", Field(name.lower(), "ro", doc),
                     half=half, counter=counter)

    def count(self, name: str, number: int, doc: str) -> None:
        """A performance counter; its place follows from its number."""
        self.offset = COUNTER_BASE + 8 * number
        self.pair(name.upper(), doc, number)


def register_map(config: AcceleratorConfig, units: Sequence[str] = UNIT_NAMES) -> RegisterMap:
    """The registers of an accelerator with ``config`` whose counters watch ``units``."""
    if len(units) > MAX_UNITS:
        raise ValueError(f"units must be at most {MAX_UNITS}, not {len(units)}")
    b = _Builder()
    _identification(b, config)
    b.offset = 0x40
    b.add("CONTROL", "Commands, modes. A start while busy or with an error pending is refused with SLVERR.",
          Field("start", "pulse", "Start with the prompt; clears STATUS.done, stop and all counters.", 0, 1),
          Field("stop", "pulse", "End the run after the token under way.", 1, 1),
          Field("clear_errors", "pulse", "Clear ERROR_CAUSE and ERROR_INFO.", 2, 1),
          Field("greedy", "rw", "Take the largest logit instead of sampling.", 8, 1, 1),
          Field("ignore_eos", "rw", "Go on after EOS_TOKEN.", 9, 1))
    b.add("STATUS", "State.", Field("busy", "ro", "A run is in progress.", 0, 1),
          Field("done", "w1c", "A run has ended since the last start.", 1, 1),
          Field("error_pending", "ro", "ERROR_CAUSE is not NONE.", 2, 1))
    b.single("ERROR_CAUSE", "ro", "First error since the last clear.", width=CAUSE_BITS)
    b.single("ERROR_INFO", "ro", "Address, position, index or waiting streams that belong to ERROR_CAUSE.")

    b.offset = 0x80
    b.single("PROGRAM_ADDRESS", "rw", "Byte address of the program.")
    b.single("PROMPT_ADDRESS", "rw", "Byte address of the prompt: one token per bus word.")
    b.single("PROMPT_LENGTH", "rw", "Tokens of the prompt.", width=TOKEN_BITS)
    b.single("START_POSITION", "rw", "Tokens already in the KV cache.", width=TOKEN_BITS)
    b.single("MAX_NEW_TOKENS", "rw", "Tokens to generate at most.", width=TOKEN_BITS)
    b.single("EOS_TOKEN", "rw", "Token that ends the run.", width=TOKEN_BITS)
    b.single("KV_CAPACITY", "rw", "Positions that the KV cache holds.", width=TOKEN_BITS)
    b.single("KV_RECORD_BEATS", "rw", "Bus words of one KV record.", width=16)
    b.single("KV_HEAD_STRIDE", "rw", "Bytes from the records of one KV head to those of the next.")
    b.single("SEED", "wo", "Writing it restarts the random generator of the sampler.")
    b.single("TOP_K", "rw", "Candidates of the sampler, 1 to CONFIG_SAMPLER.config_top_k.", 1, 8)
    b.single("INVERSE_TEMPERATURE_MANTISSA", "rw",
             "1 / temperature = mantissa * 2**exponent; bit 23 is set, or all bits are 0.", 1 << 23, 24)
    b.single("INVERSE_TEMPERATURE_EXPONENT", "rw", "Two's complement.", -23 & 0xFFFF, 16)
    b.single("WATCHDOG_LIMIT", "rw", "Cycles without progress that raise WATCHDOG; 0 never does.", 1 << 24)

    b.offset = 0xC0
    b.single("POSITION", "ro", "Position of the next token.", width=TOKEN_BITS)
    b.single("TOKENS_GENERATED", "ro", "Tokens generated since the start.", width=TOKEN_BITS)
    b.single("OPERATION", "ro", "Tag of the operation in execution.", width=16)
    b.single("LAST_TOKEN", "ro", "Last token generated.")
    b.pair("LAST_VALUE", "Largest logit of the last token, two's complement.")
    b.single("SATURATIONS", "ro", "Vector elements clamped since the start; stops at its maximum.")

    if config.memory_ports > 1:
        b.offset = 0x100
        for port in range(config.memory_ports):
            doc = f"Byte address of word 0 behind memory port {port}, a multiple of 4 KiB (others are refused). Set before a start."
            b.add(f"MEMORY_BASE_{port}", doc,
                  Field(f"memory_base_{port}", "rw", doc, PAGE_BITS, 32 - PAGE_BITS))

    if config.cache != "contiguous":
        b.offset = 0x17C
        b.add("CONFIG_CACHE", "KV cache of another kind than contiguous; where it is, there is no such register.",
              Field("config_cache", "const", "1: sinks and a window; 2: paged; 3: a budget of rows.", 0, 8, CACHES.index(config.cache)),
              Field("config_sequences", "const", "Sequences, if paged.", 8, 8, config.sequences),
              Field("config_block_size", "const", "Positions of a block, if paged.", 16, 16, config.block_size))
    if config.cache in ("window", "evict"):
        b.offset = 0x180
        latest = ("Latest positions that a token sees, itself included." if config.cache == "window" else
                  "Latest positions before a token that the KV cache keeps.")
        b.single("KV_SINKS", "rw", "First positions that the KV cache keeps. Set before a start.", width=POSITION_BITS)
        b.single("KV_WINDOW", "rw", f"{latest} Set before a start.", width=POSITION_BITS)
        b.single("KV_POSITIONS", "rw", "Positions of the longest text, as many as the rotary table has.", width=POSITION_BITS)
    if config.cache == "evict":
        b.single("KV_THRESHOLD", "rw", "Cosine from which on keys of rows are similar, 12 fraction bits; above 1 nothing is merged. "
                 "Set before a start.", width=THRESHOLD_FRACTION + 1)

    if config.cache == "paged":
        b.offset = 0x190
        b.single("KV_FREE_BLOCKS", "ro", "Blocks of the KV cache that no sequence has.", width=POSITION_BITS)
        b.single("KV_ADDRESS", "rw", "Byte address of the KV cache, where rows are copied. Set before a start.")
        b.single("KV_HEADS", "rw", "KV heads of all layers. Set before a start.", width=16)

    if config.attention_modes:
        b.offset = 0x1A0
        b.single("ATTENTION_MISSED", "ro", "Lanes since reset whose first row was not within the unified maximum's window.")
        b.single("ATTENTION_PASSED", "ro", "Lanes since reset with a row above the unified maximum.")

    if config.swap_slots:
        b.offset = 0x1B0
        b.single("KV_SWAP_ADDRESS", "rw", "Byte address of the region to which sequences leave the KV cache. Set before a start.")
        b.single("KV_SWAP_STRIDE", "rw", "Bytes from the records of one KV head there to those of the next. Set before a start.")
        b.single("KV_ROWS_OUT", "ro", "Positions moved there since reset.")
        b.single("KV_ROWS_IN", "ro", "Positions moved back since reset.")
        b.single("KV_CLEAN_BLOCKS", "ro", "Blocks that left since reset and did not have to be moved.")

    if config.selective_recompute:
        b.offset = 0x1C8
        b.single("DEVIATION_SATURATED", "ro", "Since the start, a scale of values was too large for the steps of a list.", width=1)

    if config.block_retrieval:
        b.offset = 0x1CC
        b.single("MEANS_SATURATED", "ro", "Since the start, a scale of rows was too large for the steps of means of blocks.", width=1)

    for number, (name, doc) in enumerate(COUNTERS.items()):
        b.count(name, number, f"Cycles of the run in which {doc}.")
    number = FIRST_UNIT_COUNTER
    for unit in units:
        for event, doc in UNIT_EVENTS.items():
            b.count(f"{unit}_{event}", number, f"{unit}: cycles of the run in which {doc}.")
            number += 1
    return RegisterMap(tuple(b.registers))


def _identification(b: _Builder, config: AcceleratorConfig) -> None:
    """What tells a driver which accelerator it talks to."""

    def const(name: str, low: int, width: int) -> Field:
        return Field(name, "const", f"{name} of the configuration.", low, width, getattr(config, name))

    def version(name: str, low: int, value: int) -> Field:
        return Field(f"version_{name}", "const", f"{name} number.".capitalize(), low, 8, value)

    b.single("IDENTITY", "const", 'The characters "LRTL", lowest byte first.', IDENTITY)
    b.add("VERSION", "Version of the register map.", version("patch", 0, VERSION[2]),
          version("minor", 8, VERSION[1]), version("major", 16, VERSION[0]))
    b.single("CONFIG_HASH", "const", "CRC-32 of the configuration.", config_hash(config))
    b.add("CONFIG_BUS", "Widths.", const("bus_bits", 0, 16), const("vector_lanes", 16, 8),
          const("token_lanes", 24, 8))
    b.add("CONFIG_ENGINE", "Ternary engine.", const("tables", 0, 16), const("table_rows", 16, 8),
          const("group_size", 24, 8))
    b.add("CONFIG_ATTENTION", "Attention and LM head.", const("query_lanes", 0, 8), const("kv_bits", 8, 8),
          const("head_bits", 16, 8), const("head_activation_bits", 24, 8))
    b.add("CONFIG_SAMPLER", "Sampler and embedding.",
          Field("config_top_k", "const", "top_k of the configuration.", 0, 8, config.top_k),
          const("embedding_bits", 8, 8))
    for name in ("max_vector", "max_block_rows", "vector_memory", "max_head_dim", "max_context",
                 "max_vocab"):
        b.single(name.upper(), "const", f"{name} of the configuration.", getattr(config, name))
    storage = () if config.kv_storage == "int" else (const("stored_kv_bits", 8, 8),)
    b.add("CONFIG_MEMORY", "Memory ports.", const("memory_ports", 0, 8), *storage)
