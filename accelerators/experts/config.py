"""Configuration of the Logic-PIM expert unit: shapes, element format, and timing of the memory behind it.

The unit is that of one pseudo channel (Duplex, arXiv:2409.01141). Memory runs at the command clock, tCK; the unit at half of it, the
logic clock: two command slots per logic cycle.
"""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from ..checks import Configuration, check_int, check_name

__all__ = ["EXPERT_PRESETS", "FORMATS", "SCALE_EXPONENT_BITS", "SLOTS", "ExpertConfig", "Format", "HbmTiming"]


@dataclass(frozen=True)
class Format:
    """A format of elements. In sums of products an element is an integer times ``2**low``.

    An integer is what a float is below its smallest exponent, with a limit instead of infinity, and 0 for what is no number.

    Members
    -------
    exponent_bits, fraction_bits : int
        Of the stored number; 0 and 7 for integers.
    low : int
        Exponent of the unit of those integers.
    bits : int
        Bits of their magnitude.
    """

    exponent_bits: int
    fraction_bits: int
    low: int
    bits: int

    @property
    def storage_bits(self) -> int:
        return 1 + self.exponent_bits + self.fraction_bits

    @property
    def bias(self) -> int:
        return (1 << self.exponent_bits - 1) - 1 if self.exponent_bits else 1 - self.fraction_bits

    @property
    def nan(self) -> int:
        """The quiet NaN that is given."""
        return (((1 << self.exponent_bits) - 1) << 1 | 1) << self.fraction_bits - 1 if self.exponent_bits else 0

    @property
    def infinity(self) -> int:
        """Magnitude that too large values get; 127 for integers."""
        return ((1 << self.exponent_bits) - 1) << self.fraction_bits if self.exponent_bits else (1 << self.fraction_bits) - 1


FORMATS = {"fp16": Format(5, 10, -24, 40), "bf16": Format(8, 7, -32, 48), "int8": Format(0, 7, 0, 8)}

COUNT_BITS = 16
"""A sum has at most 2**16 products."""

SCALE_EXPONENT_BITS = 8
"""Exponent of the scale of int8 results, signed; its mantissa has 16 bits."""

SLOTS = 2
"""Command slots (tCK) of a logic cycle."""


@dataclass(frozen=True)
class HbmTiming:
    """Timing of a bank bundle in tCK (1/1.3 ns by default: HBM3 at 5.2 Gb/s, as the public simulator of Duplex has it).

    Parameters
    ----------
    rcd, rp, ras, rc, rtp, ccd, cl, bl : int
        From activate to read, precharge to activate, activate to precharge, activate to activate of the same bundle, read to
        precharge, read to read (tCCD_L), read to data, beats of data.
    rrd, faw : int
        From activate to activate of another bank (tRRD_S), and the window that may hold four activates of a bank.
    rtp_bank, ccd_s, rrd_l : int
        Of the normal path: read to precharge, read to read of another bank group, activate to activate in the same one.
    refi, rfc : int
        Refresh interval, cycles of a refresh.
    """

    rcd: int = 19
    rp: int = 19
    ras: int = 45
    rc: int = 63
    rtp: int = 6
    rtp_bank: int = 8
    ccd_s: int = 2
    rrd_l: int = 4
    ccd: int = 4
    cl: int = 19
    bl: int = 2
    rrd: int = 2
    faw: int = 39
    refi: int = 5070
    rfc: int = 586

    def __post_init__(self) -> None:
        for field in fields(self):
            check_int(f"timing.{field.name}", getattr(self, field.name), 1, 1 << (30 if field.name == "refi" else 16))
        if self.ccd % SLOTS:
            raise ValueError(f"timing.ccd must be a multiple of {SLOTS}, the command slots of a logic cycle, not {self.ccd}")
        if self.rfc + self.rp >= self.refi:
            raise ValueError(f"timing.refi must be above rfc + rp, not {self.refi} and {self.rfc} + {self.rp}")


@dataclass(frozen=True)
class ExpertConfig(Configuration):
    """Everything that shapes the expert unit.

    Parameters
    ----------
    name : str
    word_bytes : int
        Bytes that a bundle delivers per logic cycle, a power of two, 8 to 128: half of what one read command gives.
    element : ``"fp16"``, ``"bf16"`` or ``"int8"``
        Format of weights and activations.
    token_lanes : int
        Tokens that share a weight in a cycle (8 in Duplex), a power of two.
    columns : int
        Read commands per bundle row, a power of two.
    rows : int
        Rows per bundle, a power of two.
    bundles : int
        Bank bundles of the pseudo channel: 4, {rank, upper bank bit}.
    experts, top_k : int
        Experts of a layer, 8 to 64; of them for each token, 1 to 8.
    max_tokens : int
        Tokens of a layer's batch, a power of two, 8 to 1024; as many fit into an expert's queue.
    max_hidden, max_intermediate : int
        Bounds of the models, elements, multiples of the elements of a word.
    ping_pong : bool
        Two bundles take turns, so that activate and precharge are hidden; else one bundle per expert as published.
    activate_limits : bool
        The activate of a bundle's 8 banks keeps tRRD and tFAW: two halves of 4 banks, ``faw`` apart. Else it is exempt, as in the
        public simulator.
    attention : bool
        The unit also does decode attention, with a softmax for each token lane; contexts have ``max_intermediate`` positions at most.
    timing : HbmTiming
    """

    name: str
    word_bytes: int
    max_hidden: int
    max_intermediate: int
    element: str = "fp16"
    token_lanes: int = 8
    columns: int = 32
    rows: int = 16384
    bundles: int = 4
    experts: int = 64
    top_k: int = 2
    max_tokens: int = 128
    ping_pong: bool = True
    activate_limits: bool = False
    attention: bool = False
    timing: HbmTiming = HbmTiming()

    def __post_init__(self) -> None:
        check_name(self.name)
        check_int("word_bytes", self.word_bytes, 8, 128, power_of_two=True)
        if self.element not in FORMATS:
            raise ValueError(f"element must be one of {', '.join(FORMATS)}, not {self.element!r}")
        check_int("token_lanes", self.token_lanes, 1, 8, power_of_two=True)
        check_int("columns", self.columns, 2, 64, power_of_two=True)
        check_int("rows", self.rows, 2, 1 << 16, power_of_two=True)
        check_int("bundles", self.bundles, 2, 4, power_of_two=True)
        check_int("experts", self.experts, 8, 64)
        check_int("top_k", self.top_k, 1, 8)
        check_int("max_tokens", self.max_tokens, self.token_lanes, 1024, power_of_two=True)
        for each in ("max_hidden", "max_intermediate"):
            check_int(each, getattr(self, each), self.lanes, 1 << 16, multiple_of=self.lanes)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "ExpertConfig":
        timing = data.get("timing")
        return super().from_json({**data, "timing": HbmTiming(**timing)} if isinstance(timing, dict) else data)

    @property
    def format(self) -> Format:
        """Of weights and activations."""
        return FORMATS[self.element]

    @property
    def result_format(self) -> Format:
        """Of what a matrix gives: that of the elements; fp16 for integers, whose sums have a scale."""
        return FORMATS["fp16" if self.element == "int8" else self.element]

    @property
    def lanes(self) -> int:
        """Weights per logic cycle."""
        return 8 * self.word_bytes // self.format.storage_bits

    @property
    def product_bits(self) -> int:
        """Width of an exact product."""
        return 2 * self.format.bits + 1

    @property
    def sum_bits(self) -> int:
        """Width of an exact sum of up to 2**16 products."""
        return self.product_bits + COUNT_BITS

    @property
    def row_words(self) -> int:
        """Words of a bundle row."""
        return self.columns * self.timing.ccd // SLOTS

    @property
    def tiles(self) -> int:
        """Tiles of ``token_lanes`` tokens of the largest batch."""
        return self.max_tokens // self.token_lanes


_TINY = ExpertConfig("tiny_duplex", word_bytes=16, max_hidden=64, max_intermediate=128, columns=8, rows=256, experts=8, max_tokens=32)

EXPERT_PRESETS = {
    config.name: config
    for config in (
        _TINY,
        *(replace(_TINY, name=f"tiny_duplex_{element}", element=element) for element in ("bf16", "int8")),
        replace(_TINY, name="tiny_duplex_attention", attention=True),
        *(replace(_TINY, name=f"tiny_duplex_attention_{element}", element=element, attention=True) for element in ("bf16", "int8")),
        replace(_TINY, name="tiny_duplex_limits", ping_pong=False, activate_limits=True, timing=HbmTiming(refi=900, rfc=100)),
        ExpertConfig("narrow_duplex", word_bytes=16, max_hidden=512, max_intermediate=2048),
        ExpertConfig("duplex", word_bytes=128, max_hidden=4096, max_intermediate=16384),
    )
}
"""``tiny_duplex``: 8 weights and 8 tokens per cycle, for tests, also of other elements, with decode attention, and
with the other memory policies and many refreshes. ``duplex``: a pseudo channel as published; ``narrow_duplex``: the same with words of
an eighth, so that a layer of an eighth of the dimensions takes the same cycles, and is simulated in minutes."""
